//! The coordinator: its real core, driven as the server drives it. Every commit succeeds; it can crash and come back.

use std::{
    collections::{BTreeMap, VecDeque},
    net::SocketAddr,
    time::Duration,
};

use postern_core::{AccessTicket, Command, Core, CoreConfig, Effect, Env, Proposal, Refusal, State};
use postern_model::{
    Candidate, Moment, Posture, ResourceId, SecretBytes, Timestamp, audit::Actor, candidate::CandidateKind,
};
use postern_wire::{AccessReply, AccessRequest, CoordinatorMessage, Hello, NodeMessage};

use crate::{
    random::Random,
    setting::{self, At, LEASE},
};

/// Wall-clock time at the start of the simulation, in milliseconds.
const START: i64 = 1_700_000_000_000;

/// What leaves the coordinator.
#[derive(Debug)]
pub(crate) enum Said {
    /// In the session.
    Message(u64, CoordinatorMessage),
    /// To an access request.
    Answer(At, u64, ResourceId, Box<AccessReply>),
    /// The connection is closed with this code.
    Close(u64, u32),
}

/// The coordinator.
#[derive(Debug)]
pub(crate) struct Coordinator {
    core: Core,
    random: Random,
    is_running: bool,
    asked: BTreeMap<AccessTicket, (At, u64, ResourceId)>,
    said: VecDeque<Said>,
}

fn config() -> CoreConfig {
    CoreConfig {
        lease: LEASE,
        ack_timeout: Duration::from_secs(5),
        requests_per_device: 64,
        psk_master: SecretBytes::new([7; 32]),
        relays: None,
    }
}

fn timestamp(now: Duration) -> Timestamp {
    Timestamp::from_unix_millis(START + i64::try_from(now.as_millis()).expect("simulations are short"))
}

impl Coordinator {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            core: Core::new(setting::world(), config()),
            random: Random::new(seed),
            is_running: true,
            asked: BTreeMap::new(),
            said: VecDeque::new(),
        }
    }

    pub(crate) fn state(&self) -> &State {
        self.core.state()
    }

    fn propose<P>(&mut self, propose: impl FnOnce(&Core, &mut Env<'_>) -> P, now: Duration) -> P {
        let random = &mut self.random;
        let mut fill = |bytes: &mut [u8]| random.fill(bytes);
        propose(&self.core, &mut Env { now: timestamp(now), moment: Moment::from_boot(now), random: &mut fill })
    }

    fn transact<T>(&mut self, propose: impl FnOnce(&Core, &mut Env<'_>) -> Proposal<T>, now: Duration) -> T {
        let proposal = self.propose(propose, now);
        self.core.apply(proposal, timestamp(now), Moment::from_boot(now))
    }

    fn pump(&mut self) {
        while let Some(effect) = self.core.poll_effect() {
            self.said.extend(match effect {
                Effect::Send { connection, message, .. } => Some(Said::Message(connection, message)),
                Effect::Close { connection, code, .. } => Some(Said::Close(connection, code)),
                Effect::Answer(ticket, reply) => self
                    .asked
                    .remove(&ticket)
                    .map(|(at, connection, resource)| Said::Answer(at, connection, resource, Box::new(reply))),
            });
        }
    }

    pub(crate) fn poll_said(&mut self) -> Option<Said> {
        self.said.pop_front()
    }

    /// A node has connected and sent its hello. Nobody who is revoked comes so far.
    pub(crate) fn connected(&mut self, at: At, connection: u64, outside: SocketAddr, now: Duration) {
        let device = setting::device_id(at);
        if !self.core.authorize_device(device, &postern_model::Sha256([u8::try_from(at).expect("few nodes"); 32])) {
            self.said.push_back(Said::Close(connection, postern_wire::close::UNAUTHORIZED));
            return;
        }
        let hello = Hello {
            instance: [1; 16],
            wireguard_port: outside.port(),
            candidates: vec![Candidate { addr: outside, kind: CandidateKind::Host }],
            relay: None,
            posture: Posture::default(),
        };
        self.transact(|core, env| core.propose_connect(device, &hello, outside, env), now);
        let renew = Duration::from_secs(24 * 3600);
        let now = (timestamp(now), Moment::from_boot(now));
        self.core.handle_connected(device, connection, &hello, outside, renew, now);
        self.pump();
    }

    pub(crate) fn disconnected(&mut self, at: At, connection: u64, now: Duration) {
        self.core.handle_disconnected(setting::device_id(at), connection, Moment::from_boot(now));
        self.pump();
    }

    pub(crate) fn message(&mut self, at: At, connection: u64, message: NodeMessage, now: Duration) {
        self.core.handle_message(setting::device_id(at), connection, message, (timestamp(now), Moment::from_boot(now)));
        self.pump();
    }

    pub(crate) fn asked(&mut self, at: At, connection: u64, resource: ResourceId, now: Duration) {
        let (device, request) = (setting::device_id(at), AccessRequest { resource, queried: None });
        let ticket = self.transact(|core, env| core.propose_access(device, &request, env), now);
        self.asked.insert(ticket, (at, connection, resource));
        self.pump();
    }

    /// What an admin wants. A refusal, such as of what is done already, changes nothing.
    pub(crate) fn command(&mut self, command: &Command, now: Duration) -> Result<(), Refusal> {
        let proposal = self.propose(|core, env| core.propose_command(&Actor::AdminSocket, command, env), now)?;
        self.core.apply(proposal, timestamp(now), Moment::from_boot(now));
        self.pump();
        Ok(())
    }

    /// Falls over, and begins again at that time with what is in the store.
    pub(crate) fn crash(&mut self, until: Duration) {
        self.core = Core::new(self.core.state().world(), config());
        self.core.begin(Moment::from_boot(until));
        self.is_running = false;
        self.asked.clear();
        self.said.clear();
    }

    pub(crate) fn start(&mut self) {
        self.is_running = true;
    }

    pub(crate) fn is_running(&self) -> bool {
        self.is_running
    }

    pub(crate) fn poll_timeout(&self, now: Duration) -> Option<Duration> {
        let due = self.core.poll_timeout(timestamp(now), Moment::from_boot(now)).filter(|_| self.is_running)?;
        Some(now + due)
    }

    pub(crate) fn timeout(&mut self, now: Duration) {
        self.transact(Core::propose_timeout, now);
        self.pump();
    }
}
