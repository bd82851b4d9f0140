//! [`PolicySet`]: compiled policies by whom and by what.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use postern_model::{
    Check, PolicyId, Scope,
    record::{Policy, Principal},
};

use crate::CompiledPolicy;

/// The compiled policies, indexed so that a decision looks at those that can concern it and never at all of them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PolicySet {
    /// The slices, each in the order of ids.
    by_principal: HashMap<Principal, HashMap<Scope, Vec<Arc<CompiledPolicy>>>>,
    by_scope: HashMap<Scope, BTreeMap<PolicyId, Principal>>,
    /// How many policies ask for each check.
    checks: BTreeMap<Check, usize>,
}

impl PolicySet {
    /// Compiles all policies.
    pub fn compile<'a>(policies: impl IntoIterator<Item = &'a Policy>) -> Self {
        let mut set = Self::default();
        for policy in policies {
            set.insert(Arc::new(CompiledPolicy::new(policy.clone())));
        }
        set
    }

    /// Adds a policy. One with the same id must have been removed before.
    pub fn insert(&mut self, compiled: Arc<CompiledPolicy>) {
        let policy = compiled.policy();
        self.by_scope.entry(policy.scope.clone()).or_default().insert(policy.id, policy.principal);
        for check in compiled.checks() {
            *self.checks.entry(check).or_default() += 1;
        }
        let slice = self.by_principal.entry(policy.principal).or_default().entry(policy.scope.clone()).or_default();
        let at = slice.partition_point(|other| other.policy().id < policy.id);
        slice.insert(at, compiled);
    }

    /// Takes a policy out.
    pub fn remove(&mut self, policy: &Policy) {
        let Some(scopes) = self.by_principal.get_mut(&policy.principal) else { return };
        let Some(slice) = scopes.get_mut(&policy.scope) else { return };
        let Some(at) = slice.iter().position(|other| other.policy().id == policy.id) else { return };
        let compiled = slice.remove(at);
        if slice.is_empty() {
            scopes.remove(&policy.scope);
        }
        if scopes.is_empty() {
            self.by_principal.remove(&policy.principal);
        }
        if let Some(policies) = self.by_scope.get_mut(&policy.scope) {
            policies.remove(&policy.id);
            if policies.is_empty() {
                self.by_scope.remove(&policy.scope);
            }
        }
        for check in compiled.checks() {
            if let Some(count) = self.checks.get_mut(&check) {
                *count -= 1;
                if *count == 0 {
                    self.checks.remove(&check);
                }
            }
        }
    }

    /// The policies of exactly this principal and exactly this scope.
    pub fn slice(&self, principal: Principal, scope: &Scope) -> &[Arc<CompiledPolicy>] {
        self.by_principal.get(&principal).and_then(|scopes| scopes.get(scope)).map_or(&[], Vec::as_slice)
    }

    /// The scopes of this principal's policies.
    pub fn scopes_of(&self, principal: Principal) -> impl Iterator<Item = &Scope> + '_ {
        self.by_principal.get(&principal).into_iter().flat_map(HashMap::keys)
    }

    /// Whether any policy speaks of this principal.
    pub fn speaks_of(&self, principal: Principal) -> bool {
        self.by_principal.contains_key(&principal)
    }

    /// The policies of this principal.
    pub fn policies_of(&self, principal: Principal) -> Vec<PolicyId> {
        let slices = self.by_principal.get(&principal).into_iter().flat_map(HashMap::values);
        let ids: BTreeSet<_> = slices.flatten().map(|compiled| compiled.policy().id).collect();
        ids.into_iter().collect()
    }

    /// The policies with exactly this scope, each with whom it speaks of.
    pub fn policies_about(&self, scope: &Scope) -> impl Iterator<Item = (PolicyId, Principal)> + '_ {
        self.by_scope.get(scope).into_iter().flatten().map(|(policy, principal)| (*policy, *principal))
    }

    /// All policies, in no order.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<CompiledPolicy>> {
        self.by_principal.values().flat_map(HashMap::values).flatten()
    }

    /// Whether any policy asks for this.
    pub fn asks_for(&self, check: &Check) -> bool {
        self.checks.contains_key(check)
    }

    /// What devices have to look at, for any policy.
    pub fn checks(&self) -> impl Iterator<Item = &Check> {
        self.checks.keys()
    }
}
