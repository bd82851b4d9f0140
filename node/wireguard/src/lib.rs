//! WireGuard for one peer, with the time as an argument. A facade over boringtun, of which no type leaks out.
//!
//! boringtun does the Noise handshake and the transport's AEAD. Timers (section 6 of the WireGuard paper), key lifetimes
//! (REJECT_AFTER_TIME, REJECT_AFTER_MESSAGES), padding to 16 bytes and the limits on handshakes are done here, because
//! boringtun reads the clock itself or leaves them out.
//!
//! [`Tunnel`] is the state machine of one peer: `handle_*`, `seal`, then `poll_*`. [`Gate`] stands before all tunnels:
//! it checks and rate-limits what strangers send and says whose handshake an initiation is. No sockets, no threads.
#![allow(clippy::todo, unused_variables, dead_code)]

use std::net::SocketAddr;

use postern_model::{Moment, PresharedKey, PublicKey, SecretBytes};

/// Bytes that sealing adds to a packet: 16 header, 16 tag, up to 15 padding.
pub const OVERHEAD: usize = 16 + 16 + 15;
/// The smallest buffer for handshake messages.
pub const MIN_BUFFER: usize = 148;

/// A node's X25519 private key; born on the device, never leaves it.
pub struct PrivateKey(SecretBytes);

impl PrivateKey {
    /// Clamps and takes over 32 random bytes.
    pub fn from_bytes(bytes: SecretBytes) -> Self {
        todo!()
    }
    /// Its public half.
    pub fn public(&self) -> PublicKey {
        todo!()
    }
}

/// What the first bytes of a datagram say it is. Nothing is authenticated yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Kind {
    Initiation,
    /// To the tunnel with this index.
    Response {
        tunnel: u32,
    },
    CookieReply {
        tunnel: u32,
    },
    Data {
        tunnel: u32,
    },
}

/// Reads a datagram's header; `None` when it is not WireGuard. The tunnel index is the receiver index without its
/// low 8 bits, which number the sessions of one tunnel.
pub fn classify(datagram: &[u8]) -> Option<Kind> {
    todo!()
}

/// Stands before all tunnels of a node.
pub struct Gate {}

/// What became of an initiation.
pub enum Admission<'a> {
    /// Give it to the tunnel of this peer.
    Peer(PublicKey),
    /// Under load: send this cookie reply back, do no more.
    Cookie(&'a [u8]),
    /// Not for us, damaged, or over the limit.
    Refused,
}

impl Gate {
    /// For the node with this key.
    pub fn new(private: &PrivateKey) -> Self {
        todo!()
    }
    /// Checks an initiation's MACs (section 5.4.4 and 5.4.7) and reads the peer's public key from it.
    pub fn admit<'a>(&mut self, initiation: &[u8], from: SocketAddr, out: &'a mut [u8], now: Moment) -> Admission<'a> {
        todo!()
    }
}

/// What came of sealing a packet.
pub enum Sealed<'a> {
    /// Send this.
    Datagram(&'a [u8]),
    /// No session can carry it: keep the packet and start a handshake.
    NoSession,
}

/// What came of a datagram from the peer. All of these are authenticated.
pub enum Opened<'a> {
    /// An inner packet, cut to its IP length.
    Packet(&'a [u8]),
    /// A keepalive.
    Keepalive,
    /// A handshake message that needs this answer (a response, or the first keepalive that confirms the keys).
    /// `session` says whether packets can be sealed now.
    Reply { datagram: &'a [u8], session: bool },
    /// Nothing to do.
    Nothing,
}

/// Why a datagram was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)]
pub enum TunnelError {
    #[error("not authentic")]
    Invalid,
    #[error("seen before, or too old")]
    Replayed,
    #[error("no session has this index")]
    UnknownSession,
    #[error("the session is past its lifetime")]
    Expired,
    #[error("not an IP packet")]
    NotIp,
}

/// What `wg show` tells of a peer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct TunnelStats {
    pub last_handshake: Option<Moment>,
    pub sent_bytes: u64,
    pub received_bytes: u64,
}

/// One peer.
pub struct Tunnel {}

impl Tunnel {
    /// `index` (24 bits) is unique among the node's tunnels.
    pub fn new(
        private: &PrivateKey,
        peer: PublicKey,
        preshared: Option<&PresharedKey>,
        index: u32,
        now: Moment,
    ) -> Self {
        todo!()
    }
    /// Encrypts one IP packet into `out` (at least `packet.len() + OVERHEAD`, and [`MIN_BUFFER`]).
    pub fn seal<'a>(&mut self, packet: &[u8], out: &'a mut [u8], now: Moment) -> Sealed<'a> {
        todo!()
    }
    /// Takes a datagram whose [`Kind`] or [`Gate`] named this tunnel. `out` at least as long as the datagram and [`MIN_BUFFER`].
    pub fn handle_datagram<'a>(
        &mut self,
        datagram: &[u8],
        out: &'a mut [u8],
        now: Moment,
    ) -> Result<Opened<'a>, TunnelError> {
        todo!()
    }
    /// A handshake initiation to send, unless one is under way that is younger than REKEY_TIMEOUT.
    pub fn start_handshake<'a>(&mut self, out: &'a mut [u8], now: Moment) -> Option<&'a [u8]> {
        todo!()
    }
    /// What the timers want sent now (retransmitted initiation, rekey, keepalive); call until `None`.
    pub fn handle_timeout<'a>(&mut self, out: &'a mut [u8], now: Moment) -> Option<&'a [u8]> {
        todo!()
    }
    /// When to call [`Self::handle_timeout`] next.
    pub fn poll_timeout(&self) -> Option<Moment> {
        todo!()
    }
    /// Whether a packet could be sealed now.
    pub fn has_session(&self, now: Moment) -> bool {
        todo!()
    }
    /// Whether handshakes were given up (REKEY_ATTEMPT_TIME) since the last session.
    pub fn is_unreachable(&self) -> bool {
        todo!()
    }
    /// For showing.
    pub fn stats(&self) -> TunnelStats {
        todo!()
    }
}
