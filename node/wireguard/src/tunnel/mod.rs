//! One peer: handshakes, sessions, data messages, and the timers of section 6 of the WireGuard paper.
//!
//! - here: the state, and what each handshake message does to it
//! - [`data`]: counters to seal with, and what becomes of opened data messages
//! - [`timers`]: when to start handshakes, and when to send a sign of life
//! - [`results`]: what a tunnel answers

mod data;
mod results;
mod timers;

use std::time::Duration;

use postern_model::{Moment, PresharedKey, PublicKey};

pub use self::results::{Opened, Sealed, TunnelError, TunnelStats};
use crate::{
    Kind, PrivateKey, classify,
    handshake::{Handshake, Keys},
    session::Sessions,
};

/// With a cookie, the next initiation is heard: it follows after so long instead of the full timeout.
const COOKIE_DELAY: Duration = Duration::from_millis(100);

/// A handshake under way.
#[derive(Debug, Clone, Copy)]
struct Attempt {
    began: Moment,
    resend_at: Moment,
}

/// The state machine of one peer.
///
/// `start_handshake`, `seal`, `sealer`, `opener`, `accept` and `handle_datagram` take what comes; `poll_timeout` says when
/// `handle_timeout` is due.
pub struct Tunnel {
    handshake: Handshake,
    sessions: Sessions,
    attempt: Option<Attempt>,
    /// The last session index that was given out: 24 bits are the tunnel's, the low 8 count.
    last_index: u32,
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
    /// How far padding may go.
    mtu: usize,
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
        Self {
            handshake: Handshake::new(private, peer, preshared),
            sessions: Sessions::default(),
            attempt: None,
            last_index: index << 8,
            initiations: index,
            unreachable: false,
            last_session: None,
            keepalive_due: None,
            unanswered: None,
            persistent: None,
            sent_at: now,
            mtu: usize::from(u16::MAX),
            stats: TunnelStats::default(),
        }
    }

    /// Takes a datagram that [`classify`] or [`crate::Gate`] found to be for this tunnel. `out` holds as many bytes as the
    /// datagram, and at least [`crate::MIN_BUFFER`]. For many data messages, [`Self::opener`] saves the copy.
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
            Kind::CookieReply { .. } => {
                self.handshake.take_cookie(datagram, now)?;
                if let Some(attempt) = &mut self.attempt {
                    attempt.resend_at = attempt.resend_at.min(now + COOKIE_DELAY);
                }
                Ok(Opened::Nothing)
            }
            Kind::Data { .. } => self.handle_data(datagram, out, now),
        }
    }

    fn handle_initiation<'a>(
        &mut self,
        datagram: &[u8],
        out: &'a mut [u8],
        now: Moment,
    ) -> Result<Opened<'a>, TunnelError> {
        let index = self.next_index();
        let (keys, len) = self.handshake.respond(datagram, index, out, now)?;
        self.last_index = index;
        self.establish(&keys, false, datagram.len(), now);
        self.stats.sent_bytes += len as u64;
        Ok(Opened::Reply { datagram: &out[..len], session: self.has_session(now) })
    }

    fn handle_response<'a>(
        &mut self,
        datagram: &[u8],
        out: &'a mut [u8],
        now: Moment,
    ) -> Result<Opened<'a>, TunnelError> {
        let keys = self.handshake.complete(datagram, now)?;
        self.establish(&keys, true, datagram.len(), now);
        self.attempt = None;
        self.unreachable = false;
        // The first keepalive tells the responder that it may seal.
        match self.seal_copy(&[], out, now) {
            Some(len) => Ok(Opened::Reply { datagram: &out[..len], session: true }),
            None => Ok(Opened::Nothing),
        }
    }

    fn establish(&mut self, keys: &Keys, initiator: bool, bytes: usize, now: Moment) {
        self.sessions.establish(keys, initiator, now);
        self.last_session = Some(now);
        self.stats.last_handshake = Some(now);
        self.note_received(bytes);
    }

    fn note_received(&mut self, bytes: usize) {
        self.stats.received_bytes += bytes as u64;
        self.unanswered = None;
    }

    /// An index that no session and no handshake of the tunnel has.
    fn next_index(&self) -> u32 {
        let after = |index: u32| index & !0xff | index.wrapping_add(1) & 0xff;
        let mut index = after(self.last_index);
        // Ends: there are 256, and at most five are in use.
        while self.sessions.get(index).is_some() || self.handshake.awaits(index) {
            index = after(index);
        }
        index
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
mod tests;
