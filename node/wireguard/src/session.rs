//! The key pairs of a tunnel: three at most, each with its counters.
//!
//! One of them seals. The others are the one before, by which packets may still come, and one that the peer has made and not
//! used yet. Newer ones drive out older ones, but never the one that seals; a handshake that the peer repeats therefore
//! does not take away the session that its first answer has begun.

use std::{fmt, ops::Range};

use postern_model::Moment;

use crate::{
    Opener, Sealer,
    constants::{REJECT_AFTER_MESSAGES, REJECT_AFTER_TIME, REKEY_AFTER_MESSAGES, REKEY_TIMEOUT},
    handshake::Keys,
    replay::Window,
    transport::{TransportKey, transport_key},
};

/// Sessions of a tunnel.
const SESSIONS: usize = 3;

/// One key pair.
pub(crate) struct Session {
    /// Our receiver index.
    pub(crate) index: u32,
    /// The peer's.
    peer_index: u32,
    pub(crate) since: Moment,
    /// Whether we began the handshake; only the initiator rekeys by age.
    pub(crate) initiator: bool,
    /// The next counter to seal with: all below are used or reserved.
    next: u64,
    /// Rises with each session of the tunnel.
    order: u64,
    seal: TransportKey,
    open: TransportKey,
    received: Window,
}

impl Session {
    pub(crate) fn is_expired(&self, now: Moment) -> bool {
        now.since(self.since) >= REJECT_AFTER_TIME
    }

    pub(crate) fn may_send(&self, now: Moment) -> bool {
        // The peer counts from another moment, and the packet has a way to go: it must not come too late.
        let is_fresh = now.since(self.since) < REJECT_AFTER_TIME - REKEY_TIMEOUT;
        is_fresh && self.next < REJECT_AFTER_MESSAGES
    }

    pub(crate) fn is_worn(&self) -> bool {
        self.next >= REKEY_AFTER_MESSAGES
    }

    /// Takes so many counters out of those that are left; `None` when there are not as many.
    pub(crate) fn reserve(&mut self, packets: u64, mtu: usize) -> Option<Sealer> {
        let end = self.next.checked_add(packets).filter(|end| *end <= REJECT_AFTER_MESSAGES)?;
        let counters: Range<u64> = self.next..end;
        self.next = end;
        Some(Sealer::new(self.seal.clone(), self.peer_index, counters, mtu))
    }

    pub(crate) fn opener(&self) -> Opener {
        Opener::new(self.open.clone(), self.index)
    }

    /// Notes an authentic counter; `false` when it is not new.
    pub(crate) fn receive(&mut self, counter: u64) -> bool {
        self.received.accept(counter)
    }

    /// As if so many had been sent.
    #[cfg(test)]
    pub(crate) fn skip_to(&mut self, counter: u64) {
        self.next = counter;
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("Session");
        shown.field("index", &self.index).field("peer_index", &self.peer_index).field("since", &self.since);
        shown.field("initiator", &self.initiator).field("next", &self.next).finish_non_exhaustive()
    }
}

/// The key pairs of a tunnel, and the one that seals.
#[derive(Debug, Default)]
pub(crate) struct Sessions {
    slots: [Option<Box<Session>>; SESSIONS],
    /// The index of the one that seals.
    current: Option<u32>,
    made: u64,
}

impl Sessions {
    /// Takes a new key pair. The initiator seals with it at once; the responder only once the initiator has.
    pub(crate) fn establish(&mut self, keys: &Keys, initiator: bool, now: Moment) {
        for slot in &mut self.slots {
            slot.take_if(|session| session.is_expired(now));
        }
        self.made += 1;
        let session = Session {
            index: keys.index,
            peer_index: keys.peer_index,
            since: keys.since,
            initiator,
            next: 0,
            order: self.made,
            seal: transport_key(&keys.seal),
            open: transport_key(&keys.open),
            received: Window::new(),
        };
        let current = self.current;
        let age = |slot: &Option<Box<Session>>| match slot {
            None => 0,
            Some(session) if Some(session.index) == current => u64::MAX,
            Some(session) => session.order,
        };
        // A free one, or else the oldest that does not seal.
        if let Some(slot) = self.slots.iter_mut().min_by_key(|slot| age(slot)) {
            *slot = Some(Box::new(session));
        }
        if initiator {
            self.current = Some(keys.index);
        }
    }

    pub(crate) fn get(&self, index: u32) -> Option<&Session> {
        self.slots.iter().flatten().find(|session| session.index == index).map(|session| &**session)
    }

    pub(crate) fn get_mut(&mut self, index: u32) -> Option<&mut Session> {
        self.slots.iter_mut().flatten().find(|session| session.index == index).map(|session| &mut **session)
    }

    pub(crate) fn current(&self) -> Option<&Session> {
        self.get(self.current?)
    }

    pub(crate) fn current_mut(&mut self) -> Option<&mut Session> {
        self.get_mut(self.current?)
    }

    /// An authentic packet came on this session: it seals from now on, unless a newer one does. Whether that is news.
    pub(crate) fn confirm(&mut self, index: u32) -> bool {
        if self.current == Some(index) {
            return false;
        }
        let order = |index| self.get(index).map(|session| session.order);
        let is_news = order(index) >= self.current.and_then(order);
        if is_news {
            self.current = Some(index);
        }
        is_news
    }

    pub(crate) fn clear(&mut self) {
        *self = Self { made: self.made, ..Self::default() };
    }
}
