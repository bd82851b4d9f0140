//! What the kernel leaves to be done to a packet, or may be left: cutting it, and making its transport checksum.
//!
//! A *super-packet* stands for many packets that continue each other: one header, and the payloads of all. What an
//! [`Offload`] says beside it is all that [`Split`](crate::Split) needs to cut it, as the kernel does when it is handed one.

use std::num::NonZeroU16;

use crate::{
    Parsed, Transport,
    checksum::Sum,
    transport::{TCP, UDP},
};

/// What is still to be done to a packet (what virtio calls offloads). By default nothing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Offload {
    /// The transport checksum is not made yet; what its field holds is of no use.
    pub is_partial: bool,
    /// Transport payload bytes of each packet that it stands for; the last may be shorter. None: it is one packet.
    pub segment: Option<NonZeroU16>,
}

/// TCP or UDP: what can be cut, and where its checksum is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Tcp,
    Udp,
}

impl Kind {
    pub(crate) fn of(parsed: &Parsed) -> Option<Self> {
        match parsed.transport {
            Transport::Tcp => Some(Self::Tcp),
            Transport::Udp => Some(Self::Udp),
            _ => None,
        }
    }

    pub(crate) fn protocol(self) -> u8 {
        match self {
            Self::Tcp => TCP,
            Self::Udp => UDP,
        }
    }

    /// Where the checksum is in the transport header.
    pub(crate) fn checksum(self) -> usize {
        match self {
            Self::Tcp => 16,
            Self::Udp => 6,
        }
    }
}

/// Whether these are the bytes of an IPv6 packet, if they are of an IP packet at all.
pub(crate) fn is_v6(packet: &[u8]) -> bool {
    packet[0] >> 4 == 6
}

/// The pseudo-header's sum. The addresses are those in the header, which may have been rewritten since it was parsed.
pub(crate) fn pseudo(packet: &[u8], kind: Kind, len: usize) -> Sum {
    let addresses = if is_v6(packet) { &packet[8..40] } else { &packet[12..20] };
    let len = u32::try_from(len).unwrap_or(u32::MAX).to_be_bytes();
    Sum::default().bytes(addresses).word(u16::from(kind.protocol())).bytes(&len)
}

/// Writes the length of the whole packet into the IP header, and makes the header's checksum.
pub(crate) fn set_length(packet: &mut [u8], offset: usize, len: usize) {
    let field = |len: usize| u16::try_from(len).unwrap_or(u16::MAX).to_be_bytes();
    if is_v6(packet) {
        packet[4..6].copy_from_slice(&field(len.saturating_sub(40)));
    } else {
        packet[2..4].copy_from_slice(&field(len));
        packet[10..12].fill(0);
        let sum = Sum::default().bytes(&packet[..offset]).finish();
        packet[10..12].copy_from_slice(&sum.to_be_bytes());
    }
}

/// Sets the transport checksum of a packet or of a head to the pseudo-header's sum, not complemented: what the kernel wants
/// to find where the checksum is partial. For whoever hands it over, after the last rewrite of addresses and ports.
///
/// Of `parsed` the transport, its offset and the length of the whole count. Does nothing to what is neither TCP nor UDP.
pub fn set_partial_checksum(head: &mut [u8], parsed: &Parsed) {
    let Some(kind) = Kind::of(parsed) else { return };
    let sum = pseudo(head, kind, parsed.len - parsed.offset).fold().to_be_bytes();
    let at = parsed.offset + kind.checksum();
    if let Some(field) = head.get_mut(at..at + 2) {
        field.copy_from_slice(&sum);
    }
}
