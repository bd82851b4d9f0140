//! The task: asks servers where this node is seen and how far they are, and follows what that shows.
//!
//! A round of questions is asked at the start, when the network has changed, when the connection to the home is lost, and every
//! five minutes while there is a session. In between, one question every 20 seconds keeps the NAT's mapping of the WireGuard socket,
//! so that the addresses that peers were told stay true; only behind a NAT and only while somebody may use them. That is less than
//! ten bytes a second.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex},
    time::Duration,
};

use postern_dataplane::clock;
use postern_engine::{Nat64, RelayPeer};
use postern_model::{Candidate, Moment, RelayId, candidate::CandidateKind, token::HostPort};
use tokio::sync::{mpsc, watch};

use super::{
    Heard, Nat, News, PortMapping, ReachConfig, ReachEvent, ReachStatus, RelayRow, Shared, connect, home, observed,
    portmap::{self, Place},
    questions::{Answer, Questions, Server},
    relay::RelayEvent,
    relays::Relays,
    servers,
};
use crate::{
    control::Transport,
    log_limit::LogLimit,
    os::{nat64, routes},
};

/// When the questions of a round are asked, and asked again of those that have not answered.
const ASKED_AT: [Duration; 4] =
    [Duration::ZERO, Duration::from_millis(250), Duration::from_millis(750), Duration::from_millis(1750)];
/// When a round is over, whoever has answered.
const ROUND: Duration = Duration::from_secs(3);
/// A home is chosen among those that have answered by then; before, only once all have.
const FIRST_CHOICE: Duration = Duration::from_millis(500);
/// Between two rounds.
const EVERY: Duration = Duration::from_secs(300);
/// Between two questions that keep the NAT's mapping; NATs forget it after 30 seconds at the earliest (RFC 4787 asks for two minutes).
const KEEP: Duration = Duration::from_secs(20);
/// At least so often it is looked whether something is due.
const TICK: Duration = Duration::from_secs(5);
/// Of relays whose distance can't be measured by UDP, so many are tried at once for which answers first.
const TRIED: usize = 5;

/// What the task listens to.
pub(super) struct Inputs {
    pub(super) news: mpsc::UnboundedReceiver<News>,
    pub(super) peers: watch::Receiver<Vec<RelayPeer>>,
    pub(super) heard: mpsc::Receiver<Heard>,
}

/// What comes back from work that the task has started.
enum Found {
    Servers(u64, Vec<(Server, SocketAddr)>),
    Nat64(u64, Option<Nat64>),
    Router(u64, Option<Place>),
    Nearest(u64, RelayId),
}

/// A round of questions.
struct Round {
    begun: Moment,
    /// How many times they were asked.
    asked: usize,
    servers: Vec<(Server, SocketAddr)>,
}

struct Task {
    shared: Arc<Shared>,
    coordinator: HostPort,
    events: mpsc::Sender<ReachEvent>,
    found: mpsc::Sender<Found>,
    relays: Relays,
    questions: Questions,
    /// The latest answer of each address since the network changed.
    answers: BTreeMap<SocketAddr, Answer>,
    round: Option<Round>,
    /// Whether a round begins as soon as it is known where the servers are.
    is_round_near: bool,
    next_round: Moment,
    next_keep: Moment,
    /// Counts networks: what was found out about an earlier one counts for nothing.
    network: u64,
    host: Vec<Candidate>,
    told: Vec<Candidate>,
    mapping: PortMapping,
    place: Option<Place>,
    home: Option<RelayId>,
    told_home: Option<RelayId>,
    connected: BTreeMap<RelayId, Transport>,
    has_session: bool,
    is_warm: bool,
}

pub(super) async fn run(config: ReachConfig, mut inputs: Inputs, events: mpsc::Sender<ReachEvent>) {
    let ReachConfig { identity, coordinator, wireguard_port, lanes, outlet } = config;
    let (network_changes, log) = (watch::Sender::new(()), Mutex::new(LogLimit::default()));
    let shared = Arc::new(Shared { identity, outlet, lanes, network_changes, log });
    let (relay_events, mut from_relays) = mpsc::channel(64);
    let (found, mut from_work) = mpsc::channel(16);
    let mut portmap = portmap::Keeper::start(wireguard_port);
    let now = clock::now();
    let mut task = Task {
        relays: Relays::new(Arc::clone(&shared), relay_events),
        shared,
        coordinator,
        events,
        found,
        questions: Questions::default(),
        answers: BTreeMap::new(),
        round: None,
        is_round_near: false,
        next_round: now,
        next_keep: now,
        network: 0,
        host: Vec::new(),
        told: Vec::new(),
        mapping: PortMapping::NotNeeded,
        place: None,
        home: None,
        told_home: None,
        connected: BTreeMap::new(),
        has_session: false,
        is_warm: false,
    };
    loop {
        let wait = task.wait(clock::now());
        tokio::select! {
            news = inputs.news.recv() => match news {
                Some(news) => {
                    if matches!(news, News::NetworkChanged) {
                        portmap.begin_anew();
                    }
                    task.hear(news).await;
                }
                None => break,
            },
            Ok(()) = inputs.peers.changed() => {
                let peers = inputs.peers.borrow_and_update().clone();
                task.relays.set_peers(peers, clock::now());
            }
            Some((from, datagram, at)) = inputs.heard.recv() => task.answered(from, &datagram, at).await,
            Some(event) = from_relays.recv() => task.relay_event(event).await,
            Some(found) = from_work.recv() => task.learn(found).await,
            Ok(()) = portmap.state().changed() => {
                task.mapping = *portmap.state().borrow_and_update();
                task.tell_candidates().await;
            }
            () = tokio::time::sleep(wait) => {}
        }
        task.timers(clock::now()).await;
        portmap.want(task.place.filter(|_| task.needs_mapping()));
    }
    drop(task);
    portmap.stop().await;
}

impl Task {
    fn wait(&self, now: Moment) -> Duration {
        let round = self.round.as_ref().map(|round| {
            let next = ASKED_AT.get(round.asked).copied().unwrap_or(ROUND);
            let choice = (now.since(round.begun) < FIRST_CHOICE).then_some(FIRST_CHOICE);
            round.begun + choice.map_or(next, |choice| choice.min(next))
        });
        let keep = self.keeps().then_some(self.next_keep);
        let next = round.into_iter().chain(keep).min();
        next.map_or(TICK, |next| next.since(now).min(TICK))
    }

    async fn timers(&mut self, now: Moment) {
        self.relays.handle_timeout(now);
        self.go_on(now).await;
        if !self.is_asking() && self.has_session && self.next_round <= now {
            self.begin_round(now);
        }
        if self.keeps() && self.next_keep <= now {
            self.next_keep = now + KEEP;
            self.keep_mapping(now);
        }
    }

    async fn hear(&mut self, news: News) {
        let now = clock::now();
        match news {
            News::Relays(relays, own_pass) => {
                if self.relays.set_entries(relays, own_pass, now) {
                    self.choose_home(true).await;
                    self.begin_round(now);
                }
            }
            News::Host(candidates) => {
                let is_first = self.host.is_empty() && self.network == 0;
                self.host = candidates;
                if is_first {
                    self.look_around();
                    self.begin_round(now);
                } else {
                    self.tell_candidates().await;
                }
            }
            News::NetworkChanged => {
                self.network += 1;
                self.answers.clear();
                self.shared.network_changes.send_replace(());
                self.look_around();
                self.begin_round(now);
            }
            News::Connected(has_session) => self.has_session = has_session,
            News::Warm(is_warm) => self.is_warm = is_warm,
            News::Status(answer) => drop(answer.send(self.status())),
        }
    }

    /// Where the router is, and whether there is NAT64; found out elsewhere, since it takes its time.
    fn look_around(&self) {
        let (found, network) = (self.found.clone(), self.network);
        tokio::spawn(async move {
            let _ = found.send(Found::Router(network, router().await)).await;
            let _ = found.send(Found::Nat64(network, nat64::find().await)).await;
        });
    }

    /// Whoever answers STUN is asked, once its address is known.
    fn begin_round(&mut self, now: Moment) {
        (self.next_round, self.is_round_near) = (now + EVERY, true);
        let relays = self.relays.entries().map(|entry| (Server::Relay(entry.id), entry.address.clone()));
        let servers = relays.chain([(Server::Coordinator, self.coordinator.clone())]).collect();
        let (found, network) = (self.found.clone(), self.network);
        tokio::spawn(async move {
            let _ = found.send(Found::Servers(network, servers::addresses(servers).await)).await;
        });
    }

    async fn learn(&mut self, found: Found) {
        let now = clock::now();
        match found {
            Found::Servers(network, mut servers) if network == self.network => {
                // The coordinator has a relay at its own address, which counts as that relay.
                let mut seen = BTreeSet::new();
                servers.retain(|(_, addr)| seen.insert(*addr));
                self.round = Some(Round { begun: now, asked: 0, servers });
                self.is_round_near = false;
                self.go_on(now).await;
            }
            Found::Router(network, place) if network == self.network => self.place = place,
            Found::Nat64(network, nat64) if network == self.network => {
                let _ = self.events.send(ReachEvent::Nat64(nat64)).await;
                if nat64.is_some() {
                    // Now IPv4 addresses can be asked that could not be before.
                    self.begin_round(now);
                }
            }
            Found::Nearest(network, relay) if network == self.network && self.home.is_none() => {
                self.set_home(Some(relay)).await;
            }
            // Of a network that this machine is not in any more.
            _ => {}
        }
    }

    fn is_asking(&self) -> bool {
        self.round.is_some() || self.is_round_near
    }

    /// Goes on with a round of questions.
    async fn go_on(&mut self, now: Moment) {
        let Some(round) = &mut self.round else { return };
        let passed = now.since(round.begun);
        let waiting: Vec<_> = round
            .servers
            .iter()
            .copied()
            .filter(|(_, addr)| self.answers.get(addr).is_none_or(|answer| !round.is_of(answer)))
            .collect();
        let due = ASKED_AT.iter().filter(|at| **at <= passed).count();
        let is_over = passed >= ROUND || waiting.is_empty();
        let is_due = !is_over && due > round.asked;
        round.asked = round.asked.max(due);
        if is_due {
            self.ask(&waiting, now);
        }
        if is_over || passed >= FIRST_CHOICE {
            self.choose_home(is_over).await;
        }
        if is_over {
            self.round = None;
            self.tell_candidates().await;
        }
    }

    fn ask(&mut self, servers: &[(Server, SocketAddr)], now: Moment) {
        let mut datagrams = Vec::new();
        for (server, addr) in servers {
            let mut random = [0; 12];
            if getrandom::fill(&mut random).is_ok() {
                datagrams.push((*addr, self.questions.ask(*server, *addr, random, now)));
            }
        }
        self.shared.lanes.send(datagrams);
    }

    async fn answered(&mut self, from: SocketAddr, datagram: &[u8], at: Moment) {
        let Some(answer) = self.questions.answered(from, datagram, at) else { return };
        let before = self.answers.insert(answer.addr, answer);
        if before.is_some_and(|before| before.observed != answer.observed) {
            // The NAT has a new mapping for this node, and what the other servers saw is gone.
            self.answers.retain(|addr, _| *addr == answer.addr);
            if !self.is_asking() {
                self.begin_round(at);
            }
        }
        self.tell_candidates().await;
        self.go_on(at).await;
    }

    /// Whether the NAT's mapping is to be kept between rounds.
    fn keeps(&self) -> bool {
        self.is_warm && self.answers.values().any(|answer| !self.is_own(answer.observed.ip()))
    }

    fn is_own(&self, ip: IpAddr) -> bool {
        self.host.iter().any(|candidate| candidate.addr.ip() == ip)
    }

    fn keep_mapping(&mut self, now: Moment) {
        let at_home = self.home.map(Server::Relay);
        // One server of each family that has a NAT.
        let mut one = BTreeMap::new();
        for answer in self.answers.values().filter(|answer| !self.is_own(answer.observed.ip())) {
            let is_home = Some(answer.server) == at_home;
            let place = one.entry(answer.addr.is_ipv6()).or_insert((answer.server, answer.addr));
            if is_home {
                *place = (answer.server, answer.addr);
            }
        }
        let servers: Vec<_> = one.into_values().collect();
        self.ask(&servers, now);
    }

    /// `is_final` when no more answers are waited for.
    async fn choose_home(&mut self, is_final: bool) {
        let times = self.times();
        let current = self.home.filter(|home| self.relays.entry(*home).is_some());
        let mut entries = self.relays.entries().map(|entry| entry.id);
        let chosen = match (entries.next(), entries.next()) {
            (None, _) => None,
            // There is nothing to choose.
            (Some(only), None) => Some(only),
            _ => home::choose(current, &times).or(current),
        };
        drop(entries);
        self.set_home(chosen).await;
        if chosen.is_none() && is_final && self.round.is_some() {
            self.try_relays();
        }
    }

    /// The round-trip time to each relay that has answered.
    fn times(&self) -> BTreeMap<RelayId, Duration> {
        let mut times = BTreeMap::new();
        for answer in self.answers.values() {
            let at = self.relays.entries().filter(|entry| match answer.server {
                Server::Relay(relay) => relay == entry.id,
                Server::Coordinator => false,
            });
            for entry in at {
                let time = times.entry(entry.id).or_insert(answer.round_trip);
                *time = (*time).min(answer.round_trip);
            }
        }
        times
    }

    /// No UDP comes back from any relay: the one to which a connection is made first is the nearest.
    fn try_relays(&self) {
        for entry in self.relays.entries().take(TRIED).cloned() {
            let (shared, found, network) = (Arc::clone(&self.shared), self.found.clone(), self.network);
            tokio::spawn(async move {
                let identity = Arc::clone(&shared.identity.borrow());
                let Ok(way) = connect::way(&entry, &identity) else { return };
                if let Ok(connected) = way.connect(true).await {
                    let _ = found.send(Found::Nearest(network, entry.id)).await;
                    connected.say_goodbye().await;
                }
            });
        }
    }

    async fn set_home(&mut self, home: Option<RelayId>) {
        if self.home != home {
            self.home = home;
            self.relays.set_home(home, clock::now());
        }
        self.tell_home().await;
    }

    /// Peers hear of a home once this node is there. While a connection is made anew, they are not told to go elsewhere.
    async fn tell_home(&mut self) {
        let there = self.home.filter(|home| self.connected.contains_key(home));
        if (there.is_some() || self.home.is_none()) && there != self.told_home {
            self.told_home = there;
            let _ = self.events.send(ReachEvent::Home(there)).await;
        }
    }

    async fn relay_event(&mut self, event: RelayEvent) {
        match event {
            RelayEvent::Connected(relay, transport, took) => {
                tracing::debug!(%relay, %transport, ?took, "at a relay");
                self.connected.insert(relay, transport);
                self.tell_home().await;
            }
            RelayEvent::Disconnected(relay) => {
                self.connected.remove(&relay);
                if self.home == Some(relay) && !self.is_asking() {
                    // It may be gone: whoever is there answers.
                    self.answers.retain(|_, answer| answer.server != Server::Relay(relay));
                    self.begin_round(clock::now());
                }
            }
        }
    }

    fn nat(&self) -> Nat {
        let own: Vec<_> = self.host.iter().map(|candidate| candidate.addr.ip()).collect();
        observed::nat(self.answers.values(), &own, false)
    }

    /// A machine with an address that others see needs no router's help.
    fn needs_mapping(&self) -> bool {
        let is_private = self.place.is_some_and(|place| observed::is_private(place.own.into()));
        is_private && matches!(self.nat(), Nat::EndpointIndependent | Nat::Symmetric | Nat::SomeKind)
    }

    async fn tell_candidates(&mut self) {
        // Until somebody has answered since the network changed, what was told before is as good as nothing.
        if self.answers.is_empty() && self.is_asking() {
            return;
        }
        let mut candidates = observed::candidates(self.answers.values(), &self.host);
        if let PortMapping::Mapped { addr, .. } = self.mapping {
            candidates.retain(|candidate| candidate.addr != addr);
            candidates.push(Candidate { addr, kind: CandidateKind::Mapped });
        }
        if candidates != self.told {
            self.told.clone_from(&candidates);
            let _ = self.events.send(ReachEvent::Candidates(candidates)).await;
        }
    }

    fn status(&self) -> ReachStatus {
        let times = self.times();
        let row = |entry: &postern_wire::RelayEntry| RelayRow {
            id: entry.id,
            name: entry.name.clone(),
            address: entry.address.clone(),
            round_trip_ms: times.get(&entry.id).map(|time| time.as_secs_f64() * 1000.0),
            transport: self.connected.get(&entry.id).copied(),
            is_home: self.home == Some(entry.id),
        };
        let mut observed: Vec<_> = self.answers.values().map(|answer| answer.observed).collect();
        observed.sort_unstable();
        observed.dedup();
        ReachStatus {
            home: self.told_home.filter(|home| self.connected.contains_key(home)),
            relays: self.relays.entries().map(row).collect(),
            observed,
            nat: self.nat(),
            port_mapping: self.mapping,
        }
    }
}

impl Round {
    /// Whether an answer was given in this round.
    fn is_of(&self, answer: &Answer) -> bool {
        answer.at >= self.begun
    }
}

/// The default router, and this machine's address towards it.
async fn router() -> Option<Place> {
    let routes = routes::routes().await.ok()?;
    let best =
        routes.into_iter().filter(|route| route.is_default() && route.to.is_ipv4()).min_by_key(|route| route.metric)?;
    let Some(IpAddr::V4(gateway)) = best.gateway else { return None };
    let Some(IpAddr::V4(own)) = nat64::source_towards(gateway.into()) else { return None };
    Some(Place { gateway, own })
}
