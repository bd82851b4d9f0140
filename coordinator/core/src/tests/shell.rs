//! [`Shell`]: drives a core as the server does, with simulated time, made-up randomness, a disk that can fail, and nodes
//! that remember what they were told.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    net::SocketAddr,
    time::Duration,
};

use postern_model::{
    Candidate, DeviceId, Filter, GrantId, Moment, Posture, PublicKey, ResourceId, SecretBytes, Sha256, Timestamp,
    TokenId,
    audit::{Actor, AuditEvent},
    candidate::CandidateKind,
};
use postern_wire::{
    AccessReply, AccessRequest, CatalogueEntry, CoordinatorMessage, EnrolRefusal, Granted, Hello, NodeMessage,
};

use super::world;
use crate::{
    AccessTicket, Command, Core, CoreConfig, Effect, EnrolProof, Enrolment, Env, Foreseen, Proposal, Refusal, Touched,
};

/// When the tests begin.
pub(crate) const START: Timestamp = Timestamp::from_unix_millis(1_700_000_000_000);
pub(crate) const LEASE: Duration = Duration::from_secs(600);
pub(crate) const ACK_TIMEOUT: Duration = Duration::from_secs(5);
pub(crate) const REQUESTS_PER_DEVICE: usize = 4;

/// What was told, in the order in which it was.
#[derive(Debug)]
pub(crate) enum Told {
    Message(DeviceId, CoordinatorMessage),
    Answer(DeviceId, AccessReply),
    Close(DeviceId, u64, u32),
}

/// A node as it knows itself.
#[derive(Debug, Default)]
pub(crate) struct Node {
    pub(crate) connection: Option<u64>,
    pub(crate) catalogue: BTreeMap<ResourceId, CatalogueEntry>,
    pub(crate) held: BTreeMap<ResourceId, Granted>,
    /// What it was sent on this connection and has not acknowledged, in order.
    pub(crate) to_acknowledge: VecDeque<(GrantId, Filter)>,
    /// What it lets through as a gateway.
    pub(crate) in_force: BTreeMap<GrantId, Filter>,
}

pub(crate) struct Shell {
    pub(crate) core: Core,
    pub(crate) now: Timestamp,
    pub(crate) moment: Moment,
    /// Whether commits fail.
    pub(crate) disk_is_full: bool,
    pub(crate) audit: Vec<AuditEvent>,
    pub(crate) nodes: BTreeMap<DeviceId, Node>,
    pub(crate) told: Vec<Told>,
    tickets: HashMap<AccessTicket, (DeviceId, ResourceId)>,
    pub(crate) answers: HashMap<AccessTicket, AccessReply>,
    counter: u64,
}

impl Shell {
    pub(crate) fn new() -> Self {
        Self {
            core: Core::new(world(), config()),
            now: START,
            moment: Moment::from_boot(Duration::from_secs(100)),
            disk_is_full: false,
            audit: Vec::new(),
            nodes: BTreeMap::new(),
            told: Vec::new(),
            tickets: HashMap::new(),
            answers: HashMap::new(),
            counter: 0,
        }
    }

    /// A number that never was before.
    pub(crate) fn fresh(&mut self) -> u64 {
        self.counter += 1;
        self.counter
    }

    /// Proposes, commits, applies, carries out; `None` when the commit failed.
    pub(crate) fn try_transact<T, E>(
        &mut self,
        propose: impl FnOnce(&Core, &mut Env<'_>) -> Result<Proposal<T>, E>,
    ) -> Result<Option<T>, E> {
        let counter = &mut self.counter;
        let mut random = |bytes: &mut [u8]| {
            for chunk in bytes.chunks_mut(8) {
                *counter += 1;
                chunk.copy_from_slice(&scrambled(*counter).to_be_bytes()[..chunk.len()]);
            }
        };
        let proposal = propose(&self.core, &mut Env { now: self.now, moment: self.moment, random: &mut random })?;
        if !proposal.batch.changes.is_empty() {
            assert!(!proposal.batch.audit.is_empty(), "changes without an audit entry: {:?}", proposal.batch);
        }
        if !proposal.batch.audit.is_empty() {
            if self.disk_is_full {
                return Ok(None);
            }
            self.audit.extend(proposal.batch.audit.iter().cloned());
        }
        let outcome = self.core.apply(proposal, self.now, self.moment);
        Ok(Some(outcome))
    }

    pub(crate) fn transact<T>(&mut self, propose: impl FnOnce(&Core, &mut Env<'_>) -> Proposal<T>) -> Option<T> {
        let Ok(outcome) = self.try_transact(|core, env| Ok::<_, std::convert::Infallible>(propose(core, env)));
        self.carry_out();
        outcome
    }

    /// Panics when the disk is full.
    pub(crate) fn run(&mut self, command: &Command) -> Result<Touched, Refusal> {
        let done = self.try_transact(|core, env| core.propose_command(&Actor::AdminSocket, command, env));
        self.carry_out();
        done.map(|touched| touched.expect("the disk is not full"))
    }

    pub(crate) fn carry_out(&mut self) {
        let mut closed = Vec::new();
        while let Some(effect) = self.core.poll_effect() {
            match effect {
                Effect::Send { device, connection, message } => {
                    let node = self.nodes.entry(device).or_default();
                    if node.connection == Some(connection) {
                        node.take(&message);
                    }
                    self.told.push(Told::Message(device, message));
                }
                Effect::Answer(ticket, reply) => {
                    let (device, resource) = self.tickets.remove(&ticket).expect("answered once, after it was asked");
                    self.nodes.entry(device).or_default().take_answer(resource, &reply);
                    self.told.push(Told::Answer(device, reply.clone()));
                    self.answers.insert(ticket, reply);
                }
                Effect::Close { device, connection, code } => {
                    self.told.push(Told::Close(device, connection, code));
                    closed.push((device, connection));
                }
            }
        }
        for (device, connection) in closed {
            self.core.handle_disconnected(device, connection, self.moment);
            let node = self.nodes.entry(device).or_default();
            if node.connection == Some(connection) {
                *node = Node::default();
            }
        }
    }

    /// `None` when the commit failed. What comes of it was to be foreseen.
    pub(crate) fn enrol(&mut self, proof: &EnrolProof) -> Option<Result<Enrolment, EnrolRefusal>> {
        let foreseen = self.core.foresee_enrolment(proof, self.now);
        let is_known = self.core.state().tokens.contains_key(&proof.token);
        let outcome = self.transact(|core, env| core.propose_enrolment(proof, env))?;
        let came = match &outcome {
            Ok(enrolment) if enrolment.is_again => Foreseen::Again(enrolment.device),
            Ok(_) => Foreseen::New,
            Err(EnrolRefusal::Invalid) if is_known => Foreseen::Guess,
            Err(EnrolRefusal::Invalid) => Foreseen::Stranger,
            Err(_) => Foreseen::Refused,
        };
        assert_eq!(foreseen, came);
        Some(outcome)
    }

    /// A connection from another process than before.
    pub(crate) fn connect(&mut self, device: DeviceId) -> u64 {
        let instance = u128::from(self.fresh()).to_be_bytes();
        self.connect_as(device, instance)
    }

    /// `None` in the node's connection when the commit failed.
    pub(crate) fn connect_as(&mut self, device: DeviceId, instance: [u8; 16]) -> u64 {
        let connection = self.fresh();
        let (hello, from) = (hello(instance), "192.0.2.1:5000".parse().unwrap());
        let Ok(done) = self.try_transact(|core, env| {
            Ok::<_, std::convert::Infallible>(core.propose_connect(device, &hello, from, env))
        });
        if done.is_some() {
            self.carry_out_connect(device, connection, &hello, from);
        }
        connection
    }

    pub(crate) fn carry_out_connect(&mut self, device: DeviceId, connection: u64, hello: &Hello, from: SocketAddr) {
        let (renew_in, now) = (Duration::from_secs(3600), (self.now, self.moment));
        self.core.handle_connected(device, connection, hello, from, renew_in, now);
        self.nodes.entry(device).or_default().connection = Some(connection);
        self.carry_out();
    }

    pub(crate) fn disconnect(&mut self, device: DeviceId) {
        if let Some(connection) = self.nodes.entry(device).or_default().connection.take() {
            self.core.handle_disconnected(device, connection, self.moment);
            self.carry_out();
        }
    }

    pub(crate) fn message(&mut self, device: DeviceId, message: NodeMessage) {
        let connection = self.nodes[&device].connection.expect("it is connected");
        self.core.handle_message(device, connection, message, (self.now, self.moment));
        self.carry_out();
    }

    /// The gateway puts the oldest grant in force that it was sent.
    pub(crate) fn acknowledge_one(&mut self, gateway: DeviceId) -> Option<GrantId> {
        let node = self.nodes.get_mut(&gateway)?;
        let (grant, filter) = node.to_acknowledge.pop_front()?;
        node.in_force.insert(grant, filter);
        self.message(gateway, NodeMessage::GrantInstalled { grant, cut: 0 });
        Some(grant)
    }

    pub(crate) fn acknowledge(&mut self, gateway: DeviceId) {
        while self.acknowledge_one(gateway).is_some() {}
    }

    /// Asks, and goes on without waiting for the answer; `None` when the decision could not be recorded.
    pub(crate) fn ask(&mut self, device: DeviceId, resource: ResourceId) -> Option<AccessTicket> {
        self.ask_by(device, resource, None)
    }

    /// The same, by a DNS name.
    pub(crate) fn ask_by(
        &mut self,
        device: DeviceId,
        resource: ResourceId,
        name: Option<&str>,
    ) -> Option<AccessTicket> {
        let request = AccessRequest { resource, queried: name.map(|name| name.parse().unwrap()) };
        let Ok(ticket) = self
            .try_transact(|core, env| Ok::<_, std::convert::Infallible>(core.propose_access(device, &request, env)));
        if let Some(ticket) = ticket {
            self.tickets.insert(ticket, (device, resource));
        }
        self.carry_out();
        ticket
    }

    pub(crate) fn due_in(&self) -> Option<Duration> {
        self.core.poll_timeout(self.now, self.moment)
    }

    /// Time passes, and nobody looks at what is due.
    pub(crate) fn pass(&mut self, duration: Duration) {
        (self.now, self.moment) = (self.now.plus(duration), self.moment + duration);
    }

    /// Time passes, and what is due happens when it is due.
    pub(crate) fn wait(&mut self, duration: Duration) {
        let mut left = duration;
        while let Some(due) = self.due_in().filter(|due| *due <= left) {
            self.pass(due);
            left -= due;
            if self.transact(Core::propose_timeout).is_none() {
                break;
            }
            let is_done = self.due_in().is_none_or(|next| !next.is_zero());
            assert!(is_done, "nothing was done about what is due at {:?}", self.now);
        }
        self.pass(left);
    }

    /// What one device was told since the last [`Self::forget`], without `Welcome`s.
    pub(crate) fn told_to(&self, device: DeviceId) -> Vec<&CoordinatorMessage> {
        let messages = self.told.iter().filter_map(|told| match told {
            Told::Message(to, message) if *to == device => Some(message),
            _ => None,
        });
        messages.filter(|message| !matches!(message, CoordinatorMessage::Welcome(_))).collect()
    }

    pub(crate) fn forget(&mut self) {
        self.told.clear();
        self.audit.clear();
    }

    /// The actions of the audit entries since the last [`Self::forget`].
    pub(crate) fn actions(&self) -> Vec<&str> {
        self.audit.iter().map(|event| event.action.as_str()).collect()
    }

    /// A proof for a token that [`Self::token`] made, from a device with keys of its own.
    pub(crate) fn proof(&mut self, token: TokenId, secret_hash: Sha256) -> EnrolProof {
        let byte = self.fresh();
        let key = |label: u8| {
            let mut key = [label; 32];
            key[..8].copy_from_slice(&byte.to_be_bytes());
            key
        };
        EnrolProof {
            token,
            secret_hash,
            device_key: Sha256(key(1)),
            wireguard: PublicKey(key(2)),
            posture: posture(),
            from: "192.0.2.1:5000".parse().unwrap(),
        }
    }
}

impl Node {
    fn take(&mut self, message: &CoordinatorMessage) {
        match message {
            CoordinatorMessage::Welcome(welcome) => {
                self.catalogue = welcome.catalogue.iter().map(|entry| (entry.id, entry.clone())).collect();
                self.held = welcome.granted.iter().map(|granted| (granted.resource, granted.clone())).collect();
                let installed = welcome.installed.iter().map(|install| (install.grant, install.filter.clone()));
                self.to_acknowledge = installed.collect();
                self.in_force.retain(|id, _| welcome.installed.iter().any(|install| install.grant == *id));
            }
            CoordinatorMessage::Catalogue { put, removed, .. } => {
                self.catalogue.retain(|id, _| !removed.contains(id));
                self.catalogue.extend(put.iter().map(|entry| (entry.id, entry.clone())));
            }
            CoordinatorMessage::Granted(granted) => drop(self.held.insert(granted.resource, (**granted).clone())),
            CoordinatorMessage::InstallGrant(install) => {
                self.to_acknowledge.push_back((install.grant, install.filter.clone()));
            }
            CoordinatorMessage::RevokeGrant { grant, .. } => {
                self.held.retain(|_, held| held.grant != *grant);
                self.to_acknowledge.retain(|(id, _)| id != grant);
                self.in_force.remove(grant);
            }
            CoordinatorMessage::Evicted { .. } => *self = Self { connection: self.connection, ..Self::default() },
            CoordinatorMessage::ActivityRecorded { .. }
            | CoordinatorMessage::Certificate { .. }
            | CoordinatorMessage::Checks { .. }
            | CoordinatorMessage::Relays { .. }
            | CoordinatorMessage::StillThere {}
            | CoordinatorMessage::Unknown { .. } => {}
        }
    }

    fn take_answer(&mut self, resource: ResourceId, reply: &AccessReply) {
        match reply {
            AccessReply::Granted(granted) => drop(self.held.insert(resource, granted.clone())),
            AccessReply::Denied { reason } if reason.is_transient() => {}
            AccessReply::Denied { .. } => drop(self.held.remove(&resource)),
        }
    }
}

pub(crate) fn config() -> CoreConfig {
    CoreConfig {
        lease: LEASE,
        ack_timeout: ACK_TIMEOUT,
        requests_per_device: REQUESTS_PER_DEVICE,
        psk_master: SecretBytes::new([9; 32]),
        relays: None,
    }
}

pub(crate) fn posture() -> Posture {
    let text = str::to_owned;
    Posture {
        hostname: text("laptop"),
        os: text("Debian"),
        kernel: text("6.1"),
        version: text("0.1.0"),
        ..Posture::default()
    }
}

pub(crate) fn hello(instance: [u8; 16]) -> Hello {
    let candidates = vec![Candidate { addr: "198.51.100.7:51820".parse().unwrap(), kind: CandidateKind::Host }];
    Hello { instance, wireguard_port: 51820, candidates, relay: None, posture: posture() }
}

/// Ids in no order that a test could rely on (splitmix64, Steele et al. 2014).
fn scrambled(n: u64) -> u64 {
    let mut z = n.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
