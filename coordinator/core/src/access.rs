//! Access: requests, grants in the making, leases.
//!
//! A grant is committed first, then installed on its gateway, and only when that has acknowledged it is the client told.
//! A renewal or a change is the same thing again with the same grant; until it is acknowledged, what the gateway had
//! before stays what the client knows.

use std::{net::SocketAddr, time::Duration};

use postern_model::{
    Decision, DenyReason, DeviceId, Filter, Fqdn, GrantId, Moment, PolicyId, ResourceId, Timestamp,
    audit::Actor,
    change::Change,
    grant::{Grant, GrantEnd},
};
use postern_policy::{Case, Circumstances, may_know};
use postern_wire::{AccessReply, AccessRequest, CoordinatorMessage, Granted, InstallGrant, PeerDevice};

use crate::{
    AccessTicket, Core, Effect, Env, Proposal,
    denials::{Denial, Repeats},
    draft::{Draft, Drafted},
    failover::Moves,
    gateways::Given,
    psk,
    shadow::{Note, otherwise},
    waiting::Waiting,
};

/// More leases than this do not end, or are shortened, and more grants do not move, in one transaction.
pub(crate) const GRANTS_PER_BATCH: usize = 1000;

/// What a request comes to that is allowed.
pub(crate) struct Allowed {
    pub(crate) filter: Filter,
    pub(crate) policy: PolicyId,
    pub(crate) gateway: DeviceId,
    /// The end of the lease: no later than the decision would be another.
    pub(crate) expires_at: Timestamp,
}

/// What is to happen once the proposal is applied.
#[derive(Debug, Clone)]
pub(crate) enum FollowUp {
    Deny(AccessTicket, DenyReason),
    /// Denied by decision, at that time; the device is told that other reason, which it may know. With what policies in
    /// shadow would have made of it.
    DenyAs(AccessTicket, Denial, Vec<Note>, DenyReason, Moment),
    Await(AccessTicket, GrantId),
    /// The device has told of its posture.
    Heard(DeviceId),
    /// The device comes from there.
    Moved(DeviceId, SocketAddr),
    /// These grants hold as their gateways have them; whoever waits for more is told to come again. Those are moved. The
    /// denials that were due then are recorded.
    GiveUp(Vec<GrantId>, Moves, Moment),
}

/// The reason as the device may know it: what it may not see and what is not there are the same to it.
pub(crate) fn told(reason: DenyReason) -> DenyReason {
    match reason {
        DenyReason::NoPolicy | DenyReason::EmptyFilter => DenyReason::UnknownResource,
        reason => reason,
    }
}

/// The same of a resource that the device may not know of: it is not there.
fn hidden(reason: DenyReason) -> DenyReason {
    match reason {
        DenyReason::ConditionNotMet | DenyReason::Forbidden => DenyReason::UnknownResource,
        reason => told(reason),
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
        let nothing = || Proposal::new(Drafted::nothing(), ticket);
        if self.open_requests(device) >= self.config.requests_per_device {
            return nothing().then(FollowUp::Deny(ticket, DenyReason::TooManyRequests));
        }
        let held = self.state.grant_of(device, request.resource);
        let is_awaited = |grant: &Grant| self.waiting.get(grant.id).is_some_and(Waiting::is_awaited);
        if let Some(grant) = held.filter(|grant| is_awaited(grant) && env.now < grant.expires_at) {
            // The same question again, before the first is answered.
            return nothing().then(FollowUp::Await(ticket, grant.id));
        }
        let mut draft = Draft::new(self, Actor::Device(device), env.now);
        let circumstances = self.surroundings.of(device, env.now);
        let case = Case::new(&self.state, device, request.resource);
        let latest = env.now.plus(self.config.lease);
        let decide = |case| self.decide_access(case, circumstances, latest, held, &Given::new());
        let decided = case.as_ref().map_err(|reason| *reason).and_then(decide);
        match decided {
            Ok(allowed) => {
                case.iter().for_each(|case| draft.shadow(case, circumstances));
                let grant = self.draft_grant(&mut draft, (device, request.resource), held, allowed, env);
                let queried = self.name_of_its_own(request).map(|name| (grant, name));
                Proposal { queried, ..Proposal::new(draft.finish(), ticket) }.then(FollowUp::Await(ticket, grant))
            }
            Err(reason) => {
                let denial = Denial { device, resource: request.resource, reason };
                let shadows = case.as_ref().map(|case| otherwise(&self.state, case, circumstances));
                let shadows = shadows.unwrap_or_default();
                match self.denials.recorded(&denial) {
                    None => {
                        draft.denial(&denial, 1);
                        draft.note_shadows(&shadows, 1);
                    }
                    Some(before) if before.shadows != shadows => {
                        draft.repeated_shadows(before);
                        draft.note_shadows(&shadows, 1);
                    }
                    Some(_) => {}
                }
                if let Some(held) = held.filter(|_| !reason.is_transient()) {
                    draft.end_grant(held, GrantEnd::Revoked(reason));
                }
                let told = if may_know(&self.state, device, request.resource) { told(reason) } else { hidden(reason) };
                Proposal::new(draft.finish(), ticket).then(FollowUp::DenyAs(ticket, denial, shadows, told, env.moment))
            }
        }
    }

    /// Decides, and chooses a gateway: the one of the grant that is `held`, if it is in service. No lease ends after `latest`.
    pub(crate) fn decide_access(
        &self,
        case: &Case<'_>,
        circumstances: Circumstances,
        latest: Timestamp,
        held: Option<&Grant>,
        given: &Given,
    ) -> Result<Allowed, DenyReason> {
        match case.decide(circumstances) {
            Decision::Denied { reason } => Err(reason),
            Decision::Allowed { filter, policy } => {
                let (device, resource) = (case.device().id, case.resource().id);
                let gateway = self.gateway_for(device, resource, held, given).ok_or(DenyReason::NoGateway)?;
                let expires_at = case.holds_until(circumstances, latest);
                Ok(Allowed { filter, policy, gateway, expires_at })
            }
        }
    }

    fn draft_grant(
        &self,
        draft: &mut Draft<'_>,
        (device, resource): (DeviceId, ResourceId),
        held: Option<&Grant>,
        Allowed { filter, policy, gateway, expires_at }: Allowed,
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
        grants.filter_map(|grant| self.waiting.get(grant.id)).map(|waiting| waiting.tickets.len()).sum()
    }

    /// Leases that ran out, gateways that did not acknowledge in time, and how often the same was denied. What such a gateway
    /// has acknowledged before goes on to the end of its lease. When the wall clock was set back, leases that would now last
    /// longer than any may are brought back to that.
    pub fn propose_timeout(&self, env: &mut Env<'_>) -> Proposal<()> {
        let mut draft = Draft::new(self, Actor::Coordinator, env.now);
        self.draft_shortened(&mut draft);
        let expired = self.state.expiries().take_while(|(at, _)| *at <= env.now).take(GRANTS_PER_BATCH);
        for (_, grant) in expired {
            draft.end_grant(grant, GrantEnd::Expired);
        }
        let ended = self.state.policy_ends().take_while(|(at, _)| *at <= env.now).take(GRANTS_PER_BATCH);
        let mut is_policy_due = false;
        for (_, policy) in ended {
            is_policy_due = true;
            draft.expire_policy(policy);
        }
        for report in self.enforcement.due(env.moment) {
            draft.note_report(report);
        }
        // Where policies end, moves wait for the next time: they are decided by what holds after that.
        let moves = if is_policy_due { Moves::default() } else { self.draft_moves(&mut draft, env) };
        let late = self.waiting.late(env.moment);
        let (known, new): (Vec<_>, Vec<_>) = late.partition(|(_, waiting)| waiting.before.is_some());
        for grant in new.into_iter().filter_map(|(id, _)| self.state.grants.get(&id)) {
            draft.end_grant(grant, GrantEnd::Revoked(DenyReason::GatewayUnreachable));
        }
        for (denial, repeats) in self.denials.due(env.moment).filter(|(_, repeats)| repeats.times > 0) {
            draft.denial(&denial, repeats.times);
            draft.repeated_shadows(repeats);
        }
        let known = known.into_iter().map(|(id, _)| id).collect();
        Proposal::new(draft.finish(), ()).then(FollowUp::GiveUp(known, moves, env.moment))
    }

    fn draft_shortened(&self, draft: &mut Draft<'_>) {
        let latest = draft.now.plus(self.config.lease);
        let too_long = self.state.expiries().rev().take_while(|(at, _)| *at > latest).take(GRANTS_PER_BATCH);
        let too_long: Vec<_> = too_long.map(|(_, grant)| Grant { expires_at: latest, ..grant.clone() }).collect();
        if too_long.is_empty() {
            return;
        }
        draft.note("grant.shorten", "coordinator", &[("grants", &too_long.len()), ("why", &"clock_set_back")]);
        too_long.into_iter().for_each(|grant| draft.change(Change::PutGrant(grant)));
    }

    /// In how long to call [`Self::propose_timeout`] next; `now` and `moment` as in [`Env`].
    pub fn poll_timeout(&self, now: Timestamp, moment: Moment) -> Option<Duration> {
        let lease = self.state.expiries().next().map(|(at, _)| now.until(at));
        let is_set_back = |(at, _): (Timestamp, &Grant)| at > now.plus(self.config.lease);
        let set_back = self.state.expiries().next_back().filter(|last| is_set_back(*last)).map(|_| Duration::ZERO);
        let acknowledgement = self.waiting.next_deadline().map(|until| until.since(moment));
        let denials = self.denials.next_due().map(|due| due.since(moment));
        let policy = self.state.policy_ends().next().map(|(at, _)| now.until(at));
        let report = self.enforcement.next_due(moment);
        let moves = self.failover.next_due(moment);
        let all = lease.into_iter().chain(policy).chain(report).chain(set_back).chain(acknowledgement).chain(denials);
        all.chain(moves).min()
    }

    /// After a grant was put: on to its gateway, or into its next welcome. The client waits for the acknowledgement: in
    /// its request, if that is what put the grant, else in its session.
    pub(crate) fn tell_changed(
        &mut self,
        id: GrantId,
        before: Option<Grant>,
        follow_up: Option<&FollowUp>,
        (now, moment): (Timestamp, Moment),
    ) {
        let Some(grant) = self.state.grants.get(&id).cloned() else { return };
        let push = !matches!(follow_up, Some(FollowUp::Await(_, awaited)) if *awaited == id);
        let is_connected = self.sessions.contains_key(&grant.gateway);
        self.waiting.add(id, before).push |= push;
        if is_connected {
            self.waiting.expect(id, moment + self.config.ack_timeout);
        }
        self.send_install(&grant, now);
    }

    pub(crate) fn follow(&mut self, follow_up: Option<FollowUp>, now: Timestamp) {
        match follow_up {
            None => {}
            Some(FollowUp::Moved(device, from)) => self.moved(device, from, now),
            Some(FollowUp::Heard(device)) => self.surroundings.note_posture(device, now),
            Some(FollowUp::Deny(ticket, reason)) => {
                self.effects.push_back(Effect::Answer(ticket, AccessReply::Denied { reason }));
            }
            Some(FollowUp::DenyAs(ticket, denial, shadows, reason, moment)) => {
                self.denials.count(denial, shadows, moment);
                self.effects.push_back(Effect::Answer(ticket, AccessReply::Denied { reason }));
            }
            Some(FollowUp::Await(ticket, grant)) => match self.waiting.get_mut(grant) {
                Some(waiting) => waiting.tickets.push(ticket),
                // The gateway has it as it is: renewed twice at one moment.
                None => self.answer_ready(ticket, grant, now),
            },
            Some(FollowUp::GiveUp(grants, moves, moment)) => {
                self.settle_moves(&moves);
                self.denials.forget_due(moment);
                self.enforcement.recorded(moment);
                for id in grants {
                    let reason = DenyReason::GatewayUnreachable;
                    let deny = |ticket| Effect::Answer(ticket, AccessReply::Denied { reason });
                    self.effects.extend(self.waiting.give_up(id).into_iter().map(deny));
                }
            }
        }
    }

    fn answer_ready(&mut self, ticket: AccessTicket, grant: GrantId, now: Timestamp) {
        let granted = self.state.grants.get(&grant).and_then(|grant| self.granted(grant, now));
        let reply = granted.map_or(AccessReply::Denied { reason: DenyReason::LeaseExpired }, AccessReply::Granted);
        self.effects.push_back(Effect::Answer(ticket, reply));
    }

    /// A gateway has put a grant in force.
    pub(crate) fn handle_installed(
        &mut self,
        gateway: DeviceId,
        (id, cut): (GrantId, u64),
        (now, moment): (Timestamp, Moment),
    ) {
        let Some(grant) = self.state.grants.get(&id).filter(|grant| grant.gateway == gateway).cloned() else { return };
        self.enforcement.count_cut(gateway, id, cut);
        // An acknowledgement of what was sent before the last version is none of that.
        if !self.sessions.get_mut(&gateway).is_some_and(|session| session.has_acknowledged(id)) {
            return;
        }
        self.enforcement.acknowledged(gateway, id, 0, moment);
        let Some(waiting) = self.waiting.remove(id) else { return };
        for ticket in waiting.tickets {
            self.answer_ready(ticket, id, now);
        }
        if waiting.push {
            self.send_granted(&grant, now);
        }
        // Only now that the client goes another way is the old one closed.
        let is_over = now >= grant.expires_at;
        for old in self.superseded.take_untold(id) {
            let reason = DenyReason::Replaced;
            self.send(old.gateway, CoordinatorMessage::RevokeGrant { grant: old.id, reason });
            if is_over {
                // It was not told of the new one.
                self.send(old.device, CoordinatorMessage::RevokeGrant { grant: old.id, reason });
            }
        }
    }

    /// The grant that these requests waited for is no more.
    pub(crate) fn answer_waiting(&mut self, grant: GrantId, reason: DenyReason) {
        for ticket in self.waiting.remove(grant).into_iter().flat_map(|waiting| waiting.tickets) {
            self.effects.push_back(Effect::Answer(ticket, AccessReply::Denied { reason }));
        }
    }

    pub(crate) fn send_install(&mut self, grant: &Grant, now: Timestamp) {
        let Some(install) = self.install(grant, now) else { return };
        if let Some(session) = self.sessions.get_mut(&grant.gateway) {
            *session.unacknowledged.entry(grant.id).or_default() += 1;
            self.send(grant.gateway, CoordinatorMessage::InstallGrant(Box::new(install)));
        }
    }

    pub(crate) fn send_granted(&mut self, grant: &Grant, now: Timestamp) {
        if let Some(granted) = self.granted(grant, now) {
            self.send(grant.device, CoordinatorMessage::Granted(Box::new(granted)));
        }
    }

    /// Never more than a lease, though the wall clock may have been set back since it was granted.
    fn lease_left(&self, grant: &Grant, now: Timestamp) -> Duration {
        now.until(grant.expires_at).min(self.config.lease)
    }

    /// The client's side of a grant; `None` when its lease ran out.
    pub(crate) fn granted(&self, grant: &Grant, now: Timestamp) -> Option<Granted> {
        if now >= grant.expires_at {
            return None;
        }
        let (client, gateway) = (self.state.devices.get(&grant.device)?, self.state.devices.get(&grant.gateway)?);
        Some(Granted {
            grant: grant.id,
            resource: grant.resource,
            filter: grant.filter.clone(),
            lease: self.lease_left(grant, now),
            gateway: gateway.wireguard,
            preshared_key: psk::derive(&self.config.psk_master, &client.wireguard, &gateway.wireguard),
            candidates: self.candidates.get(&gateway.id).cloned().unwrap_or_default(),
            relayed: self.relayed(client, gateway, grant),
        })
    }

    /// The gateway's side of a grant; `None` when its lease ran out.
    pub(crate) fn install(&self, grant: &Grant, now: Timestamp) -> Option<InstallGrant> {
        if now >= grant.expires_at {
            return None;
        }
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
            relayed: self.relayed(gateway, client, grant),
            resource: resource.id,
            resource_name: resource.name.clone(),
            resource_addr: resource.addr,
            target: resource.target.clone(),
            filter: grant.filter.clone(),
            lease: self.lease_left(grant, now),
            queried: self.queried.get(&grant.id).cloned(),
        })
    }

    /// The name by which a resource was asked for, if it has that name: a client could write anything into the records of
    /// what passes.
    fn name_of_its_own(&self, request: &AccessRequest) -> Option<Fqdn> {
        let name = request.queried.as_ref()?;
        let resource = self.state.resources.get(&request.resource)?;
        let is_its_own = resource.aliases.contains(name) || resource.name.in_zone(&self.state.network.zone) == *name;
        is_its_own.then(|| name.clone())
    }
}

impl Draft<'_> {
    fn repeated_shadows(&mut self, repeats: &Repeats) {
        if repeats.shadow_times > 0 {
            self.note_shadows(&repeats.shadows, repeats.shadow_times);
        }
    }

    fn denial(&mut self, denial: &Denial, times: u64) {
        let labels = (self.device_label(denial.device), self.resource_label(denial.resource));
        let mut details: Vec<(&str, &dyn ToString)> = Vec::new();
        let why = denial.reason.label();
        details.extend([("device", &labels.0 as &dyn ToString), ("why", &why)]);
        if times > 1 {
            details.push(("times", &times));
        }
        self.note("access.deny", format!("resource:{}", labels.1), &details);
    }
}
