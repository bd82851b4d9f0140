//! What holds whatever happens: random messages, answers and times.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use postern_model::DenyReason;
use proptest::prelude::*;

use super::{
    node::Node,
    setting::{catalogue, entry, granted, install, resource, resource_addr, secs, welcome},
};

const HOST: &str = "host.example.com";
/// Longer than any lease here.
const LONG: Duration = secs(1000);

/// One thing that happens to an engine.
#[derive(Debug, Clone)]
enum Step {
    Welcome { catalogue: Vec<u8>, held: Vec<u8>, carried: Vec<u8>, lease: u64 },
    Put(u8),
    Removed(u8),
    Pushed(u8, u64),
    Install { number: u8, by_name: bool, lease: u64 },
    Revoke(u8),
    Disconnected,
    Evicted,
    Miss(u8),
    Want(u8),
    Granted(u8, u64),
    Denied(u8, DenyReason),
    Unanswered(u8),
    InUse(Vec<u8>),
    Resolved(bool),
    Applied,
    Passed(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let some = || prop::sample::subsequence(vec![0, 1, 2, 3], 0..=4);
    let reason =
        prop::sample::select(&[DenyReason::NoPolicy, DenyReason::NoGateway, DenyReason::GatewayUnreachable][..]);
    let (one, lease) = (0..4u8, 1..100u64);
    prop_oneof![
        1 => (some(), some(), some(), lease.clone())
            .prop_map(|(catalogue, held, carried, lease)| Step::Welcome { catalogue, held, carried, lease }),
        1 => one.clone().prop_map(Step::Put),
        1 => one.clone().prop_map(Step::Removed),
        1 => (one.clone(), lease.clone()).prop_map(|(number, lease)| Step::Pushed(number, lease)),
        3 => (one.clone(), any::<bool>(), lease.clone())
            .prop_map(|(number, by_name, lease)| Step::Install { number, by_name, lease }),
        2 => one.clone().prop_map(Step::Revoke),
        1 => Just(Step::Disconnected),
        1 => Just(Step::Evicted),
        4 => one.clone().prop_map(Step::Miss),
        1 => one.clone().prop_map(Step::Want),
        3 => (one.clone(), lease).prop_map(|(number, lease)| Step::Granted(number, lease)),
        1 => (one.clone(), reason).prop_map(|(number, reason)| Step::Denied(number, reason)),
        1 => one.prop_map(Step::Unanswered),
        1 => some().prop_map(Step::InUse),
        2 => any::<bool>().prop_map(Step::Resolved),
        3 => Just(Step::Applied),
        4 => (1..30u64).prop_map(Step::Passed),
    ]
}

/// The steps, after a first welcome with everything in the catalogue.
fn steps() -> impl Strategy<Value = Vec<Step>> {
    let first = Step::Welcome { catalogue: vec![0, 1, 2, 3], held: vec![], carried: vec![], lease: 50 };
    prop::collection::vec(step(), 1..60).prop_map(move |mut steps| {
        steps.insert(0, first.clone());
        steps
    })
}

impl Step {
    /// Whether it can only happen while there is a session.
    fn is_of_session(&self) -> bool {
        matches!(self, Self::Put(_) | Self::Removed(_) | Self::Pushed(..) | Self::Install { .. } | Self::Revoke(_))
    }
}

/// What a bystander knows must be so.
#[derive(Default)]
struct Expected {
    in_session: bool,
    catalogue: BTreeSet<u8>,
    /// How many acknowledgements this session is owed, by grant.
    installs: BTreeMap<u8, u32>,
    revocations: Vec<u8>,
    packets: u32,
}

struct Run {
    node: Node,
    expected: Expected,
    installed: BTreeMap<u8, u32>,
    revoked: Vec<u8>,
    packets_seen: u32,
}

impl Run {
    fn new() -> Self {
        let (node, expected) = (Node::new(), Expected::default());
        Self { node, expected, installed: BTreeMap::new(), revoked: vec![], packets_seen: 0 }
    }

    /// A new count of acknowledgements; the old session's are owed no more.
    fn forget_acknowledgements(&mut self) {
        self.expected.installs.clear();
        self.expected.revocations.clear();
        self.installed.clear();
        self.revoked.clear();
    }

    fn expect_install(&mut self, number: u8) {
        *self.expected.installs.entry(number).or_default() += 1;
    }

    fn take(&mut self, step: Step) {
        if step.is_of_session() && !self.expected.in_session {
            return;
        }
        let node = &mut self.node;
        match step {
            Step::Welcome { catalogue, held, carried, lease } => {
                let mut snapshot = welcome(&catalogue);
                snapshot.granted = held.iter().map(|number| leased(*number, lease)).collect();
                snapshot.installed = carried.iter().map(|number| installed(*number, false, lease)).collect();
                node.welcome(snapshot);
                self.forget_acknowledgements();
                self.expected.in_session = true;
                self.expected.catalogue = catalogue.into_iter().collect();
                carried.into_iter().for_each(|number| self.expect_install(number));
            }
            Step::Put(number) => {
                node.message(catalogue(&[entry(number)], &[]));
                self.expected.catalogue.insert(number);
            }
            Step::Removed(number) => {
                node.message(catalogue(&[], &[number]));
                self.expected.catalogue.remove(&number);
            }
            Step::Pushed(number, lease) => {
                node.message(postern_wire::CoordinatorMessage::Granted(Box::new(leased(number, lease))));
            }
            Step::Install { number, by_name, lease } => {
                node.install(installed(number, by_name, lease));
                self.expect_install(number);
            }
            Step::Revoke(number) => {
                node.revoke(number);
                self.expected.revocations.push(number);
            }
            Step::Disconnected => {
                node.engine.handle_disconnected();
                self.expected.in_session = false;
                self.forget_acknowledgements();
            }
            Step::Evicted => {
                node.engine.handle_evicted();
                self.expected.in_session = false;
                self.forget_acknowledgements();
                self.expected.catalogue.clear();
            }
            Step::Miss(number) => {
                node.miss(number, "packet");
                self.expected.packets += 1;
            }
            Step::Want(number) => node.want(number),
            Step::Granted(number, lease) => node.granted(leased(number, lease)),
            Step::Denied(number, reason) => node.denied(number, reason),
            Step::Unanswered(number) => node.unanswered(number),
            Step::InUse(numbers) => node.in_use(&numbers),
            Step::Resolved(is_found) => node.resolved(HOST, if is_found { &["10.0.0.9"] } else { &[] }),
            Step::Applied => node.applied(),
            Step::Passed(seconds) => {
                let lines = node.pass(secs(seconds)).into_iter().map(|(_, line)| line).collect();
                self.look(lines);
            }
        }
        let lines = self.node.events();
        self.look(lines);
    }

    /// Counts what came out, and checks the last table of it.
    fn look(&mut self, lines: Vec<String>) {
        for line in lines {
            let words: Vec<_> = line.split([' ', ':']).collect();
            match words[0] {
                "installed" => *self.installed.entry(words[1].parse().unwrap()).or_default() += 1,
                "revoked" => self.revoked.push(words[1].parse().unwrap()),
                "replay" | "refuse" => {
                    self.packets_seen += words.iter().filter(|word| **word == "packet").count() as u32
                }
                _ => {}
            }
        }
        let Some(table) = &self.node.table else { return };
        for held in table.held.values() {
            assert!(self.expected.catalogue.iter().any(|number| resource(*number) == held.resource));
            assert!(self.node.now < held.expires, "{held:?} at {:?}", self.node.now);
        }
        for carried in table.carried.values() {
            assert!(self.node.now < carried.expires, "{carried:?} at {:?}", self.node.now);
        }
        let seen: BTreeSet<_> = table.catalogue.keys().copied().collect();
        let addresses = self.expected.catalogue.iter().map(|number| resource_addr(*number));
        assert_eq!(seen, addresses.flat_map(|addr| [addr.v4.into(), addr.v6.into()]).collect());
    }

    /// The resolver and the forwarder have caught up.
    fn settle(&mut self) {
        self.node.resolved(HOST, &["10.0.0.9"]);
        let lines = self.node.events();
        self.look(lines);
        self.node.applied();
        let lines = self.node.events();
        self.look(lines);
    }
}

fn leased(number: u8, lease: u64) -> postern_wire::Granted {
    postern_wire::Granted { lease: secs(lease), ..granted(number, number) }
}

fn installed(number: u8, by_name: bool, lease: u64) -> postern_wire::InstallGrant {
    let target = if by_name { HOST } else { "10.0.0.5" };
    postern_wire::InstallGrant { lease: secs(lease), ..install(number, target) }
}

proptest! {
    /// Invariants: every table has only live grants of the catalogue, and a higher number than the one before (also see
    /// `Node::events`); no packet is lost in silence, or seen twice.
    #[test]
    fn tables_hold_only_what_is_live_and_packets_are_answered_once(steps in steps()) {
        let mut run = Run::new();
        for step in steps {
            run.take(step);
        }
        run.take(Step::Passed(LONG.as_secs()));
        prop_assert_eq!(run.packets_seen, run.expected.packets);
        let table = run.node.table();
        prop_assert!(table.held.is_empty() && table.carried.is_empty() && table.peers.is_empty());
    }

    /// Invariant: what a session installs and revokes is acknowledged in it, each exactly once, when it is in force.
    #[test]
    fn every_message_is_acknowledged_exactly_once(steps in steps()) {
        let mut run = Run::new();
        for step in steps {
            // A grant that is revoked, or whose lease ends, before its target's name is known was never in force.
            let may_end = matches!(step, Step::Revoke(_) | Step::Passed(_));
            if may_end {
                run.settle();
            }
            run.take(step);
        }
        run.settle();
        prop_assert_eq!(&run.installed, &run.expected.installs);
        prop_assert_eq!(&run.revoked, &run.expected.revocations);
    }
}
