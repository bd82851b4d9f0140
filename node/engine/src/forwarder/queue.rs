//! Packets that wait for a peer's session: few, for a short time, in order.

use std::{collections::VecDeque, time::Duration};

use postern_model::Moment;

/// More packets than this do not wait for one peer: as many as wait for a grant.
pub(super) const MAX_PACKETS: usize = 1024;
/// More bytes than this do not wait for one peer.
pub(super) const MAX_BYTES: usize = 256 * 1024;
/// What has waited this long is of no use to whoever sent it.
pub(super) const MAX_AGE: Duration = Duration::from_secs(10);

/// The queue of one peer.
#[derive(Debug, Default)]
pub(super) struct Queue {
    packets: VecDeque<(Moment, Vec<u8>)>,
    bytes: usize,
}

impl Queue {
    /// Keeps a copy of the packet at the end; `false` when the queue is full.
    pub(super) fn push(&mut self, packet: &[u8], now: Moment) -> bool {
        if self.packets.len() >= MAX_PACKETS || self.bytes + packet.len() > MAX_BYTES {
            return false;
        }
        self.bytes += packet.len();
        self.packets.push_back((now, packet.to_vec()));
        true
    }

    /// Takes the first packet.
    pub(super) fn pop(&mut self) -> Option<Vec<u8>> {
        let (_, packet) = self.packets.pop_front()?;
        self.bytes -= packet.len();
        Some(packet)
    }

    /// Drops what has waited too long; returns how many.
    pub(super) fn expire(&mut self, now: Moment) -> usize {
        let mut expired = 0;
        while self.expires_at().is_some_and(|at| at <= now) {
            self.pop();
            expired += 1;
        }
        expired
    }

    /// Drops what does not pass `keep`; returns how many.
    pub(super) fn retain(&mut self, mut keep: impl FnMut(&[u8]) -> bool) -> usize {
        let before = self.packets.len();
        self.packets.retain(|(_, packet)| keep(packet));
        self.bytes = self.packets.iter().map(|(_, packet)| packet.len()).sum();
        before - self.packets.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.packets.is_empty()
    }

    /// When the first packet has waited too long.
    pub(super) fn expires_at(&self) -> Option<Moment> {
        self.packets.front().map(|(since, _)| *since + MAX_AGE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_come_out_in_order_and_the_queue_is_bounded() {
        let mut queue = Queue::default();
        for i in 0..MAX_PACKETS {
            assert!(queue.push(&[(i % 256) as u8], Moment::default()));
        }
        assert!(!queue.push(&[99], Moment::default()), "one too many");
        assert_eq!(queue.pop().unwrap(), [0]);
        assert_eq!(queue.retain(|packet| packet[0] % 2 == 0), MAX_PACKETS / 2);
        assert_eq!(queue.pop().unwrap(), [2]);

        let mut queue = Queue::default();
        for _ in 0..4 {
            assert!(queue.push(&[0; MAX_BYTES / 4], Moment::default()));
        }
        assert!(!queue.push(&[0], Moment::default()), "one byte too many");
        queue.pop();
        assert!(queue.push(&[0], Moment::default()));
    }

    #[test]
    fn packets_expire_at_their_age() {
        let mut queue = Queue::default();
        let later = Moment::default() + Duration::from_secs(1);
        queue.push(&[1], Moment::default());
        queue.push(&[2], later);
        assert_eq!(queue.expires_at(), Some(Moment::default() + MAX_AGE));
        assert_eq!(queue.expire(Moment::default() + MAX_AGE), 1);
        assert_eq!(queue.expires_at(), Some(later + MAX_AGE));
    }
}
