//! What a tunnel answers.

use postern_model::Moment;

/// What came of sealing a packet.
#[derive(Debug, PartialEq, Eq)]
pub enum Sealed<'a> {
    /// Send this.
    Datagram(&'a [u8]),
    /// No session can carry it: keep the packet and start a handshake.
    NoSession,
}

/// What came of a datagram from the peer. All of these are authentic.
#[derive(Debug, PartialEq, Eq)]
pub enum Opened<'a> {
    /// An inner packet, cut to its IP length.
    Packet(&'a mut [u8]),
    /// A keepalive.
    Keepalive,
    /// A handshake message that needs this answer: a response, or the first keepalive, which confirms the keys.
    Reply {
        /// Send this.
        datagram: &'a [u8],
        /// Whether packets can be sealed now.
        session: bool,
    },
    /// Nothing to do.
    Nothing,
}

/// Why a datagram was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TunnelError {
    /// A signature or index that does not fit, or a message that nobody waits for.
    #[error("not authentic")]
    Invalid,
    /// Seen before, or too old to tell.
    #[error("seen before, or too old")]
    Replayed,
    /// No session has this index.
    #[error("no session has this index")]
    UnknownSession,
    /// Its session is older than REJECT_AFTER_TIME.
    #[error("the session is past its lifetime")]
    Expired,
    /// Authentic, but no IP packet inside.
    #[error("not an IP packet")]
    NotIp,
}

/// What `wg show` tells of a peer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TunnelStats {
    /// When the last handshake was completed.
    pub last_handshake: Option<Moment>,
    /// Bytes of datagrams made for the peer.
    pub sent_bytes: u64,
    /// Bytes of authentic datagrams from the peer.
    pub received_bytes: u64,
}
