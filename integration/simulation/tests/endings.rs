//! How access ends: revoked, or not renewed. Nothing passes any more, also not on what was open, and both ends are told.

use std::time::Duration;

use postern_simulation::{
    Quality, Step, World,
    scenario::{Kind, Sending, conditions},
    setting::{LEASE, RESOURCES},
};
use proptest::prelude::*;

const SECOND: Duration = Duration::from_secs(1);

fn assert_holds(world: &World) -> Result<(), TestCaseError> {
    let all: Vec<_> = world.violations().iter().map(ToString::to_string).collect();
    prop_assert!(all.is_empty(), "{}", all.join("\n"));
    Ok(())
}

/// A connection of the first client.
fn connections() -> impl Strategy<Value = Sending> {
    (0..RESOURCES.len(), any::<bool>(), 4000_u16..4010)
        .prop_map(|(resource, is_v6, own_port)| Sending::connection(0, resource, is_v6, own_port))
}

/// How an admin ends the access to a resource.
fn endings(resource: usize) -> impl Strategy<Value = Step> {
    prop_oneof![
        Just(Step::Forbid(0, resource)),
        Just(Step::Suspend(0)),
        Just(Step::Revoke(0)),
        Just(Step::Filter(resource, 2)),
        Just(Step::Remove(resource)),
    ]
}

/// A world in which the first client may do everything, and has this connection open, with so much sent to and fro.
fn with_connection(conditions: &postern_simulation::Conditions, open: &Sending, exchanged: &[bool]) -> World {
    let mut world = World::new(conditions);
    world.pass(2 * SECOND);
    (0..RESOURCES.len()).for_each(|resource| world.step(&Step::Allow(0, resource)));
    world.pass(SECOND);
    let syn = world.send_packet(open);
    world.pass(2 * SECOND);
    world.reply_to_packet(syn, 10);
    world.pass(SECOND);
    for from_client in exchanged {
        exchange(&mut world, open, syn, *from_client);
        world.pass(Duration::from_millis(100));
    }
    world
}

fn exchange(world: &mut World, open: &Sending, syn: u64, from_client: bool) -> Option<u64> {
    match from_client {
        true => Some(world.send_packet(&Sending { kind: Kind::TcpData, ..*open })),
        false => world.reply_to_packet(syn, 30),
    }
}

proptest! {
    /// Invariant 5: within a second of an admin's word a connection is reset at both ends, and neither end can go on.
    #[test]
    fn a_revocation_resets_both_ends_and_lets_nothing_pass(
        conditions in conditions(Just(Quality::PERFECT), false),
        (open, ending) in connections().prop_flat_map(|open| (Just(open), endings(open.resource))),
        exchanged in prop::collection::vec(any::<bool>(), 0..12),
        tries in prop::collection::vec(any::<bool>(), 1..10),
        is_client_away in any::<bool>(),
    ) {
        let mut world = with_connection(&conditions, &open, &exchanged);
        let (syn, before) = (world.arrival(world.arrived() - 1), world.arrived());
        prop_assert_eq!(world.were_reset(&open), (false, false));
        prop_assert!(before > exchanged.iter().filter(|from_client| **from_client).count(), "the connection is open");
        if is_client_away {
            // It hears of it from its gateway alone.
            world.step(&Step::Disconnect(0));
        }
        world.step(&ending);
        world.pass(SECOND);
        prop_assert_eq!(world.were_reset(&open), (true, true));
        for from_client in tries {
            let id = syn.and_then(|syn| exchange(&mut world, &open, syn, from_client));
            let new = world.send_packet(&Sending { own_port: 5000, ..open });
            world.pass(2 * SECOND);
            prop_assert!(id.is_none_or(|id| world.delivered_at(id).is_none()) && world.delivered_at(new).is_none());
        }
        prop_assert_eq!(world.arrived(), before);
        assert_holds(&world)?;
    }

    /// Invariant 6: without a coordinator a lease goes on to its end and no further, and both ends see to it themselves.
    /// When the coordinator is back, all is as before.
    #[test]
    fn a_lease_ends_by_itself_at_both_ends(
        conditions in conditions(Just(Quality::PERFECT), false),
        open in connections(),
        exchanged in prop::collection::vec(any::<bool>(), 0..12),
        is_crash in any::<bool>(),
    ) {
        let mut world = with_connection(&conditions, &open, &exchanged);
        let syn = world.arrival(world.arrived() - 1);
        world.step(&Step::Outage(3 * LEASE, is_crash));
        let away_since = world.now();
        let (mut last_passed, mut passed_back) = (Duration::ZERO, Duration::ZERO);
        while world.now() < away_since + LEASE + SECOND {
            let out = world.send_packet(&Sending { kind: Kind::TcpData, ..open });
            let back = syn.and_then(|syn| exchange(&mut world, &open, syn, false));
            world.pass(SECOND);
            last_passed = last_passed.max(world.delivered_at(out).unwrap_or_default());
            passed_back = passed_back.max(back.and_then(|id| world.delivered_at(id)).unwrap_or_default());
        }
        // It was asked for less than 10 seconds before.
        for last in [last_passed, passed_back] {
            prop_assert!(last > away_since + LEASE - 10 * SECOND, "until {last:?}, away since {away_since:?}");
            prop_assert!(last < away_since + LEASE, "until {last:?}, away since {away_since:?}");
        }
        prop_assert_eq!(world.were_reset(&open), (true, true));
        assert_holds(&world)?;
        world.settle(SECOND);
        let again = world.send_packet(&Sending { own_port: 5000, ..open });
        world.pass(2 * SECOND);
        prop_assert!(world.delivered_at(again).is_some(), "the coordinator is back");
        assert_holds(&world)?;
    }
}
