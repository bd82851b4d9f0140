//! A byte of flags (1: its checksum is partial), the segment size, the super-packet.

use std::num::NonZeroU16;

use postern_packet::{Offload, Parsed, Split, Transport, parse};

use crate::packets::{Bytes, is_right};

/// Longer results only take time.
const MOST: usize = 1 << 20;

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
        payload.extend_from_slice(&piece[head(piece, &after)..]);
        packets += 1;
        total += len;
    }
    assert_eq!((packets, total, split.count(), split.bytes()), (count, foretold, 0, 0));
    assert_eq!(payload, packet[head(packet, &parsed)..parsed.len]);
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
