//! [`decide`]: one access request, one decision.
//!
//! What is allowed is the union of what the policies open whose conditions are met, less what those close that deny.

use std::{collections::BTreeSet, sync::Arc};

use postern_model::{
    Decision, DenyReason, DeviceId, Effect, Filter, GroupId, PolicyId, ResourceId, Timestamp, UserId,
    record::{Device, Principal, Resource},
};

use crate::{
    Circumstances, CompiledPolicy, Facts,
    asking::{Asking, HOUR, MINUTE},
    compiled::Compiled,
    facts::scopes_of_resource,
    principals,
};

/// Decides whether `device` may reach `resource` under these circumstances, and with which filter.
///
/// The answer depends on nothing but the arguments. Whoever acts on it records it.
pub fn decide(facts: &impl Facts, device: DeviceId, resource: ResourceId, circumstances: Circumstances) -> Decision {
    match Case::new(facts, device, resource) {
        Ok(case) => case.decide(circumstances),
        Err(reason) => Decision::Denied { reason },
    }
}

/// Which policies count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Counting {
    /// Those that decide.
    InForce,
    /// Those in shadow as well: what would be decided if they did.
    WithShadow,
}

/// One device and one resource, with the policies that can concern them.
pub struct Case<'a> {
    pub(crate) device: &'a Device,
    pub(crate) user: Option<UserId>,
    pub(crate) groups: Vec<GroupId>,
    pub(crate) resource: &'a Resource,
    /// The most exact principals and scopes first.
    pub(crate) slice: Vec<Arc<CompiledPolicy>>,
}

impl<'a> Case<'a> {
    /// Gathers what is needed.
    ///
    /// # Errors
    /// With the reason, when access is denied whatever policies say.
    pub fn new(facts: &'a impl Facts, device: DeviceId, resource: ResourceId) -> Result<Self, DenyReason> {
        let principals = principals(facts, device)?;
        let device = facts.device(device).ok_or(DenyReason::DeviceRevoked)?;
        let resource = facts.resource(resource).ok_or(DenyReason::UnknownResource)?;
        let user = principals.iter().find_map(|principal| match principal {
            Principal::User(user) => Some(*user),
            _ => None,
        });
        let groups = principals.iter().filter_map(|principal| match principal {
            Principal::Group(group) => Some(*group),
            _ => None,
        });
        Ok(Self { device, user, groups: groups.collect(), resource, slice: slice(facts, &principals, resource) })
    }

    /// What policies could open of it, under whichever circumstances.
    pub fn could_open(&self, now: Timestamp) -> Filter {
        let allowing = self.counted(now, Counting::InForce, Effect::Allow);
        allowing.fold(Filter::default(), |open, policy| open.union(&policy.ports_of(&self.resource.filter)))
    }

    /// How many policies can concern it.
    pub fn policies(&self) -> usize {
        self.slice.len()
    }

    /// The device.
    pub fn device(&self) -> &'a Device {
        self.device
    }

    /// The resource.
    pub fn resource(&self) -> &'a Resource {
        self.resource
    }

    /// The decision.
    pub fn decide(&self, circumstances: Circumstances) -> Decision {
        self.weigh(circumstances, Counting::InForce)
    }

    /// The decision, by the policies that count.
    pub fn weigh(&self, circumstances: Circumstances, counting: Counting) -> Decision {
        let denied = |reason| Decision::Denied { reason };
        let asking = self.asking(circumstances);
        let mut open = Filter::default();
        let mut by: Option<PolicyId> = None;
        let (mut is_spoken_for, mut is_any_open) = (false, false);
        for policy in self.counted(circumstances.now, counting, Effect::Allow) {
            is_spoken_for = true;
            let ports = policy.ports_of(&self.resource.filter);
            if ports.is_empty() {
                continue;
            }
            is_any_open = true;
            // What is open already needs no asking. A condition that can't be told is not met.
            if !ports.minus(&open).is_empty() && asking.meets(policy) == Ok(true) {
                by.get_or_insert(policy.policy().id);
                open = open.union(&ports);
            }
        }
        if !is_spoken_for {
            return denied(DenyReason::NoPolicy);
        }
        if !is_any_open {
            return denied(DenyReason::EmptyFilter);
        }
        let Some(by) = by else { return denied(DenyReason::ConditionNotMet) };
        for policy in self.counted(circumstances.now, counting, Effect::Deny) {
            let ports = policy.ports_of(&open);
            // And where it denies, it is.
            if !ports.is_empty() && asking.meets(policy) != Ok(false) {
                open = open.minus(&ports);
            }
        }
        if open.is_empty() { denied(DenyReason::Forbidden) } else { Decision::Allowed { filter: open, policy: by } }
    }

    /// Whether any policy in shadow can concern this.
    pub fn has_shadow(&self) -> bool {
        self.slice.iter().any(|policy| policy.policy().shadow)
    }

    /// The policies in shadow that would apply: whose condition is met, or can't be told where they deny.
    pub fn shadows(&self, circumstances: Circumstances) -> Vec<&CompiledPolicy> {
        let asking = self.asking(circumstances);
        let is_shadow = |policy: &&Arc<CompiledPolicy>| policy.policy().shadow && policy.is_current(circumstances.now);
        let shadows = self.slice.iter().filter(is_shadow).map(Arc::as_ref);
        let applies = |policy: &&CompiledPolicy| match policy.policy().effect {
            Effect::Allow => asking.meets(policy) == Ok(true),
            Effect::Deny => asking.meets(policy) != Ok(false),
        };
        shadows.filter(applies).collect()
    }

    /// The first time after `circumstances.now` and up to `end` at which not all would be allowed any more that is allowed
    /// now, if nothing but time changes; else `end`. What is denied holds for no time.
    pub fn holds_until(&self, circumstances: Circumstances, end: Timestamp) -> Timestamp {
        let Decision::Allowed { filter, .. } = self.decide(circumstances) else { return circumstances.now };
        let mut at = circumstances.now;
        while let Some(next) = self.next_boundary(circumstances.at(at)).filter(|next| *next < end) {
            match self.decide(circumstances.at(next)) {
                Decision::Allowed { filter: then, .. } if filter.minus(&then).is_empty() => at = next,
                _ => return next,
            }
        }
        end
    }

    /// The next time at which time alone could change the answer of any condition.
    fn next_boundary(&self, circumstances: Circumstances) -> Option<Timestamp> {
        let now = circumstances.now;
        let next = |step: i64| {
            let millis = now.unix_millis();
            Timestamp::from_unix_millis((millis.div_euclid(step) + 1).saturating_mul(step))
        };
        let mut boundaries = BTreeSet::new();
        for policy in self.slice.iter().filter(|policy| !policy.policy().shadow) {
            boundaries.extend(policy.policy().until);
            let Compiled::When(when) = policy.condition() else { continue };
            if when.needs.minute {
                boundaries.insert(next(MINUTE));
            }
            if when.needs.hour {
                boundaries.insert(next(HOUR));
            }
            if when.needs.auth_age {
                boundaries.insert(self.asking(circumstances).next_auth_hour(now));
            }
            if when.needs.posture {
                boundaries.extend(circumstances.posture_until);
            }
        }
        boundaries.range(now..).find(|boundary| **boundary > now).copied()
    }

    pub(crate) fn asking(&self, circumstances: Circumstances) -> Asking<'_> {
        Asking::new(self.device, (self.user, &self.groups), self.resource, circumstances, &self.slice)
    }

    pub(crate) fn counted(
        &self,
        now: Timestamp,
        counting: Counting,
        effect: Effect,
    ) -> impl Iterator<Item = &CompiledPolicy> {
        let counts = move |policy: &&Arc<CompiledPolicy>| {
            let it = policy.policy();
            it.effect == effect && policy.is_current(now) && (!it.shadow || counting == Counting::WithShadow)
        };
        self.slice.iter().filter(counts).map(Arc::as_ref)
    }
}

/// The policies that can concern these principals and this resource.
pub(crate) fn slice(facts: &impl Facts, principals: &[Principal], resource: &Resource) -> Vec<Arc<CompiledPolicy>> {
    let scopes = scopes_of_resource(resource);
    let mut slice = Vec::new();
    for principal in principals {
        for scope in &scopes {
            facts.policies(*principal, scope, &mut |policy| slice.push(Arc::clone(policy)));
        }
    }
    slice
}

/// What may open of a resource to a device that is these principals, conditions left out: that, and no more, is what the
/// device may know of. A policy whose time is over counts until it is removed, which is what devices are told of.
///
/// # Errors
/// With the reason, when it may not know of the resource at all.
pub fn visible_in<'a>(
    facts: &'a impl Facts,
    principals: &[Principal],
    resource: ResourceId,
) -> Result<&'a Resource, DenyReason> {
    let resource = facts.resource(resource).ok_or(DenyReason::UnknownResource)?;
    let (mut open, mut closed) = (Filter::default(), Filter::default());
    let mut is_spoken_for = false;
    let slice = slice(facts, principals, resource);
    for policy in slice.iter().filter(|policy| !policy.policy().shadow) {
        let ports = policy.ports_of(&resource.filter);
        match policy.policy().effect {
            Effect::Allow => {
                is_spoken_for = true;
                open = open.union(&ports);
            }
            Effect::Deny if policy.is_unconditional() && policy.policy().until.is_none() => {
                closed = closed.union(&ports)
            }
            Effect::Deny => {}
        }
    }
    if !is_spoken_for {
        return Err(DenyReason::NoPolicy);
    }
    if open.is_empty() {
        return Err(DenyReason::EmptyFilter);
    }
    if open.minus(&closed).is_empty() { Err(DenyReason::Forbidden) } else { Ok(resource) }
}

/// Whether a device may know of a resource.
pub fn may_know(facts: &impl Facts, device: DeviceId, resource: ResourceId) -> bool {
    principals(facts, device).and_then(|principals| visible_in(facts, &principals, resource)).is_ok()
}

/// The resources that a device may know of: those that [`decide`] could allow it under some circumstances.
pub fn visible(facts: &impl Facts, device: DeviceId) -> BTreeSet<ResourceId> {
    let Ok(principals) = principals(facts, device) else { return BTreeSet::new() };
    let mut resources = resources_of(facts, &principals);
    resources.retain(|resource| visible_in(facts, &principals, *resource).is_ok());
    resources
}

/// The resources that policies of these principals are about.
pub fn resources_of(facts: &impl Facts, principals: &[Principal]) -> BTreeSet<ResourceId> {
    let scopes: BTreeSet<_> = principals.iter().flat_map(|principal| facts.scopes_of(*principal)).collect();
    scopes.iter().flat_map(|scope| facts.resources_in(scope)).collect()
}
