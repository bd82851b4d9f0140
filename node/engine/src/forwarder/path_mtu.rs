//! How long packets to a peer may be: datagram path MTU discovery (RFC 8899) inside the tunnel.
//!
//! ```text
//! nothing known ──data is sent──► probing ──the largest that passes──► known
//!                                    ▲                                   │ every so often, while data is sent:
//!                                    └───────────────────────────────────┘ does it still pass? does more pass?
//! ```
//!
//! A probe is a message of a certain length that the peer answers, sent as a datagram that nobody may fragment. It travels
//! sealed like a packet, but is none: its first byte is no IP version, so that other implementations of WireGuard drop it.
//! Data goes on as before meanwhile, and may be fragmented outside.
//!
//! A size fails when no probe of it is answered, though a short one is: it is the length, and not the peer, that does not get
//! through. So a path that drops what is too long and says nothing is found out like any other. From a peer that
//! answers no probe at all nothing is learned, and all stays as it was.
//!
//! Nothing here runs on its own: only who sends data asks, so an idle peer costs nothing.

use std::time::Duration;

use postern_model::Moment;

/// What IPv6 inside the tunnel needs at least. A path that carries less than that has to fragment outside.
pub(super) const FLOOR: u16 = 1280;
/// How exactly the largest size is looked for.
pub(super) const EXACTNESS: u16 = 4;
/// How often a size is tried before it counts as too long.
pub(super) const TRIES: u8 = 3;
/// A probe of this length gets through wherever a handshake does: who answers it answers probes.
const SHORT: u16 = 64;
/// How long an answer is waited for when nothing is known of the round trip, and at most.
const LONGEST_WAIT: Duration = Duration::from_secs(1);
/// However short the round trip: whoever is to answer may be busy.
const SHORTEST_WAIT: Duration = Duration::from_millis(100);
/// How often the size in use is confirmed, while data is sent.
pub(super) const CONFIRM: Duration = Duration::from_secs(15);
/// Data without any sign of life for so long may be lost for its length: the size is confirmed before its time,
const SILENCE: Duration = Duration::from_secs(1);
/// but not more often than this.
pub(super) const SUSPICION: Duration = Duration::from_secs(2);
/// How often larger sizes are tried again, and peers that answer no probes.
pub(super) const RAISE: Duration = Duration::from_secs(600);
/// When a peer that answered no probe is tried again for the first time; then after twice as long.
const RETRY: Duration = Duration::from_secs(15);
/// Answers to one peer in each second. A search needs a few at a time.
const ANSWERS: u32 = 20;

const PROBE: u8 = 1;
const REPLY: u8 = 2;
const LEN: usize = 11;

/// Whether an inner packet is one of these messages, by its first byte.
pub(super) fn is_message(first: u8) -> bool {
    first == PROBE || first == REPLY
}

/// What one node asks another inside the tunnel.
///
/// ```text
/// 0      1        9      11
/// │ kind │ number │ size │ zeros; as a probe up to `size` bytes
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Message {
    pub(super) is_reply: bool,
    /// Tells the tries apart.
    pub(super) number: u64,
    /// Bytes of the probe.
    pub(super) size: u16,
}

impl Message {
    /// What an inner packet, with its padding, is: `None` when it is no message of this kind and so meant to be IP.
    /// `Some(None)`: it is, but makes no sense.
    pub(super) fn decode(inner: &[u8]) -> Option<Option<Self>> {
        let is_reply = match *inner.first()? {
            PROBE => false,
            REPLY => true,
            _ => return None,
        };
        let number = inner.get(1..).and_then(<[u8]>::first_chunk).map(|bytes| u64::from_be_bytes(*bytes));
        let size = inner.get(9..).and_then(<[u8]>::first_chunk).map(|bytes| u16::from_be_bytes(*bytes));
        let (Some(number), Some(size)) = (number, size) else { return Some(None) };
        // A probe shorter than it says proves nothing, and one shorter than its answer would make this node an amplifier.
        let is_whole = is_reply || size >= SHORT && inner.len() >= usize::from(size);
        Some(is_whole.then_some(Self { is_reply, number, size }))
    }

    /// Writes it to the start of `out`; its length.
    pub(super) fn encode(self, out: &mut [u8]) -> Option<usize> {
        let len = if self.is_reply { LEN } else { usize::from(self.size) };
        let out = out.get_mut(..len).filter(|out| out.len() >= LEN)?;
        out.fill(0);
        out[0] = if self.is_reply { REPLY } else { PROBE };
        out[1..9].copy_from_slice(&self.number.to_be_bytes());
        out[9..11].copy_from_slice(&self.size.to_be_bytes());
        Some(len)
    }
}

/// One size being tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Attempt {
    size: u16,
    tries: u8,
    /// When the next try is due, or the last one has failed.
    due: Moment,
    /// When the last one was sent.
    sent: Moment,
    /// Whether a short probe was answered since this size is tried, and whether one is to be sent now.
    is_alive: bool,
    wants_short: bool,
    /// The largest size that has passed, and the smallest that has failed, or is never tried.
    passed: Option<u16>,
    failed: u16,
}

/// How long packets to one peer may be.
#[derive(Debug)]
pub(super) struct PathMtu {
    /// The tunnel's MTU.
    most: u16,
    mtu: u16,
    attempt: Option<Attempt>,
    /// From when on data that is sent begins a search; never while all passes that there may be.
    search_at: Option<Moment>,
    /// From when on data that is sent has the size in use confirmed; never when it is not known to pass in one piece.
    confirm_at: Option<Moment>,
    /// How long to leave a peer alone that answers nothing.
    pause: Duration,
    /// Of the last probe.
    number: u64,
    /// Probes that may still be answered: those of the attempt under way.
    open: Vec<(Message, Moment)>,
    round_trip: Option<Duration>,
    /// Since when data is sent without a sign of life.
    unanswered: Option<Moment>,
    /// When the last attempt began.
    tried: Option<Moment>,
    /// Answers given since the beginning of this second.
    answers: (Moment, u32),
}

impl PathMtu {
    /// Nothing is known, and `most` is in use.
    pub(super) fn new(most: u16, now: Moment) -> Self {
        Self {
            most,
            mtu: most,
            attempt: None,
            search_at: Some(now),
            confirm_at: None,
            pause: RETRY,
            number: 0,
            open: Vec::new(),
            round_trip: None,
            unanswered: None,
            tried: None,
            answers: (now, 0),
        }
    }

    /// The longest inner packet that is to be sent, as far as is known.
    pub(super) fn mtu(&self) -> u16 {
        self.mtu
    }

    /// Data is sent.
    pub(super) fn note_sent(&mut self, now: Moment) {
        let since = *self.unanswered.get_or_insert(now);
        if self.attempt.is_some() {
            return;
        }
        if self.search_at.is_some_and(|at| at <= now) {
            // What is confirmed need not be asked again.
            let passed = self.confirm_at.map(|_| self.mtu);
            self.attempt(self.most, passed, self.most.saturating_add(1), now);
        } else if let Some(at) = self.confirm_at {
            let is_rested = self.tried.is_none_or(|tried| now.since(tried) >= SUSPICION);
            if at <= now || is_rested && now.since(since) >= SILENCE {
                self.attempt(self.mtu, None, self.mtu.saturating_add(1), now);
            }
        }
    }

    /// Something authentic came from the peer.
    pub(super) fn note_heard(&mut self) {
        self.unanswered = None;
    }

    /// The peer is elsewhere: the path is another one. What was known holds until more is.
    pub(super) fn note_moved(&mut self, now: Moment) {
        // A peer that seems to be here and there by turns is not asked more often for that.
        let rested = self.tried.map_or(now, |tried| tried + SUSPICION);
        self.search_at = Some(rested.max(now));
        (self.attempt, self.confirm_at, self.round_trip, self.pause) = (None, None, None, RETRY);
    }

    /// The peer tries this size. When it is less than what is in use here, the path may be narrower than is known, this way too.
    pub(super) fn note_asked(&mut self, size: u16, now: Moment) {
        if let Some(at) = self.confirm_at.filter(|_| size > SHORT && size < self.mtu) {
            let rested = self.tried.map_or(now, |tried| tried + SUSPICION);
            self.confirm_at = Some(at.min(rested.max(now)));
        }
    }

    /// Whether a probe of the peer's may be answered; few are, in each second.
    pub(super) fn may_answer(&mut self, now: Moment) -> bool {
        if now.since(self.answers.0) >= Duration::from_secs(1) {
            self.answers = (now, 0);
        }
        self.answers.1 = self.answers.1.saturating_add(1);
        self.answers.1 <= ANSWERS
    }

    /// When [`poll`](Self::poll) is due.
    pub(super) fn poll_timeout(&self) -> Option<Moment> {
        self.attempt.map(|attempt| attempt.due)
    }

    /// The next probe to be sent now. To be called until there is none.
    pub(super) fn poll(&mut self, now: Moment) -> Option<Message> {
        loop {
            let wait = self.wait();
            let is_first = self.round_trip.is_none();
            let attempt = self.attempt.as_mut()?;
            if std::mem::take(&mut attempt.wants_short) {
                return Some(self.probe(SHORT, now));
            }
            if attempt.due > now {
                return None;
            }
            if attempt.tries < TRIES {
                attempt.tries += 1;
                attempt.wants_short = !attempt.is_alive && (attempt.tries > 1 || is_first);
                (attempt.sent, attempt.due) = (now, now + wait);
                let size = attempt.size;
                return Some(self.probe(size, now));
            }
            let Attempt { is_alive, passed, size, .. } = *attempt;
            if is_alive { self.go_on(passed, size, now) } else { self.give_up(now) }
        }
    }

    /// A probe was answered.
    pub(super) fn handle_reply(&mut self, reply: Message, now: Moment) {
        let probed = |probe: &(Message, Moment)| (probe.0.number, probe.0.size) == (reply.number, reply.size);
        let Some(at) = self.open.iter().position(probed) else { return };
        let (_, sent) = self.open.swap_remove(at);
        self.round_trip = Some(now.since(sent));
        self.pause = RETRY;
        let wait = self.wait();
        let Some(attempt) = &mut self.attempt else { return };
        if reply.size == attempt.size {
            let (passed, failed) = (attempt.size, attempt.failed);
            self.go_on(Some(passed), failed, now);
        } else {
            attempt.is_alive = true;
            attempt.due = attempt.due.min(attempt.sent + wait).max(now);
        }
    }

    fn probe(&mut self, size: u16, now: Moment) -> Message {
        self.number += 1;
        let probe = Message { is_reply: false, number: self.number, size };
        self.open.push((probe, now));
        probe
    }

    /// How long an answer is waited for.
    fn wait(&self) -> Duration {
        self.round_trip.map_or(LONGEST_WAIT, |time| (time * 3).clamp(SHORTEST_WAIT, LONGEST_WAIT))
    }

    /// Begins to try a size. Answers to others come too late then.
    fn attempt(&mut self, size: u16, passed: Option<u16>, failed: u16, now: Moment) {
        self.open.clear();
        self.tried = Some(now);
        let (tries, is_alive, wants_short) = (0, false, false);
        self.attempt = Some(Attempt { size, tries, due: now, sent: now, is_alive, wants_short, passed, failed });
    }

    /// Tries the next size between one that passes and one that doesn't, or is content.
    fn go_on(&mut self, passed: Option<u16>, failed: u16, now: Moment) {
        match passed {
            Some(passed) if failed.saturating_sub(passed) <= EXACTNESS => self.settle(passed, Some(now + CONFIRM), now),
            Some(passed) => self.attempt(passed + (failed - passed) / 2, Some(passed), failed, now),
            None if failed > FLOOR => self.attempt(FLOOR, None, failed, now),
            None => self.settle(FLOOR, None, now),
        }
    }

    /// Uses a size from now on.
    fn settle(&mut self, mtu: u16, confirm_at: Option<Moment>, now: Moment) {
        let mtu = mtu.min(self.most);
        self.search_at = match self.search_at {
            _ if mtu == self.most => None,
            // It was only confirmed.
            Some(at) if mtu == self.mtu && at > now => Some(at),
            _ => Some(now + RAISE),
        };
        (self.mtu, self.confirm_at, self.attempt) = (mtu, confirm_at, None);
    }

    /// Not even a short probe was answered: the peer is away, or answers none. Nothing is learned.
    fn give_up(&mut self, now: Moment) {
        self.attempt = None;
        if self.confirm_at.is_some() {
            self.confirm_at = Some(now + CONFIRM);
        }
        if self.confirm_at.is_none() || self.search_at.is_some_and(|at| at <= now) {
            self.search_at = Some(now + self.pause);
            self.pause = (self.pause * 2).min(RAISE);
        }
    }
}

#[cfg(test)]
mod tests;
