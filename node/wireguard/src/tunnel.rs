//! One peer: sealing, opening, and the timers of section 6 of the WireGuard paper.
//!
//! boringtun's own timers are not used: they run on its own clock. It still must learn which of two sessions is newer, or a
//! late packet on an old one would make it seal with the old key again; so `update_timers`, which dates sessions, is called
//! once before each handshake, and what it would send is used as the initiation or left.

use std::time::Duration;

use boringtun::noise::{Tunn, TunnResult, errors::WireGuardError};
use postern_model::{Moment, PresharedKey, PublicKey};

use crate::{
    Kind, PrivateKey, classify,
    classify::receiver,
    constants::{KEEPALIVE_TIMEOUT, REJECT_AFTER_TIME, REKEY_AFTER_TIME, REKEY_ATTEMPT_TIME, REKEY_TIMEOUT},
    gate::written,
    session::Sessions,
};

/// When an initiator that only receives makes a new key, so that the old one does not run out under the sender.
const REKEY_ON_RECEIVE: Duration =
    Duration::from_secs(REJECT_AFTER_TIME.as_secs() - KEEPALIVE_TIMEOUT.as_secs() - REKEY_TIMEOUT.as_secs());
/// Sent something and heard nothing for so long: the peer may have lost its keys.
const SILENCE: Duration = Duration::from_secs(KEEPALIVE_TIMEOUT.as_secs() + REKEY_TIMEOUT.as_secs());
/// Keys are forgotten after so long without a new session.
const FORGET: Duration = Duration::from_secs(REJECT_AFTER_TIME.as_secs() * 3);

/// Where an initiation has its sender's index (section 5.4.2).
const SENDER: usize = 4;

/// What came of sealing a packet.
#[derive(Debug, PartialEq, Eq)]
pub enum Sealed<'a> {
    /// Send this.
    Datagram(&'a [u8]),
    /// No session can carry it: keep the packet and start a handshake.
    NoSession,
}

/// What came of a datagram from the peer. All of these are authentic.
#[derive(Debug, PartialEq, Eq)]
pub enum Opened<'a> {
    /// An inner packet, cut to its IP length.
    Packet(&'a mut [u8]),
    /// A keepalive.
    Keepalive,
    /// A handshake message that needs this answer: a response, or the first keepalive, which confirms the keys.
    Reply {
        /// Send this.
        datagram: &'a [u8],
        /// Whether packets can be sealed now.
        session: bool,
    },
    /// Nothing to do.
    Nothing,
}

/// Why a datagram was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TunnelError {
    /// A signature or index that does not fit, or a message that nobody waits for.
    #[error("not authentic")]
    Invalid,
    /// Seen before, or too old to tell.
    #[error("seen before, or too old")]
    Replayed,
    /// No session has this index.
    #[error("no session has this index")]
    UnknownSession,
    /// Its session is older than REJECT_AFTER_TIME.
    #[error("the session is past its lifetime")]
    Expired,
    /// Authentic, but no IP packet inside.
    #[error("not an IP packet")]
    NotIp,
}

/// What `wg show` tells of a peer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TunnelStats {
    /// When the last handshake was completed.
    pub last_handshake: Option<Moment>,
    /// Bytes of datagrams made for the peer.
    pub sent_bytes: u64,
    /// Bytes of authentic datagrams from the peer.
    pub received_bytes: u64,
}

/// A handshake under way.
#[derive(Debug, Clone, Copy)]
struct Attempt {
    began: Moment,
    resend_at: Moment,
}

/// The state machine of one peer.
pub struct Tunnel {
    tunn: Tunn,
    sessions: Sessions,
    attempt: Option<Attempt>,
    /// The indices of the attempt's last two initiations. boringtun takes a late answer to either at any time, which would
    /// put keys in use that the peer has counted the age of for longer.
    awaited: [Option<u32>; 2],
    /// Counts initiations; the jitter is taken from it.
    initiations: u32,
    unreachable: bool,
    last_session: Option<Moment>,
    /// Since when we owe the peer a sign of life.
    keepalive_due: Option<Moment>,
    /// Since when we have sent data without hearing anything.
    unanswered: Option<Moment>,
    /// How long there is to be silence towards the peer at most.
    persistent: Option<Duration>,
    /// When something sealed was last sent.
    sent_at: Moment,
    /// Holds a packet while it is padded.
    padded: Vec<u8>,
    stats: TunnelStats,
}

impl Tunnel {
    /// `index` has 24 bits and is the node's only tunnel with it.
    pub fn new(
        private: &PrivateKey,
        peer: PublicKey,
        preshared: Option<&PresharedKey>,
        index: u32,
        now: Moment,
    ) -> Self {
        let unlimited = {
            let public = x25519_dalek::PublicKey::from(private.secret());
            // The gate has limited already.
            std::sync::Arc::new(boringtun::noise::rate_limiter::RateLimiter::new(&public, u64::MAX))
        };
        let tunn = Tunn::new(
            private.secret().clone(),
            peer.0.into(),
            preshared.map(|key| *key.expose()),
            None,
            index & 0x00ff_ffff,
            Some(unlimited),
        );
        Self {
            tunn,
            sessions: Sessions::default(),
            attempt: None,
            awaited: [None; 2],
            initiations: index,
            unreachable: false,
            last_session: None,
            keepalive_due: None,
            unanswered: None,
            persistent: None,
            sent_at: now,
            padded: Vec::new(),
            stats: TunnelStats::default(),
        }
    }

    /// Encrypts one IP packet into `out`, which holds `packet.len() + OVERHEAD` and [`crate::MIN_BUFFER`] bytes.
    pub fn seal<'a>(&mut self, packet: &[u8], out: &'a mut [u8], now: Moment) -> Sealed<'a> {
        let Some(len) = self.seal_padded(packet, out, now) else { return Sealed::NoSession };
        if !packet.is_empty() {
            self.unanswered.get_or_insert(now);
        }
        Sealed::Datagram(&out[..len])
    }

    fn seal_padded(&mut self, packet: &[u8], out: &mut [u8], now: Moment) -> Option<usize> {
        let session = self.sessions.current_mut().filter(|session| session.may_send(now))?;
        session.sent += 1;
        if session.initiator && (session.is_worn() || now.since(session.created) >= REKEY_AFTER_TIME) {
            // On sending, not by the clock alone: an idle tunnel falls silent (section 6.2).
            self.attempt.get_or_insert(Attempt { began: now, resend_at: now });
        }
        // Padded to 16 bytes (section 5.4.6), which boringtun leaves to its caller.
        let result = if packet.len().is_multiple_of(16) {
            self.tunn.encapsulate(packet, out)
        } else {
            self.padded.clear();
            self.padded.extend_from_slice(packet);
            self.padded.resize(packet.len().next_multiple_of(16), 0);
            self.tunn.encapsulate(&self.padded, out)
        };
        let len = written(result)?.len();
        self.stats.sent_bytes += len as u64;
        self.keepalive_due = None;
        self.sent_at = now;
        Some(len)
    }

    /// Takes a datagram that [`classify`] or [`crate::Gate`] found to be for this tunnel. `out` holds as many bytes as the
    /// datagram, and at least [`crate::MIN_BUFFER`].
    ///
    /// # Errors
    /// When it is not authentic, was seen before or is too old. Nothing has changed then.
    pub fn handle_datagram<'a>(
        &mut self,
        datagram: &[u8],
        out: &'a mut [u8],
        now: Moment,
    ) -> Result<Opened<'a>, TunnelError> {
        match classify(datagram).ok_or(TunnelError::Invalid)? {
            Kind::Initiation => self.handle_initiation(datagram, out, now),
            Kind::Response { .. } => self.handle_response(datagram, out, now),
            Kind::CookieReply { .. } => match self.tunn.decapsulate(None, datagram, out) {
                TunnResult::Done => {
                    // With the cookie, the next initiation is heard: no use in waiting for the full timeout.
                    if let Some(attempt) = &mut self.attempt {
                        attempt.resend_at = attempt.resend_at.min(now + Duration::from_millis(100));
                    }
                    Ok(Opened::Nothing)
                }
                _ => Err(TunnelError::Invalid),
            },
            Kind::Data { .. } => self.handle_data(datagram, out, now),
        }
    }

    fn handle_initiation<'a>(
        &mut self,
        datagram: &[u8],
        out: &'a mut [u8],
        now: Moment,
    ) -> Result<Opened<'a>, TunnelError> {
        self.date_sessions();
        let response = match self.tunn.decapsulate(None, datagram, out) {
            TunnResult::WriteToNetwork(response) => response,
            TunnResult::Err(WireGuardError::WrongTai64nTimestamp) => return Err(TunnelError::Replayed),
            _ => return Err(TunnelError::Invalid),
        };
        let len = response.len();
        let index = receiver(response, 4).ok_or(TunnelError::Invalid)?;
        self.sessions.establish(index, false, now);
        self.note_session(now);
        self.note_received(datagram.len());
        self.stats.sent_bytes += len as u64;
        Ok(Opened::Reply { datagram: &out[..len], session: self.has_session(now) })
    }

    fn handle_response<'a>(
        &mut self,
        datagram: &[u8],
        out: &'a mut [u8],
        now: Moment,
    ) -> Result<Opened<'a>, TunnelError> {
        let index = receiver(datagram, 8).filter(|index| self.awaited.contains(&Some(*index)));
        let index = index.ok_or(TunnelError::Invalid)?;
        let len = written(self.tunn.decapsulate(None, datagram, out)).ok_or(TunnelError::Invalid)?.len();
        self.sessions.establish(index, true, now);
        self.attempt = None;
        self.awaited = [None; 2];
        self.unreachable = false;
        self.note_session(now);
        self.note_received(datagram.len());
        // The first keepalive, which tells the responder that it may seal, is boringtun's.
        if let Some(session) = self.sessions.current_mut() {
            session.sent += 1;
        }
        self.stats.sent_bytes += len as u64;
        self.keepalive_due = None;
        self.sent_at = now;
        Ok(Opened::Reply { datagram: &out[..len], session: true })
    }

    fn handle_data<'a>(&mut self, datagram: &[u8], out: &'a mut [u8], now: Moment) -> Result<Opened<'a>, TunnelError> {
        let index = receiver(datagram, 4).ok_or(TunnelError::Invalid)?;
        let session = self.sessions.get(index).ok_or(TunnelError::UnknownSession)?;
        if session.is_expired(now) {
            return Err(TunnelError::Expired);
        }
        let packet_len = match self.tunn.decapsulate(None, datagram, out) {
            TunnResult::WriteToTunnelV4(packet, _) | TunnResult::WriteToTunnelV6(packet, _) => Some(packet.len()),
            TunnResult::Done => None,
            TunnResult::Err(WireGuardError::DuplicateCounter | WireGuardError::InvalidCounter) => {
                return Err(TunnelError::Replayed);
            }
            TunnResult::Err(WireGuardError::InvalidPacket) => {
                // The seal held; what was inside is no IP packet.
                self.note_confirmed(index, datagram.len(), now);
                return Err(TunnelError::NotIp);
            }
            _ => return Err(TunnelError::Invalid),
        };
        self.note_confirmed(index, datagram.len(), now);
        let Some(len) = packet_len else { return Ok(Opened::Keepalive) };
        self.keepalive_due.get_or_insert(now + KEEPALIVE_TIMEOUT);
        // boringtun opens at the start of the buffer.
        Ok(Opened::Packet(&mut out[..len]))
    }

    fn note_confirmed(&mut self, index: u32, len: usize, now: Moment) {
        if self.sessions.confirm(index) {
            // The peer's own handshake came to an end before ours: there is nothing left to be reached by it.
            self.attempt = None;
            self.awaited = [None; 2];
            self.unreachable = false;
        }
        self.note_received(len);
        let aging = self.sessions.current().filter(|s| s.initiator && now.since(s.created) >= REKEY_ON_RECEIVE);
        if aging.is_some() && self.attempt.is_none() {
            self.attempt = Some(Attempt { began: now, resend_at: now });
        }
    }

    fn note_received(&mut self, len: usize) {
        self.stats.received_bytes += len as u64;
        self.unanswered = None;
    }

    fn note_session(&mut self, now: Moment) {
        self.last_session = Some(now);
        self.stats.last_handshake = Some(now);
    }

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

    fn initiate<'a>(&mut self, began: Moment, out: &'a mut [u8], now: Moment) -> Option<&'a [u8]> {
        self.date_sessions();
        let initiation = written(self.tunn.format_handshake_initiation(out, true))?;
        let len = initiation.len();
        self.awaited = [receiver(initiation, SENDER), self.awaited[0]];
        self.initiations = self.initiations.wrapping_add(1);
        // Up to 333 ms (section 6.1), spread over tunnels and attempts without asking for randomness.
        let jitter = Duration::from_millis(u64::from(self.initiations.wrapping_mul(0x9e37_79b9) >> 16) % 334);
        self.attempt = Some(Attempt { began, resend_at: now + REKEY_TIMEOUT + jitter });
        self.stats.sent_bytes += len as u64;
        Some(&out[..len])
    }

    /// Has boringtun date its newest session, so that the next one is newer. What it would send is not needed.
    fn date_sessions(&mut self) {
        let _ = self.tunn.update_timers(&mut [0; crate::MIN_BUFFER]);
    }

    /// What the timers want sent now: an initiation or a keepalive. Call until `None`.
    pub fn handle_timeout<'a>(&mut self, out: &'a mut [u8], now: Moment) -> Option<&'a [u8]> {
        if self.last_session.is_some_and(|last| now.since(last) >= FORGET) {
            self.sessions.clear();
            self.last_session = None;
            self.keepalive_due = None;
            self.date_sessions();
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
            let len = self.seal_padded(&[], out, now)?;
            return Some(&out[..len]);
        }
        if self.attempt.is_none() && self.persistent_at().is_some_and(|at| now >= at) {
            // Whatever comes of it, this was a try.
            self.sent_at = now;
            return match self.seal_padded(&[], out, now) {
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
        self.awaited = [None; 2];
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

    /// Whether a packet could be sealed now.
    pub fn has_session(&self, now: Moment) -> bool {
        self.sessions.current().is_some_and(|session| session.may_send(now))
    }

    /// Whether handshakes were given up (REKEY_ATTEMPT_TIME) since the last one was started.
    pub fn is_unreachable(&self) -> bool {
        self.unreachable
    }

    /// For showing.
    pub fn stats(&self) -> TunnelStats {
        self.stats
    }
}

impl std::fmt::Debug for Tunnel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tunnel")
            .field("sessions", &self.sessions)
            .field("attempt", &self.attempt)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
#[path = "tunnel_tests.rs"]
mod tests;
