//! The end that follows: sends to where the newest of the chooser's packets came from.
//!
//! It probes for two reasons only: because the chooser asks to be probed, or because what is sent is not answered, so that the
//! chooser, who may have nothing to send and therefore notices nothing, is asked to look for another path.

use std::time::Duration;

use postern_model::Moment;

use super::{CALL_PAUSE, Heard, Message, Used};
use crate::{Endpoint, Peer};

/// How long data without an answer is borne, at first and at most: nothing is wrong with a stream in one direction.
pub(super) const PATIENCE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(16));
/// So long after a probe on the path in use, all others are tried as well.
const ANSWERED_WITHIN: Duration = Duration::from_millis(500);

#[derive(Debug)]
pub(super) struct Follower {
    pub(super) used: Used,
    /// Session and counter of the newest packet: what was overtaken on another path leads nowhere.
    newest: Option<(u32, u64)>,
    /// When the chooser was probed everywhere last.
    called: Option<Moment>,
    /// Which of the endpoints that the table has is probed next, and whether the chooser is asked to look around.
    calling: Option<(usize, bool)>,
    /// Since when a probe on the path in use is out.
    asked: Option<Moment>,
    number: u64,
}

impl Follower {
    pub(super) fn new(used: Used) -> Self {
        let used = Used { patience: PATIENCE.0, unanswered: None, ..used };
        Self { used, newest: None, called: None, calling: None, asked: None, number: 0 }
    }

    pub(super) fn note_heard(&mut self, from: Endpoint, what: Heard, now: Moment) {
        let is_here = self.used.endpoint == Some(from);
        let follows = match what {
            Heard::Probe => self.used.endpoint.is_none(),
            Heard::Handshake => true,
            Heard::Data(session, counter) | Heard::Length(session, counter) => {
                let is_newer = self.newest.is_none_or(|newest| is_newer((session, counter), newest));
                if is_newer {
                    self.newest = Some((session, counter));
                }
                is_newer
            }
        };
        if is_here {
            (self.used.heard, self.used.unanswered) = (Some(now), None);
            let was_asked = self.asked.take().is_some();
            if matches!(what, Heard::Data(..) | Heard::Handshake) {
                self.used.patience = PATIENCE.0;
            } else if was_asked {
                // Nothing but probes is answered: that may be all right.
                self.used.patience = (self.used.patience * 2).min(PATIENCE.1);
            }
        } else if follows {
            self.used.move_to(from, Some(now));
            (self.used.patience, self.asked) = (PATIENCE.0, None);
        }
    }

    /// The chooser probes, and perhaps wants to be probed.
    pub(super) fn handle_probe(&mut self, calls: bool, now: Moment) {
        if calls && self.may_call(now) {
            self.calling = Some((0, false));
        }
    }

    fn may_call(&mut self, now: Moment) -> bool {
        let may = self.called.is_none_or(|called| now.since(called) >= CALL_PAUSE);
        if may {
            self.called = Some(now);
        }
        may
    }

    pub(super) fn poll(&mut self, peer: &Peer, now: Moment) -> Option<(Endpoint, Message)> {
        if let Some((nth, calls)) = self.calling {
            // Whoever asks to be probed needs no relay for that.
            let next = peer.told().enumerate().skip(nth).find(|(_, endpoint)| calls || !endpoint.is_relayed());
            self.calling = next.map(|(nth, _)| (nth + 1, calls));
            if let Some((_, endpoint)) = next {
                return Some((endpoint, self.probe(calls)));
            }
        }
        if let Some(asked) = self.asked {
            if now >= asked + ANSWERED_WITHIN {
                (self.asked, self.used.unanswered) = (None, None);
                self.used.patience = (self.used.patience * 2).min(PATIENCE.1);
                if self.may_call(now) {
                    self.calling = Some((0, true));
                    return self.poll(peer, now);
                }
            }
        } else if self.used.unanswered.is_some_and(|since| now >= since + self.used.patience) {
            self.asked = Some(now);
            return Some((self.used.endpoint?, self.probe(false)));
        }
        None
    }

    fn probe(&mut self, calls: bool) -> Message {
        self.number += 1;
        Message::Probe { number: self.number, calls }
    }

    pub(super) fn poll_timeout(&self) -> Option<Moment> {
        match (self.calling, self.asked) {
            (Some(_), _) => self.called,
            (None, Some(asked)) => Some(asked + ANSWERED_WITHIN),
            (None, None) => self.used.unanswered.map(|since| since + self.used.patience),
        }
    }
}

/// Whether a packet was made later. Sessions of one tunnel count up in the low 8 bits of their index.
fn is_newer((session, counter): (u32, u64), (newest_session, newest): (u32, u64)) -> bool {
    match session.wrapping_sub(newest_session) & 0xff {
        0 => counter > newest,
        ahead => ahead < 0x80,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_are_told_apart_by_session_and_counter() {
        assert!(is_newer((0x100, 8), (0x100, 7)));
        assert!(!is_newer((0x100, 7), (0x100, 7)));
        assert!(is_newer((0x101, 0), (0x100, 7)), "a later session");
        assert!(!is_newer((0x100, 9), (0x101, 0)), "an earlier one");
        assert!(is_newer((0x100, 0), (0x1ff, 7)), "numbers go round");
        assert!(!is_newer((0x1ff, 9), (0x100, 0)));
    }
}
