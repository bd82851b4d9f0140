//! What is granted gets through: at once over a perfect network, and soon after a bad one has become good.

use std::time::Duration;

use postern_simulation::{
    Conditions, Quality, Step, World,
    scenario::{Kind, Mix, Sending, conditions, qualities, steps},
    setting::{CLIENTS, LEASE, RESOURCES},
};
use proptest::prelude::*;

/// How long an access request, a name, and a handshake may take together.
const BOUND: Duration = Duration::from_millis(1500);
/// How long bad times may have consequences: a peer that has lost its keys is noticed after 15 seconds, and a handshake
/// that was lost is tried again after 5.
const RECOVERY: Duration = Duration::from_secs(25);

/// How long after an admin's change everyone has heard of it, and a denial before it stands no more.
const CALM: Duration = Duration::from_millis(1500);

fn assert_holds(world: &World) -> Result<(), TestCaseError> {
    let all: Vec<_> = world.violations().iter().map(ToString::to_string).collect();
    prop_assert!(all.is_empty(), "{}", all.join("\n"));
    Ok(())
}

/// A packet that was written.
#[derive(Debug)]
enum Written {
    /// By an application; whether an admin would have allowed it then.
    Sent(u64, Sending, bool),
    /// By a host, and which packet it answers.
    Reply(u64, u64),
}

impl Written {
    fn id(&self) -> u64 {
        let (Self::Sent(id, ..) | Self::Reply(id, _)) = self;
        *id
    }

    /// Whether it must have been delivered in time, if admins have changed things at these times.
    fn is_due(&self, world: &World, changes: &[Duration]) -> bool {
        let at = world.written_at(self.id());
        match self {
            Self::Sent(id, sending, is_allowed) => {
                let is_calm = changes.iter().all(|change| *change + CALM < at || *change > at + BOUND);
                // A lease may end while the packet is under way. Without one, the packet waits.
                is_calm && *is_allowed && (!world.was_held(sending, at) || world.was_granted(*id, at, at + BOUND))
            }
            Self::Reply(id, answered) => {
                // Within the life of an echo's flow and of a closed connection's.
                let is_young = |asked: Duration| at - asked < Duration::from_secs(9);
                let asked = world.delivered_at(*answered).filter(|asked| is_young(*asked));
                asked.is_some_and(|asked| world.was_granted(*id, asked, at + BOUND))
            }
        }
    }
}

/// Carries out the steps, and looks whether all was delivered in time that must have been.
fn run_and_check(conditions: &Conditions, steps: &[Step]) -> Result<(), TestCaseError> {
    let mut world = World::new(conditions);
    let (mut written, mut changes) = (Vec::new(), Vec::new());
    for step in steps {
        match step {
            Step::Send(sending, None) => {
                let is_allowed = world.may_send(sending);
                written.push(Written::Sent(world.send_packet(sending), *sending, is_allowed));
            }
            Step::Reply(back, len) => {
                if let Some(answered) = world.arrival(*back)
                    && let Some(reply) = world.reply_to_packet(answered, *len)
                {
                    written.push(Written::Reply(reply, answered));
                }
            }
            step => {
                if !matches!(step, Step::Pass(_) | Step::Want(..) | Step::Complain(_)) {
                    changes.push(world.now());
                }
                world.step(step);
            }
        }
    }
    world.pass(Duration::from_secs(15));
    assert_holds(&world)?;
    for it in &written {
        let took = world.delivered_at(it.id()).map(|at| at - world.written_at(it.id()));
        prop_assert!(
            !it.is_due(&world, &changes) || took.is_some_and(|took| took <= BOUND),
            "{it:?} of {:?} took {took:?}",
            world.written_at(it.id())
        );
    }
    Ok(())
}

proptest! {
    /// Invariant 3: exactly once (the oracle counts), in bounded time, unaltered and between the right addresses (it
    /// compares), whether the grant is there or still being asked for.
    #[test]
    fn every_packet_of_a_live_grant_gets_through_a_perfect_network(
        conditions in conditions(Just(Quality::PERFECT), false),
        steps in steps(Mix::default(), 10..80),
    ) {
        run_and_check(&conditions, &steps)?;
    }

    /// Invariant 3, while an admin changes things: who is not concerned does not notice, and who is allowed anew is heard.
    #[test]
    fn what_an_admin_leaves_alone_goes_on(
        conditions in conditions(Just(Quality::PERFECT), false),
        steps in steps(Mix { admin: 8, ..Mix::default() }, 10..80),
    ) {
        run_and_check(&conditions, &steps)?;
    }

    /// Invariant 3: whatever has happened, once the network is good, every new packet of what is allowed gets through,
    /// and its reply back; and what is not allowed is refused at once.
    #[test]
    fn after_bad_times_every_packet_gets_through_again(
        conditions in conditions(qualities(), false),
        steps in steps(Mix { forging: 0, knocking: 0, ..Mix::ALL }, 10..80),
        is_v6 in any::<bool>(),
    ) {
        let mut world = World::new(&conditions);
        for step in &steps {
            world.step(step);
        }
        world.settle(Duration::from_secs(1));
        let pairs = || (0..CLIENTS).flat_map(|client| (0..RESOURCES.len()).map(move |resource| (client, resource)));
        for (client, resource) in pairs() {
            world.send_packet(&Sending::probe(client, resource, is_v6, 6000));
        }
        world.pass(RECOVERY);
        let mut probes = Vec::new();
        for (client, resource) in pairs() {
            let probe = Sending::probe(client, resource, is_v6, 6000);
            probes.push((probe, world.send_packet(&probe)));
        }
        world.pass(BOUND);
        let mut replies = Vec::new();
        for (probe, id) in probes {
            if world.may_send(&probe) {
                prop_assert!(world.delivered_at(id).is_some(), "{probe:?} is lost");
                replies.push((probe, world.reply_to_packet(id, 80)));
            } else if !world.is_evicted(probe.client) {
                prop_assert!(world.refused_at(id).is_some(), "{probe:?} is lost without a word");
            }
        }
        world.pass(BOUND);
        for (probe, reply) in replies {
            prop_assert!(reply.and_then(|id| world.delivered_at(id)).is_some(), "the reply to {probe:?} is lost");
        }
        assert_holds(&world)?;
    }

    /// A lease in use is renewed, whenever its use begins: a connection is never reset while it is allowed.
    #[test]
    fn a_connection_outlives_its_lease(
        conditions in conditions(Just(Quality::PERFECT), false),
        asked_ahead in 0..58_u64,
        pauses in prop::collection::vec(1..40_u64, 10..20),
        resource in 0..RESOURCES.len(),
        is_v6 in any::<bool>(),
    ) {
        let open = Sending::connection(0, resource, is_v6, 4000);
        let more = Sending { kind: Kind::TcpData, ..open };
        let mut world = World::new(&conditions);
        world.pass(Duration::from_secs(2));
        world.step(&Step::Allow(0, resource));
        world.pass(Duration::from_secs(1));
        world.step(&Step::Want(0, resource));
        world.pass(Duration::from_secs(asked_ahead));
        let mut sent = world.send_packet(&open);
        for pause in pauses {
            world.pass(BOUND);
            prop_assert!(world.delivered_at(sent).is_some(), "lost at {:?}", world.now());
            let reply = world.reply_to_packet(sent, 20);
            world.pass(Duration::from_secs(pause));
            prop_assert!(reply.and_then(|id| world.delivered_at(id)).is_some(), "lost at {:?}", world.now());
            prop_assert_eq!(world.were_reset(&open), (false, false), "at {:?}", world.now());
            sent = world.send_packet(&more);
        }
        prop_assert!(world.now() > LEASE);
        assert_holds(&world)?;
    }
}
