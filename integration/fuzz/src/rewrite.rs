//! A byte of flags (1: to IPv6, 2: repair the packet's checksums), two ports, the packet. An ICMP error is rewritten with
//! what it quotes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use postern_packet::{Endpoints, HEADROOM, PacketBuf, Parsed, Transport, parse, rewrite, rewrite_error};

use crate::{
    packets::{Bytes, is_right, repair},
    split::head,
};

/// What is rewritten has its new endpoints, its payload, and checksums that are right if they were.
pub fn check(data: &[u8]) {
    let mut bytes = Bytes(data);
    let flags = bytes.byte();
    let ports = (bytes.word(), bytes.word());
    let mut packet = bytes.0.to_vec();
    let Ok(parsed) = parse(&packet) else { return };
    if flags & 2 != 0 {
        repair(&mut packet, &parsed);
    }
    let addr = |n: u8| match flags & 1 {
        0 => IpAddr::V4(Ipv4Addr::new(10, 1, 1, n)),
        _ => IpAddr::V6(Ipv6Addr::new(0xfd00, 1, 1, 1, 1, 1, 1, n.into())),
    };
    let is_echo = matches!(parsed.transport, Transport::EchoRequest | Transport::EchoReply);
    let dst_port = if is_echo { ports.0 } else { ports.1 };
    let to = Endpoints { src: addr(1), dst: addr(2), src_port: ports.0, dst_port };
    if parsed.transport == Transport::IcmpError {
        check_error(&packet, &parsed, &to);
    } else {
        check_flow(&packet, &parsed, &to);
    }
}

fn check_flow(packet: &[u8], parsed: &Parsed, to: &Endpoints) {
    let mut buffer = [&[0; HEADROOM], packet].concat();
    let mut buf = PacketBuf::new(&mut buffer, HEADROOM).expect("within the buffer");
    let Ok(after) = rewrite(&mut buf, parsed, to) else {
        assert_eq!(buf.bytes(), packet, "refused, and unchanged");
        return;
    };
    let result = buf.bytes()[..after.len].to_vec();
    assert_eq!(parse(&result), Ok(after), "it is where it is said to be");
    assert_eq!((after.src, after.dst, after.src_port, after.dst_port), (to.src, to.dst, to.src_port, to.dst_port));
    assert_eq!(after.transport, parsed.transport);
    assert_eq!(result[head(&result, &after)..], packet[head(packet, parsed)..parsed.len]);
    assert!(!is_right(packet, parsed) || is_right(&result, &after));
    check_head(packet, parsed, to, &result);
    if parsed.is_v6() == after.is_v6() {
        // And back again, it is what it was, if what it was had checksums that somebody computes.
        let back = Endpoints { src: parsed.src, dst: parsed.dst, src_port: parsed.src_port, dst_port: parsed.dst_port };
        assert_eq!(rewrite(&mut buf, &after, &back), Ok(*parsed));
        let mut original = packet[..parsed.len].to_vec();
        repair(&mut original, parsed);
        if original == packet[..parsed.len] {
            assert_eq!(&buf.bytes()[..parsed.len], original);
        }
    }
}

/// Of a super-packet the head alone may be there; it becomes what the head of the whole becomes.
fn check_head(packet: &[u8], parsed: &Parsed, to: &Endpoints, whole: &[u8]) {
    if !matches!(parsed.transport, Transport::Tcp | Transport::Udp) {
        return;
    }
    let end = head(packet, parsed);
    let mut buffer = [&[0; HEADROOM], &packet[..end]].concat();
    let mut buf = PacketBuf::new(&mut buffer, HEADROOM).expect("within the buffer");
    // A checksum that it lacks can be made only of the whole.
    if rewrite(&mut buf, parsed, to).is_ok() {
        assert_eq!(buf.bytes(), &whole[..buf.bytes().len()]);
    }
}

fn check_error(packet: &[u8], parsed: &Parsed, to: &Endpoints) {
    let Some(quoted) = parsed.quoted(packet) else { return };
    let mut scratch = Vec::new();
    let outer = (to.dst, to.src);
    let Ok(result) = rewrite_error(packet, parsed, &quoted, outer, to, &mut scratch) else { return };
    let after = parse(result).expect("what was rewritten is a packet");
    assert_eq!((after.transport, after.src, after.dst), (Transport::IcmpError, to.dst, to.src));
    assert!(result.len() <= if after.is_v6() { 1_280 } else { 576 } && after.len == result.len());
    assert!(is_right(result, &after));
    if let Some(quoted) = after.quoted(result).map(|quoted| quoted.packet) {
        assert_eq!((quoted.src, quoted.dst), (to.src, to.dst));
    }
}
