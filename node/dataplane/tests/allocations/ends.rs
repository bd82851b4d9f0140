//! Forwarders with the steps of a lane around them, and no lane: packets go in at one and come out at the other, in
//! buffers that are kept.

use std::{
    collections::VecDeque,
    net::{IpAddr, SocketAddr},
    ops::Range,
    sync::Arc,
    time::Duration,
};

use postern_engine::{
    Accepted, Arrival, CarriedGrant, Endpoint, Forwarder, ForwarderSink, ForwardingTable, Generation, HeldGrant, Miss,
    Opened, Peer, Visible,
};
use postern_model::{
    DeviceId, Filter, GrantId, Moment, NetworkRanges, OverlayAddr, PortRange, PortSet, PresharedKey, PublicKey,
    ResourceId, SecretBytes,
};
use postern_packet::{Coalescer, Ecn, HEADROOM, Offload, PacketBuf, Parsed};
use postern_wireguard::{HEADER, PrivateKey, TunnelError};

/// Datagrams of one super-packet, and packets of a family that has longer headers.
const WIRE: usize = 160 * 1024;
pub(crate) const PORT: u16 = 8080;

fn ranges() -> NetworkRanges {
    NetworkRanges::from_random([1, 2, 3, 4, 5])
}

/// The overlay addresses of the nth client.
pub(crate) fn client_addr(nth: u32) -> OverlayAddr {
    ranges().device(400 + nth).unwrap()
}

/// The resource's.
pub(crate) fn resource() -> OverlayAddr {
    ranges().resource(300).unwrap()
}

fn filter() -> Filter {
    let ports = PortSet::from_ranges(vec![PortRange::new(PORT, PORT).unwrap()]);
    Filter { tcp: ports.clone(), udp: ports, icmp: true }
}

fn peer(key: PublicKey, candidates: Vec<SocketAddr>) -> Arc<Peer> {
    let initiate = !candidates.is_empty();
    let (relays, holds, carries) = (vec![], initiate, !initiate);
    Arc::new(Peer { key, preshared_key: PresharedKey::new([9; 32]), candidates, relays, holds, carries, initiate })
}

/// Takes what forwarders make themselves: handshakes, mostly.
#[derive(Default)]
struct Out {
    datagrams: VecDeque<(Endpoint, Vec<u8>)>,
}

impl ForwarderSink for Out {
    fn send_datagram(&mut self, to: Endpoint, datagram: &[u8]) {
        self.datagrams.push_back((to, datagram.to_vec()));
    }

    fn send_probe(&mut self, to: Endpoint, datagram: &[u8]) {
        self.send_datagram(to, datagram);
    }

    fn send_packet(&mut self, packet: &[u8]) {
        panic!("a packet of {} bytes is answered, and should have passed", packet.len());
    }

    fn miss(&mut self, miss: Miss) {
        panic!("no grant for {:?}", miss.resource);
    }

    fn stun(&mut self, from: SocketAddr, _datagram: &[u8]) {
        panic!("STUN from {from}");
    }
}

/// Sealed datagrams, one behind the other.
pub(crate) struct Wire {
    buffer: Vec<u8>,
    datagrams: Vec<Range<usize>>,
}

impl Wire {
    pub(crate) fn new() -> Self {
        Self { buffer: vec![0; WIRE], datagrams: Vec::with_capacity(256) }
    }
}

/// One node.
pub(crate) struct End {
    pub(crate) forwarder: Forwarder,
    key: PrivateKey,
    place: SocketAddr,
    out: Out,
    /// A packet from TUN lies here.
    buffer: Vec<u8>,
    arrivals: Vec<Arrival>,
    inner: Vec<(Range<usize>, Parsed, PublicKey)>,
    coalescer: Coalescer,
    /// The packet that came out last.
    pub(crate) last: Option<Parsed>,
}

impl End {
    fn new(seed: u32, place: SocketAddr, now: Moment) -> Self {
        let mut bytes = [7; 32];
        // Not the first ones: some of their bits count for nothing in a key.
        bytes[8..12].copy_from_slice(&seed.to_le_bytes());
        let key = PrivateKey::from_bytes(&SecretBytes::new(bytes));
        let mut coalescer = Coalescer::default();
        coalescer.set_joins(true, true);
        Self {
            forwarder: Forwarder::new(key.clone(), now),
            key,
            place,
            out: Out::default(),
            buffer: vec![0; HEADROOM + 65_536],
            arrivals: Vec::new(),
            inner: Vec::new(),
            coalescer,
            last: None,
        }
    }

    /// The nth client, without a table.
    pub(crate) fn client(nth: u32, now: Moment) -> Self {
        let [_, _, high, low] = nth.to_be_bytes();
        Self::new(1 + nth, ([198, 51, 100 + high, low], 51820).into(), now)
    }

    /// A gateway that carries a grant of each of so many clients, to this target.
    pub(crate) fn gateway(clients: u32, target: IpAddr, now: Moment) -> Self {
        let mut gateway = Self::new(0, ([192, 0, 2, 20], 51820).into(), now);
        let mut table = ForwardingTable::empty(Generation(1), ranges().device(300).unwrap(), ranges());
        for nth in 0..clients {
            let (key, addr) = (Self::client(nth, now).key.public(), client_addr(nth));
            let mut grant = [2; 16];
            grant[..4].copy_from_slice(&nth.to_le_bytes());
            let carried = Arc::new(CarriedGrant {
                grant: GrantId::from_bytes(grant),
                client: DeviceId::from_bytes(grant),
                client_addr: addr,
                peer: key,
                resource: ResourceId::from_bytes([1; 16]),
                resource_addr: resource(),
                targets: vec![target],
                filter: filter(),
                expires: now + Duration::from_secs(3600),
                queried: None,
            });
            table.carried.insert((addr.v4.into(), resource().v4.into()), Arc::clone(&carried));
            table.carried.insert((addr.v6.into(), resource().v6.into()), carried);
            table.peers.insert(key, peer(key, vec![]));
        }
        gateway.forwarder.handle_table(Arc::new(table), &mut gateway.out, now);
        gateway
    }

    /// Gives the nth client its grant, upon which it calls the gateway.
    pub(crate) fn hold(&mut self, nth: u32, gateway: &Self, now: Moment) {
        let mut table = ForwardingTable::empty(Generation(1), client_addr(nth), ranges());
        let resource_id = ResourceId::from_bytes([1; 16]);
        let visible = Arc::new(Visible { resource: resource_id, addr: resource(), filter: filter() });
        table.catalogue.insert(resource().v4.into(), Arc::clone(&visible));
        table.catalogue.insert(resource().v6.into(), visible);
        let key = gateway.key.public();
        let held = Arc::new(HeldGrant {
            grant: GrantId::from_bytes([2; 16]),
            resource: resource_id,
            addr: resource(),
            peer: key,
            filter: filter(),
            expires: now + Duration::from_secs(3600),
        });
        table.held.insert(resource().v4.into(), Arc::clone(&held));
        table.held.insert(resource().v6.into(), held);
        table.peers.insert(key, peer(key, vec![gateway.place]));
        self.forwarder.handle_table(Arc::new(table), &mut self.out, now);
    }

    /// What the forwarder itself wants sent: takes all of it.
    pub(crate) fn take_datagrams(&mut self) -> Vec<Vec<u8>> {
        self.out.datagrams.drain(..).map(|(_, datagram)| datagram).collect()
    }

    /// A datagram from the other, such as a handshake.
    pub(crate) fn take(&mut self, from: &Self, datagram: &[u8], now: Moment) {
        self.forwarder.handle_datagram(from.place.into(), datagram, &mut self.out, now);
    }

    /// A packet from TUN, decided about, cut and sealed: as `egress` does it.
    pub(crate) fn depart(&mut self, packet: &[u8], offload: Offload, wire: &mut Wire, now: Moment) {
        let Wire { buffer, datagrams } = wire;
        datagrams.clear();
        let place = &mut self.buffer[..HEADROOM + packet.len()];
        place[HEADROOM..].copy_from_slice(packet);
        let packet = PacketBuf::new(place, HEADROOM).unwrap();
        let departure = self.forwarder.depart(packet, offload, &mut self.out, now);
        let Some(mut departure) = departure else { return };
        let mut at = HEADROOM;
        while let Some(len) = departure.packets.next(&mut buffer[at + HEADER..]) {
            let len = departure.sealer.seal(&mut buffer[at..], len).expect("each has its counter, and there is room");
            datagrams.push(at..at + len);
            at += len;
        }
    }

    /// What came from the other, opened, joined and decided about: as `ingress` does it. How many packets may be written to
    /// TUN, and in how many pieces.
    pub(crate) fn arrive(&mut self, from: SocketAddr, wire: &mut Wire, now: Moment) -> (usize, usize) {
        let Self { forwarder, out, arrivals, inner, coalescer, last, .. } = self;
        let Wire { buffer, datagrams } = wire;
        let from = Endpoint::Direct(from);
        arrivals.clear();
        inner.clear();
        coalescer.clear();
        for place in datagrams {
            let Some(arrival) = forwarder.admit(from, &buffer[place.clone()], out, now) else { continue };
            let opened: Result<_, TunnelError> = arrival.opener.open(&mut buffer[place.clone()]);
            let opened = Opened::new(from, &buffer[place.clone()], opened.expect("what was sealed is opened"));
            if forwarder.accept(&arrival, &opened, out, now) == Accepted::Packet {
                let start = place.start + HEADER;
                let packet = &mut buffer[start..start + opened.plain.len];
                // Or about the path, and dealt with.
                let parsed = forwarder.unwrap_packet(&arrival.peer, from, packet, Ecn::NotCapable, out, now);
                let Some(parsed) = parsed else { continue };
                inner.push((start..start + parsed.len, parsed, arrival.peer));
            }
            arrivals.push(arrival);
        }
        for (place, parsed, _) in &*inner {
            coalescer.push(buffer, place.clone(), *parsed);
        }
        coalescer.finish(buffer);
        let (mut packets, mut pieces) = (0, 0);
        for run in coalescer.runs() {
            let peer = inner[0].2;
            let mut packet = PacketBuf::new(&mut buffer[..run.head.end], run.head.start).unwrap();
            if let Some(parsed) = forwarder.arrive(&peer, &mut packet, &run.parsed, run.offload, out, now) {
                *last = Some(parsed);
                (packets, pieces) = (packets + run.packets, pieces + 1);
            }
        }
        (packets, pieces)
    }

    /// Where it is for others.
    pub(crate) fn place(&self) -> SocketAddr {
        self.place
    }
}

/// Carries handshakes between the two until neither has anything to say.
pub(crate) fn settle(client: &mut End, gateway: &mut End, now: Moment) {
    loop {
        let (up, down) = (client.take_datagrams(), gateway.take_datagrams());
        if up.is_empty() && down.is_empty() {
            return;
        }
        for datagram in up {
            gateway.take(client, &datagram, now);
        }
        for datagram in down {
            client.take(gateway, &datagram, now);
        }
    }
}
