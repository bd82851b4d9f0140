//! When each of many has something to do: only those whose time has come are looked at.

use std::{cmp::Reverse, collections::BinaryHeap};

use postern_model::{Moment, PublicKey};

/// The times of all peers. One that was put forward stays as well, comes for nothing, and is gone then: whoever takes it has to
/// compare it with what is armed, or each would arm another.
#[derive(Debug, Default)]
pub(super) struct Timers {
    due: BinaryHeap<Reverse<(Moment, PublicKey)>>,
}

impl Timers {
    /// Sees to it that a peer comes up at `at`, unless it does sooner; `armed` is when, and is the peer's.
    pub(super) fn arm(&mut self, armed: &mut Option<Moment>, at: Option<Moment>, key: PublicKey) {
        if let Some(at) = at.filter(|at| armed.is_none_or(|armed| *at < armed)) {
            *armed = Some(at);
            self.due.push(Reverse((at, key)));
        }
    }

    /// A time that has come, and whose it was. It counts, and disarms the peer, if that is what the peer was armed with.
    pub(super) fn pop(&mut self, now: Moment) -> Option<(Moment, PublicKey)> {
        if self.poll_timeout()? > now {
            return None;
        }
        self.due.pop().map(|Reverse(due)| due)
    }

    /// When the next one comes up.
    pub(super) fn poll_timeout(&self) -> Option<Moment> {
        self.due.peek().map(|Reverse((at, _))| *at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::time::Duration;

    fn at(seconds: u64) -> Moment {
        Moment::default() + Duration::from_secs(seconds)
    }

    proptest! {
        /// Whatever is armed, nobody comes later than at the earliest time that it asked for since it came last.
        #[test]
        fn nobody_comes_too_late(steps in prop::collection::vec((0_u8..5, 0_u64..20), 1..80)) {
            let mut timers = Timers::default();
            let (mut armed, mut wanted) = ([None; 5], [None::<Moment>; 5]);
            for (now, (who, wait)) in (0..).zip(steps) {
                while let Some((time, PublicKey([who, ..]))) = timers.pop(at(now)) {
                    if armed[usize::from(who)] == Some(time) {
                        (armed[usize::from(who)], wanted[usize::from(who)]) = (None, None);
                    }
                }
                prop_assert!(wanted.iter().flatten().all(|wanted| *wanted > at(now)));
                let nth = usize::from(who);
                let due = at(now + wait);
                timers.arm(&mut armed[nth], Some(due), PublicKey([who; 32]));
                wanted[nth] = Some(wanted[nth].map_or(due, |before| before.min(due)));
                prop_assert!(timers.poll_timeout() <= wanted.iter().flatten().min().copied());
            }
        }

        /// Invariant: traffic that goes on for ever, with timers that are put forward and set anew again and again, keeps no more
        /// times than were put forward within the longest of them.
        #[test]
        fn times_that_were_put_forward_are_no_debt(nearer in 1_u64..15, farther in 15_u64..30, often in 1_u64..4) {
            let (mut timers, mut armed, key) = (Timers::default(), None, PublicKey([1; 32]));
            for now in 0..2000 {
                while let Some((time, _)) = timers.pop(at(now)) {
                    if armed == Some(time) {
                        armed = None;
                        timers.arm(&mut armed, Some(at(now + farther)), key);
                    }
                }
                timers.arm(&mut armed, Some(at(now + farther)), key);
                if now % often == 0 {
                    timers.arm(&mut armed, Some(at(now + nearer)), key);
                }
                prop_assert!(timers.due.len() <= 32, "{} at {now}", timers.due.len());
            }
        }
    }
}
