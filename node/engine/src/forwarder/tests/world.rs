//! Nodes with a forwarder each, on one in-memory network.

use std::{
    collections::VecDeque,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use postern_model::{
    DeviceId, Filter, GrantId, Moment, NetworkRanges, OverlayAddr, PortRange, PortSet, PresharedKey, PublicKey,
    ResourceId, SecretBytes,
};
use postern_wireguard::PrivateKey;

use super::packets::{seen, tcp};
use crate::{
    CarriedGrant, DropReason, Endpoint, Forwarder, ForwarderSink, ForwardingTable, Generation, HeldGrant, Miss, Peer,
    Visible,
};

/// Which node.
pub(super) type At = usize;
pub(super) const CLIENT: At = 0;
pub(super) const GATEWAY: At = 1;
/// Another client of the gateway.
pub(super) const OTHER: At = 2;
/// A node that nobody knows.
pub(super) const STRANGER: At = 3;

pub(super) const TARGET_V4: &str = "10.0.0.5";
pub(super) const TARGET_V6: &str = "fd00:10::5";
/// How long grants last.
pub(super) const LEASE: Duration = Duration::from_secs(600);

pub(super) fn ranges() -> NetworkRanges {
    NetworkRanges::from_random([1, 2, 3, 4, 5])
}

pub(super) fn device(at: At) -> OverlayAddr {
    ranges().device(300 + u32::try_from(at).unwrap()).unwrap()
}

pub(super) fn resource(number: u8) -> OverlayAddr {
    ranges().resource(300 + u32::from(number)).unwrap()
}

pub(super) fn private(at: u8) -> PrivateKey {
    PrivateKey::from_bytes(&SecretBytes::new([at + 1; 32]))
}

pub(super) fn to(addr: impl Into<IpAddr>, port: u16) -> SocketAddr {
    (addr.into(), port).into()
}

/// TCP 80 and 443, UDP 53, and echoes.
pub(super) fn filter() -> Filter {
    let ports =
        |ports: &[u16]| PortSet::from_ranges(ports.iter().map(|port| PortRange::new(*port, *port).unwrap()).collect());
    Filter { tcp: ports(&[80, 443]), udp: ports(&[53]), icmp: true }
}

/// What came out of a forwarder.
#[derive(Default)]
pub(super) struct Out {
    pub(super) datagrams: VecDeque<(Endpoint, Vec<u8>)>,
    pub(super) stuns: Vec<(SocketAddr, Vec<u8>)>,
    packets: Vec<Vec<u8>>,
    pub(super) misses: Vec<Miss>,
    /// The longest datagram that passes without being fragmented; any, if not told.
    pub(super) width: Option<usize>,
}

impl ForwarderSink for Out {
    fn send_datagram(&mut self, to: Endpoint, datagram: &[u8]) {
        self.datagrams.push_back((to, datagram.to_vec()));
    }

    fn send_probe(&mut self, to: Endpoint, datagram: &[u8]) {
        if self.width.is_none_or(|width| datagram.len() <= width) {
            self.send_datagram(to, datagram);
        }
    }

    fn send_packet(&mut self, packet: &[u8]) {
        self.packets.push(packet.to_vec());
    }

    fn miss(&mut self, miss: Miss) {
        self.misses.push(miss);
    }

    fn stun(&mut self, from: SocketAddr, datagram: &[u8]) {
        self.stuns.push((from, datagram.to_vec()));
    }
}

impl Out {
    /// What was written to TUN since this was asked last.
    pub(super) fn take_packets(&mut self) -> Vec<Vec<u8>> {
        std::mem::take(&mut self.packets)
    }
}

pub(super) struct Node {
    pub(super) forwarder: Forwarder,
    pub(super) outside: SocketAddr,
    pub(super) out: Out,
    pub(super) key: PublicKey,
    generation: u64,
}

/// All nodes, and the time.
pub(super) struct World {
    pub(super) nodes: Vec<Node>,
    pub(super) now: Moment,
    /// Every datagram that was delivered: from, to, bytes.
    pub(super) wire: Vec<(SocketAddr, SocketAddr, Vec<u8>)>,
}

impl World {
    /// Nobody has a table.
    pub(super) fn new() -> Self {
        let now = Moment::from_boot(Duration::from_secs(1000));
        let node = |at: u8| {
            let key = private(at);
            Node {
                key: key.public(),
                forwarder: Forwarder::new(key, now),
                outside: ([192, 0, 2, at + 1], 51820).into(),
                out: Out::default(),
                generation: 0,
            }
        };
        Self { nodes: (0..4).map(node).collect(), now, wire: vec![] }
    }

    /// [`CLIENT`] holds a grant for resource 0, whose target is [`TARGET_V4`], and [`GATEWAY`] carries it.
    pub(super) fn granted() -> Self {
        let mut world = Self::new();
        let (carried, held) = (world.carry(CLIENT, 0, TARGET_V4), world.hold(0));
        world.gateway(&[carried]);
        world.client(&[held]);
        world
    }

    /// A grant as the gateway carries it.
    pub(super) fn carry(&self, client: At, number: u8, target: &str) -> CarriedGrant {
        CarriedGrant {
            grant: GrantId::from_bytes([number; 16]),
            client: DeviceId::from_bytes([u8::try_from(client).unwrap(); 16]),
            client_addr: device(client),
            peer: self.nodes[client].key,
            resource: ResourceId::from_bytes([number; 16]),
            resource_addr: resource(number),
            targets: vec![target.parse().unwrap()],
            filter: filter(),
            expires: self.now + LEASE,
            queried: None,
        }
    }

    /// A grant as a client holds it.
    pub(super) fn hold(&self, number: u8) -> HeldGrant {
        HeldGrant {
            grant: GrantId::from_bytes([number; 16]),
            resource: ResourceId::from_bytes([number; 16]),
            addr: resource(number),
            peer: self.nodes[GATEWAY].key,
            filter: filter(),
            expires: self.now + LEASE,
        }
    }

    /// Publishes what the gateway carries.
    pub(super) fn gateway(&mut self, grants: &[CarriedGrant]) {
        self.gateway_that_knows(grants, &[], false);
    }

    /// The same, with where clients may be, and whether the gateway calls them.
    pub(super) fn gateway_that_knows(&mut self, grants: &[CarriedGrant], candidates: &[SocketAddr], calls: bool) {
        let mut table = self.next_table(GATEWAY);
        for grant in grants {
            let grant = Arc::new(grant.clone());
            let (client, resource) = (grant.client_addr, grant.resource_addr);
            table.carried.insert((client.v4.into(), resource.v4.into()), Arc::clone(&grant));
            table.carried.insert((client.v6.into(), resource.v6.into()), Arc::clone(&grant));
            let known = peer(grant.peer, candidates.to_vec(), false);
            table.peers.insert(grant.peer, Arc::new(Peer { initiate: calls, ..(*known).clone() }));
        }
        self.publish(GATEWAY, table);
    }

    /// Publishes what [`CLIENT`] holds. Its catalogue has the resources 0 to 3.
    pub(super) fn client(&mut self, grants: &[HeldGrant]) {
        let table = self.client_table(CLIENT, grants);
        self.publish(CLIENT, table);
    }

    pub(super) fn client_table(&mut self, at: At, grants: &[HeldGrant]) -> ForwardingTable {
        let mut table = self.next_table(at);
        for number in 0..4 {
            let (resource, addr) = (ResourceId::from_bytes([number; 16]), resource(number));
            let visible = Arc::new(Visible { resource, addr, filter: filter() });
            table.catalogue.insert(addr.v4.into(), Arc::clone(&visible));
            table.catalogue.insert(addr.v6.into(), visible);
        }
        for grant in grants {
            let grant = Arc::new(grant.clone());
            table.held.insert(grant.addr.v4.into(), Arc::clone(&grant));
            table.held.insert(grant.addr.v6.into(), Arc::clone(&grant));
            let candidates = vec![self.nodes[GATEWAY].outside];
            table.peers.insert(grant.peer, peer(grant.peer, candidates, true));
        }
        table
    }

    fn next_table(&mut self, at: At) -> ForwardingTable {
        self.nodes[at].generation += 1;
        ForwardingTable::empty(Generation(self.nodes[at].generation), device(at), ranges())
    }

    /// The node's process ends, and another begins, without a table.
    pub(super) fn restart(&mut self, at: At) {
        self.nodes[at].forwarder = self.process(at);
    }

    /// Another process of the same node.
    pub(super) fn process(&self, at: At) -> Forwarder {
        Forwarder::new(private(u8::try_from(at).unwrap()), self.now)
    }

    pub(super) fn publish(&mut self, at: At, table: ForwardingTable) {
        let Node { forwarder, out, .. } = &mut self.nodes[at];
        forwarder.handle_table(Arc::new(table), out, self.now);
        self.deliver();
    }

    /// A packet from a node's TUN device, and all that follows from it.
    pub(super) fn send(&mut self, at: At, packet: impl AsRef<[u8]>) {
        let Node { forwarder, out, .. } = &mut self.nodes[at];
        forwarder.handle_packet(packet.as_ref(), out, self.now);
        self.deliver();
    }

    /// A datagram from anywhere, and all that follows from it.
    pub(super) fn datagram(&mut self, at: At, from: SocketAddr, datagram: &[u8]) {
        let Node { forwarder, out, .. } = &mut self.nodes[at];
        forwarder.handle_datagram(from.into(), datagram, out, self.now);
        self.deliver();
    }

    /// Lets time go by, with every timer on its time.
    pub(super) fn pass(&mut self, duration: Duration) {
        let end = self.now + duration;
        while let Some(due) = self.nodes.iter().filter_map(|node| node.forwarder.poll_timeout()).min() {
            if due > end {
                break;
            }
            self.now = self.now.max(due);
            for node in &mut self.nodes {
                node.forwarder.handle_timeout(&mut node.out, self.now);
            }
            self.deliver();
        }
        self.now = end;
    }

    /// Carries datagrams until none is left.
    fn deliver(&mut self) {
        while let Some((from, (to, datagram))) =
            self.nodes.iter_mut().find_map(|node| Some((node.outside, node.out.datagrams.pop_front()?)))
        {
            let to = to.direct().expect("there are no relays here");
            self.wire.push((from, to, datagram.clone()));
            if let Some(node) = self.nodes.iter_mut().find(|node| node.outside == to) {
                node.forwarder.handle_datagram(from.into(), &datagram, &mut node.out, self.now);
            }
        }
    }

    /// What was written to a node's TUN device since the last look.
    pub(super) fn tun(&mut self, at: At) -> Vec<String> {
        self.tun_packets(at).iter().map(|packet| seen(packet)).collect()
    }

    pub(super) fn tun_packets(&mut self, at: At) -> Vec<Vec<u8>> {
        self.nodes[at].out.take_packets()
    }

    pub(super) fn misses(&mut self, at: At) -> Vec<Miss> {
        std::mem::take(&mut self.nodes[at].out.misses)
    }

    pub(super) fn dropped(&self, at: At, reason: DropReason) -> u64 {
        self.nodes[at].forwarder.counters().dropped(reason)
    }

    /// Asserts that this was the only reason to drop anything at a node, so often.
    pub(super) fn assert_drops(&self, at: At, drops: &[(DropReason, u64)]) {
        let counted: Vec<_> = self.nodes[at].forwarder.counters().drops().collect();
        assert_eq!(counted, drops);
    }

    /// Opens a TCP connection to port 80 of a resource, with ten bytes sent each way, and looks at nothing. The target
    /// sees `service` and the client as `opener`.
    pub(super) fn connect(&mut self, (client, resource): (SocketAddr, SocketAddr)) -> (SocketAddr, SocketAddr) {
        self.send(CLIENT, tcp(client, resource, "S", (1000, 0), b""));
        let arrived = self.tun_packets(GATEWAY).pop().expect("the SYN passes");
        let parsed = postern_packet::parse(&arrived).unwrap();
        let opener = SocketAddr::new(parsed.src, parsed.src_port);
        let service = SocketAddr::new(parsed.dst, parsed.dst_port);
        self.send(GATEWAY, tcp(service, opener, "SA", (9000, 1001), b""));
        self.send(CLIENT, tcp(client, resource, "A", (1001, 9001), b"0123456789"));
        self.send(GATEWAY, tcp(service, opener, "A", (9001, 1011), b"0123456789"));
        self.send(CLIENT, tcp(client, resource, "A", (1011, 9011), b""));
        assert_eq!(self.tun(GATEWAY).len(), 2);
        assert_eq!(self.tun(CLIENT).len(), 2);
        (opener, service)
    }
}

/// Of a client if `holds`, or else of a gateway.
pub(super) fn peer(key: PublicKey, candidates: Vec<SocketAddr>, holds: bool) -> Arc<Peer> {
    let (relays, preshared_key) = (vec![], PresharedKey::new([9; 32]));
    Arc::new(Peer { key, preshared_key, candidates, relays, holds, carries: !holds, initiate: holds })
}
