//! What a rejected packet is answered with, so that whoever sent it learns at once that it was refused.
//!
//! Each function writes a packet into `out` and says whether there is one: resets, ICMP errors, and packets to or from more
//! than one host are never answered (RFC 1122 section 3.2.2, RFC 4443 section 2.4).

use std::net::IpAddr;

use crate::{
    Parsed, Transport,
    checksum::Sum,
    rewrite::{Endpoints, finish_icmp, write_ip_header},
    tcp::{ACK, RST},
    transport::{ICMP, TCP},
};

const HOPS: u8 = 64;

/// TCP is answered with a reset, everything else with "administratively prohibited".
pub fn reject(packet: &[u8], parsed: &Parsed, out: &mut Vec<u8>) -> bool {
    let Some(segment) = parsed.tcp(packet) else { return prohibited(packet, parsed, out) };
    if segment.flags.rst || !is_answerable(parsed) {
        return false;
    }
    let back = Endpoints { src: parsed.dst, dst: parsed.src, src_port: parsed.dst_port, dst_port: parsed.src_port };
    // RFC 9293 section 3.10.7.1: exactly where the sender expects it, so that it is believed.
    match segment.flags.ack {
        true => reset(&back, segment.ack, None, out),
        false => reset(&back, 0, Some(segment.end()), out),
    }
    true
}

/// A reset with this sequence number, acknowledging `ack` if given.
pub fn reset(endpoints: &Endpoints, seq: u32, ack: Option<u32>, out: &mut Vec<u8>) {
    write_ip_header(out, (endpoints.src, endpoints.dst), TCP, 20, (0, HOPS));
    let at = out.len();
    out.extend_from_slice(&endpoints.src_port.to_be_bytes());
    out.extend_from_slice(&endpoints.dst_port.to_be_bytes());
    out.extend_from_slice(&seq.to_be_bytes());
    out.extend_from_slice(&ack.unwrap_or(0).to_be_bytes());
    out.extend_from_slice(&[0x50, if ack.is_some() { RST | ACK } else { RST }, 0, 0, 0, 0, 0, 0]);
    let sum = Sum::pseudo(endpoints.src, endpoints.dst, TCP, 20).bytes(&out[at..]).finish();
    out[at + 16..at + 18].copy_from_slice(&sum.to_be_bytes());
}

/// ICMP "communication administratively prohibited" (type 3 code 13; ICMPv6 type 1 code 1), from the packet's destination.
pub fn prohibited(packet: &[u8], parsed: &Parsed, out: &mut Vec<u8>) -> bool {
    let (kind, code) = if parsed.is_v6() { (1, 1) } else { (3, 13) };
    error(packet, parsed, kind, code, 0, out)
}

/// ICMP "fragmentation needed" (RFC 1191) or ICMPv6 "packet too big", telling the MTU that would fit.
pub fn too_big(packet: &[u8], parsed: &Parsed, mtu: u16, out: &mut Vec<u8>) -> bool {
    let (kind, code) = if parsed.is_v6() { (2, 0) } else { (3, 4) };
    error(packet, parsed, kind, code, mtu, out)
}

fn error(packet: &[u8], parsed: &Parsed, kind: u8, code: u8, mtu: u16, out: &mut Vec<u8>) -> bool {
    if parsed.transport == Transport::IcmpError || !is_answerable(parsed) {
        return false;
    }
    let most = if parsed.is_v6() { 1280 - 48 } else { 576 - 28 };
    let quote = &packet[..parsed.len.min(most).min(packet.len())];
    write_ip_header(out, (parsed.dst, parsed.src), ICMP, 8 + quote.len(), (0, HOPS));
    let at = out.len();
    let mtu = mtu.to_be_bytes();
    out.extend_from_slice(&[kind, code, 0, 0, 0, 0, mtu[0], mtu[1]]);
    out.extend_from_slice(quote);
    finish_icmp(out, at, parsed.dst, parsed.src);
    true
}

/// From one host to one host.
fn is_answerable(parsed: &Parsed) -> bool {
    let is_one = |addr: IpAddr| {
        !addr.is_multicast() && !addr.is_unspecified() && !matches!(addr, IpAddr::V4(v4) if v4.is_broadcast())
    };
    is_one(parsed.src) && is_one(parsed.dst)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parse;
    use etherparse::PacketBuilder;

    fn tcp(
        write: impl FnOnce(
            etherparse::PacketBuilderStep<etherparse::TcpHeader>,
        ) -> etherparse::PacketBuilderStep<etherparse::TcpHeader>,
    ) -> Vec<u8> {
        let mut packet = Vec::new();
        let builder = PacketBuilder::ipv4([10, 0, 0, 1], [10, 0, 0, 2], 9).tcp(4000, 80, 1_000, 512);
        write(builder).write(&mut packet, b"abc").unwrap();
        packet
    }

    fn rejected(packet: &[u8]) -> Option<Vec<u8>> {
        let mut out = Vec::new();
        reject(packet, &parse(packet).unwrap(), &mut out).then_some(out)
    }

    #[test]
    fn a_syn_is_refused_as_a_closed_port_would() {
        let answer = rejected(&tcp(etherparse::PacketBuilderStep::syn)).unwrap();
        let parsed = parse(&answer).unwrap();
        let segment = parsed.tcp(&answer).unwrap();
        assert!(segment.flags.rst && segment.flags.ack);
        assert_eq!((segment.seq, segment.ack), (0, 1_004), "SYN and three bytes");
        assert_eq!((parsed.src_port, parsed.dst_port), (80, 4000));
    }

    #[test]
    fn an_established_connection_is_reset_where_it_stands() {
        let answer = rejected(&tcp(|builder| builder.ack(777))).unwrap();
        let segment = parse(&answer).unwrap().tcp(&answer).unwrap();
        assert!(segment.flags.rst && !segment.flags.ack);
        assert_eq!(segment.seq, 777);
    }

    #[test]
    fn resets_errors_and_multicast_are_not_answered() {
        assert_eq!(rejected(&tcp(etherparse::PacketBuilderStep::rst)), None);
        let mut udp = Vec::new();
        PacketBuilder::ipv4([10, 0, 0, 1], [10, 0, 0, 2], 9).udp(1, 2).write(&mut udp, b"x").unwrap();
        let error = rejected(&udp).unwrap();
        assert_eq!(parse(&error).unwrap().transport, Transport::IcmpError);
        assert_eq!(rejected(&error), None);
        let mut group = Vec::new();
        PacketBuilder::ipv4([10, 0, 0, 1], [224, 0, 0, 251], 9).udp(1, 2).write(&mut group, b"x").unwrap();
        assert_eq!(rejected(&group), None);
    }
}
