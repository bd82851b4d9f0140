//! Whom changes can touch, and who can't be told apart: what [`compare`](super::compare) looks at.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use postern_model::{
    GroupId, PolicyId, ResourceId, Scope, UserId,
    change::Change,
    record::{Policy, Principal, Resource},
};
use postern_policy::{Facts, mentions, scopes_of_resource};

use crate::State;

/// A state, with whom the clauses of its policies in Cedar speak of.
pub(super) struct Side<'a> {
    pub(super) state: &'a State,
    /// The policies that do, by whom.
    pub(super) mentions: HashMap<Principal, Vec<&'a Policy>>,
    /// And the other way round.
    pub(super) mentioned: HashMap<PolicyId, Vec<Principal>>,
}

impl<'a> Side<'a> {
    pub(super) fn new(state: &'a State) -> Self {
        let mut it = Self { state, mentions: HashMap::new(), mentioned: HashMap::new() };
        for policy in state.policies.values().filter(|policy| !policy.shadow) {
            let Some(condition) = &policy.condition else { continue };
            for principal in mentions(condition) {
                it.mentions.entry(principal).or_default().push(policy);
                it.mentioned.entry(policy.id).or_default().push(principal);
            }
        }
        it
    }

    pub(super) fn speaks_of(&self, principal: Principal) -> bool {
        self.state.policy_set().speaks_of(principal) || self.mentions.contains_key(&principal)
    }

    /// The resources that policies are about that speak of this principal.
    pub(super) fn resources_of(&self, principal: Principal) -> impl Iterator<Item = ResourceId> {
        let mentioning = self.mentions.get(&principal).into_iter().flatten().map(|policy| policy.scope.clone());
        let scopes: BTreeSet<_> = Facts::scopes_of(self.state, principal).into_iter().chain(mentioning).collect();
        scopes.into_iter().flat_map(|scope| Facts::resources_in(self.state, &scope))
    }

    /// The principals that the policies about a resource speak of.
    pub(super) fn named(&self, resource: ResourceId) -> HashSet<Principal> {
        let scopes = self.state.resources.get(&resource).map(scopes_of_resource).unwrap_or_default();
        let policies = scopes.iter().flat_map(|scope| self.state.policy_set().policies_about(scope));
        let mentioned = |id| self.mentioned.get(&id).into_iter().flatten().copied();
        policies.flat_map(|(id, principal)| mentioned(id).chain([principal])).collect()
    }
}

/// What of one resource may differ for whom.
#[derive(Default)]
pub(super) struct Touch {
    /// For everyone that it speaks of.
    pub(super) is_whole: bool,
    pub(super) principals: BTreeSet<Principal>,
}

/// What the changes can make a difference for.
pub(super) struct Touched {
    pub(super) resources: BTreeMap<ResourceId, Touch>,
}

impl Touched {
    pub(super) fn by(before: &Side<'_>, after: &Side<'_>, changes: &[Change]) -> Self {
        let sides = [before, after];
        let (before, after) = (before.state, after.state);
        let mut it = Self { resources: BTreeMap::new() };
        let mut moved = BTreeSet::new();
        for change in changes {
            match change {
                Change::PutPolicy(policy) if !policy.shadow => it.policy(after, policy.principal, &policy.scope),
                Change::RemovePolicy(id) => {
                    if let Some(policy) = before.policies.get(id).filter(|policy| !policy.shadow) {
                        it.policy(before, policy.principal, &policy.scope);
                    }
                }
                Change::PutResource(Resource { id, .. }) | Change::RemoveResource(id) => {
                    let seen =
                        |state: &'_ State| state.resources.get(id).map(|it| (it.tags.clone(), it.filter.clone()));
                    if seen(before) != seen(after) {
                        it.resources.entry(*id).or_default().is_whole = true;
                    }
                }
                // Those who joined or left are classes of their own, and new ones are.
                Change::AddMember(group, _) | Change::RemoveMember(group, _) => {
                    moved.insert(Principal::Group(*group));
                }
                Change::PutUser(_) => drop(moved.insert(Principal::Everyone)),
                _ => {}
            }
        }
        for resource in moved.iter().flat_map(|it| sides.into_iter().flat_map(|side| side.resources_of(*it))) {
            it.resources.entry(resource).or_default();
        }
        it
    }

    pub(super) fn policy(&mut self, state: &State, principal: Principal, scope: &Scope) {
        for resource in Facts::resources_in(state, scope) {
            self.resources.entry(resource).or_default().principals.insert(principal);
        }
    }
}

/// Users whom no policy tells apart unless it names them: the groups that policies speak of, before and after. `None` where
/// there is no such user.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Class {
    pub(super) before: Option<Vec<GroupId>>,
    pub(super) after: Option<Vec<GroupId>>,
}

impl Class {
    pub(super) fn of(before: &Side<'_>, after: &Side<'_>, user: UserId) -> Self {
        let groups = |side: &Side<'_>| {
            let user = side.state.users.get(&user).filter(|user| !user.suspended)?;
            let mut groups: Vec<_> = Facts::groups_of(side.state, user.id).into_iter().collect();
            groups.retain(|group| side.speaks_of(Principal::Group(*group)));
            Some(groups)
        };
        Self { before: groups(before), after: groups(after) }
    }

    pub(super) fn is_touched(&self, touch: &Touch) -> bool {
        let is_named = |group: &GroupId| touch.principals.contains(&Principal::Group(*group));
        touch.is_whole
            || self.before != self.after
            || touch.principals.contains(&Principal::Everyone)
            || self.before.iter().chain(&self.after).flatten().any(is_named)
    }
}

/// All classes, each with its users.
pub(super) struct Classes {
    pub(super) all: Vec<(Class, Vec<UserId>)>,
    pub(super) of_user: HashMap<UserId, usize>,
    /// Those whose users are, or were, in a group.
    pub(super) of_group: HashMap<GroupId, Vec<usize>>,
    /// Those that are not in both states.
    pub(super) odd: Vec<usize>,
    /// How many users there are in either.
    pub(super) active: usize,
}

impl Classes {
    pub(super) fn new(before: &Side<'_>, after: &Side<'_>) -> Self {
        let mut classes: BTreeMap<Class, Vec<UserId>> = BTreeMap::new();
        let users: BTreeSet<UserId> = before.state.users.keys().chain(after.state.users.keys()).copied().collect();
        for user in users {
            classes.entry(Class::of(before, after, user)).or_default().push(user);
        }
        let all: Vec<_> = classes.into_iter().collect();
        let mut it =
            Self { all: Vec::new(), of_user: HashMap::new(), of_group: HashMap::new(), odd: Vec::new(), active: 0 };
        for (at, (class, users)) in all.iter().enumerate() {
            it.of_user.extend(users.iter().map(|user| (*user, at)));
            let groups: BTreeSet<_> = class.before.iter().chain(&class.after).flatten().collect();
            groups.into_iter().for_each(|group| it.of_group.entry(*group).or_default().push(at));
            if class.before.is_some() || class.after.is_some() {
                it.active += users.len();
            }
            if class.before.is_none() || class.after.is_none() {
                it.odd.push(at);
            }
        }
        Self { all, ..it }
    }

    /// Those that may differ from users whom no group that is named makes any different.
    pub(super) fn apart(&self, named: &Named) -> BTreeSet<usize> {
        let groups = named.before.iter().chain(&named.after).filter_map(|principal| match principal {
            Principal::Group(group) => self.of_group.get(group),
            _ => None,
        });
        groups.flatten().chain(&self.odd).copied().collect()
    }
}

/// The principals that policies about one resource speak of, before and after.
pub(super) struct Named {
    pub(super) before: HashSet<Principal>,
    pub(super) after: HashSet<Principal>,
}

pub(super) type Principals = Option<Vec<Principal>>;

impl Named {
    pub(super) fn set(&self, is_before: bool) -> &HashSet<Principal> {
        if is_before { &self.before } else { &self.after }
    }

    pub(super) fn in_class(&self, class: &Class, is_before: bool) -> Principals {
        let groups = if is_before { class.before.as_ref() } else { class.after.as_ref() };
        let set = self.set(is_before);
        let groups = groups?.iter().map(|group| Principal::Group(*group));
        Some(groups.chain([Principal::Everyone]).filter(|principal| set.contains(principal)).collect())
    }

    pub(super) fn of_user(&self, class: &Class, user: UserId, is_before: bool) -> Principals {
        let own = Some(Principal::User(user)).filter(|principal| self.set(is_before).contains(principal));
        Some(own.into_iter().chain(self.in_class(class, is_before)?).collect())
    }

    pub(super) fn everyone(&self, is_before: bool) -> Principals {
        let everyone = Some(Principal::Everyone).filter(|principal| self.set(is_before).contains(principal));
        Some(everyone.into_iter().collect())
    }
}
