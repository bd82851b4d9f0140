//! [`Draft`]: a batch in the making, and the state as it would be after it.
//!
//! Nothing here touches the state. A finished draft also holds the end of every grant that its changes make impossible.

use std::collections::BTreeSet;

use postern_model::{
    Decision, DenyReason, DeviceId, GrantId, GroupId, PolicyId, ResourceId, Timestamp, UserId,
    audit::{Actor, AuditEvent},
    change::{Batch, Change},
    grant::{Grant, GrantEnd},
    record::{Device, Owner, Policy, Principal, Resource, User},
};
use postern_policy::{Facts, decide};

use crate::state::State;

pub(crate) struct Draft<'a> {
    pub(crate) state: &'a State,
    pub(crate) now: Timestamp,
    actor: Actor,
    changes: Vec<Change>,
    audit: Vec<AuditEvent>,
}

impl<'a> Draft<'a> {
    pub(crate) fn new(state: &'a State, actor: Actor, now: Timestamp) -> Self {
        Self { state, now, actor, changes: Vec::new(), audit: Vec::new() }
    }

    pub(crate) fn change(&mut self, change: Change) {
        self.changes.push(change);
    }

    /// Notes what happens, for the audit log.
    pub(crate) fn note(&mut self, action: &str, object: impl Into<String>, details: &[(&str, &dyn ToString)]) {
        self.audit.push(AuditEvent {
            at: self.now,
            actor: self.actor.clone(),
            action: action.to_owned(),
            object: object.into(),
            details: details.iter().map(|(name, value)| ((*name).to_owned(), value.to_string())).collect(),
        });
    }

    pub(crate) fn end_grant(&mut self, grant: &Grant, end: GrantEnd) {
        if self.is_ended(grant.id) {
            return;
        }
        let why = match end {
            GrantEnd::Revoked(reason) => reason.label(),
            GrantEnd::Expired => "expired",
            GrantEnd::Replaced => "replaced",
        };
        let (device, resource) = (self.device_label(grant.device), self.resource_label(grant.resource));
        self.note(
            "grant.end",
            format!("grant:{}", grant.id),
            &[("device", &device), ("resource", &resource), ("why", &why)],
        );
        self.change(Change::EndGrant(grant.id, end));
    }

    /// Re-decides every grant that the changes can touch, and returns the batch.
    pub(crate) fn finish(mut self) -> Batch {
        let touched: BTreeSet<GrantId> = self.changes.iter().flat_map(|change| touched(self.state, change)).collect();
        for id in touched {
            let Some(grant) = self.state.grants.get(&id) else { continue };
            let after = After { state: self.state, changes: &self.changes };
            match after.redecide(grant, self.now) {
                Redecision::Stays => {}
                Redecision::Changes(grant) => {
                    let (device, resource) = (self.device_label(grant.device), self.resource_label(grant.resource));
                    let details: [(&str, &dyn ToString); 4] = [
                        ("device", &device),
                        ("resource", &resource),
                        ("filter", &grant.filter),
                        ("policy", &grant.policy),
                    ];
                    self.note("grant.change", format!("grant:{id}"), &details);
                    self.change(Change::PutGrant(grant));
                }
                Redecision::Ends(end) => self.end_grant(grant, end),
            }
        }
        Batch { changes: self.changes, audit: self.audit }
    }

    fn is_ended(&self, id: GrantId) -> bool {
        self.changes.iter().any(|change| matches!(change, Change::EndGrant(ended, _) if *ended == id))
    }

    pub(crate) fn device_label(&self, id: DeviceId) -> String {
        self.state.devices.get(&id).map_or_else(|| id.to_string(), |device| device.name.clone())
    }

    pub(crate) fn resource_label(&self, id: ResourceId) -> String {
        self.state.resources.get(&id).map_or_else(|| id.to_string(), |resource| resource.name.to_string())
    }
}

/// The grants that a change can touch, by index.
fn touched(state: &State, change: &Change) -> Vec<GrantId> {
    let of_user = |user: UserId| {
        let devices = state.devices_of(Owner::User(user));
        devices.flat_map(|device| state.grants_of_device(device.id)).map(|grant| grant.id).collect()
    };
    let of_device =
        |id: DeviceId| state.grants_of_device(id).chain(state.grants_of_gateway(id)).map(|grant| grant.id).collect();
    match change {
        Change::PutUser(User { id, .. }) | Change::RemoveUser(id) => of_user(*id),
        Change::AddMember(_, user) | Change::RemoveMember(_, user) => of_user(*user),
        Change::PutResource(Resource { id, .. }) | Change::RemoveResource(id) => {
            state.grants_of_resource(*id).map(|grant| grant.id).collect()
        }
        // One more that allows it may be the one that would now be asked first.
        Change::PutPolicy(Policy { resource, .. }) => {
            state.grants_of_resource(*resource).map(|grant| grant.id).collect()
        }
        Change::RemovePolicy(id) => state.grants_of_policy(*id).map(|grant| grant.id).collect(),
        Change::PutDevice(Device { id, .. }) | Change::RemoveDevice(id) => of_device(*id),
        // The rest is not what decisions are made of.
        _ => Vec::new(),
    }
}

enum Redecision {
    Stays,
    Changes(Grant),
    Ends(GrantEnd),
}

/// The state as it would be after some changes: few, so each look goes through them, the last one first.
pub(crate) struct After<'a> {
    pub(crate) state: &'a State,
    pub(crate) changes: &'a [Change],
}

impl<'a> After<'a> {
    fn redecide(&self, grant: &Grant, now: Timestamp) -> Redecision {
        if now >= grant.expires_at {
            return Redecision::Ends(GrantEnd::Expired);
        }
        let gateway_is_gone = self.device(grant.gateway).is_none_or(|gateway| gateway.revoked);
        match decide(self, grant.device, grant.resource, now) {
            Decision::Denied { reason } => Redecision::Ends(GrantEnd::Revoked(reason)),
            Decision::Allowed { .. } if gateway_is_gone => Redecision::Ends(GrantEnd::Revoked(DenyReason::NoGateway)),
            Decision::Allowed { .. } if self.leads_elsewhere(grant.resource) => Redecision::Ends(GrantEnd::Replaced),
            Decision::Allowed { filter, policy } if filter == grant.filter && policy == grant.policy => {
                Redecision::Stays
            }
            Decision::Allowed { filter, policy } => Redecision::Changes(Grant { filter, policy, ..grant.clone() }),
        }
    }

    /// Whether the resource's target or site changes, so that open flows go to the wrong place.
    fn leads_elsewhere(&self, id: ResourceId) -> bool {
        let (before, after) = (self.state.resources.get(&id), self.resource(id));
        let place = |resource: &'a Resource| (&resource.target, resource.site);
        before.map(place) != after.map(|resource| (&resource.target, resource.site))
    }

    fn last<T>(&self, look: impl Fn(&'a Change) -> Option<T>) -> Option<T> {
        self.changes.iter().rev().find_map(look)
    }
}

impl Facts for After<'_> {
    fn device(&self, id: DeviceId) -> Option<&Device> {
        self.last(|change| match change {
            Change::PutDevice(device) if device.id == id => Some(Some(device)),
            Change::RemoveDevice(removed) if *removed == id => Some(None),
            _ => None,
        })
        .unwrap_or_else(|| self.state.devices.get(&id))
    }

    fn user(&self, id: UserId) -> Option<&User> {
        self.last(|change| match change {
            Change::PutUser(user) if user.id == id => Some(Some(user)),
            Change::RemoveUser(removed) if *removed == id => Some(None),
            _ => None,
        })
        .unwrap_or_else(|| self.state.users.get(&id))
    }

    fn groups_of(&self, user: UserId) -> BTreeSet<GroupId> {
        let mut groups = Facts::groups_of(self.state, user);
        for change in self.changes {
            match change {
                Change::AddMember(group, member) if *member == user => {
                    groups.insert(*group);
                }
                Change::RemoveMember(group, member) if *member == user => {
                    groups.remove(group);
                }
                _ => {}
            }
        }
        groups
    }

    fn resource(&self, id: ResourceId) -> Option<&Resource> {
        self.last(|change| match change {
            Change::PutResource(resource) if resource.id == id => Some(Some(resource)),
            Change::RemoveResource(removed) if *removed == id => Some(None),
            _ => None,
        })
        .unwrap_or_else(|| self.state.resources.get(&id))
    }

    fn policy(&self, principal: Principal, resource: ResourceId) -> Option<PolicyId> {
        let is_removed =
            |id: PolicyId| self.changes.iter().any(|c| matches!(c, Change::RemovePolicy(removed) if *removed == id));
        let put = self.last(|change| match change {
            Change::PutPolicy(policy) if policy.principal == principal && policy.resource == resource => {
                Some(policy.id)
            }
            _ => None,
        });
        put.or_else(|| self.state.policy_set().policy(principal, resource)).filter(|id| !is_removed(*id))
    }

    fn resources_of(&self, principal: Principal) -> Vec<ResourceId> {
        let mut resources: BTreeSet<_> = Facts::resources_of(self.state, principal).into_iter().collect();
        resources.extend(self.changes.iter().filter_map(|change| match change {
            Change::PutPolicy(policy) if policy.principal == principal => Some(policy.resource),
            _ => None,
        }));
        resources.retain(|resource| self.policy(principal, *resource).is_some());
        resources.into_iter().collect()
    }
}
