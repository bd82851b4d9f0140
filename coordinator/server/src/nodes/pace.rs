//! Two ways to say "not so often", both pure: a bucket of tokens that fills up again, and at most one per interval.

use std::time::Duration;

use postern_model::Moment;

/// How much may come at once, and how long one more takes to be allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Rate {
    pub(super) burst: u32,
    pub(super) every: Duration,
}

/// A bucket of tokens; full at first.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bucket {
    rate: Rate,
    /// When it will be full again; in the past when it is.
    full_at: Moment,
}

impl Bucket {
    pub(super) const fn new(rate: Rate) -> Self {
        Self { rate, full_at: Moment::from_boot(Duration::ZERO) }
    }

    /// Takes a token, if there is one.
    pub(super) fn take(&mut self, now: Moment) -> bool {
        let full_at = self.full_at.max(now) + self.rate.every;
        let is_there = full_at.since(now) <= self.rate.every.saturating_mul(self.rate.burst);
        if is_there {
            self.full_at = full_at;
        }
        is_there
    }

    /// Puts a token back that was taken for nothing.
    pub(super) fn put_back(&mut self) {
        self.full_at = Moment::from_boot(self.full_at.since_boot().saturating_sub(self.rate.every));
    }

    pub(super) fn is_full(&self, now: Moment) -> bool {
        self.full_at <= now
    }
}

/// At most one per interval.
#[derive(Debug, Clone, Copy)]
pub(super) struct Spacing {
    every: Duration,
    next: Moment,
}

impl Spacing {
    pub(super) const fn new(every: Duration) -> Self {
        Self { every, next: Moment::from_boot(Duration::ZERO) }
    }

    /// Takes the turn, if it has come; else says how long until it does.
    pub(super) fn take(&mut self, now: Moment) -> Result<(), Duration> {
        let wait = self.next.since(now);
        if !wait.is_zero() {
            return Err(wait);
        }
        self.next = now + self.every;
        Ok(())
    }

    pub(super) fn is_over(&self, now: Moment) -> bool {
        self.next <= now
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const RATE: Rate = Rate { burst: 3, every: Duration::from_secs(10) };

    fn at(seconds: u64) -> Moment {
        Moment::from_boot(Duration::from_secs(seconds))
    }

    #[test]
    fn a_bucket_gives_its_burst_and_then_one_at_a_time() {
        for start in [0, 1000] {
            let mut bucket = Bucket::new(RATE);
            let taken: Vec<_> = (0..4).map(|_| bucket.take(at(start))).collect();
            assert_eq!(taken, [true, true, true, false]);
            assert!(!bucket.take(at(start + 9)) && !bucket.is_full(at(start + 29)));
            assert!(bucket.take(at(start + 10)) && !bucket.take(at(start + 10)));
            assert!(bucket.is_full(at(start + 40)));
        }
    }

    #[test]
    fn what_is_put_back_can_be_taken() {
        let mut bucket = Bucket::new(RATE);
        for _ in 0..20 {
            assert!(bucket.take(at(5)));
            bucket.put_back();
        }
    }

    #[test]
    fn spacing_lets_one_through_per_interval() {
        let mut spacing = Spacing::new(Duration::from_secs(10));
        assert_eq!(spacing.take(at(3)), Ok(()));
        assert_eq!(spacing.take(at(4)), Err(Duration::from_secs(9)));
        assert!(!spacing.is_over(at(12)) && spacing.is_over(at(13)));
        assert_eq!(spacing.take(at(13)), Ok(()));
        assert_eq!(spacing.take(at(13)), Err(Duration::from_secs(10)));
    }

    proptest! {
        #[test]
        fn in_no_window_more_than_burst_and_rate(steps in prop::collection::vec(0_u64..20, 1..200)) {
            let mut bucket = Bucket::new(RATE);
            let mut now = 100;
            let mut taken = Vec::new();
            for step in steps {
                now += step;
                if bucket.take(at(now)) {
                    taken.push(now);
                }
            }
            for (i, first) in taken.iter().enumerate() {
                for (j, last) in taken.iter().enumerate().skip(i) {
                    prop_assert!((j - i + 1) as u64 <= 3 + (last - first) / 10);
                }
            }
        }
    }
}
