//! Lanes that reach each other through a relay only, and what goes through the WireGuard socket besides. Needs root.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

#[allow(dead_code, reason = "other tests use all of it")]
mod scene;

use std::{
    net::{IpAddr, SocketAddr, UdpSocket},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread::{self, Scope},
    time::Duration,
};

use postern_dataplane::{LaneEvent, Offloads, RelayOut};
use postern_engine::{DropReason, Endpoint, ForwardingTable, Peer};
use postern_model::{PublicKey, RelayId};

use scene::{
    Node, Over, PATIENCE, PORT, Pair, eventually, resource,
    streams::{connect, connected, transfer},
};

/// What waits in a relay for one of the two. A few windows of TCP.
const ROOM: usize = 4096;

fn relay() -> RelayId {
    RelayId::from_bytes([7; 16])
}

/// One direction through a relay that counts and remembers nothing.
struct Pipe {
    to: SyncSender<Vec<u8>>,
    is_away: AtomicBool,
    /// How many datagrams must not be split.
    whole: Mutex<usize>,
}

impl RelayOut for Pipe {
    fn send(&self, to: RelayId, _peer: &PublicKey, datagram: &[u8], may_split: bool) -> bool {
        assert_eq!(to, relay());
        *self.whole.lock().unwrap() += usize::from(!may_split);
        !self.is_away.load(Ordering::Relaxed) && self.to.try_send(datagram.to_vec()).is_ok()
    }
}

fn pipe() -> (Arc<Pipe>, Receiver<Vec<u8>>) {
    let (to, from) = sync_channel(ROOM);
    (Arc::new(Pipe { to, is_away: AtomicBool::new(false), whole: Mutex::new(0) }), from)
}

/// Hands over what came for a node, until it is over.
fn deliver(receiver: &Receiver<Vec<u8>>, node: &Node, from: PublicKey, is_over: &AtomicBool) {
    while !is_over.load(Ordering::Relaxed) {
        let Ok(first) = receiver.recv_timeout(Duration::from_millis(10)) else { continue };
        let datagrams = std::iter::once(first).chain(receiver.try_iter().take(63)).collect();
        node.lane.relayed(relay(), from, datagrams);
    }
}

/// Starts both directions.
fn start<'scope>(
    scope: &'scope Scope<'scope, '_>,
    pair: &'scope Pair,
    [up, down]: [Receiver<Vec<u8>>; 2],
    is_over: &'scope AtomicBool,
) {
    let [client, gateway] = [&pair.client, &pair.gateway].map(|node| node.key.public());
    scope.spawn(move || deliver(&up, &pair.gateway, client, is_over));
    scope.spawn(move || deliver(&down, &pair.client, gateway, is_over));
}

/// A table whose peers can be reached through the relay alone.
fn relayed(mut table: ForwardingTable) -> ForwardingTable {
    for peer in table.peers.values_mut() {
        *peer = Arc::new(Peer { candidates: vec![], relays: vec![relay()], ..(**peer).clone() });
    }
    table
}

#[test]
fn everything_works_through_a_relay_and_nothing_does_without_it() {
    for lanes in [1, 2] {
        let ((up, from_client), (down, from_gateway)) = (pipe(), pipe());
        let pair = Pair::through(lanes, Offloads::ALL, [up.clone(), down.clone()]);
        let keys = [&pair.client, &pair.gateway].map(|node| node.key.public());
        let is_over = AtomicBool::new(false);
        thread::scope(|scope| {
            let _over = Over(&is_over);
            start(scope, &pair, [from_client, from_gateway], &is_over);
            pair.gateway.apply(relayed(pair.gateway_table(1)));
            pair.client.apply(relayed(pair.client_table(1)));
            for to in [IpAddr::from(resource().v4), resource().v6.into()] {
                pair.client.ping(to).unwrap();
                let (client, server) = connected(&pair, to);
                transfer(&client, &server);
                transfer(&server, &client);
            }
            for (node, peer) in [(&pair.client, keys[1]), (&pair.gateway, keys[0])] {
                let status = node.lane.status().unwrap();
                assert_eq!(status.peers[0].endpoint, Some(Endpoint::Relayed { relay: relay(), peer }));
            }
            assert!(*up.whole.lock().unwrap() > 0, "lengths are tried in one piece");
            // What is refused is refused here, too.
            assert!(connect(&pair, resource().v4.into(), PORT + 1).is_err());

            up.is_away.store(true, Ordering::Relaxed);
            let lost = || pair.client.lane.status().unwrap().counters.dropped(DropReason::RelayFull);
            let before = lost();
            let arrived = pair.gateway.lane.status().unwrap().counters.in_packets;
            pair.client.ping_once(resource().v4.into());
            assert!(lost() > before, "it is counted");
            assert_eq!(pair.gateway.lane.status().unwrap().counters.in_packets, arrived, "and goes no other way");
        });
    }
}

#[test]
fn a_relayed_connection_moves_to_a_direct_path_and_back_without_an_error() {
    let ((up, from_client), (down, from_gateway)) = (pipe(), pipe());
    let pair = Pair::through(1, Offloads::ALL, [up, down]);
    let keys = [&pair.client, &pair.gateway].map(|node| node.key.public());
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        let _over = Over(&is_over);
        start(scope, &pair, [from_client, from_gateway], &is_over);
        pair.gateway.apply(relayed(pair.gateway_table(1)));
        pair.client.apply(relayed(pair.client_table(1)));
        let (client, server) = connected(&pair, resource().v4.into());
        transfer(&client, &server);
        assert_eq!(pair.client.endpoint(), None);

        let mut table = pair.client_table(2);
        for peer in table.peers.values_mut() {
            *peer = Arc::new(Peer { relays: vec![relay()], ..(**peer).clone() });
        }
        pair.client.apply(table);
        eventually("the direct path is taken", || {
            transfer(&client, &server);
            pair.client.endpoint().is_some() && pair.gateway.endpoint().is_some()
        });
        transfer(&server, &client);

        // The direct path ends without a word.
        pair.client.lane.relay_presence(relay(), keys[1], true);
        pair.gateway.netns.run(&["ip", "route", "add", "blackhole", "192.0.2.30/32"]);
        pair.client.netns.run(&["ip", "route", "add", "blackhole", "192.0.2.20/32"]);
        transfer(&client, &server);
        transfer(&server, &client);
        assert_eq!(pair.client.endpoint(), None, "through the relay again");
    });
}

#[test]
fn stun_goes_out_of_the_wireguard_socket_and_its_answer_is_told() {
    let pair = Pair::granted();
    let server = pair.gateway.netns.enter(|| UdpSocket::bind("192.0.2.20:0").unwrap());
    server.set_read_timeout(Some(PATIENCE)).unwrap();
    let at = server.local_addr().unwrap();
    let mut request = vec![0, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42];
    request.resize(20, 9);
    pair.client.lane.send_datagrams(vec![(at, request.clone())]);
    let mut buffer = [0; 100];
    let (len, from) = server.recv_from(&mut buffer).unwrap();
    assert_eq!(buffer[..len], request);
    assert_eq!(from, SocketAddr::new("192.0.2.30".parse().unwrap(), pair.client.port));
    request[..2].copy_from_slice(&[1, 1]);
    server.send_to(&request, from).unwrap();
    let told = pair.client.wait("the answer is told", |event| match event {
        LaneEvent::Stun(from, datagram) => Some((from, datagram)),
        _ => None,
    });
    assert_eq!(told, (at, request));
}

#[test]
fn after_a_change_of_the_network_the_other_end_hears_at_once_where_this_one_is() {
    let pair = Pair::granted();
    let (client, server) = connected(&pair, resource().v4.into());
    transfer(&client, &server);
    pair.client.netns.ip(&["addr", "del", "192.0.2.30/24", "dev", "eth0"]);
    pair.client.netns.address("eth0", &["192.0.2.31/24"]);
    pair.client.lane.network_changed();
    eventually("the gateway follows, with nothing else being sent", || {
        pair.gateway.endpoint().is_some_and(|endpoint| endpoint.ip() == "192.0.2.31".parse::<IpAddr>().unwrap())
    });
    transfer(&server, &client);
}
