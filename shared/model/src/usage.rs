//! Access activity of a period, summed up: who was granted what, what flowed, and what policies in shadow would have decided.
//! The store adds it up, the core draws its conclusions.

use crate::{DeviceId, PolicyId, Protocol, ResourceId, Timestamp};

/// Whose access: a device, and its user as that was called then.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Client {
    /// The device.
    pub device: DeviceId,
    /// The name of its user, if it was a person's.
    pub user: Option<String>,
}

/// What is recorded of a period, which ends now.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Usage {
    /// Since when everything is recorded; `None` when nothing is.
    pub recorded_since: Option<Timestamp>,
    /// What is missing of the period all the same.
    pub gaps: Vec<UsageGap>,
    /// What was granted.
    pub granted: Vec<GrantedUse>,
    /// What flowed, also under earlier grants.
    pub flows: Vec<FlowUse>,
    /// Whether there is more than can be summed up, so that some of it is left out.
    pub is_cut: bool,
}

/// Something that happened in the period and is not recorded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UsageGap {
    /// Of which gateway's flows; `None` where it is of decisions, or of anyone's.
    pub gateway: Option<DeviceId>,
    /// Its name then.
    pub name: Option<String>,
    /// How many rows.
    pub times: u64,
    /// When that was last noticed.
    pub last: Timestamp,
}

/// How often a device was granted a resource by a policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GrantedUse {
    /// The policy: the first one that allowed it. Others may have added ports.
    pub policy: PolicyId,
    /// Who.
    pub client: Client,
    /// What.
    pub resource: ResourceId,
    /// How often anew.
    pub allowed: u64,
    /// How often again, by a device that was using it.
    pub renewed: u64,
    /// The last time.
    pub last: Timestamp,
}

/// How often a device has used a port of a resource.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FlowUse {
    /// The policy of the grant, as above.
    pub policy: Option<PolicyId>,
    /// Who.
    pub client: Client,
    /// What.
    pub resource: ResourceId,
    /// TCP, UDP or echo.
    pub protocol: Protocol,
    /// The resource's port; 0 for an echo.
    pub port: u16,
    /// How many flows.
    pub flows: u64,
    /// When one was last heard of.
    pub last: Timestamp,
}

/// How often policies in shadow would have decided otherwise about a device and a resource.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShadowUse {
    /// The policies that would have made the difference.
    pub policies: Vec<PolicyId>,
    /// Which: `would_allow`, `would_deny`, `would_widen` or `would_narrow`.
    pub difference: String,
    /// The device, where it was known.
    pub device: Option<DeviceId>,
    /// Its name then.
    pub device_name: Option<String>,
    /// The name of its user then.
    pub user: Option<String>,
    /// The resource, where it was known.
    pub resource: Option<ResourceId>,
    /// Its name then.
    pub resource_name: Option<String>,
    /// How often.
    pub times: u64,
    /// The first time.
    pub first: Timestamp,
    /// The last time.
    pub last: Timestamp,
}
