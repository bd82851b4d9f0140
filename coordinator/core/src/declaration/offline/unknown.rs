//! [`Unknown`]: what only the coordinator knows of whom policies speak of, and the assertions that hang on it.

use std::collections::BTreeSet;

use postern_model::{
    Timestamp, UserName,
    record::{Policy, Principal},
};
use postern_policy::{mentions, principals_of_user, scopes_of_resource};

use super::super::{Assertion, Declaration};
use crate::State;

/// Whom users may turn out to be, or be in: groups that keep the members they have, and devices of which nobody says whose
/// they are.
pub(super) struct Unknown<'a> {
    state: &'a State,
    principals: BTreeSet<Principal>,
}

impl<'a> Unknown<'a> {
    /// Of a declaration that was carried out to `state`, in which there was nothing before but devices.
    pub(super) fn new(state: &'a State, declaration: &Declaration) -> Self {
        let open = declaration.groups.iter().flatten().filter(|(_, group)| group.members.is_none());
        let groups = open.filter_map(|(name, _)| state.group_named(name)).map(|group| Principal::Group(group.id));
        let devices = state.devices.keys().map(|id| Principal::Device(*id));
        Self { state, principals: groups.chain(devices).collect() }
    }

    /// Why an assertion about a user may turn out otherwise than it did here, in a sentence; `None` when it can't.
    ///
    /// More that allows never makes less allowed, and more that denies never makes more: so an assertion that holds is in doubt
    /// by what has the other effect than it expects, and one that does not by what has the same. A condition in Cedar that
    /// speaks of the unknown may be answered either way.
    pub(super) fn doubt(&self, assertion: &Assertion, user: &UserName, holds: bool, now: Timestamp) -> Option<String> {
        let (user, resource) = (self.state.user_named(user)?, self.state.resource_named(&assertion.resource)?);
        let asked = assertion.ports.as_ref().unwrap_or(&resource.filter);
        let given = assertion.given.as_ref();
        let now = given.and_then(|given| given.time).unwrap_or(now);
        let known = principals_of_user(self.state, user.id);
        let scopes = scopes_of_resource(resource);
        let all: BTreeSet<_> = self.principals.iter().copied().chain(known).collect();
        let slices = all.iter().flat_map(|principal| {
            scopes.iter().flat_map(|scope| self.state.policy_set().slice(*principal, scope).iter())
        });
        let counts = slices.filter(|it| {
            it.is_current(now) && !it.policy().shadow && !it.ports_of(&resource.filter).intersection(asked).is_empty()
        });
        let why = counts.map(|it| it.policy()).filter_map(|policy| {
            let would_turn_it = (policy.effect == assertion.expect) != holds;
            let subject = Some(policy.principal).filter(|it| would_turn_it && self.principals.contains(it));
            // Without circumstances, conditions are not answered.
            let mentioned = policy.condition.as_ref().filter(|_| given.is_some()).map(mentions).unwrap_or_default();
            let whom = subject.or_else(|| mentioned.into_iter().find(|it| self.principals.contains(it)))?;
            self.said(policy, whom)
        });
        // Policies are in the order of ids, which are others each time.
        why.min()
    }

    fn said(&self, policy: &Policy, whom: Principal) -> Option<String> {
        let words = self.state.policy_words(policy);
        match whom {
            Principal::Group(id) => {
                let name = &self.state.groups.get(&id)?.name;
                Some(format!(
                    "only the coordinator knows who is in the group '{name}', and '{words}' speaks of it: declare its \
                     'members', or leave it to 'policy plan' and 'policy apply'"
                ))
            }
            Principal::Device(id) => {
                let name = &self.state.devices.get(&id)?.name;
                Some(format!(
                    "only the coordinator knows whose the device '{name}' is, and '{words}' speaks of it: 'policy plan' \
                     and 'policy apply' check it"
                ))
            }
            Principal::User(_) | Principal::Everyone => None,
        }
    }
}
