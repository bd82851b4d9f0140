//! In steady state nothing is allocated for a packet: counted by an allocator that counts. For the forwarder and the steps
//! around it, that is none at all; for lanes of network namespaces (needs root), that what they do is not more for more packets.
//! And what is kept of each peer.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod counting;
mod ends;
#[path = "../scene/mod.rs"]
#[allow(dead_code, reason = "other tests use all of it")]
mod scene;

use std::{
    io::{Read as _, Write as _},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    num::NonZeroU16,
    thread,
    time::Duration,
};

use etherparse::PacketBuilder;
use postern_dataplane::Offloads;
use postern_model::Moment;
use postern_packet::Offload;

use ends::{End, Wire, client_addr, resource, settle};
use scene::{PATIENCE, PORT, Pair};

/// What of a flow is sent again and again.
#[derive(Debug, Clone, Copy)]
enum Kind {
    /// Super-packets of TCP, with payload for so many packets of this many bytes.
    Tcp(usize, u16),
    /// The same of UDP.
    Udp(usize, u16),
    /// An acknowledgement alone.
    Ack,
    /// One byte.
    Byte,
    Echo,
}

impl Kind {
    const ALL: [Self; 6] =
        [Self::Tcp(44, 1360), Self::Tcp(100, 536), Self::Udp(40, 1300), Self::Ack, Self::Byte, Self::Echo];

    /// How many packets one of it stands for.
    fn packets(self) -> usize {
        match self {
            Self::Tcp(count, _) | Self::Udp(count, _) => count,
            Self::Ack | Self::Byte | Self::Echo => 1,
        }
    }

    fn is_tcp(self) -> bool {
        matches!(self, Self::Tcp(..) | Self::Ack)
    }

    /// A packet of it, or the first (`SYN`) one of its flow. Echoes: `is_reply` is for answers.
    fn packet(self, from: SocketAddr, to: SocketAddr, is_first: bool, is_reply: bool) -> (Vec<u8>, Offload) {
        let builder = match (from.ip(), to.ip()) {
            (IpAddr::V4(from), IpAddr::V4(to)) => PacketBuilder::ipv4(from.octets(), to.octets(), 64),
            (IpAddr::V6(from), IpAddr::V6(to)) => PacketBuilder::ipv6(from.octets(), to.octets(), 64),
            _ => panic!("one family"),
        };
        let segment = match self {
            Self::Tcp(_, segment) | Self::Udp(_, segment) if !is_first => NonZeroU16::new(segment),
            _ => None,
        };
        let payload = match self {
            Self::Byte => 1,
            Self::Echo => 56,
            _ => self.packets() * segment.map_or(0, |segment| usize::from(segment.get())),
        };
        let payload: Vec<u8> = (0..payload).map(|at| at as u8).collect();
        let mut packet = Vec::new();
        let written = match self {
            Self::Echo if from.is_ipv4() && is_reply => builder.icmpv4_echo_reply(7, 1).write(&mut packet, &payload),
            Self::Echo if from.is_ipv4() => builder.icmpv4_echo_request(7, 1).write(&mut packet, &payload),
            Self::Echo if is_reply => builder.icmpv6_echo_reply(7, 1).write(&mut packet, &payload),
            Self::Echo => builder.icmpv6_echo_request(7, 1).write(&mut packet, &payload),
            _ if self.is_tcp() => {
                let tcp = builder.tcp(from.port(), to.port(), 1000, 64_000);
                let tcp = if is_first { tcp.syn() } else { tcp.ack(2000) };
                tcp.write(&mut packet, &payload)
            }
            _ => builder.udp(from.port(), to.port()).write(&mut packet, &payload),
        };
        written.unwrap();
        (packet, Offload { is_partial: segment.is_some(), segment })
    }
}

fn now() -> Moment {
    Moment::from_boot(Duration::from_secs(1000))
}

/// Sends a packet and asserts that all of it comes out. How often that allocated.
fn carry(from: &mut End, to: &mut End, kind: Kind, (packet, offload): &(Vec<u8>, Offload), wire: &mut Wire) -> u64 {
    let before = counting::of_this_thread();
    from.depart(packet, *offload, wire, now());
    let place = from.place();
    let (packets, pieces) = to.arrive(place, wire, now());
    let count = counting::of_this_thread() - before;
    let expected = if offload.segment.is_some() { kind.packets() } else { 1 };
    assert_eq!((packets, pieces), (expected, 1), "{kind:?}");
    count
}

#[test]
fn the_forwarder_and_what_is_around_it_allocate_for_no_packet() {
    let before = counting::of_this_thread();
    let allocated = std::hint::black_box(vec![1_u8; 100]);
    assert_eq!(counting::of_this_thread() - before, 1, "it counts");
    drop(allocated);

    for target in ["10.0.0.5", "fd00:10::5"] {
        let mut client = End::client(0, now());
        let mut gateway = End::gateway(1, target.parse().unwrap(), now());
        client.hold(0, &gateway, now());
        settle(&mut client, &mut gateway, now());
        let mut wire = Wire::new();
        let (own, to) = (client_addr(0), resource());
        let families: [(IpAddr, IpAddr); 2] = [(own.v4.into(), to.v4.into()), (own.v6.into(), to.v6.into())];
        for (family, (own, to)) in families.into_iter().enumerate() {
            for (nth, kind) in (0..).zip(Kind::ALL) {
                let (own, to) = (SocketAddr::new(own, 4000 + nth), SocketAddr::new(to, ends::PORT));
                carry(&mut client, &mut gateway, kind, &kind.packet(own, to, true, false), &mut wire);
                // As the target sees it.
                let seen = gateway.last.unwrap();
                let (opener, service) = ((seen.src, seen.src_port).into(), (seen.dst, seen.dst_port).into());
                let there = kind.packet(own, to, false, false);
                let back = kind.packet(service, opener, false, true);
                // The first ones find the vectors too short.
                let mut allocated = 0;
                for round in 0..300 {
                    let count = carry(&mut client, &mut gateway, kind, &there, &mut wire)
                        + carry(&mut gateway, &mut client, kind, &back, &mut wire);
                    allocated += if round < 3 { 0 } else { count };
                }
                assert_eq!(allocated, 0, "{kind:?} of family {family} to {target}");
            }
        }
        for end in [&client, &gateway] {
            assert_eq!(end.forwarder.counters().drops().next(), None);
        }
    }
}

#[test]
fn an_idle_peer_costs_a_gateway_less_than_20_kib() {
    const PEERS: u32 = 1000;
    let before = counting::live_bytes();
    let mut gateway = End::gateway(PEERS, "10.0.0.5".parse().unwrap(), now());
    let mut bytes = counting::live_bytes() - before;
    for nth in 0..PEERS {
        // Slowly: many at once are asked for a cookie first.
        let now = now() + nth * Duration::from_millis(50);
        let mut client = End::client(nth, now);
        client.hold(nth, &gateway, now);
        let mut up = client.take_datagrams();
        while !up.is_empty() {
            let before = counting::live_bytes();
            for datagram in &up {
                gateway.take(&client, datagram, now);
            }
            bytes += counting::live_bytes() - before;
            let down = gateway.take_datagrams();
            // Made by the gateway, gone with this.
            bytes -= down.iter().map(|datagram| datagram.capacity() as i64).sum::<i64>();
            for datagram in &down {
                client.take(&gateway, datagram, now);
            }
            up = client.take_datagrams();
        }
    }
    assert_eq!(gateway.forwarder.counters().drops().next(), None);
    let connected = gateway.forwarder.peers().iter().filter(|peer| peer.stats.last_handshake.is_some()).count();
    assert_eq!(connected, PEERS as usize, "each has its session");
    let each = bytes / i64::from(PEERS);
    println!("{each} bytes for each peer");
    assert!((0..20 * 1024).contains(&each), "{each} bytes for each peer");
}

/// Sends so many megabytes each way.
fn transfer(client: &TcpStream, server: &TcpStream, megabytes: usize) {
    let send = |mut from: &TcpStream| (0..megabytes * 16).for_each(|_| from.write_all(&[7; 1 << 16]).unwrap());
    let receive = |mut to: &TcpStream| {
        let mut buffer = [0; 1 << 16];
        (0..megabytes * 16).for_each(|_| to.read_exact(&mut buffer).unwrap());
    };
    thread::scope(|scope| {
        scope.spawn(|| send(client));
        scope.spawn(|| send(server));
        scope.spawn(|| receive(client));
        receive(server);
    });
}

/// So many datagrams there and back, a few at a time.
fn exchange(client: &UdpSocket, server: &UdpSocket, count: usize) {
    let mut buffer = [0; 1500];
    for nth in 0..count {
        client.send(&[7; 1000]).unwrap();
        let (len, from) = server.recv_from(&mut buffer).unwrap();
        server.send_to(&buffer[..len], from).unwrap();
        client.recv(&mut buffer).unwrap_or_else(|error| panic!("datagram {nth}: {error}"));
    }
}

/// Packets that passed at both ends.
fn passed(pair: &Pair) -> u64 {
    let count = |node: &scene::Node| {
        let counters = node.lane.status().unwrap().counters;
        counters.in_packets + counters.out_packets
    };
    count(&pair.client) + count(&pair.gateway)
}

#[test]
fn lanes_allocate_no_more_for_more_packets() {
    let off = Offloads { tcp: false, udp: false, send: false, receive: false };
    for (lanes, offloads) in [(1, Offloads::ALL), (1, off), (2, Offloads::ALL)] {
        let mut pair = Pair::with(lanes, offloads);
        pair.target = "fd00:10::5".parse().unwrap();
        pair.grant();
        for to in [IpAddr::from(scene::resource().v4), scene::resource().v6.into()] {
            let listener = pair.gateway.netns.enter(|| TcpListener::bind((pair.target, PORT)).unwrap());
            let client = pair.client.netns.enter(|| TcpStream::connect((to, PORT)).unwrap());
            let (server, _) = listener.accept().unwrap();
            let unspecified: IpAddr = if to.is_ipv6() { [0; 16].into() } else { [0; 4].into() };
            let udp_server = pair.gateway.netns.enter(|| UdpSocket::bind((pair.target, PORT)).unwrap());
            let udp_client = pair.client.netns.enter(|| UdpSocket::bind((unspecified, 0)).unwrap());
            udp_client.connect((to, PORT)).unwrap();
            for socket in [&udp_client, &udp_server] {
                socket.set_read_timeout(Some(PATIENCE)).unwrap();
            }
            // Vectors grow to the longest batch.
            transfer(&client, &server, 16);
            exchange(&udp_client, &udp_server, 10);

            let before = passed(&pair);
            let allocated = counting::of_lanes();
            transfer(&client, &server, 16);
            exchange(&udp_client, &udp_server, 500);
            let allocated = counting::of_lanes() - allocated;
            let packets = passed(&pair) - before;
            println!("{lanes} lanes, {offloads:?}, {to}: {allocated} allocations for {packets} packets");
            assert!(packets > 50_000, "{packets}");
            // Those of timers, and of a longer batch than any before.
            assert!(allocated < 100, "{allocated} allocations for {packets} packets");
        }
    }
}
