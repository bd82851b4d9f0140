//! One parse into a five-tuple.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::{
    Transport, icmp,
    tcp::TcpSegment,
    transport::{ICMP, ICMPV6, TCP, UDP},
};

/// Why bytes are not a packet that can be spoken of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// Not an IP packet, or cut, or with lengths that contradict each other, or on its way to somewhere else (source routing).
    #[error("malformed packet")]
    Malformed,
    /// A fragment: the ports are elsewhere, or could be.
    #[error("fragment")]
    Fragment,
}

/// Where everything is in a packet that held up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parsed {
    /// The source address.
    pub src: IpAddr,
    /// The destination address.
    pub dst: IpAddr,
    /// What it carries.
    pub transport: Transport,
    /// The source port, or an echo's identifier; 0 where there is none.
    pub src_port: u16,
    /// The destination port, or an echo's identifier; 0 where there is none.
    pub dst_port: u16,
    /// Where the transport header begins, after IP options and extension headers.
    pub offset: usize,
    /// Where the packet ends; the buffer may be longer. Of a packet whose beginning alone is at hand, where it would end.
    pub len: usize,
}

/// The packet that an ICMP error speaks of, as far as it is quoted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quoted {
    /// The quoted packet; its `len` is what is there, not what was.
    pub packet: Parsed,
    /// Where it begins in the whole packet.
    pub at: usize,
}

/// Options of IPv4 (RFC 791) of which one byte is all.
const END_OF_OPTIONS: u8 = 0;
const NO_OPERATION: u8 = 1;
/// Those that name further hops, loosely and strictly: where such a packet goes is not where its header says.
const SOURCE_ROUTES: [u8; 2] = [131, 137];

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const DESTINATION: u8 = 60;

/// Parses a packet as it comes from TUN or out of a tunnel.
///
/// # Errors
/// [`ParseError::Fragment`] for every fragment, the first too; [`ParseError::Malformed`] for everything else that is off.
pub fn parse(packet: &[u8]) -> Result<Parsed, ParseError> {
    parse_as(packet, Whole::Yes)
}

impl Parsed {
    /// Whether it is IPv6.
    pub fn is_v6(&self) -> bool {
        self.dst.is_ipv6()
    }

    /// The TCP header, if it is TCP. Of the packet only the headers need be there; the payload is counted by `len`.
    pub fn tcp(&self, packet: &[u8]) -> Option<TcpSegment> {
        if self.transport != Transport::Tcp {
            return None;
        }
        let segment = TcpSegment::read(packet.get(self.offset..self.len.min(packet.len()))?)?;
        let payload = self.len.checked_sub(self.offset + segment.header)?;
        Some(TcpSegment { payload: u32::try_from(payload).ok()?, ..segment })
    }

    /// The packet that an ICMP error speaks of.
    pub fn quoted(&self, packet: &[u8]) -> Option<Quoted> {
        let at = self.offset + icmp::HEADER;
        if self.transport != Transport::IcmpError {
            return None;
        }
        let quoted = parse_as(packet.get(at..self.len)?, Whole::No).ok()?;
        (quoted.is_v6() == self.is_v6()).then_some(Quoted { packet: quoted, at })
    }
}

/// Whether the whole packet must be there, or its beginning is enough (inside an ICMP error).
#[derive(Clone, Copy, PartialEq, Eq)]
enum Whole {
    Yes,
    No,
}

fn parse_as(packet: &[u8], whole: Whole) -> Result<Parsed, ParseError> {
    match packet.first().ok_or(ParseError::Malformed)? >> 4 {
        4 => parse_v4(packet, whole),
        6 => parse_v6(packet, whole),
        _ => Err(ParseError::Malformed),
    }
}

fn parse_v4(packet: &[u8], whole: Whole) -> Result<Parsed, ParseError> {
    let header: &[u8; 20] = packet.first_chunk().ok_or(ParseError::Malformed)?;
    let offset = usize::from(header[0] & 0x0f) * 4;
    let total = usize::from(u16::from_be_bytes([header[2], header[3]]));
    let len = end(packet, total, whole)?;
    if offset < 20 || offset > len {
        return Err(ParseError::Malformed);
    }
    check_options(&packet[20..offset])?;
    // More fragments, or an offset.
    if u16::from_be_bytes([header[6], header[7]]) & 0x3fff != 0 {
        return Err(ParseError::Fragment);
    }
    let [src, dst] = [12, 16].map(|at| Ipv4Addr::from(*packet[at..].first_chunk::<4>().expect("within the header")));
    let parsed = Parsed {
        src: src.into(),
        dst: dst.into(),
        transport: Transport::Other(header[9]),
        src_port: 0,
        dst_port: 0,
        offset,
        len,
    };
    // ICMPv6 over IPv4 is nothing.
    let protocol = if header[9] == ICMPV6 { u8::MAX } else { header[9] };
    parse_transport(parsed, protocol, packet, whole)
}

/// Holds that the options of an IPv4 header are whole, and leave its destination the only one.
fn check_options(mut options: &[u8]) -> Result<(), ParseError> {
    while let [kind, rest @ ..] = options {
        options = match *kind {
            END_OF_OPTIONS => return Ok(()),
            NO_OPERATION => rest,
            kind if SOURCE_ROUTES.contains(&kind) => return Err(ParseError::Malformed),
            _ => {
                let len = usize::from(*rest.first().ok_or(ParseError::Malformed)?);
                if len < 2 {
                    return Err(ParseError::Malformed);
                }
                options.get(len..).ok_or(ParseError::Malformed)?
            }
        };
    }
    Ok(())
}

fn parse_v6(packet: &[u8], whole: Whole) -> Result<Parsed, ParseError> {
    let header: &[u8; 40] = packet.first_chunk().ok_or(ParseError::Malformed)?;
    let payload = usize::from(u16::from_be_bytes([header[4], header[5]]));
    let len = end(packet, 40 + payload, whole)?;
    let [src, dst] = [8, 24].map(|at| Ipv6Addr::from(*packet[at..].first_chunk::<16>().expect("within the header")));
    let (mut next, mut offset) = (header[6], 40);
    // Each header is at least 8 bytes, so the walk ends with the packet.
    while matches!(next, HOP_BY_HOP | ROUTING | DESTINATION) {
        let extension =
            packet.get(offset..len).and_then(|rest| rest.first_chunk::<8>()).ok_or(ParseError::Malformed)?;
        // With segments left to go, the destination is only the next of several (RFC 8200 section 4.4).
        if next == ROUTING && extension[3] != 0 {
            return Err(ParseError::Malformed);
        }
        next = extension[0];
        offset += 8 + usize::from(extension[1]) * 8;
        if offset > len {
            return Err(ParseError::Malformed);
        }
    }
    if next == FRAGMENT {
        return Err(ParseError::Fragment);
    }
    let parsed = Parsed {
        src: src.into(),
        dst: dst.into(),
        transport: Transport::Other(next),
        src_port: 0,
        dst_port: 0,
        offset,
        len,
    };
    let protocol = if next == ICMP { u8::MAX } else { next };
    parse_transport(parsed, protocol, packet, whole)
}

/// Where the packet ends.
fn end(packet: &[u8], total: usize, whole: Whole) -> Result<usize, ParseError> {
    match whole {
        Whole::Yes if total > packet.len() => Err(ParseError::Malformed),
        _ => Ok(total.min(packet.len())),
    }
}

fn parse_transport(mut parsed: Parsed, protocol: u8, packet: &[u8], whole: Whole) -> Result<Parsed, ParseError> {
    let body = &packet[parsed.offset..parsed.len];
    let port = |at: usize| {
        body.get(at..).and_then(|b| b.first_chunk()).map(|b| u16::from_be_bytes(*b)).ok_or(ParseError::Malformed)
    };
    match protocol {
        TCP | UDP => {
            parsed.transport = if protocol == TCP { Transport::Tcp } else { Transport::Udp };
            (parsed.src_port, parsed.dst_port) = (port(0)?, port(2)?);
            let intact = match protocol {
                TCP => TcpSegment::read(body).is_some(),
                _ => (8..=body.len()).contains(&usize::from(port(4)?)),
            };
            if whole == Whole::Yes && !intact {
                return Err(ParseError::Malformed);
            }
        }
        ICMP | ICMPV6 => {
            parsed.transport = icmp::transport(protocol, body).ok_or(ParseError::Malformed)?;
            if matches!(parsed.transport, Transport::EchoRequest | Transport::EchoReply) {
                (parsed.src_port, parsed.dst_port) = (port(4)?, port(4)?);
            }
        }
        _ => {}
    }
    Ok(parsed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use etherparse::PacketBuilder;
    use proptest::prelude::*;

    fn build(write: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
        let mut packet = Vec::new();
        write(&mut packet);
        packet
    }

    fn udp6(payload: &[u8]) -> Vec<u8> {
        build(|p| PacketBuilder::ipv6([1; 16], [2; 16], 9).udp(53, 80).write(p, payload).unwrap())
    }

    /// Puts an extension header behind the IPv6 header.
    fn extended(packet: &[u8], kind: u8, body: [u8; 7]) -> Vec<u8> {
        let mut out = packet[..40].to_vec();
        out.push(packet[6]);
        out.extend(body);
        out.extend(&packet[40..]);
        out[6] = kind;
        let payload = u16::try_from(out.len() - 40).unwrap();
        out[4..6].copy_from_slice(&payload.to_be_bytes());
        out
    }

    #[test]
    fn five_tuples_of_both_families() {
        let tcp = build(|p| {
            PacketBuilder::ipv4([10, 0, 0, 1], [10, 0, 0, 2], 9).tcp(4000, 80, 7, 9).write(p, b"hello").unwrap()
        });
        let parsed = parse(&tcp).unwrap();
        assert_eq!((parsed.transport, parsed.src_port, parsed.dst_port), (Transport::Tcp, 4000, 80));
        assert_eq!((parsed.src, parsed.dst), (Ipv4Addr::new(10, 0, 0, 1).into(), Ipv4Addr::new(10, 0, 0, 2).into()));
        let parsed = parse(&udp6(b"x")).unwrap();
        assert_eq!((parsed.transport, parsed.src_port, parsed.dst_port, parsed.offset), (Transport::Udp, 53, 80, 40));
        let echo = build(|p| PacketBuilder::ipv4([1; 4], [2; 4], 9).icmpv4_echo_request(77, 1).write(p, b"").unwrap());
        let parsed = parse(&echo).unwrap();
        assert_eq!((parsed.transport, parsed.src_port), (Transport::EchoRequest, 77));
    }

    /// Invariant: IPv6 extension headers and fragments can't smuggle a port.
    #[test]
    fn extension_headers_are_walked_and_fragments_refused() {
        let plain = udp6(b"x");
        let parsed = parse(&extended(&plain, DESTINATION, [0; 7])).unwrap();
        assert_eq!((parsed.transport, parsed.dst_port, parsed.offset), (Transport::Udp, 80, 48));
        assert_eq!(parse(&extended(&plain, FRAGMENT, [0; 7])), Err(ParseError::Fragment));
        let twice = extended(&extended(&plain, FRAGMENT, [0; 7]), HOP_BY_HOP, [0; 7]);
        assert_eq!(parse(&twice), Err(ParseError::Fragment));
        let too_long = extended(&plain, DESTINATION, [200, 0, 0, 0, 0, 0, 0]);
        assert_eq!(parse(&too_long), Err(ParseError::Malformed));
        let unknown = parse(&extended(&plain, 51, [0; 7])).unwrap();
        assert_eq!((unknown.transport, unknown.dst_port), (Transport::Other(51), 0));
    }

    /// Puts options, padded to 4 bytes, behind the IPv4 header.
    fn with_options(packet: &[u8], options: &[u8]) -> Vec<u8> {
        let mut options = options.to_vec();
        options.resize(options.len().next_multiple_of(4), END_OF_OPTIONS);
        let mut out = [&packet[..20], &options, &packet[20..]].concat();
        out[0] += u8::try_from(options.len() / 4).unwrap();
        let total = u16::try_from(out.len()).unwrap();
        out[2..4].copy_from_slice(&total.to_be_bytes());
        out
    }

    /// Invariant: the destination that a grant is looked up for is where the packet ends.
    #[test]
    fn source_routes_are_malformed() {
        let plain = build(|p| PacketBuilder::ipv4([1; 4], [2; 4], 9).udp(1, 2).write(p, b"x").unwrap());
        for kind in SOURCE_ROUTES {
            let route = [kind, 7, 4, 10, 0, 0, 9];
            assert_eq!(parse(&with_options(&plain, &route)), Err(ParseError::Malformed));
            let behind_others = [&[NO_OPERATION, 7, 7, 4, 0, 0, 0, 0][..], &route].concat();
            assert_eq!(parse(&with_options(&plain, &behind_others)), Err(ParseError::Malformed));
        }
        let router_alert = parse(&with_options(&plain, &[148, 4, 0, 0])).unwrap();
        assert_eq!((router_alert.dst_port, router_alert.offset), (2, 24));
        let after_the_end = with_options(&plain, &[END_OF_OPTIONS, 131, 3, 4]);
        assert!(parse(&after_the_end).is_ok(), "padding is no option");
        for broken in [[148, 0, 0, 0], [148, 1, 0, 0], [148, 5, 0, 0], [1, 1, 1, 148]] {
            assert_eq!(parse(&with_options(&plain, &broken)), Err(ParseError::Malformed), "{broken:?}");
        }

        let plain = udp6(b"x");
        assert_eq!(parse(&extended(&plain, ROUTING, [0, 0, 1, 0, 0, 0, 0])), Err(ParseError::Malformed));
        assert_eq!(parse(&extended(&plain, ROUTING, [0, 4, 255, 0, 0, 0, 0])), Err(ParseError::Malformed));
        let arrived = parse(&extended(&plain, ROUTING, [0, 0, 0, 0, 0, 0, 0])).unwrap();
        assert_eq!((arrived.dst_port, arrived.offset), (80, 48));
    }

    #[test]
    fn ipv4_fragments_are_refused_the_first_too() {
        let mut packet = build(|p| PacketBuilder::ipv4([1; 4], [2; 4], 9).udp(1, 2).write(p, b"x").unwrap());
        for (high, low) in [(0x20, 0), (0, 1), (0x3f, 0xff)] {
            (packet[6], packet[7]) = (high, low);
            assert_eq!(parse(&packet), Err(ParseError::Fragment));
        }
        (packet[6], packet[7]) = (0x40, 0);
        assert!(parse(&packet).is_ok(), "don't-fragment is no fragment");
    }

    #[test]
    fn a_segment_is_as_long_as_the_packet_when_only_its_headers_are_there() {
        let tcp = build(|p| PacketBuilder::ipv4([1; 4], [2; 4], 9).tcp(1, 2, 7, 9).write(p, &[0; 100]).unwrap());
        let whole = parse(&tcp).unwrap();
        assert_eq!(whole.tcp(&tcp[..40]), whole.tcp(&tcp));
        assert_eq!(whole.tcp(&tcp[..39]), None);
        let longer = Parsed { len: 40 + 5_000, ..whole };
        assert_eq!(longer.tcp(&tcp).unwrap().end(), 5_007);
        let cut = Parsed { len: 30, ..whole };
        assert_eq!(cut.tcp(&tcp), None);
    }

    #[test]
    fn lengths_that_lie_are_malformed() {
        let packet = udp6(b"hello");
        assert_eq!(parse(&packet[..packet.len() - 1]), Err(ParseError::Malformed));
        let mut longer = packet.clone();
        longer.extend([0; 10]);
        assert_eq!(parse(&longer).unwrap().len, packet.len(), "the buffer may be longer than the packet");
        let mut short = packet;
        (short[44], short[45]) = (0, 7);
        assert_eq!(parse(&short), Err(ParseError::Malformed), "a UDP length below its header");
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), version in prop::sample::select(vec![0x45u8, 0x60, 0x4f, 0x00])) {
            let mut bytes = bytes;
            if let Some(first) = bytes.first_mut() {
                *first = version;
            }
            if let Ok(parsed) = parse(&bytes) {
                prop_assert!(parsed.offset <= parsed.len && parsed.len <= bytes.len());
                let _ = parsed.tcp(&bytes);
                let _ = parsed.quoted(&bytes);
            }
        }
    }
}
