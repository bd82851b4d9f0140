//! The node's brain, sans-IO, in two halves that share one immutable table.
//!
//! ```text
//!  coordinator messages, DNS, timers          packets from TUN and UDP
//!                 │                                     │
//!            ┌────▼────┐   ForwardingTable (g)    ┌──────▼─────┐
//!            │ Engine  ├─────────────────────────►│ Forwarder  │
//!            │ control │◄─────────────────────────┤ data       │
//!            └─────────┘   misses, Applied(g)     └────────────┘
//! ```
//!
//! [`Engine`] owns grants, the catalogue, leases, held packets and DNS answers, and publishes a new numbered
//! [`ForwardingTable`] with every change. [`Forwarder`] owns WireGuard tunnels and flows (one per packet lane), decides
//! every packet by the table that it was last given, and resets the flows that a new table no longer allows.
//! Neither sees a socket, a thread, tokio or a clock.
//!
//! - [`table`]: what the two share; [`Endpoint`]: where a peer is; [`Nat64`]: where it is on a network without IPv4
//! - `engine`: control
//! - `forwarder`: data; [`counters`]: every drop has a reason

pub mod counters;
pub mod table;

mod endpoint;
mod engine;
mod forwarder;
mod nat64;

pub use counters::{Counters, DropReason};
pub use endpoint::Endpoint;
pub use engine::{DnsVerdict, Engine, EngineEvent, HeldStatus, RelayPeer};
pub use forwarder::{
    Accepted, Arrival, Departure, FlowChange, FlowNews, Forwarder, ForwarderSink, Miss, Opened, PathStatus, PeerStatus,
};
pub use nat64::Nat64;
pub use table::{CarriedGrant, ForwardingTable, Generation, HeldGrant, Peer, Visible};
