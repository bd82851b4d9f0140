//! [`PolicySet`]: policies by whom and by what.

use std::collections::{BTreeMap, HashMap};

use postern_model::{PolicyId, ResourceId, record::Policy, record::Principal};

/// The compiled policies. One principal has at most one policy for a resource.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PolicySet {
    by_principal: HashMap<Principal, BTreeMap<ResourceId, PolicyId>>,
    by_resource: HashMap<ResourceId, BTreeMap<PolicyId, Principal>>,
}

impl PolicySet {
    /// Compiles all policies.
    pub fn compile<'a>(policies: impl IntoIterator<Item = &'a Policy>) -> Self {
        let mut set = Self::default();
        for policy in policies {
            set.insert(policy);
        }
        set
    }

    /// Adds a policy, in place of an older one of the same principal for the same resource.
    pub fn insert(&mut self, policy: &Policy) {
        let resources = self.by_principal.entry(policy.principal).or_default();
        if let Some(older) = resources.insert(policy.resource, policy.id)
            && let Some(policies) = self.by_resource.get_mut(&policy.resource)
        {
            policies.remove(&older);
        }
        self.by_resource.entry(policy.resource).or_default().insert(policy.id, policy.principal);
    }

    /// Takes a policy out.
    pub fn remove(&mut self, policy: &Policy) {
        if let Some(resources) = self.by_principal.get_mut(&policy.principal) {
            if resources.get(&policy.resource) == Some(&policy.id) {
                resources.remove(&policy.resource);
            }
            if resources.is_empty() {
                self.by_principal.remove(&policy.principal);
            }
        }
        if let Some(policies) = self.by_resource.get_mut(&policy.resource) {
            policies.remove(&policy.id);
            if policies.is_empty() {
                self.by_resource.remove(&policy.resource);
            }
        }
    }

    /// The policy that lets exactly this principal reach the resource.
    pub fn policy(&self, principal: Principal, resource: ResourceId) -> Option<PolicyId> {
        self.by_principal.get(&principal)?.get(&resource).copied()
    }

    /// The resources that this principal may reach, each with its policy.
    pub fn resources_of(&self, principal: Principal) -> impl Iterator<Item = (ResourceId, PolicyId)> + '_ {
        self.by_principal.get(&principal).into_iter().flatten().map(|(resource, policy)| (*resource, *policy))
    }

    /// Whether any policy speaks of this principal.
    pub fn allows(&self, principal: Principal) -> bool {
        self.by_principal.contains_key(&principal)
    }

    /// The policies of this principal.
    pub fn policies_of(&self, principal: Principal) -> Vec<PolicyId> {
        self.resources_of(principal).map(|(_, policy)| policy).collect()
    }

    /// The policies about a resource, each with whom it lets in.
    pub fn policies_about(&self, resource: ResourceId) -> impl Iterator<Item = (PolicyId, Principal)> + '_ {
        self.by_resource.get(&resource).into_iter().flatten().map(|(policy, principal)| (*policy, *principal))
    }
}
