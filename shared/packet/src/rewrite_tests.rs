//! Rewritten packets, checked by another implementation.

use std::net::{Ipv4Addr, Ipv6Addr};

use etherparse::{NetHeaders, PacketBuilder, PacketHeaders, TransportHeader};
use proptest::prelude::*;

use super::*;
use crate::{answer, parse};

fn v4(n: u8) -> IpAddr {
    Ipv4Addr::new(10, 0, 0, n).into()
}

fn v6(n: u8) -> IpAddr {
    Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, n.into()).into()
}

/// A packet as etherparse builds it.
fn build(six: bool, kind: u8, ports: (u16, u16), payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let builder = match (v4(1), v4(2), v6(1), v6(2)) {
        (_, _, IpAddr::V6(src), IpAddr::V6(dst)) if six => PacketBuilder::ipv6(src.octets(), dst.octets(), 61),
        (IpAddr::V4(src), IpAddr::V4(dst), ..) => PacketBuilder::ipv4(src.octets(), dst.octets(), 61),
        _ => unreachable!(),
    };
    match kind {
        0 => builder.tcp(ports.0, ports.1, 1_000, 512).ack(77).write(&mut out, payload).unwrap(),
        1 => builder.udp(ports.0, ports.1).write(&mut out, payload).unwrap(),
        _ if six => builder.icmpv6_echo_request(ports.0, 5).write(&mut out, payload).unwrap(),
        _ => builder.icmpv4_echo_request(ports.0, 5).write(&mut out, payload).unwrap(),
    }
    out
}

/// Panics unless every checksum of the packet is what etherparse counts.
fn verify(packet: &[u8]) {
    let headers = PacketHeaders::from_ip_slice(packet).unwrap();
    let payload = headers.payload.slice();
    match (headers.net.unwrap(), headers.transport.unwrap()) {
        (NetHeaders::Ipv4(ip, _), transport) => {
            assert_eq!(ip.header_checksum, ip.calc_header_checksum());
            match transport {
                TransportHeader::Tcp(h) => assert_eq!(h.checksum, h.calc_checksum_ipv4(&ip, payload).unwrap()),
                TransportHeader::Udp(h) => assert_eq!(h.checksum, h.calc_checksum_ipv4(&ip, payload).unwrap()),
                TransportHeader::Icmpv4(h) => assert_eq!(h.checksum, h.icmp_type.calc_checksum(payload)),
                TransportHeader::Icmpv6(_) => panic!("ICMPv6 in IPv4"),
            }
        }
        (NetHeaders::Ipv6(ip, _), transport) => match transport {
            TransportHeader::Tcp(h) => assert_eq!(h.checksum, h.calc_checksum_ipv6(&ip, payload).unwrap()),
            TransportHeader::Udp(h) => assert_eq!(h.checksum, h.calc_checksum_ipv6(&ip, payload).unwrap()),
            TransportHeader::Icmpv6(h) => {
                assert_eq!(h.checksum, h.icmp_type.calc_checksum(ip.source, ip.destination, payload).unwrap());
            }
            TransportHeader::Icmpv4(_) => panic!("ICMP in IPv6"),
        },
        (other, _) => panic!("not IP: {other:?}"),
    }
}

/// What becomes of a packet with room in front of it, and what is said of it.
fn rewritten(packet: &[u8], parsed: &Parsed, to: &Endpoints) -> Result<(Vec<u8>, Parsed), RewriteError> {
    let mut buffer = [&[0; crate::HEADROOM][..], packet].concat();
    let mut packet = PacketBuf::new(&mut buffer, crate::HEADROOM).unwrap();
    let parsed = rewrite(&mut packet, parsed, to)?;
    Ok((packet.bytes()[..parsed.len].to_vec(), parsed))
}

proptest! {
    /// Whatever is rewritten, in a family or across, has right checksums, its new endpoints and its old payload.
    #[test]
    fn rewriting_keeps_payloads_and_checksums(
        six in any::<bool>(), to_six in any::<bool>(), kind in 0u8..3,
        ports in (1u16.., 1u16..), new_ports in (1u16.., 1u16..),
        payload in prop::collection::vec(any::<u8>(), 0..600),
    ) {
        let packet = build(six, kind, ports, &payload);
        verify(&packet);
        let addr = if to_six { v6 } else { v4 };
        let new_ports = if kind == 2 { (new_ports.0, new_ports.0) } else { new_ports };
        let to = Endpoints { src: addr(8), dst: addr(9), src_port: new_ports.0, dst_port: new_ports.1 };
        let parsed = parse(&packet).unwrap();
        let (result, told) = rewritten(&packet, &parsed, &to).unwrap();
        verify(&result);
        let after = parse(&result).unwrap();
        prop_assert_eq!(after, told);
        prop_assert_eq!((after.src, after.dst, after.src_port, after.dst_port), (to.src, to.dst, to.src_port, to.dst_port));
        prop_assert_eq!(after.transport, parsed.transport);
        prop_assert!(result.ends_with(&payload));
        let hops = if to_six { result[7] } else { result[8] };
        prop_assert_eq!(hops, 61);
    }

    /// What is told of the whole stays so; and a head with its payloads is what comes of the packet that they are.
    #[test]
    fn the_head_of_a_packet_is_rewritten_like_the_whole(
        six in any::<bool>(), to_six in any::<bool>(), kind in 0u8..2, ports in (1u16.., 1u16..),
        payload in prop::collection::vec(any::<u8>(), 1..600), cut in 0usize..600,
    ) {
        let packet = build(six, kind, ports, &payload);
        let parsed = parse(&packet).unwrap();
        let (head, rest) = packet.split_at(packet.len() - cut % payload.len());
        let addr = if to_six { v6 } else { v4 };
        let to = Endpoints { src: addr(8), dst: addr(9), src_port: 5, dst_port: 6 };
        let (whole, told) = rewritten(&packet, &parsed, &to).unwrap();
        let mut buffer = [&[0; crate::HEADROOM][..], head].concat();
        let mut rewritten = PacketBuf::new(&mut buffer, crate::HEADROOM).unwrap();
        prop_assert_eq!(rewrite(&mut rewritten, &parsed, &to), Ok(told));
        prop_assert_eq!([rewritten.bytes(), rest].concat(), whole);
        let mut out = Vec::new();
        prop_assert!(answer::reject(head, &parsed, &mut out));
    }

    /// An ICMP error about a rewritten packet, rewritten back, speaks of the original.
    #[test]
    fn errors_are_rewritten_with_what_they_quote(
        six in any::<bool>(), to_six in any::<bool>(), kind in 0u8..3, ports in (1u16.., 1u16..),
        payload in prop::collection::vec(any::<u8>(), 0..900),
    ) {
        let packet = build(six, kind, ports, &payload);
        let original = parse(&packet).unwrap();
        let addr = if to_six { v6 } else { v4 };
        let to = Endpoints { src: addr(8), dst: addr(9), src_port: original.src_port, dst_port: original.dst_port };
        let (sent, _) = rewritten(&packet, &original, &to).unwrap();
        let mut error = Vec::new();
        prop_assert!(answer::prohibited(&sent, &parse(&sent).unwrap(), &mut error));
        verify(&error);
        let parsed = parse(&error).unwrap();
        let quoted = parsed.quoted(&error).unwrap();
        prop_assert_eq!((quoted.packet.src, quoted.packet.dst), (to.src, to.dst));
        let back = Endpoints { src: original.src, dst: original.dst, src_port: original.src_port, dst_port: original.dst_port };
        let mut scratch = Vec::new();
        let result = rewrite_error(&error, &parsed, &quoted, (original.dst, original.src), &back, &mut scratch).unwrap();
        verify(result);
        let parsed = parse(result).unwrap();
        prop_assert_eq!((parsed.transport, parsed.src, parsed.dst), (Transport::IcmpError, original.dst, original.src));
        let quoted = parsed.quoted(result).unwrap().packet;
        prop_assert_eq!(
            (quoted.transport, quoted.src, quoted.dst, quoted.src_port, quoted.dst_port),
            (original.transport, original.src, original.dst, original.src_port, original.dst_port)
        );
    }

    #[test]
    fn altered_packets_never_panic(
        six in any::<bool>(), to_six in any::<bool>(), kind in 0u8..3,
        at in 0usize..80, byte in any::<u8>(), cut in 0usize..100,
    ) {
        let mut packet = build(six, kind, (1, 2), &[0; 40]);
        let len = packet.len();
        packet[at % len] = byte;
        packet.truncate(len.saturating_sub(cut));
        let Ok(parsed) = parse(&packet) else { return Ok(()) };
        let addr = if to_six { v6 } else { v4 };
        let to = Endpoints { src: addr(8), dst: addr(9), src_port: 3, dst_port: 3 };
        let mut out = Vec::new();
        answer::reject(&packet, &parsed, &mut out);
        answer::too_big(&packet, &parsed, 1280, &mut out);
        crate::clamp_mss(&mut packet, &parsed, 1280);
        if let Some(quoted) = parsed.quoted(&packet) {
            let _ = rewrite_error(&packet, &parsed, &quoted, (addr(8), addr(9)), &to, &mut out);
        }
        let _ = rewritten(&packet, &parsed, &to);
    }
}

#[test]
fn a_udp_packet_without_checksum_gets_one_in_ipv6() {
    let mut packet = build(false, 1, (53, 53), b"hello");
    packet[26..28].fill(0);
    let parsed = parse(&packet).unwrap();
    let to = Endpoints { src: v6(8), dst: v6(9), src_port: 53, dst_port: 53 };
    verify(&rewritten(&packet, &parsed, &to).unwrap().0);
    let mut buffer = [&[0; crate::HEADROOM], &packet[..packet.len() - 1]].concat();
    let mut head = PacketBuf::new(&mut buffer, crate::HEADROOM).unwrap();
    assert_eq!(rewrite(&mut head, &parsed, &to), Err(RewriteError::Untranslatable), "it can't be summed");
}

#[test]
fn what_lies_behind_a_datagram_is_not_summed() {
    let mut packet = build(false, 1, (53, 53), b"hello");
    packet[26..28].fill(0);
    packet.extend([9; 3]);
    packet[3] += 3;
    let parsed = parse(&packet).unwrap();
    let to = Endpoints { src: v6(8), dst: v6(9), src_port: 53, dst_port: 53 };
    let (result, _) = rewritten(&packet, &parsed, &to).unwrap();
    let datagram = &result[40..53];
    let sum = Sum::pseudo(to.src, to.dst, UDP, datagram.len()).bytes(datagram).finish();
    assert_eq!((sum, &result[53..]), (0, &[9; 3][..]));
}

#[test]
fn an_echo_reply_of_nothing_but_zeros_has_a_right_checksum() {
    let mut packet = Vec::new();
    let builder = PacketBuilder::ipv4([10, 0, 0, 1], [10, 0, 0, 2], 61);
    builder.icmpv4_raw(0, 0, [0, 7, 0, 0]).write(&mut packet, &[0; 8]).unwrap();
    let parsed = parse(&packet).unwrap();
    // What lies behind it in the buffer is not part of it.
    packet.push(1);
    let to = Endpoints { src: v4(8), dst: v4(9), src_port: 0, dst_port: 0 };
    let (result, _) = rewritten(&packet, &parsed, &to).unwrap();
    assert_eq!(result[20..], [&[0, 0, 0xff, 0xff][..], &[0; 12]].concat());
    verify(&result);
}

#[test]
fn what_ipv4_has_no_length_for_is_not_translated() {
    let head = build(true, 0, (1, 2), b"x");
    let parsed = parse(&head).unwrap();
    let to = Endpoints { src: v4(8), dst: v4(9), src_port: 1, dst_port: 2 };
    for (len, fits) in [(65_535 + 20, true), (65_535 + 21, false)] {
        let parsed = Parsed { len, ..parsed };
        let mut head = head.clone();
        let mut packet = PacketBuf::new(&mut head, 0).unwrap();
        assert_eq!(rewrite(&mut packet, &parsed, &to).is_ok(), fits);
    }
}

#[test]
fn the_mtu_of_a_too_big_is_translated() {
    for (six, mtu) in [(true, 1400_u16), (false, 1380)] {
        let sent = build(six, 1, (1, 2), &[0; 1300]);
        let mut error = Vec::new();
        assert!(answer::too_big(&sent, &parse(&sent).unwrap(), mtu, &mut error));
        let parsed = parse(&error).unwrap();
        let quoted = parsed.quoted(&error).unwrap();
        let addr = if six { v4 } else { v6 };
        let inner = Endpoints { src: addr(1), dst: addr(2), src_port: 1, dst_port: 2 };
        let mut scratch = Vec::new();
        let result = rewrite_error(&error, &parsed, &quoted, (addr(2), addr(1)), &inner, &mut scratch).unwrap();
        verify(result);
        let at = if six { 20 } else { 40 };
        let told = u32::from_be_bytes(*result[at + 4..].first_chunk().unwrap());
        assert_eq!(told, if six { 1380 } else { 1400 });
    }
}

#[test]
fn mixed_families_and_odd_protocols_are_refused() {
    let mut packet = build(false, 0, (1, 2), b"");
    let parsed = parse(&packet).unwrap();
    let mixed = Endpoints { src: v4(1), dst: v6(2), src_port: 1, dst_port: 2 };
    assert_eq!(rewritten(&packet, &parsed, &mixed), Err(RewriteError::MixedFamilies));
    packet[9] = 47;
    let parsed = parse(&packet).unwrap();
    let to = Endpoints { src: v4(1), dst: v4(2), src_port: 1, dst_port: 2 };
    assert_eq!(rewritten(&packet, &parsed, &to), Err(RewriteError::NoFlow));
}
