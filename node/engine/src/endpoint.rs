//! Where a peer's datagrams go, and come from.

use std::{fmt, net::SocketAddr};

use postern_model::{PublicKey, RelayId};

/// One way to a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Endpoint {
    /// Straight to this UDP address.
    Direct(SocketAddr),
    /// Through a relay, which knows the peer by its key.
    Relayed {
        /// Which.
        relay: RelayId,
        /// For whom, or from whom.
        peer: PublicKey,
    },
}

impl Endpoint {
    /// The UDP address, of a direct one.
    pub fn direct(self) -> Option<SocketAddr> {
        match self {
            Self::Direct(addr) => Some(addr),
            Self::Relayed { .. } => None,
        }
    }

    /// The relay, of one that leads through it.
    pub fn relay(self) -> Option<RelayId> {
        match self {
            Self::Direct(_) => None,
            Self::Relayed { relay, .. } => Some(relay),
        }
    }

    /// Whether a relay is on the way.
    pub fn is_relayed(self) -> bool {
        self.relay().is_some()
    }
}

impl From<SocketAddr> for Endpoint {
    fn from(addr: SocketAddr) -> Self {
        Self::Direct(addr)
    }
}

/// `203.0.113.5:51820`, or `relay 0192d3c8-…`.
impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Direct(addr) => addr.fmt(f),
            Self::Relayed { relay, .. } => write!(f, "relay {relay}"),
        }
    }
}
