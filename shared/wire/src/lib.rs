//! What crosses the network between node and coordinator: messages, their encoding and framing. No sockets.
//!
//! The transport is QUIC (ALPN [`ALPN`]) with three kinds of bidirectional stream, all opened by the node. The first
//! frame on a stream says which it is:
//!
//! | [`Opening`] | on which connection | then |
//! |---|---|---|
//! | `Enrol` | without a client certificate | one [`EnrolReply`] |
//! | `Hello` | mutual TLS | a [`CoordinatorMessage::Welcome`], then [`NodeMessage`]s up and [`CoordinatorMessage`]s down |
//! | `AccessRequest` | mutual TLS, with a session open | one [`AccessReply`] |
//!
//! Who the node is comes from its certificate, never from a message.
//!
//! - [`frame`]: length prefix, version, bounds; [`frame::Decoder`]
//! - [`enrol`], [`session`], [`access`]: the messages; `checks`: how posture checks are read
//! - [`relay`]: what a node and a relay say to each other
//! - [`stun`]: beside QUIC on the same port: from where datagrams come

pub mod access;
pub mod enrol;
pub mod explain;
pub mod frame;
pub mod relay;
pub mod session;
pub mod stun;

mod checks;

use serde::{Deserialize, Serialize};

pub use access::{AccessReply, AccessRequest, Granted};
pub use enrol::{Enrol, EnrolRefusal, EnrolReply, Enrolled};
pub use explain::{ExplainReply, ExplainRequest, Lack};
pub use frame::{Decoder, FrameError, Limit};
pub use relay::{Pass, RelayEntry, RelayNews, RelayRequest, RelayedPeer, SignedPass};
pub use session::{
    CatalogueEntry, CoordinatorMessage, Eviction, Hello, InstallGrant, NodeMessage, PeerDevice, Welcome, WelcomeError,
};

/// The QUIC application protocol; the number is the major version of this crate's messages.
pub const ALPN: &[u8] = b"postern/1";

/// The first message on every stream.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "kind", content = "body", rename_all = "snake_case")]
pub enum Opening {
    /// Enrol this device.
    Enrol(Enrol),
    /// Open the session.
    Hello(Hello),
    /// Ask for a resource.
    AccessRequest(AccessRequest),
    /// Ask why a resource can or can't be reached.
    Explain(ExplainRequest),
}

/// QUIC application close codes.
pub mod close {
    /// The peer is done.
    pub const DONE: u32 = 0;
    /// A message could not be read.
    pub const PROTOCOL: u32 = 1;
    /// The device is revoked, removed or unknown. Trying again is of no use.
    pub const UNAUTHORIZED: u32 = 2;
    /// Another node connected with this device's certificate.
    pub const SUPERSEDED: u32 = 3;
    /// The coordinator restarts or is full; come back.
    pub const RETRY: u32 = 4;
}
