//! Access requests, and the packets that wait for them: held for a while, never lost in silence.

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use postern_model::{DenyReason, GrantId, Moment, ResourceId};
use postern_wire::{AccessReply, Granted};

use super::{Engine, EngineEvent};
use crate::{DropReason, Miss};

/// A packet that waited this long is refused.
const HOLD: Duration = Duration::from_secs(10);
/// A denial stands for this long before the coordinator is asked again.
const DENIAL: Duration = Duration::from_secs(1);
/// What could not be asked is asked again after this long.
const RETRY: Duration = Duration::from_secs(1);
/// More packets than this do not wait for one resource: a burst of new connections, each with its first packet.
const MAX_PACKETS: usize = 1024;
/// More bytes than this do not wait in all.
const MAX_BYTES: usize = 4 << 20;

/// A request, or packets that wait for one to be possible.
#[derive(Debug, Default)]
struct Request {
    in_flight: bool,
    /// The session has told of the grant since it was asked for. The answer comes on a stream of its own: which of the two
    /// is the newer one, nobody can tell.
    is_overtaken: bool,
    /// It was asked in a session that has ended.
    is_of_earlier_session: bool,
    packets: Vec<Vec<u8>>,
    /// When the packets have waited too long.
    until: Option<Moment>,
    /// When to ask again.
    retry_at: Option<Moment>,
}

/// What is to be known of the request that an answer is for.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Answered {
    /// See [`Request`].
    pub(super) is_overtaken: bool,
    /// See [`Request`].
    pub(super) is_of_earlier_session: bool,
}

/// All open requests, and denials that still stand.
#[derive(Debug, Default)]
pub(super) struct Requests {
    /// In order, so that what is asked for at once is asked for in the same order each time.
    open: BTreeMap<ResourceId, Request>,
    denied: HashMap<ResourceId, Moment>,
    /// Revoked while requests are open: the answer that grants them comes on a stream of its own, and may come later.
    revoked: HashMap<GrantId, DenyReason>,
    bytes: usize,
}

impl Requests {
    /// Notes that the coordinator has answered, or can't.
    pub(super) fn answered(&mut self, resource: ResourceId) -> Answered {
        let mut answered = Answered::default();
        if let Some(request) = self.open.get_mut(&resource) {
            request.in_flight = false;
            answered = Answered {
                is_overtaken: std::mem::take(&mut request.is_overtaken),
                is_of_earlier_session: std::mem::take(&mut request.is_of_earlier_session),
            };
            self.forget_if_done(resource);
        }
        if !self.is_any_in_flight() {
            self.revoked.clear();
        }
        answered
    }

    /// Notes that a session begins: what is being asked was asked in one that has ended.
    pub(super) fn begin_session(&mut self) {
        for request in self.open.values_mut() {
            request.is_of_earlier_session |= request.in_flight;
        }
    }

    /// Notes that the session has told of a grant.
    pub(super) fn note_told(&mut self, resource: ResourceId) {
        if let Some(request) = self.open.get_mut(&resource) {
            request.is_overtaken = request.in_flight;
        }
    }

    fn is_any_in_flight(&self) -> bool {
        self.open.values().any(|request| request.in_flight)
    }

    /// Notes a revocation that may have overtaken the answer with its grant.
    pub(super) fn note_revoked(&mut self, grant: GrantId, reason: DenyReason) {
        if self.is_any_in_flight() {
            self.revoked.insert(grant, reason);
        }
    }

    /// The answer that a grant comes to.
    pub(super) fn unless_revoked(&self, granted: Granted) -> AccessReply {
        match self.revoked.get(&granted.grant) {
            Some(reason) => AccessReply::Denied { reason: *reason },
            None => AccessReply::Granted(granted),
        }
    }

    /// A denial stands for a moment: a program that retries in a loop does not become a loop of requests.
    pub(super) fn deny(&mut self, resource: ResourceId, now: Moment) {
        self.denied.insert(resource, now + DENIAL);
    }

    /// What waits is asked for again soon.
    pub(super) fn retry(&mut self, resource: ResourceId, now: Moment) {
        if let Some(request) = self.open.get_mut(&resource) {
            request.retry_at = Some(now + RETRY);
        }
    }

    fn is_denied(&mut self, resource: ResourceId, now: Moment) -> bool {
        self.denied.retain(|_, until| now < *until);
        self.denied.contains_key(&resource)
    }

    fn hold(&mut self, resource: ResourceId, packet: Vec<u8>, now: Moment) -> Result<(), Vec<u8>> {
        let waiting = self.open.get(&resource).map_or(0, |request| request.packets.len());
        if waiting >= MAX_PACKETS || self.bytes + packet.len() > MAX_BYTES {
            return Err(packet);
        }
        let request = self.open.entry(resource).or_default();
        self.bytes += packet.len();
        request.packets.push(packet);
        request.until.get_or_insert(now + HOLD);
        Ok(())
    }

    fn take_packets(&mut self, resource: ResourceId) -> Vec<Vec<u8>> {
        let Some(request) = self.open.get_mut(&resource) else { return Vec::new() };
        let packets = std::mem::take(&mut request.packets);
        (request.until, request.retry_at) = (None, None);
        self.bytes -= packets.iter().map(Vec::len).sum::<usize>();
        self.forget_if_done(resource);
        packets
    }

    fn forget_if_done(&mut self, resource: ResourceId) {
        if self.open.get(&resource).is_some_and(|request| !request.in_flight && request.packets.is_empty()) {
            self.open.remove(&resource);
        }
    }

    pub(super) fn poll_timeout(&self) -> Option<Moment> {
        self.open.values().flat_map(|request| [request.until, request.retry_at]).flatten().min()
    }
}

impl Engine {
    /// From the forwarder: a permitted packet without a grant.
    pub fn handle_miss(&mut self, miss: Miss, now: Moment) {
        let Miss { resource, packet } = miss;
        if self.held.get(&resource).is_some_and(|held| now < held.expires) {
            // Granted since: the table that says so was published before this.
            self.events.push_back(EngineEvent::Replay(vec![packet]));
        } else if !self.catalogue.contains_key(&resource) || self.requests.is_denied(resource, now) {
            self.events.push_back(EngineEvent::Refuse(vec![packet], DropReason::AccessDenied));
        } else {
            self.ask(resource, Some(packet), now);
        }
    }

    /// Someone wants the resource (a name was looked up, `ping`): ask for it unless it is held.
    pub fn handle_wanted(&mut self, resource: ResourceId, now: Moment) {
        if !self.requests.is_denied(resource, now) {
            self.handle_demanded(resource, now);
        }
    }

    /// The user wants to know now: asked for also when it was denied a moment ago.
    pub fn handle_demanded(&mut self, resource: ResourceId, now: Moment) {
        let is_held = self.held.get(&resource).is_some_and(|held| now < held.expires);
        if self.connected && self.catalogue.contains_key(&resource) && !is_held {
            self.ask(resource, None, now);
        }
    }

    pub(super) fn ask(&mut self, resource: ResourceId, packet: Option<Vec<u8>>, now: Moment) {
        if let Some(packet) = packet
            && let Err(packet) = self.requests.hold(resource, packet, now)
        {
            self.events.push_back(EngineEvent::Refuse(vec![packet], DropReason::PendingFull));
            return;
        }
        if !self.connected {
            return;
        }
        let queried = self.queried.get(&resource).cloned();
        let request = self.requests.open.entry(resource).or_default();
        request.retry_at = None;
        if !std::mem::replace(&mut request.in_flight, true) {
            self.events.push_back(EngineEvent::RequestAccess(resource, queried));
        }
    }

    /// A session has begun: asks for everything that waited for one, and drops what was asked in the last one.
    pub(super) fn ask_waiting(&mut self, now: Moment) {
        let waiting: Vec<_> = self.requests.open.keys().copied().collect();
        for resource in waiting {
            if self.held.contains_key(&resource) {
                self.replay_waiting(resource);
            } else if self.catalogue.contains_key(&resource) {
                self.ask(resource, None, now);
            } else {
                self.refuse_waiting(resource, DropReason::AccessDenied);
            }
        }
    }

    /// Asks again if something waits.
    pub(super) fn ask_waiting_for(&mut self, resource: ResourceId, now: Moment) {
        if self.requests.open.contains_key(&resource) {
            self.ask(resource, None, now);
        } else if let Some(held) = self.held.get_mut(&resource) {
            held.look_again(now);
        }
    }

    pub(super) fn replay_waiting(&mut self, resource: ResourceId) {
        let packets = self.requests.take_packets(resource);
        if !packets.is_empty() {
            self.events.push_back(EngineEvent::Replay(packets));
        }
    }

    pub(super) fn refuse_waiting(&mut self, resource: ResourceId, reason: DropReason) {
        let packets = self.requests.take_packets(resource);
        if !packets.is_empty() {
            self.events.push_back(EngineEvent::Refuse(packets, reason));
        }
    }

    pub(super) fn refuse_all_waiting(&mut self, reason: DropReason) {
        let waiting: Vec<_> = self.requests.open.keys().copied().collect();
        waiting.into_iter().for_each(|resource| self.refuse_waiting(resource, reason));
    }

    pub(super) fn time_out_requests(&mut self, now: Moment) {
        let is_due = |at: Option<Moment>| at.is_some_and(|at| at <= now);
        let late = |request: &super::requests::Request| is_due(request.until);
        let late: Vec<_> = self.requests.open.iter().filter(|(_, r)| late(r)).map(|(id, _)| *id).collect();
        for resource in late {
            self.refuse_waiting(resource, DropReason::PendingTimeout);
        }
        let due = self.requests.open.iter_mut().filter(|(_, request)| is_due(request.retry_at));
        let due: Vec<_> = due.map(|(id, request)| (*id, request.retry_at.take()).0).collect();
        for resource in due {
            self.ask(resource, None, now);
        }
    }
}
