//! The audit log: who did what, when and why, in a chain of hashes.

use serde::{Deserialize, Serialize};

use crate::{Sha256, Timestamp};

/// Who did it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", content = "id", rename_all = "snake_case")]
pub enum Actor {
    /// Whoever may open the admin socket.
    AdminSocket,
    /// The holder of an API key.
    ApiKey(crate::ApiKeyId),
    /// A device, for itself.
    Device(crate::DeviceId),
    /// The holder of a join token.
    Token(crate::TokenId),
    /// The coordinator: a lease that ran out, a re-decision.
    Coordinator,
}

/// What happened, before it has its place in the chain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditEvent {
    /// When.
    pub at: Timestamp,
    /// Who.
    pub actor: Actor,
    /// What, as `thing.verb`: `user.add`, `grant.allow`, `access.deny`, `device.enrol`.
    pub action: String,
    /// On what, as `kind:name` or `kind:id`.
    pub object: String,
    /// The particulars, as a flat list of names and values in a fixed order. Never a secret.
    pub details: Vec<(String, String)>,
}

/// An entry in its place. `hash` = SHA-256 over the previous entry's hash and this entry's canonical JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditEntry {
    /// Its place, from 1.
    pub id: u64,
    /// The revision that it belongs to.
    pub revision: crate::Revision,
    /// What happened.
    #[serde(flatten)]
    pub event: AuditEvent,
    /// The hash up to and with this entry.
    pub hash: Sha256,
}
