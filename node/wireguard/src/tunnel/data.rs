//! Data messages: the counters to seal them with, and what becomes of those that were opened.
//!
//! Sealing and opening themselves need no tunnel and may be done elsewhere ([`Sealer`], [`Opener`]). What is here is all
//! that has to be done in order, once for each batch or packet: nothing is copied, encrypted or allocated.

use std::time::Duration;

use postern_model::Moment;

use super::{Attempt, Opened, Sealed, Tunnel, TunnelError};
use crate::{
    HEADER, Opener, Sealer, TAG,
    constants::{KEEPALIVE_TIMEOUT, REJECT_AFTER_TIME, REKEY_AFTER_TIME, REKEY_TIMEOUT},
    receiver_index,
    transport::padded_len,
};

/// When an initiator that only receives makes a new key, so that the old one does not run out under the sender.
const REKEY_ON_RECEIVE: Duration =
    Duration::from_secs(REJECT_AFTER_TIME.as_secs() - KEEPALIVE_TIMEOUT.as_secs() - REKEY_TIMEOUT.as_secs());

impl Tunnel {
    /// The longest inner packet that the peer takes, up to which padding may go. Without it, all packets are padded to a
    /// multiple of 16 bytes.
    pub fn set_mtu(&mut self, mtu: u16) {
        self.mtu = usize::from(mtu);
    }

    /// Reserves counters for so many data packets of `bytes` in all (as datagrams), which are to be sealed and sent right away.
    /// For the timers they count as sent. Counters that are not used are lost, which costs nothing.
    ///
    /// `None` without a session that may send.
    pub fn sealer(&mut self, packets: u64, bytes: u64, now: Moment) -> Option<Sealer> {
        self.reserve(packets, bytes, true, now)
    }

    pub(super) fn reserve(&mut self, packets: u64, bytes: u64, is_data: bool, now: Moment) -> Option<Sealer> {
        let mtu = self.mtu;
        let session = self.sessions.current_mut().filter(|session| session.may_send(now))?;
        let sealer = session.reserve(packets, mtu)?;
        if packets == 0 {
            return Some(sealer);
        }
        let is_old = session.initiator && now.since(session.since) >= REKEY_AFTER_TIME;
        if is_old || session.is_worn() {
            // On sending, not by the clock alone: an idle tunnel falls silent (section 6.2).
            self.attempt.get_or_insert(Attempt { began: now, resend_at: now });
        }
        if is_data {
            self.unanswered.get_or_insert(now);
        }
        self.stats.sent_bytes += bytes;
        self.keepalive_due = None;
        self.sent_at = now;
        Some(sealer)
    }

    /// What opens data messages for a receiver index of 32 bits ([`receiver_index`]).
    ///
    /// # Errors
    /// `UnknownSession` when there is none; `Expired` when its keys are too old.
    pub fn opener(&self, index: u32, now: Moment) -> Result<Opener, TunnelError> {
        let session = self.sessions.get(index).ok_or(TunnelError::UnknownSession)?;
        if session.is_expired(now) { Err(TunnelError::Expired) } else { Ok(session.opener()) }
    }

    /// Takes note of a data message that an [`Opener`] of this tunnel has opened, which makes it authentic. Called once for
    /// each, in the order in which they came, before the packet goes any further. `bytes` is the datagram's length; `is_data`
    /// says that it is no keepalive.
    ///
    /// # Errors
    /// `Replayed`, or `UnknownSession` or `Expired` when the session has gone meanwhile. The packet has to be dropped then.
    pub fn accept(
        &mut self,
        index: u32,
        counter: u64,
        bytes: usize,
        is_data: bool,
        now: Moment,
    ) -> Result<(), TunnelError> {
        let session = self.sessions.get_mut(index).ok_or(TunnelError::UnknownSession)?;
        if session.is_expired(now) {
            return Err(TunnelError::Expired);
        }
        if !session.receive(counter) {
            return Err(TunnelError::Replayed);
        }
        if self.sessions.confirm(index) {
            // The peer's own handshake came to an end before ours: there is nothing left to be reached by it.
            self.attempt = None;
            self.handshake.forget();
            self.unreachable = false;
        }
        self.note_received(bytes);
        if self.attempt.is_none() {
            let aging = |s: &crate::session::Session| s.initiator && now.since(s.since) >= REKEY_ON_RECEIVE;
            if self.sessions.current().is_some_and(aging) {
                self.attempt = Some(Attempt { began: now, resend_at: now });
            }
        }
        if is_data {
            self.keepalive_due.get_or_insert(now + KEEPALIVE_TIMEOUT);
        }
        Ok(())
    }

    /// Encrypts one IP packet into `out`, which holds `packet.len() + OVERHEAD` and [`crate::MIN_BUFFER`] bytes: a convenience
    /// for few packets, which are copied.
    pub fn seal<'a>(&mut self, packet: &[u8], out: &'a mut [u8], now: Moment) -> Sealed<'a> {
        match self.seal_copy(packet, out, now) {
            Some(len) => Sealed::Datagram(&out[..len]),
            None => Sealed::NoSession,
        }
    }

    pub(super) fn seal_copy(&mut self, packet: &[u8], out: &mut [u8], now: Moment) -> Option<usize> {
        let len = HEADER + padded_len(packet.len(), self.mtu) + TAG;
        // Nothing is reserved for what does not fit.
        let out = out.get_mut(..len)?;
        out.get_mut(HEADER..HEADER + packet.len())?.copy_from_slice(packet);
        self.reserve(1, len as u64, !packet.is_empty(), now)?.seal(out, packet.len())
    }

    pub(super) fn handle_data<'a>(
        &mut self,
        datagram: &[u8],
        out: &'a mut [u8],
        now: Moment,
    ) -> Result<Opened<'a>, TunnelError> {
        let index = receiver_index(datagram).ok_or(TunnelError::Invalid)?;
        let opener = self.opener(index, now)?;
        let out = out.get_mut(..datagram.len()).ok_or(TunnelError::Invalid)?;
        out.copy_from_slice(datagram);
        let plain = opener.open(out)?;
        self.accept(index, plain.counter, datagram.len(), plain.len > 0, now)?;
        if plain.len == 0 {
            return Ok(Opened::Keepalive);
        }
        let inner = &mut out[HEADER..HEADER + plain.len];
        let len = ip_len(inner).ok_or(TunnelError::NotIp)?;
        Ok(Opened::Packet(&mut inner[..len]))
    }
}

/// How long an IP packet says that it is, if that much is there; what follows is padding.
fn ip_len(packet: &[u8]) -> Option<usize> {
    let field = |at: usize| Some(usize::from(u16::from_be_bytes(*packet.get(at..)?.first_chunk()?)));
    let (len, header) = match packet.first()? >> 4 {
        4 => (field(2)?, 20),
        6 => (field(4)? + 40, 40),
        _ => return None,
    };
    (header..=packet.len()).contains(&len).then_some(len)
}
