//! Advice: what is said of what, on which evidence, and that it takes nothing away that was used.

use std::collections::BTreeSet;

use postern_model::{
    Condition, Decision, DeviceId, Effect, Filter, GroupId, NetworkRanges, PolicyId, Posture, Protocol, PublicKey,
    ResourceId, Scope, Sha256, SiteId, TagName, Timestamp, TokenId, UserId,
    addr::FIRST_INDEX,
    record::{Device, Group, Owner, Policy, Principal, Resource, Site, User, World},
    usage::{Client, FlowUse, GrantedUse, Usage, UsageGap},
};
use postern_policy::{Circumstances, decide};
use proptest::prelude::*;

use super::{shell::START, world};
use crate::{Advice, AdviceReport, Finding, State, Uncovered, advise};

const DAY: i64 = 24 * 3_600_000;
const SINCE: Timestamp = days(-30);
const OLD: Timestamp = days(-60);

const fn days(days: i64) -> Timestamp {
    Timestamp::from_unix_millis(START.unix_millis() + days * DAY)
}

fn user(n: u8) -> UserId {
    UserId::from_bytes([n; 16])
}

fn group(n: u8) -> GroupId {
    GroupId::from_bytes([n; 16])
}

fn device(n: u8) -> DeviceId {
    DeviceId::from_bytes([n; 16])
}

fn resource(n: u8) -> ResourceId {
    ResourceId::from_bytes([n; 16])
}

fn tag(n: u8) -> TagName {
    format!("t{n}").parse().unwrap()
}

fn ports(text: &str) -> Filter {
    text.parse().unwrap()
}

fn allowing(n: u8, principal: Principal, scope: Scope) -> Policy {
    Policy::allow(PolicyId::from_bytes([n; 16]), principal, scope, OLD)
}

/// Users 1 to 8, each with the device of that number; a gateway, device 20, of site 1; resources 1 to 8 there, all with tag 1,
/// that open tcp/22,80,443 udp/53 icmp. Groups 1 (all users), 2 (users 1 and 2) and 3 (users 1 to 4).
fn office() -> World {
    let ranges = NetworkRanges::from_random([1; 5]);
    let device = |n: u8, owner| Device {
        id: device(n),
        name: format!("d{n}"),
        owner,
        key: Sha256([n; 32]),
        wireguard: PublicKey([n; 32]),
        addr: ranges.device(FIRST_INDEX + u32::from(n)).unwrap(),
        revoked: false,
        drained: false,
        posture: Posture::default(),
        enrolled_at: OLD,
        token: TokenId::from_bytes([n; 16]),
    };
    let resource = |n: u8| Resource {
        id: resource(n),
        name: format!("r{n}").parse().unwrap(),
        aliases: vec![],
        tags: BTreeSet::from([tag(1)]),
        site: SiteId::from_bytes([1; 16]),
        target: "10.0.0.5".parse().unwrap(),
        filter: ports("tcp/22,80,443 udp/53 icmp"),
        addr: ranges.resource(FIRST_INDEX + u32::from(n)).unwrap(),
        created_at: OLD,
    };
    let user = |n: u8| User { id: user(n), name: format!("u{n}").parse().unwrap(), suspended: false, created_at: OLD };
    let group = |n: u8| Group { id: group(n), name: format!("g{n}").parse().unwrap(), created_at: OLD };
    let site = Site { id: SiteId::from_bytes([1; 16]), name: "hq".parse().unwrap(), created_at: OLD };
    let members = (1..=8).map(|n| (1, n)).chain([(2, 1), (2, 2)]).chain((1..=4).map(|n| (3, n)));
    World {
        users: (1..=8).map(user).collect(),
        groups: (1..=3).map(group).collect(),
        members: members.map(|(of, n)| (self::group(of), self::user(n))).collect(),
        devices: (1..=8)
            .map(|n| device(n, Owner::User(self::user(n))))
            .chain([device(20, Owner::Site(site.id))])
            .collect(),
        sites: vec![site],
        resources: (1..=8).map(resource).collect(),
        ..world()
    }
}

fn with(policies: impl IntoIterator<Item = Policy>) -> World {
    World { policies: policies.into_iter().collect(), ..office() }
}

fn client(n: u8) -> Client {
    Client { device: device(n), user: Some(format!("u{n}")) }
}

fn flow(policy: u8, of: u8, to: u8, port: u16) -> FlowUse {
    let (policy, client) = (Some(PolicyId::from_bytes([policy; 16])), client(of));
    FlowUse { policy, client, resource: resource(to), protocol: Protocol::Tcp, port, flows: 3, last: days(-1) }
}

fn granted(policy: u8, of: u8, to: u8, renewed: u64) -> GrantedUse {
    let (policy, client) = (PolicyId::from_bytes([policy; 16]), client(of));
    GrantedUse { policy, client, resource: resource(to), allowed: 1, renewed, last: days(-2) }
}

/// Recorded for long enough. Whatever flowed was granted.
fn used(flows: impl IntoIterator<Item = FlowUse>) -> Usage {
    let flows: Vec<_> = flows.into_iter().collect();
    let grant = |it: &FlowUse| GrantedUse {
        policy: it.policy.unwrap(),
        client: it.client.clone(),
        resource: it.resource,
        allowed: 1,
        renewed: 1,
        last: days(-2),
    };
    let granted = flows.iter().map(grant).collect();
    Usage { recorded_since: Some(OLD), flows, granted, ..Usage::default() }
}

fn report(world: &World, usage: &Usage) -> AdviceReport {
    advise(&State::new(world.clone()), usage, SINCE).unwrap()
}

/// The one piece of advice.
#[track_caller]
fn only(world: &World, usage: &Usage) -> Advice {
    let report = report(world, usage);
    let [advice] = report.advice.as_slice() else { panic!("{report:?}") };
    advice.clone()
}

/// The advice is only about this much, and says what the whole file would be.
#[track_caller]
fn nothing(world: &World, usage: &Usage) -> AdviceReport {
    let report = report(world, usage);
    assert_eq!((&report.advice, &report.policies), (&vec![], &world.policies));
    report
}

const WIKI: Scope = Scope::Resource(ResourceId::from_bytes([1; 16]));

#[test]
fn what_granted_nothing_can_go() {
    let world = with([allowing(1, Principal::User(user(1)), WIKI), allowing(2, Principal::User(user(2)), WIKI)]);
    let usage = used([22, 80, 443, 53].map(|port| flow(2, 2, 1, port)));
    let advice = only(&world, &Usage { granted: vec![granted(2, 2, 1, 7)], flows: vec![], ..usage.clone() });
    assert_eq!(
        (advice.policy.id, advice.findings, advice.instead),
        (world.policies[0].id, vec![Finding::Unused], vec![])
    );
    assert_eq!(report(&world, &usage).policies.len(), 1);
    // It was granted, though nothing came through.
    nothing(&world, &Usage { granted: vec![granted(1, 1, 1, 0), granted(2, 2, 1, 7)], flows: vec![], ..usage });
}

#[test]
fn denials_and_shadows_are_left_alone() {
    let deny = Policy { effect: Effect::Deny, ..allowing(1, Principal::Everyone, Scope::Everything) };
    let shadow = Policy { shadow: true, ..allowing(2, Principal::Everyone, Scope::Everything) };
    assert_eq!(nothing(&with([deny, shadow]), &used([])).looked_at, 0);
}

#[test]
fn unused_ports_are_closed_under_the_same_condition() {
    let condition = Some(Condition::Short { text: "time.hour in 8..18".to_owned() });
    let until = Some(days(100));
    let policy = Policy { condition, until, ..allowing(1, Principal::User(user(1)), WIKI) };
    let world = with([policy.clone()]);
    let advice = only(&world, &used([flow(1, 1, 1, 443), flow(1, 1, 1, 80)]));
    let (used_ports, unused) = (ports("tcp/80,443"), ports("tcp/22 udp/53 icmp"));
    assert_eq!(advice.findings, [Finding::Ports { used: used_ports.clone(), unused }]);
    assert_eq!(advice.instead, [Policy { ports: Some(used_ports), ..policy }]);
    assert_eq!((advice.evidence.granted, advice.evidence.flows, advice.evidence.last), (4, 6, Some(days(-1))));
}

#[test]
fn what_is_in_use_for_longer_than_flows_are_told_of_keeps_all_ports() {
    let world = with([allowing(1, Principal::Group(group(2)), WIKI)]);
    let mut usage = used([flow(1, 1, 1, 443)]);
    usage.granted.push(granted(1, 2, 1, 9));
    nothing(&world, &usage);
    // Granted ahead and never used: no port is.
    usage.granted.pop();
    usage.granted.push(granted(1, 2, 1, 0));
    assert_eq!(only(&world, &usage).instead[0].ports, Some(ports("tcp/443")));
    // A flow from before the period is one only while there is a grant.
    let before = FlowUse { last: days(-40), ..flow(1, 1, 1, 22) };
    let mut usage = used([flow(1, 1, 1, 443), flow(1, 2, 1, 443)]);
    usage.flows.push(before);
    assert_eq!(only(&world, &usage).instead[0].ports, Some(ports("tcp/22,443")));
    usage.granted.retain(|it| it.client == client(2));
    usage.flows.remove(0);
    assert_eq!(only(&world, &usage).instead[0].ports, Some(ports("tcp/443")));
}

fn on_443(policy: u8, pairs: &[(u8, u8)]) -> Usage {
    used(pairs.iter().map(|(of, to)| flow(policy, *of, *to, 443)))
}

#[test]
fn a_subject_that_few_used_is_named_or_is_a_smaller_group() {
    let only_443 = |principal| Policy { ports: Some(ports("tcp/443")), ..allowing(1, principal, WIKI) };
    let world = with([only_443(Principal::Group(group(1)))]);
    for (used, instead) in [
        (&[5][..], vec![Principal::User(user(5))]),
        (&[1, 3], vec![Principal::User(user(1)), Principal::User(user(3))]),
        (&[1, 2], vec![Principal::Group(group(2))]),
        (&[1, 2, 3, 4], vec![Principal::Group(group(3))]),
    ] {
        let pairs: Vec<_> = used.iter().map(|n| (*n, 1)).collect();
        let advice = only(&world, &on_443(1, &pairs));
        let named = used.iter().map(|n| Principal::User(user(*n))).collect();
        assert_eq!(advice.findings, [Finding::Subject { members: 8, used: named, instead: instead.clone() }]);
        assert_eq!(advice.instead.iter().map(|it| it.principal).collect::<Vec<_>>(), instead);
        assert!(advice.instead.iter().all(|it| it.ports == Some(ports("tcp/443")) && it.scope == WIKI));
    }
    nothing(&world, &on_443(1, &[(1, 1), (2, 1), (3, 1), (4, 1), (5, 1)]));
    // Of everyone, and with a device that is no user's.
    let world = with([only_443(Principal::Everyone)]);
    let mut usage = on_443(1, &[(1, 1)]);
    usage.flows.push(FlowUse { client: Client { device: device(20), user: None }, ..flow(1, 1, 1, 443) });
    let named = [Principal::User(user(1)), Principal::Device(device(20))];
    assert_eq!(only(&world, &usage).instead.iter().map(|it| it.principal).collect::<Vec<_>>(), named);
}

#[test]
fn a_group_that_holds_strangers_is_no_smaller_group() {
    let policy = Policy { ports: Some(ports("tcp/443")), ..allowing(1, Principal::Group(group(1)), WIKI) };
    let mut world = with([policy]);
    world.users.push(User { id: user(9), name: "u9".parse().unwrap(), ..world.users[0].clone() });
    let usage = on_443(1, &[(1, 1), (2, 1), (3, 1), (4, 1)]);
    let instead = |world: &World| only(world, &usage).instead.iter().map(|it| it.principal).collect::<Vec<_>>();
    assert_eq!(instead(&world), [Principal::Group(group(3))]);
    // Besides 1 to 4, someone who is not in group 1.
    world.members.push((group(3), user(9)));
    assert_eq!(instead(&world), [1, 2, 3, 4].map(|n| Principal::User(user(n))));
}

#[test]
fn a_scope_of_which_little_was_used_is_named_or_is_a_smaller_tag() {
    for scope in [Scope::Tag(tag(1)), Scope::Everything] {
        let policy = Policy { ports: Some(ports("tcp/443")), ..allowing(1, Principal::User(user(1)), scope) };
        let mut world = with([policy]);
        let scopes =
            |world: &World, usage| only(world, usage).instead.into_iter().map(|it| it.scope).collect::<Vec<_>>();
        let usage = on_443(1, &[(1, 1), (1, 2)]);
        assert_eq!(scopes(&world, &usage), [Scope::Resource(resource(1)), Scope::Resource(resource(2))]);
        for n in 0..2 {
            world.resources[n].tags.insert(tag(2));
        }
        assert_eq!(scopes(&world, &usage), [Scope::Tag(tag(2))]);
        nothing(&world, &on_443(1, &[(1, 1), (1, 2), (1, 3), (1, 4), (1, 5)]));
    }
}

#[test]
fn a_broad_policy_that_a_narrow_one_makes_needless_can_go() {
    let narrow = allowing(1, Principal::User(user(1)), WIKI);
    let broad = allowing(2, Principal::Everyone, Scope::Everything);
    let all = [22, 80, 443].map(|port| flow(2, 1, 1, port));
    let advice = report(&with([narrow.clone(), broad.clone()]), &used(all.clone())).advice;
    let of_broad = advice.iter().find(|advice| advice.policy == broad).unwrap();
    assert_eq!((&of_broad.findings, &of_broad.instead), (&vec![Finding::Covered], &vec![]));
    // One that depends is not enough.
    let condition = Some(Condition::Short { text: "posture.firewall".to_owned() });
    let report = report(&with([Policy { condition, ..narrow }, broad]), &used(all));
    assert!(report.policies.iter().any(|it| it.condition.is_none() && it.scope == WIKI), "{report:?}");
}

#[test]
fn nobody_and_nothing_new_is_shut_out() {
    let policy = |principal, scope| Policy { ports: Some(ports("tcp/443")), ..allowing(1, principal, scope) };
    let mut world = with([policy(Principal::Group(group(1)), WIKI)]);
    world.users[6].created_at = days(-3);
    let instead: Vec<_> = only(&world, &on_443(1, &[(5, 1)])).instead.into_iter().map(|it| it.principal).collect();
    assert_eq!(instead, [Principal::User(user(5)), Principal::User(user(7))]);
    nothing(&world, &used([]));
    let mut world = with([allowing(1, Principal::User(user(1)), Scope::Everything)]);
    world.resources[6].created_at = days(-3);
    let advice = only(&world, &on_443(1, &[(1, 1)]));
    assert!(matches!(advice.findings[..], [Finding::Scope { .. }]), "no port is closed: {advice:?}");
    assert_eq!(advice.instead.iter().map(|it| &it.scope).collect::<Vec<_>>(), [&WIKI, &Scope::Resource(resource(7))]);
    let young = Policy { created_at: days(-29), ..allowing(1, Principal::User(user(1)), WIKI) };
    assert_eq!(nothing(&with([young]), &used([])).young, 1);
}

#[test]
fn a_period_that_is_not_recorded_says_nothing() {
    let world = with([allowing(1, Principal::User(user(1)), WIKI)]);
    let state = State::new(world.clone());
    let unsaid = |usage: &Usage| advise(&state, usage, SINCE).unwrap_err();
    for recorded_since in [None, Some(days(-29))] {
        assert_eq!(unsaid(&Usage { recorded_since, ..used([]) }), Uncovered::Before { recorded_since });
    }
    assert_eq!(unsaid(&Usage { is_cut: true, ..used([]) }), Uncovered::TooMuch);
    let gap = |gateway| UsageGap { gateway, name: None, times: 5, last: days(-1) };
    // Of decisions; of a gateway that is no more; of a laptop.
    for gateway in [None, Some(device(99)), Some(device(1))] {
        assert_eq!(unsaid(&Usage { gaps: vec![gap(gateway)], ..used([]) }), Uncovered::Gap(gap(gateway)));
    }
    // Of one site's gateway: nothing is said of what lies there.
    let gaps = vec![gap(Some(device(20)))];
    assert_eq!(nothing(&world, &Usage { gaps: gaps.clone(), ..used([]) }).unrecorded, 1);
    let mut elsewhere = world;
    elsewhere.resources[0].site = SiteId::from_bytes([2; 16]);
    assert_eq!(report(&elsewhere, &Usage { gaps, ..used([]) }).advice.len(), 1);
}

fn policies() -> impl Strategy<Value = Vec<Policy>> {
    let principal = prop_oneof![
        3 => (1u8..=8).prop_map(|n| Principal::User(user(n))),
        3 => (1u8..=3).prop_map(|n| Principal::Group(group(n))),
        1 => (1u8..=8).prop_map(|n| Principal::Device(device(n))),
        2 => Just(Principal::Everyone),
    ];
    let scope = prop_oneof![
        3 => (1u8..=8).prop_map(|n| Scope::Resource(resource(n))),
        2 => (1u8..=3).prop_map(|n| Scope::Tag(tag(n))),
        1 => Just(Scope::Everything),
    ];
    let ports =
        prop::sample::select(vec![None, Some("tcp/any"), Some("tcp/22,443"), Some("tcp/80"), Some("udp/53 icmp")]);
    let condition = prop::sample::select(vec![None, None, Some("time.minute in 0..30"), Some("time.minute in 30..60")]);
    let until = prop::sample::select(vec![None, None, Some(days(10))]);
    let kind = (prop::bool::weighted(0.15), prop::bool::weighted(0.1), prop::bool::weighted(0.1));
    let policy = (principal, scope, ports, condition, until, kind);
    let policy = policy.prop_map(|(principal, scope, ports, condition, until, (denies, shadow, is_young))| Policy {
        effect: if denies { Effect::Deny } else { Effect::Allow },
        ports: ports.map(|text| text.parse().unwrap()),
        condition: condition.map(|text| Condition::Short { text: text.to_owned() }),
        until,
        shadow,
        created_at: if is_young { days(-5) } else { OLD },
        ..allowing(0, principal, scope)
    });
    prop::collection::vec(policy, 1..8)
}

fn numbered(policies: Vec<Policy>) -> Vec<Policy> {
    let number = |(n, policy)| Policy { id: PolicyId::from_bytes([u8::try_from(n).unwrap() + 1; 16]), ..policy };
    (0..).zip(policies).map(|(n, policy): (usize, _)| number((n, policy))).collect()
}

/// In one half of an hour, and in the other.
const MOMENTS: [Circumstances; 2] = {
    const fn at(minute: i64) -> Circumstances {
        let now = Timestamp::from_unix_millis(START.unix_millis() / 3_600_000 * 3_600_000 + minute * 60_000);
        Circumstances { now, posture_until: None, source: None }
    }
    [at(10), at(40)]
};

fn open(state: &State, device: DeviceId, resource: ResourceId, moment: Circumstances) -> (Filter, Option<PolicyId>) {
    match decide(state, device, resource, moment) {
        Decision::Allowed { filter, policy } => (filter, Some(policy)),
        Decision::Denied { .. } => (Filter::default(), None),
    }
}

const PORTS: [(Protocol, u16); 5] =
    [(Protocol::Tcp, 22), (Protocol::Tcp, 80), (Protocol::Tcp, 443), (Protocol::Udp, 53), (Protocol::IcmpEcho, 0)];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// Invariant: with all advice carried out, whatever was used is allowed under the circumstances under which it was, and
    /// nothing is allowed that was not.
    #[test]
    fn advice_takes_nothing_away_that_was_used_and_opens_nothing(
        policies in policies(),
        tags in prop::collection::vec((0usize..8, 2u8..=3), 0..8),
        members in prop::collection::vec((1u8..=3, 1u8..=8), 0..6),
        tried in prop::collection::vec((1u8..=8, 1u8..=8, 0usize..5, 0usize..2, 0u8..4), 0..24),
    ) {
        let mut world = with(numbered(policies));
        for (at, tag) in tags {
            world.resources[at].tags.insert(self::tag(tag));
        }
        for (group, user) in members {
            let member = (self::group(group), self::user(user));
            if !world.members.contains(&member) {
                world.members.push(member);
            }
        }
        let before = State::new(world.clone());
        let mut usage = used([]);
        let (mut flowed, mut lasting) = (Vec::new(), Vec::new());
        for (of, to, port, moment, how) in tried {
            let (filter, by) = open(&before, device(of), resource(to), MOMENTS[moment]);
            let Some(policy) = by else { continue };
            let (protocol, port) = PORTS[port];
            usage.granted.push(GrantedUse { policy, ..granted(0, of, to, u64::from(how == 0)) });
            if how == 0 {
                lasting.push((of, to));
            } else if filter.allows(protocol, port) {
                usage.flows.push(FlowUse { policy: Some(policy), protocol, ..flow(0, of, to, port) });
                flowed.push((of, to, protocol, port));
            }
        }
        let report = report(&world, &usage);
        let after = State::new(World { policies: numbered(report.policies.clone()), ..world.clone() });
        for moment in MOMENTS {
            for (of, to, protocol, port) in &flowed {
                let [before, after] = [&before, &after].map(|it| open(it, device(*of), resource(*to), moment).0);
                prop_assert!(
                    !before.allows(*protocol, *port) || after.allows(*protocol, *port),
                    "{of} used {protocol:?}/{port} of {to}: {report:#?}"
                );
            }
            for (of, to) in lasting.iter().filter(|(of, to)| !flowed.iter().any(|it| (it.0, it.1) == (*of, *to))) {
                let [before, after] = [&before, &after].map(|it| open(it, device(*of), resource(*to), moment).0);
                prop_assert_eq!(before.minus(&after), Filter::default(), "{} is using {}: {:#?}", of, to, report);
            }
            for (of, to) in (1..=8).chain([20]).flat_map(|of| (1..=8).map(move |to| (of, to))) {
                let [before, after] = [&before, &after].map(|it| open(it, device(of), resource(to), moment).0);
                prop_assert_eq!(after.minus(&before), Filter::default(), "{} may reach more of {}", of, to);
            }
        }
        // When, and for how long, is never touched.
        for advice in &report.advice {
            prop_assert!(advice.instead.iter().all(|it| it.condition == advice.policy.condition
                && it.until == advice.policy.until
                && it.effect == Effect::Allow));
        }
        // Policies of which nothing is said stay as they are.
        let advised: Vec<_> = report.advice.iter().map(|advice| advice.policy.id).collect();
        for policy in world.policies.iter().filter(|it| !advised.contains(&it.id)) {
            let said = report.policies.iter().any(|it| Policy { id: policy.id, created_at: policy.created_at, ..it.clone() } == *policy);
            prop_assert!(said);
        }
    }
}

#[test]
fn ten_thousand_policies_are_advised_on_soon() {
    let policy = |n: u32| {
        let id = PolicyId::from_bytes([&n.to_be_bytes()[..], &[1; 12]].concat().try_into().unwrap());
        let principal = if n.is_multiple_of(2) { Principal::Everyone } else { Principal::Group(group(1)) };
        Policy { id, until: Some(days(1 + i64::from(n))), ..allowing(0, principal, WIKI) }
    };
    let world = with((0..10_000).map(policy));
    let usage = on_443(1, &[(1, 1)]);
    assert_eq!(report(&world, &usage).advice.len(), 10_000);
}
