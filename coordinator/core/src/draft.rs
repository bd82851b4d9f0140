//! [`Draft`]: a batch in the making.
//!
//! Nothing here touches the state. A finished draft also holds the end of every grant that its changes make impossible.

use std::collections::{BTreeSet, HashMap};

use postern_model::{
    Decision, DenyReason, DeviceId, GrantId, ResourceId, Timestamp, UserId,
    audit::{Actor, AuditEvent},
    change::{Batch, Change},
    grant::{Grant, GrantEnd},
    record::{Device, Owner, Resource, User},
};
use postern_policy::{Case, Circumstances, Facts, PolicySet};

use crate::{
    Core,
    changes::{After, Changes},
    presence::Session,
    shadow::{Note, names_any, otherwise},
    state::State,
    surroundings::Surroundings,
};

pub(crate) struct Draft<'a> {
    pub(crate) state: &'a State,
    surroundings: &'a Surroundings,
    sessions: &'a HashMap<DeviceId, Session>,
    pub(crate) now: Timestamp,
    actor: Actor,
    changes: Changes,
    audit: Vec<AuditEvent>,
    /// A device whose circumstances are about to be these.
    moved: Option<(DeviceId, Circumstances)>,
}

/// A finished draft.
#[derive(Debug)]
pub(crate) struct Drafted {
    pub(crate) batch: Batch,
    /// How many grants were decided anew.
    pub(crate) redecided: usize,
}

impl Drafted {
    /// Nothing to commit.
    pub(crate) fn nothing() -> Self {
        Self { batch: Batch { changes: Vec::new(), audit: Vec::new() }, redecided: 0 }
    }
}

impl<'a> Draft<'a> {
    pub(crate) fn new(core: &'a Core, actor: Actor, now: Timestamp) -> Self {
        Self::over(&core.state, core, actor, now)
    }

    /// A draft over another state than the core's.
    pub(crate) fn over(state: &'a State, core: &'a Core, actor: Actor, now: Timestamp) -> Self {
        let Core { surroundings, sessions, .. } = core;
        let changes = Changes::default();
        Self { state, surroundings, sessions, now, actor, changes, audit: Vec::new(), moved: None }
    }

    /// A device's circumstances are about to be others: what it holds is decided by them.
    pub(crate) fn move_device(&mut self, device: DeviceId, circumstances: Circumstances) {
        self.moved = Some((device, circumstances));
    }

    /// Whether a device is there.
    pub(crate) fn is_connected(&self, device: DeviceId) -> bool {
        self.sessions.contains_key(&device)
    }

    pub(crate) fn change(&mut self, change: Change) {
        self.changes.push(change);
    }

    /// The policies that it puts so far.
    pub(crate) fn put_policies(&self) -> &PolicySet {
        self.changes.put_policies()
    }

    /// Notes what happens, for the audit log.
    pub(crate) fn note(&mut self, action: &str, object: impl Into<String>, details: &[(&str, &dyn ToString)]) {
        let details = details.iter().map(|(name, value)| ((*name).to_owned(), value.to_string())).collect();
        self.note_down((action.to_owned(), object.into(), details));
    }

    pub(crate) fn note_down(&mut self, (action, object, details): Note) {
        self.audit.push(AuditEvent { at: self.now, actor: self.actor.clone(), action, object, details });
    }

    /// Whether it ends this grant already.
    pub(crate) fn has_ended(&self, grant: GrantId) -> bool {
        self.changes.is_ended(grant)
    }

    pub(crate) fn end_grant(&mut self, grant: &Grant, end: GrantEnd) {
        if self.changes.is_ended(grant.id) {
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

    /// What was drafted so far, with nothing re-decided.
    pub(crate) fn into_parts(self) -> (Vec<Change>, Vec<AuditEvent>) {
        (self.changes.into_list(), self.audit)
    }

    /// Takes in what another draft came to.
    pub(crate) fn absorb(&mut self, changes: Vec<Change>, audit: Vec<AuditEvent>) {
        changes.into_iter().for_each(|change| self.change(change));
        self.audit.extend(audit);
    }

    /// Re-decides every grant that the changes can touch, and returns the batch.
    pub(crate) fn finish(mut self) -> Drafted {
        let mut touched: BTreeSet<GrantId> =
            self.changes.iter().flat_map(|change| touched(self.state, change)).collect();
        if let Some((device, _)) = self.moved {
            touched.extend(self.state.grants_of_device(device).map(|grant| grant.id));
        }
        let new_shadow = |change: &Change| match change {
            Change::PutPolicy(policy) if policy.shadow => Some(policy.id),
            _ => None,
        };
        let new_shadows: Vec<_> = self.changes.iter().filter_map(new_shadow).collect();
        let redecided = touched.len();
        for id in touched {
            let Some(grant) = self.state.grants.get(&id).filter(|_| !self.changes.is_ended(id)) else { continue };
            let after = After { state: self.state, changes: &self.changes };
            let moved =
                self.moved.filter(|(device, _)| *device == grant.device).map(|(_, circumstances)| circumstances);
            let circumstances = moved.unwrap_or_else(|| self.surroundings.of_holder(grant, self.now));
            let redecision = after.redecide(grant, circumstances);
            let shadows = if new_shadows.is_empty() {
                Vec::new()
            } else {
                let case = Case::new(&after, grant.device, grant.resource).ok();
                let mut notes = case.map(|case| otherwise(self.state, &case, circumstances)).unwrap_or_default();
                // What others would make of the grant was noted when it was given.
                notes.retain(|note| names_any(note, &new_shadows));
                notes
            };
            self.note_shadows(&shadows, 1);
            match redecision {
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
        Drafted { batch: Batch { changes: self.changes.into_list(), audit: self.audit }, redecided }
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
        Change::PutPolicy(policy) => state.grants_within(policy.principal, &policy.scope),
        Change::RemovePolicy(id) => state
            .policies
            .get(id)
            .map(|policy| state.grants_within(policy.principal, &policy.scope))
            .unwrap_or_default(),
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

impl After<'_> {
    fn redecide(&self, grant: &Grant, circumstances: Circumstances) -> Redecision {
        if circumstances.now >= grant.expires_at {
            return Redecision::Ends(GrantEnd::Expired);
        }
        let case = match Case::new(self, grant.device, grant.resource) {
            Ok(case) => case,
            Err(reason) => return Redecision::Ends(GrantEnd::Revoked(reason)),
        };
        let gateway_is_gone = self.device(grant.gateway).is_none_or(|gateway| gateway.revoked);
        match case.decide(circumstances) {
            Decision::Denied { reason } => Redecision::Ends(GrantEnd::Revoked(reason)),
            Decision::Allowed { .. } if gateway_is_gone => Redecision::Ends(GrantEnd::Revoked(DenyReason::NoGateway)),
            Decision::Allowed { .. } if self.leads_elsewhere(grant.resource) => Redecision::Ends(GrantEnd::Replaced),
            Decision::Allowed { filter, policy } => {
                let expires_at = case.holds_until(circumstances, grant.expires_at);
                let after = Grant { filter, policy, expires_at, ..grant.clone() };
                if after == *grant { Redecision::Stays } else { Redecision::Changes(after) }
            }
        }
    }

    /// Whether the resource's target or site changes, so that open flows go to the wrong place.
    fn leads_elsewhere(&self, id: ResourceId) -> bool {
        let (before, after) = (self.state.resources.get(&id), self.resource(id));
        before.map(|resource| (&resource.target, resource.site))
            != after.map(|resource| (&resource.target, resource.site))
    }
}
