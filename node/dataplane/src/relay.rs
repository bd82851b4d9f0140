//! What goes to relays and comes from them: the lanes hand it over here, and know nothing of how it travels.

use std::{
    collections::VecDeque,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use postern_engine::Endpoint;
use postern_model::{PublicKey, RelayId};

/// So many datagrams may wait for the lane, and so many bytes of them: what 1 Gbit/s brings in 50 ms.
const MOST: usize = 4096;
const MOST_BYTES: usize = 8 << 20;

/// Takes datagrams to relays. Called by the lanes, with the forwarder's lock held at times: be quick.
pub trait RelayOut: Send + Sync {
    /// Sends a datagram to a peer through a relay; `may_split` says that it may travel in parts where it is too long for the
    /// relay's connection. Never blocks; `false` when it is full or the relay is away, or the datagram too long to go whole,
    /// which is counted as [`DropReason::RelayFull`](postern_engine::DropReason::RelayFull).
    fn send(&self, relay: RelayId, peer: &PublicKey, datagram: &[u8], may_split: bool) -> bool;
}

/// For where there are no relays: takes nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoRelays;

impl RelayOut for NoRelays {
    fn send(&self, _relay: RelayId, _peer: &PublicKey, _datagram: &[u8], _may_split: bool) -> bool {
        false
    }
}

/// What came from relays and waits for the lane.
#[derive(Debug, Default)]
pub(crate) struct Relayed {
    waiting: Mutex<Waiting>,
    /// What found no room.
    lost: AtomicU64,
}

#[derive(Debug, Default)]
struct Waiting {
    datagrams: VecDeque<(Endpoint, Vec<u8>)>,
    bytes: usize,
}

impl Relayed {
    /// Adds datagrams, as long as there is room; whether nothing was waiting before.
    pub(crate) fn push(&self, from: Endpoint, datagrams: Vec<Vec<u8>>) -> bool {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let was_empty = waiting.datagrams.is_empty();
        for datagram in datagrams {
            if waiting.datagrams.len() >= MOST || waiting.bytes + datagram.len() > MOST_BYTES {
                self.lost.fetch_add(1, Ordering::Relaxed);
                continue;
            }
            waiting.bytes += datagram.len();
            waiting.datagrams.push_back((from, datagram));
        }
        was_empty
    }

    /// Hands out datagrams in order until `take` wants no more; whether some are left.
    pub(crate) fn take(&self, mut take: impl FnMut(Endpoint, &[u8]) -> bool) -> bool {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some((from, datagram)) = waiting.datagrams.front() {
            if !take(*from, datagram) {
                return true;
            }
            waiting.bytes -= datagram.len();
            waiting.datagrams.pop_front();
        }
        false
    }

    /// How many were lost since the last time.
    pub(crate) fn take_lost(&self) -> usize {
        usize::try_from(self.lost.swap(0, Ordering::Relaxed)).unwrap_or(usize::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn datagrams_wait_in_order_and_no_more_than_there_is_room_for() {
        let from = Endpoint::Relayed { relay: RelayId::from_bytes([1; 16]), peer: PublicKey([2; 32]) };
        let relayed = Relayed::default();
        assert!(relayed.push(from, (0..MOST + 2).map(|nth| vec![(nth % 256) as u8]).collect()));
        assert!(!relayed.push(from, vec![vec![7]]), "something waits already");
        assert_eq!((relayed.take_lost(), relayed.take_lost()), (3, 0));
        let mut taken = Vec::new();
        assert!(relayed.take(|_, datagram| {
            let has_room = taken.len() < 2;
            taken.extend(has_room.then(|| datagram[0]));
            has_room
        }));
        assert_eq!(taken, [0, 1]);
        let mut rest = 0;
        assert!(!relayed.take(|_, _| {
            rest += 1;
            true
        }));
        assert_eq!(rest, MOST - 2);
        assert!(relayed.push(from, vec![vec![0; MOST_BYTES], vec![0]]));
        assert_eq!(relayed.take_lost(), 1, "one byte too many");
    }
}
