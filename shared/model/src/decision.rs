//! What an access request ends in.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{Filter, PolicyId};

/// The outcome of one access request, or of one re-decision.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub enum Decision {
    /// Access, for exactly this filter.
    Allowed {
        /// What may pass.
        filter: Filter,
        /// The policy that allowed it.
        policy: PolicyId,
    },
    /// No access.
    Denied {
        /// Why.
        reason: DenyReason,
    },
}

/// Why access was denied, or a grant ended. One list, also used as metric and audit label. A reason that only newer
/// versions know is [`Self::Unknown`]: the access is denied, or the grant ends, all the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DenyReason {
    /// No such resource, or none that this device may know of: the two are never told apart to the device.
    UnknownResource,
    /// No policy allows it.
    NoPolicy,
    /// A policy would allow it, but its condition is not met (any more).
    ConditionNotMet,
    /// A policy denies it.
    Forbidden,
    /// The device's user is suspended.
    UserSuspended,
    /// The device's user was removed.
    UserRemoved,
    /// The device was revoked.
    DeviceRevoked,
    /// The resource has no open protocol or port.
    EmptyFilter,
    /// No gateway of the resource's site is connected.
    NoGateway,
    /// The gateway did not acknowledge the grant in time.
    GatewayUnreachable,
    /// The lease ran out and was not renewed.
    LeaseExpired,
    /// The resource or its gateway changed; asking again gives a new grant.
    Replaced,
    /// Too many requests from this device are open.
    TooManyRequests,
    /// The coordinator could not record the decision, so there is none.
    CoordinatorFault,
    /// One that this version does not know.
    #[serde(other)]
    Unknown,
}

impl DenyReason {
    /// Whether nothing was decided about the access itself: trying again soon may help, and a grant that is held stays.
    pub fn is_transient(self) -> bool {
        matches!(self, Self::NoGateway | Self::GatewayUnreachable | Self::TooManyRequests | Self::CoordinatorFault)
    }

    /// The label used in metrics, the audit log and JSON.
    pub fn label(self) -> &'static str {
        match self {
            Self::UnknownResource => "unknown_resource",
            Self::NoPolicy => "no_policy",
            Self::ConditionNotMet => "condition_not_met",
            Self::Forbidden => "forbidden",
            Self::UserSuspended => "user_suspended",
            Self::UserRemoved => "user_removed",
            Self::DeviceRevoked => "device_revoked",
            Self::EmptyFilter => "empty_filter",
            Self::NoGateway => "no_gateway",
            Self::GatewayUnreachable => "gateway_unreachable",
            Self::LeaseExpired => "lease_expired",
            Self::Replaced => "replaced",
            Self::TooManyRequests => "too_many_requests",
            Self::CoordinatorFault => "coordinator_fault",
            Self::Unknown => "unknown",
        }
    }
}

impl fmt::Display for DenyReason {
    /// A sentence for people.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::UnknownResource => "there is no such resource for this device",
            Self::NoPolicy => "no policy allows it",
            Self::ConditionNotMet => "a condition of access is not met; 'postern explain NAME' says which",
            Self::Forbidden => "a policy denies it",
            Self::UserSuspended => "the user is suspended",
            Self::UserRemoved => "the user was removed",
            Self::DeviceRevoked => "the device was revoked",
            Self::EmptyFilter => "none of its open ports is one that a policy allows",
            Self::NoGateway => "no gateway of its site is connected",
            Self::GatewayUnreachable => "its gateway did not answer in time",
            Self::LeaseExpired => "the lease ran out",
            Self::Replaced => "the resource or its gateway changed",
            Self::TooManyRequests => "too many access requests are open",
            Self::CoordinatorFault => "the coordinator could not record the decision",
            Self::Unknown => "for a reason that this version does not know; update it to learn which",
        })
    }
}
