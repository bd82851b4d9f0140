//! Why packets were dropped. Every drop has one of these reasons, which is also its metric label.

/// The reason of a drop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(usize)]
#[allow(missing_docs, reason = "the labels say it")]
pub enum DropReason {
    Malformed,
    Fragment,
    UnsupportedProtocol,
    ForeignSource,
    UnknownDestination,
    NoGrant,
    PortClosed,
    LeaseExpired,
    NoFlow,
    FlowTableFull,
    TargetUnresolved,
    TargetFamily,
    PendingFull,
    PendingTimeout,
    AccessDenied,
    NoSession,
    NotAuthentic,
    Replayed,
    UnknownPeer,
    HandshakeLimit,
    NotWireGuard,
    TooBig,
    SocketFull,
    RelayFull,
    ReceiveFull,
    TunFull,
    TunRefused,
    Unreachable,
    ReplyLimit,
    Congested,
}

impl DropReason {
    /// All of them, in the order of [`Counters`].
    pub const ALL: [Self; 30] = [
        Self::Malformed,
        Self::Fragment,
        Self::UnsupportedProtocol,
        Self::ForeignSource,
        Self::UnknownDestination,
        Self::NoGrant,
        Self::PortClosed,
        Self::LeaseExpired,
        Self::NoFlow,
        Self::FlowTableFull,
        Self::TargetUnresolved,
        Self::TargetFamily,
        Self::PendingFull,
        Self::PendingTimeout,
        Self::AccessDenied,
        Self::NoSession,
        Self::NotAuthentic,
        Self::Replayed,
        Self::UnknownPeer,
        Self::HandshakeLimit,
        Self::NotWireGuard,
        Self::TooBig,
        Self::SocketFull,
        Self::RelayFull,
        Self::ReceiveFull,
        Self::TunFull,
        Self::TunRefused,
        Self::Unreachable,
        Self::ReplyLimit,
        Self::Congested,
    ];

    /// The label used in `postern status --json` and metrics.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::Fragment => "fragment",
            Self::UnsupportedProtocol => "unsupported_protocol",
            Self::ForeignSource => "foreign_source",
            Self::UnknownDestination => "unknown_destination",
            Self::NoGrant => "no_grant",
            Self::PortClosed => "port_closed",
            Self::LeaseExpired => "lease_expired",
            Self::NoFlow => "no_flow",
            Self::FlowTableFull => "flow_table_full",
            Self::TargetUnresolved => "target_unresolved",
            Self::TargetFamily => "target_family",
            Self::PendingFull => "pending_full",
            Self::PendingTimeout => "pending_timeout",
            Self::AccessDenied => "access_denied",
            Self::NoSession => "no_session",
            Self::NotAuthentic => "not_authentic",
            Self::Replayed => "replayed",
            Self::UnknownPeer => "unknown_peer",
            Self::HandshakeLimit => "handshake_limit",
            Self::NotWireGuard => "not_wireguard",
            Self::TooBig => "too_big",
            Self::SocketFull => "socket_full",
            Self::RelayFull => "relay_full",
            Self::ReceiveFull => "receive_full",
            Self::TunFull => "tun_full",
            Self::TunRefused => "tun_refused",
            Self::Unreachable => "unreachable",
            Self::ReplyLimit => "reply_limit",
            Self::Congested => "congested",
        }
    }
}

/// Drops by reason, and packets that went through.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counters {
    drops: [u64; DropReason::ALL.len()],
    /// Packets taken from TUN and sent to a peer.
    pub out_packets: u64,
    /// Packets taken from a peer and written to TUN.
    pub in_packets: u64,
}

impl Counters {
    /// Counts one drop.
    pub fn count(&mut self, reason: DropReason) {
        self.add(reason, 1);
    }

    /// Counts so many drops.
    pub fn add(&mut self, reason: DropReason, count: u64) {
        self.drops[reason as usize] += count;
    }

    /// How often that happened.
    pub fn dropped(&self, reason: DropReason) -> u64 {
        self.drops[reason as usize]
    }

    /// Every reason that happened, with its count.
    pub fn drops(&self) -> impl Iterator<Item = (DropReason, u64)> + '_ {
        DropReason::ALL.iter().map(|reason| (*reason, self.dropped(*reason))).filter(|(_, count)| *count > 0)
    }
}
