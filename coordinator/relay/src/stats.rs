//! What a relay has come to: counters that all its threads add to.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Counters of a relay.
#[derive(Debug, Default)]
pub(crate) struct Stats {
    pub(crate) datagrams: AtomicU64,
    pub(crate) bytes: AtomicU64,
    pub(crate) malformed: AtomicU64,
    pub(crate) no_peer: AtomicU64,
    pub(crate) rate: AtomicU64,
    pub(crate) full: AtomicU64,
}

/// What has been counted up to now, and what is there now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Connections.
    pub connections: usize,
    /// Channels of all of them.
    pub channels: usize,
    /// Datagrams forwarded since the start.
    pub datagrams: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Datagrams dropped since the start.
    pub dropped: Drops,
}

/// Datagrams dropped, by reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Drops {
    /// They could not be read.
    pub malformed: u64,
    /// The channel is none, or its peer is not there.
    pub no_peer: u64,
    /// The node sends more than one node may.
    pub rate: u64,
    /// The peer does not take them as fast as they come, or could never take one as long.
    pub full: u64,
}

impl Stats {
    pub(crate) fn counts(&self, connections: usize, channels: usize) -> Counts {
        let dropped = Drops {
            malformed: self.malformed.load(Relaxed),
            no_peer: self.no_peer.load(Relaxed),
            rate: self.rate.load(Relaxed),
            full: self.full.load(Relaxed),
        };
        let (datagrams, bytes) = (self.datagrams.load(Relaxed), self.bytes.load(Relaxed));
        Counts { connections, channels, datagrams, bytes, dropped }
    }

    pub(crate) fn add(counter: &AtomicU64, amount: u64) {
        counter.fetch_add(amount, Relaxed);
    }
}
