//! Whatever happens, and however much of it: what must never happen does not. The oracle looks at every packet.

use std::time::Duration;

use postern_simulation::{
    Conditions, Invariant, Quality, Step, World,
    scenario::{Mix, conditions, qualities, steps},
};
use proptest::prelude::*;

/// Runs a scenario to the end of all that it left under way.
fn run(conditions: &Conditions, steps: &[Step]) -> World {
    let mut world = World::new(conditions);
    for step in steps {
        world.step(step);
    }
    world.pass(Duration::from_secs(30));
    world
}

fn check(world: &World, invariants: &[Invariant]) -> Result<(), TestCaseError> {
    let broken: Vec<_> = world.violations().iter().filter(|it| invariants.contains(&it.invariant)).collect();
    prop_assert!(broken.is_empty(), "{}", broken.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"));
    Ok(())
}

const ALL: [Invariant; 4] = [Invariant::OnlyGranted, Invariant::OnlyReplies, Invariant::Once, Invariant::Unaltered];

proptest! {
    /// Invariant 1, with everything that an admin, the network and the coordinator can do.
    #[test]
    fn no_packet_reaches_a_target_without_a_live_grant(
        conditions in conditions(qualities(), false),
        steps in steps(Mix::ALL, 10..80),
    ) {
        check(&run(&conditions, &steps), &ALL)?;
    }

    /// Invariant 2: hosts behind gateways send what nobody asked for, as themselves and as resources.
    #[test]
    fn nothing_but_replies_and_refusals_reaches_an_application(
        conditions in conditions(Just(Quality::PERFECT), false),
        steps in steps(Mix { knocking: 40, admin: 5, forging: 5, ..Mix::default() }, 10..80),
    ) {
        check(&run(&conditions, &steps), &ALL)?;
    }

    /// Invariant 4: the network duplicates, reorders and replays all it can.
    #[test]
    fn nothing_is_delivered_twice(
        conditions in conditions(
            Just(Quality {
                loss: 5,
                duplication: 90,
                delay: (Duration::from_millis(1), Duration::from_millis(2000)),
            }),
            false,
        ),
        steps in steps(Mix { network: 40, ..Mix::default() }, 10..80),
    ) {
        check(&run(&conditions, &steps), &ALL)?;
    }

    /// Invariant 7: a client whose table allows it everything, from any address, for ever.
    #[test]
    fn a_malicious_client_gains_nothing(
        conditions in conditions(qualities(), true),
        steps in steps(Mix { forging: 20, ..Mix::ALL }, 10..80),
    ) {
        check(&run(&conditions, &steps), &ALL)?;
    }
}
