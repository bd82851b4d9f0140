//! Which peers are still to be called, a few at a time: a gateway that was restarted has all its clients to call, and each
//! handshake costs as much as hundreds of packets, which must not wait for all of them.

use std::{collections::VecDeque, time::Duration};

use postern_model::{Moment, PublicKey};

/// So many at a time.
const AT_ONCE: usize = 64;
/// Then packets have their turn for so long.
const PAUSE: Duration = Duration::from_millis(20);

/// Peers that wait for their call.
#[derive(Debug, Default)]
pub(super) struct Calls {
    waiting: VecDeque<PublicKey>,
    next: Option<Moment>,
}

impl Calls {
    /// The peer is to be called.
    pub(super) fn add(&mut self, key: PublicKey) {
        self.waiting.push_back(key);
    }

    /// Those whose turn it is. Some of them may be no peers any more.
    pub(super) fn take(&mut self, now: Moment) -> Vec<PublicKey> {
        if self.waiting.is_empty() || self.next.is_some_and(|next| next > now) {
            return Vec::new();
        }
        self.next = Some(now + PAUSE);
        self.waiting.drain(..AT_ONCE.min(self.waiting.len())).collect()
    }

    /// When [`take`](Self::take) is due.
    pub(super) fn poll_timeout(&self) -> Option<Moment> {
        self.next.filter(|_| !self.waiting.is_empty())
    }
}
