//! A grant: this device, this resource, these ports, until this time.

use serde::{Deserialize, Serialize};

use crate::{DenyReason, DeviceId, Filter, GrantId, PolicyId, ResourceId, Timestamp};

/// A grant in force, as the coordinator keeps it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    /// Its id.
    pub id: GrantId,
    /// Who may reach the resource.
    pub device: DeviceId,
    /// What may be reached.
    pub resource: ResourceId,
    /// The gateway that carries it.
    pub gateway: DeviceId,
    /// The policy that allowed it.
    pub policy: PolicyId,
    /// What may pass.
    pub filter: Filter,
    /// When it was first given.
    pub granted_at: Timestamp,
    /// When the lease ends unless it is renewed.
    pub expires_at: Timestamp,
}

/// Why a grant ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GrantEnd {
    /// A re-decision denied it.
    Revoked(DenyReason),
    /// Its lease ran out.
    Expired,
    /// Replaced by a grant with another filter, gateway or key.
    Replaced,
}
