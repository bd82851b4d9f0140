//! A byte of flags (1: its checksum is partial), the segment size, the super-packet.

use std::num::NonZeroU16;

use postern_packet::{Offload, Parsed, Split, Transport, parse};

use crate::packets::{Bytes, is_right};

/// Longer results only take time.
const MOST: usize = 1 << 20;

const FIN: u8 = 1;
const PSH: u8 = 8;
const CWR: u8 = 128;

/// Whatever is cut is a packet like the one that it was cut from.
pub fn check(data: &[u8]) {
    let mut bytes = Bytes(data);
    let is_partial = bytes.byte() & 1 != 0;
    let offload = Offload { is_partial, segment: NonZeroU16::new(bytes.word()) };
    let packet = bytes.0;
    let Ok(parsed) = parse(packet) else { return };
    let Ok(mut split) = Split::new(packet, &parsed, offload) else { return };
    let (count, foretold) = (split.count(), split.bytes());
    if foretold > MOST {
        return;
    }
    let mut out = vec![0; split.longest()];
    let (mut packets, mut total, mut payload) = (0, 0, Vec::new());
    while let Some(len) = split.next(&mut out) {
        let piece = &out[..len];
        if offload == Offload::default() {
            assert_eq!(piece, &packet[..parsed.len]);
            return;
        }
        let after = parse(piece).expect("what was cut is a packet");
        assert_eq!(after, Parsed { len, ..parsed });
        assert!(is_right(piece, &after));
        if let Some(segment) = offload.segment {
            assert!(piece.len() - head(piece, &after) <= usize::from(segment.get()));
        }
        check_headers(piece, packet, &parsed, Place { nth: packets, taken: payload.len() });
        payload.extend_from_slice(&piece[head(piece, &after)..]);
        packets += 1;
        total += len;
    }
    assert_eq!((packets, total, split.count(), split.bytes()), (count, foretold, 0, 0));
    assert_eq!(payload, packet[head(packet, &parsed)..parsed.len]);
}

/// Which of the packets one is, and how much payload is in those before it.
struct Place {
    nth: usize,
    taken: usize,
}

/// The headers of one packet are those of the super-packet, but for what has to differ.
fn check_headers(piece: &[u8], packet: &[u8], parsed: &Parsed, Place { nth, taken }: Place) {
    let (at, head) = (parsed.offset, head(packet, parsed));
    if !parsed.is_v6() {
        assert_eq!(word(piece, 4), word(packet, 4).wrapping_add(nth as u16), "its IPv4 ID");
    }
    if parsed.transport == Transport::Tcp {
        let seq = |packet: &[u8]| u32::from(word(packet, at + 4)) << 16 | u32::from(word(packet, at + 6));
        assert_eq!(seq(piece), seq(packet).wrapping_add(taken as u32), "its sequence number");
        let is_last = taken + piece.len() - head == parsed.len - head;
        let absent = if is_last { 0 } else { FIN | PSH } | if nth == 0 { 0 } else { CWR };
        assert_eq!(piece[at + 13], packet[at + 13] & !absent, "its flags");
    } else {
        assert_eq!(usize::from(word(piece, at + 4)), piece.len() - at, "its datagram's length");
    }
    assert_eq!(blank(piece, parsed, head), blank(packet, parsed, head), "the rest of its headers");
}

fn word(packet: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([packet[at], packet[at + 1]])
}

/// The headers without what differs: lengths, checksums, and what is looked at by itself.
fn blank(packet: &[u8], parsed: &Parsed, head: usize) -> Vec<u8> {
    let (mut headers, at) = (packet[..head].to_vec(), parsed.offset);
    let ip: &[_] = if parsed.is_v6() { &[(4, 6)] } else { &[(2, 6), (10, 12)] };
    let transport: &[_] = if parsed.transport == Transport::Tcp { &[(4, 8), (13, 14), (16, 18)] } else { &[(4, 8)] };
    for &(from, to) in ip {
        headers[from..to].fill(0);
    }
    for &(from, to) in transport {
        headers[at + from..at + to].fill(0);
    }
    headers
}

/// Where the payload begins.
pub(crate) fn head(packet: &[u8], parsed: &Parsed) -> usize {
    let transport = match parsed.transport {
        Transport::Tcp => parsed.tcp(packet).expect("parsed before").header,
        Transport::Other(_) => 0,
        _ => 8,
    };
    parsed.offset + transport
}
