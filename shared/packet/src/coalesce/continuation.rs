//! What of a packet decides whether another may continue it, and whether it does.

use crate::{
    Parsed,
    offload::{Kind, is_v6},
    tcp::{CWR, FIN, PSH, RST, SYN, URG},
};

/// Flags that only the last of several packets has.
pub(super) const ENDINGS: u8 = FIN | PSH;

/// A packet that may be joined to others; or, advanced past it, what the next one has to be.
#[derive(Debug, Clone, Copy)]
pub(super) struct Continuation {
    kind: Kind,
    /// Where the transport header begins, and where the payload does.
    offset: usize,
    head: usize,
    payload: usize,
    /// IPv4's identification; of IPv6 always 0.
    id: u16,
    /// TCP's sequence number and flags; of UDP always 0.
    seq: u32,
    flags: u8,
}

impl Continuation {
    /// Reads a packet; `None` for one that has to stay alone: without payload, or with something to say by itself.
    pub(super) fn read(packet: &[u8], parsed: &Parsed, kind: Kind) -> Option<Self> {
        let (offset, v6) = (parsed.offset, is_v6(packet));
        // Options would be cut alike, but are rare, and Linux doesn't join such packets either. Extension headers it does.
        if !v6 && offset != 20 {
            return None;
        }
        let transport = &packet[offset..];
        let (header, seq, flags) = match kind {
            Kind::Tcp => {
                let segment = parsed.tcp(packet)?;
                (segment.header, segment.seq, transport[13])
            }
            Kind::Udp => {
                let is_all = usize::from(u16::from_be_bytes([transport[4], transport[5]])) == transport.len();
                (is_all.then_some(8)?, 0, 0)
            }
        };
        let payload = transport.len() - header;
        if payload == 0 || flags & (SYN | RST | URG) != 0 {
            return None;
        }
        let id = if v6 { 0 } else { u16::from_be_bytes([packet[4], packet[5]]) };
        Some(Self { kind, offset, head: offset + header, payload, id, seq, flags })
    }

    pub(super) fn kind(&self) -> Kind {
        self.kind
    }

    /// Bytes of all headers.
    pub(super) fn head(&self) -> usize {
        self.head
    }

    pub(super) fn payload(&self) -> usize {
        self.payload
    }

    pub(super) fn flags(&self) -> u8 {
        self.flags
    }

    /// Whether nothing may follow it.
    pub(super) fn is_last(&self) -> bool {
        self.flags & ENDINGS != 0
    }

    /// Makes it what the next packet has to be.
    pub(super) fn advance(&mut self) {
        // Each but the last has as much payload as the first.
        self.seq = self.seq.wrapping_add(self.payload as u32);
        self.id = self.id.wrapping_add(1);
    }

    /// Whether this packet is the one that is expected after those that begin with `head`.
    pub(super) fn follows(&self, expected: &Self, head: &[u8], packet: &[u8]) -> bool {
        let v6 = is_v6(head);
        self.kind == expected.kind
            && is_v6(packet) == v6
            && (self.offset, self.head) == (expected.offset, expected.head)
            && self.payload <= expected.payload
            && (v6 || self.id == expected.id)
            && (self.kind == Kind::Udp || self.seq == expected.seq)
            && self.flags & CWR == 0
            && (self.flags ^ expected.flags) & !(ENDINGS | CWR) == 0
            && self.has_same_headers(head, packet, v6)
    }

    /// Whether all bytes are equal that don't differ from packet to packet.
    fn has_same_headers(&self, head: &[u8], packet: &[u8], v6: bool) -> bool {
        let at = self.offset;
        let same = |from: usize, to: usize| head[from..to] == packet[from..to];
        let is_ip_same = if v6 {
            // All but the length, with addresses, extension headers and ports.
            same(0, 4) && same(6, at + 4)
        } else {
            // All but length, identification and checksum.
            same(0, 2) && same(6, 10) && same(12, at + 4)
        };
        // All but sequence number, flags and checksum.
        let is_transport_same =
            self.kind == Kind::Udp || same(at + 8, at + 13) && same(at + 14, at + 16) && same(at + 18, self.head);
        is_ip_same && is_transport_same
    }
}
