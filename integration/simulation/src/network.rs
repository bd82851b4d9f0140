//! The network between the nodes: loses, duplicates, delays and thereby reorders datagrams, by its seed alone.

use std::{net::SocketAddr, time::Duration};

use crate::random::Random;

/// More datagrams than this are not remembered for being replayed.
const REMEMBERED: usize = 256;

/// What the network does to datagrams. It reorders whatever its delay leaves room for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quality {
    /// So many of a hundred are lost.
    pub loss: u8,
    /// So many of a hundred arrive once more.
    pub duplication: u8,
    /// The shortest and the longest delay.
    pub delay: (Duration, Duration),
}

impl Quality {
    /// Nothing is lost, and everything arrives in order.
    pub const PERFECT: Self =
        Self { loss: 0, duplication: 0, delay: (Duration::from_millis(10), Duration::from_millis(10)) };
}

/// A datagram that was sent.
#[derive(Debug, Clone)]
pub(crate) struct Datagram {
    pub(crate) from: SocketAddr,
    pub(crate) to: SocketAddr,
    pub(crate) bytes: Vec<u8>,
    /// When its sender made it.
    pub(crate) sent_at: Duration,
}

/// The network, with an eavesdropper that remembers what it saw.
#[derive(Debug)]
pub(crate) struct Network {
    pub(crate) quality: Quality,
    random: Random,
    seen: Vec<Datagram>,
    next_seen: usize,
}

impl Network {
    pub(crate) fn new(quality: Quality, seed: u64) -> Self {
        Self { quality, random: Random::new(seed), seen: Vec::new(), next_seen: 0 }
    }

    /// When a datagram that is sent now arrives, for each time that it does.
    pub(crate) fn carry(&mut self, datagram: &Datagram) -> Vec<Duration> {
        self.remember(datagram);
        let copies = 1 + usize::from(self.random.chance(self.quality.duplication));
        let copies = if self.random.chance(self.quality.loss) { copies - 1 } else { copies };
        let (least, most) = self.quality.delay;
        (0..copies).map(|_| datagram.sent_at + self.random.between(least, most)).collect()
    }

    fn remember(&mut self, datagram: &Datagram) {
        if self.seen.len() < REMEMBERED {
            self.seen.push(datagram.clone());
        } else {
            self.seen[self.next_seen] = datagram.clone();
            self.next_seen = (self.next_seen + 1) % REMEMBERED;
        }
    }

    /// One that the eavesdropper saw.
    pub(crate) fn remembered(&self, which: usize) -> Option<Datagram> {
        (!self.seen.is_empty()).then(|| self.seen[which % self.seen.len()].clone())
    }
}
