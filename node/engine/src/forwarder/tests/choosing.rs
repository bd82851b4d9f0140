//! Which of several roads is taken: the best one that works, without waiting and without going to and fro.

use std::{net::SocketAddr, time::Duration};

use postern_model::{Moment, RelayId};
use proptest::prelude::*;

use super::{
    roads::{Road, Roads},
    world::{CLIENT, GATEWAY, LEASE},
};
use crate::{DropReason, Endpoint, Forwarder};

const fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

const fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// How often something is asked, where data flows.
const FLOW: Option<Duration> = Some(ms(50));

/// How many of the questions since `first` were not answered.
fn unanswered(roads: &Roads, first: u32) -> usize {
    (first..=roads.sent).filter(|number| !roads.answered.contains_key(number)).count()
}

#[test]
fn data_goes_through_the_relay_at_once_and_directly_as_soon_as_that_is_proven() {
    // The gateway lets in nobody that it has not written to, nor does the client's translator.
    let direct = Road { is_closed: [true, true], ..Road::direct(1, ms(20)) };
    let mut roads = Roads::granted(vec![direct, Road::relayed(1, ms(30))], 7);
    roads.ask();
    roads.pass(ms(130), FLOW);
    assert!(!roads.answered.is_empty(), "there and back for the handshake, and for the question");
    roads.pass(ms(900), FLOW);
    assert_eq!(roads.in_use(), Some(0));
    assert_eq!(roads.switches.len(), 3, "nowhere, the relay, directly: {:?}", roads.switches);
    roads.pass(s(1), None);
    assert_eq!(unanswered(&roads, 1), 0, "and nothing is lost on the way");
    let [client, gateway] = [CLIENT, GATEWAY].map(|at| roads.status(at));
    assert_eq!((client.chooses, client.round_trip), (true, Some(ms(40))));
    assert!(!gateway.chooses && gateway.endpoint.is_some_and(|endpoint| !endpoint.is_relayed()), "it follows");
}

/// The gateway hears the initiation first where its answer gets lost, and then the same once more from the relay.
#[test]
fn where_nothing_comes_back_directly_the_handshake_is_answered_through_the_relay() {
    let direct = Road { is_one_way: true, ..Road::direct(1, ms(5)) };
    let mut roads = Roads::granted(vec![direct, Road::relayed(1, ms(30))], 7);
    roads.ask();
    roads.pass(ms(150), None);
    assert_eq!(unanswered(&roads, 1), 0, "there and back for the handshake, and for the question");
    roads.pass(s(3), FLOW);
    assert_eq!(roads.in_use(), Some(1));
    assert!(unanswered(&roads, 1) <= 2, "all but what is under way: {}", unanswered(&roads, 1));
}

#[test]
fn translators_that_give_each_destination_another_port_are_met() {
    // The gateway sees the client at another port than the coordinator does; it writes to the one that it was told.
    let direct = Road::direct(1, ms(20));
    let mut roads = Roads::new(vec![direct, Road::relayed(1, ms(30))], 7);
    roads.grant(&[([198, 51, 100, 1], 9).into()]);
    roads.pass(s(2), FLOW);
    assert_eq!(roads.in_use(), Some(0));
}

#[test]
fn a_handshake_that_went_nowhere_is_tried_again_once_a_relay_has_the_peer() {
    let mut roads = Roads::granted(vec![Road { is_up: false, ..Road::relayed(1, ms(10)) }], 7);
    roads.ask();
    roads.pass(ms(200), None);
    roads.roads[0].is_up = true;
    roads.presence(true);
    roads.pass(ms(50), None);
    assert_eq!(unanswered(&roads, 1), 0, "the packet that waited is answered");
}

#[test]
fn an_open_flow_without_data_stays_on_its_direct_road_when_keys_are_renewed() {
    // The relay is quicker, so that a handshake that goes both ways comes through it first.
    let mut roads = Roads::granted(vec![Road::direct(1, ms(20)), Road::relayed(1, ms(10))], 7);
    roads.presence(true);
    roads.pass(s(5), FLOW);
    for _ in 0..6 {
        // A flow of UDP is forgotten after some minutes.
        roads.ask();
        roads.pass(s(130), None);
        assert_eq!(roads.in_use(), Some(0));
    }
    assert_eq!(unanswered(&roads, 1), 0);
}

#[test]
fn of_two_direct_roads_the_quicker_one_is_taken_and_one_that_is_about_as_quick_is_not() {
    let mut roads = Roads::granted(vec![Road::direct(1, ms(30)), Road::direct(2, ms(40))], 7);
    roads.pass(s(40), FLOW);
    assert_eq!((roads.in_use(), roads.switches.len()), (Some(0), 2));
    roads.roads[1].delay = ms(27);
    roads.pass(s(100), FLOW);
    assert_eq!((roads.in_use(), roads.switches.len()), (Some(0), 2), "not worth it");
    roads.roads[1].delay = ms(10);
    roads.pass(s(60), FLOW);
    assert_eq!((roads.in_use(), roads.switches.len()), (Some(1), 3));
    roads.pass(s(1), None);
    assert_eq!(unanswered(&roads, 1), 0, "and nothing is lost");
}

#[test]
fn a_direct_road_that_is_very_much_slower_than_a_relay_is_not_taken() {
    let mut roads = Roads::granted(vec![Road::direct(1, ms(300)), Road::relayed(1, ms(10))], 7);
    roads.pass(s(60), FLOW);
    assert_eq!(roads.in_use(), Some(1));
}

#[test]
fn a_road_that_dies_is_left_within_two_seconds_and_taken_again_when_it_is_back() {
    let mut roads = Roads::granted(vec![Road::direct(1, ms(10)), Road::relayed(1, ms(20))], 7);
    roads.presence(true);
    roads.pass(s(10), FLOW);
    assert_eq!(roads.in_use(), Some(0));
    roads.roads[0].is_up = false;
    roads.pass(s(2), FLOW);
    let first = roads.sent + 1;
    roads.pass(s(10), FLOW);
    assert_eq!(roads.in_use(), Some(1));
    roads.roads[0].is_up = true;
    roads.pass(s(30), FLOW);
    assert_eq!(roads.in_use(), Some(0));
    roads.pass(s(1), None);
    assert_eq!(unanswered(&roads, first), 0);
}

#[test]
fn a_road_that_died_while_nothing_was_sent_costs_nothing_when_a_relay_has_the_peer() {
    let mut roads = Roads::granted(vec![Road::direct(1, ms(10)), Road::relayed(1, ms(20))], 7);
    roads.presence(true);
    roads.pass(s(5), FLOW);
    roads.pass(s(60), None);
    roads.roads[0].is_up = false;
    let first = roads.sent + 1;
    roads.pass(s(10), FLOW);
    roads.pass(s(1), None);
    assert_eq!((unanswered(&roads, first), roads.in_use()), (0, Some(1)));
}

#[test]
fn after_a_pause_a_direct_road_is_taken_up_again_within_a_round_trip() {
    let mut roads = Roads::granted(vec![Road::direct(1, ms(10)), Road::relayed(1, ms(50))], 7);
    roads.presence(true);
    roads.pass(s(5), FLOW);
    roads.pass(s(60), None);
    roads.ask();
    assert_eq!(roads.in_use(), Some(1), "in doubt");
    roads.pass(ms(21), None);
    assert_eq!(roads.in_use(), Some(0));
    roads.pass(s(1), None);
    assert_eq!(unanswered(&roads, 1), 0);
}

#[test]
fn a_server_that_speaks_first_on_a_dead_road_is_heard_soon() {
    let mut roads = Roads::granted(vec![Road::direct(1, ms(10)), Road::relayed(1, ms(20))], 7);
    roads.presence(true);
    roads.pass(s(5), FLOW);
    roads.roads[0].is_up = false;
    for _ in 0..50 {
        roads.push();
        roads.pass(ms(100), None);
    }
    let before = roads.answered.get(&0).copied();
    roads.push();
    roads.pass(ms(100), None);
    assert!(roads.answered.get(&0) > before.as_ref(), "the client was called");
}

#[test]
fn whoever_changes_its_network_is_followed_within_a_round_trip() {
    for at in [CLIENT, GATEWAY] {
        let mut roads = Roads::granted(vec![Road::direct(1, ms(10)), Road::direct(2, ms(15))], 7);
        roads.roads[1].is_up = false;
        roads.pass(s(5), FLOW);
        roads.roads[0].is_up = false;
        roads.roads[1].is_up = true;
        roads.network_changed(at);
        roads.pass(ms(1600), FLOW);
        assert_eq!(roads.in_use(), Some(1), "{at}");
        let first = roads.sent + 1;
        roads.pass(s(5), FLOW);
        roads.pass(s(1), None);
        assert_eq!(unanswered(&roads, first), 0);
    }
}

#[test]
fn a_relay_that_the_peer_has_left_is_left_at_once() {
    let mut roads = Roads::granted(vec![Road::relayed(1, ms(10)), Road::relayed(2, ms(30))], 7);
    roads.presence(true);
    roads.pass(s(5), FLOW);
    assert_eq!(roads.in_use(), Some(0));
    let Endpoint::Relayed { relay, peer } = roads.status(CLIENT).endpoint.unwrap() else { panic!("relayed") };
    let now = roads.now;
    roads.nodes[CLIENT].handle_relay_presence(relay, &peer, false, &mut super::world::Out::default(), now);
    assert_eq!(roads.in_use(), Some(1));
}

#[test]
fn without_data_nothing_is_sent_but_what_keeps_an_open_flow_alive() {
    let mut roads = Roads::granted(vec![Road::direct(1, ms(10)), Road::direct(2, ms(20)), Road::relayed(1, ms(20))], 7);
    roads.presence(true);
    roads.pass(s(20), FLOW);
    roads.pass(s(15), None);
    roads.wire.clear();
    roads.pass(s(25), None);
    assert!(roads.wire.len() <= 2, "a keepalive, perhaps: {:?}", roads.wire);
    roads.pass(s(300), None);
    roads.wire.clear();
    roads.pass(s(1000), None);
    assert_eq!(roads.wire, []);
    let lease = Duration::from_secs(1000) + 10 * LEASE;
    let timers = roads.nodes.each_ref().map(Forwarder::poll_timeout);
    assert_eq!(timers, [Some(Moment::from_boot(lease)); 2], "nor is there a timer, but for the lease");
}

/// Lengths of datagrams with a probe of a path, or its answer.
const PROBE: usize = 64;

#[test]
fn a_stream_in_one_direction_costs_few_probes() {
    let direct = [1, 2, 3].map(|nth| Road::direct(nth, ms(10)));
    for upwards in [true, false] {
        let mut roads = Roads::granted([&direct[..], &[Road::relayed(1, ms(20))]].concat(), 7);
        roads.pass(s(30), FLOW);
        roads.is_mute = true;
        roads.wire.clear();
        for _ in 0..600 {
            if upwards {
                roads.ask();
            } else {
                roads.push();
            }
            roads.pass(ms(100), None);
        }
        let probes = roads.wire.iter().filter(|(.., len)| *len == PROBE).count();
        // Those of packets are longer; each has its answer, and what is known is tried again from time to time.
        assert!(probes <= 150, "{probes} in a minute");
        assert_eq!(roads.in_use(), Some(0));
    }
}

#[test]
fn after_everything_was_dead_everything_goes_on() {
    let mut roads = Roads::granted(vec![Road::direct(1, ms(10)), Road::relayed(1, ms(20))], 7);
    roads.presence(true);
    roads.pass(s(5), FLOW);
    for (pause, back) in [(s(5), 0), (s(60), 1), (s(400), 0), (s(20), 1)] {
        roads.roads.iter_mut().for_each(|road| road.is_up = false);
        roads.pass(pause, FLOW);
        roads.roads[back].is_up = true;
        // With the session gone, a handshake has to come first, which is tried every five seconds.
        roads.pass(if pause > s(100) { s(6) } else { s(2) }, FLOW);
        let first = roads.sent + 1;
        roads.pass(s(5), FLOW);
        roads.pass(s(1), None);
        assert_eq!(unanswered(&roads, first), 0, "after {pause:?}");
        assert_eq!(roads.in_use(), Some(back));
    }
}

#[test]
fn whoever_names_the_address_of_another_makes_it_get_little_and_learn_nothing() {
    let victim: SocketAddr = "192.0.2.99:53".parse().unwrap();
    let mut roads = Roads::new(vec![Road::direct(1, ms(10))], 7);
    roads.grant(&[victim]);
    roads.pass(s(100), FLOW);
    let there = roads.wire.iter().filter(|(_, _, to, _)| *to == Endpoint::Direct(victim));
    let bytes: usize = there.map(|(.., len)| len).sum();
    assert!(bytes < 100 * 200, "{bytes} bytes in 100 seconds");
    assert_ne!(roads.status(GATEWAY).endpoint, Some(victim.into()));
    // Nor when it asks for that as often as it can.
    assert_eq!(roads.in_use(), Some(0));
}

#[test]
fn what_is_repeated_or_made_up_changes_nothing() {
    let elsewhere: Endpoint = SocketAddr::from(([192, 0, 2, 99], 53)).into();
    let mut roads = Roads::granted(vec![Road::direct(1, ms(10)), Road::relayed(1, ms(20))], 7);
    roads.keeps_copies = true;
    roads.pass(s(30), FLOW);
    roads.pass(s(1), None);
    roads.keeps_copies = false;
    let before = [CLIENT, GATEWAY].map(|at| (roads.status(at).endpoint, roads.status(at).paths.len()));
    roads.wire.clear();
    for (at, bytes) in std::mem::take(&mut roads.copies) {
        let mut changed = bytes.clone();
        *changed.last_mut().unwrap() ^= 1;
        for datagram in [bytes, changed] {
            roads.datagram(1 - at, elsewhere, &datagram);
        }
    }
    assert_eq!([CLIENT, GATEWAY].map(|at| (roads.status(at).endpoint, roads.status(at).paths.len())), before);
    assert!(!roads.wire.iter().any(|(_, _, to, _)| *to == elsewhere), "and nobody is answered");
}

#[test]
fn what_a_relay_says_is_another_peers_is_dropped_however_well_it_is_sealed() {
    let mut roads = Roads::granted(vec![Road::direct(1, ms(10)), Road::relayed(1, ms(20))], 7);
    roads.pass(s(10), FLOW);
    roads.roads.iter_mut().for_each(|road| road.is_up = false);
    roads.keeps_copies = true;
    roads.ask();
    let (at, bytes) = roads.copies.remove(0);
    let (before, passed) = (roads.status(GATEWAY).endpoint, roads.nodes[GATEWAY].counters().in_packets);
    assert_eq!(at, CLIENT);
    let relay = RelayId::from_bytes([1; 16]);
    // The client sealed it, and the relay names the gateway's own key, and then the client's.
    let keys = [CLIENT, GATEWAY].map(|at| roads.status(at).key);
    let [other, own] = keys.map(|peer| Endpoint::Relayed { relay, peer });
    roads.datagram(GATEWAY, other, &bytes);
    assert_eq!(roads.status(GATEWAY).endpoint, before);
    assert_eq!(roads.nodes[GATEWAY].counters().in_packets, passed);
    assert_eq!(roads.nodes[GATEWAY].counters().dropped(DropReason::UnknownPeer), 1);
    roads.datagram(GATEWAY, own, &bytes);
    assert_eq!(roads.status(GATEWAY).endpoint, Some(own), "as its own it passes");
    assert_eq!(roads.nodes[GATEWAY].counters().in_packets, passed + 1);
}

#[test]
fn stun_is_handed_out_and_nothing_that_looks_a_little_like_it() {
    let from = SocketAddr::from(([192, 0, 2, 99], 3478));
    let mut world = super::world::World::granted();
    let mut stun = vec![1, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42];
    stun.resize(20, 7);
    world.datagram(CLIENT, from, &stun);
    assert_eq!(world.nodes[CLIENT].out.stuns, [(from, stun.clone())]);
    world.assert_drops(CLIENT, &[]);
    for at in [0, 4] {
        let mut other = stun.clone();
        other[at] ^= 0xc0;
        world.datagram(CLIENT, from, &other);
    }
    world.datagram(CLIENT, from, &stun[..19]);
    assert_eq!(world.nodes[CLIENT].out.stuns.len(), 1);
    world.assert_drops(CLIENT, &[(DropReason::NotWireGuard, 3)]);
}

/// In this time something passes again, if there is any way: a handshake may have to come first, which is tried every five
/// seconds.
const LONG_ENOUGH: Duration = s(8);

/// What becomes of a road.
#[derive(Debug, Clone)]
struct Change {
    after: Duration,
    road: usize,
    is_up: bool,
    delay: Duration,
    loss: u8,
    /// Whether the client is told that its network has changed.
    is_told: bool,
}

fn change() -> impl Strategy<Value = Change> {
    let when = (1_u64..12_000).prop_map(ms);
    (
        when,
        0_usize..4,
        prop::bool::weighted(0.6),
        1_u64..200,
        prop_oneof![3 => Just(0_u8), 1 => 0_u8..30],
        any::<bool>(),
    )
        .prop_map(|(after, road, is_up, delay, loss, is_told)| Change {
            after,
            road,
            is_up,
            delay: ms(delay),
            loss,
            is_told,
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    /// Invariant: however the network changes, once it stops doing so the best road that works is found, with few switches
    /// for each change; and as long as any works, something passes.
    #[test]
    fn the_best_road_that_works_is_found_and_kept(
        seed: u64,
        delays in prop::array::uniform4(1_u64..200),
        is_closed: [bool; 2],
        changes in prop::collection::vec(change(), 0..8),
        is_there: bool,
    ) {
        let [first, second, third, relay] = delays.map(ms);
        let mut roads = Roads::granted(vec![
            Road { is_closed, ..Road::direct(1, first) },
            Road { is_closed: [false, true], ..Road::direct(2, second) },
            Road::direct(3, third),
            Road::relayed(1, relay),
        ], seed);
        if is_there {
            roads.presence(true);
        }
        let mut most = 6;
        for Change { after, road, is_up, delay, loss, is_told } in changes {
            roads.pass(after, FLOW);
            let works = |road: &&Road| road.is_up && road.loss == 0 && road.is_closed == [false, false];
            let slowest = roads.roads.iter().filter(works).map(|road| road.delay).max();
            if let Some(delay) = slowest.filter(|_| after >= LONG_ENOUGH) {
                let last = roads.answered.values().next_back().copied();
                let is_recent = last.is_some_and(|last| roads.now.since(last) <= 2 * delay + ms(500));
                prop_assert!(is_recent, "stuck at {:?} since {last:?} on {:?}", roads.now, roads.in_use());
            }
            let road = &mut roads.roads[road];
            (road.is_up, road.delay, road.loss) = (is_up, delay, loss);
            if is_told {
                roads.network_changed(CLIENT);
            }
            most += 8;
        }
        roads.roads.iter_mut().for_each(|road| road.loss = 0);
        if roads.roads.iter().all(|road| !road.is_up) {
            roads.roads[3].is_up = true;
        }
        // A handshake may have to come first, at its pace.
        roads.pass(s(20), FLOW);
        let first = roads.sent + 1;
        roads.pass(s(100), FLOW);
        let settled = roads.switches.len();
        prop_assert!(settled <= most, "{settled} switches");
        roads.pass(s(120), FLOW);
        prop_assert!(roads.switches.len() == settled, "it goes to and fro: {:?}", &roads.switches[settled..]);
        roads.pass(s(1), None);
        prop_assert_eq!(unanswered(&roads, first), 0);
        let used = &roads.roads[roads.in_use().expect("a road that there is")];
        prop_assert!(used.is_up);
        let quickest = |is_relayed: bool| {
            let up = roads.roads.iter().filter(|road| road.is_up && road.is_relayed() == is_relayed);
            up.map(|road| road.delay * 2).min()
        };
        let time = used.delay * 2;
        match (quickest(false), quickest(true)) {
            (Some(direct), Some(relayed)) if used.is_relayed() => prop_assert!(direct * 100 > (relayed * 3 + ms(20)) * 85),
            (Some(direct), _) if !used.is_relayed() => prop_assert!(
                time * 85 <= direct * 100 || time < direct + ms(1), "{time:?} where {direct:?} was to be had"
            ),
            _ => {}
        }
    }
}
