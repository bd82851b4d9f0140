//! Access without circumstances, against decisions under circumstances.

use std::collections::BTreeSet;

use postern_model::{
    Condition, Decision, Filter, ResourceId, Scope, Timestamp, UserId,
    record::{Policy, Principal},
};
use proptest::prelude::*;

use super::{
    circumstances::{MINUTE, START, circumstances},
    world::{
        CALM, COUNT, World, allowing, allowing_when, denying, device, group, policies, policy, ports, resource, short,
        small_with, tag, user, worlds,
    },
};
use crate::{
    Ability, Access, Case, Change, Circumstances, CompiledPolicy, Facts as _, Term, Who, access, decide, difference,
    plan, who_can,
};

const ALICE: Who = Who::User(UserId::from_bytes([1; 16]));

fn at(minutes: i64) -> Timestamp {
    Timestamp::from_unix_millis(START.unix_millis() + minutes * MINUTE)
}

/// Resource 1 that opens more, with these policies.
fn wide(policies: impl IntoIterator<Item = Policy>) -> World {
    let mut world = small_with(policies);
    world.add_resource(1, ports("tcp/any icmp")).tags.insert(tag(1));
    world
}

fn open(policies: impl IntoIterator<Item = Policy>) -> Access {
    access(&wide(policies), ALICE, resource(1), START)
}

fn on(ports_text: &str, policy: Policy) -> Policy {
    Policy { ports: Some(ports(ports_text)), ..policy }
}

fn denying_when(n: u8, text: &str) -> Policy {
    Policy { condition: Some(short(text)), ..denying(n) }
}

/// A term as people would read it.
fn shown(term: &Term) -> String {
    let condition = term.condition.as_ref().map(|condition| format!(" when {}", condition.source()));
    let until = term.until.map(|until| format!(" until {}", crate::until::display(until)));
    format!("{}{}{}", term.ports, condition.unwrap_or_default(), until.unwrap_or_default())
}

fn all_shown(terms: &BTreeSet<Term>) -> Vec<String> {
    terms.iter().map(shown).collect()
}

#[test]
fn policies_that_mean_the_same_are_the_same_access() {
    let everything = || Policy { scope: Scope::Everything, ..allowing(5) };
    let until = |minutes, policy: Policy| Policy { until: Some(at(minutes)), ..policy };
    let same: [(Vec<Policy>, Vec<Policy>); 12] = [
        (vec![until(9, allowing(1))], vec![until(5, allowing(1)), until(9, allowing(2))]),
        (
            vec![allowing(1), until(9, denying(2))],
            vec![allowing(1), until(9, denying(2)), until(5, denying_when(3, "posture.firewall"))],
        ),
        (vec![], vec![until(5, allowing(1)), until(9, denying(2))]),
        (vec![allowing(1)], vec![Policy { scope: Scope::Tag(tag(1)), principal: Principal::Everyone, ..allowing(2) }]),
        (vec![on("tcp/1-10", allowing(1))], vec![on("tcp/1-4", allowing(1)), on("tcp/5-10", allowing(2))]),
        (vec![on("tcp/any", allowing(1))], vec![on("tcp/1-4", allowing(1)), on("tcp/5-65535", allowing(2))]),
        (vec![allowing(1)], vec![allowing(1), allowing_when(2, "posture.firewall")]),
        (
            vec![allowing_when(1, "posture.firewall && time.hour < 8")],
            vec![allowing_when(1, "(time.hour<8 && posture.firewall) && posture.firewall")],
        ),
        (vec![on("tcp/any", allowing(1))], vec![everything(), on("icmp", denying(2))]),
        (vec![], vec![allowing_when(1, "posture.firewall"), Policy { until: Some(at(5)), ..allowing(2) }, denying(3)]),
        (vec![allowing(1)], vec![allowing(1), Policy { until: Some(at(9)), ..allowing(2) }]),
        (vec![], vec![allowing_when(1, "time.hour < 8"), denying_when(2, "time.hour < 8")]),
    ];
    for (one, other) in same {
        let (one, other) = (open(one), open(other));
        assert_eq!(one, other);
        assert!(difference(&one, &other).is_empty());
    }
    let other = [
        (vec![], vec![until(9, allowing(1)), until(5, denying(2))]),
        (vec![until(9, allowing(1))], vec![until(5, allowing(1))]),
        (vec![allowing_when(1, "posture.firewall")], vec![allowing_when(1, "posture.screen_lock")]),
        (vec![allowing_when(1, "time.hour < 8")], vec![allowing(1), denying_when(2, "time.hour < 8")]),
        (vec![allowing(1)], vec![on("tcp/any", allowing(1))]),
    ];
    for (one, other) in other {
        let (one, other) = (open(one), open(other));
        assert!(!difference(&one, &other).is_empty() && !difference(&other, &one).is_empty(), "{one:?}, {other:?}");
    }
    let nothing: [Policy; 4] = [
        denying(1),
        Policy { shadow: true, ..allowing(2) },
        Policy { until: Some(START), ..allowing(3) },
        allowing_when(4, "posture.unheard_of"),
    ];
    assert_eq!(open(nothing), Access::default());
    assert_eq!(open([allowing(1), denying_when(2, "posture.unheard_of")]), Access::default(), "fails closed");
}

#[test]
fn differences_are_told_with_their_conditions() {
    let changes = |before: Vec<Policy>, after: Vec<Policy>| -> Vec<String> {
        let changes = difference(&open(before), &open(after));
        let shown = changes.iter().map(|change| match change {
            Change::Gained(term) => format!("+ {}", shown(term)),
            Change::Lost(term) => format!("- {}", shown(term)),
            Change::Restricted(term) => format!("restricted {}", shown(term)),
            Change::Lifted(term) => format!("lifted {}", shown(term)),
        });
        shown.collect()
    };
    let web = || on("tcp/443", allowing(1));
    let web_when = || on("tcp/443", allowing_when(1, "posture.firewall"));
    assert_eq!(changes(vec![], vec![web()]), ["+ tcp/443"]);
    assert_eq!(changes(vec![web()], vec![]), ["- tcp/443"]);
    assert_eq!(changes(vec![web()], vec![web(), on("tcp/22,443", allowing(2))]), ["+ tcp/22"]);
    assert_eq!(changes(vec![web()], vec![web_when()]), ["- tcp/443"]);
    assert_eq!(changes(vec![web_when()], vec![web()]), ["+ tcp/443"]);
    assert_eq!(changes(vec![], vec![web_when()]), ["+ tcp/443 when posture.firewall"]);
    assert_eq!(
        changes(vec![web()], vec![web(), denying_when(2, "time.hour < 8")]),
        ["restricted tcp/443 when time.hour < 8"]
    );
    assert_eq!(
        changes(vec![web(), denying_when(2, "time.hour < 8")], vec![web()]),
        ["lifted tcp/443 when time.hour < 8"]
    );
    assert_eq!(changes(vec![web()], vec![web(), denying(2)]), ["- tcp/443"]);
    let end = Some(crate::until::parse("2026-12-31").unwrap());
    assert_eq!(changes(vec![], vec![Policy { until: end, ..web() }]), ["+ tcp/443 until 2026-12-31"]);
    assert_eq!(changes(vec![web()], vec![web(), denying_when(2, "time.hour < 8"), web_when()]).len(), 1);
}

#[test]
fn an_experts_condition_means_something_else_in_other_groups() {
    let clauses = format!(
        r#"[{{"kind":"when","body":{{"in":{{"left":{{"Var":"principal"}},"right":{{"Value":{{"__entity":{{"type":"Group","id":"{}"}}}}}}}}}}}}]"#,
        group(1)
    );
    let condition = Some(Condition::Cedar { source: "in eng".into(), clauses });
    let before = wide([Policy { condition, ..allowing(1) }]);
    let mut after = before.clone();
    after.members.insert((group(1), user(1)));
    let pairs = [(Who::Device(device(1)), resource(1)), (ALICE, resource(1))];
    assert_eq!(plan(&before, &after, pairs, START).len(), 2);
    let mut other = before.clone();
    other.members.insert((group(2), user(1)));
    assert!(plan(&before, &other, pairs, START).is_empty(), "it does not ask for that group");
}

#[test]
fn who_can_is_told_with_the_terms() {
    let mut world = wide([
        on("tcp/443", Policy { principal: Principal::Group(group(1)), ..allowing(1) }),
        on("tcp/443", Policy { principal: Principal::User(user(2)), ..allowing_when(2, "posture.firewall") }),
        on("tcp/22", Policy { principal: Principal::Device(device(1)), ..allowing(3) }),
    ]);
    (0..5).for_each(|n| world.add_user(n, n == 4));
    world.members.extend([(group(1), user(1)), (group(1), user(4))]);
    let ask = |ports_text: &str| -> Vec<_> {
        let whom = (0..5).map(|n| Who::User(user(n))).chain([Who::Device(device(1))]);
        who_can(&world, resource(1), Some(&ports(ports_text)), whom, START)
    };
    use Ability::{Always, Never, Sometimes};
    let abilities = |ports: &str| ask(ports).into_iter().map(|able| able.ability).collect::<Vec<_>>();
    assert_eq!(abilities("tcp/443"), [Never, Always, Sometimes, Never, Never, Always]);
    assert_eq!(abilities("tcp/22"), [Never, Never, Never, Never, Never, Always]);
    assert_eq!(abilities("tcp/22,443"), [Never, Sometimes, Sometimes, Never, Never, Always]);
    assert_eq!(abilities("udp/53"), [Never; 6]);
    assert_eq!(all_shown(&ask("tcp/443")[2].access.allow), ["tcp/443 when posture.firewall"]);
    world.add_policy(Policy { principal: Principal::Everyone, ..denying_when(4, "time.weekday in sat..=sun") });
    let able = &who_can(&world, resource(1), Some(&ports("tcp/443")), [ALICE], START)[0];
    assert_eq!(able.ability, Sometimes);
    assert_eq!(all_shown(&able.access.deny), ["tcp/443 when time.weekday in sat..=sun"]);
}

/// What a decision opens.
fn opened(world: &World, from: u8, to: ResourceId, circumstances: Circumstances) -> Filter {
    match decide(world, device(from), to, circumstances) {
        Decision::Allowed { filter, .. } => filter,
        Decision::Denied { .. } => Filter::default(),
    }
}

fn is_same(a: &Filter, b: &Filter) -> bool {
    a.minus(b).is_empty() && b.minus(a).is_empty()
}

/// What access makes open under these circumstances: each term is asked on its own.
fn asked(world: &World, from: u8, to: ResourceId, access: &Access, circumstances: Circumstances) -> Filter {
    let Ok(case) = Case::new(world, device(from), to) else { return Filter::default() };
    let asking = case.asking(circumstances);
    let union = |terms: &BTreeSet<Term>| {
        let applies = |term: &&Term| {
            let condition = term.condition.as_ref().map(|condition| short(condition.source()));
            let policy = CompiledPolicy::new(Policy { condition, until: term.until, ..allowing(1) });
            policy.is_current(circumstances.now) && asking.meets(&policy) == Ok(true)
        };
        terms.iter().filter(applies).fold(Filter::default(), |open, term| open.union(&term.ports))
    };
    union(&access.allow).minus(&union(&access.deny))
}

/// A world, and the same after an edit: policies out and in, members, and somebody suspended.
fn edits() -> impl Strategy<Value = (World, World)> {
    let gone = prop::collection::vec(any::<prop::sample::Index>(), 0..3);
    let members = prop::collection::btree_set((0..COUNT, 0..COUNT), 0..2);
    let suspended = prop::option::weighted(0.2, 0..COUNT);
    (worlds(), gone, prop::collection::vec(policies(), 0..3), members, suspended).prop_map(
        |(before, gone, new, members, suspended)| {
            let mut after = before.clone();
            for at in gone {
                if !after.policies.is_empty() {
                    after.remove_policy(at.index(after.policies.len()));
                }
            }
            for (n, it) in (100..).zip(new) {
                after.add_policy(Policy { id: policy(n), ..it });
            }
            after.members.extend(members.into_iter().map(|(n, member)| (group(n), user(member))));
            if let Some(user) = suspended.and_then(|n| after.users.get_mut(&user(n))) {
                user.suspended = true;
            }
            (before, after)
        },
    )
}

/// The same world with policies that ask nothing and do not end.
fn unconditional(world: &World) -> World {
    let mut plain = World { policies: vec![], set: crate::PolicySet::default(), ..world.clone() };
    for policy in &world.policies {
        plain.add_policy(Policy { condition: None, until: None, ..policy.clone() });
    }
    plain
}

fn pairs() -> Vec<(u8, ResourceId)> {
    (0..COUNT).flat_map(|from| (0..COUNT).map(move |to| (from, resource(to)))).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 64, ..ProptestConfig::default() })]

    /// Invariant: access without circumstances, asked under some, is what is decided under them.
    #[test]
    fn access_is_what_is_decided(world in worlds(), circumstances in circumstances()) {
        for (from, to) in pairs() {
            // What ends is told beforehand.
            let access = access(&world, Who::Device(device(from)), to, START);
            let decided = opened(&world, from, to, circumstances);
            let asked = asked(&world, from, to, &access, circumstances);
            prop_assert!(is_same(&asked, &decided), "{asked} is asked, {decided} decided: {access:?}");
            let terms = access.allow.iter().chain(&access.deny);
            let whole = world.resource(to).map(|resource| resource.filter.clone()).unwrap_or_default();
            for term in terms {
                prop_assert!(!term.ports.is_empty() && term.ports.minus(&whole).is_empty());
            }
            let is_for_good = |term: &Term| term.condition.is_none() && term.until.is_none();
            prop_assert!(!access.deny.iter().any(is_for_good));
        }
    }

    /// Invariant: a plan names exactly the pairs whose access differs, and where it names none, nothing is decided otherwise.
    #[test]
    fn a_plan_names_all_that_changes(
        (before, after) in edits(),
        tries in prop::collection::vec(circumstances(), 4),
    ) {
        let now = START;
        let all = pairs().into_iter().map(|(from, to)| (Who::Device(device(from)), to));
        let planned = plan(&before, &after, all, now);
        for (from, to) in pairs() {
            let who = Who::Device(device(from));
            let (old, new) = (access(&before, who, to, now), access(&after, who, to, now));
            let found = planned.iter().find(|it| (it.who, it.resource) == (who, to));
            prop_assert_eq!(found.is_some(), !difference(&old, &new).is_empty());
            prop_assert!(found.is_some() || (old.allow == new.allow && old.deny == new.deny), "{old:?}, {new:?}");
            for circumstances in &tries {
                let (old, new) = (opened(&before, from, to, *circumstances), opened(&after, from, to, *circumstances));
                let Some(found) = found else {
                    prop_assert!(is_same(&old, &new));
                    continue;
                };
                // Nothing opens that was not said to be gained, or not to be denied any more; and the other way round.
                let told = |is_told: fn(&Change) -> Option<&Term>| {
                    let terms = found.changes.iter().filter_map(is_told);
                    terms.fold(Filter::default(), |ports, term| ports.union(&term.ports))
                };
                let opening = told(|change| match change {
                    Change::Gained(term) | Change::Lifted(term) => Some(term),
                    _ => None,
                });
                let closing = told(|change| match change {
                    Change::Lost(term) | Change::Restricted(term) => Some(term),
                    _ => None,
                });
                prop_assert!(new.minus(&old).minus(&opening).is_empty());
                prop_assert!(old.minus(&new).minus(&closing).is_empty());
                // What is gained for good and not denied is open whatever the circumstances.
                for change in &found.changes {
                    let Change::Gained(term) = change else { continue };
                    if term.condition.is_none() && term.until.is_none() {
                        let denied = found.after.deny.iter().fold(Filter::default(), |all, it| all.union(&it.ports));
                        prop_assert!(term.ports.minus(&denied).minus(&new).is_empty());
                    }
                }
            }
        }
    }

    /// Invariant: where no policy asks or ends, a plan's ports are exactly those that brute force finds.
    #[test]
    fn without_conditions_a_plan_is_what_brute_force_finds((before, after) in edits()) {
        let (before, after) = (unconditional(&before), unconditional(&after));
        for (from, to) in pairs() {
            let who = Who::Device(device(from));
            let (old, new) = (opened(&before, from, to, CALM), opened(&after, from, to, CALM));
            let planned = plan(&before, &after, [(who, to)], START);
            let (mut gained, mut lost) = (Filter::default(), Filter::default());
            for change in planned.into_iter().flat_map(|it| it.changes) {
                match change {
                    Change::Gained(term) => gained = gained.union(&term.ports),
                    Change::Lost(term) => lost = lost.union(&term.ports),
                    Change::Restricted(_) | Change::Lifted(_) => prop_assert!(false, "nothing is denied for a time"),
                }
            }
            prop_assert!(is_same(&gained, &new.minus(&old)) && is_same(&lost, &old.minus(&new)));
            let probe = ports("tcp/443");
            for (world, filter) in [(&before, &old), (&after, &new)] {
                let able = &who_can(world, to, Some(&probe), [who], START)[0];
                let is_open = !filter.intersection(&probe).is_empty();
                prop_assert_eq!(able.ability, if is_open { Ability::Always } else { Ability::Never });
            }
        }
        prop_assert!(plan(&before, &before, pairs().into_iter().map(|(n, to)| (Who::User(user(n)), to)), START).is_empty());
    }
}
