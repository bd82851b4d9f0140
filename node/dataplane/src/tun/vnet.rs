//! The header in front of each packet of a TUN device with IFF_VNET_HDR: `struct virtio_net_hdr` (virtio 1.2, section
//! 5.1.6), in the machine's byte order.

use std::num::NonZeroU16;

use postern_packet::{Offload, Parsed, Transport, checksum::Sum};

/// Its length.
pub(crate) const LEN: usize = 10;

const NEEDS_CSUM: u8 = 1;
const GSO_NONE: u8 = 0;
const GSO_TCPV4: u8 = 1;
const GSO_TCPV6: u8 = 4;
const GSO_UDP_L4: u8 = 5;
const GSO_ECN: u8 = 0x80;

/// What the kernel says of a packet; `None` when it is nothing that was asked for. The checksum of a packet that is not to be cut
/// is made here, wherever it is: it may lie in what the packet carries, which then is a packet of another tunnel.
pub(crate) fn decode(header: &[u8; LEN], packet: &mut [u8]) -> Option<Offload> {
    let word = |at: usize| u16::from_ne_bytes([header[at], header[at + 1]]);
    let is_partial = header[0] & NEEDS_CSUM != 0;
    match header[1] & !GSO_ECN {
        GSO_NONE if is_partial => {
            let (start, field) = (usize::from(word(6)), usize::from(word(6)) + usize::from(word(8)));
            // The field holds the pseudo-header's sum by now.
            let sum = match Sum::default().bytes(packet.get(start..)?).finish() {
                // In UDP zero would mean "none"; to all others it means the same.
                0 => 0xffff,
                sum => sum,
            };
            packet.get_mut(field..field + 2)?.copy_from_slice(&sum.to_be_bytes());
            Some(Offload::default())
        }
        GSO_NONE => Some(Offload::default()),
        GSO_TCPV4 | GSO_TCPV6 | GSO_UDP_L4 if is_partial => {
            Some(Offload { is_partial, segment: Some(NonZeroU16::new(word(4))?) })
        }
        _ => None,
    }
}

/// What to tell the kernel of a packet, of which `packet` has all headers at least.
pub(crate) fn encode(packet: &[u8], parsed: &Parsed, offload: Offload) -> [u8; LEN] {
    let mut header = [0; LEN];
    let Some(segment) = offload.segment.filter(|_| offload.is_partial) else { return header };
    let (kind, length, checksum) = match (parsed.transport, parsed.tcp(packet)) {
        (Transport::Tcp, Some(segment)) => {
            let kind = if parsed.is_v6() { GSO_TCPV6 } else { GSO_TCPV4 };
            (if segment.flags.cwr { kind | GSO_ECN } else { kind }, segment.header, 16_u16)
        }
        (Transport::Udp, _) => (GSO_UDP_L4, 8, 6),
        _ => return header,
    };
    let word = |value: usize| u16::try_from(value).unwrap_or(u16::MAX).to_ne_bytes();
    header[0] = NEEDS_CSUM;
    header[1] = kind;
    header[2..4].copy_from_slice(&word(parsed.offset + length));
    header[4..6].copy_from_slice(&segment.get().to_ne_bytes());
    header[6..8].copy_from_slice(&word(parsed.offset));
    header[8..10].copy_from_slice(&checksum.to_ne_bytes());
    header
}

#[cfg(test)]
mod tests {
    use super::*;
    use etherparse::PacketBuilder;
    use postern_packet::parse;

    fn super_packet(segment: u16) -> Offload {
        Offload { is_partial: true, segment: NonZeroU16::new(segment) }
    }

    #[test]
    fn what_is_written_is_what_would_be_read() {
        let mut tcp = Vec::new();
        let builder = PacketBuilder::ipv4([1; 4], [2; 4], 9).tcp(1, 2, 3, 4);
        builder.write(&mut tcp, &[0; 3000]).unwrap();
        let header = encode(&tcp, &parse(&tcp).unwrap(), super_packet(1000));
        assert_eq!((header[0], header[1]), (NEEDS_CSUM, GSO_TCPV4));
        let words: Vec<_> = header[2..].chunks(2).map(|word| u16::from_ne_bytes([word[0], word[1]])).collect();
        assert_eq!(words, [40, 1000, 20, 16]);
        assert_eq!(decode(&header, &mut tcp), Some(super_packet(1000)));
        tcp[33] |= 0x80; // CWR
        assert_eq!(encode(&tcp, &parse(&tcp).unwrap(), super_packet(1000))[1], GSO_TCPV4 | GSO_ECN);

        let mut udp = Vec::new();
        PacketBuilder::ipv6([1; 16], [2; 16], 9).udp(1, 2).write(&mut udp, &[0; 3000]).unwrap();
        let header = encode(&udp, &parse(&udp).unwrap(), super_packet(500));
        assert_eq!((header[1], u16::from_ne_bytes([header[8], header[9]])), (GSO_UDP_L4, 6));
        assert_eq!(encode(&udp, &parse(&udp).unwrap(), Offload::default()), [0; LEN], "a plain packet");
    }

    #[test]
    fn what_was_not_asked_for_is_refused() {
        let decode = |header: [u8; LEN]| super::decode(&header, &mut [0x45; 40]);
        let header = |kind: u8, segment: u16| {
            let [a, b] = segment.to_ne_bytes();
            [1, kind, 0, 0, a, b, 0, 0, 0, 0]
        };
        assert_eq!(decode(header(GSO_NONE, 9)), Some(Offload::default()));
        assert_eq!(decode(header(GSO_TCPV6, 0)), None, "segments of nothing");
        assert_eq!(decode(header(3, 1400)), None, "UDP fragments");
        let far = 39_u16.to_ne_bytes();
        assert_eq!(decode([1, GSO_NONE, 0, 0, 0, 0, far[0], far[1], 1, 0]), None, "a checksum behind the packet");
    }

    #[test]
    fn a_checksum_that_is_left_to_do_is_done_wherever_it_is() {
        let mut finished = Vec::new();
        PacketBuilder::ipv4([1; 4], [2; 4], 9).udp(1, 2).write(&mut finished, &[7; 99]).unwrap();
        let parsed = parse(&finished).unwrap();
        let mut packet = finished.clone();
        postern_packet::set_partial_checksum(&mut packet, &parsed);
        assert_ne!(packet, finished);
        let behind = 8_usize;
        let mut carried = [&[0xaa; 8][..], &packet].concat();
        for (at, packet, finished) in [(0, &mut packet, finished.clone()), (behind, &mut carried, finished)] {
            let [start, field] = [at as u16 + 20, 6].map(u16::to_ne_bytes);
            let header = [NEEDS_CSUM, GSO_NONE, 0, 0, 0, 0, start[0], start[1], field[0], field[1]];
            assert_eq!(decode(&header, packet), Some(Offload::default()));
            assert_eq!(packet[at..], finished);
        }
    }
}
