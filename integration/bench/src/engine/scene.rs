//! A gateway's forwarder and clients with tunnels to it, by hand and without a network: what goes in and out are slices.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use postern_engine::{CarriedGrant, Endpoint, Forwarder, ForwarderSink, ForwardingTable, Generation, Miss, Peer};
use postern_model::{
    DeviceId, Filter, GrantId, Moment, NetworkRanges, OverlayAddr, PortSet, PresharedKey, ResourceId, SecretBytes,
};
use postern_packet::HEADROOM;
use postern_wireguard::{HEADER, MIN_BUFFER, Opened, PrivateKey, Tunnel};

/// Where the clients' and the resources' addresses begin.
const FIRST: u32 = 300;
pub(crate) const TARGET: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 5);
pub(crate) const PORT: u16 = 8080;
/// The longest packet inside.
pub(crate) const MTU: u16 = 1420;

/// A client's end of its tunnel.
pub(crate) struct Client {
    pub(crate) at: SocketAddr,
    pub(crate) own: OverlayAddr,
    pub(crate) tunnel: Tunnel,
}

/// The gateway and its clients, all with sessions.
pub(crate) struct Scene {
    pub(crate) gateway: Forwarder,
    pub(crate) clients: Vec<Client>,
    pub(crate) now: Moment,
}

/// Keeps the last datagram that the gateway made itself.
#[derive(Debug, Default)]
pub(crate) struct Sink {
    datagram: Vec<u8>,
}

impl ForwarderSink for Sink {
    fn send_datagram(&mut self, _to: Endpoint, datagram: &[u8]) {
        self.datagram = datagram.to_vec();
    }

    fn send_probe(&mut self, _to: Endpoint, _datagram: &[u8]) {}

    fn send_packet(&mut self, _packet: &[u8]) {}

    fn miss(&mut self, _miss: Miss) {}

    fn stun(&mut self, _from: SocketAddr, _datagram: &[u8]) {}
}

fn ranges() -> NetworkRanges {
    NetworkRanges::from_random([1, 2, 3, 4, 5])
}

fn device(nth: u32) -> OverlayAddr {
    ranges().device(FIRST + nth).expect("there are enough")
}

/// The address of a resource.
pub(crate) fn resource(nth: u32) -> OverlayAddr {
    ranges().resource(FIRST + nth).expect("there are enough")
}

fn key(nth: u32) -> PrivateKey {
    let mut bytes = [7; 32];
    // Not at the ends, where X25519 clears bits.
    bytes[8..12].copy_from_slice(&nth.to_le_bytes());
    PrivateKey::from_bytes(&SecretBytes::new(bytes))
}

fn id(nth: u32) -> [u8; 16] {
    let mut bytes = [1; 16];
    bytes[..4].copy_from_slice(&nth.to_le_bytes());
    bytes
}

impl Scene {
    /// With so many clients, each with a grant for each of so many resources of its own.
    pub(crate) fn new(clients: u32, grants_each: u32) -> Self {
        let now = Moment::from_boot(Duration::from_secs(1000));
        let private = key(0);
        let preshared = || PresharedKey::new([9; 32]);
        let mut table = ForwardingTable::empty(Generation(1), device(clients + 1), ranges());
        for nth in 0..clients {
            let (peer, own) = (key(nth + 1).public(), device(nth));
            let (candidates, relays) = (vec![], vec![]);
            let preshared_key = preshared();
            let peer_of =
                Peer { key: peer, preshared_key, candidates, relays, holds: false, carries: true, initiate: false };
            table.peers.insert(peer, Arc::new(peer_of));
            for grant in nth * grants_each..(nth + 1) * grants_each {
                let carried = Arc::new(CarriedGrant {
                    grant: GrantId::from_bytes(id(grant)),
                    client: DeviceId::from_bytes(id(nth)),
                    client_addr: own,
                    peer,
                    resource: ResourceId::from_bytes(id(grant)),
                    resource_addr: resource(grant),
                    targets: vec![TARGET.into()],
                    filter: Filter { tcp: PortSet::Any, udp: PortSet::Any, icmp: true },
                    expires: now + Duration::from_secs(100_000),
                    queried: None,
                });
                table.carried.insert((own.v4.into(), resource(grant).v4.into()), carried);
            }
        }
        let mut gateway = Forwarder::new(private.clone(), now);
        gateway.set_mtu(MTU);
        gateway.handle_table(Arc::new(table), &mut Sink::default(), now);
        let clients = (0..clients).map(|nth| {
            let at = SocketAddr::new(IpAddr::from([192, 0, 2, 30]), 10_000 + u16::try_from(nth).unwrap_or(0));
            let mut tunnel = Tunnel::new(&key(nth + 1), private.public(), Some(&preshared()), nth + 1, now);
            tunnel.set_mtu(MTU);
            let (mut out, mut sink) = ([0; MIN_BUFFER], Sink::default());
            let initiation = tunnel.start_handshake(&mut out, now).expect("it is the first").to_vec();
            gateway.handle_datagram(at.into(), &initiation, &mut sink, now);
            let Ok(Opened::Reply { datagram, .. }) = tunnel.handle_datagram(&sink.datagram, &mut out, now) else {
                panic!("the gateway answers a handshake");
            };
            gateway.handle_datagram(at.into(), datagram, &mut sink, now);
            Client { at, own: device(nth), tunnel }
        });
        let clients = clients.collect();
        Self { gateway, clients, now }
    }
}

impl Client {
    /// A sealed packet, with [`HEADROOM`] in front.
    pub(crate) fn seal(&mut self, packet: &[u8], now: Moment) -> Vec<u8> {
        let mut buffer = vec![0; HEADROOM + HEADER + packet.len() + 64];
        buffer[HEADROOM + HEADER..][..packet.len()].copy_from_slice(packet);
        let sealer = self.tunnel.sealer(1, packet.len() as u64, now);
        let sealed = sealer.and_then(|mut sealer| sealer.seal(&mut buffer[HEADROOM..], packet.len()));
        buffer.truncate(HEADROOM + sealed.expect("there is a session"));
        buffer
    }
}
