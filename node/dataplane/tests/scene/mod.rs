//! Two lanes, joined by a cable, with tables made by hand.
//!
//! ```text
//!   client 192.0.2.30 ═══════ eth0 ═══════ gateway 192.0.2.20, .21
//!   TUN: device 300                         TUN: device 301; target 10.0.0.5 on lo
//! ```
//!
//! Or with a router in between, which may be told to be narrow: [`routed`].

pub(crate) mod netns;
pub(crate) mod routed;
pub(crate) mod streams;

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    num::NonZeroUsize,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, channel},
    },
    thread,
    time::Duration,
};

use postern_dataplane::{LaneConfig, LaneEvent, LaneHandle, NoRelays, Offloads, RelayOut, Sockets, Tun, clock, spawn};
use postern_engine::{CarriedGrant, Endpoint, ForwardingTable, Generation, HeldGrant, Miss, Peer, Visible};
use postern_model::{
    DeviceId, Filter, GrantId, NetworkRanges, OverlayAddr, PortRange, PortSet, PresharedKey, ResourceId, SecretBytes,
};
use postern_wireguard::PrivateKey;

use netns::Netns;

/// How long anything may take before it counts as broken.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);
pub(crate) const PORT: u16 = 8080;
pub(crate) const TARGET_V4: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 5));
pub(crate) const GATEWAY: &str = "192.0.2.20";
pub(crate) const GATEWAY_TOO: &str = "192.0.2.21";
pub(crate) const GATEWAY_V6: &str = "2001:db8::20";
const DEVICE: &str = "postern0";
const MTU: u16 = 1420;

pub(crate) fn ranges() -> NetworkRanges {
    NetworkRanges::from_random([1, 2, 3, 4, 5])
}

pub(crate) fn device(index: u32) -> OverlayAddr {
    ranges().device(index).unwrap()
}

/// The resource's overlay addresses.
pub(crate) fn resource() -> OverlayAddr {
    ranges().resource(300).unwrap()
}

fn filter() -> Filter {
    let ports = PortSet::from_ranges(vec![PortRange::new(PORT, PORT).unwrap()]);
    Filter { tcp: ports.clone(), udp: ports, icmp: true }
}

/// Waits until something holds, of which nobody is told. Fails when it does not come about.
pub(crate) fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let began = clock::now();
    while !holds() {
        assert!(clock::now().since(began) < PATIENCE, "waited in vain until {what}");
        // Those who bring it about need the processor.
        thread::sleep(Duration::from_millis(1));
    }
}

/// Says, when dropped, that other threads are to end: also when the test fails, which would wait for them forever.
pub(crate) struct Over<'a>(pub(crate) &'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A lane in its namespace.
pub(crate) struct Node {
    pub(crate) netns: Netns,
    pub(crate) own: OverlayAddr,
    pub(crate) key: PrivateKey,
    pub(crate) port: u16,
    pub(crate) lane: LaneHandle,
    events: Mutex<Receiver<LaneEvent>>,
}

impl Node {
    fn new(netns: Netns, index: u32, (lanes, offloads): (NonZeroUsize, Offloads), relay: Arc<dyn RelayOut>) -> Self {
        let key = PrivateKey::from_bytes(&SecretBytes::new([u8::try_from(index & 0xff).unwrap(); 32]));
        let (tun, sockets) = netns.enter(|| {
            let tun = Tun::create(DEVICE, MTU, lanes, offloads).unwrap();
            (tun, Sockets::bind(0, lanes, offloads).unwrap())
        });
        let (own, port) = (device(index), sockets.port());
        netns.address(tun.name(), &[&format!("{}/32", own.v4), &format!("{}/128", own.v6)]);
        netns.ip(&["link", "set", tun.name(), "up"]);
        for (range, prefix) in ranges().device_ranges().into_iter().chain(ranges().resource_ranges()) {
            netns.ip(&["route", "add", &format!("{range}/{prefix}"), "dev", tun.name()]);
        }
        let (sender, events) = channel();
        let config = LaneConfig { tun, sockets, private: key.clone(), relay };
        let lane = spawn(config, move |event| drop(sender.send(event))).unwrap();
        Self { netns, own, key, port, lane, events: Mutex::new(events) }
    }

    /// Publishes a table and waits until it is in force.
    pub(crate) fn apply(&self, table: ForwardingTable) {
        let generation = table.generation;
        self.lane.publish(Arc::new(table));
        self.wait("the table is in force", |event| {
            matches!(event, LaneEvent::Applied { generation: applied, .. } if applied == generation).then_some(())
        });
    }

    /// Waits for a miss.
    pub(crate) fn miss(&self) -> Miss {
        self.wait("a packet misses its grant", |event| match event {
            LaneEvent::Miss(miss) => Some(miss),
            _ => None,
        })
    }

    /// Waits for an event, and leaves those before it out.
    pub(crate) fn wait<T>(&self, what: &str, mut choose: impl FnMut(LaneEvent) -> Option<T>) -> T {
        let events = self.events.lock().unwrap();
        loop {
            let event = events.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("waited in vain until {what}"));
            if let Some(chosen) = choose(event) {
                return chosen;
            }
        }
    }

    /// How long packets to the peer may be.
    pub(crate) fn mtu(&self) -> u16 {
        self.lane.status().unwrap().peers.first().unwrap().mtu
    }

    pub(crate) fn endpoint(&self) -> Option<SocketAddr> {
        self.lane.status().unwrap().peers.first().unwrap().endpoint.and_then(Endpoint::direct)
    }

    /// `ping -c 3`; what it printed if no answer came.
    pub(crate) fn ping(&self, to: IpAddr) -> Result<(), String> {
        let output = self.netns.run(&["ping", "-n", "-c", "3", "-i", "0.1", "-W", "5", &to.to_string()]);
        if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stdout).into_owned()) }
    }

    /// Sends one echo request, whatever comes of it.
    pub(crate) fn ping_once(&self, to: IpAddr) {
        self.netns.run(&["ping", "-n", "-c", "1", "-W", "1", &to.to_string()]);
    }
}

/// Both.
pub(crate) struct Pair {
    pub(crate) client: Node,
    pub(crate) gateway: Node,
    /// Where the gateway is for the client.
    pub(crate) candidate: IpAddr,
    pub(crate) target: IpAddr,
}

impl Pair {
    pub(crate) fn new() -> Self {
        Self::with(1, Offloads::ALL)
    }

    /// Each with so many lanes and these offloads.
    pub(crate) fn with(lanes: usize, offloads: Offloads) -> Self {
        Self::through(lanes, offloads, [Arc::new(NoRelays), Arc::new(NoRelays)])
    }

    /// The same, where the client and the gateway have these ways to relays.
    pub(crate) fn through(lanes: usize, offloads: Offloads, relays: [Arc<dyn RelayOut>; 2]) -> Self {
        let how = (NonZeroUsize::new(lanes).unwrap(), offloads);
        let (client, gateway) = (Netns::new("client"), Netns::new("gateway"));
        client.join("eth0", &gateway, "eth0");
        client.address("eth0", &["192.0.2.30/24", "2001:db8::30/64"]);
        gateway.address("eth0", &["192.0.2.20/24", "192.0.2.21/24", "2001:db8::20/64"]);
        Self::between(client, gateway, GATEWAY, how, relays)
    }

    /// In namespaces that reach each other, with the gateway at this address.
    fn between(
        client: Netns,
        gateway: Netns,
        candidate: &str,
        how: (NonZeroUsize, Offloads),
        [up, down]: [Arc<dyn RelayOut>; 2],
    ) -> Self {
        gateway.address("lo", &["10.0.0.5/32", "fd00:10::5/128"]);
        Self {
            client: Node::new(client, 300, how, up),
            gateway: Node::new(gateway, 301, how, down),
            candidate: candidate.parse().unwrap(),
            target: TARGET_V4,
        }
    }

    /// Both have the grant.
    pub(crate) fn granted() -> Self {
        let pair = Self::new();
        pair.grant();
        pair
    }

    pub(crate) fn grant(&self) {
        self.gateway.apply(self.gateway_table(1));
        self.client.apply(self.client_table(1));
    }

    /// The client sees the resource, and nothing else.
    pub(crate) fn catalogue(&self, generation: u64) -> ForwardingTable {
        let mut table = ForwardingTable::empty(Generation(generation), self.client.own, ranges());
        let visible = Visible { resource: ResourceId::from_bytes([1; 16]), addr: resource(), filter: filter() };
        let visible = Arc::new(visible);
        table.catalogue.insert(resource().v4.into(), Arc::clone(&visible));
        table.catalogue.insert(resource().v6.into(), visible);
        table
    }

    /// The client with the grant.
    pub(crate) fn client_table(&self, generation: u64) -> ForwardingTable {
        let mut table = self.catalogue(generation);
        let held = Arc::new(HeldGrant {
            grant: GrantId::from_bytes([2; 16]),
            resource: ResourceId::from_bytes([1; 16]),
            addr: resource(),
            peer: self.gateway.key.public(),
            filter: filter(),
            expires: clock::now() + Duration::from_secs(3600),
        });
        table.held.insert(resource().v4.into(), Arc::clone(&held));
        table.held.insert(resource().v6.into(), held);
        let candidates = vec![SocketAddr::new(self.candidate, self.gateway.port)];
        add_peer(&mut table, &self.gateway.key, candidates, true);
        table
    }

    /// The gateway without the grant.
    pub(crate) fn nothing_carried(&self, generation: u64) -> ForwardingTable {
        ForwardingTable::empty(Generation(generation), self.gateway.own, ranges())
    }

    /// The gateway with the grant.
    pub(crate) fn gateway_table(&self, generation: u64) -> ForwardingTable {
        let mut table = self.nothing_carried(generation);
        let client = self.client.own;
        let carried = Arc::new(CarriedGrant {
            grant: GrantId::from_bytes([2; 16]),
            client: DeviceId::from_bytes([3; 16]),
            client_addr: client,
            peer: self.client.key.public(),
            resource: ResourceId::from_bytes([1; 16]),
            resource_addr: resource(),
            targets: vec![self.target],
            filter: filter(),
            expires: clock::now() + Duration::from_secs(3600),
            queried: None,
        });
        table.carried.insert((client.v4.into(), resource().v4.into()), Arc::clone(&carried));
        table.carried.insert((client.v6.into(), resource().v6.into()), carried);
        add_peer(&mut table, &self.client.key, vec![], false);
        table
    }
}

fn add_peer(table: &mut ForwardingTable, key: &PrivateKey, candidates: Vec<SocketAddr>, initiate: bool) {
    let key = key.public();
    let preshared_key = PresharedKey::new([9; 32]);
    let (relays, holds, carries) = (vec![], initiate, !initiate);
    table.peers.insert(key, Arc::new(Peer { key, preshared_key, candidates, relays, holds, carries, initiate }));
}
