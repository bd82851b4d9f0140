//! Packets to send, and a short text for each packet seen, with its checksums checked.

use std::net::{IpAddr, SocketAddr};

use postern_packet::{
    Transport,
    checksum::{Sum, checksum},
    parse,
};

const TCP: u8 = 6;
const UDP: u8 = 17;

/// An IP packet around a transport header whose checksum is to go to offset `at`.
fn packet(src: IpAddr, dst: IpAddr, protocol: u8, mut body: Vec<u8>, at: usize) -> Vec<u8> {
    let sum = match protocol {
        1 => checksum(&body),
        _ => Sum::pseudo(src, dst, protocol, body.len()).bytes(&body).finish(),
    };
    body[at..at + 2].copy_from_slice(&sum.to_be_bytes());
    let mut packet = match (src, dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            let len = u16::try_from(20 + body.len()).unwrap().to_be_bytes();
            let mut header = vec![0x45, 0, len[0], len[1], 0, 0, 0, 0, 64, protocol, 0, 0];
            header.extend(src.octets().into_iter().chain(dst.octets()));
            let sum = checksum(&header).to_be_bytes();
            header[10..12].copy_from_slice(&sum);
            header
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            let len = u16::try_from(body.len()).unwrap().to_be_bytes();
            let mut header = vec![0x60, 0, 0, 0, len[0], len[1], protocol, 64];
            header.extend(src.octets().into_iter().chain(dst.octets()));
            header
        }
        _ => panic!("one family"),
    };
    packet.extend(body);
    packet
}

/// The flags are those of [`seen`]: `S`, `A`, `F`, `R`.
pub(super) fn tcp(src: SocketAddr, dst: SocketAddr, flags: &str, (seq, ack): (u32, u32), payload: &[u8]) -> Vec<u8> {
    let bits = flags.chars().map(|flag| match flag {
        'F' => 1,
        'S' => 2,
        'R' => 4,
        'A' => 16,
        _ => panic!("no such flag"),
    });
    let mut body = [src.port().to_be_bytes(), dst.port().to_be_bytes()].concat();
    body.extend(seq.to_be_bytes().into_iter().chain(ack.to_be_bytes()));
    body.extend([0x50, bits.sum(), 0x10, 0, 0, 0, 0, 0]);
    body.extend(payload);
    packet(src.ip(), dst.ip(), TCP, body, 16)
}

/// A SYN that says how long segments to its sender may be.
pub(super) fn syn_with_mss(src: SocketAddr, dst: SocketAddr, mss: u16) -> Vec<u8> {
    let mut body = [src.port().to_be_bytes(), dst.port().to_be_bytes()].concat();
    body.extend([0, 0, 3, 232, 0, 0, 0, 0, 0x60, 2, 0x10, 0, 0, 0, 0, 0, 2, 4]);
    body.extend(mss.to_be_bytes());
    packet(src.ip(), dst.ip(), TCP, body, 16)
}

/// What [`syn_with_mss`] said.
pub(super) fn mss(packet: &[u8]) -> u16 {
    let at = parse(packet).unwrap().offset + 22;
    u16::from_be_bytes([packet[at], packet[at + 1]])
}

pub(super) fn syn(src: SocketAddr, dst: SocketAddr) -> Vec<u8> {
    tcp(src, dst, "S", (1000, 0), b"")
}

pub(super) fn udp(src: SocketAddr, dst: SocketAddr, payload: &[u8]) -> Vec<u8> {
    let len = u16::try_from(8 + payload.len()).unwrap();
    let mut body = [src.port().to_be_bytes(), dst.port().to_be_bytes(), len.to_be_bytes(), [0, 0]].concat();
    body.extend(payload);
    packet(src.ip(), dst.ip(), UDP, body, 6)
}

pub(super) fn echo(src: IpAddr, dst: IpAddr, id: u16, is_reply: bool) -> Vec<u8> {
    let kind = match (src.is_ipv6(), is_reply) {
        (false, false) => 8,
        (false, true) => 0,
        (true, false) => 128,
        (true, true) => 129,
    };
    let mut body = vec![kind, 0, 0, 0];
    body.extend(id.to_be_bytes());
    body.extend([0, 1, b'e', b'c', b'h', b'o']);
    packet(src, dst, if src.is_ipv6() { 58 } else { 1 }, body, 2)
}

/// A first fragment.
pub(super) fn fragment(src: SocketAddr, dst: SocketAddr) -> Vec<u8> {
    let mut packet = udp(src, dst, b"fragment");
    packet[6] = 0x20;
    packet
}

/// GRE, which is no transport that a filter speaks of.
pub(super) fn gre(src: IpAddr, dst: IpAddr) -> Vec<u8> {
    packet(src, dst, 47, vec![0; 8], 4)
}

/// `tcp 1.2.3.4:5 > 6.7.8.9:10 SA`, `udp …`, `echo …`, `reply …`, `icmp-error …`. Panics on a wrong checksum.
pub(super) fn seen(packet: &[u8]) -> String {
    let parsed = parse(packet).unwrap();
    let body = &packet[parsed.offset..parsed.len];
    let protocol = match (parsed.transport, parsed.is_v6()) {
        (Transport::Tcp, _) => TCP,
        (Transport::Udp, _) => UDP,
        (_, true) => 58,
        (_, false) => 1,
    };
    let sum = match protocol {
        1 => checksum(body),
        _ => Sum::pseudo(parsed.src, parsed.dst, protocol, body.len()).bytes(body).finish(),
    };
    assert!(matches!(sum, 0 | 0xffff), "transport checksum of {parsed:?}");
    if !parsed.is_v6() {
        assert_eq!(checksum(&packet[..20]), 0, "header checksum of {parsed:?}");
    }
    let [src, dst] = [(parsed.src, parsed.src_port), (parsed.dst, parsed.dst_port)].map(SocketAddr::from);
    match parsed.transport {
        Transport::Tcp => {
            let flags = parsed.tcp(packet).unwrap().flags;
            let flags = [(flags.syn, "S"), (flags.fin, "F"), (flags.rst, "R"), (flags.ack, "A")];
            let flags: String = flags.into_iter().filter_map(|(is_set, name)| is_set.then_some(name)).collect();
            format!("tcp {src} > {dst} {flags}")
        }
        Transport::Udp => format!("udp {src} > {dst}"),
        Transport::EchoRequest => format!("echo {} > {}", parsed.src, parsed.dst),
        Transport::EchoReply => format!("reply {} > {}", parsed.src, parsed.dst),
        Transport::IcmpError => format!("icmp-error {} > {}", parsed.src, parsed.dst),
        Transport::Other(number) => format!("protocol {number}"),
    }
}
