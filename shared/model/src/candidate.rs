//! Where a node may be reached. A hint for sending, never a proof of who answers there.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

/// How a candidate was learned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CandidateKind {
    /// An address of one of the node's interfaces.
    Host,
    /// The address at which others see it: what a relay or the coordinator answered to a STUN request from the WireGuard
    /// socket, or the address that the node's session comes from, with the node's WireGuard port.
    Observed,
    /// The address at which a router was asked to pass packets on to it (PCP, NAT-PMP, UPnP).
    Mapped,
    /// In a way that this version does not know; it may be tried like any other.
    #[serde(other)]
    Unknown,
}

/// One address where a node's WireGuard socket may be reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Candidate {
    /// The UDP address.
    pub addr: SocketAddr,
    /// Where it comes from.
    pub kind: CandidateKind,
}

/// More than this many candidates of one node are not kept.
pub const MAX_CANDIDATES: usize = 16;
