//! Grants held and carried: the coordinator's messages, leases, acknowledgements.

use std::{collections::HashSet, time::Duration};

use postern_model::{DenyReason, Fqdn, GrantId, Moment, ResourceId, Target};
use postern_wire::{AccessReply, CatalogueEntry, CoordinatorMessage, Granted, InstallGrant, NodeMessage, Welcome};

use super::{Acknowledged, Carried, Engine, EngineEvent, Held, Place};
use crate::{DropReason, Generation};

/// A renewal that was not needed, or not decided, is looked at again after this share of what is left of the lease.
const RETRY_SHARE: u32 = 4;
/// It is not looked at again sooner than this: shares of what is left grow ever shorter.
const MIN_RETRY: Duration = Duration::from_secs(1);

impl Engine {
    /// A message of the session; `Welcome` is the authoritative snapshot.
    pub fn handle_message(&mut self, message: CoordinatorMessage, now: Moment) {
        match message {
            CoordinatorMessage::Welcome(welcome) => self.handle_welcome(*welcome, now),
            CoordinatorMessage::Catalogue { put, removed, .. } => self.handle_catalogue(put, &removed),
            CoordinatorMessage::Granted(granted) => {
                self.requests.note_told(granted.resource);
                self.hold(*granted, now);
                self.publish();
            }
            CoordinatorMessage::InstallGrant(install) => self.handle_install(*install, now),
            CoordinatorMessage::RevokeGrant { grant, reason } => self.handle_revoked(grant, reason),
            CoordinatorMessage::Evicted { .. } => self.handle_evicted(),
            CoordinatorMessage::ActivityRecorded { .. }
            | CoordinatorMessage::Certificate { .. }
            | CoordinatorMessage::Checks { .. }
            | CoordinatorMessage::Relays { .. }
            | CoordinatorMessage::StillThere {}
            | CoordinatorMessage::Unknown { .. } => {}
        }
    }

    fn handle_welcome(&mut self, welcome: Welcome, now: Moment) {
        self.connected = true;
        self.acknowledgements.clear();
        self.place = Some(Place { own: welcome.addr, ranges: welcome.ranges, zone: welcome.zone });
        self.requests.begin_session();
        self.catalogue.clear();
        self.enter(welcome.catalogue);
        let before = std::mem::take(&mut self.held);
        for mut granted in welcome.granted {
            let known = before.get(&granted.resource).filter(|held| held.granted.grant == granted.grant);
            keep_candidates(&mut granted, known);
            self.hold(granted, now);
        }
        let before = std::mem::take(&mut self.carried);
        for mut install in welcome.installed {
            let known = before.get(&install.grant);
            // A coordinator that has started since does not know any more by which name its client came.
            install.queried = install.queried.or_else(|| known.and_then(|carried| carried.install.queried.clone()));
            self.carry(install, known.is_none(), now);
        }
        self.publish();
        self.acknowledgements.push_back((self.generation, Acknowledged::Settled(welcome.revision)));
        self.acknowledge_resolved();
        self.ask_waiting(now);
    }

    fn handle_catalogue(&mut self, put: Vec<CatalogueEntry>, removed: &[ResourceId]) {
        for id in removed {
            self.catalogue.remove(id);
            // What the device may no longer see it may no longer reach, whichever message comes first.
            self.held.remove(id);
            self.refuse_waiting(*id, DropReason::AccessDenied);
        }
        self.enter(put);
        self.publish();
    }

    /// Enters resources into the catalogue.
    fn enter(&mut self, entries: Vec<CatalogueEntry>) {
        for mut entry in entries {
            // All of a top-level domain is nobody's to take over, and names without a dot belong to the local network.
            entry.aliases.retain(Fqdn::has_parent);
            self.catalogue.insert(entry.id, entry);
        }
        self.index_names();
    }

    fn index_names(&mut self) {
        let Some(place) = &self.place else { return };
        let names = self.catalogue.values().flat_map(|entry| {
            std::iter::once(entry.name.in_zone(&place.zone))
                .chain(entry.aliases.iter().cloned())
                .map(|name| (name, entry.id))
        });
        self.names = names.collect();
        self.queried.retain(|id, name| self.names.get(name) == Some(id));
    }

    /// The session ended; grants go on to the end of their leases, open requests wait for the next session.
    pub fn handle_disconnected(&mut self) {
        self.connected = false;
        self.acknowledgements.clear();
        // Those that wait for a name are not owed to the next session either.
        self.carried.values_mut().for_each(|carried| carried.unacknowledged = 0);
    }

    /// The identity is gone (evicted, logout, down): drop every grant at once.
    pub fn handle_evicted(&mut self) {
        self.connected = false;
        self.acknowledgements.clear();
        self.catalogue.clear();
        self.names.clear();
        self.queried.clear();
        self.held.clear();
        self.carried.clear();
        self.refuse_all_waiting(DropReason::AccessDenied);
        self.publish();
        self.settle_table();
        self.place = None;
    }

    /// The answer to [`EngineEvent::RequestAccess`]; `None` when the coordinator could not be asked.
    pub fn handle_access_reply(&mut self, resource: ResourceId, reply: Option<AccessReply>, now: Moment) {
        let reply = match reply {
            Some(AccessReply::Granted(granted)) => Some(self.requests.unless_revoked(granted)),
            reply => reply,
        };
        let answered = self.requests.answered(resource);
        if answered.is_of_earlier_session {
            // What this session said since counts, and not what the last one was about to say.
            return self.ask_waiting_for(resource, now);
        }
        match reply {
            Some(AccessReply::Granted(granted)) if granted.resource == resource => {
                self.hold(granted, now);
                self.publish();
                self.replay_waiting(resource);
                if answered.is_overtaken {
                    self.ask(resource, None, now);
                }
            }
            Some(AccessReply::Granted(_)) | None => self.try_again(resource, now),
            Some(AccessReply::Denied { reason }) if reason.is_transient() => {
                self.events.push_back(EngineEvent::Denied(resource, reason));
                self.refuse_waiting(resource, DropReason::AccessDenied);
                self.try_again(resource, now);
            }
            Some(AccessReply::Denied { reason }) => {
                self.events.push_back(EngineEvent::Denied(resource, reason));
                if self.held.remove(&resource).is_some() {
                    self.publish();
                }
                self.refuse_waiting(resource, DropReason::AccessDenied);
                self.requests.deny(resource, now);
            }
        }
    }

    fn try_again(&mut self, resource: ResourceId, now: Moment) {
        if let Some(held) = self.held.get_mut(&resource) {
            held.look_again(now);
        }
        self.requests.retry(resource, now);
    }

    /// Enters a grant; does not publish.
    fn hold(&mut self, mut granted: Granted, now: Moment) {
        // A grant without a catalogue entry can't be used; the entry came first if the coordinator is in order.
        let Some(entry) = self.catalogue.get(&granted.resource) else { return };
        let known = self.held.get(&entry.id);
        keep_candidates(&mut granted, known);
        let (expires, renew_at) = (now + granted.lease, now + granted.lease / 3 * 2);
        let held = Held { addr: entry.addr, expires, renew_at, is_due: false, granted };
        self.held.insert(held.granted.resource, held);
    }

    fn handle_install(&mut self, install: InstallGrant, now: Moment) {
        let grant = install.grant;
        self.carry(install, false, now);
        self.publish();
        self.acknowledge(grant);
    }

    fn carry(&mut self, mut install: InstallGrant, is_inherited: bool, now: Moment) {
        if let Target::Host(host) = &install.target
            && self.targets.want(host, now)
        {
            self.events.push_back(EngineEvent::Resolve(host.clone()));
        }
        let known = self.carried.get(&install.grant);
        let unacknowledged = known.map_or(0, |carried| carried.unacknowledged) + 1;
        install.queried = install.queried.or_else(|| known.and_then(|carried| carried.install.queried.clone()));
        let expires = now + install.lease;
        self.carried.insert(install.grant, Carried { install, expires, is_inherited, unacknowledged });
    }

    /// Acknowledges, once the table just published is in force, what waits for no name.
    pub(super) fn acknowledge_resolved(&mut self) {
        let waiting = self.carried.iter().filter(|(_, carried)| carried.unacknowledged > 0).map(|(id, _)| *id);
        for grant in waiting.collect::<Vec<_>>() {
            self.acknowledge(grant);
        }
    }

    /// The same for one grant.
    fn acknowledge(&mut self, grant: GrantId) {
        let Some(carried) = self.carried.get_mut(&grant) else { return };
        let is_ready = match &carried.install.target {
            Target::Ip(_) => true,
            Target::Host(host) => self.targets.was_answered(host),
        };
        if is_ready {
            for _ in 0..std::mem::take(&mut carried.unacknowledged) {
                self.acknowledgements.push_back((self.generation, Acknowledged::Installed(grant)));
            }
        }
    }

    fn handle_revoked(&mut self, grant: GrantId, reason: DenyReason) {
        let held = self.held.iter().find(|(_, held)| held.granted.grant == grant).map(|(resource, _)| *resource);
        if let Some(resource) = held {
            self.held.remove(&resource);
            self.events.push_back(EngineEvent::Denied(resource, reason));
        }
        self.carried.remove(&grant);
        self.requests.note_revoked(grant, reason);
        self.publish();
        self.acknowledgements.push_back((self.generation, Acknowledged::Revoked(grant)));
    }

    /// The forwarder has this table in force, and has cut so many flows through this gateway since it said so last, by the
    /// grant under which they were.
    pub fn handle_applied(&mut self, generation: Generation, cut: &[(GrantId, u64)]) {
        for (grant, flows) in cut {
            *self.cut.entry(*grant).or_default() += flows;
        }
        while let Some((_, what)) = self.acknowledgements.pop_front_if(|(needs, _)| *needs <= generation) {
            let mut cut = |grant| self.cut.remove(&grant).unwrap_or_default();
            self.events.push_back(EngineEvent::Send(match what {
                Acknowledged::Installed(grant) => NodeMessage::GrantInstalled { grant, cut: cut(grant) },
                Acknowledged::Revoked(grant) => NodeMessage::GrantRevoked { grant, cut: cut(grant) },
                Acknowledged::Settled(revision) => NodeMessage::Settled { revision },
            }));
        }
        if !self.cut.is_empty() {
            // Of what is gone and waits for no acknowledgement, such as at the end of a lease, nobody will ask.
            let waiting: HashSet<_> = self.acknowledgements.iter().filter_map(|(_, what)| what.grant()).collect();
            self.cut.retain(|grant, _| waiting.contains(grant) || self.carried.contains_key(grant));
        }
    }

    pub(super) fn end_leases(&mut self, now: Moment) {
        let before = self.held.len() + self.carried.len();
        self.held.retain(|_, held| now < held.expires);
        self.carried.retain(|_, carried| now < carried.expires);
        if self.held.len() + self.carried.len() < before {
            self.publish();
        }
    }

    pub(super) fn renew(&mut self, now: Moment) {
        let mut is_due = false;
        for held in self.held.values_mut().filter(|held| held.renew_at <= now) {
            is_due = true;
            held.is_due = true;
            // Out of use now, it may come into use before it ends.
            held.look_again(now);
        }
        if is_due && self.connected {
            self.events.push_back(EngineEvent::QueryUsage);
        }
    }

    /// The resources with open flows: those whose renewal is due are asked for again.
    pub fn handle_usage(&mut self, in_use: &[ResourceId], now: Moment) {
        for resource in in_use {
            let held = self.held.get_mut(resource).filter(|held| now < held.expires);
            if held.is_some_and(|held| std::mem::take(&mut held.is_due)) {
                self.ask(*resource, None, now);
            }
        }
    }
}

impl Held {
    /// A renewal comes to nothing now.
    pub(super) fn look_again(&mut self, now: Moment) {
        self.renew_at = now + (self.expires.since(now) / RETRY_SHARE).max(MIN_RETRY);
    }
}

/// The coordinator may not know where a gateway is that it has not heard from yet since it started; this node does.
fn keep_candidates(granted: &mut Granted, known: Option<&Held>) {
    if let Some(known) = known.filter(|known| granted.candidates.is_empty() && known.granted.gateway == granted.gateway)
    {
        granted.candidates.clone_from(&known.granted.candidates);
        if let (Some(relayed), Some(known)) = (&mut granted.relayed, &known.granted.relayed) {
            relayed.relay = relayed.relay.or(known.relay);
        }
    }
}
