//! Access activity: what a gateway tells of the flows that it carries.

use serde::{Deserialize, Serialize};

use crate::{DeviceId, Fqdn, GrantId, Protocol, ResourceId, Timestamp};

/// The most entries in one message: with the longest names in all of them, they still fit into what a node may send.
pub const MAX_ENTRIES: usize = 100;

/// Names one spool of a gateway: made at random with the spool, so that a lost one is never mistaken for its successor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct SpoolId(pub [u8; 16]);

/// One thing that happened to a flow, as its gateway has written it down. Each entry says all that there is to say of its
/// flow, so that none is of use only together with another that may be gone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowEntry {
    /// Its place in the spool, from 1. A gateway may send an entry again; this is how it is known.
    pub number: u64,
    /// When it happened, by the gateway's clock.
    pub at: Timestamp,
    /// Which flow of this gateway: the same in all of its entries.
    pub flow: u64,
    /// Under which grant. A flow that outlives a renewal with another id goes on under its first.
    pub grant: GrantId,
    /// Whose: the client.
    pub device: DeviceId,
    /// To what.
    pub resource: ResourceId,
    /// TCP, UDP or echo.
    pub protocol: Protocol,
    /// The resource's port; 0 for an echo.
    pub port: u16,
    /// The DNS name by which the client has asked for the resource, if it did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queried: Option<Fqdn>,
    /// What happened.
    #[serde(flatten)]
    pub event: FlowEvent,
}

/// What happened to a flow.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum FlowEvent {
    /// The client opened it.
    Opened,
    /// It is over.
    Closed {
        /// When it was opened, by the gateway's clock.
        opened_at: Timestamp,
        /// Bytes of inner packets from the client to the resource.
        up: u64,
        /// Bytes of inner packets from the resource to the client.
        down: u64,
        /// Why.
        end: FlowEnd,
    },
}

/// Why a flow is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FlowEnd {
    /// Its ends closed or reset the connection.
    Finished,
    /// It was silent for too long.
    Idle,
    /// Its grant ended or was narrowed, and it was cut.
    Cut,
    /// The gateway stopped.
    Stopped,
    /// For a reason that only newer versions know.
    #[serde(other)]
    Unknown,
}
