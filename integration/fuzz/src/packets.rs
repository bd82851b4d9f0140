//! Reading the fuzzer's bytes, and checksums the plain way.

use std::net::IpAddr;

use postern_packet::{Offload, Parsed, Split, Transport};

/// The fuzzer's bytes, read from the front. When they are used up, zeros follow.
pub(crate) struct Bytes<'a>(pub(crate) &'a [u8]);

impl<'a> Bytes<'a> {
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn byte(&mut self) -> u8 {
        self.take(1).first().copied().unwrap_or_default()
    }

    pub(crate) fn word(&mut self) -> u16 {
        u16::from_be_bytes([self.byte(), self.byte()])
    }

    /// So many bytes, or those that are left.
    pub(crate) fn take(&mut self, len: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(len.min(self.0.len()));
        self.0 = rest;
        taken
    }
}

/// Makes the checksums right, which the fuzzer would hardly find. Packets that have none stay as they are.
pub(crate) fn repair(packet: &mut [u8], parsed: &Parsed) {
    let offload = Offload { is_partial: true, segment: None };
    if let Ok(mut split) = Split::new(packet, parsed, offload) {
        let mut out = vec![0; split.longest()];
        let len = split.next(&mut out).expect("one packet");
        packet[..len].copy_from_slice(&out[..len]);
    }
    if !parsed.is_v6() {
        packet[10..12].fill(0);
        let sum = !sum(&packet[..parsed.offset], 0);
        packet[10..12].copy_from_slice(&sum.to_be_bytes());
    }
    if matches!(parsed.transport, Transport::EchoRequest | Transport::EchoReply | Transport::IcmpError) {
        let at = parsed.offset + 2;
        packet[at..at + 2].fill(0);
        let sum = !transport_sum(packet, parsed);
        packet[at..at + 2].copy_from_slice(&sum.to_be_bytes());
    }
}

/// Whether all checksums hold. A datagram without one holds.
pub(crate) fn is_right(packet: &[u8], parsed: &Parsed) -> bool {
    let is_header_right = parsed.is_v6() || sum(&packet[..parsed.offset], 0) == 0xffff;
    let at = parsed.offset;
    let has_none = parsed.transport == Transport::Udp && packet[at + 6..at + 8] == [0, 0];
    let is_known = !matches!(parsed.transport, Transport::Other(_));
    is_header_right && (has_none || !is_known || transport_sum(packet, parsed) == 0xffff)
}

fn transport_sum(packet: &[u8], parsed: &Parsed) -> u16 {
    let mut body = &packet[parsed.offset..parsed.len];
    let protocol: u64 = match parsed.transport {
        Transport::Tcp => 6,
        Transport::Udp => {
            body = &body[..usize::from(u16::from_be_bytes([body[4], body[5]]))];
            17
        }
        _ if parsed.is_v6() => 58,
        // ICMPv4 has no pseudo-header.
        _ => return sum(body, 0),
    };
    let addresses = match (parsed.src, parsed.dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => [src.octets(), dst.octets()].concat(),
        (IpAddr::V6(src), IpAddr::V6(dst)) => [src.octets(), dst.octets()].concat(),
        _ => unreachable!("one family"),
    };
    let len = body.len() as u64;
    sum(body, u64::from(sum(&addresses, 0)) + protocol + (len >> 16) + (len & 0xffff))
}

/// RFC 1071, word by word.
fn sum(bytes: &[u8], mut sum: u64) -> u16 {
    for pair in bytes.chunks(2) {
        sum += u64::from(pair[0]) << 8 | u64::from(pair.get(1).copied().unwrap_or_default());
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}
