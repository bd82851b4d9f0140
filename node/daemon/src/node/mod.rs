//! The node: engine, lane, session, DNS and the machine's configuration, tied together by one task.
//!
//! ```text
//!  local API ─ commands ─┐                        ┌─► lane (packets)
//!  session ── messages ──┤                        ├─► session, access requests
//!  lane ──── misses ─────┼─► Node::run ─ Engine ──┼─► resolver (targets)
//!  DNS stub ─ queries ───┤                        └─► local API (answers)
//!  timers, addresses ────┘
//! ```
//!
//! - `handle`: how the daemon speaks to it
//! - `machine`: what the node changes on the machine, and takes back
//! - `posture`: what the device says of itself
//! - `reaching`: how it is reached, told to all whom it concerns
//! - `status`: what it can tell

mod handle;
mod machine;
mod posture;
mod reaching;
mod status;
mod tuning;

pub use handle::NodeHandle;

use std::{
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, Result};
use postern_dataplane::{LaneEvent, LaneHandle, LaneStatus, clock};
use postern_engine::{DnsVerdict, Engine, EngineEvent, ForwardingTable};
use postern_model::{Candidate, DeviceId, Fqdn, Moment, Posture, ResourceId};
use postern_wire::{AccessReply, CoordinatorMessage, Hello, NodeMessage, Welcome};
use tokio::sync::{mpsc, oneshot, watch};

use self::{handle::Command, machine::Machine};
use crate::{
    activity::{self, Recorder},
    control::session::{Session, SessionEvent, SessionKeeper},
    log_limit::LogLimit,
    reach::{Reach, ReachEvent},
    state_dir::{Identity, StateDir},
};

/// Timers run at least this often: the runtime's clock stands still while the machine sleeps, and ours does not.
const TICK: Duration = Duration::from_secs(5);
/// So many inputs of a kind are taken in one go, before what follows from them is carried out.
const BATCH: usize = 1024;

/// What comes back from work that the node has started.
enum Done {
    Access(ResourceId, Option<Box<AccessReply>>),
    Resolved(Fqdn, Vec<IpAddr>),
    Usage(Vec<ResourceId>),
}

/// A DNS query, and where its verdict goes.
type DnsQuery = (Vec<u8>, oneshot::Sender<DnsVerdict>);

/// What the node listens to.
struct Inputs {
    commands: mpsc::Receiver<Command>,
    lane: mpsc::UnboundedReceiver<LaneEvent>,
    session: mpsc::Receiver<SessionEvent>,
    done: mpsc::Receiver<Done>,
    dns: mpsc::Receiver<DnsQuery>,
    addresses: mpsc::Receiver<()>,
    woke: mpsc::Receiver<()>,
    reach: mpsc::Receiver<ReachEvent>,
    resolver: mpsc::Receiver<()>,
    posture: mpsc::Receiver<Posture>,
}

/// What may be logged again and again, and how often it is.
#[derive(Debug, Default)]
struct LogLimits {
    denied: LogLimit,
    unresolved: LogLimit,
    disconnected: LogLimit,
}

/// One node, from up to down.
struct Node {
    state: Arc<StateDir>,
    identity: watch::Sender<Arc<Identity>>,
    hello: watch::Sender<Hello>,
    engine: Engine,
    lane: Arc<LaneHandle>,
    machine: Machine,
    /// Until the end.
    reach: Option<Reach>,
    /// Where peers may reach this node beside the machine's own addresses.
    learned: Vec<Candidate>,
    /// What the machine's network was when it was last looked at.
    network: Option<reaching::Network>,
    /// The table last published, for `wg show`.
    table: Option<Arc<ForwardingTable>>,
    session: Option<Session>,
    keeper: Option<SessionKeeper>,
    /// On a gateway, from the first welcome on.
    recorder: Option<Recorder>,
    /// How much that may take of the disk, in bytes.
    activity_spool: u64,
    /// What the coordinator said of this device.
    welcome: Option<Welcome>,
    problem: Option<String>,
    is_evicted: bool,
    /// Whether it is of no use until somebody does something and starts it again.
    is_stuck: bool,
    renew_certificate_at: Option<Moment>,
    /// What the posture's follower is to look at.
    wanted: watch::Sender<posture::Wanted>,
    /// When the posture is said again even if it is the same.
    say_posture_at: Moment,
    wait_usable: Vec<oneshot::Sender<Result<(), String>>>,
    wait_grant: Vec<(ResourceId, oneshot::Sender<Result<(), String>>)>,
    done: mpsc::Sender<Done>,
    dns: mpsc::Sender<DnsQuery>,
    /// How many misses the lane has told of and the node has not looked at.
    misses: Arc<AtomicUsize>,
    log: LogLimits,
    commands: mpsc::WeakSender<Command>,
}

impl Node {
    /// Until told to stop. Returns with the machine as it was found.
    async fn run(mut self, mut inputs: Inputs) {
        let commands = self.commands.clone();
        self.machine.answer_wg(move || handle::uapi_status(commands.clone()));
        let stopped = loop {
            self.pump();
            let wait = self.next_timer();
            tokio::select! {
                command = inputs.commands.recv() => match command {
                    Some(Command::Stop(stopped)) => break Some(stopped),
                    Some(command) => self.command(command).await,
                    None => break None,
                },
                Some(event) = inputs.session.recv() => self.session_events(event, &mut inputs.session).await,
                Some(event) = inputs.lane.recv() => self.lane_events(event, &mut inputs.lane),
                Some(done) = inputs.done.recv() => self.done(done),
                Some((query, verdict)) = inputs.dns.recv() => {
                    let _ = verdict.send(self.engine.handle_dns_query(&query, clock::now()));
                }
                Some(()) = inputs.addresses.recv() => {
                    self.machine.follow_links();
                    // Also of a network that went and came back before anyone could look.
                    if let Some(keeper) = &self.keeper {
                        keeper.handle_network_changed();
                    }
                    self.look_at_network().await;
                }
                Some(()) = inputs.woke.recv() => {
                    tracing::info!("this machine has slept");
                    self.look_at_network().await;
                    self.tell_network_changed();
                }
                Some(event) = inputs.reach.recv() => self.reach_event(event),
                Some(posture) = inputs.posture.recv() => self.tell_posture(posture),
                Some(()) = inputs.resolver.recv() => self.machine.follow_resolver(clock::now()),
                () = tokio::time::sleep(wait) => {}
            }
            self.timers();
        };
        self.lane.announce_stop();
        let reach = self.reach.take();
        let leaving = tokio::spawn(async move {
            if let Some(reach) = reach {
                reach.stop().await;
            }
        });
        // Nothing passes any more, before anything else is taken down.
        self.engine.handle_evicted();
        self.pump();
        self.keeper = None;
        if let Some(recorder) = self.recorder.take() {
            let _ = tokio::task::spawn_blocking(move || recorder.finish()).await;
        }
        self.machine.undo(&self.lane).await;
        let _ = leaving.await;
        // With it goes the claim to this machine: whoever asked may start a node at once.
        drop(self);
        if let Some(stopped) = stopped {
            let _ = stopped.send(());
        }
    }

    fn next_timer(&self) -> Duration {
        let now = clock::now();
        let next = self
            .engine
            .poll_timeout()
            .into_iter()
            .chain(self.renew_certificate_at)
            .chain(self.machine.poll_timeout())
            .min();
        next.map_or(TICK, |next| next.since(now).min(TICK))
    }

    fn timers(&mut self) {
        let now = clock::now();
        self.tell_whether_warm(now);
        if self.engine.poll_timeout().is_some_and(|at| at <= now) {
            self.engine.handle_timeout(now);
        }
        if self.machine.poll_timeout().is_some_and(|at| at <= now) {
            self.machine.follow_resolver(now);
        }
        if self.renew_certificate_at.is_some_and(|at| at <= now) {
            self.renew_certificate_at = None;
            self.renew_certificate();
        }
    }

    /// Carries out what the engine wants done, in order.
    fn pump(&mut self) {
        while let Some(event) = self.engine.poll_event() {
            match event {
                EngineEvent::Publish(table) => {
                    self.table = Some(Arc::clone(&table));
                    self.lane.publish(table);
                }
                EngineEvent::RequestAccess(resource, queried) => self.request_access(resource, queried),
                EngineEvent::Send(message) => self.send(message),
                EngineEvent::Replay(packets) => self.lane.replay(packets),
                EngineEvent::Refuse(packets, reason) => self.lane.refuse(packets, reason),
                EngineEvent::Resolve(host) => self.resolve(host),
                EngineEvent::QueryUsage => self.query_usage(),
                EngineEvent::RelayPeers(peers) => {
                    if let Some(reach) = &self.reach {
                        reach.set_peers(peers);
                    }
                }
                EngineEvent::Denied(resource, reason) => {
                    if let Some(unsaid) = self.log.denied.admit(clock::now()) {
                        tracing::info!(%resource, %reason, unsaid, "no access");
                    }
                    self.answer_grants(|waiting| (waiting == resource).then(|| Err(reason.to_string())));
                }
            }
        }
        if !self.wait_grant.is_empty() {
            let now = clock::now();
            let held: Vec<_> =
                self.engine.resources(now).into_iter().filter(|held| held.lease_left.is_some()).collect();
            self.answer_grants(|waiting| held.iter().any(|held| held.entry.id == waiting).then_some(Ok(())));
        }
    }

    fn answer_grants(&mut self, mut answer: impl FnMut(ResourceId) -> Option<Result<(), String>>) {
        for (resource, waiting) in std::mem::take(&mut self.wait_grant) {
            match answer(resource) {
                Some(answer) => drop(waiting.send(answer)),
                None => self.wait_grant.push((resource, waiting)),
            }
        }
    }

    fn answer_usable(&mut self, answer: &Result<(), String>) {
        for waiting in self.wait_usable.drain(..) {
            let _ = waiting.send(answer.clone());
        }
    }

    fn send(&self, message: NodeMessage) {
        if let Some(session) = &self.session {
            session.send(message);
        }
    }

    fn request_access(&mut self, resource: ResourceId, queried: Option<Fqdn>) {
        let Some(session) = self.session.clone() else {
            return self.engine.handle_access_reply(resource, None, clock::now());
        };
        let done = self.done.clone();
        tokio::spawn(async move {
            let reply = session.request_access(resource, queried).await;
            let _ = done.send(Done::Access(resource, reply.map(Box::new))).await;
        });
    }

    fn resolve(&self, host: Fqdn) {
        let done = self.done.clone();
        tokio::spawn(async move {
            let mut addresses: Vec<IpAddr> = match tokio::net::lookup_host((host.as_str(), 0)).await {
                Ok(found) => found.map(|addr| addr.ip()).collect(),
                Err(error) => {
                    tracing::debug!(%host, %error, "a resource's target can't be resolved");
                    Vec::new()
                }
            };
            addresses.dedup();
            let _ = done.send(Done::Resolved(host, addresses)).await;
        });
    }

    fn query_usage(&self) {
        let (lane, done) = (Arc::clone(&self.lane), self.done.clone());
        tokio::spawn(async move {
            if let Some(status) = lane_status(lane).await {
                let _ = done.send(Done::Usage(status.in_use)).await;
            }
        });
    }

    fn done(&mut self, done: Done) {
        let now = clock::now();
        match done {
            Done::Access(resource, reply) => {
                self.engine.handle_access_reply(resource, reply.map(|reply| *reply), now);
            }
            Done::Resolved(host, addresses) => {
                if addresses.is_empty()
                    && let Some(unsaid) = self.log.unresolved.admit(now)
                {
                    tracing::warn!(%host, unsaid, "a resource's target can't be resolved");
                }
                self.engine.handle_resolved(&host, addresses, now);
            }
            Done::Usage(in_use) => self.engine.handle_usage(&in_use, now),
        }
    }

    /// A burst, such as a miss for each new connection, is one batch for the engine.
    fn lane_events(&mut self, first: LaneEvent, more: &mut mpsc::UnboundedReceiver<LaneEvent>) {
        self.lane_event(first);
        for _ in 1..BATCH {
            let Ok(event) = more.try_recv() else { return };
            self.lane_event(event);
        }
    }

    /// A thousand grants in a row are one batch for the engine, and make one table.
    async fn session_events(&mut self, first: SessionEvent, more: &mut mpsc::Receiver<SessionEvent>) {
        self.session_event(first).await;
        for _ in 1..BATCH {
            let Ok(event) = more.try_recv() else { return };
            if !matches!(event, SessionEvent::Message(_)) {
                // What was said in one session is done before the next.
                self.pump();
            }
            self.session_event(event).await;
        }
    }

    fn lane_event(&mut self, event: LaneEvent) {
        match event {
            LaneEvent::Miss(miss) => {
                self.misses.fetch_sub(1, Ordering::Relaxed);
                self.engine.handle_miss(miss, clock::now());
            }
            LaneEvent::Applied { generation, cut } => self.engine.handle_applied(generation, &cut),
            // The lane's events are sorted before they come here.
            LaneEvent::Stun(..) => {}
            LaneEvent::FlowNews => {
                if let Some(recorder) = &self.recorder {
                    recorder.handle_news();
                }
            }
            LaneEvent::Failed(why) => {
                tracing::error!(why, "no packet passes any more");
                self.fail(format!("no packet passes any more: {why}; run 'postern down' and 'postern up'"));
            }
        }
    }

    fn fail(&mut self, problem: String) {
        self.is_stuck = true;
        self.answer_usable(&Err(problem.clone()));
        self.problem = Some(problem);
    }

    async fn session_event(&mut self, event: SessionEvent) {
        match event {
            SessionEvent::Connected(session, told) => {
                if self.session.is_some() {
                    // A better connection took its place.
                    self.end_session();
                    self.engine.handle_disconnected();
                }
                self.session = Some(session);
                self.tell_reach_anew(&told);
                self.tell_posture_anew(&told.posture);
            }
            SessionEvent::Message(message) => self.message(message).await,
            SessionEvent::Disconnected(why) => {
                self.end_session();
                self.engine.handle_disconnected();
                if let Some(unsaid) = self.log.disconnected.admit(clock::now()) {
                    tracing::warn!(why, unsaid, "not connected to the coordinator; trying again");
                }
                self.problem = Some(format!("not connected to the coordinator: {why}; trying again"));
            }
            SessionEvent::Evicted(eviction) => {
                self.end_session();
                self.is_evicted = true;
                self.engine.handle_evicted();
                tracing::error!(why = %eviction, "the coordinator ended the session for good");
                self.fail(eviction.to_string());
            }
        }
    }

    async fn message(&mut self, message: CoordinatorMessage) {
        match &message {
            CoordinatorMessage::Welcome(welcome) => {
                if let Err(error) = welcome.check() {
                    tracing::error!(%error, "the coordinator's welcome can't be followed");
                    return self.fail(format!("the coordinator's welcome can't be followed: {error}"));
                }
                if let Err(error) = self.machine.configure(self.state.path(), welcome, &self.dns).await {
                    tracing::error!(error = format!("{error:#}"), "the machine can't be set up");
                    return self.fail(format!("{error:#}"));
                }
                (self.problem, self.is_stuck) = (None, false);
                self.renew_certificate_at = Some(clock::now() + welcome.renew_certificate_in);
                if welcome.site.is_some() {
                    self.record_activity(welcome.device);
                }
                self.want_checks(&welcome.checks);
                self.set_relays(&welcome.relays, welcome.relay_pass);
                self.welcome = Some(Welcome {
                    catalogue: Vec::new(),
                    granted: Vec::new(),
                    installed: Vec::new(),
                    checks: Vec::new(),
                    ..(**welcome).clone()
                });
            }
            CoordinatorMessage::Certificate { certificate, renew_in } => {
                if let Err(error) = self.keep_certificate(certificate.clone()) {
                    tracing::error!(error = format!("{error:#}"), "the fresh certificate can't be kept");
                }
                self.renew_certificate_at = Some(clock::now() + *renew_in);
            }
            CoordinatorMessage::ActivityRecorded { spool, up_to } => {
                if let Some(recorder) = &self.recorder {
                    recorder.handle_recorded(*spool, *up_to);
                }
            }
            CoordinatorMessage::Checks { checks } => self.want_checks(checks),
            CoordinatorMessage::Relays { relays, relay_pass } => self.set_relays(relays, *relay_pass),
            CoordinatorMessage::Evicted { .. } => self.is_evicted = true,
            _ => {}
        }
        let is_welcome = matches!(message, CoordinatorMessage::Welcome(_));
        let has_names = is_welcome || matches!(message, CoordinatorMessage::Catalogue { .. });
        self.engine.handle_message(message, clock::now());
        if has_names {
            let resources = self.engine.resources(clock::now());
            let told = self.machine.set_aliases(resources.into_iter().flat_map(|held| held.entry.aliases).collect());
            if is_welcome {
                // Whoever waits also waits for the machine's resolver; the node does not.
                let waiting = std::mem::take(&mut self.wait_usable);
                tokio::spawn(async move {
                    told.await;
                    for waiting in waiting {
                        let _ = waiting.send(Ok(()));
                    }
                });
            }
        }
    }

    /// This node is a gateway: it tells of the flows that it carries, in each session.
    fn record_activity(&mut self, device: DeviceId) {
        if self.recorder.is_none() {
            let (dir, lane) = (self.state.path().join(activity::DIR), Arc::clone(&self.lane));
            match Recorder::start(dir, device, self.activity_spool, move || lane.take_flow_news()) {
                Ok(recorder) => self.recorder = Some(recorder),
                Err(error) => tracing::error!(%error, "the flows through this gateway are not recorded"),
            }
        }
        if let (Some(recorder), Some(session)) = (&self.recorder, self.session.clone()) {
            recorder.set_session(Some(Box::new(move |message| session.send(message))));
        }
    }

    fn end_session(&mut self) {
        self.session = None;
        if let Some(reach) = &self.reach {
            reach.set_connected(false);
        }
        if let Some(recorder) = &self.recorder {
            recorder.set_session(None);
        }
    }

    fn renew_certificate(&self) {
        let request = || -> Result<Vec<u8>> {
            let key =
                rcgen::KeyPair::from_pem(&self.identity.borrow().device_key).context("the device key is damaged")?;
            Ok(rcgen::CertificateParams::default().serialize_request(&key)?.der().to_vec())
        };
        match request() {
            Ok(csr) => self.send(NodeMessage::RenewCertificate { csr }),
            Err(error) => tracing::error!(error = format!("{error:#}"), "the certificate can't be renewed"),
        }
    }

    fn keep_certificate(&self, certificate: Vec<u8>) -> Result<()> {
        let renewed = Identity { certificate, ..(**self.identity.borrow()).clone() };
        self.state.set_identity(&renewed)?;
        self.identity.send_replace(Arc::new(renewed));
        Ok(())
    }
}

/// Asks the lane, which answers when it has a moment.
async fn lane_status(lane: Arc<LaneHandle>) -> Option<LaneStatus> {
    tokio::task::spawn_blocking(move || lane.status()).await.ok().flatten()
}
