//! Networks that lose, delay, reorder and repeat whatever they like, handshakes included.

use std::collections::BTreeSet;

use proptest::prelude::*;

use crate::ends::{End, Got, number, packet};

/// What may happen next; the number chooses a message on its way.
#[derive(Debug, Clone, Copy)]
enum Step {
    Start(usize),
    Send(usize),
    Deliver(usize),
    Repeat(usize),
    Lose(usize),
    Wait(u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        2 => (0usize..2).prop_map(Step::Start),
        4 => (0usize..2).prop_map(Step::Send),
        6 => (0usize..64).prop_map(Step::Deliver),
        2 => (0usize..64).prop_map(Step::Repeat),
        2 => (0usize..64).prop_map(Step::Lose),
        2 => (0u64..8_000).prop_map(Step::Wait),
        1 => (0u64..200_000).prop_map(Step::Wait),
    ];
    prop::collection::vec(step, 1..150)
}

/// Two ends, and what is on its way between them.
struct World {
    ends: [End; 2],
    /// For which end.
    wire: Vec<(usize, Vec<u8>)>,
    now: u64,
    sent: u32,
    /// Numbers that were delivered, and to whom.
    delivered: BTreeSet<(usize, u32)>,
}

impl World {
    fn new(ends: [End; 2]) -> Self {
        Self { ends, wire: Vec::new(), now: 0, sent: 0, delivered: BTreeSet::new() }
    }

    fn post(&mut self, from: usize, datagram: Option<Vec<u8>>) {
        self.wire.extend(datagram.map(|datagram| (1 - from, datagram)));
    }

    /// Sends a packet with a number of its own, if there is a session.
    fn send(&mut self, from: usize) -> Option<u32> {
        self.sent += 1;
        let datagram = self.ends[from].seal(&packet(self.sent, 40), self.now)?;
        self.post(from, Some(datagram));
        Some(self.sent)
    }

    fn deliver(&mut self, to: usize, datagram: &[u8]) {
        match self.ends[to].give(datagram, self.now) {
            Got::Reply(reply) => self.post(to, Some(reply)),
            Got::Packet(packet) => {
                let n = number(&packet);
                assert!(n <= self.sent && self.delivered.insert((to, n)), "{n} came twice");
            }
            Got::Nothing | Got::Refused => {}
        }
    }

    fn wait(&mut self, millis: u64) {
        self.now += millis;
        for end in 0..2 {
            for datagram in self.ends[end].timeout(self.now) {
                self.post(end, Some(datagram));
            }
        }
    }

    fn step(&mut self, step: Step) {
        let len = self.wire.len();
        match step {
            Step::Start(end) => {
                let initiation = self.ends[end].start(self.now);
                self.post(end, initiation);
            }
            Step::Send(end) => {
                self.send(end);
            }
            Step::Deliver(at) if len > 0 => {
                let (to, datagram) = self.wire.swap_remove(at % len);
                self.deliver(to, &datagram);
            }
            Step::Repeat(at) if len > 0 => {
                let (to, datagram) = self.wire[at % len].clone();
                self.deliver(to, &datagram);
            }
            Step::Lose(at) if len > 0 => {
                self.wire.swap_remove(at % len);
            }
            Step::Wait(millis) => self.wait(millis),
            Step::Deliver(_) | Step::Repeat(_) | Step::Lose(_) => {}
        }
    }

    fn deliver_all(&mut self) {
        while !self.wire.is_empty() {
            let (to, datagram) = self.wire.remove(0);
            self.deliver(to, &datagram);
        }
    }

    /// From now on nothing is lost. Whether a packet each way arrives, after `rounds` of a second each in which both ends have
    /// tried.
    fn heals(&mut self, rounds: u32) -> bool {
        let mut through = [false; 2];
        for _ in 0..rounds {
            self.deliver_all();
            for (end, through) in through.iter_mut().enumerate() {
                let number = self.send(end);
                if number.is_none() {
                    let initiation = self.ends[end].start(self.now);
                    self.post(end, initiation);
                }
                self.deliver_all();
                *through = number.is_some_and(|n| self.delivered.contains(&(1 - end, n)));
            }
            self.wait(1_000);
        }
        through == [true; 2]
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(192))]

    /// Invariant: no packet is delivered twice, and once the network carries again, both ends agree on keys: after 30
    /// seconds at most, which is when the tunnel takes silence for a sign that the peer has lost them, and a handshake.
    #[test]
    fn two_tunnels_always_find_each_other_again(steps in steps()) {
        let mut world = World::new([End::ours(1, 2, Some(9)), End::ours(2, 1, Some(9))]);
        for step in steps {
            world.step(step);
        }
        prop_assert!(world.heals(30));
    }

    /// The same with the oracle. Its clock stands still, so it is not made to wait.
    #[test]
    fn a_tunnel_and_the_oracle_always_find_each_other_again(steps in steps(), first in 0u8..2) {
        let ends = [End::ours(1, 2, Some(9)), End::theirs(2, 1, Some(9))];
        let mut world = World::new(ends);
        if first == 1 {
            world.step(Step::Start(1));
        }
        for step in steps {
            if !matches!(step, Step::Wait(20_000..)) {
                world.step(step);
            }
        }
        prop_assert!(world.heals(30));
    }

    /// Invariant: without the same preshared key there is no session, whatever happens.
    #[test]
    fn another_preshared_key_is_never_enough(steps in steps()) {
        let mut world = World::new([End::ours(1, 2, Some(9)), End::ours(2, 1, Some(8))]);
        for step in steps {
            world.step(step);
        }
        world.heals(30);
        prop_assert!(world.delivered.is_empty());
        for end in 0..2 {
            prop_assert_eq!(world.send(end), None);
        }
    }
}
