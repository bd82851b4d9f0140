//! How much of a policy is needed for what needs it.

use std::collections::BTreeSet;

use postern_model::{
    Condition, Filter, GroupId, PortRange, PortSet, Protocol, ResourceId, Scope, TagName, Timestamp, UserId,
    record::{Owner, Policy, Principal},
};
use postern_policy::Facts as _;

use super::{
    Advice, Evidence, Finding,
    uses::{Use, What},
};
use crate::State;

/// More users, devices or resources than this are not named one by one in place of a group or a tag.
const NAMED: usize = 10;
/// Up to so many are named even where a group or tag holds them and some others.
const RATHER_NAMED: usize = 3;
/// Nor do more policies than this come in place of one.
const INSTEAD: usize = 20;
/// More ranges of ports than this are not written out.
const RANGES: usize = 16;

/// What could be less in a policy that is about these resources and needed for these uses; `None` when nothing could.
pub(super) fn of(
    state: &State,
    policy: &Policy,
    resources: &[ResourceId],
    uses: &[&Use],
    (since, evidence): (Timestamp, Evidence),
) -> Option<Advice> {
    let advice = |findings, instead| Advice { policy: policy.clone(), findings, evidence, instead };
    let subjects = Subjects::of(state, policy.principal, since);
    let is_young = |id: &ResourceId| state.resources.get(id).is_some_and(|it| it.created_at > since);
    let young: BTreeSet<_> = resources.iter().copied().filter(is_young).collect();
    if uses.is_empty() {
        // Of what is new, nobody knows yet what it will be used for.
        let is_new = !young.is_empty() || !subjects.young.is_empty();
        let finding = if evidence.granted == 0 && evidence.flows == 0 { Finding::Unused } else { Finding::Covered };
        return (!is_new).then(|| advice(vec![finding], vec![]));
    }
    if matches!(policy.condition, Some(Condition::Cedar { .. })) {
        // Whom and what it is about is its author's to rewrite.
        return None;
    }
    let ports = if young.is_empty() { narrower_ports(state, policy, resources, uses) } else { None };
    let principals = narrower_subject(state, policy, &subjects, uses);
    let mut scopes = narrower_scope(state, policy, resources, young, uses);
    let many = |principals: &Option<(Finding, Vec<Principal>)>, scopes: &Option<(Finding, Vec<Scope>)>| {
        principals.as_ref().map_or(1, |(_, to)| to.len()) * scopes.as_ref().map_or(1, |(_, to)| to.len())
    };
    if many(&principals, &scopes) > INSTEAD {
        scopes = None;
    }
    let (mut findings, mut narrowed) = (Vec::new(), policy.clone());
    if let Some((finding, used)) = ports {
        findings.push(finding);
        narrowed.ports = Some(used);
    }
    let mut instead = vec![narrowed];
    if let Some((finding, to)) = principals {
        findings.push(finding);
        let each = |it: &Policy| to.iter().map(|to| Policy { principal: *to, ..it.clone() }).collect::<Vec<_>>();
        instead = instead.iter().flat_map(each).collect();
    }
    if let Some((finding, to)) = scopes {
        findings.push(finding);
        let each = |it: &Policy| to.iter().map(|to| Policy { scope: to.clone(), ..it.clone() }).collect::<Vec<_>>();
        instead = instead.iter().flat_map(each).collect();
    }
    (!findings.is_empty()).then(|| advice(findings, instead))
}

fn narrower_ports(
    state: &State,
    policy: &Policy,
    resources: &[ResourceId],
    uses: &[&Use],
) -> Option<(Finding, Filter)> {
    let (mut tcp, mut udp, mut icmp) = (BTreeSet::new(), BTreeSet::new(), false);
    for it in uses {
        match it.what {
            What::Port(Protocol::Tcp, port) => drop(tcp.insert(port)),
            What::Port(Protocol::Udp, port) => drop(udp.insert(port)),
            What::Port(Protocol::IcmpEcho, _) => icmp = true,
            What::Port(Protocol::Other(_), _) | What::Something => {}
            What::Anything => return None,
        }
    }
    let used = Filter { tcp: set_of(&tcp)?, udp: set_of(&udp)?, icmp };
    let opens = |open: Filter, id: &ResourceId| {
        let resource = state.resources.get(id).map(|resource| resource.filter.clone()).unwrap_or_default();
        open.union(&policy.ports.as_ref().map_or_else(|| resource.clone(), |ports| resource.intersection(ports)))
    };
    let unused = resources.iter().fold(Filter::default(), opens).minus(&used);
    let is_less = !used.is_empty() && !unused.is_empty();
    is_less.then(|| (Finding::Ports { used: used.clone(), unused }, used))
}

/// `None` when that would be very many ranges.
fn set_of(ports: &BTreeSet<u16>) -> Option<PortSet> {
    let set = PortSet::from_ranges(ports.iter().filter_map(|port| PortRange::new(*port, *port)).collect());
    match &set {
        PortSet::Ranges(ranges) if ranges.len() > RANGES => None,
        _ => Some(set),
    }
}

/// Whom a policy is about.
struct Subjects {
    /// Users, but for those who are suspended, and devices that are no user's.
    count: usize,
    /// Those who are new.
    young: Vec<Principal>,
    /// Whether there may be several.
    is_set: bool,
}

impl Subjects {
    fn of(state: &State, principal: Principal, since: Timestamp) -> Self {
        let users: Vec<UserId> = match principal {
            Principal::Group(group) => state.members_of(group).collect(),
            Principal::Everyone => state.users.keys().copied().collect(),
            Principal::User(_) | Principal::Device(_) => vec![],
        };
        let users = users.iter().filter_map(|id| state.users.get(id)).filter(|user| !user.suspended);
        let users: Vec<_> = users.collect();
        let of_sites = state.devices.values().filter(|it| matches!(it.owner, Owner::Site(_)) && !it.revoked);
        let devices: Vec<_> = of_sites.filter(|_| principal == Principal::Everyone).collect();
        let young_users = users.iter().filter(|it| it.created_at > since).map(|it| Principal::User(it.id));
        let young_devices = devices.iter().filter(|it| it.enrolled_at > since).map(|it| Principal::Device(it.id));
        Self {
            count: users.len() + devices.len(),
            young: young_users.chain(young_devices).collect(),
            is_set: matches!(principal, Principal::Group(_) | Principal::Everyone),
        }
    }
}

fn are_few(used: usize, of: usize) -> bool {
    used * 2 <= of
}

fn narrower_subject(
    state: &State,
    policy: &Policy,
    subjects: &Subjects,
    uses: &[&Use],
) -> Option<(Finding, Vec<Principal>)> {
    let who = |it: &&Use| it.user.map(Principal::User).or(it.device.map(Principal::Device));
    let used: BTreeSet<_> = uses.iter().filter_map(who).chain(subjects.young.iter().copied()).collect();
    if !subjects.is_set || !are_few(used.len(), subjects.count) {
        return None;
    }
    let named = || (used.len() <= NAMED).then(|| used.iter().copied().collect());
    let group = smaller_group(state, policy.principal, &used, subjects.count);
    let instead = match group {
        Some((group, others)) if others == 0 || used.len() > RATHER_NAMED => vec![Principal::Group(group)],
        _ => named()?,
    };
    let finding =
        Finding::Subject { members: subjects.count, used: used.into_iter().collect(), instead: instead.clone() };
    Some((finding, instead))
}

/// A group of which all may do it already, that holds all who used it and at most as many others; with how many others.
fn smaller_group(
    state: &State,
    principal: Principal,
    used: &BTreeSet<Principal>,
    count: usize,
) -> Option<(GroupId, usize)> {
    let is_in = |group: GroupId, it: &Principal| match it {
        Principal::User(user) => state.is_member(group, *user),
        _ => false,
    };
    let is_within = |group: GroupId| match principal {
        Principal::Group(whole) => group != whole && state.members_of(group).all(|user| state.is_member(whole, user)),
        _ => true,
    };
    let groups = state.groups.keys().copied().filter(|group| used.iter().all(|it| is_in(*group, it)));
    let others = |group: GroupId| state.members_of(group).count() - used.len();
    let is_smaller = |others: usize| others <= used.len() && used.len() + others < count;
    let groups = groups.filter(|group| is_smaller(others(*group)) && is_within(*group));
    groups.map(|group| (group, others(group))).min_by_key(|(group, others)| (*others, *group))
}

fn narrower_scope(
    state: &State,
    policy: &Policy,
    resources: &[ResourceId],
    young: BTreeSet<ResourceId>,
    uses: &[&Use],
) -> Option<(Finding, Vec<Scope>)> {
    let mut used = young;
    used.extend(uses.iter().map(|it| it.resource));
    let is_set = matches!(policy.scope, Scope::Tag(_) | Scope::Everything);
    if !is_set || !are_few(used.len(), resources.len()) {
        return None;
    }
    let named = || (used.len() <= NAMED).then(|| used.iter().map(|id| Scope::Resource(*id)).collect());
    let instead = match smaller_tag(state, resources, &used) {
        Some((tag, others)) if others == 0 || used.len() > RATHER_NAMED => vec![Scope::Tag(tag)],
        _ => named()?,
    };
    let finding =
        Finding::Scope { resources: resources.len(), used: used.into_iter().collect(), instead: instead.clone() };
    Some((finding, instead))
}

/// A tag that only resources of these have, among them all that were used and at most as many others.
fn smaller_tag(state: &State, resources: &[ResourceId], used: &BTreeSet<ResourceId>) -> Option<(TagName, usize)> {
    let tags = state.resources.get(used.first()?)?.tags.iter();
    let tagged = |tag: &TagName| state.resources_in(&Scope::Tag(tag.clone()));
    let whole: BTreeSet<_> = resources.iter().copied().collect();
    let fits = |tag: &TagName| {
        let tagged: BTreeSet<_> = tagged(tag).into_iter().collect();
        let others = tagged.len().checked_sub(used.len())?;
        let is_within = tagged.is_subset(&whole) && tagged.len() < whole.len();
        (used.is_subset(&tagged) && is_within && others <= used.len()).then(|| (tag.clone(), others))
    };
    tags.filter_map(fits).min_by_key(|(_, others)| *others)
}
