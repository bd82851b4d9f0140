//! The node's packet machinery: everything around [`postern_engine::Forwarder`] that touches the machine.
//!
//! ```text
//!   daemon ── publish, replay, refuse, status ──► LaneHandle ═ commands, wake-up ═╗
//!      ▲                                                                          ║
//!      │ LaneEvent: Miss, Applied, Failed              one thread, the lane       ▼
//!      └───────────────────────────────────────── Tun ◄──► Forwarder ◄──► Sockets (UDP, 4 and 6)
//! ```
//!
//! - [`Tun`]: the device that applications' packets come from; [`Sockets`]: where WireGuard's datagrams go
//! - [`spawn`] starts the lane, [`LaneHandle`] is how it is told things
//! - `lane`: the loop; `poll`: what it waits for; `inbox`: batches read; `outbox`: batches written
//! - [`clock`]: the only clock here
//!
//! Nothing here decides about a packet. Addresses, routes and the device being up are the daemon's work.

pub mod clock;

mod handle;
mod inbox;
mod lane;
mod outbox;
mod poll;
mod sockets;
mod tun;

pub use handle::{FlowReport, LaneConfig, LaneEvent, LaneHandle, LaneStatus, spawn};
pub use sockets::Sockets;
pub use tun::Tun;
