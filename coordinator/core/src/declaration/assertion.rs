//! Assertions: what must hold of a state's policies, checked by the same decisions that are made for devices.

use std::{collections::BTreeSet, sync::Arc};

use postern_model::{
    Decision, DenyReason, DeviceId, Effect, Filter, GroupId, OverlayAddr, Posture, PublicKey, ResourceId, Scope,
    Sha256, Timestamp, TokenId, UserId,
    record::{Device, Owner, Policy, Principal, Resource, User},
};
use postern_policy::{Case, Circumstances, CompiledPolicy, Facts, explain, principals, scopes_of_resource};

use super::{Asserted, Assertion, Declaration, Given};
use crate::State;

/// One assertion and whether it holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checked {
    /// The assertion's name.
    pub name: String,
    /// Whether it holds.
    pub verdict: Verdict,
}

/// Whether an assertion holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It does.
    Holds,
    /// It does not, for this reason: a sentence.
    Fails(String),
    /// It can't be told here, for this reason: a sentence.
    Skipped(String),
}

impl Checked {
    /// Why it fails, if it does.
    pub fn failure(&self) -> Option<&str> {
        match &self.verdict {
            Verdict::Fails(why) => Some(why),
            Verdict::Holds | Verdict::Skipped(_) => None,
        }
    }
}

/// Checks all assertions of a declaration in a state.
pub(super) fn check_all(state: &State, declaration: &Declaration, now: Timestamp) -> Vec<Checked> {
    let check = |it: &Assertion| {
        let verdict = match check(state, it, now) {
            Ok(()) => Verdict::Holds,
            Err(why) => Verdict::Fails(why),
        };
        Checked { name: it.name.clone(), verdict }
    };
    declaration.assertions.iter().map(check).collect()
}

/// # Errors
/// With the reason why it does not hold: a sentence.
fn check(state: &State, assertion: &Assertion, now: Timestamp) -> Result<(), String> {
    let resource = state.resource_named(&assertion.resource);
    let resource = resource.ok_or_else(|| format!("there is no resource '{}'", assertion.resource))?;
    devices(state, assertion, now)?.into_iter().try_for_each(|(who, device)| {
        let visit = Visit { state, device };
        check_device(&visit, resource, assertion, &who, now)
    })
}

/// Checks an assertion for one of the devices that it is about; `who` is that in a sentence.
fn check_device(
    visit: &Visit<'_>,
    resource: &Resource,
    assertion: &Assertion,
    who: &str,
    now: Timestamp,
) -> Result<(), String> {
    let asked = assertion.ports.clone().unwrap_or_else(|| resource.filter.clone());
    let (open, why) = match &assertion.given {
        Some(given) => visit.decided(resource, given, now),
        None => visit.at_all(resource, assertion.expect, now),
    };
    let under = if assertion.given.is_some() { "" } else { " under all circumstances" };
    let (name, missing, found) = (&resource.name, asked.minus(&open), asked.intersection(&open));
    match (assertion.expect, &assertion.ports) {
        (Effect::Allow, Some(_)) if missing.is_empty() => Ok(()),
        (Effect::Allow, None) if !found.is_empty() => Ok(()),
        (Effect::Allow, Some(_)) => Err(format!("{who} may not reach {name} on {missing}{under}: {why}")),
        (Effect::Allow, None) => Err(format!("{who} may not reach {name}{under}: {why}")),
        (Effect::Deny, _) if found.is_empty() => Ok(()),
        (Effect::Deny, _) => {
            let may = if assertion.given.is_some() { "may" } else { "may, under some circumstances," };
            Err(format!("{who} {may} reach {name} on {found}: {why}"))
        }
    }
}

/// Each device that must be as asserted, and what it is called in a sentence. For a user that is one that enrols just then, and
/// each that the user has: policies may speak of those.
fn devices(state: &State, assertion: &Assertion, now: Timestamp) -> Result<Vec<(String, Device)>, String> {
    let given = assertion.given.as_ref();
    let posture = given.and_then(|given| given.posture.clone()).unwrap_or_default();
    let there_is = |device: &Device| Device { posture: posture.clone(), ..device.clone() };
    match &assertion.who {
        Asserted::User(name) => {
            let user = state.user_named(name).ok_or_else(|| format!("there is no user '{name}'"))?;
            let enrolled_at = given.and_then(|given| given.time).unwrap_or(now);
            let mut devices = vec![(name.to_string(), made_up(user, posture.clone(), enrolled_at))];
            let there_are = state.devices_of(Owner::User(user.id)).filter(|device| !device.revoked);
            devices
                .extend(there_are.map(|device| (format!("{name} on the device '{}'", device.name), there_is(device))));
            Ok(devices)
        }
        Asserted::Device(name) => {
            let by_id = name.parse::<DeviceId>().ok().and_then(|id| state.devices.get(&id));
            let device = by_id.or_else(|| state.device_named(name));
            let device = device.ok_or_else(|| format!("there is no device '{name}'"))?;
            Ok(vec![(format!("the device '{name}'"), there_is(device))])
        }
    }
}

/// A device that enrols then.
fn made_up(user: &User, posture: Posture, enrolled_at: Timestamp) -> Device {
    Device {
        id: DeviceId::from_bytes([0xff; 16]),
        name: String::new(),
        owner: Owner::User(user.id),
        key: Sha256([0xff; 32]),
        wireguard: PublicKey([0xff; 32]),
        addr: OverlayAddr { v4: std::net::Ipv4Addr::UNSPECIFIED, v6: std::net::Ipv6Addr::UNSPECIFIED },
        revoked: false,
        drained: false,
        posture,
        enrolled_at,
        token: TokenId::from_bytes([0xff; 16]),
    }
}

/// A state with one more device in it.
struct Visit<'a> {
    state: &'a State,
    device: Device,
}

impl Visit<'_> {
    /// What is open under these circumstances, and why that or nothing is.
    fn decided(&self, resource: &Resource, given: &Given, now: Timestamp) -> (Filter, String) {
        let now = given.time.unwrap_or(now);
        let posture_until = given.posture.is_some().then_some(now.plus(std::time::Duration::from_secs(60)));
        let circumstances = Circumstances { now, posture_until, source: given.source };
        let decision = Case::new(self, self.device.id, resource.id).map(|case| case.decide(circumstances));
        match decision {
            Ok(Decision::Allowed { filter, .. }) => {
                let why = self.spoken(resource, now, |policy| policy.effect == Effect::Allow);
                (filter, format!("by {why}"))
            }
            Ok(Decision::Denied { reason }) => {
                let why = self.spoken(resource, now, |_| true);
                let why = if why.is_empty() { String::new() } else { format!(" (of {why})") };
                let fix = explain(self, self.device.id, resource.id, circumstances).fix;
                let fix: Vec<_> = fix.iter().map(|test| format!("'{}'", test.text)).collect();
                let fix = match (fix.is_empty(), reason) {
                    (true, _) => String::new(),
                    (false, DenyReason::Forbidden) => format!("; if it were not for {}", fix.join(", ")),
                    (false, _) => format!("; it lacks {}", fix.join(", ")),
                };
                (Filter::default(), format!("{}{why}{fix}", said(reason)))
            }
            Err(reason) => (Filter::default(), said(reason)),
        }
    }

    /// What is open at the least (to be allowed) or at the most (to be denied), whatever the circumstances.
    fn at_all(&self, resource: &Resource, expect: Effect, now: Timestamp) -> (Filter, String) {
        let slice = match self.slice(resource) {
            Ok(slice) => slice,
            Err(reason) => return (Filter::default(), said(reason)),
        };
        let (mut open, mut closed) = (Filter::default(), Filter::default());
        for policy in slice.iter().filter(|policy| policy.is_current(now) && !policy.policy().shadow) {
            let ports = policy.ports_of(&resource.filter);
            match policy.policy().effect {
                Effect::Allow if expect == Effect::Deny || policy.is_unconditional() => open = open.union(&ports),
                Effect::Deny if expect == Effect::Allow || policy.is_unconditional() => closed = closed.union(&ports),
                Effect::Allow | Effect::Deny => {}
            }
        }
        let why = self.spoken(resource, now, |policy| expect == Effect::Allow || policy.effect == Effect::Allow);
        let why = if why.is_empty() { "no policy allows it".to_owned() } else { format!("by {why}") };
        (open.minus(&closed), why)
    }

    fn slice(&self, resource: &Resource) -> Result<Vec<Arc<CompiledPolicy>>, DenyReason> {
        let principals = principals(self, self.device.id)?;
        let mut slice = Vec::new();
        for principal in &principals {
            for scope in &scopes_of_resource(resource) {
                self.policies(*principal, scope, &mut |policy| slice.push(Arc::clone(policy)));
            }
        }
        Ok(slice)
    }

    /// The policies that speak of this, in words.
    fn spoken(&self, resource: &Resource, now: Timestamp, is_asked: impl Fn(&Policy) -> bool) -> String {
        /// More than these make no sentence.
        const MOST: usize = 4;
        let slice = self.slice(resource).unwrap_or_default();
        let counts = |it: &&Arc<CompiledPolicy>| it.is_current(now) && !it.policy().shadow && is_asked(it.policy());
        let words = slice.iter().filter(counts).map(|it| format!("'{}'", self.state.policy_words(it.policy())));
        let words: Vec<_> = words.collect();
        match words.len().checked_sub(MOST) {
            Some(more @ 1..) => format!("{} and {more} more policies", words[..MOST].join(", ")),
            _ => words.join(", "),
        }
    }
}

/// A reason as part of a sentence to an admin.
fn said(reason: DenyReason) -> String {
    match reason {
        DenyReason::ConditionNotMet => "no condition of access is met".to_owned(),
        reason => reason.to_string(),
    }
}

impl Facts for Visit<'_> {
    fn device(&self, id: DeviceId) -> Option<&Device> {
        if id == self.device.id { Some(&self.device) } else { self.state.device(id) }
    }
    fn user(&self, id: UserId) -> Option<&User> {
        self.state.user(id)
    }
    fn groups_of(&self, user: UserId) -> BTreeSet<GroupId> {
        Facts::groups_of(self.state, user)
    }
    fn resource(&self, id: ResourceId) -> Option<&Resource> {
        self.state.resource(id)
    }
    fn resources_in(&self, scope: &Scope) -> Vec<ResourceId> {
        Facts::resources_in(self.state, scope)
    }
    fn policies(&self, principal: Principal, scope: &Scope, each: &mut dyn FnMut(&Arc<CompiledPolicy>)) {
        self.state.policies(principal, scope, each);
    }
    fn scopes_of(&self, principal: Principal) -> Vec<Scope> {
        Facts::scopes_of(self.state, principal)
    }
}

impl State {
    /// A policy in words, like `allow group:eng tag:prod on tcp/443, when posture.disk_encrypted`.
    pub(crate) fn policy_words(&self, policy: &Policy) -> String {
        let unknown = || "?".to_owned();
        let subject = self.subject_of(policy.principal).map_or_else(unknown, |subject| subject.to_string());
        let scope = self.scope_name(&policy.scope).map_or_else(unknown, |scope| scope.to_string());
        let mut words = format!("{} {subject} {scope}", policy.effect);
        let parts = [
            policy.ports.as_ref().map(|ports| format!(" on {ports}")),
            policy.condition.as_ref().map(|condition| match condition {
                postern_model::Condition::Short { text } => format!(", when {text}"),
                postern_model::Condition::Cedar { .. } => ", under a condition in Cedar".to_owned(),
            }),
            policy.until.map(|until| format!(", until {}", postern_policy::until::display(until))),
        ];
        parts.into_iter().flatten().for_each(|part| words.push_str(&part));
        words
    }
}
