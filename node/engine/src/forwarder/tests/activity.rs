//! What a gateway tells of its clients' flows: each beginning and end once, with its reason and its bytes.

use std::{net::SocketAddr, time::Duration};

use postern_model::{GrantId, activity::FlowEnd};

use super::{
    packets::{echo, syn, tcp, udp},
    world::{CLIENT, GATEWAY, LEASE, TARGET_V4, TARGET_V6, World, device, resource, to},
};
use crate::forwarder::{
    FlowChange, FlowNews,
    activity::{Activity, SETTLE},
};

/// An IPv4 and a TCP header, without options.
const HEADERS: u64 = 40;

impl World {
    /// What the gateway has to tell since the last look.
    fn news(&mut self) -> Vec<FlowNews> {
        std::iter::from_fn(|| self.nodes[GATEWAY].forwarder.poll_flow_news()).collect()
    }

    /// The same as lines: `1 opened tcp/80`, `1 finished up/down`.
    fn told(&mut self) -> Vec<String> {
        self.news().iter().map(line).collect()
    }

    /// Ends the connection that [`World::connect`] opened, from the client's side.
    fn finish(&mut self, (client, service): (SocketAddr, SocketAddr), (opener, target): (SocketAddr, SocketAddr)) {
        self.send(CLIENT, tcp(client, service, "FA", (1011, 9011), b""));
        self.send(GATEWAY, tcp(target, opener, "FA", (9011, 1012), b""));
        self.send(CLIENT, tcp(client, service, "A", (1012, 9012), b""));
        assert_eq!((self.tun(GATEWAY).len(), self.tun(CLIENT).len()), (2, 1));
    }
}

fn line(news: &FlowNews) -> String {
    match news.change {
        FlowChange::Opened => format!("{} opened {:?}/{}", news.flow, news.protocol, news.port),
        FlowChange::Closed { up, down, end, .. } => format!("{} {end:?} {up}/{down}", news.flow),
    }
}

fn ends() -> (SocketAddr, SocketAddr) {
    (to(device(CLIENT).v4, 4000), to(resource(0).v4, 80))
}

/// Bytes of so many segments with so much payload in all.
fn bytes(segments: u64, payload: u64) -> u64 {
    segments * HEADERS + payload
}

#[test]
fn a_connection_is_told_with_all_of_its_bytes() {
    let mut world = World::granted();
    let began = world.now;
    let sides = world.connect(ends());
    let [opened] = &world.news()[..] else { panic!("one beginning") };
    assert_eq!(line(opened), "1 opened Tcp/80");
    let grant = world.carry(CLIENT, 0, TARGET_V4);
    assert_eq!((opened.grant.grant, opened.grant.client, opened.at), (grant.grant, grant.client, began));
    world.pass(Duration::from_secs(3));
    world.finish(ends(), sides);
    assert!(world.told().is_empty(), "the last segments are still to come");
    // The target has not heard the last acknowledgement.
    world.pass(SETTLE / 2);
    world.send(GATEWAY, tcp(sides.1, sides.0, "FA", (9011, 1012), b""));
    world.pass(Duration::from_secs(1));
    let [closed] = &world.news()[..] else { panic!("one end") };
    let (up, down) = (bytes(5, 10), bytes(4, 10));
    assert_eq!(closed.change, FlowChange::Closed { opened_at: began, up, down, end: FlowEnd::Finished });
    // Once is enough.
    world.send(GATEWAY, tcp(sides.1, sides.0, "FA", (9011, 1012), b""));
    world.gateway(&[]);
    world.pass(Duration::from_secs(60));
    assert!(world.told().is_empty());
    assert_eq!(world.nodes[GATEWAY].forwarder.take_cut(), []);
}

#[test]
fn a_reset_ends_a_connection() {
    let mut world = World::granted();
    let (client, service) = ends();
    world.connect((client, service));
    world.send(CLIENT, tcp(client, service, "R", (1011, 0), b""));
    world.pass(Duration::from_secs(1));
    let (up, down) = (bytes(4, 10), bytes(2, 10));
    assert_eq!(world.told(), ["1 opened Tcp/80".to_owned(), format!("1 Finished {up}/{down}")]);
}

/// Invariant: a client that resets a connection only for show does not move bytes that nobody tells of.
#[test]
fn what_passes_after_a_reset_is_told_as_well() {
    let mut world = World::granted();
    let (client, service) = ends();
    world.connect((client, service));
    world.send(CLIENT, tcp(client, service, "R", (5, 0), b""));
    // Without a pause it is all one flow.
    for _ in 0..10 {
        world.pass(SETTLE / 2);
        world.send(CLIENT, tcp(client, service, "A", (1011, 9011), &[0; 100]));
    }
    world.pass(Duration::from_secs(1));
    let (up, down) = (bytes(14, 1010), bytes(2, 10));
    assert_eq!(world.told(), ["1 opened Tcp/80".to_owned(), format!("1 Finished {up}/{down}")]);
    // After one, it is another.
    world.send(CLIENT, tcp(client, service, "A", (2011, 9011), &[0; 100]));
    world.pass(Duration::from_secs(1));
    assert_eq!(world.told(), ["2 opened Tcp/80".to_owned(), format!("2 Finished {}/0", bytes(1, 100))]);
}

#[test]
fn the_same_ports_again_are_another_flow() {
    let mut world = World::granted();
    let sides = world.connect(ends());
    world.finish(ends(), sides);
    let sides = world.connect(ends());
    world.finish(ends(), sides);
    world.pass(Duration::from_secs(1));
    let all = format!("{}/{}", bytes(5, 10), bytes(3, 10));
    let told = ["1 opened Tcp/80", &format!("1 Finished {all}"), "2 opened Tcp/80", &format!("2 Finished {all}")];
    assert_eq!(world.told(), told);
}

#[test]
fn silence_ends_flows_that_have_no_other_end() {
    let mut world = World::granted();
    let (client, service) = (to(device(CLIENT).v4, 4000), to(resource(0).v4, 53));
    world.send(CLIENT, udp(client, service, b"query"));
    world.send(GATEWAY, udp(to([10, 0, 0, 5], 53), client, b"an answer"));
    world.send(CLIENT, echo(client.ip(), service.ip(), 7, false));
    world.send(CLIENT, syn(client, ends().1));
    let told = world.told();
    assert_eq!(told, ["1 opened Udp/53", "2 opened IcmpEcho/0", "3 opened Tcp/80"]);
    world.pass(LEASE / 2);
    let mut told = world.told();
    told.sort();
    assert_eq!(told, ["1 Idle 33/37", "2 Idle 32/0", "3 Idle 40/0"]);
}

#[test]
fn bytes_are_those_inside_the_tunnel_also_when_the_target_is_of_the_other_family() {
    let mut world = World::new();
    let (carried, held) = (world.carry(CLIENT, 0, TARGET_V6), world.hold(0));
    world.gateway(&[carried]);
    world.client(&[held]);
    world.connect(ends());
    world.gateway(&[]);
    let cut = format!("1 Cut {}/{}", bytes(3, 10), bytes(2, 10));
    assert_eq!(world.told(), ["1 opened Tcp/80".to_owned(), cut]);
}

#[test]
fn what_a_table_cuts_is_told_and_counted_by_grant() {
    let mut world = World::new();
    let (kept, mut narrowed) = (world.carry(CLIENT, 0, TARGET_V4), world.carry(CLIENT, 1, "10.0.0.6"));
    let ended = world.carry(CLIENT, 2, "10.0.0.7");
    let held = [world.hold(0), world.hold(1), world.hold(2)];
    world.gateway(&[kept.clone(), narrowed.clone(), ended]);
    world.client(&held);
    let client = |port| to(device(CLIENT).v4, port);
    world.connect((client(4000), to(resource(0).v4, 80)));
    for port in [4000, 4001] {
        world.connect((client(port), to(resource(1).v4, 80)));
        world.connect((client(port), to(resource(2).v4, 80)));
    }
    world.send(CLIENT, udp(client(4000), to(resource(1).v4, 53), b"query"));
    world.news();
    narrowed.filter.tcp = postern_model::PortSet::None;
    world.gateway(&[kept, narrowed]);
    let ended = world.news();
    assert!(ended.iter().all(|news| matches!(news.change, FlowChange::Closed { end: FlowEnd::Cut, .. })), "{ended:?}");
    assert_eq!(ended.len(), 4, "neither the other grant's, nor what is still open");
    let mut cut = world.nodes[GATEWAY].forwarder.take_cut();
    cut.sort();
    assert_eq!(cut, [1, 2].map(|number| (GrantId::from_bytes([number; 16]), 2)));
    assert_eq!(world.nodes[GATEWAY].forwarder.take_cut(), [], "once");
}

#[test]
fn a_lease_that_ends_cuts() {
    let mut world = World::granted();
    world.connect(ends());
    world.news();
    world.pass(LEASE);
    assert_eq!(world.told(), [format!("1 Cut {}/{}", bytes(3, 10), bytes(2, 10))]);
}

#[test]
fn what_ends_because_the_node_stops_was_not_cut() {
    let mut world = World::granted();
    world.connect(ends());
    world.news();
    world.nodes[GATEWAY].forwarder.handle_stopping();
    world.gateway(&[]);
    assert_eq!(world.told(), [format!("1 Stopped {}/{}", bytes(3, 10), bytes(2, 10))]);
    assert_eq!(world.nodes[GATEWAY].forwarder.take_cut(), []);
}

#[test]
fn a_flow_stays_under_the_grant_under_which_it_began() {
    let mut world = World::granted();
    let (client, service) = ends();
    world.connect((client, service));
    let first = world.news()[0].grant.grant;
    let mut carried = world.carry(CLIENT, 0, TARGET_V4);
    carried.grant = GrantId::from_bytes([77; 16]);
    world.gateway(&[carried]);
    world.gateway(&[]);
    let [closed] = &world.news()[..] else { panic!("one end") };
    assert_eq!(closed.grant.grant, first);
    let cut = world.nodes[GATEWAY].forwarder.take_cut();
    assert_eq!(cut, [(GrantId::from_bytes([77; 16]), 1)], "it was the new one that ended");
}

#[test]
fn refused_packets_and_a_clients_own_flows_are_no_activity() {
    let mut world = World::granted();
    world.connect(ends());
    world.send(CLIENT, syn(ends().0, to(resource(0).v4, 81)));
    assert_eq!(world.told().len(), 1);
    assert!(!world.nodes[CLIENT].forwarder.has_flow_news());
}

/// Invariant: an end is given up only when there is no beginning left to give up.
#[test]
fn the_queue_is_bounded_and_gives_up_the_oldest_beginnings_first() {
    let mut world = World::granted();
    world.nodes[GATEWAY].forwarder.activity = Activity::with_room(4);
    let query = |world: &mut World, port| {
        world.send(CLIENT, udp(to(device(CLIENT).v4, port), to(resource(0).v4, 53), b"query"));
    };
    for port in 4000..4003 {
        query(&mut world, port);
    }
    world.pass(Duration::from_secs(60));
    query(&mut world, 4003);
    world.pass(Duration::from_secs(70));
    assert_eq!(world.nodes[GATEWAY].forwarder.flow_news_lost(), 3);
    assert_eq!(world.told(), ["4 opened Udp/53", "1 Idle 33/0", "2 Idle 33/0", "3 Idle 33/0"]);
    // Full of ends: the oldest of them goes for a new one, but none for a beginning.
    world.pass(Duration::from_secs(130));
    for port in 4000..4004 {
        query(&mut world, port);
    }
    world.pass(Duration::from_secs(130));
    assert_eq!(world.nodes[GATEWAY].forwarder.flow_news_lost(), 3 + 5);
    query(&mut world, 4004);
    assert_eq!(world.nodes[GATEWAY].forwarder.flow_news_lost(), 3 + 6);
    let mut told = world.told();
    told.sort();
    assert_eq!(told, ["5 Idle 33/0", "6 Idle 33/0", "7 Idle 33/0", "8 Idle 33/0"]);
}
