//! How long a decision holds, and what is visible: against asking again and again.

use std::collections::BTreeSet;

use postern_model::{Condition, Decision, DenyReason, Effect, Filter, Timestamp, record::Policy};
use proptest::prelude::*;

use super::{
    circumstances::{MINUTE, START, circumstances, moments},
    world::{CALM, COUNT, allowing, allowing_when, device, policy, resource, small_with, worlds},
};
use crate::{Case, decide, principals, visible, visible_in};

fn at(minutes: i64) -> Timestamp {
    Timestamp::from_unix_millis(START.unix_millis() + minutes * MINUTE)
}

fn holds_until(policy: Policy, end: Timestamp) -> Timestamp {
    let mut world = small_with([policy]);
    world.posture().firewall = Some(true);
    Case::new(&world, device(1), resource(1)).unwrap().holds_until(CALM, end)
}

#[test]
fn a_decision_ends_where_time_ends_it() {
    let long = at(3 * 24 * 60);
    assert_eq!(holds_until(allowing(1), long), long);
    assert_eq!(holds_until(Policy { until: Some(at(7)), ..allowing(1) }, long), at(7));
    assert_eq!(holds_until(allowing_when(1, "time.hour in 22..6"), long), at(6 * 60));
    assert_eq!(holds_until(allowing_when(1, "time.hour in 8..18"), long), at(0), "what is denied holds for no time");
    assert_eq!(holds_until(allowing_when(1, "time.weekday in mon..=tue"), long), at(2 * 24 * 60));
    assert_eq!(holds_until(allowing_when(1, "time.minute < 17"), long), at(17));
    assert_eq!(holds_until(allowing_when(1, "auth.age_hours < 5"), long), at(5 * 60));
    assert_eq!(holds_until(allowing_when(1, "posture.firewall"), long), CALM.posture_until.unwrap());
    assert_eq!(holds_until(allowing_when(1, "time.minute < 17"), at(3)), at(3), "no longer than is asked for");
}

#[test]
fn whole_records_that_an_expert_compares_end_with_each_of_their_fields() {
    let record = |fields: &str| format!(r#"{{"Record":{{{fields}}}}}"#);
    let is = |record_name: &str, fields: &str| Condition::Cedar {
        source: String::new(),
        clauses: format!(
            r#"[{{"kind":"when","body":{{"==":{{"left":{{".":{{"left":{{"Var":"context"}},"attr":"{record_name}"}}}},"right":{}}}}}}}]"#,
            record(fields)
        ),
    };
    let midnight = is("time", r#""hour":{"Value":0},"minute":{"Value":0},"weekday":{"Value":1}"#);
    assert_eq!(holds_until(Policy { condition: Some(midnight), ..allowing(1) }, at(100)), at(1));
    let new = is("auth", r#""age_hours":{"Value":0},"strength":{"Value":1}"#);
    assert_eq!(holds_until(Policy { condition: Some(new), ..allowing(1) }, at(100)), at(60));
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 64, ..ProptestConfig::default() })]

    /// Invariant: a decision holds exactly as long as asking every minute says that all is still allowed which is now.
    #[test]
    fn a_decision_holds_as_long_as_asking_every_minute_says(world in worlds(), circumstances in circumstances()) {
        let now = circumstances.now;
        let later = |n| Timestamp::from_unix_millis(now.unix_millis() + n * MINUTE);
        let end = later(200);
        for from in (0..COUNT).map(device) {
            for to in (0..COUNT).map(resource) {
                let Ok(case) = Case::new(&world, from, to) else { continue };
                let Decision::Allowed { filter, .. } = case.decide(circumstances) else {
                    prop_assert_eq!(case.holds_until(circumstances, end), now);
                    continue;
                };
                let is_less = |n: &i64| match case.decide(circumstances.at(later(*n))) {
                    Decision::Allowed { filter: then, .. } => !filter.minus(&then).is_empty(),
                    Decision::Denied { .. } => true,
                };
                let expected = (1..200).find(is_less).map_or(end, later);
                prop_assert_eq!(case.holds_until(circumstances, end), expected);
            }
        }
    }

    /// Invariant: what is hidden is denied under all circumstances, and what is visible is what an allowing policy that
    /// no unconditional and endless denial takes back speaks of.
    #[test]
    fn what_is_hidden_is_denied_whatever_the_circumstances(
        world in worlds(),
        now in moments(),
        tries in prop::collection::vec(circumstances(), 8),
    ) {
        for from in (0..=COUNT).map(device) {
            let visible = visible(&world, from);
            let mut reachable = BTreeSet::new();
            for to in (0..=COUNT).map(resource) {
                for circumstances in &tries {
                    if matches!(decide(&world, from, to, circumstances.at(now)), Decision::Allowed { .. }) {
                        reachable.insert(to);
                    }
                }
                let Ok(case) = Case::new(&world, from, to) else {
                    prop_assert!(!visible.contains(&to));
                    continue;
                };
                let (mut open, mut closed) = (Filter::default(), Filter::default());
                for policy in world.scan(case.device, case.resource) {
                    if policy.shadow {
                        continue;
                    }
                    let ports = policy.ports.clone().unwrap_or(case.resource.filter.clone());
                    match (policy.effect, &policy.condition, policy.until) {
                        (Effect::Allow, ..) => open = open.union(&ports),
                        (Effect::Deny, None, None) => closed = closed.union(&ports),
                        (Effect::Deny, ..) => {}
                    }
                }
                let is_visible = !case.resource.filter.intersection(&open).minus(&closed).is_empty();
                prop_assert_eq!(visible.contains(&to), is_visible);
            }
            prop_assert!(reachable.is_subset(&visible), "{reachable:?} in {visible:?}");
        }
    }
}

#[test]
fn a_hidden_resource_is_hidden_for_a_reason() {
    let world = small_with([allowing(1), Policy { effect: Effect::Deny, id: policy(2), ..allowing(2) }]);
    let principals = principals(&world, device(1)).unwrap();
    assert_eq!(visible_in(&world, &principals, resource(1)), Err(DenyReason::Forbidden));
    assert_eq!(visible_in(&world, &principals, resource(2)), Err(DenyReason::UnknownResource));
    assert_eq!(visible_in(&world, &principals[..1], resource(1)), Err(DenyReason::NoPolicy));
}
