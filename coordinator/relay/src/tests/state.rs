//! Whatever nodes do, and in whatever order: nothing goes between two that have not each a pass for the other.

use std::{collections::HashMap, time::Duration};

use postern_model::{Moment, PublicKey, Sha256, Timestamp};
use postern_wire::{Pass, RelayNews, close, relay::RelayRefusal};
use proptest::prelude::*;

use crate::{
    state::{End, Limits, Output, PATIENCE, SKEW, State},
    trust::CheckedPass,
};

const START: Timestamp = Timestamp::from_unix_millis(1_700_000_000_000);

fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

fn key(n: u8) -> Sha256 {
    Sha256([n; 32])
}

fn peer(n: u8) -> PublicKey {
    PublicKey([n; 32])
}

/// Node `holder` may exchange packets with node `other` for so many seconds.
fn pass(holder: u8, other: u8, expires: u64) -> Pass {
    Pass { key: key(holder), holder: peer(holder), peer: peer(other), expires: START.plus(secs(expires)) }
}

/// A state, and connections that know what they were told. A connection with number n has the key of node n % 10.
struct World {
    state: State,
    elapsed: u64,
    table: HashMap<End, End>,
    /// Of each connection, its channels: for whom, and whether that one is said to be there.
    told: HashMap<u64, HashMap<u32, (PublicKey, bool)>>,
    refused: Vec<(u64, PublicKey, RelayRefusal)>,
    closed: Vec<(u64, u32)>,
}

impl World {
    fn new(limits: Limits) -> Self {
        let (table, told) = (HashMap::new(), HashMap::new());
        Self { state: State::new(limits), elapsed: 0, table, told, refused: vec![], closed: vec![] }
    }

    fn with(connections: impl IntoIterator<Item = u64>) -> Self {
        let mut world = Self::new(Limits::default());
        connections.into_iter().for_each(|connection| world.join(connection));
        world
    }

    fn now(&self) -> Timestamp {
        START.plus(secs(self.elapsed))
    }

    fn join(&mut self, connection: u64) {
        let (key, moment) = (key(u8::try_from(connection % 10).unwrap()), Moment::from_boot(secs(self.elapsed)));
        if self.state.handle_joined(connection, key, moment) {
            self.told.insert(connection, HashMap::new());
        }
    }

    fn show(&mut self, connection: u64, pass: Pass) {
        let now = self.now();
        self.state.handle_pass(connection, &CheckedPass::assumed(pass), now);
        self.settle();
    }

    fn close(&mut self, connection: u64, other: u8) {
        self.state.handle_close(connection, &peer(other));
        if let Some(told) = self.told.get_mut(&connection) {
            told.retain(|_, (whom, _)| *whom != peer(other));
        }
        self.settle();
    }

    fn leave(&mut self, connection: u64) {
        self.state.handle_left(connection);
        self.told.remove(&connection);
        self.settle();
    }

    fn pass_time(&mut self, seconds: u64) {
        self.elapsed += seconds;
        let (now, moment) = (self.now(), Moment::from_boot(secs(self.elapsed)));
        self.state.handle_timeout(now, moment);
        self.settle();
    }

    fn settle(&mut self) {
        while let Some(output) = self.state.poll_output() {
            match output {
                Output::Link(from, Some(to)) => drop(self.table.insert(from, to)),
                Output::Link(from, None) => {
                    assert!(self.table.remove(&from).is_some(), "{from:?} was linked");
                }
                Output::News(connection, news) => self.hear(connection, news),
                Output::Close(connection, code, _) => {
                    self.told.remove(&connection);
                    self.closed.push((connection, code));
                }
            }
        }
    }

    fn hear(&mut self, connection: u64, news: RelayNews) {
        let told = self.told.get_mut(&connection).expect("it is connected");
        match news {
            RelayNews::Opened { peer, channel } => {
                let (whom, _) = *told.entry(channel).or_insert((peer, false));
                assert_eq!(whom, peer, "channel {channel} is another's");
            }
            RelayNews::There { channel, is_there } => {
                let (_, known) = told.get_mut(&channel).expect("it was opened before");
                assert_ne!(*known, is_there, "that is no news");
                *known = is_there;
            }
            RelayNews::Closed { channel } => assert!(told.remove(&channel).is_some()),
            RelayNews::Refused { peer, reason } => self.refused.push((connection, peer, reason)),
        }
    }

    /// Where a datagram goes that a connection sends to a node.
    fn reached(&self, connection: u64, other: u8) -> Option<u64> {
        let (channel, _) = self.told.get(&connection)?.iter().find(|(_, (whom, _))| *whom == peer(other))?;
        Some(self.state.forward(End { connection, channel: *channel })?.connection)
    }
}

#[test]
fn both_have_to_show_a_pass_for_each_other() {
    let mut world = World::with([1, 2, 3]);
    world.show(1, pass(1, 2, 600));
    assert_eq!(world.reached(1, 2), None, "the other has shown none");
    world.show(2, pass(2, 3, 600));
    world.show(3, pass(3, 3, 600));
    assert_eq!((world.reached(1, 2), world.reached(2, 3)), (None, None), "none for the one that has one for it");
    world.show(2, pass(2, 1, 600));
    assert_eq!((world.reached(1, 2), world.reached(2, 1)), (Some(2), Some(1)));
    assert_eq!(world.reached(2, 3), None);
    assert!(world.refused.is_empty());
}

#[test]
fn only_the_holder_may_use_a_pass() {
    let mut world = World::with([1, 2, 3]);
    world.show(2, pass(2, 1, 600));
    // Node 3 has got hold of node 1's pass, and it may say whom it likes of itself.
    world.show(3, pass(1, 2, 600));
    world.show(3, pass(3, 3, 600));
    world.show(3, Pass { key: key(3), ..pass(1, 2, 600) });
    let refused: Vec<_> = world.refused.iter().map(|(connection, _, reason)| (*connection, *reason)).collect();
    assert_eq!(refused, [(3, RelayRefusal::Holder), (3, RelayRefusal::Holder)], "another key; then another holder");
    assert_eq!((world.reached(3, 2), world.reached(2, 1)), (None, None));
}

#[test]
fn a_pass_ends_by_the_clock_and_two_minutes_are_forgiven() {
    let mut world = World::with([1, 2]);
    world.show(1, pass(1, 1, 100_000));
    world.show(2, pass(2, 2, 100_000));
    world.show(1, pass(1, 2, 600));
    world.show(2, pass(2, 1, 900));
    world.pass_time(600 + SKEW.as_secs() - 1);
    assert_eq!(world.reached(1, 2), Some(2));
    world.pass_time(1);
    assert_eq!((world.reached(1, 2), world.reached(2, 1)), (None, None));
    assert!(world.told[&1].is_empty(), "told that it is closed");
    assert_eq!(world.told[&2].values().next(), Some(&(peer(1), false)), "told that it is not there");
    world.show(1, pass(1, 2, 600));
    assert_eq!(world.refused, [(1, peer(2), RelayRefusal::Expired)]);
    world.show(1, pass(1, 2, 2000));
    assert_eq!((world.reached(1, 2), world.reached(2, 1)), (Some(2), Some(1)));
}

#[test]
fn a_newer_pass_is_good_for_longer_and_an_older_one_takes_nothing() {
    let mut world = World::with([1, 2]);
    world.show(1, pass(1, 2, 600));
    world.show(2, pass(2, 1, 6000));
    world.show(1, pass(1, 2, 1200));
    world.show(1, pass(1, 2, 700));
    assert_eq!(world.told[&1].len(), 1, "the channel is the same");
    world.pass_time(1200);
    assert_eq!(world.reached(1, 2), Some(2));
    world.pass_time(SKEW.as_secs());
    assert_eq!(world.reached(2, 1), None);
}

#[test]
fn who_shows_no_pass_is_sent_away_and_so_is_who_has_none_left() {
    let mut world = World::with([1, 2, 3]);
    world.show(1, pass(1, 1, 3600));
    world.show(3, pass(3, 1, 0));
    world.pass_time(PATIENCE.as_secs() - 1);
    assert!(world.closed.is_empty());
    world.pass_time(1);
    assert_eq!(world.closed, [(2, close::UNAUTHORIZED)]);
    world.pass_time(SKEW.as_secs());
    assert_eq!(world.closed[1..], [(3, close::UNAUTHORIZED)], "its only pass has run out");
    world.pass_time(3600);
    assert_eq!(world.closed[2..], [(1, close::UNAUTHORIZED)]);
    assert_eq!(world.state.sizes(), (0, 0));
}

#[test]
fn a_node_that_connects_anew_takes_its_own_place_and_no_other_key_does() {
    let mut world = World::with([1, 2, 11, 3]);
    world.show(1, pass(1, 2, 600));
    world.show(2, pass(2, 1, 600));
    assert_eq!(world.reached(2, 1), Some(1));
    // Another device key with the same WireGuard key.
    world.show(3, Pass { key: key(3), ..pass(1, 2, 600) });
    assert_eq!(world.refused, [(3, peer(2), RelayRefusal::Holder)]);
    assert_eq!(world.reached(2, 1), Some(1));
    world.show(11, pass(1, 2, 600));
    assert_eq!(world.closed, [(1, close::SUPERSEDED)]);
    assert_eq!((world.reached(2, 1), world.reached(11, 2)), (Some(11), Some(2)));
    world.leave(1);
    assert_eq!(world.reached(2, 1), Some(11), "the old connection's end takes nothing along");
}

#[test]
fn a_node_has_so_many_channels_and_all_together_have_so_many() {
    let mut world = World::new(Limits { connections: 2, channels: 5, channels_each: 3 });
    [1, 2, 3].into_iter().for_each(|connection| world.join(connection));
    assert!(!world.told.contains_key(&3), "there is no room");
    for other in 10..14 {
        world.show(1, pass(1, other, 600));
    }
    assert_eq!(world.refused, [(1, peer(13), RelayRefusal::TooMany)]);
    for other in 10..13 {
        world.show(2, pass(2, other, 600));
    }
    assert_eq!(world.refused[1..], [(2, peer(12), RelayRefusal::TooMany)]);
    world.show(1, pass(1, 10, 700));
    assert_eq!(world.refused.len(), 2, "a pass for one that it has takes no more room");
    world.close(1, 10);
    world.show(2, pass(2, 12, 600));
    assert_eq!(world.refused.len(), 2);
}

#[test]
fn a_number_is_not_used_again_at_once() {
    let mut world = World::with([1, 2, 3]);
    world.show(1, pass(1, 2, 600));
    let first = *world.told[&1].keys().next().unwrap();
    world.close(1, 2);
    world.show(3, pass(3, 1, 600));
    world.show(1, pass(1, 3, 600));
    let late = world.state.forward(End { connection: 1, channel: first });
    assert_eq!(late, None, "a datagram for node 2 that comes late must not reach node 3");
    assert_eq!(world.reached(1, 3), Some(3));
}

#[derive(Debug, Clone)]
enum Step {
    Join(u64),
    Leave(u64),
    Show(u64, u8, u8, u64),
    Close(u64, u8),
    Wait(u64),
}

fn step() -> impl Strategy<Value = Step> {
    // Connections 1 to 3 and 11 to 13 are of the nodes 1 to 3.
    let connection = || prop_oneof![1_u64..4, 11_u64..14];
    prop_oneof![
        2 => connection().prop_map(Step::Join),
        1 => connection().prop_map(Step::Leave),
        8 => (connection(), 1_u8..4, 1_u8..4, 0_u64..1000).prop_map(|(c, h, p, e)| Step::Show(c, h, p, e)),
        // Mostly its own.
        8 => (connection(), 1_u8..4, 300_u64..1000)
            .prop_map(|(c, p, e)| Step::Show(c, u8::try_from(c % 10).unwrap(), p, e)),
        1 => (connection(), 1_u8..4).prop_map(|(c, p)| Step::Close(c, p)),
        1 => (1_u64..300).prop_map(Step::Wait),
    ]
}

proptest! {
    #[test]
    fn nothing_goes_without_both_passes(steps in prop::collection::vec(step(), 1..120)) {
        let mut world = World::new(Limits::default());
        // Until when each connection's passes hold, by what it was shown.
        let mut shown: HashMap<(u64, u8), u64> = HashMap::new();
        for step in steps {
            match step {
                Step::Join(connection) if world.told.contains_key(&connection) => {}
                Step::Join(connection) => {
                    shown.retain(|(of, _), _| *of != connection);
                    world.join(connection);
                }
                Step::Leave(connection) => world.leave(connection),
                Step::Show(connection, holder, other, expires) => {
                    let expires = world.elapsed + expires;
                    if u64::from(holder) == connection % 10 && world.told.contains_key(&connection) {
                        let until = shown.entry((connection, other)).or_default();
                        *until = (*until).max(expires + SKEW.as_secs());
                    }
                    world.show(connection, pass(holder, other, expires));
                }
                Step::Close(connection, other) => {
                    world.close(connection, other);
                    shown.remove(&(connection, other));
                }
                Step::Wait(seconds) => world.pass_time(seconds),
            }
            for connection in [1, 2, 3, 11, 12, 13] {
                for (channel, (whom, is_there)) in world.told.get(&connection).into_iter().flatten() {
                    let from = End { connection, channel: *channel };
                    let to = world.state.forward(from);
                    prop_assert_eq!(to, world.table.get(&from).copied(), "what was told to do is what is so");
                    prop_assert_eq!(to.is_some(), *is_there);
                    let Some(to) = to else { continue };
                    let (here, there) = (u8::try_from(connection % 10).unwrap(), whom.0[0]);
                    prop_assert_eq!(to.connection % 10, u64::from(there), "it is the one that is meant");
                    prop_assert_eq!(world.state.forward(to), Some(from), "and back");
                    prop_assert!(shown.get(&(connection, there)).is_some_and(|until| *until > world.elapsed));
                    prop_assert!(shown.get(&(to.connection, here)).is_some_and(|until| *until > world.elapsed));
                }
            }
        }
        for connection in [1, 2, 3, 11, 12, 13] {
            world.leave(connection);
        }
        prop_assert_eq!(world.state.sizes(), (0, 0));
        prop_assert!(world.table.is_empty());
        world.pass_time(1_000_000);
        prop_assert_eq!(world.state, State::new(Limits::default()), "nothing stays behind");
    }
}
