//! Policies.

use std::collections::BTreeSet;

use postern_model::{
    Condition, Filter, PolicyId, Scope, ScopeName, Subject,
    change::Change,
    check::MAX_CHECKS,
    record::{Policy, Principal},
};
use postern_policy::{CompiledPolicy, PolicySet, check_condition, expert, until};

use super::{Result, conflict, invalid, not_found};
use crate::{Env, NewPolicy, Touched, draft::Draft, state::State};

/// The most policies that one text in Cedar adds.
const MAX_AT_ONCE: usize = 256;

impl Draft<'_> {
    pub(super) fn add_policy(&mut self, new: &NewPolicy, env: &mut Env<'_>) -> Result<Touched> {
        let policy = self.said_short(new)?;
        self.put_new_policy(policy, env).map(Touched::Policy)
    }

    /// What a policy in the short form says; its condition is not looked into, and it has no id yet.
    pub(crate) fn said_short(&self, new: &NewPolicy) -> Result<Policy> {
        Ok(Policy {
            id: PolicyId::from_bytes([0; 16]),
            effect: new.effect,
            principal: self.principal(&new.subject)?,
            scope: self.scope(&new.scope)?,
            ports: new.ports.clone(),
            condition: new.when.as_ref().map(|text| Condition::Short { text: text.trim().to_owned() }),
            until: new.until,
            shadow: new.shadow,
            created_at: self.now,
        })
    }

    pub(super) fn add_cedar(&mut self, source: &str, env: &mut Env<'_>) -> Result<Touched> {
        let policies = self.said_cedar(source)?;
        policies
            .into_iter()
            .map(|policy| self.put_new_policy(policy, env))
            .collect::<Result<_>>()
            .map(Touched::Policies)
    }

    /// What policies in Cedar say; they have no ids yet.
    pub(crate) fn said_cedar(&self, source: &str) -> Result<Vec<Policy>> {
        let experts = expert::read(source, self.state).map_err(|error| invalid(error.to_string()))?;
        if experts.len() > MAX_AT_ONCE {
            return Err(invalid(format!("at most {MAX_AT_ONCE} policies can be added at once")));
        }
        let policies = experts.into_iter().map(|expert| Policy {
            id: PolicyId::from_bytes([0; 16]),
            effect: expert.effect,
            principal: expert.principal,
            scope: expert.scope,
            ports: expert.ports,
            condition: expert.condition,
            until: expert.until,
            shadow: expert.shadow,
            created_at: self.now,
        });
        Ok(policies.collect())
    }

    /// Adds a policy under an id of its own.
    pub(crate) fn put_new_policy(&mut self, policy: Policy, env: &mut Env<'_>) -> Result<PolicyId> {
        if let Some(Condition::Short { text }) = &policy.condition {
            check_condition(text).map_err(|error| invalid(error.to_string()))?;
        }
        if policy.ports.as_ref().is_some_and(Filter::is_empty) {
            return Err(invalid("the policy would be about no port: leave --ports out, or name some".into()));
        }
        if policy.until.is_some_and(|until| until <= self.now) {
            return Err(invalid("the policy would have ended already: give --until a time to come".into()));
        }
        if let Some(same) = self.state.policy_like(&policy) {
            let what = format!("policy {same} says just that already; see 'policy list'");
            return Err(conflict(what));
        }
        if like(self.put_policies(), &policy).next().is_some() {
            let words = self.state.policy_words(&policy);
            return Err(invalid(format!("the policy '{words}' is there twice: leave one of them out")));
        }
        self.check_checks(&policy)?;
        let policy = Policy { id: env.id(PolicyId::from_bytes), ..policy };
        let id = policy.id;
        self.note_policy("policy.add", &policy);
        self.change(Change::PutPolicy(policy));
        Ok(id)
    }

    /// All devices are asked for all checks, so there can't be any number of them. A policy that adds none is welcome still.
    fn check_checks(&self, policy: &Policy) -> Result<()> {
        let compiled = CompiledPolicy::new(policy.clone());
        let mut checks: BTreeSet<_> =
            self.state.policy_set().checks().chain(self.put_policies().checks()).cloned().collect();
        let before = checks.len();
        checks.extend(compiled.checks());
        if checks.len() > MAX_CHECKS.max(before) {
            let what = format!("policies can ask for at most {MAX_CHECKS} different files, processes and packages");
            return Err(conflict(what));
        }
        Ok(())
    }

    pub(super) fn remove_policies_of(&mut self, principal: Principal) {
        for id in self.state.policy_set().policies_of(principal) {
            if let Some(policy) = self.state.policies.get(&id) {
                self.remove_policy(policy);
            }
        }
    }

    pub(super) fn remove_policy(&mut self, policy: &Policy) {
        self.note_policy("policy.remove", policy);
        self.change(Change::RemovePolicy(policy.id));
    }

    /// From now on it decides: what it would have closed is cut, and its age counts from here.
    pub(super) fn enforce_policy(&mut self, id: PolicyId) -> Result<Touched> {
        let policy = self.state.policies.get(&id).ok_or_else(|| not_found("policy", &id, "policy list"))?;
        if !policy.shadow {
            return Err(conflict(format!("policy {id} is not in shadow: it decides already")));
        }
        let policy = Policy { shadow: false, created_at: self.now, ..policy.clone() };
        if let Some(same) = self.state.policy_like(&policy) {
            let what =
                format!("policy {same} says just that already, and decides; remove this one ('policy remove {id}')");
            return Err(conflict(what));
        }
        self.note_policy("policy.enforce", &policy);
        self.change(Change::PutPolicy(policy));
        Ok(Touched::Policy(id))
    }

    /// Its time has come.
    pub(crate) fn expire_policy(&mut self, policy: &Policy) {
        self.note_policy("policy.expire", policy);
        self.change(Change::RemovePolicy(policy.id));
    }

    fn note_policy(&mut self, action: &str, policy: &Policy) {
        let (subject, scope) = (self.principal_label(policy.principal), self.scope_label(&policy.scope));
        let ports = policy.ports.as_ref().map(ToString::to_string);
        let when = policy.condition.as_ref().map(Condition::source);
        let until = policy.until.map(until::display);
        let mut details: Vec<(&str, &dyn ToString)> =
            vec![("effect", &policy.effect), ("subject", &subject), ("resource", &scope)];
        details.extend(ports.as_ref().map(|ports| ("ports", ports as &dyn ToString)));
        details.extend(when.as_ref().map(|when| ("when", when as &dyn ToString)));
        details.extend(until.as_ref().map(|until| ("until", until as &dyn ToString)));
        if policy.shadow {
            details.push(("shadow", &true));
        }
        self.note(action, format!("policy:{}", policy.id), &details);
    }

    fn principal(&self, subject: &Subject) -> Result<Principal> {
        Ok(match subject {
            Subject::User(name) => Principal::User(self.user(name)?.id),
            Subject::Group(name) => Principal::Group(self.group(name)?.id),
            Subject::Device(id) => {
                self.state.devices.get(id).ok_or_else(|| not_found("device", id, "device list"))?;
                Principal::Device(*id)
            }
            Subject::Everyone => Principal::Everyone,
        })
    }

    fn scope(&self, name: &ScopeName) -> Result<Scope> {
        Ok(match name {
            ScopeName::Resource(name) => Scope::Resource(self.resource(name)?.id),
            ScopeName::Tag(tag) => Scope::Tag(tag.clone()),
            ScopeName::Everything => Scope::Everything,
        })
    }

    fn principal_label(&self, principal: Principal) -> String {
        self.state.subject_of(principal).map_or_else(|| "?".to_owned(), |subject| subject.to_string())
    }

    fn scope_label(&self, scope: &Scope) -> String {
        self.state.scope_name(scope).map_or_else(|| "?".to_owned(), |name| name.to_string())
    }
}

/// Whether two policies say the same.
pub(crate) fn says(policy: &Policy, other: &Policy) -> bool {
    Policy { id: policy.id, created_at: policy.created_at, ..other.clone() } == *policy
}

/// The policies in a set that say the same.
fn like(set: &PolicySet, policy: &Policy) -> impl Iterator<Item = PolicyId> {
    let slice = set.slice(policy.principal, &policy.scope);
    slice.iter().map(|other| other.policy()).filter(|other| says(other, policy)).map(|other| other.id)
}

impl State {
    /// A policy that says the same, if there is one.
    pub(crate) fn policy_like(&self, policy: &Policy) -> Option<PolicyId> {
        self.policies_like(policy).next()
    }

    /// The policies that say the same.
    pub(crate) fn policies_like(&self, policy: &Policy) -> impl Iterator<Item = PolicyId> {
        like(self.policy_set(), policy)
    }

    /// Whom a principal names; `None` when that is not there.
    pub fn subject_of(&self, principal: Principal) -> Option<Subject> {
        Some(match principal {
            Principal::User(id) => Subject::User(self.users.get(&id)?.name.clone()),
            Principal::Group(id) => Subject::Group(self.groups.get(&id)?.name.clone()),
            Principal::Device(id) => Subject::Device(id),
            Principal::Everyone => Subject::Everyone,
        })
    }

    /// How a scope is written; `None` when its resource is not there.
    pub fn scope_name(&self, scope: &Scope) -> Option<ScopeName> {
        Some(match scope {
            Scope::Resource(id) => ScopeName::Resource(self.resources.get(id)?.name.clone()),
            Scope::Tag(tag) => ScopeName::Tag(tag.clone()),
            Scope::Everything => ScopeName::Everything,
        })
    }
}

impl expert::Names for State {
    fn user(&self, name: &str) -> Option<postern_model::UserId> {
        self.user_named(&name.parse().ok()?).map(|user| user.id)
    }
    fn group(&self, name: &str) -> Option<postern_model::GroupId> {
        self.group_named(&name.parse().ok()?).map(|group| group.id)
    }
    fn device(&self, name: &str) -> Option<postern_model::DeviceId> {
        let by_id = name.parse().ok().and_then(|id| self.devices.get(&id));
        by_id.or_else(|| self.device_named(name)).map(|device| device.id)
    }
    fn resource(&self, name: &str) -> Option<postern_model::ResourceId> {
        self.resource_named(&name.parse().ok()?).map(|resource| resource.id)
    }
}
