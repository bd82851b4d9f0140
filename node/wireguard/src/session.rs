//! What the facade remembers of each key pair, because boringtun doesn't say: when it was made, by whom, and how often it
//! was used.

use postern_model::Moment;

use crate::constants::{REJECT_AFTER_MESSAGES, REJECT_AFTER_TIME, REKEY_AFTER_MESSAGES, REKEY_TIMEOUT};

/// boringtun keeps this many sessions of a tunnel, at `index % SLOTS`.
const SLOTS: usize = 8;

/// One key pair.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Session {
    /// Our receiver index.
    pub(crate) index: u32,
    pub(crate) created: Moment,
    /// Whether we began the handshake; only the initiator rekeys by age.
    pub(crate) initiator: bool,
    /// Packets sealed with it.
    pub(crate) sent: u64,
    /// Rises with each session of the tunnel.
    order: u64,
}

impl Session {
    pub(crate) fn is_expired(&self, now: Moment) -> bool {
        now.since(self.created) >= REJECT_AFTER_TIME
    }

    pub(crate) fn may_send(&self, now: Moment) -> bool {
        // The peer counts from another moment, and the packet has a way to go: it must not come too late.
        let is_fresh = now.since(self.created) < REJECT_AFTER_TIME - REKEY_TIMEOUT;
        is_fresh && self.sent < REJECT_AFTER_MESSAGES
    }

    pub(crate) fn is_worn(&self) -> bool {
        self.sent >= REKEY_AFTER_MESSAGES
    }
}

/// The key pairs of a tunnel, and the one that seals.
#[derive(Debug, Default)]
pub(crate) struct Sessions {
    slots: [Option<Session>; SLOTS],
    current: Option<u32>,
    made: u64,
}

impl Sessions {
    /// Records a new key pair. The initiator seals with it at once; the responder only once the initiator has.
    pub(crate) fn establish(&mut self, index: u32, initiator: bool, now: Moment) {
        self.made += 1;
        let session = Session { index, created: now, initiator, sent: 0, order: self.made };
        self.slots[index as usize % SLOTS] = Some(session);
        if initiator {
            self.current = Some(index);
        }
    }

    pub(crate) fn get(&self, index: u32) -> Option<&Session> {
        self.slots[index as usize % SLOTS].as_ref().filter(|session| session.index == index)
    }

    pub(crate) fn current(&self) -> Option<&Session> {
        self.get(self.current?)
    }

    pub(crate) fn current_mut(&mut self) -> Option<&mut Session> {
        let index = self.current?;
        self.slots[index as usize % SLOTS].as_mut().filter(|session| session.index == index)
    }

    /// An authentic packet came on this session: it seals from now on, unless a newer one does. So does boringtun. Whether
    /// that is news.
    pub(crate) fn confirm(&mut self, index: u32) -> bool {
        let order = |index| self.get(index).map(|session| session.order);
        let is_news = self.current != Some(index) && order(index) >= self.current.and_then(order);
        if is_news {
            self.current = Some(index);
        }
        is_news
    }

    pub(crate) fn clear(&mut self) {
        *self = Self { made: self.made, ..Self::default() };
    }
}
