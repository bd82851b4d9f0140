//! WireGuard for one peer, with the time as an argument: handshake, transport and timers of the WireGuard paper.
//!
//! ```text
//!   stranger's datagram ─► classify ─┬─ initiation ─► Gate ─┐
//!                                    └─ all others ─────────┴─► Tunnel ─┬─► handshake  (Noise_IKpsk2, cookies)
//!                                                                       ├─► sessions   (three key pairs, replay windows)
//!   in place, on any thread:   Sealer, Opener  ◄─── hands out ──────────┘
//! ```
//!
//! - [`Tunnel`]: the state machine of one peer. `seal` and `handle_*` take what comes, `poll_timeout` says when
//!   `handle_timeout` is due
//! - [`Sealer`], [`Opener`]: what seals and opens data messages, apart from the tunnel and without a lock. The tunnel reserves
//!   the counters before (`sealer`), and afterwards says whether a counter is new (`accept`)
//! - [`Gate`]: stands before all tunnels; checks and rate-limits what strangers send, and says whose handshake it is
//! - [`classify()`]: which tunnel a datagram is for
//! - [`PrivateKey`]: the node's own key
//!
//! Sealing, opening and accepting a packet allocates nothing. No sockets, no threads; one clock is read, for the timestamps that
//! keep old handshakes from being played again (`handshake/timestamp.rs`).
//!
//! boringtun, from which the tests know that all this is WireGuard, makes and checks the gate's cookies; no type of it leaks out.
//! Why its tunnel is not used any more is told in `docs/decisions/008-own-transport.md`.

mod classify;
mod gate;
mod handshake;
mod key;
mod replay;
mod session;
mod transport;
mod tunnel;

pub use classify::{Kind, classify};
pub use gate::{Admission, Gate};
pub use key::PrivateKey;
pub use transport::{HEADER, Opener, Plain, Sealer, TAG, receiver_index};
pub use tunnel::{Opened, Sealed, Tunnel, TunnelError, TunnelStats};

/// Bytes that sealing adds to a packet at most: header (16), tag (16), padding (15).
pub const OVERHEAD: usize = 16 + 16 + 15;

/// The smallest buffer that holds every handshake message.
pub const MIN_BUFFER: usize = 148;

/// The protocol's constants, with the names of the WireGuard paper (section 6.1).
pub mod constants {
    use std::time::Duration;

    /// After so long on one key, the initiator makes a new one before it sends on.
    pub const REKEY_AFTER_TIME: Duration = Duration::from_secs(120);
    /// After so long, a key neither sends nor receives.
    pub const REJECT_AFTER_TIME: Duration = Duration::from_secs(180);
    /// An initiation without an answer is sent again after so long, plus a jitter.
    pub const REKEY_TIMEOUT: Duration = Duration::from_secs(5);
    /// After so long without an answer, initiations cease.
    pub const REKEY_ATTEMPT_TIME: Duration = Duration::from_secs(90);
    /// Whoever received and had nothing to say for so long sends an empty packet.
    pub const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);
    /// After so many packets on one key, the initiator makes a new one.
    pub const REKEY_AFTER_MESSAGES: u64 = 1 << 60;
    /// After so many packets, a key sends no more.
    pub const REJECT_AFTER_MESSAGES: u64 = u64::MAX - (1 << 13);
}
