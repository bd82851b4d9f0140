//! Restarts on either side, and silence: what was open goes on without a wait.

use std::{collections::BTreeSet, net::SocketAddr, sync::Arc, time::Duration};

use super::{
    packets::{syn, tcp, udp},
    world::{CLIENT, GATEWAY, OTHER, TARGET_V4, World, device, private, ranges, resource, to},
};
use crate::{CarriedGrant, DropReason};

fn client(port: u16) -> SocketAddr {
    to(device(CLIENT).v4, port)
}

fn service(port: u16) -> SocketAddr {
    to(resource(0).v4, port)
}

/// Sends a SYN from the client; whether it arrives.
fn arrives(world: &mut World, port: u16) -> bool {
    world.send(CLIENT, syn(client(port), service(80)));
    !world.tun(GATEWAY).is_empty()
}

/// A world with a session, whose gateway is another process since, without a table yet.
fn with_restarted_gateway(pause: Duration) -> World {
    let mut world = World::granted();
    assert!(arrives(&mut world, 4000));
    world.now = world.now + pause;
    world.restart(GATEWAY);
    assert!(!arrives(&mut world, 4001), "nobody knows that session");
    world.wire.clear();
    world
}

#[test]
fn a_restarted_gateway_that_calls_its_clients_has_sessions_before_they_send() {
    let mut world = with_restarted_gateway(Duration::ZERO);
    let (grant, outside) = (world.carry(CLIENT, 0, TARGET_V4), world.nodes[CLIENT].outside);
    world.gateway_that_knows(&[grant], &[outside], true);
    assert!(arrives(&mut world, 4002));
    assert!(arrives(&mut world, 4003));
    // Once the path is known, nothing goes on behind the scenes.
    world.pass(Duration::from_secs(1));
    world.wire.clear();
    world.pass(Duration::from_secs(8));
    assert!(world.wire.is_empty());
}

/// Grants for so many clients that are nowhere.
fn for_absent_clients(world: &World, count: u8) -> Vec<CarriedGrant> {
    let grant = |number: u8| CarriedGrant {
        client_addr: ranges().device(1000 + u32::from(number)).unwrap(),
        peer: private(10 + number).public(),
        ..world.carry(OTHER, 0, TARGET_V4)
    };
    (0..count).map(grant).collect()
}

/// How many datagrams went there, and to how many tunnels' initiations they amount.
fn called(world: &World, place: SocketAddr) -> (usize, usize) {
    let there = world.wire.iter().filter(|(_, to, _)| *to == place);
    let tunnels: BTreeSet<_> = there.clone().map(|(.., datagram)| datagram[5..8].to_vec()).collect();
    (there.count(), tunnels.len())
}

#[test]
fn a_gateway_with_many_clients_calls_a_few_at_a_time_and_each_of_them_three_times() {
    let (mut world, nowhere) = (World::new(), "203.0.113.9:51820".parse().unwrap());
    let grants = for_absent_clients(&world, 200);
    world.gateway_that_knows(&grants, &[nowhere], true);
    assert_eq!(called(&world, nowhere), (64, 64));
    // More tables are no reason to call more of them at once.
    world.gateway_that_knows(&grants, &[nowhere], true);
    assert_eq!(called(&world, nowhere), (64, 64));
    world.pass(Duration::from_secs(1));
    assert_eq!(called(&world, nowhere), (200, 200), "everybody, once");
    world.pass(Duration::from_secs(60));
    assert_eq!(called(&world, nowhere), (600, 200));
    world.pass(Duration::from_secs(600));
    assert_eq!(called(&world, nowhere), (600, 200), "who has not answered by then is not there");
}

#[test]
fn a_client_is_heard_and_its_packets_pass_while_the_gateway_calls_others() {
    let mut world = World::granted();
    assert!(arrives(&mut world, 4000));
    world.restart(GATEWAY);
    let (outside, nowhere) = (world.nodes[CLIENT].outside, "203.0.113.9:51820".parse().unwrap());
    let mut grants = for_absent_clients(&world, 200);
    grants.push(world.carry(CLIENT, 0, TARGET_V4));
    world.gateway_that_knows(&grants, &[nowhere, outside], true);
    assert!(called(&world, nowhere).0 < 200);
    // Whether it was called by now or not: this one calls for a session, if there is none.
    arrives(&mut world, 4001);
    assert!(arrives(&mut world, 4002));
}

#[test]
fn a_client_keeps_calling_its_gateway_while_something_waits_to_be_sent() {
    let mut world = World::new();
    let held = world.hold(0);
    world.client(&[held]);
    let gateway = world.nodes[GATEWAY].outside;
    world.pass(Duration::from_secs(60));
    assert_eq!(called(&world, gateway).0, 3, "nothing waits");
    for port in 4000..4010 {
        assert!(!arrives(&mut world, port));
        world.pass(Duration::from_secs(8));
    }
    assert!(called(&world, gateway).0 > 15, "{:?}", called(&world, gateway));
    // The gateway hears of the client at last.
    let grant = world.carry(CLIENT, 0, TARGET_V4);
    world.gateway_that_knows(&[grant], &[], false);
    world.send(CLIENT, syn(client(4010), service(80)));
    world.pass(Duration::from_secs(6));
    assert!(!world.tun(GATEWAY).is_empty());
}

#[test]
fn a_restarted_gateway_calls_back_whoever_uses_a_session_that_it_does_not_know() {
    // With the same numbers for its tunnels as before, and with others.
    for pause in [Duration::ZERO, Duration::from_millis(1)] {
        let mut world = with_restarted_gateway(pause);
        // Behind a translator the client has another port than it knows of.
        let inside = SocketAddr::new(world.nodes[CLIENT].outside.ip(), 1);
        let grant = world.carry(CLIENT, 0, TARGET_V4);
        world.gateway_that_knows(&[grant], &[inside], false);
        assert!(world.wire.is_empty(), "by itself it calls nobody");
        assert!(!arrives(&mut world, 4002), "this one is lost, and calls for a session");
        assert!(arrives(&mut world, 4002));
        assert_eq!(world.dropped(GATEWAY, DropReason::NoSession), 2);
    }
}

#[test]
fn a_packet_for_an_unknown_session_calls_nobody_who_can_not_be_there() {
    let mut world = with_restarted_gateway(Duration::ZERO);
    let (grant, outside) = (world.carry(CLIENT, 0, TARGET_V4), world.nodes[CLIENT].outside);
    world.gateway_that_knows(&[grant], &[outside], false);
    let mut unknown = vec![4, 0, 0, 0, 1, 2, 3, 4];
    unknown.resize(64, 0);
    world.datagram(GATEWAY, world.nodes[OTHER].outside, &unknown);
    assert!(world.wire.is_empty());
    // From where the client is it calls once, not with every packet.
    for _ in 0..100 {
        world.datagram(GATEWAY, outside, &unknown);
    }
    let sent = world.wire.iter().filter(|(from, ..)| *from == world.nodes[GATEWAY].outside);
    assert_eq!(sent.count(), 2, "an initiation, and what confirms the session");
    world.pass(Duration::from_secs(60));
    world.wire.clear();
    world.datagram(GATEWAY, outside, &unknown);
    assert!(world.wire.is_empty(), "whoever has a session is not called, old packets or not");
}

#[test]
fn an_initiation_that_the_network_doubles_makes_no_second_handshake() {
    let mut world = World::new();
    let (grant, outside) = (world.carry(CLIENT, 0, TARGET_V4), world.nodes[CLIENT].outside);
    world.gateway_that_knows(&[grant], &[outside], false);
    let held = world.hold(0);
    world.client(&[held]);
    let (.., initiation) = world.wire[0].clone();
    let (.., response) = world.wire[1].clone();
    world.wire.clear();
    world.datagram(GATEWAY, outside, &initiation);
    let answers: Vec<_> = world.wire.drain(..).map(|(.., answer)| answer).collect();
    assert_eq!(answers, std::slice::from_ref(&response), "the same answer once more, and nothing that follows from it");
    world.pass(Duration::from_secs(5));
    world.wire.clear();
    world.datagram(GATEWAY, outside, &initiation);
    assert_eq!(world.dropped(GATEWAY, DropReason::Replayed), 1, "old by now");
    assert!(world.wire.iter().all(|(.., answer)| *answer != response));
}

/// The client's clock was set back before it was started again: all its initiations look like replays.
#[test]
fn a_client_whose_initiations_are_too_old_is_called_instead() {
    let mut world = World::new();
    let (grant, outside) = (world.carry(CLIENT, 0, TARGET_V4), world.nodes[CLIENT].outside);
    // This process's initiation is made before the one of the process before it, and comes after.
    let mut late = world.process(CLIENT);
    let held = world.hold(0);
    let table = Arc::new(world.client_table(CLIENT, std::slice::from_ref(&held)));
    late.handle_table(table, &mut world.nodes[CLIENT].out, world.now);
    let (_, initiation) = world.nodes[CLIENT].out.datagrams.pop_front().expect("an initiation");
    world.gateway_that_knows(&[grant], &[outside], false);
    world.client(&[held]);
    assert!(arrives(&mut world, 4000));

    world.nodes[CLIENT].forwarder = late;
    world.now = world.now + Duration::from_secs(5);
    world.wire.clear();
    world.datagram(GATEWAY, world.nodes[OTHER].outside, &initiation);
    assert!(world.wire.is_empty(), "from elsewhere it is a replay and nothing else");
    world.datagram(GATEWAY, outside, &initiation);
    assert_eq!(world.dropped(GATEWAY, DropReason::Replayed), 2);
    assert!(arrives(&mut world, 4001));
}

/// Whether the client sends its gateway anything within so many seconds.
fn speaks_within(world: &mut World, seconds: u64) -> bool {
    world.wire.clear();
    world.pass(Duration::from_secs(seconds));
    world.wire.iter().any(|(from, ..)| *from == world.nodes[CLIENT].outside)
}

/// Invariant: what stands between does not forget a client while it has something open.
#[test]
fn an_open_connection_keeps_the_way_to_the_client_open() {
    let mut world = World::granted();
    let (opener, target) = world.connect((client(4000), service(80)));
    for _ in 0..20 {
        assert!(speaks_within(&mut world, 25));
    }
    let status = world.nodes[CLIENT].forwarder.peers();
    assert_eq!(status[0].persistent_keepalive, Some(Duration::from_secs(20)));
    assert_eq!(world.nodes[GATEWAY].forwarder.peers()[0].persistent_keepalive, None, "only the client does that");
    world.tun(GATEWAY);
    world.send(GATEWAY, tcp(target, opener, "A", (9011, 1011), b"at last"));
    assert_eq!(world.tun(CLIENT).len(), 1, "a server may speak first after a long pause");
}

#[test]
fn without_anything_open_a_tunnel_falls_silent() {
    let mut world = World::granted();
    world.send(CLIENT, udp(client(4000), service(53), b"?"));
    assert!(speaks_within(&mut world, 60));
    world.pass(Duration::from_secs(150));
    assert!(!speaks_within(&mut world, 200));
    assert_eq!(world.nodes[CLIENT].forwarder.peers()[0].persistent_keepalive, None);

    let mut world = World::granted();
    world.connect((client(4000), service(80)));
    world.pass(Duration::from_secs(30));
    let other = world.hold(1);
    world.client(&[other]);
    world.pass(Duration::from_secs(30));
    assert!(!speaks_within(&mut world, 200), "nor is one kept awake for a flow that was revoked");
}
