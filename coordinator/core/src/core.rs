//! [`Core`]: the state, and the two steps in which it moves: a proposal is made, and applied.

use std::{
    collections::{HashMap, VecDeque},
    time::Duration,
};

use postern_model::{
    Candidate, DenyReason, DeviceId, Fqdn, GrantId, Moment, RelayId, Revision, SecretBytes, SiteId, Timestamp,
    audit::{Actor, AuditEvent},
    change::{Batch, Change},
    grant::{Grant, GrantEnd},
    record::{Device, Owner, World},
};
use postern_wire::{CoordinatorMessage, Eviction, close};

use crate::{
    ChangeReport, Command, Effect, Refusal, State, Touched,
    access::FollowUp,
    changes::Changes,
    commands, declaration,
    denials::Denials,
    draft::Drafted,
    enforcement::{Effects, Enforcement},
    failover::Failover,
    presence::Session,
    relays::RelayConfig,
    superseded::Superseded,
    surroundings::Surroundings,
    waiting::WaitingGrants,
};

/// What the core takes from outside for one call: the time, and random bytes for ids.
pub struct Env<'a> {
    /// Now, for records: leases and tokens end by it.
    pub now: Timestamp,
    /// Now, on the clock that nobody sets: how long a gateway takes to acknowledge is counted by it.
    pub moment: Moment,
    /// Fills the buffer with random bytes.
    pub random: &'a mut dyn FnMut(&mut [u8]),
}

impl Env<'_> {
    pub(crate) fn id<T>(&mut self, make: impl FnOnce([u8; 16]) -> T) -> T {
        let mut bytes = [0; 16];
        (self.random)(&mut bytes);
        make(bytes)
    }

    pub(crate) fn ticket(&mut self) -> AccessTicket {
        let mut bytes = [0; 8];
        (self.random)(&mut bytes);
        AccessTicket(u64::from_le_bytes(bytes))
    }
}

impl std::fmt::Debug for Env<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Env").field("now", &self.now).finish_non_exhaustive()
    }
}

/// What an admin may tune.
#[derive(Debug, Clone)]
pub struct CoreConfig {
    /// How long a grant holds unless renewed. 10 minutes unless told.
    pub lease: Duration,
    /// How long a gateway has to acknowledge a grant. 5 seconds unless told.
    pub ack_timeout: Duration,
    /// How many access requests of one device may wait at once. 64 unless told.
    pub requests_per_device: usize,
    /// From which the pairs' preshared keys are derived; kept in the state directory, never sent.
    pub psk_master: SecretBytes,
    /// What relays take; without it nodes are told of none.
    pub relays: Option<RelayConfig>,
}

/// What is to be committed, and what it will have yielded.
#[derive(Debug)]
#[must_use = "commit the batch, then apply the proposal"]
pub struct Proposal<T> {
    /// For the store. May be empty (no changes, no audit): then there is nothing to commit.
    pub batch: Batch,
    pub(crate) redecided: usize,
    /// For the caller, once it is committed.
    pub outcome: T,
    pub(crate) follow_up: Option<FollowUp>,
    /// By which name the resource of a grant was asked for.
    pub(crate) queried: Option<(GrantId, Fqdn)>,
}

impl<T> Proposal<T> {
    pub(crate) fn new(drafted: Drafted, outcome: T) -> Self {
        let Drafted { batch, redecided } = drafted;
        Self { batch, redecided, outcome, follow_up: None, queried: None }
    }

    /// How many grants were decided anew for it.
    pub fn redecided(&self) -> usize {
        self.redecided
    }

    pub(crate) fn then(self, follow_up: FollowUp) -> Self {
        Self { follow_up: Some(follow_up), ..self }
    }
}

/// Names one access request that waits for its answer; made by the core, meaningless elsewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AccessTicket(pub u64);

/// The coordinator's brain. See the crate's documentation for the order of calls.
pub struct Core {
    pub(crate) state: State,
    /// The revision at which anything last changed that declarations speak of, as far as is known.
    pub(crate) declared_at: Revision,
    pub(crate) config: CoreConfig,
    pub(crate) sessions: HashMap<DeviceId, Session>,
    pub(crate) surroundings: Surroundings,
    /// Where each device was last known to be reached; kept while it is away, for grants that go on.
    pub(crate) candidates: HashMap<DeviceId, Vec<Candidate>>,
    /// At which relay each device was last known to wait; kept like that.
    pub(crate) homes: HashMap<DeviceId, RelayId>,
    /// Grants that their gateway has not yet acknowledged as they are now.
    pub(crate) waiting: WaitingGrants,
    pub(crate) denials: Denials,
    pub(crate) enforcement: Enforcement,
    /// Gateways that are away, and grants that are to move for it.
    pub(crate) failover: Failover,
    /// Grants that gateways may have in force though others have taken their place.
    pub(crate) superseded: Superseded,
    /// By which DNS name the resource of a grant was last asked for, if by one; kept for as long as the grant, and not over
    /// a restart.
    pub(crate) queried: HashMap<GrantId, Fqdn>,
    pub(crate) effects: VecDeque<Effect>,
}

impl std::fmt::Debug for Core {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Core").field("revision", &self.state.revision).finish_non_exhaustive()
    }
}

impl Core {
    /// A core over what the store holds. Every device is away; grants go on. Say when it is with [`Self::begin`].
    pub fn new(world: World, config: CoreConfig) -> Self {
        Self {
            declared_at: world.revision,
            state: State::new(world),
            config,
            sessions: HashMap::new(),
            surroundings: Surroundings::default(),
            candidates: HashMap::new(),
            homes: HashMap::new(),
            waiting: WaitingGrants::default(),
            denials: Denials::default(),
            enforcement: Enforcement::default(),
            failover: Failover::default(),
            superseded: Superseded::default(),
            queried: HashMap::new(),
            effects: VecDeque::new(),
        }
    }

    /// The state as last applied.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// An admin's change, with everything that it re-decides (grants that it ends) in the same batch.
    ///
    /// # Errors
    /// With what is wrong and what would be right.
    pub fn propose_command(
        &self,
        actor: &Actor,
        command: &Command,
        env: &mut Env<'_>,
    ) -> Result<Proposal<Touched>, Refusal> {
        let (drafted, touched) = commands::draft(self, actor, command, env)?;
        Ok(Proposal::new(drafted, touched))
    }

    /// Takes over what was committed. `now` and `moment` as in [`Env`].
    pub fn apply<T>(&mut self, proposal: Proposal<T>, now: Timestamp, moment: Moment) -> T {
        let Proposal { batch, redecided, outcome, follow_up, queried } = proposal;
        if batch.audit.is_empty() {
            self.follow(follow_up, now);
            return outcome;
        }
        // The gateway is told of it below.
        self.queried.extend(queried);
        let Batch { changes, audit } = batch;
        let changes = Changes::from(changes);
        let mut effects = Effects { redecided, ..Effects::default() };
        // What the changes are about, as it was before them.
        let news = self.catalogue_news(&changes);
        let checks = self.checks_before(&changes);
        let relays = self.relays_before(&changes);
        let is_declarative = changes.iter().any(declaration::is_declarative);
        let ended: Vec<(Grant, GrantEnd)> = changes.iter().filter_map(|change| self.ending(change)).collect();
        let mut changed: Vec<(GrantId, Option<Grant>)> = Vec::new();
        let (mut gone, mut drained) = (Vec::new(), Vec::new());
        for change in changes.into_list() {
            match &change {
                Change::PutGrant(grant) => {
                    let before = self.state.grants.get(&grant.id);
                    if before
                        .is_none_or(|before| is_news(before, grant, follow_up.as_ref(), now.plus(self.config.lease)))
                    {
                        effects.changed.extend(before.filter(|before| has_less(before, grant)).cloned());
                        changed.push((grant.id, before.cloned()));
                    }
                }
                Change::RemoveDevice(id) => gone.push(*id),
                Change::PutDevice(device) if device.revoked => gone.push(device.id),
                Change::PutDevice(device) => drained.extend(self.is_drained_anew(device)),
                _ => {}
            }
            self.state.apply(change);
        }
        self.state.revision = self.state.revision.next();
        effects.ended = ended
            .iter()
            .filter(|(grant, end)| is_taken_away(grant, *end, follow_up.as_ref()))
            .map(|(grant, _)| grant.clone())
            .collect();
        let less = effects.ended.iter().chain(&effects.changed);
        effects.elsewhere = less.flat_map(|grant| self.superseded.before(grant.id, now)).cloned().collect();
        self.begin_report(&audit, &effects, (now, moment));
        if is_declarative {
            self.declared_at = self.state.revision;
        }
        let mut waiting = Vec::new();
        for (grant, end) in ended {
            match successor(&grant, end, follow_up.as_ref()) {
                Successor::Moved(new) => waiting.push((new, self.hand_over(&grant, new, now))),
                Successor::Asked(new) => {
                    self.tell_ended(&grant, end);
                    self.superseded.put(grant, new, true, now);
                }
                Successor::None => {
                    self.tell_ended(&grant, end);
                    self.superseded.forget(grant.id);
                    if end == GrantEnd::Revoked(DenyReason::NoGateway) {
                        self.note_orphan(grant);
                    }
                }
            }
        }
        for (grant, before) in changed {
            self.tell_changed(grant, before, follow_up.as_ref(), (now, moment));
        }
        for (grant, tickets) in waiting {
            self.waiting.take_over(grant, tickets);
        }
        for device in gone {
            self.evict(device);
        }
        for (gateway, site) in drained {
            self.look_at_gateway(gateway);
            self.look_at_site(site);
        }
        self.tell_catalogues(news);
        checks.into_iter().for_each(|before| self.tell_checks(&before));
        relays.into_iter().for_each(|before| self.tell_relays(&before, now));
        self.follow(follow_up, now);
        outcome
    }

    /// The next thing to do.
    pub fn poll_effect(&mut self) -> Option<Effect> {
        self.effects.pop_front()
    }

    /// Of what an admin changes there is a report, and of what takes something away.
    fn begin_report(&mut self, audit: &[AuditEvent], effects: &Effects, (now, moment): (Timestamp, Moment)) {
        let is_admin = |event: &AuditEvent| matches!(event.actor, Actor::AdminSocket | Actor::ApiKey(_));
        if !audit.iter().any(is_admin) && effects.ended.is_empty() && effects.changed.is_empty() {
            return;
        }
        let sessions = &self.sessions;
        let made = (self.state.revision, now, moment);
        self.enforcement.begin(made, audit, effects, |device| sessions.contains_key(&device));
    }

    /// What the change that made this revision has come to at the nodes; `None` when it took nothing away, or is too long ago.
    pub fn change_report(&self, revision: Revision) -> Option<&ChangeReport> {
        self.enforcement.report(revision)
    }

    /// The same of the latest changes, the latest one first.
    pub fn change_reports(&self) -> impl Iterator<Item = &ChangeReport> {
        self.enforcement.latest()
    }

    fn ending(&self, change: &Change) -> Option<(Grant, GrantEnd)> {
        match change {
            Change::EndGrant(id, end) => Some((self.state.grants.get(id)?.clone(), *end)),
            _ => None,
        }
    }

    /// The gateway first: that is where it counts.
    fn tell_ended(&mut self, grant: &Grant, end: GrantEnd) {
        let reason = match end {
            GrantEnd::Revoked(reason) => reason,
            GrantEnd::Expired => DenyReason::LeaseExpired,
            GrantEnd::Replaced => DenyReason::Replaced,
        };
        let reason = crate::access::told(reason);
        for device in [grant.gateway, grant.device] {
            self.send(device, CoordinatorMessage::RevokeGrant { grant: grant.id, reason });
        }
        if let Some(session) = self.sessions.get_mut(&grant.gateway) {
            session.unacknowledged.remove(&grant.id);
        }
        // Those that this one was to take the place of, and of whose end nobody has heard.
        for old in self.superseded.take_untold(grant.id) {
            for device in [old.gateway, old.device] {
                self.send(device, CoordinatorMessage::RevokeGrant { grant: old.id, reason });
            }
        }
        self.queried.remove(&grant.id);
        self.answer_waiting(grant.id, reason);
    }

    /// The gateway and its site, if it is drained or undrained by this.
    fn is_drained_anew(&self, device: &Device) -> Option<(DeviceId, SiteId)> {
        let Owner::Site(site) = device.owner else { return None };
        let is_drained = self.state.devices.get(&device.id).is_some_and(|before| before.drained);
        (is_drained != device.drained).then_some((device.id, site))
    }

    fn evict(&mut self, device: DeviceId) {
        self.candidates.remove(&device);
        self.homes.remove(&device);
        self.surroundings.forget(device);
        self.failover.forget(device);
        if self.sessions.contains_key(&device) {
            self.send(device, CoordinatorMessage::Evicted { reason: Eviction::Revoked });
            self.close(device, close::UNAUTHORIZED);
            self.sessions.remove(&device);
        }
    }
}

/// Whether a grant lets less through than before, or for less long.
pub(crate) fn has_less(before: &Grant, after: &Grant) -> bool {
    !before.filter.minus(&after.filter).is_empty() || after.expires_at < before.expires_at
}

/// What has taken the place of a grant that ended.
enum Successor {
    None,
    /// Its device has asked for another.
    Asked(GrantId),
    /// It was moved to another gateway.
    Moved(GrantId),
}

fn successor(grant: &Grant, end: GrantEnd, follow_up: Option<&FollowUp>) -> Successor {
    match (end, follow_up) {
        (GrantEnd::Replaced, Some(FollowUp::Await(_, new))) => Successor::Asked(*new),
        (GrantEnd::Replaced, Some(FollowUp::GiveUp(_, moves, _))) => {
            moves.moved.get(&grant.id).map_or(Successor::None, |new| Successor::Moved(*new))
        }
        _ => Successor::None,
    }
}

/// Whether a grant ended because it was to end, and neither by itself nor because another has taken its place.
fn is_taken_away(grant: &Grant, end: GrantEnd, follow_up: Option<&FollowUp>) -> bool {
    match end {
        GrantEnd::Revoked(_) => true,
        GrantEnd::Replaced => matches!(successor(grant, end, follow_up), Successor::None),
        GrantEnd::Expired => false,
    }
}

/// Whether a grant's two ends have to hear of its change. By which policy it holds is nothing to them; nor is an end that
/// was brought forward to the longest lease there is, as when the clock was set back, since they count by their own. A renewal
/// is news, whatever the clock says.
fn is_news(before: &Grant, after: &Grant, follow_up: Option<&FollowUp>, latest: Timestamp) -> bool {
    let is_renewed = matches!(follow_up, Some(FollowUp::Await(_, id)) if *id == after.id);
    let is_same = Grant { policy: after.policy, expires_at: after.expires_at, ..before.clone() } == *after;
    let is_sooner = after.expires_at < before.expires_at && after.expires_at >= latest && !is_renewed;
    !is_same || !(is_sooner || after.expires_at == before.expires_at)
}
