//! The translation: which outside port belongs to which inside host, and packets of one family made into the other's. The time is
//! an argument.

use std::{
    collections::{HashMap, HashSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::{Duration, Instant},
};

use postern_packet::{Endpoints, HEADROOM, PacketBuf, Parsed, Transport, parse, rewrite, rewrite_error};

/// The well-known prefix (RFC 6052), of 96 bits.
pub(super) const PREFIX: Ipv6Addr = Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, 0, 0);
/// Mappings at a time.
const MOST: usize = 4096;
/// Remote addresses that a mapping lets in.
const MOST_REMOTES: usize = 256;

/// The address by which hosts behind NAT64 reach an IPv4 address.
pub fn through_nat64(address: Ipv4Addr) -> Ipv6Addr {
    Ipv6Addr::from_bits(PREFIX.to_bits() | u128::from(address.to_bits()))
}

/// The IPv4 address that such an address means.
fn embedded(address: IpAddr) -> Option<Ipv4Addr> {
    let IpAddr::V6(address) = address else { return None };
    let is_ours = address.to_bits() >> 32 == PREFIX.to_bits() >> 32;
    is_ours.then(|| Ipv4Addr::from_bits(address.to_bits() as u32))
}

/// What has ports of its own. An echo's identifier is its port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Protocol {
    Tcp,
    Udp,
    Echo,
}

impl Protocol {
    fn of(transport: Transport) -> Option<Self> {
        match transport {
            Transport::Tcp => Some(Self::Tcp),
            Transport::Udp => Some(Self::Udp),
            Transport::EchoRequest | Transport::EchoReply => Some(Self::Echo),
            Transport::IcmpError | Transport::Other(_) => None,
        }
    }

    /// How long a mapping lives without traffic; for TCP as long as RFC 6146 has it for established connections.
    fn lifetime(self) -> Duration {
        match self {
            Self::Tcp => Duration::from_secs(7200),
            Self::Udp => Duration::from_secs(120),
            Self::Echo => Duration::from_secs(60),
        }
    }
}

/// Whom a mapping belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Inside {
    protocol: Protocol,
    address: Ipv6Addr,
    port: u16,
}

#[derive(Debug)]
struct Mapping {
    port: u16,
    used: Instant,
    /// Who was sent something, and may answer from any port.
    remotes: HashSet<Ipv4Addr>,
}

/// The translation's state.
#[derive(Debug)]
pub(super) struct Translator {
    pool: Ipv4Addr,
    mappings: HashMap<Inside, Mapping>,
    ports: HashMap<(Protocol, u16), Inside>,
}

impl Translator {
    pub(super) fn new(pool: Ipv4Addr) -> Self {
        Self { pool, mappings: HashMap::new(), ports: HashMap::new() }
    }

    pub(super) fn forget(&mut self) {
        self.mappings.clear();
        self.ports.clear();
    }

    /// The packet in the other family, or `None` if it is dropped.
    pub(super) fn translate(&mut self, now: Instant, packet: &[u8]) -> Option<Vec<u8>> {
        let parsed = parse(packet).ok()?;
        let goes_out = parsed.is_v6();
        if parsed.transport == Transport::IcmpError {
            return if goes_out { self.error_out(packet, &parsed) } else { self.error_in(packet, &parsed) };
        }
        let to = if goes_out { self.out(now, &parsed)? } else { self.back(now, &parsed)? };
        let mut buffer = [&[0; HEADROOM], packet].concat();
        let mut packet = PacketBuf::new(&mut buffer, HEADROOM)?;
        rewrite(&mut packet, &parsed, &to).ok()?;
        Some(packet.bytes().to_vec())
    }

    fn out(&mut self, now: Instant, parsed: &Parsed) -> Option<Endpoints> {
        let IpAddr::V6(address) = parsed.src else { return None };
        let (protocol, remote) = (Protocol::of(parsed.transport)?, embedded(parsed.dst)?);
        if parsed.transport == Transport::EchoReply {
            return None;
        }
        let inside = Inside { protocol, address, port: parsed.src_port };
        let port = match self.mappings.get(&inside).filter(|mapping| is_alive(protocol, mapping, now)) {
            Some(mapping) => mapping.port,
            None => self.map(now, inside)?,
        };
        let mapping = self.mappings.get_mut(&inside)?;
        mapping.used = now;
        if mapping.remotes.len() < MOST_REMOTES {
            mapping.remotes.insert(remote);
        }
        let dst_port = if protocol == Protocol::Echo { port } else { parsed.dst_port };
        Some(Endpoints { src: self.pool.into(), dst: remote.into(), src_port: port, dst_port })
    }

    /// A new mapping: to the same port if it is free, or else to the next one that is.
    fn map(&mut self, now: Instant, inside: Inside) -> Option<u16> {
        self.mappings.retain(|inside, mapping| is_alive(inside.protocol, mapping, now));
        self.ports.retain(|_, inside| self.mappings.contains_key(inside));
        if self.mappings.len() >= MOST {
            return None;
        }
        let is_free = |port: &u16| *port >= 1024 && !self.ports.contains_key(&(inside.protocol, *port));
        let port = (0..=u16::MAX).map(|step| inside.port.wrapping_add(step)).find(is_free)?;
        self.ports.insert((inside.protocol, port), inside);
        self.mappings.insert(inside, Mapping { port, used: now, remotes: HashSet::new() });
        Some(port)
    }

    fn back(&mut self, now: Instant, parsed: &Parsed) -> Option<Endpoints> {
        let IpAddr::V4(remote) = parsed.src else { return None };
        let protocol = Protocol::of(parsed.transport)?;
        if parsed.dst != IpAddr::V4(self.pool) || parsed.transport == Transport::EchoRequest {
            return None;
        }
        let inside = *self.ports.get(&(protocol, parsed.dst_port))?;
        let mapping = self.mappings.get(&inside)?;
        if !is_alive(protocol, mapping, now) || !mapping.remotes.contains(&remote) {
            return None;
        }
        let src_port = if protocol == Protocol::Echo { inside.port } else { parsed.src_port };
        Some(Endpoints {
            src: through_nat64(remote).into(),
            dst: inside.address.into(),
            src_port,
            dst_port: inside.port,
        })
    }

    /// An error about what was sent in, for who sent it: the inside host's own, or one of a router on the way to it.
    fn error_out(&self, packet: &[u8], parsed: &Parsed) -> Option<Vec<u8>> {
        let quoted = parsed.quoted(packet)?;
        let about = &quoted.packet;
        let (IpAddr::V6(address), protocol) = (about.dst, Protocol::of(about.transport)?) else { return None };
        let (receiver, remote) = (embedded(parsed.dst)?, embedded(about.src)?);
        let mapping = self.mappings.get(&Inside { protocol, address, port: about.dst_port })?;
        let src_port = if protocol == Protocol::Echo { mapping.port } else { about.src_port };
        let pool = IpAddr::from(self.pool);
        let inner = Endpoints { src: remote.into(), dst: pool, src_port, dst_port: mapping.port };
        rewritten(packet, parsed, (pool, receiver.into()), &inner)
    }

    /// An error about what was sent out.
    fn error_in(&self, packet: &[u8], parsed: &Parsed) -> Option<Vec<u8>> {
        let quoted = parsed.quoted(packet)?;
        let about = &quoted.packet;
        let (IpAddr::V4(reporter), IpAddr::V4(remote)) = (parsed.src, about.dst) else { return None };
        if about.src != IpAddr::V4(self.pool) || parsed.dst != IpAddr::V4(self.pool) {
            return None;
        }
        let protocol = Protocol::of(about.transport)?;
        let inside = *self.ports.get(&(protocol, about.src_port))?;
        let dst_port = if protocol == Protocol::Echo { inside.port } else { about.dst_port };
        let (host, dst) = (IpAddr::from(inside.address), through_nat64(remote).into());
        let inner = Endpoints { src: host, dst, src_port: inside.port, dst_port };
        rewritten(packet, parsed, (through_nat64(reporter).into(), host), &inner)
    }
}

fn is_alive(protocol: Protocol, mapping: &Mapping, now: Instant) -> bool {
    now.saturating_duration_since(mapping.used) < protocol.lifetime()
}

fn rewritten(packet: &[u8], parsed: &Parsed, outer: (IpAddr, IpAddr), inner: &Endpoints) -> Option<Vec<u8>> {
    let mut scratch = Vec::new();
    rewrite_error(packet, parsed, &parsed.quoted(packet)?, outer, inner, &mut scratch).ok()?;
    Some(scratch)
}

#[cfg(test)]
mod tests {
    use etherparse::PacketBuilder;

    use super::*;
    use crate::wait;

    const POOL: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 64);
    const ONE: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 11);
    const TWO: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 12);
    const HOST: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0x64, 0, 0, 0, 0, 2);
    const BESIDE: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0x64, 0, 0, 0, 0, 3);

    fn udp6(src: Ipv6Addr, dst: Ipv4Addr, port: u16) -> Vec<u8> {
        let mut packet = Vec::new();
        let builder = PacketBuilder::ipv6(src.octets(), through_nat64(dst).octets(), 64).udp(port, 7000);
        builder.write(&mut packet, b"ping").unwrap();
        packet
    }

    fn udp4(src: Ipv4Addr, src_port: u16, port: u16) -> Vec<u8> {
        let mut packet = Vec::new();
        PacketBuilder::ipv4(src.octets(), POOL.octets(), 64).udp(src_port, port).write(&mut packet, b"pong").unwrap();
        packet
    }

    #[test]
    fn a_flow_goes_out_and_back_and_nobody_else_gets_in() {
        let (mut nat, now) = (Translator::new(POOL), wait::now());
        assert!(nat.translate(now, &udp4(ONE, 7000, 5000)).is_none(), "nothing was sent");
        let out = parse(&nat.translate(now, &udp6(HOST, ONE, 5000)).unwrap()).unwrap();
        assert_eq!((out.src, out.dst), (POOL.into(), ONE.into()));
        assert_eq!((out.src_port, out.dst_port), (5000, 7000));
        for port in [7000, 7001] {
            let back = parse(&nat.translate(now, &udp4(ONE, port, 5000)).unwrap()).unwrap();
            assert_eq!((back.src, back.dst), (through_nat64(ONE).into(), HOST.into()));
            assert_eq!((back.src_port, back.dst_port), (port, 5000));
        }
        assert!(nat.translate(now, &udp4(TWO, 7000, 5000)).is_none());
        assert!(nat.translate(now, &udp4(ONE, 7000, 5001)).is_none());
        // One mapping for all destinations, and another one for another host.
        let out = parse(&nat.translate(now, &udp6(HOST, TWO, 5000)).unwrap()).unwrap();
        assert_eq!(out.src_port, 5000);
        let out = parse(&nat.translate(now, &udp6(BESIDE, ONE, 5000)).unwrap()).unwrap();
        assert_eq!(out.src_port, 5001);
        let back = parse(&nat.translate(now, &udp4(ONE, 7000, 5001)).unwrap()).unwrap();
        assert_eq!((back.dst, back.dst_port), (BESIDE.into(), 5000));
    }

    #[test]
    fn mappings_end_and_are_bounded() {
        let (mut nat, now) = (Translator::new(POOL), wait::now());
        nat.translate(now, &udp6(HOST, ONE, 5000)).unwrap();
        assert!(nat.translate(now + Duration::from_secs(119), &udp4(ONE, 7000, 5000)).is_some());
        assert!(nat.translate(now + Duration::from_secs(120), &udp4(ONE, 7000, 5000)).is_none());
        nat.translate(now, &udp6(HOST, ONE, 5000)).unwrap();
        nat.forget();
        assert!(nat.translate(now, &udp4(ONE, 7000, 5000)).is_none());
        let passed = (0..MOST + 10).filter(|i| nat.translate(now, &udp6(HOST, ONE, 2000 + *i as u16)).is_some());
        assert_eq!(passed.count(), MOST);
    }

    #[test]
    fn errors_come_to_whom_they_concern() {
        let (mut nat, now) = (Translator::new(POOL), wait::now());
        let sent = nat.translate(now, &udp6(HOST, ONE, 5000)).unwrap();
        let mut error = Vec::new();
        let unreachable =
            etherparse::Icmpv4Type::DestinationUnreachable(etherparse::icmpv4::DestUnreachableHeader::Port);
        PacketBuilder::ipv4(ONE.octets(), POOL.octets(), 64).icmpv4(unreachable).write(&mut error, &sent).unwrap();
        let translated = nat.translate(now, &error).unwrap();
        let parsed = parse(&translated).unwrap();
        assert_eq!((parsed.src, parsed.dst), (through_nat64(ONE).into(), HOST.into()));
        let about = parsed.quoted(&translated).unwrap().packet;
        assert_eq!((about.src, about.src_port, about.dst_port), (HOST.into(), 5000, 7000));
        nat.forget();
        assert!(nat.translate(now, &error).is_none(), "about nothing that was sent");
    }

    #[test]
    fn what_is_not_for_it_is_dropped() {
        let (mut nat, now) = (Translator::new(POOL), wait::now());
        let mut elsewhere = Vec::new();
        PacketBuilder::ipv6(HOST.octets(), BESIDE.octets(), 64).udp(1, 2).write(&mut elsewhere, b"").unwrap();
        assert!(nat.translate(now, &elsewhere).is_none());
        assert!(nat.translate(now, b"no packet").is_none());
        assert!(nat.translate(now, b"").is_none());
    }
}
