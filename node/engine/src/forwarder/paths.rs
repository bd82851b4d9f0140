//! Which way to a peer: of each pair of nodes one chooses the path, the other one follows.
//!
//! ```text
//!   chooser: has the grant                               follower: carries it
//!      │ probes of all paths, again and again ───────────────►│ answers each the way it came
//!      │ "probe me" ─────────────────────────────────────────►│ probes wherever the chooser may be: holes open on both sides
//!      │ data, on the best path that is proven ──────────────►│ data goes back to where the newest came from
//! ```
//!
//! Probes and answers are messages inside the tunnel, authentic like packets: an address proves by answering that the peer is there,
//! and nothing else does. They never say where to send data; all else that comes from the chooser does, to the follower.
//!
//! - [`Chooser`]: what is tried, what is proven, what is used; [`path`]: one path. [`Follower`]: goes along. [`message`]: what is said
//! - Nothing here runs on its own: only whoever sends data, or has been told that the network changed, asks. An idle peer
//!   has no timer.
//!
//! Why it is done so is told in `docs/decisions/012-probes-in-the-tunnel.md`.

mod choice;
mod chooser;
mod follower;
mod message;
mod path;

use std::time::Duration;

use postern_model::{Moment, PublicKey, RelayId};

pub(super) use self::message::{Message, is_message};
use self::{chooser::Chooser, follower::Follower};
use super::PathStatus;
use crate::{Endpoint, Peer};

/// More endpoints than this are not known of one peer.
pub(super) const MOST: usize = 32;
/// A relay may say of a peer whether it is there; of so many relays that is remembered.
const MOST_RELAYS: usize = 8;
/// A peer's request for probes is heeded this often.
const CALL_PAUSE: Duration = Duration::from_millis(500);
/// Answers to one peer in each second. A search of all its paths takes fewer.
const ANSWERS: u32 = 100;

/// The path in use.
#[derive(Debug, Clone, Copy)]
struct Used {
    endpoint: Option<Endpoint>,
    /// When something authentic came on it last.
    heard: Option<Moment>,
    /// Since when data is sent on it without anything coming back.
    unanswered: Option<Moment>,
    /// How long that is borne.
    patience: Duration,
    /// Whether it is another one than before; to be told.
    has_moved: bool,
    /// Whether the peer is to hear of it with an empty packet.
    wants_keepalive: bool,
}

impl Used {
    fn new(patience: Duration) -> Self {
        Self { endpoint: None, heard: None, unanswered: None, patience, has_moved: false, wants_keepalive: false }
    }

    /// Something is sent that is no probe.
    fn note_sent(&mut self, now: Moment) {
        self.unanswered.get_or_insert(now);
    }

    fn move_to(&mut self, endpoint: Endpoint, heard: Option<Moment>) {
        self.has_moved |= self.endpoint.is_some_and(|before| before != endpoint);
        (self.endpoint, self.heard, self.unanswered) = (Some(endpoint), heard, None);
    }
}

#[derive(Debug)]
enum Role {
    Chooser(Box<Chooser>),
    Follower(Follower),
}

/// What came from a peer, of all that is authentic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Heard {
    /// A handshake message.
    Handshake,
    /// A packet, or an empty one, with its session's index and its counter.
    Data(u32, u64),
    /// A message about how long packets may be, with the same: says where the peer is, and is no answer to data.
    Length(u32, u64),
    /// A probe, or the answer to one: says nothing of where data should go.
    Probe,
}

/// The paths to one peer.
#[derive(Debug)]
pub(super) struct Paths {
    role: Role,
    /// What relays said of the peer last.
    presence: Vec<(RelayId, bool)>,
    /// Whether a session is about to be there.
    awaits_session: bool,
    /// Answers given since the beginning of this second.
    answers: (Moment, u32),
}

impl Paths {
    /// To a peer that was just added, with which there is no session.
    pub(super) fn new(peer: &Peer, own: &PublicKey, now: Moment) -> Self {
        let used = Used::new(follower::PATIENCE.0);
        let role = Role::Follower(Follower::new(used));
        let mut paths = Self { role, presence: Vec::new(), awaits_session: false, answers: (now, 0) };
        paths.apply(peer, own, false, now);
        paths
    }

    /// The table says what may be known of the peer now, and who chooses.
    pub(super) fn apply(&mut self, peer: &Peer, own: &PublicKey, has_session: bool, now: Moment) {
        let chooses = peer.chooses(own);
        match &self.role {
            Role::Follower(follower) if chooses => {
                self.role = Role::Chooser(Box::new(Chooser::new(follower.used, now)));
            }
            Role::Chooser(chooser) if !chooses => self.role = Role::Follower(Follower::new(chooser.used)),
            _ => {}
        }
        if let Role::Chooser(chooser) = &mut self.role {
            chooser.apply(peer, &self.presence, has_session, now);
        }
    }

    /// Whether this node chooses.
    pub(super) fn chooses(&self) -> bool {
        matches!(self.role, Role::Chooser(_))
    }

    fn used_mut(&mut self) -> &mut Used {
        match &mut self.role {
            Role::Chooser(chooser) => &mut chooser.used,
            Role::Follower(follower) => &mut follower.used,
        }
    }

    /// Where whatever is for the peer goes now.
    pub(super) fn destination(&self) -> Option<Endpoint> {
        match &self.role {
            Role::Chooser(chooser) => chooser.destination(),
            Role::Follower(follower) => follower.used.endpoint,
        }
    }

    /// Whether the peer is said not to be at that relay.
    pub(super) fn is_absent(&self, endpoint: Endpoint) -> bool {
        endpoint.relay().is_some_and(|relay| self.presence.contains(&(relay, false)))
    }

    /// Data is about to be sent: to be said before it is asked where to.
    pub(super) fn note_sent(&mut self, now: Moment) {
        match &mut self.role {
            Role::Chooser(chooser) => chooser.note_sent(now),
            Role::Follower(follower) => follower.used.note_sent(now),
        }
    }

    /// Something authentic came from there.
    pub(super) fn note_heard(&mut self, from: Endpoint, what: Heard, now: Moment) {
        self.awaits_session |= what == Heard::Handshake;
        match &mut self.role {
            Role::Chooser(chooser) => chooser.note_heard(from, what, now),
            Role::Follower(follower) => follower.note_heard(from, what, now),
        }
    }

    /// Whether [`note_session`](Self::note_session) is to be called once there is a session.
    pub(super) fn awaits_session(&self) -> bool {
        self.awaits_session
    }

    /// There is a session: what is sealed with it can be sent.
    pub(super) fn note_session(&mut self, now: Moment) {
        self.awaits_session = false;
        if let Role::Chooser(chooser) = &mut self.role {
            chooser.note_session(now);
        }
    }

    /// The peer asks whether a path carries anything: the answer, which is to go back there, unless it asks too often.
    pub(super) fn handle_probe(&mut self, from: Endpoint, number: u64, calls: bool, now: Moment) -> Option<Message> {
        if now.since(self.answers.0) >= Duration::from_secs(1) {
            self.answers = (now, 0);
        }
        self.answers.1 = self.answers.1.saturating_add(1);
        if self.answers.1 > ANSWERS {
            return None;
        }
        match &mut self.role {
            Role::Chooser(chooser) => chooser.handle_probe(from, calls, now),
            Role::Follower(follower) => follower.handle_probe(calls, now),
        }
        Some(Message::Answer { number, observed: from.direct() })
    }

    /// The peer has answered a probe.
    pub(super) fn handle_answer(&mut self, from: Endpoint, answer: Message, now: Moment) {
        if let (Role::Chooser(chooser), Message::Answer { number, observed }) = (&mut self.role, answer) {
            chooser.handle_answer(from, number, observed, now);
        }
    }

    /// A relay says whether the peer is there.
    pub(super) fn set_presence(&mut self, relay: RelayId, is_there: bool, now: Moment) {
        match self.presence.iter_mut().find(|(known, _)| *known == relay) {
            Some((_, known)) => *known = is_there,
            None => {
                if self.presence.len() >= MOST_RELAYS {
                    self.presence.remove(0);
                }
                self.presence.push((relay, is_there));
            }
        }
        if let Role::Chooser(chooser) = &mut self.role {
            chooser.set_presence(relay, is_there, now);
        }
    }

    /// This machine's addresses or routes are others.
    pub(super) fn handle_network_changed(&mut self, now: Moment) {
        match &mut self.role {
            Role::Chooser(chooser) => chooser.handle_network_changed(now),
            // The chooser finds out by what comes from elsewhere.
            Role::Follower(follower) => follower.used.wants_keepalive = true,
        }
    }

    /// The next message to be sent now, and where. To be called until there is none, session or not.
    pub(super) fn poll(&mut self, peer: &Peer, now: Moment) -> Option<(Endpoint, Message)> {
        match &mut self.role {
            Role::Chooser(chooser) => chooser.poll(now),
            Role::Follower(follower) => loop {
                let (endpoint, message) = follower.poll(peer, now)?;
                let is_absent = endpoint.relay().is_some_and(|relay| self.presence.contains(&(relay, false)));
                if !is_absent {
                    return Some((endpoint, message));
                }
            },
        }
    }

    /// When [`poll`](Self::poll) is due.
    pub(super) fn poll_timeout(&self) -> Option<Moment> {
        match &self.role {
            Role::Chooser(chooser) => chooser.poll_timeout(),
            Role::Follower(follower) => follower.poll_timeout(),
        }
    }

    /// Whether an empty packet is to be sent now, so that the peer hears of the path.
    pub(super) fn take_keepalive(&mut self) -> bool {
        std::mem::take(&mut self.used_mut().wants_keepalive)
    }

    /// Whether the path in use is another one since this was asked last.
    pub(super) fn take_moved(&mut self) -> bool {
        std::mem::take(&mut self.used_mut().has_moved)
    }

    /// How long there and back takes on the path in use, as far as is known.
    pub(super) fn round_trip(&self) -> Option<Duration> {
        match &self.role {
            Role::Chooser(chooser) => chooser.round_trip(),
            Role::Follower(_) => None,
        }
    }

    /// For showing.
    pub(super) fn statuses(&self) -> Vec<PathStatus> {
        match &self.role {
            Role::Chooser(chooser) => chooser.statuses(),
            Role::Follower(follower) => {
                let Used { endpoint, heard, .. } = follower.used;
                let status = |endpoint| PathStatus { endpoint, round_trip: None, heard, observed: None };
                endpoint.map(status).into_iter().collect()
            }
        }
    }
}
