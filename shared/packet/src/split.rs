//! Cuts a super-packet into the packets that it stands for, as Linux does (`tcp_gso_segment`, `__udp_gso_segment`).
//!
//! All headers are repeated, with IPv4 options, IPv6 extension headers and TCP options. What differs from packet to packet:
//! lengths; IPv4's identification, which counts up; the sequence number; FIN and PSH, which only the last has; CWR, which only
//! the first has; checksums, which are made anew. A packet with nothing left to do comes out as it went in.

use crate::{
    Offload, Parsed,
    offload::{Kind, is_v6, pseudo, set_length},
    tcp::{CWR, FIN, PSH},
};

/// Why a packet can't be cut or finished.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SplitError {
    /// It is to be cut, or its checksum made, and only TCP's and UDP's are known.
    #[error("a packet that is neither TCP nor UDP can't be segmented or summed")]
    Transport,
    /// It is longer than a header can say.
    #[error("a packet of {0} bytes is longer than its header can say")]
    TooLong(usize),
    /// It is cut, or its headers contradict each other.
    #[error("the headers of a packet to be segmented are malformed")]
    Malformed,
}

/// The packets that a super-packet stands for, one after the other. Also finishes the checksum of a plain packet.
#[derive(Debug)]
pub struct Split<'a> {
    packet: &'a [u8],
    /// What is to be made anew; None: the packet is finished.
    kind: Option<Kind>,
    /// Where the transport header begins, and where it ends.
    offset: usize,
    head: usize,
    /// Payload bytes of each packet but the last; and those that were handed out.
    segment: usize,
    taken: usize,
    /// Packets that were handed out, and that are still to come.
    done: usize,
    left: usize,
}

impl<'a> Split<'a> {
    /// `packet` is whole. Of `parsed` its transport, offset and length count: addresses and ports may have been rewritten.
    ///
    /// # Errors
    /// See [`SplitError`]. A packet with nothing left to do is refused only when it is cut or too long.
    pub fn new(packet: &'a [u8], parsed: &Parsed, offload: Offload) -> Result<Self, SplitError> {
        let packet = packet.get(..parsed.len).filter(|packet| !packet.is_empty()).ok_or(SplitError::Malformed)?;
        // Translated from IPv4, the largest super-packet is longer than 65,535 bytes; IPv6 doesn't count its own header.
        if packet.len() > usize::from(u16::MAX) + if is_v6(packet) { 40 } else { 0 } {
            return Err(SplitError::TooLong(packet.len()));
        }
        let offset = parsed.offset;
        if !offload.is_partial && offload.segment.is_none() {
            return Ok(Self { packet, kind: None, offset, head: packet.len(), segment: 0, taken: 0, done: 0, left: 1 });
        }
        let kind = Kind::of(parsed).ok_or(SplitError::Transport)?;
        let header = match kind {
            Kind::Tcp => parsed.tcp(packet).ok_or(SplitError::Malformed)?.header,
            Kind::Udp => 8,
        };
        let head = offset + header;
        // What lies behind a datagram would be cut as if it were part of it.
        if offset < if is_v6(packet) { 40 } else { 20 }
            || head > packet.len()
            || kind == Kind::Udp && udp_len(packet, offset) != packet.len() - offset
        {
            return Err(SplitError::Malformed);
        }
        let payload = packet.len() - head;
        let segment = offload.segment.map_or(payload, |segment| usize::from(segment.get()));
        let left = payload.div_ceil(segment.max(1)).max(1);
        Ok(Self { packet, kind: Some(kind), offset, head, segment, taken: 0, done: 0, left })
    }

    /// Packets still to come.
    pub fn count(&self) -> usize {
        self.left
    }

    /// Bytes of the longest packet.
    pub fn longest(&self) -> usize {
        self.packet.len().min(self.head + self.segment)
    }

    /// Bytes of all packets still to come.
    pub fn bytes(&self) -> usize {
        self.left * self.head + if self.left > 0 { self.packet.len() - self.head - self.taken } else { 0 }
    }

    /// Writes the next packet to the start of `out`, which has at least [`longest`](Self::longest) bytes; its length.
    ///
    /// # Panics
    /// When `out` is shorter.
    #[allow(clippy::should_implement_trait, reason = "an iterator could not be given where to write to")]
    pub fn next(&mut self, out: &mut [u8]) -> Option<usize> {
        self.left = self.left.checked_sub(1)?;
        let from = self.head + self.taken;
        let payload = &self.packet[from..self.packet.len().min(from + self.segment)];
        let len = self.head + payload.len();
        let out = &mut out[..len];
        out[..self.head].copy_from_slice(&self.packet[..self.head]);
        out[self.head..].copy_from_slice(payload);
        if let Some(kind) = self.kind {
            self.write_headers(kind, out);
        }
        self.taken += payload.len();
        self.done += 1;
        Some(len)
    }

    /// Makes the copied headers those of this packet.
    fn write_headers(&self, kind: Kind, out: &mut [u8]) {
        let (len, at) = (out.len(), self.offset);
        if !is_v6(out) {
            // It counts modulo 2^16.
            let id = u16::from_be_bytes([out[4], out[5]]).wrapping_add(self.done as u16);
            out[4..6].copy_from_slice(&id.to_be_bytes());
        }
        set_length(out, at, len);
        let transport = &mut out[at..];
        match kind {
            Kind::Tcp => {
                let [a, b, c, d] = [transport[4], transport[5], transport[6], transport[7]];
                let seq = u32::from_be_bytes([a, b, c, d]).wrapping_add(self.taken as u32);
                transport[4..8].copy_from_slice(&seq.to_be_bytes());
                if self.left > 0 {
                    transport[13] &= !(FIN | PSH);
                }
                if self.done > 0 {
                    transport[13] &= !CWR;
                }
            }
            Kind::Udp => {
                let len = u16::try_from(transport.len()).unwrap_or(u16::MAX).to_be_bytes();
                transport[4..6].copy_from_slice(&len);
            }
        }
        let field = at + kind.checksum();
        out[field..field + 2].fill(0);
        let sum = pseudo(out, kind, len - at).bytes(&out[at..]).finish();
        // Zero would mean "none" (RFC 768).
        let sum = if sum == 0 && kind == Kind::Udp { 0xffff } else { sum };
        out[field..field + 2].copy_from_slice(&sum.to_be_bytes());
    }
}

/// What a UDP header says of its datagram's length.
fn udp_len(packet: &[u8], offset: usize) -> usize {
    usize::from(u16::from_be_bytes([packet[offset + 4], packet[offset + 5]]))
}

#[cfg(test)]
#[path = "split_tests.rs"]
mod tests;
