//! An access request and its answer, on a stream of their own.

use std::time::Duration;

use postern_model::{Candidate, DenyReason, Filter, Fqdn, GrantId, PresharedKey, PublicKey, ResourceId};
use serde::{Deserialize, Serialize};

use crate::relay::RelayedPeer;

/// This device asks for one resource; also how a lease is renewed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccessRequest {
    /// Which.
    pub resource: ResourceId,
    /// The DNS name by which the device has last looked it up, if it did: for the record of what passes. The coordinator
    /// believes only a name that the resource has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queried: Option<Fqdn>,
}

/// The coordinator's answer. `Granted` comes only after the gateway has acknowledged the grant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", content = "body", rename_all = "snake_case")]
#[allow(clippy::large_enum_variant, reason = "answers are made one at a time, and most of them are grants")]
pub enum AccessReply {
    /// Yes; replaces any grant that the device held for the resource.
    Granted(Granted),
    /// No; ends any grant that the device held for the resource, unless the reason is
    /// [transient](DenyReason::is_transient).
    Denied {
        /// Why.
        reason: DenyReason,
    },
}

/// The client's side of a grant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Granted {
    /// Its id.
    pub grant: GrantId,
    /// For which resource.
    pub resource: ResourceId,
    /// What may pass.
    pub filter: Filter,
    /// How long it holds, from now, unless renewed.
    pub lease: Duration,
    /// The gateway's WireGuard key.
    pub gateway: PublicKey,
    /// The pair's preshared key.
    pub preshared_key: PresharedKey,
    /// Where the gateway may be reached.
    pub candidates: Vec<Candidate>,
    /// How it may be reached through relays, where there are any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub relayed: Option<RelayedPeer>,
}
