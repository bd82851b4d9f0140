//! One path to a peer: what was probed on it, and what is known of it.

use std::{net::SocketAddr, time::Duration};

use postern_model::Moment;

use crate::Endpoint;

/// Probes of a search are repeated after these pauses, and the last one is waited for as long: growing, so that quick paths are
/// found at once, and slow ones, or those that the other end has to open first, as well.
const SEARCH: [Duration; 5] = [
    Duration::from_millis(50),
    Duration::from_millis(150),
    Duration::from_millis(400),
    Duration::from_millis(1000),
    Duration::from_millis(1000),
];
/// So many probes without an answer end the path in use.
const CHECKS: u8 = 3;
/// Between two of them at least, and at most as long as nothing is known of longer round trips.
const CHECK: (Duration, Duration) = (Duration::from_millis(120), Duration::from_millis(330));
/// However slow a path is, it does not take longer than this to notice that one probe is lost.
const SLOWEST_CHECK: Duration = Duration::from_secs(1);
/// So many round trips are remembered: the shortest is the path's, the others had to wait somewhere.
const SAMPLES: usize = 3;
/// Probes that an answer is taken for.
const OPEN: usize = 8;

/// Why a path is probed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Why {
    /// To know whether it carries anything.
    Search {
        /// Whether the peer is to probe, too.
        calls: bool,
    },
    /// To know whether it still does, quickly.
    Check,
}

/// Probes under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Probing {
    pub(super) why: Why,
    tries: u8,
    pub(super) next: Moment,
}

/// What there is to do on a path now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Due {
    /// Send a probe.
    Probe {
        /// See [`super::Message::Probe`].
        calls: bool,
    },
    /// None of them was answered.
    Failed,
}

#[derive(Debug)]
pub(super) struct Path {
    pub(super) endpoint: Endpoint,
    /// Whether the table has it; others were met: something authentic came from there.
    pub(super) is_told: bool,
    /// Whether the relay that it leads through has the peer, if that said so.
    pub(super) is_there: Option<bool>,
    pub(super) heard: Option<Moment>,
    /// When a probe was answered last, since the network changed.
    pub(super) answered: Option<Moment>,
    /// From where the peer saw the last of them come.
    pub(super) observed: Option<SocketAddr>,
    pub(super) probing: Option<Probing>,
    /// It carried something once, and does no more.
    pub(super) is_dead: bool,
    /// How often it died while it was in use, lately; and how many answers it owes before it is used again.
    pub(super) deaths: u8,
    pub(super) owed: u8,
    /// How often in a row it was found better than the path in use.
    pub(super) wins: u8,
    /// Round trips measured since the last search began.
    pub(super) measured: u8,
    samples: [Option<Duration>; SAMPLES],
    /// Probes that may still be answered.
    open: Vec<(u64, Moment)>,
}

impl Path {
    pub(super) fn new(endpoint: Endpoint, is_told: bool) -> Self {
        Self {
            endpoint,
            is_told,
            is_there: None,
            heard: None,
            answered: None,
            observed: None,
            probing: None,
            is_dead: false,
            deaths: 0,
            owed: 0,
            wins: 0,
            measured: 0,
            samples: [None; SAMPLES],
            open: Vec::new(),
        }
    }

    /// How long there and back takes, at best.
    pub(super) fn round_trip(&self) -> Option<Duration> {
        self.samples.iter().flatten().min().copied()
    }

    /// Whether it is known to carry something both ways.
    pub(super) fn is_proven(&self) -> bool {
        self.answered.is_some() && !self.is_dead && self.owed == 0
    }

    /// Begins to probe it, after a while.
    pub(super) fn probe(&mut self, why: Why, at: Moment) {
        self.probing = Some(Probing { why, tries: 0, next: at });
    }

    /// Probes it now, as the next of those under way or the first; not more often than `pause`.
    pub(super) fn probe_now(&mut self, pause: Duration, now: Moment) {
        let is_rested = self.open.last().is_none_or(|(_, sent)| now.since(*sent) >= pause);
        match &mut self.probing {
            _ if !is_rested => {}
            Some(probing) => probing.next = probing.next.min(now),
            None => self.probe(Why::Search { calls: false }, now),
        }
    }

    /// What is due on it; the probe has this number then.
    pub(super) fn poll(&mut self, number: u64, now: Moment) -> Option<Due> {
        let round_trip = self.round_trip();
        let probing = self.probing.as_mut().filter(|probing| probing.next <= now)?;
        let pause = match probing.why {
            Why::Search { .. } => SEARCH.get(usize::from(probing.tries)).copied(),
            Why::Check if probing.tries < CHECKS => Some(
                round_trip
                    .map_or(CHECK.1, |time| (time * 2).clamp(CHECK.0, CHECK.1).max(time * 3 / 2).min(SLOWEST_CHECK)),
            ),
            Why::Check => None,
        };
        let Some(pause) = pause else {
            self.probing = None;
            return Some(Due::Failed);
        };
        probing.tries += 1;
        probing.next = now + pause;
        if self.open.len() >= OPEN {
            self.open.remove(0);
        }
        self.open.push((number, now));
        Some(Due::Probe { calls: probing.why == Why::Search { calls: true } })
    }

    /// An answer came back on it; whether to a probe that was sent on it.
    pub(super) fn handle_answer(&mut self, number: u64, observed: Option<SocketAddr>, now: Moment) -> bool {
        let Some(at) = self.open.iter().position(|(open, _)| *open == number) else { return false };
        let (_, sent) = self.open.swap_remove(at);
        // Those before it are lost, or would say nothing new.
        self.open.retain(|(_, other)| *other > sent);
        self.samples.rotate_right(1);
        self.samples[0] = Some(now.since(sent));
        (self.heard, self.answered, self.observed) = (Some(now), Some(now), observed);
        (self.probing, self.is_dead) = (None, false);
        self.owed = self.owed.saturating_sub(1);
        self.measured = self.measured.saturating_add(1);
        true
    }

    /// It carries nothing any more, as far as is known.
    pub(super) fn die(&mut self) {
        self.is_dead = true;
        self.forget();
    }

    /// What was known of it counts no more.
    pub(super) fn forget(&mut self) {
        (self.answered, self.probing, self.wins) = (None, None, 0);
        self.samples = [None; SAMPLES];
    }
}
