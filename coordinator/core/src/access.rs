//! Access: requests, grants in the making, leases.
//!
//! A grant is committed first, then installed on its gateway, and only when that has acknowledged it is the client told.
//! A renewal is the same thing again with the same grant.

use std::collections::BTreeSet;

use postern_model::{
    Decision, DenyReason, DeviceId, Filter, GrantId, PolicyId, ResourceId, Timestamp,
    audit::Actor,
    change::{Batch, Change},
    grant::{Grant, GrantEnd},
    record::Owner,
};
use postern_policy::decide;
use postern_wire::{AccessReply, AccessRequest, CoordinatorMessage, Granted, InstallGrant, PeerDevice};

use crate::{AccessTicket, Core, Effect, Env, Proposal, draft::Draft, psk};

/// More leases than this do not end in one transaction.
const EXPIRIES_PER_BATCH: usize = 1000;

/// A grant that its gateway has been sent and not yet acknowledged.
#[derive(Debug)]
pub(crate) struct Waiting {
    /// The requests to be answered then.
    tickets: Vec<AccessTicket>,
    /// Whether the client is to be told in its session as well.
    pub(crate) push: bool,
    /// How many times the gateway was sent it and has not acknowledged: an acknowledgement of an older version is none.
    pub(crate) outstanding: u32,
    /// When the gateway has failed to.
    until: Timestamp,
}

/// What is to happen to an access request once its proposal is applied.
#[derive(Debug, Clone, Copy)]
pub(crate) enum FollowUp {
    Deny(AccessTicket, DenyReason),
    Await(AccessTicket, GrantId),
}

/// The reason as the device may know it: what it may not see and what is not there are the same to it.
pub(crate) fn told(reason: DenyReason) -> DenyReason {
    match reason {
        DenyReason::NoPolicy | DenyReason::EmptyFilter => DenyReason::UnknownResource,
        reason => reason,
    }
}

impl Core {
    /// A device asks for a resource. The decision is in the batch; after `apply`, the answer comes as
    /// `Effect::Answer` with this ticket, at once when denied, after the gateway's acknowledgement when allowed.
    pub fn propose_access(
        &self,
        device: DeviceId,
        request: &AccessRequest,
        env: &mut Env<'_>,
    ) -> Proposal<AccessTicket> {
        let ticket = env.ticket();
        let nothing = || Proposal::new(Batch { changes: Vec::new(), audit: Vec::new() }, ticket);
        if self.open_requests(device) >= self.config.requests_per_device {
            return nothing().then(FollowUp::Deny(ticket, DenyReason::TooManyRequests));
        }
        let held = self.state.grants_of_device(device).find(|grant| grant.resource == request.resource);
        if let Some(grant) = held.filter(|grant| self.waiting.contains_key(&grant.id) && env.now < grant.expires_at) {
            // The same question again, before the first is answered.
            return nothing().then(FollowUp::Await(ticket, grant.id));
        }
        let mut draft = Draft::new(&self.state, Actor::Device(device), env.now);
        match self.decide_access(device, request.resource, held, env) {
            Ok((filter, policy, gateway)) => {
                let grant =
                    self.draft_grant(&mut draft, (device, request.resource), held, (filter, policy, gateway), env);
                Proposal::new(draft.finish(), ticket).then(FollowUp::Await(ticket, grant))
            }
            Err(reason) => {
                let labels = (draft.device_label(device), draft.resource_label(request.resource));
                let details: [(&str, &dyn ToString); 2] = [("device", &labels.0), ("why", &reason.label())];
                draft.note("access.deny", format!("resource:{}", labels.1), &details);
                if let Some(held) = held.filter(|_| !reason.is_transient()) {
                    draft.end_grant(held, GrantEnd::Revoked(reason));
                }
                Proposal::new(draft.finish(), ticket).then(FollowUp::Deny(ticket, told(reason)))
            }
        }
    }

    fn decide_access(
        &self,
        device: DeviceId,
        resource: ResourceId,
        held: Option<&Grant>,
        env: &Env<'_>,
    ) -> Result<(Filter, PolicyId, DeviceId), DenyReason> {
        match decide(&self.state, device, resource, env.now) {
            Decision::Denied { reason } => Err(reason),
            Decision::Allowed { filter, policy } => {
                let gateway = self.gateway_for(device, resource, held).ok_or(DenyReason::NoGateway)?;
                Ok((filter, policy, gateway))
            }
        }
    }

    /// A connected gateway of the resource's site: the one that carries the grant already, else the least loaded.
    fn gateway_for(&self, device: DeviceId, resource: ResourceId, held: Option<&Grant>) -> Option<DeviceId> {
        let site = self.state.resources.get(&resource)?.site;
        let gateways = self
            .state
            .devices_of(Owner::Site(site))
            .filter(|gateway| !gateway.revoked && gateway.id != device && self.sessions.contains_key(&gateway.id));
        let load = |id: DeviceId| {
            let is_other = held.is_none_or(|held| held.gateway != id);
            (is_other, self.state.grants_of_gateway(id).count(), id)
        };
        gateways.map(|gateway| load(gateway.id)).min().map(|(_, _, id)| id)
    }

    fn draft_grant(
        &self,
        draft: &mut Draft<'_>,
        (device, resource): (DeviceId, ResourceId),
        held: Option<&Grant>,
        (filter, policy, gateway): (Filter, PolicyId, DeviceId),
        env: &mut Env<'_>,
    ) -> GrantId {
        let renewed = held.filter(|held| held.gateway == gateway && env.now < held.expires_at);
        if let Some(replaced) = held.filter(|_| renewed.is_none()) {
            draft.end_grant(replaced, GrantEnd::Replaced);
        }
        let (id, granted_at) = match renewed {
            Some(held) => (held.id, held.granted_at),
            None => (env.id(GrantId::from_bytes), env.now),
        };
        let expires_at = env.now.plus(self.config.lease);
        let labels = (draft.device_label(device), draft.resource_label(resource), draft.device_label(gateway));
        let details: [(&str, &dyn ToString); 5] = [
            ("device", &labels.0),
            ("resource", &labels.1),
            ("gateway", &labels.2),
            ("policy", &policy),
            ("filter", &filter),
        ];
        let action = if renewed.is_some() { "grant.renew" } else { "grant.allow" };
        draft.note(action, format!("grant:{id}"), &details);
        draft.change(Change::PutGrant(Grant { id, device, resource, gateway, policy, filter, granted_at, expires_at }));
        id
    }

    fn open_requests(&self, device: DeviceId) -> usize {
        let grants = self.state.grants_of_device(device);
        grants.filter_map(|grant| self.waiting.get(&grant.id)).map(|waiting| waiting.tickets.len()).sum()
    }

    /// Leases that ran out and gateways that did not acknowledge in time.
    pub fn propose_timeout(&self, env: &mut Env<'_>) -> Proposal<()> {
        let mut draft = Draft::new(&self.state, Actor::Coordinator, env.now);
        let expired = self.state.expiries().take_while(|(at, _)| *at <= env.now).take(EXPIRIES_PER_BATCH);
        for (_, grant) in expired {
            draft.end_grant(grant, GrantEnd::Expired);
        }
        let late: BTreeSet<_> =
            self.waiting.iter().filter(|(_, waiting)| waiting.until <= env.now).map(|(id, _)| *id).collect();
        for grant in late.iter().filter_map(|id| self.state.grants.get(id)) {
            draft.end_grant(grant, GrantEnd::Revoked(DenyReason::GatewayUnreachable));
        }
        Proposal::new(draft.finish(), ())
    }

    /// When to call [`Self::propose_timeout`] next.
    pub fn poll_timeout(&self) -> Option<Timestamp> {
        let lease = self.state.expiries().next().map(|(at, _)| at);
        let acknowledgement = self.waiting.values().map(|waiting| waiting.until).min();
        lease.into_iter().chain(acknowledgement).min()
    }

    /// After a grant was put: on to its gateway. The client waits for the acknowledgement: in its request, if that is
    /// what put the grant, else in its session.
    pub(crate) fn tell_changed(&mut self, id: GrantId, follow_up: Option<&FollowUp>, now: Timestamp) {
        let Some(grant) = self.state.grants.get(&id).cloned() else { return };
        let push = !matches!(follow_up, Some(FollowUp::Await(_, awaited)) if *awaited == id);
        if !self.sessions.contains_key(&grant.gateway) {
            // Nobody to wait for. It is in the gateway's next welcome.
            self.send_granted(&grant, now);
            return;
        }
        let until = now.plus(self.config.ack_timeout);
        let fresh = Waiting { tickets: Vec::new(), push: false, outstanding: 0, until };
        let waiting = self.waiting.entry(id).or_insert(fresh);
        waiting.push |= push;
        self.send_install(&grant, now);
    }

    pub(crate) fn follow(&mut self, follow_up: Option<FollowUp>, now: Timestamp) {
        match follow_up {
            None => {}
            Some(FollowUp::Deny(ticket, reason)) => {
                self.effects.push_back(Effect::Answer(ticket, AccessReply::Denied { reason }));
            }
            Some(FollowUp::Await(ticket, grant)) => match self.waiting.get_mut(&grant) {
                Some(waiting) => waiting.tickets.push(ticket),
                // Acknowledged since it was proposed, or its gateway left.
                None => self.answer_ready(ticket, grant, now),
            },
        }
    }

    fn answer_ready(&mut self, ticket: AccessTicket, grant: GrantId, now: Timestamp) {
        let granted = self.state.grants.get(&grant).and_then(|grant| self.granted(grant, now));
        let reply = granted.map_or(AccessReply::Denied { reason: DenyReason::NoGateway }, AccessReply::Granted);
        self.effects.push_back(Effect::Answer(ticket, reply));
    }

    /// A gateway has put a grant in force.
    pub(crate) fn handle_installed(&mut self, gateway: DeviceId, id: GrantId, now: Timestamp) {
        let Some(grant) = self.state.grants.get(&id).filter(|grant| grant.gateway == gateway).cloned() else { return };
        let Some(waiting) = self.waiting.get_mut(&id) else { return };
        waiting.outstanding = waiting.outstanding.saturating_sub(1);
        if waiting.outstanding > 0 {
            return;
        }
        let Some(waiting) = self.waiting.remove(&id) else { return };
        for ticket in waiting.tickets {
            self.answer_ready(ticket, id, now);
        }
        if waiting.push {
            self.send_granted(&grant, now);
        }
    }

    /// The grant that these requests waited for is no more.
    pub(crate) fn answer_waiting(&mut self, grant: GrantId, reason: DenyReason) {
        for ticket in self.waiting.remove(&grant).into_iter().flat_map(|waiting| waiting.tickets) {
            self.effects.push_back(Effect::Answer(ticket, AccessReply::Denied { reason }));
        }
    }

    pub(crate) fn send_install(&mut self, grant: &Grant, now: Timestamp) {
        if !self.sessions.contains_key(&grant.gateway) {
            return;
        }
        if let Some(install) = self.install(grant, now) {
            if let Some(waiting) = self.waiting.get_mut(&grant.id) {
                waiting.outstanding += 1;
            }
            self.send(grant.gateway, CoordinatorMessage::InstallGrant(Box::new(install)));
        }
    }

    pub(crate) fn send_granted(&mut self, grant: &Grant, now: Timestamp) {
        if let Some(granted) = self.granted(grant, now) {
            self.send(grant.device, CoordinatorMessage::Granted(Box::new(granted)));
        }
    }

    /// The client's side of a grant.
    pub(crate) fn granted(&self, grant: &Grant, now: Timestamp) -> Option<Granted> {
        let (client, gateway) = (self.state.devices.get(&grant.device)?, self.state.devices.get(&grant.gateway)?);
        Some(Granted {
            grant: grant.id,
            resource: grant.resource,
            filter: grant.filter.clone(),
            lease: now.until(grant.expires_at),
            gateway: gateway.wireguard,
            preshared_key: psk::derive(&self.config.psk_master, &client.wireguard, &gateway.wireguard),
            candidates: self.candidates.get(&gateway.id).cloned().unwrap_or_default(),
        })
    }

    /// The gateway's side of a grant.
    pub(crate) fn install(&self, grant: &Grant, now: Timestamp) -> Option<InstallGrant> {
        let (client, gateway) = (self.state.devices.get(&grant.device)?, self.state.devices.get(&grant.gateway)?);
        let resource = self.state.resources.get(&grant.resource)?;
        Some(InstallGrant {
            grant: grant.id,
            client: PeerDevice {
                id: client.id,
                name: client.name.clone(),
                user: self.state.user_of(client).map(|user| user.name.to_string()),
                addr: client.addr,
                wireguard: client.wireguard,
            },
            preshared_key: psk::derive(&self.config.psk_master, &client.wireguard, &gateway.wireguard),
            candidates: self.candidates.get(&client.id).cloned().unwrap_or_default(),
            resource: resource.id,
            resource_name: resource.name.clone(),
            resource_addr: resource.addr,
            target: resource.target.clone(),
            filter: grant.filter.clone(),
            lease: now.until(grant.expires_at),
        })
    }
}
