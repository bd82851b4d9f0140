//! Decisions by example.

use std::collections::BTreeSet;

use postern_model::{
    Condition, Decision, DenyReason, Effect, Filter, PolicyId, Scope, SiteId, Timestamp,
    record::{Owner, Policy, Principal},
};

use super::{
    circumstances::START,
    world::{
        CALM, World, allowing, allowing_when, denying, device, group, policy, ports, resource, short, small,
        small_with, tag, user,
    },
};
use crate::{Case, Circumstances, Counting, PolicySet, decide, visible};

fn denied(world: &World) -> DenyReason {
    match decide(world, device(1), resource(1), CALM) {
        Decision::Denied { reason } => reason,
        Decision::Allowed { policy, .. } => panic!("allowed by {policy}"),
    }
}

fn allowed(world: &World) -> (PolicyId, Filter) {
    match decide(world, device(1), resource(1), CALM) {
        Decision::Allowed { policy, filter } => (policy, filter),
        Decision::Denied { reason } => panic!("denied: {reason}"),
    }
}

#[test]
fn what_nothing_allows_is_denied() {
    assert_eq!(denied(&small()), DenyReason::NoPolicy);
    let others = [
        Policy { principal: Principal::User(user(2)), ..allowing(1) },
        Policy { principal: Principal::Group(group(1)), ..allowing(2) },
        Policy { principal: Principal::Device(device(2)), ..allowing(3) },
        Policy { scope: Scope::Resource(resource(2)), ..allowing(4) },
        Policy { scope: Scope::Tag(tag(1)), ..allowing(5) },
        Policy { until: Some(START), ..allowing(6) },
        Policy { shadow: true, ..allowing(7) },
        denying(8),
    ];
    assert_eq!(denied(&small_with(others)), DenyReason::NoPolicy, "policies for others, over, in shadow, or that deny");
}

#[test]
fn the_most_exact_policy_is_the_one_that_counts() {
    let mut world = small();
    world.members.insert((group(1), user(1)));
    let rising =
        [Principal::Everyone, Principal::Group(group(1)), Principal::User(user(1)), Principal::Device(device(1))];
    for (n, principal) in (1..).zip(rising) {
        world.add_policy(Policy { principal, scope: Scope::Everything, ..allowing(2 * n) });
        assert_eq!(allowed(&world).0, policy(2 * n), "{principal:?}");
        world.add_policy(Policy { principal, ..allowing(2 * n + 1) });
        assert_eq!(allowed(&world).0, policy(2 * n + 1), "{principal:?} and one resource");
    }
}

#[test]
fn allowed_ports_add_up_and_denied_ones_are_taken_out() {
    let mut world = small();
    world.add_resource(1, ports("tcp/22,80-90,443 icmp")).tags.insert(tag(1));
    world.add_policy(Policy { ports: Some(ports("tcp/443,8443")), ..allowing(1) });
    assert_eq!(allowed(&world).1, ports("tcp/443"), "what the resource does not open stays closed");
    world.add_policy(Policy { ports: Some(ports("tcp/80-100")), scope: Scope::Tag(tag(1)), ..allowing(2) });
    assert_eq!(allowed(&world).1, ports("tcp/80-90,443"));
    world.add_policy(Policy { ports: Some(ports("tcp/85")), scope: Scope::Everything, ..denying(3) });
    assert_eq!(allowed(&world).1, ports("tcp/80-84,86-90,443"), "a denial wins, however wide it is");
    world.add_policy(Policy { principal: Principal::Everyone, ..denying(4) });
    assert_eq!(denied(&world), DenyReason::Forbidden);
    assert!(visible(&world, device(1)).is_empty());
}

#[test]
fn a_policy_about_ports_that_are_closed_allows_nothing() {
    let world = small_with([Policy { ports: Some(ports("tcp/22")), ..allowing(1) }]);
    assert_eq!(denied(&world), DenyReason::EmptyFilter);
    assert!(visible(&world, device(1)).is_empty());
}

#[test]
fn conditions_are_met_or_not() {
    let mut world = small_with([allowing_when(1, "posture.disk_encrypted")]);
    assert_eq!(denied(&world), DenyReason::ConditionNotMet, "unknown");
    assert_eq!(visible(&world, device(1)), BTreeSet::from([resource(1)]), "it can be had");
    world.posture().disk_encrypted = Some(false);
    assert_eq!(denied(&world), DenyReason::ConditionNotMet);
    world.posture().disk_encrypted = Some(true);
    assert_eq!(allowed(&world).0, policy(1));
    let old = Circumstances { posture_until: Some(START), ..CALM };
    let reason = DenyReason::ConditionNotMet;
    assert_eq!(decide(&world, device(1), resource(1), old), Decision::Denied { reason }, "what it said is too old");
    world.add_policy(Policy { condition: Some(short("posture.disk_encrypted")), ..denying(2) });
    assert_eq!(denied(&world), DenyReason::Forbidden);
    world.posture().disk_encrypted = None;
    assert_eq!(denied(&world), DenyReason::ConditionNotMet);
}

#[test]
fn what_can_not_be_compiled_allows_nothing_and_denies() {
    let broken = [
        short("posture.unheard_of"),
        short(""),
        Condition::Cedar { source: String::new(), clauses: "[".into() },
        Condition::Cedar { source: String::new(), clauses: r#"[{"kind":"when","body":{"Unheard":1}}]"#.into() },
    ];
    for condition in broken {
        let mut world = small_with([Policy { condition: Some(condition.clone()), ..allowing(1) }]);
        assert!(world.set.iter().all(|policy| policy.fault().is_some()), "{condition:?}");
        assert_eq!(denied(&world), DenyReason::ConditionNotMet, "{condition:?}");
        world.add_policy(allowing(2));
        assert_eq!(allowed(&world).0, policy(2));
        world.add_policy(Policy { condition: Some(condition.clone()), ..denying(3) });
        assert_eq!(denied(&world), DenyReason::Forbidden, "{condition:?}");
        let end = Timestamp::from_unix_millis(START.unix_millis() + 1);
        let case = Case::new(&world, device(1), resource(1)).unwrap();
        assert_eq!(case.holds_until(CALM, end), CALM.now, "what is denied holds for no time");
    }
}

#[test]
fn shadows_decide_nothing_and_are_told() {
    let world = small_with([
        allowing(1),
        Policy { shadow: true, ..denying(2) },
        Policy { shadow: true, condition: Some(short("posture.firewall")), ..denying(3) },
        Policy { shadow: true, until: Some(START), ..denying(4) },
    ]);
    assert_eq!(allowed(&world).0, policy(1));
    let case = Case::new(&world, device(1), resource(1)).unwrap();
    assert!(case.has_shadow());
    let forbidden = Decision::Denied { reason: DenyReason::Forbidden };
    assert_eq!(case.weigh(CALM, Counting::WithShadow), forbidden);
    let shadows: Vec<_> = case.shadows(CALM).iter().map(|policy| policy.policy().id).collect();
    assert_eq!(shadows, [policy(2)], "neither the one that is not met nor the one that is over");
}

#[test]
fn whoever_may_reach_nothing_is_told_why_and_sees_nothing() {
    type Breaking = fn(&mut World);
    let cases: [(Breaking, DenyReason); 6] = [
        (|world| world.users.get_mut(&user(1)).unwrap().suspended = true, DenyReason::UserSuspended),
        (|world| world.users.clear(), DenyReason::UserRemoved),
        (|world| world.devices.get_mut(&device(1)).unwrap().revoked = true, DenyReason::DeviceRevoked),
        (|world| world.devices.clear(), DenyReason::DeviceRevoked),
        (|world| world.resources.clear(), DenyReason::UnknownResource),
        (|world| world.resources.get_mut(&resource(1)).unwrap().filter = Filter::default(), DenyReason::EmptyFilter),
    ];
    for (break_it, reason) in cases {
        let mut world = small_with([allowing(1)]);
        assert_eq!(visible(&world, device(1)), BTreeSet::from([resource(1)]));
        break_it(&mut world);
        assert_eq!(denied(&world), reason);
        assert!(visible(&world, device(1)).is_empty());
    }
}

#[test]
fn a_service_device_is_in_no_group() {
    let mut world = small_with([
        allowing(1),
        Policy { principal: Principal::Group(group(1)), ..allowing(2) },
        Policy { principal: Principal::Device(device(2)), ..allowing(3) },
    ]);
    world.add_device(1, Owner::Site(SiteId::from_bytes([1; 16])));
    world.members.insert((group(1), user(1)));
    assert_eq!(denied(&world), DenyReason::NoPolicy);
    world.add_policy(Policy { principal: Principal::Device(device(1)), ..allowing(4) });
    assert_eq!(allowed(&world).0, policy(4));
}

#[test]
fn nothing_is_left_of_a_policy_that_was_taken_out() {
    let kept = Policy { condition: Some(short("file(\"/a=b\") && package(\"x\") > \"1\"")), ..allowing(1) };
    let gone = Policy {
        condition: Some(short("file(\"/a=b\") || process(\"x\")")),
        effect: Effect::Deny,
        scope: Scope::Everything,
        ..allowing(2)
    };
    let mut set = PolicySet::compile([&kept, &gone]);
    assert_eq!(set.checks().count(), 3);
    assert_eq!(set.policies_of(kept.principal), [kept.id, gone.id]);
    set.remove(&gone);
    assert_eq!(set, PolicySet::compile([&kept]));
    assert_eq!(set.checks().map(ToString::to_string).collect::<Vec<_>>(), ["file:/a=b", "package:x"]);
    assert_eq!(set.policies_about(&kept.scope).collect::<Vec<_>>(), [(kept.id, kept.principal)]);
    assert_eq!(set.policies_about(&gone.scope).count(), 0);
    set.remove(&kept);
    assert_eq!(set, PolicySet::default());
}
