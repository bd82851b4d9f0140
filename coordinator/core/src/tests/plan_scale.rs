//! Plans of one-line edits in a network of the size that it is made for. Times are printed and decide nothing; how much is looked
//! at does.

use std::time::Instant;

use postern_model::{
    Condition, Effect, GroupId, Moment, Scope, UserId,
    record::{Group, Policy, Principal},
};

use super::{
    declarations::short,
    scale::{NOW, RESOURCES, USERS, bytes, policy_id, resource_id, world},
    shell::{LEASE, config},
};
use crate::{
    Core, Declaration, Env, NewPolicy,
    declaration::{DeclaredPolicy, plan::Plan},
    state::LOOKS,
};

const POLICIES: u32 = 10_000;
const GROUPS: u32 = 1_000;

fn group_id(n: u32) -> GroupId {
    GroupId::from_bytes(bytes(8, n))
}

/// 10,000 policies of 1,000 groups, each user in three of them; every third has a condition.
fn core() -> Core {
    let mut world = world();
    world.groups.extend((0..GROUPS).map(|n| Group {
        id: group_id(n),
        name: format!("g{n}").parse().unwrap(),
        created_at: NOW,
    }));
    let user = |n: u32| UserId::from_bytes(bytes(5, n));
    world.members.extend((0..USERS).flat_map(|n| [n, n * 7 + 1, n / 10].map(|g| (group_id(g % GROUPS), user(n)))));
    world.members.sort_unstable();
    world.members.dedup();
    world.policies = (0..POLICIES).map(policy).collect();
    Core::new(world, config())
}

fn policy(n: u32) -> Policy {
    let (principal, scope) =
        (Principal::Group(group_id(n % GROUPS)), Scope::Resource(resource_id(n * 13 / 10 % RESOURCES)));
    let condition = n.is_multiple_of(3).then(|| Condition::Short { text: format!("auth.age_hours < {}", n % 50 + 1) });
    Policy { condition, ..Policy::allow(policy_id(n), principal, scope, NOW) }
}

#[allow(clippy::disallowed_methods, reason = "printed only")]
fn plan(core: &Core, what: &str, edit: impl FnOnce(&mut Declaration)) -> (Plan, u64) {
    let mut env = Env { now: NOW, moment: Moment::from_boot(LEASE), random: &mut |bytes| bytes.fill(7) };
    let start = Instant::now();
    let mut declaration = core.export(&mut env).unwrap();
    let exported = start.elapsed();
    edit(&mut declaration);
    LOOKS.set(0);
    let start = Instant::now();
    let plan = core.plan(&declaration, &mut env).unwrap();
    let (planned, looks) = (start.elapsed(), LOOKS.get());
    println!("{what}: exported in {exported:?}, planned in {planned:?}, {looks} looks, {} rows", plan.reach.len());
    (plan, looks)
}

fn add(declaration: &mut Declaration, policy: NewPolicy) {
    declaration.policies.as_mut().unwrap().push(DeclaredPolicy::Short(Box::new(policy)));
}

/// Invariant: a plan is as much work as what it can touch; beyond that, users are put into classes once.
#[test]
fn a_plan_of_one_line_looks_at_what_it_can_touch() {
    let core = core();
    let classes = 10 * u64::from(USERS);
    let (nothing, looks) = plan(&core, "nothing", |_| ());
    assert!(!nothing.has_changes() && looks < 10, "{looks}");

    let (edited, looks) = plan(&core, "one group, one resource", |declaration| {
        let last = declaration.policies.as_mut().unwrap().last_mut().unwrap();
        let DeclaredPolicy::Short(policy) = last else { panic!("{last:?}") };
        policy.ports = Some(super::office::tcp("443"));
        policy.when = Some("posture.firewall".into());
    });
    assert_eq!(edited.steps.len(), 2);
    assert!(looks < classes, "{looks}");

    let (denied, looks) = plan(&core, "everyone, one resource", |declaration| {
        add(declaration, short(Effect::Deny, "everyone", "r5"));
    });
    let lost: usize = denied.reach.iter().map(|row| row.who.users).sum();
    let may = (0..POLICIES).map(policy).filter(|it| it.scope == Scope::Resource(resource_id(5)));
    assert!(lost > 0 && lost <= may.count() * 40, "{lost}");
    assert!(looks < 2 * classes, "{looks}");

    let (all, looks) = plan(&core, "everyone, everything", |declaration| {
        add(declaration, short(Effect::Allow, "everyone", "everything"));
    });
    assert!(!all.reach.is_empty() && looks < 40 * classes, "{looks}");

    let (moved, looks) = plan(&core, "one member", |declaration| {
        let group = declaration.groups.as_mut().unwrap().get_mut(&"g1".parse().unwrap()).unwrap();
        group.members.as_mut().unwrap().pop_first();
    });
    assert_eq!(moved.reach.iter().map(|row| row.who.users).max(), Some(1));
    assert!(looks < classes, "{looks}");
}
