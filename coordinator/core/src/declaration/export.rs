//! A state as the declaration that leads to it.

use std::collections::{BTreeMap, BTreeSet};

use postern_model::{
    Condition, Effect, PolicyId,
    audit::Actor,
    record::{Policy, Resource},
};

use super::{Declaration, DeclaredGroup, DeclaredPolicy, DeclaredResource};
use crate::{Core, Env, NewPolicy, Refusal, State, commands::says, draft::Draft};

impl Core {
    /// The declaration of the state as it is, with all sections, in a stable order. To plan it finds nothing to do.
    ///
    /// # Errors
    /// When a policy in Cedar says something that can't be written any more, since what it speaks of was removed.
    pub fn export(&self, env: &mut Env<'_>) -> Result<Declaration, Refusal> {
        let state = &self.state;
        let groups = state.groups.values().map(|group| {
            let members = state.members_of(group.id).filter_map(|user| Some(state.users.get(&user)?.name.clone()));
            (group.name.clone(), DeclaredGroup { members: Some(members.collect()) })
        });
        let resources = state.resources.values().filter_map(|it| Some((it.name.clone(), declared(state, it)?)));
        Ok(Declaration {
            users: state.users.values().map(|user| user.name.clone()).collect(),
            groups: Some(groups.collect()),
            sites: Some(state.sites.values().map(|site| site.name.clone()).collect()),
            resources: Some(resources.collect::<BTreeMap<_, _>>()),
            policies: Some(self.export_policies(env)?),
            assertions: Vec::new(),
        })
    }

    fn export_policies(&self, env: &mut Env<'_>) -> Result<Vec<DeclaredPolicy>, Refusal> {
        let draft = Draft::new(self, Actor::Coordinator, env.now);
        let mut unsayable = Vec::new();
        let mut all: Vec<_> = self.state.policies.values().collect();
        all.sort_by_cached_key(|policy| sort_key(&self.state, policy));
        let mut declared = Vec::with_capacity(all.len());
        for policy in all {
            match &policy.condition {
                Some(Condition::Cedar { source, .. }) => {
                    // Names may stand for others by now, or for nothing.
                    let said = draft.said_cedar(source).ok();
                    let is_same = said.is_some_and(|said| said.len() == 1 && says(&said[0], policy));
                    if !is_same {
                        unsayable.push(policy.id);
                    }
                    declared.push(DeclaredPolicy::Cedar(source.clone()));
                }
                _ => declared.extend(self.short(policy).map(|new| DeclaredPolicy::Short(Box::new(new)))),
            }
        }
        if unsayable.is_empty() { Ok(declared) } else { Err(refusal(&unsayable)) }
    }

    fn short(&self, policy: &Policy) -> Option<NewPolicy> {
        Some(NewPolicy {
            effect: policy.effect,
            subject: self.state.subject_of(policy.principal)?,
            scope: self.state.scope_name(&policy.scope)?,
            ports: policy.ports.clone(),
            when: policy.condition.as_ref().map(|condition| condition.source().to_owned()),
            until: policy.until,
            shadow: policy.shadow,
        })
    }
}

fn refusal(unsayable: &[PolicyId]) -> Refusal {
    let ids: Vec<_> = unsayable.iter().map(ToString::to_string).collect();
    Refusal::Conflict {
        what: format!(
            "policies in Cedar speak of what was removed since they were added, so that no file can say the same: remove them ('policy remove ID') or add them anew, then export: {}",
            ids.join(", ")
        ),
    }
}

fn declared(state: &State, resource: &Resource) -> Option<DeclaredResource> {
    let mut aliases = resource.aliases.clone();
    aliases.sort();
    Some(DeclaredResource {
        site: state.sites.get(&resource.site)?.name.clone(),
        target: resource.target.clone(),
        open: resource.filter.clone(),
        aliases,
        tags: resource.tags.iter().cloned().collect::<BTreeSet<_>>(),
    })
}

/// By what a policy says, so that the order is the same whatever the ids are.
fn sort_key(state: &State, policy: &Policy) -> impl Ord + use<> {
    let scope = state.scope_name(&policy.scope).map(|scope| scope.to_string());
    let subject = state.subject_of(policy.principal).map(|subject| subject.to_string());
    let is_deny = policy.effect == Effect::Deny;
    let ports = policy.ports.as_ref().map(ToString::to_string);
    let condition = policy.condition.as_ref().map(|condition| condition.source().to_owned());
    (scope, is_deny, subject, ports, condition, policy.until, policy.shadow)
}
