//! How often `/etc/resolv.conf` is taken again. A DHCP client that rewrites it is answered at once; with a program that wants
//! it for itself, taking it at once each time would keep both, and the machine's disk, busy forever.

use std::{collections::VecDeque, time::Duration};

use postern_model::Moment;

/// So often within [`PERIOD`] it is taken at once.
const AT_ONCE: usize = 3;
const PERIOD: Duration = Duration::from_secs(60);
/// From then on, it is left to the other program for so long each time.
const INTERVAL: Duration = Duration::from_secs(10);

/// When it was taken, and may be again.
#[derive(Debug, Default)]
pub(super) struct Pace {
    taken: VecDeque<Moment>,
    held_until: Option<Moment>,
}

impl Pace {
    /// Whether to take it now. If not, [`held_until`](Self::held_until) says when to ask again.
    pub(super) fn admit(&mut self, now: Moment) -> bool {
        while self.taken.front().is_some_and(|taken| now.since(*taken) >= PERIOD) {
            self.taken.pop_front();
        }
        let next = self.taken.back().filter(|_| self.taken.len() >= AT_ONCE).map(|last| *last + INTERVAL);
        self.held_until = next.filter(|next| *next > now);
        if self.held_until.is_none() {
            self.taken.push_back(now);
        }
        self.held_until.is_none()
    }

    /// Until when it is left to another program, if it is.
    pub(super) fn held_until(&self) -> Option<Moment> {
        self.held_until
    }

    /// Nobody else has it any more.
    pub(super) fn release(&mut self) {
        self.held_until = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_three_in_a_minute_are_at_once_and_the_rest_every_ten_seconds() {
        let start = Moment::from_boot(Duration::from_secs(1000));
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut pace = Pace::default();
        assert_eq!([0, 1, 2, 3, 11].map(|seconds| pace.admit(at(seconds))), [true, true, true, false, false]);
        assert_eq!(pace.held_until(), Some(at(12)));
        assert_eq!([12, 13, 22, 31, 32].map(|seconds| pace.admit(at(seconds))), [true, false, true, false, true]);
        assert_eq!(pace.held_until(), None);
        // After a while without a fight, at once again.
        assert_eq!([100, 101, 102, 103].map(|seconds| pace.admit(at(seconds))), [true, true, true, false]);
        pace.release();
        assert_eq!(pace.held_until(), None);
    }
}
