//! The end that chooses: probes what there is, compares round trips, and leaves a path that has died.
//!
//! ```text
//!  session, new candidates, network changed, ──► search: probe all, with growing pauses
//!  every so often while data flows                  │ answered: proven, with a round trip
//!                                                   ▼
//!  data without an answer ──► check: three quick    compare with the path in use ──► switch
//!     probes of the path in use, search the others ──► none answered: dead ──► switch
//! ```
//!
//! - here: what is told and asked; [`turns`]: what follows from it; [`choice`](super::choice): which path is better than which

mod turns;

use std::time::Duration;

use postern_model::{Moment, RelayId};

use super::{
    CALL_PAUSE, Heard, MOST, Message, Used,
    path::{Due, Path, Why},
};
use crate::{Endpoint, PathStatus, Peer};

/// How long data without an answer is borne: at first, and at most when probes are answered and nothing else ever is.
const PATIENCE: (Duration, Duration) = (Duration::from_millis(400), Duration::from_secs(2));
/// On a slow path it is this many round trips, within these bounds.
const PATIENCE_ROUND_TRIPS: u32 = 3;
/// A direct path on which nothing came for so long is in doubt: what stands between may have forgotten it.
const DOUBT: Duration = Duration::from_secs(25);
/// So long after something came on the path in use, something else from elsewhere does not mean that the peer has moved.
const SILENT: Duration = Duration::from_secs(2);
/// Between searches: so long while something is new or has just failed, then twice as long each time, and so long in the end.
const PAUSE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(27));
/// With everything dead, all is searched anew after so long, until so long after data was sent last.
const LOST: (Duration, Duration) = (Duration::from_millis(3600), Duration::from_secs(30));
/// A path that is better once is tried again so soon.
const AGAIN: Duration = Duration::from_millis(100);
/// A path that owes answers is asked for the next one so soon.
const DEBT: Duration = Duration::from_millis(300);
/// The second round trip of a search is measured so soon after the first.
const SECOND: Duration = Duration::from_millis(50);
/// Something from the peer on a path has it probed, but not more often than this.
const REST: Duration = Duration::from_millis(30);
/// A path that was in use for so long without dying has made up for its deaths.
const FORGIVEN: Duration = Duration::from_secs(60);
/// The most answers that a path owes after dying again and again.
const MOST_OWED: u8 = 3;
/// In how many searches in a row another path has to be better.
const WINS: u8 = 2;

#[derive(Debug)]
pub(super) struct Chooser {
    pub(super) used: Used,
    /// Since when it is in use.
    since: Moment,
    /// All that are known, at most [`MOST`].
    paths: Vec<Path>,
    /// The path in use is in doubt until it answers: meanwhile data goes this way, if there is one.
    is_doubtful: bool,
    detour: Option<Endpoint>,
    /// The path in use is dead, and no other is known to be any better.
    is_lost: bool,
    /// The path in use is being checked.
    is_checked: bool,
    /// When data was sent last.
    sent: Option<Moment>,
    /// From when on data that is sent begins a search.
    look_at: Moment,
    pause: Duration,
    searched: Option<Moment>,
    /// When the next probe is due, or earlier: with each packet this is looked at, and not all paths.
    probes_at: Option<Moment>,
    /// Of the last probe.
    number: u64,
}

impl Chooser {
    pub(super) fn new(used: Used, now: Moment) -> Self {
        Self {
            used: Used { patience: PATIENCE.0, unanswered: None, ..used },
            since: now,
            paths: Vec::new(),
            is_doubtful: false,
            detour: None,
            is_lost: false,
            is_checked: false,
            sent: None,
            look_at: now,
            pause: PAUSE.0,
            searched: None,
            probes_at: None,
            number: 0,
        }
    }

    /// What the table says of where the peer may be.
    pub(super) fn apply(&mut self, peer: &Peer, presence: &[(RelayId, bool)], has_session: bool, now: Moment) {
        let used = self.used.endpoint;
        self.paths.retain_mut(|path| {
            let was_told = std::mem::replace(&mut path.is_told, peer.told().any(|told| told == path.endpoint));
            path.is_told || !was_told || Some(path.endpoint) == used
        });
        let mut is_new = false;
        for endpoint in peer.told() {
            if self.index(endpoint).is_none()
                && let Some(nth) = self.add(endpoint, true)
            {
                let relay = endpoint.relay();
                let said = presence.iter().find(|(known, _)| Some(*known) == relay);
                self.paths[nth].is_there = said.map(|(_, is_there)| *is_there);
                is_new = true;
            }
        }
        if let Some(used) = used
            && self.index(used).is_none()
        {
            self.add(used, false);
        }
        if is_new && has_session && used.is_some() {
            self.pause = PAUSE.0;
            self.search(true, now);
        }
    }

    pub(super) fn destination(&self) -> Option<Endpoint> {
        self.detour.or(self.used.endpoint)
    }

    pub(super) fn note_sent(&mut self, now: Moment) {
        self.sent = Some(now);
        if self.used.unanswered.is_none() {
            self.used.unanswered = Some(now);
            let is_stale = self.used.heard.is_none_or(|heard| now.since(heard) > DOUBT);
            if is_stale && !self.is_doubtful && !self.is_lost {
                self.doubt(now);
            }
        }
        if self.look_at <= now {
            self.look(now);
        }
    }

    pub(super) fn note_heard(&mut self, from: Endpoint, what: Heard, now: Moment) {
        if self.used.endpoint == Some(from) {
            self.used.heard = Some(now);
            if what != Heard::Probe {
                self.used.unanswered = None;
                if !matches!(what, Heard::Length(..)) {
                    self.used.patience = PATIENCE.0;
                }
                if std::mem::take(&mut self.is_lost)
                    && let Some(path) = self.path_in_use_mut()
                {
                    path.is_dead = false;
                }
                if self.is_checked {
                    self.end_check();
                }
            }
            return;
        }
        let Some(nth) = self.learn(from) else { return };
        self.paths[nth].heard = Some(now);
        if what == Heard::Probe || self.is_doubtful && self.detour == Some(from) {
            return;
        }
        let is_silent = self.used.heard.is_none_or(|heard| now.since(heard) >= SILENT);
        let is_missed = self.used.unanswered.is_some() || what == Heard::Handshake;
        let is_direct = self.used.endpoint.is_some_and(|used| !used.is_relayed());
        if !self.is_lost && is_silent && is_missed && is_direct && from.is_relayed() {
            // This came first, which does not say that the direct path is dead.
            self.doubt(now);
            self.detour = Some(from);
        } else if self.used.endpoint.is_none() || self.is_lost || is_silent && is_missed {
            self.switch(from, now);
            self.search_soon(now);
        } else if self.paths[nth].answered.is_none() {
            self.probe_now(nth, now);
            if is_silent && !self.is_checked {
                self.check(now);
            }
        }
    }

    pub(super) fn note_session(&mut self, now: Moment) {
        if self.searched.is_none() || self.look_at <= now {
            self.pause = PAUSE.0;
            self.look(now);
        }
    }

    pub(super) fn handle_probe(&mut self, from: Endpoint, calls: bool, now: Moment) {
        let is_used = self.used.endpoint == Some(from);
        if let Some(nth) = self.learn(from) {
            let path = &mut self.paths[nth];
            path.heard = Some(now);
            // A hole has just been opened for it, perhaps.
            if !is_used && path.answered.is_none_or(|answered| now.since(answered) >= Duration::from_secs(1)) {
                self.probe_now(nth, now);
            }
        }
        if calls && self.searched.is_none_or(|searched| now.since(searched) >= CALL_PAUSE) {
            self.search(true, now);
        }
    }

    pub(super) fn handle_answer(
        &mut self,
        from: Endpoint,
        number: u64,
        observed: Option<std::net::SocketAddr>,
        now: Moment,
    ) {
        let Some(nth) = self.learn(from) else { return };
        if !self.paths[nth].handle_answer(number, observed, now) {
            // Asked elsewhere, answered from here: this way has still to show that it leads there.
            return self.probe_now(nth, now);
        }
        if self.used.endpoint == Some(from) {
            self.used.heard = Some(now);
            if self.used.unanswered.take().is_some() && self.is_checked {
                // Nothing but probes is answered: that may be all right.
                self.used.patience = (self.used.patience * 2).min(PATIENCE.1);
            }
            (self.is_checked, self.is_lost, self.paths[nth].owed) = (false, false, 0);
            self.end_doubt();
            if let Some(other) = self.better_than_used() {
                self.try_again(other, now);
            }
        } else {
            self.consider(nth, now);
        }
        let path = &self.paths[nth];
        if path.probing.is_none() && path.measured < 2 {
            self.probe(nth, Why::Search { calls: false }, now + SECOND);
        }
    }

    pub(super) fn set_presence(&mut self, relay: RelayId, is_there: bool, now: Moment) {
        let Some(nth) = self.paths.iter().position(|path| path.endpoint.relay() == Some(relay)) else { return };
        let path = &mut self.paths[nth];
        let endpoint = path.endpoint;
        path.is_there = Some(is_there);
        if is_there {
            (path.is_dead, path.owed) = (false, 0);
            if self.used.endpoint.is_some() {
                self.probe(nth, Why::Search { calls: true }, now);
            }
            if self.is_lost {
                self.switch(endpoint, now);
            } else if self.is_doubtful && self.detour.is_none() {
                self.detour = Some(endpoint);
            }
        } else {
            path.die();
            if self.detour == Some(endpoint) {
                self.detour = None;
            }
            if self.used.endpoint == Some(endpoint) {
                self.leave(now);
            }
        }
    }

    pub(super) fn handle_network_changed(&mut self, now: Moment) {
        for path in &mut self.paths {
            if !path.endpoint.is_relayed() {
                path.forget();
                (path.is_dead, path.owed, path.deaths) = (false, 0, 0);
            }
        }
        self.pause = PAUSE.0;
        if self.used.endpoint.is_some() {
            self.search(true, now);
            self.doubt(now);
            self.used.wants_keepalive = true;
        }
    }

    pub(super) fn poll(&mut self, now: Moment) -> Option<(Endpoint, Message)> {
        if self.suspects_at().is_some_and(|at| at <= now) {
            if self.is_lost {
                self.search(true, now);
            } else {
                let is_first = self.used.patience == PATIENCE.0;
                self.check(now);
                if is_first && self.paths.len() > 1 {
                    self.search(true, now);
                }
            }
        }
        for nth in 0..self.paths.len() {
            match self.paths[nth].poll(self.number + 1, now) {
                Some(Due::Probe { calls }) => {
                    self.number += 1;
                    return Some((self.paths[nth].endpoint, Message::Probe { number: self.number, calls }));
                }
                Some(Due::Failed) => self.failed(nth, now),
                None => {}
            }
        }
        self.probes_at = self.paths.iter().filter_map(|path| path.probing.map(|probing| probing.next)).min();
        None
    }

    pub(super) fn poll_timeout(&self) -> Option<Moment> {
        self.probes_at.into_iter().chain(self.suspects_at()).min()
    }

    pub(super) fn round_trip(&self) -> Option<Duration> {
        self.path_in_use()?.round_trip()
    }

    pub(super) fn statuses(&self) -> Vec<PathStatus> {
        let status = |path: &Path| PathStatus {
            endpoint: path.endpoint,
            round_trip: path.round_trip(),
            heard: if self.used.endpoint == Some(path.endpoint) { self.used.heard } else { path.heard },
            observed: path.observed,
        };
        self.paths.iter().map(status).collect()
    }

    fn index(&self, endpoint: Endpoint) -> Option<usize> {
        self.paths.iter().position(|path| path.endpoint == endpoint)
    }

    fn path_in_use(&self) -> Option<&Path> {
        self.paths.iter().find(|path| Some(path.endpoint) == self.used.endpoint)
    }

    fn probe(&mut self, nth: usize, why: Why, at: Moment) {
        self.paths[nth].probe(why, at);
        self.wake(at);
    }

    fn probe_now(&mut self, nth: usize, now: Moment) {
        self.paths[nth].probe_now(REST, now);
        self.wake(now);
    }

    fn wake(&mut self, at: Moment) {
        self.probes_at = Some(self.probes_at.map_or(at, |before| before.min(at)));
    }

    fn path_in_use_mut(&mut self) -> Option<&mut Path> {
        self.paths.iter_mut().find(|path| Some(path.endpoint) == self.used.endpoint)
    }

    /// The path with this endpoint, which something authentic came from.
    fn learn(&mut self, endpoint: Endpoint) -> Option<usize> {
        self.index(endpoint).or_else(|| self.add(endpoint, false))
    }

    /// Makes room by forgetting the one, of those that the table does not have, from which nothing came for longest.
    fn add(&mut self, endpoint: Endpoint, is_told: bool) -> Option<usize> {
        if self.paths.len() >= MOST {
            let used = self.used.endpoint;
            let others = self.paths.iter().enumerate();
            let others = others.filter(|(_, path)| !path.is_told && Some(path.endpoint) != used);
            let (oldest, _) = others.min_by_key(|(_, path)| path.heard)?;
            self.paths.swap_remove(oldest);
        }
        self.paths.push(Path::new(endpoint, is_told));
        Some(self.paths.len() - 1)
    }

    /// When data that was sent has been without an answer for too long; or when to look around again, with everything dead.
    fn suspects_at(&self) -> Option<Moment> {
        if self.is_lost {
            let again = self.searched.map_or(self.since, |searched| searched + LOST.0);
            return self.sent.filter(|sent| again < *sent + LOST.1).map(|_| again);
        }
        if self.is_checked {
            return None;
        }
        let since = self.used.unanswered?;
        let slow = self.round_trip().map_or(Duration::ZERO, |time| time * PATIENCE_ROUND_TRIPS).min(PATIENCE.1);
        Some(since + self.used.patience.max(slow))
    }
}
