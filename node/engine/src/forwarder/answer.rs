//! Refusals: every drop is counted, and answered where the sender is known and has a right to know.

use std::time::Duration;

use postern_model::{Moment, PublicKey};
use postern_packet::{Parsed, answer};

use super::{Forwarder, ForwarderSink};
use crate::DropReason;

/// Answers per second, to each of the two sides. A person or a program that retries needs few; a port scan needs none.
const PER_SECOND: u32 = 500;

/// Why a packet did not pass, and whether its sender is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    /// With a TCP reset, or ICMP "administratively prohibited".
    Answered(DropReason),
    /// With ICMP "too big", naming the length that would do.
    TooBig(u16),
    /// Not at all: the source may not be the sender, or there is nothing to be said.
    Silent(DropReason),
}

impl Refusal {
    fn reason(self) -> DropReason {
        match self {
            Self::Answered(reason) | Self::Silent(reason) => reason,
            Self::TooBig(_) => DropReason::TooBig,
        }
    }
}

/// Limits answers, so that refused packets can't make this node send at the pace of whoever sends them.
#[derive(Debug)]
pub(super) struct Answers {
    to_tun: Bucket,
    to_peers: Bucket,
}

impl Answers {
    pub(super) fn new(now: Moment) -> Self {
        let full = Bucket { left: PER_SECOND, filled: now };
        Self { to_tun: full, to_peers: full }
    }
}

#[derive(Debug, Clone, Copy)]
struct Bucket {
    left: u32,
    filled: Moment,
}

impl Bucket {
    fn take(&mut self, now: Moment) -> bool {
        if now.since(self.filled) >= Duration::from_secs(1) {
            *self = Self { left: PER_SECOND, filled: now };
        }
        let taken = self.left > 0;
        self.left = self.left.saturating_sub(1);
        taken
    }
}

impl Forwarder {
    /// Counts a packet from TUN that did not pass, and answers into TUN.
    pub(super) fn refuse_to_tun(
        &mut self,
        packet: &[u8],
        parsed: &Parsed,
        refusal: Refusal,
        sink: &mut impl ForwarderSink,
        now: Moment,
    ) {
        self.counters.count(refusal.reason());
        if write_answer(packet, parsed, refusal, &mut self.scratch) {
            if self.answers.to_tun.take(now) {
                sink.send_packet(&self.scratch);
            } else {
                self.counters.count(DropReason::ReplyLimit);
            }
        }
    }

    /// Counts a packet from a peer that did not pass, and answers through its tunnel.
    pub(super) fn refuse_to_peer(
        &mut self,
        peer: &PublicKey,
        packet: &[u8],
        parsed: &Parsed,
        refusal: Refusal,
        sink: &mut impl ForwarderSink,
        now: Moment,
    ) {
        self.counters.count(refusal.reason());
        if write_answer(packet, parsed, refusal, &mut self.scratch) {
            if self.answers.to_peers.take(now) {
                self.peers.send_now(peer, &self.scratch, sink, now);
            } else {
                self.counters.count(DropReason::ReplyLimit);
            }
        }
    }
}

/// Writes the answer to a refused packet; `false` when there is none.
fn write_answer(packet: &[u8], parsed: &Parsed, refusal: Refusal, out: &mut Vec<u8>) -> bool {
    match refusal {
        Refusal::Answered(_) => answer::reject(packet, parsed, out),
        Refusal::TooBig(mtu) => answer::too_big(packet, parsed, mtu, out),
        Refusal::Silent(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_is_full_again_after_a_second() {
        let start = Moment::default();
        let mut bucket = Bucket { left: PER_SECOND, filled: start };
        assert!((0..PER_SECOND).all(|_| bucket.take(start)));
        assert!(!bucket.take(start + Duration::from_millis(999)));
        assert!(bucket.take(start + Duration::from_secs(1)));
    }
}
