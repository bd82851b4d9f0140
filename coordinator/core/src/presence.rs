//! Presence: who is connected, where from, and where they may be reached.

use std::{
    collections::{HashMap, hash_map::Entry},
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use postern_model::{
    Candidate, Check, DeviceId, Found, GrantId, Moment, Posture, Timestamp,
    audit::Actor,
    candidate::{CandidateKind, MAX_CANDIDATES},
    change::Change,
    check::MAX_CHECKS,
    record::{Device, Owner},
};
use postern_policy::{Circumstances, Facts as _};
use postern_wire::{CoordinatorMessage, Eviction, Hello, NodeMessage, Welcome, close};

use crate::{
    Core, Effect, Env, Proposal,
    access::FollowUp,
    changes::Changes,
    draft::{Draft, Drafted},
    state::State,
    surroundings::{POSTURE_COUNTS, Surrounding},
};

/// More than so much of what is new in a posture is only counted in the audit log.
const MAX_NEWS: usize = 16;

/// One device's connection.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) connection: u64,
    instance: [u8; 16],
    from: SocketAddr,
    wireguard_port: u16,
    since: Timestamp,
    /// Where the node says that it may be reached.
    told: Vec<Candidate>,
    /// How often the node was sent each grant that it carries and has not acknowledged: it does so each time.
    pub(crate) unacknowledged: HashMap<GrantId, u32>,
}

impl Session {
    /// From which address it comes.
    pub(crate) fn source(&self) -> IpAddr {
        self.from.ip().to_canonical()
    }

    /// Takes one acknowledgement; whether it was the one of the last version sent.
    pub(crate) fn has_acknowledged(&mut self, grant: GrantId) -> bool {
        let Entry::Occupied(mut sent) = self.unacknowledged.entry(grant) else { return false };
        *sent.get_mut() -= 1;
        let is_last = *sent.get() == 0;
        if is_last {
            sent.remove();
        }
        is_last
    }
}

impl Core {
    /// Since when and from where a device is connected, if it is.
    pub fn presence(&self, device: DeviceId) -> Option<(Timestamp, SocketAddr)> {
        self.sessions.get(&device).map(|session| (session.since, session.from))
    }

    /// Whether a device with this id and device key may connect now.
    pub fn authorize_device(&self, device: DeviceId, key: &postern_model::Sha256) -> bool {
        self.state.devices.get(&device).is_some_and(|device| !device.revoked && device.key.ct_eq(key))
    }

    /// What a new session changes for good: the posture, and the trace of a second node with the same identity.
    pub fn propose_connect(
        &self,
        device: DeviceId,
        hello: &Hello,
        from: SocketAddr,
        env: &mut Env<'_>,
    ) -> Proposal<()> {
        let mut draft = Draft::new(self, Actor::Device(device), env.now);
        let label = format!("device:{}", draft.device_label(device));
        if let Some(older) = self.sessions.get(&device).filter(|older| older.instance != hello.instance) {
            draft.note("device.superseded", label, &[("id", &device), ("from", &older.from), ("by", &from)]);
        }
        draft.posture(device, &hello.posture);
        let known = self.surroundings.get(device);
        let posture_until = Some(env.now.plus(POSTURE_COUNTS));
        let source = from.ip().to_canonical();
        if known.is_none_or(|known| known.source != source || !self.posture_counts(device, env.now)) {
            draft.move_device(device, Circumstances { now: env.now, posture_until, source: Some(source) });
        }
        Proposal::new(draft.finish(), ())
    }

    /// What a device now says of itself.
    pub fn propose_posture(&self, device: DeviceId, posture: &Posture, env: &mut Env<'_>) -> Proposal<()> {
        let mut draft = Draft::new(self, Actor::Device(device), env.now);
        draft.posture(device, posture);
        let circumstances = self.surroundings.of(device, env.now);
        draft.move_device(device, Circumstances { posture_until: Some(env.now.plus(POSTURE_COUNTS)), ..circumstances });
        Proposal::new(draft.finish(), ()).then(FollowUp::Heard(device))
    }

    /// A device opened its session: yields `Send(Welcome)`. Takes the place of an older session of the same device; that
    /// one is told `Evicted{Superseded}` if it is another node's. `renew_certificate_in` goes into the welcome.
    pub fn handle_connected(
        &mut self,
        device: DeviceId,
        connection: u64,
        hello: &Hello,
        from: SocketAddr,
        renew_certificate_in: Duration,
        (now, moment): (Timestamp, Moment),
    ) {
        let Some(record) = self.state.devices.get(&device).filter(|record| !record.revoked).cloned() else {
            self.effects.push_back(Effect::Close { device, connection, code: close::UNAUTHORIZED });
            return;
        };
        if let Some(older) = self.sessions.get(&device) {
            if older.instance == hello.instance {
                self.close(device, close::DONE);
            } else {
                self.send(device, CoordinatorMessage::Evicted { reason: Eviction::Superseded });
                self.close(device, close::SUPERSEDED);
            }
        }
        let session = Session {
            connection,
            instance: hello.instance,
            from,
            wireguard_port: hello.wireguard_port,
            since: now,
            told: Vec::new(),
            unacknowledged: HashMap::new(),
        };
        self.sessions.insert(device, session);
        self.enforcement.note_presence(device, false);
        self.surroundings.note(device, Surrounding { heard: now, source: from.ip().to_canonical() });
        self.greet(&record, renew_certificate_in, now);
        let has_moved_in = self.note_home(device, hello.relay);
        if self.note_candidates(device, Some(hello.candidates.clone())) || has_moved_in {
            self.tell_reach(device, now);
        }
        self.look_at_device(device, moment);
    }

    fn greet(&mut self, device: &Device, renew_certificate_in: Duration, now: Timestamp) {
        let id = device.id;
        let installed: Vec<_> = self.state.grants_of_gateway(id).filter_map(|grant| self.install(grant, now)).collect();
        // The snapshot is one more thing that the gateway acknowledges, grant by grant.
        if let Some(session) = self.sessions.get_mut(&id) {
            session.unacknowledged = installed.iter().map(|install| (install.grant, 1)).collect();
        }
        let mut granted = Vec::new();
        for grant in self.state.grants_of_device(id) {
            match self.waiting.get_mut(grant.id) {
                None => granted.push(grant.clone()),
                Some(waiting) => {
                    waiting.push = true;
                    granted.extend(waiting.before.clone());
                }
            }
        }
        let welcome = Welcome {
            revision: self.state.revision,
            device: id,
            name: device.name.clone(),
            user: self.state.user_of(device).map(|user| user.name.to_string()),
            site: match device.owner {
                Owner::Site(site) => Some(site),
                Owner::User(_) => None,
            },
            addr: device.addr,
            ranges: self.state.network.ranges,
            zone: self.state.network.zone.clone(),
            catalogue: self.catalogue_of(id),
            granted: granted.iter().filter_map(|grant| self.granted(grant, now)).collect(),
            installed,
            renew_certificate_in,
            checks: self.checks(),
            relays: self.relays(),
            relay_pass: self.home_pass(device, now),
        };
        self.send(id, CoordinatorMessage::Welcome(Box::new(welcome)));
    }

    /// A device's connection comes from elsewhere from now on: what it holds is decided anew.
    pub fn propose_move(&self, device: DeviceId, connection: u64, from: SocketAddr, env: &mut Env<'_>) -> Proposal<()> {
        let is_current = self.sessions.get(&device).is_some_and(|session| session.connection == connection);
        if !is_current {
            return Proposal::new(Drafted::nothing(), ());
        }
        let mut draft = Draft::new(self, Actor::Device(device), env.now);
        let circumstances = self.surroundings.of(device, env.now);
        draft.move_device(device, Circumstances { source: Some(from.ip().to_canonical()), ..circumstances });
        Proposal::new(draft.finish(), ()).then(FollowUp::Moved(device, from))
    }

    pub(crate) fn moved(&mut self, device: DeviceId, from: SocketAddr, now: Timestamp) {
        self.surroundings.note_source(device, from.ip().to_canonical());
        if let Some(session) = self.sessions.get_mut(&device) {
            session.from = from;
        }
        // Where it is seen changes with that; where it says to be, it says itself.
        if self.note_candidates(device, None) {
            self.tell_reach(device, now);
        }
    }

    /// Whether the posture that is recorded of a device counts.
    pub fn posture_counts(&self, device: DeviceId, now: Timestamp) -> bool {
        self.surroundings.of(device, now).posture_until.is_some_and(|until| now < until)
    }

    /// What is recorded of what a device says of itself: bounded, and without what no policy asks for.
    pub fn recordable(&self, posture: &Posture) -> Posture {
        recordable(&self.state, posture)
    }

    /// A device said of itself what is recorded already: that counts from now on.
    pub fn handle_posture_again(&mut self, device: DeviceId, connection: u64, now: Timestamp) {
        if self.sessions.get(&device).is_some_and(|session| session.connection == connection) {
            self.surroundings.note_posture(device, now);
        }
    }

    /// What devices are to look at, for any policy.
    fn checks(&self) -> Vec<Check> {
        self.state.policy_set().checks().take(MAX_CHECKS).cloned().collect()
    }

    /// Policies were put or removed: all devices hear of it if that changes what they are to look at.
    pub(crate) fn tell_checks(&mut self, before: &[Check]) {
        let checks = self.checks();
        if checks == before {
            return;
        }
        let devices: Vec<_> = self.sessions.keys().copied().collect();
        for device in devices {
            self.send(device, CoordinatorMessage::Checks { checks: checks.clone() });
        }
    }

    /// What they look at now, if the changes are about policies.
    pub(crate) fn checks_before(&self, changes: &Changes) -> Option<Vec<Check>> {
        let is_about = |change: &Change| matches!(change, Change::PutPolicy(_) | Change::RemovePolicy(_));
        changes.iter().any(is_about).then(|| self.checks())
    }

    /// The connection with this number ended, and the node was last heard of at that moment; ignored when a newer one took
    /// its place. What a gateway carried moves if it does not come back in time.
    pub fn handle_disconnected(&mut self, device: DeviceId, connection: u64, heard: Moment) {
        if self.sessions.get(&device).is_some_and(|session| session.connection == connection) {
            self.sessions.remove(&device);
            self.enforcement.note_presence(device, true);
            let is_gateway = |record: &Device| matches!(record.owner, Owner::Site(_)) && !record.revoked;
            if self.state.devices.get(&device).is_some_and(is_gateway) {
                self.failover.left(device, heard);
            }
        }
    }

    /// A message in the session. [`NodeMessage::Posture`] is for [`Self::propose_posture`], and the shell renews
    /// certificates itself, while here the pass for relays is made anew. The former is ignored here, and so is what comes on
    /// any but the device's newest connection.
    pub fn handle_message(
        &mut self,
        device: DeviceId,
        connection: u64,
        message: NodeMessage,
        (now, moment): (Timestamp, Moment),
    ) {
        if self.sessions.get(&device).is_none_or(|session| session.connection != connection) {
            return;
        }
        match message {
            NodeMessage::GrantInstalled { grant, cut } => self.handle_installed(device, (grant, cut), (now, moment)),
            NodeMessage::GrantRevoked { grant, cut } => {
                self.enforcement.acknowledged(device, grant, cut, moment);
                self.superseded.acknowledged(device, grant);
            }
            NodeMessage::Settled { revision } => {
                self.enforcement.settled(device, revision, moment);
                self.superseded.settled(device);
            }
            NodeMessage::Candidates { candidates } => {
                if self.note_candidates(device, Some(candidates)) {
                    self.tell_reach(device, now);
                }
            }
            NodeMessage::HomeRelay { relay } => {
                if self.note_home(device, relay) {
                    self.tell_reach(device, now);
                }
            }
            // As long as the certificate, so it is made anew when that is.
            NodeMessage::RenewCertificate { .. } => self.renew_home_pass(device, now),
            NodeMessage::Posture { .. } | NodeMessage::Activity { .. } => {}
        }
    }

    /// Notes where a device may be reached, if it says so anew, and where it is seen; whether that is news.
    fn note_candidates(&mut self, device: DeviceId, told: Option<Vec<Candidate>>) -> bool {
        let Some(session) = self.sessions.get_mut(&device) else { return false };
        if let Some(mut told) = told {
            told.retain(|candidate| candidate.kind != CandidateKind::Unknown && candidate.addr.port() != 0);
            // What others see is most likely to work, and must not be what is cut.
            told.sort_unstable_by_key(|candidate| (std::cmp::Reverse(candidate.kind), candidate.addr));
            told.dedup();
            told.truncate(MAX_CANDIDATES);
            session.told = told;
        }
        let mut candidates = session.told.clone();
        // A guess at what the node would hear from a STUN server. It may know better, but not from before it moved.
        let guess = SocketAddr::new(session.from.ip().to_canonical(), session.wireguard_port);
        let is_better = |candidate: &Candidate| {
            candidate.addr == guess || candidate.kind == CandidateKind::Observed && candidate.addr.ip() == guess.ip()
        };
        if guess.port() != 0 && !candidates.iter().any(is_better) {
            candidates.truncate(MAX_CANDIDATES - 1);
            candidates.push(Candidate { addr: guess, kind: CandidateKind::Observed });
        }
        candidates.sort_unstable_by_key(|candidate| (candidate.kind, candidate.addr));
        let is_news = self.candidates.get(&device) != Some(&candidates);
        self.candidates.insert(device, candidates);
        is_news
    }

    /// Tells whoever shares a grant with a device how to reach it now.
    fn tell_reach(&mut self, device: DeviceId, now: Timestamp) {
        let held: Vec<_> = self.state.grants_of_device(device).cloned().collect();
        for grant in &held {
            self.send_install(grant, now);
        }
        let carried: Vec<_> = self.state.grants_of_gateway(device).cloned().collect();
        for grant in &carried {
            if self.waiting.get(grant.id).is_none() {
                self.send_granted(grant, now);
            }
        }
    }

    /// Sends in a device's session; nothing when it has none.
    pub(crate) fn send(&mut self, device: DeviceId, message: CoordinatorMessage) {
        if let Some(session) = self.sessions.get(&device) {
            self.effects.push_back(Effect::Send { device, connection: session.connection, message });
        }
    }

    pub(crate) fn close(&mut self, device: DeviceId, code: u32) {
        if let Some(session) = self.sessions.get(&device) {
            self.effects.push_back(Effect::Close { device, connection: session.connection, code });
        }
    }
}

impl Draft<'_> {
    fn posture(&mut self, device: DeviceId, posture: &Posture) {
        let posture = recordable(self.state, posture);
        let Some(record) = self.state.device(device).filter(|record| record.posture != posture).cloned() else {
            return;
        };
        let details = news(&record.posture, &posture);
        let more = details.len().saturating_sub(MAX_NEWS);
        let shown = details.iter().take(MAX_NEWS);
        let mut details: Vec<_> = shown.map(|(name, value)| (name.as_str(), value as &dyn ToString)).collect();
        if more > 0 {
            details.push(("more", &more));
        }
        self.note("device.posture", format!("device:{}", record.name), &details);
        self.change(Change::PutDevice(Device { posture, ..record }));
    }
}

fn recordable(state: &State, posture: &Posture) -> Posture {
    let mut posture = posture.clone().bounded();
    posture.checks.retain(|check, _| state.policy_set().asks_for(check));
    posture
}

/// What is new in a posture, by the names that policies use.
fn news(before: &Posture, after: &Posture) -> Vec<(String, String)> {
    let fields = |posture: &Posture| {
        fn maybe(value: Option<impl ToString>) -> String {
            value.map_or_else(|| "unknown".to_owned(), |value| value.to_string())
        }
        [
            ("hostname", posture.hostname.clone()),
            ("os", posture.os.clone()),
            ("kernel", posture.kernel.clone()),
            ("version", posture.version.clone()),
            ("disk_encrypted", maybe(posture.disk_encrypted)),
            ("firewall", maybe(posture.firewall)),
            ("screen_lock", maybe(posture.screen_lock)),
            ("update_age_days", maybe(posture.update_age_days)),
        ]
    };
    let checks = after.checks.iter().filter(|(check, found)| before.checks.get(check) != Some(found));
    let checks = checks.map(|(check, found)| (check.to_string(), label(found)));
    let gone = before.checks.keys().filter(|check| !after.checks.contains_key(check));
    let gone = gone.map(|check| (check.to_string(), "unknown".to_owned()));
    let fields = fields(before).into_iter().zip(fields(after)).filter(|(before, after)| before != after);
    fields.map(|(_, (name, value))| (name.to_owned(), value)).chain(checks).chain(gone).collect()
}

fn label(found: &Found) -> String {
    match found {
        Found::Absent => "absent".to_owned(),
        Found::Present => "present".to_owned(),
        Found::Version(version) => version.clone(),
        Found::Unknown => "unknown".to_owned(),
    }
}
