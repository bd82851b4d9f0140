//! When to start handshakes, repeat them and give them up, and when to send a sign of life (section 6 of the WireGuard paper).

use std::time::Duration;

use postern_model::Moment;

use super::{Attempt, Tunnel};
use crate::constants::{KEEPALIVE_TIMEOUT, REJECT_AFTER_TIME, REKEY_ATTEMPT_TIME, REKEY_TIMEOUT};

/// Sent something and heard nothing for so long: the peer may have lost its keys.
const SILENCE: Duration = Duration::from_secs(KEEPALIVE_TIMEOUT.as_secs() + REKEY_TIMEOUT.as_secs());
/// Keys are forgotten after so long without a new session.
const FORGET: Duration = Duration::from_secs(REJECT_AFTER_TIME.as_secs() * 3);

impl Tunnel {
    /// A handshake initiation to send, unless one that is younger than REKEY_TIMEOUT is under way.
    pub fn start_handshake<'a>(&mut self, out: &'a mut [u8], now: Moment) -> Option<&'a [u8]> {
        if self.attempt.is_some_and(|attempt| now < attempt.resend_at) {
            return None;
        }
        // A new reason to reach the peer begins a new attempt, however the last one ended.
        self.unreachable = false;
        let began = self.attempt.map_or(now, |attempt| attempt.began);
        self.initiate(began, out, now)
    }

    /// An initiation to send in place of the last one, which may have gone nowhere; `None` when no handshake is under way. The
    /// answer to the last one is still taken.
    pub fn retry_handshake<'a>(&mut self, out: &'a mut [u8], now: Moment) -> Option<&'a [u8]> {
        let began = self.attempt?.began;
        self.initiate(began, out, now)
    }

    fn initiate<'a>(&mut self, began: Moment, out: &'a mut [u8], now: Moment) -> Option<&'a [u8]> {
        self.initiations = self.initiations.wrapping_add(1);
        // Up to 333 ms (section 6.1), spread over tunnels and attempts without asking for randomness.
        let jitter = Duration::from_millis(u64::from(self.initiations.wrapping_mul(0x9e37_79b9) >> 16) % 334);
        // Whatever comes of it, this was a try.
        self.attempt = Some(Attempt { began, resend_at: now + REKEY_TIMEOUT + jitter });
        let index = self.next_index();
        let len = self.handshake.initiate(index, out, now)?;
        self.last_index = index;
        self.stats.sent_bytes += len as u64;
        Some(&out[..len])
    }

    /// What the timers want sent now: an initiation or a keepalive. Call until `None`.
    pub fn handle_timeout<'a>(&mut self, out: &'a mut [u8], now: Moment) -> Option<&'a [u8]> {
        self.handshake.forget_stale(now);
        if self.last_session.is_some_and(|last| now.since(last) >= FORGET) {
            self.sessions.clear();
            self.last_session = None;
            self.keepalive_due = None;
        }
        if let Some(attempt) = self.attempt {
            if now.since(attempt.began) >= REKEY_ATTEMPT_TIME {
                self.end_attempt();
            } else if now >= attempt.resend_at {
                return self.initiate(attempt.began, out, now);
            }
        } else if self.silent_at().is_some_and(|at| now >= at) {
            self.unanswered = None;
            return self.initiate(now, out, now);
        }
        if self.keepalive_due.is_some_and(|at| now >= at) {
            self.keepalive_due = None;
            let len = self.seal_copy(&[], out, now)?;
            return Some(&out[..len]);
        }
        if self.attempt.is_none() && self.persistent_at().is_some_and(|at| now >= at) {
            // Whatever comes of it, this was a try.
            self.sent_at = now;
            return match self.seal_copy(&[], out, now) {
                Some(len) => Some(&out[..len]),
                None => self.initiate(now, out, now),
            };
        }
        None
    }

    /// From now on the peer gets an empty packet after so long without another, so that what stands between (address
    /// translation, firewalls) keeps the way open for packets from it; `None` ends that.
    pub fn set_persistent_keepalive(&mut self, interval: Option<Duration>) {
        self.persistent = interval;
    }

    /// Ends the handshake under way instead of starting it anew, once the answer to its last initiation is overdue. Call before
    /// [`Self::handle_timeout`]; another reason to reach the peer begins another one.
    pub fn give_up(&mut self, now: Moment) {
        if self.attempt.is_some_and(|attempt| now >= attempt.resend_at) {
            self.end_attempt();
        }
    }

    fn end_attempt(&mut self) {
        self.attempt = None;
        self.handshake.forget();
        self.unreachable = true;
        self.unanswered = None;
    }

    /// What [`Self::set_persistent_keepalive`] said last.
    pub fn persistent_keepalive(&self) -> Option<Duration> {
        self.persistent
    }

    fn persistent_at(&self) -> Option<Moment> {
        self.persistent.map(|interval| self.sent_at + interval)
    }

    /// When the peer has been silent for so long that it may have lost its keys.
    fn silent_at(&self) -> Option<Moment> {
        self.unanswered.map(|since| since + SILENCE)
    }

    /// When to call [`Self::handle_timeout`] next.
    pub fn poll_timeout(&self) -> Option<Moment> {
        let attempt = self.attempt.map(|attempt| attempt.resend_at.min(attempt.began + REKEY_ATTEMPT_TIME));
        let silence = if self.attempt.is_none() { self.silent_at() } else { None };
        let forget = self.last_session.map(|last| last + FORGET);
        let persistent = if self.attempt.is_none() { self.persistent_at() } else { None };
        [attempt, silence, self.keepalive_due, persistent, forget].into_iter().flatten().min()
    }
}
