//! Access without circumstances: [`terms`] says what policies open to somebody and under which conditions, so that it can be
//! compared ([`difference`], [`plan`]) and listed ([`who_can`]) exactly, without trying anything out.
//!
//! [`Access`] is brought to one form: what covers something else takes it in, and what is denied for good is gone. Two sets of
//! policies that mean the same have equal access, but for conditions that mean the same in different words.

use std::{
    cmp::Ordering,
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use postern_model::{
    DeviceId, Effect, Filter, PortSet, ResourceId, Timestamp, UserId,
    record::{Principal, Resource},
};

use crate::{CompiledPolicy, Facts, compiled::Compiled, decide::slice, principals, principals_of_user};

/// What is open to somebody of one resource.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Access {
    /// What policies open.
    pub allow: BTreeSet<Term>,
    /// What they close of it: under a condition, or for a time, since what they close for good is not open.
    pub deny: BTreeSet<Term>,
}

/// Some ports, and when they are meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Term {
    /// Of those that the resource opens; never empty.
    pub ports: Filter,
    /// Under which condition; under all circumstances where there is none.
    pub condition: Option<TermCondition>,
    /// Up to when.
    pub until: Option<Timestamp>,
}

/// A condition that can be compared with others.
#[derive(Debug, Clone)]
pub struct TermCondition {
    /// What it means: equal for conditions that say the same things in another order.
    canonical: Arc<str>,
    source: Arc<str>,
}

impl TermCondition {
    /// As it was written.
    pub fn source(&self) -> &str {
        &self.source
    }
}

impl PartialEq for TermCondition {
    fn eq(&self, other: &Self) -> bool {
        self.canonical == other.canonical
    }
}

impl Eq for TermCondition {}

impl PartialOrd for TermCondition {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for TermCondition {
    fn cmp(&self, other: &Self) -> Ordering {
        self.canonical.cmp(&other.canonical)
    }
}

impl PartialOrd for Term {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Term {
    fn cmp(&self, other: &Self) -> Ordering {
        let when = |term: &Self| (term.condition.clone(), term.until);
        when(self).cmp(&when(other)).then_with(|| self.ports.to_string().cmp(&other.ports.to_string()))
    }
}

/// When a term applies.
type When = (Option<TermCondition>, Option<Timestamp>);

/// Terms that are still being gathered: one for each condition and end.
type Terms = BTreeMap<When, Filter>;

/// Whether one applies whenever the other does.
fn covers(wide: &When, narrow: &When) -> bool {
    let covers_condition = wide.0.is_none() || wide.0 == narrow.0;
    let covers_until = match (wide.1, narrow.1) {
        (None, _) => true,
        (Some(_), None) => false,
        (Some(wide), Some(narrow)) => wide >= narrow,
    };
    covers_condition && covers_until
}

/// What is left of some ports where everything that covers `when` is taken out.
fn uncovered(ports: &Filter, when: &When, by: &Terms) -> Filter {
    let covering = by.iter().filter(|(wide, _)| covers(wide, when));
    covering.fold(ports.clone(), |left, (_, ports)| left.minus(ports))
}

/// What the policies in force at `now` open of a resource to whoever is these principals.
pub fn terms(facts: &impl Facts, principals: &[Principal], resource: ResourceId, now: Timestamp) -> Access {
    let Some(resource) = facts.resource(resource) else { return Access::default() };
    let (mut allow, mut deny) = (Terms::new(), Terms::new());
    for policy in slice(facts, principals, resource) {
        let it = policy.policy();
        let ports = policy.ports_of(&resource.filter);
        if it.shadow || !policy.is_current(now) || ports.is_empty() {
            continue;
        }
        let condition = match policy.condition() {
            // Never met where it allows, always where it denies.
            Compiled::Broken(_) if it.effect == Effect::Allow => continue,
            Compiled::Always | Compiled::Broken(_) => None,
            Compiled::When(_) => condition_of(&policy, principals, resource),
        };
        let terms = if it.effect == Effect::Allow { &mut allow } else { &mut deny };
        let gathered = terms.entry((condition, it.until)).or_default();
        *gathered = gathered.union(&ports);
    }
    for (when, ports) in &mut allow {
        *ports = uncovered(ports, when, &deny);
    }
    let open = allow.values().fold(Filter::default(), |open, ports| open.union(ports));
    for ports in deny.values_mut() {
        *ports = ports.intersection(&open);
    }
    Access { allow: settled(&allow), deny: settled(&deny) }
}

/// Each without what another one covers.
fn settled(terms: &Terms) -> BTreeSet<Term> {
    let left = |(when, ports): (&When, &Filter)| {
        let others = terms.iter().filter(|(wide, _)| *wide != when && covers(wide, when));
        let ports = others.fold(ports.clone(), |left, (_, ports)| left.minus(ports));
        term(when, &ports)
    };
    terms.iter().filter_map(left).collect()
}

fn term((condition, until): &When, ports: &Filter) -> Option<Term> {
    (!ports.is_empty()).then(|| Term { ports: canonical(ports), condition: condition.clone(), until: *until })
}

/// All ports are written in one way only.
fn canonical(ports: &Filter) -> Filter {
    let whole = |set: &PortSet| if PortSet::Any.minus(set).is_none() { PortSet::Any } else { set.clone() };
    Filter { tcp: whole(&ports.tcp), udp: whole(&ports.udp), icmp: ports.icmp }
}

/// A condition that asks for groups or tags means something else to whoever is in other ones.
fn condition_of(policy: &CompiledPolicy, principals: &[Principal], resource: &Resource) -> Option<TermCondition> {
    let Compiled::When(when) = policy.condition() else { return None };
    let (mut canonical, source) = (Arc::clone(&when.canonical), Arc::clone(&when.source));
    if when.needs.entities {
        let groups = principals.iter().filter_map(|principal| match principal {
            Principal::Group(group) => Some(group.to_string()),
            Principal::User(user) => Some(user.to_string()),
            Principal::Device(device) => Some(device.to_string()),
            Principal::Everyone => None,
        });
        let tags = resource.tags.iter().map(ToString::to_string);
        let named = |id: &String| canonical.contains(&format!("\"{id}\""));
        let within: Vec<_> = groups.chain(tags).chain([resource.id.to_string()]).filter(named).collect();
        canonical = format!("{canonical} in {}", within.join(" ")).into();
    }
    Some(TermCondition { canonical, source })
}

/// Of whom access is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Who {
    /// A user, on any device of theirs.
    User(UserId),
    /// One device.
    Device(DeviceId),
}

/// What is open to somebody who may be suspended, revoked, or not there at all.
pub fn access(facts: &impl Facts, who: Who, resource: ResourceId, now: Timestamp) -> Access {
    let principals = match who {
        Who::Device(device) => principals(facts, device).ok(),
        Who::User(user) => {
            let user = facts.user(user).filter(|user| !user.suspended);
            user.map(|user| principals_of_user(facts, user.id))
        }
    };
    principals.map_or_else(Access::default, |principals| terms(facts, &principals, resource, now))
}

/// One thing that is not as it was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// This was not open.
    Gained(Term),
    /// This is not open any more.
    Lost(Term),
    /// This was not denied.
    Restricted(Term),
    /// This is not denied any more.
    Lifted(Term),
}

/// What changes between two accesses; nothing where they mean the same.
///
/// What is open under a condition and then under all circumstances is gained; nothing is lost then. Where it is the other way
/// round it is lost, and what is left of it is in `after`.
pub fn difference(before: &Access, after: &Access) -> Vec<Change> {
    let by_when = |terms: &BTreeSet<Term>| -> Terms {
        terms.iter().map(|term| ((term.condition.clone(), term.until), term.ports.clone())).collect()
    };
    let new = |terms: &Terms, old: &Terms| -> Vec<Term> {
        terms.iter().filter_map(|(when, ports)| term(when, &uncovered(ports, when, old))).collect()
    };
    let (allow_before, allow_after) = (by_when(&before.allow), by_when(&after.allow));
    let (deny_before, deny_after) = (by_when(&before.deny), by_when(&after.deny));
    let gained = new(&allow_after, &allow_before).into_iter().map(Change::Gained);
    let lost = new(&allow_before, &allow_after).into_iter().map(Change::Lost);
    let restricted = new(&deny_after, &deny_before).into_iter().map(Change::Restricted);
    let lifted = new(&deny_before, &deny_after).into_iter().map(Change::Lifted);
    gained.chain(lost).chain(restricted).chain(lifted).collect()
}

/// What changes for somebody and one resource.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Planned {
    /// For whom.
    pub who: Who,
    /// Of what.
    pub resource: ResourceId,
    /// What; never empty.
    pub changes: Vec<Change>,
    /// What was open.
    pub before: Access,
    /// What will be.
    pub after: Access,
}

/// What changes between two states of the network, at `now`, for those of the pairs for which anything does. The caller
/// names the pairs that can differ.
pub fn plan(
    before: &impl Facts,
    after: &impl Facts,
    pairs: impl IntoIterator<Item = (Who, ResourceId)>,
    now: Timestamp,
) -> Vec<Planned> {
    let planned = |(who, resource)| {
        let (before, after) = (access(before, who, resource, now), access(after, who, resource, now));
        let changes = difference(&before, &after);
        (!changes.is_empty()).then_some(Planned { who, resource, changes, before, after })
    };
    pairs.into_iter().filter_map(planned).collect()
}

/// Whether somebody can reach what is asked about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Ability {
    /// All of it, under all circumstances and without end.
    Always,
    /// Some of it, under a condition, or for a time.
    Sometimes,
    /// Nothing of it.
    Never,
}

/// What somebody can reach of what was asked about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Able {
    /// Who.
    pub who: Who,
    /// Whether.
    pub ability: Ability,
    /// On which terms.
    pub access: Access,
}

/// Who of these can reach `ports` of a resource at `now`; all that it opens where none are given.
pub fn who_can(
    facts: &impl Facts,
    resource: ResourceId,
    ports: Option<&Filter>,
    whom: impl IntoIterator<Item = Who>,
    now: Timestamp,
) -> Vec<Able> {
    let open = facts.resource(resource).map(|resource| resource.filter.clone()).unwrap_or_default();
    let asked = ports.map_or_else(|| open.clone(), |ports| open.intersection(ports));
    let cut = |terms: BTreeSet<Term>| -> BTreeSet<Term> {
        let cut = terms.into_iter().filter_map(|it| term(&(it.condition, it.until), &it.ports.intersection(&asked)));
        cut.collect()
    };
    let able = |who| {
        let whole = access(facts, who, resource, now);
        let access = Access { allow: cut(whole.allow), deny: cut(whole.deny) };
        let always = access.allow.iter().find(|term| term.condition.is_none() && term.until.is_none());
        let is_always = always.is_some_and(|term| asked.minus(&term.ports).is_empty()) && access.deny.is_empty();
        let ability = match (access.allow.is_empty(), is_always) {
            (true, _) => Ability::Never,
            (false, true) => Ability::Always,
            (false, false) => Ability::Sometimes,
        };
        Able { who, ability, access }
    };
    whom.into_iter().map(able).collect()
}
