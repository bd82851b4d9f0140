//! QUIC where UDP does not get through: its packets in a TLS stream on TCP, on the same port number.
//!
//! ```text
//! node: quinn ─ client::ClientSocket ─ TLS ─ TCP ─ (HTTP proxy) ─ TCP ─ TLS ─┐
//!                                                                          ├─ server::Socket ─ quinn
//! other nodes: quinn ─────────────────── UDP ───────────────────────────────┤
//! anyone: STUN request ──────────────── UDP ────────────────────────────────┘
//! ```
//!
//! Both ends look to quinn like UDP sockets, so whatever is spoken in QUIC (control, relays) is spoken here unchanged and is
//! authenticated by itself; the TLS around it is there to look like HTTPS, and is pinned anyway. What it costs: two layers of
//! encryption, and loss that TCP repairs before QUIC can see it.
//!
//! The only shared crate that knows sockets and a runtime: coordinator, relays and nodes have this in common.
//!
//! - [`framing`]: a length before each packet; pure
//! - [`server`]: one socket for UDP, for STUN, and for any number of streams; [`shares`]: how much of them one source may take
//! - [`client`]: a socket over one stream; [`proxy`]: through an HTTP proxy, if the environment names one

pub mod client;
pub mod framing;
pub mod proxy;
pub mod server;
pub mod shares;

mod clock;
mod pace;
mod stream;

/// What TLS calls streams of QUIC packets (ALPN).
pub const ALPN: &[u8] = b"postern-encap/1";
