//! The node's packet machinery: everything around [`postern_engine::Forwarder`] that touches the machine.
//!
//! ```text
//!   daemon ── publish, replay, refuse, status ──► LaneHandle ═ commands, wake-up ═╗
//!      ▲                                                                          ║
//!      │ LaneEvent: Miss, Applied, Stun, Failed    lanes, each a thread with its own queue and sockets
//!      │                                       ┌─────────────────────────────────────────────────────┐
//!      └────────────────────────────────────── │ tun: split, seal ──► udp    udp: open, join ──► tun │ × lanes
//!                                              └───────────┬─────────────────────────┬───────────────┘
//!                                                          └───── Forwarder ─────────┘ decides, one lane at a time
//! ```
//!
//! - [`Tun`]: the device that applications' packets come from; [`Sockets`]: where WireGuard's datagrams go
//! - [`spawn`] starts the lanes, [`LaneHandle`] is how they are told things
//! - [`RelayOut`]: where datagrams for peers behind relays go; what comes from relays is told to [`LaneHandle::relayed`]
//! - [`Offloads`]: what the kernel is to do for many packets at once
//! - `lane`: the loop, and a batch's way through it; `tun`, `udp`: the two sides
//! - [`clock`]: the only clock here
//!
//! Nothing here decides about a packet. Addresses, routes and the device being up are the daemon's work.

pub mod clock;

mod handle;
mod lane;
mod offloads;
mod relay;
mod tun;
mod udp;

pub use handle::{FlowReport, LaneConfig, LaneEvent, LaneHandle, LaneStatus, spawn};
pub use offloads::{Offloads, UnknownOffload};
pub use relay::{NoRelays, RelayOut};
pub use tun::Tun;
pub use udp::Sockets;
