//! How often something may be done, by all together.

use std::time::Duration;

use tokio::time::Instant;

/// So many at once, and then so many each second.
#[derive(Debug)]
pub(crate) struct Pace {
    burst: u32,
    every: Duration,
    left: u32,
    since: Instant,
}

impl Pace {
    /// `per_second` (not 0) each second; as many at once.
    pub(crate) fn new(per_second: u32, now: Instant) -> Self {
        Self { burst: per_second, every: Duration::from_secs(1) / per_second, left: per_second, since: now }
    }

    /// Whether it may be done now, which then counts.
    pub(crate) fn take(&mut self, now: Instant) -> bool {
        let passed = now.saturating_duration_since(self.since);
        let earned = u32::try_from(passed.as_nanos() / self.every.as_nanos()).unwrap_or(u32::MAX);
        if earned >= self.burst - self.left {
            (self.left, self.since) = (self.burst, now);
        } else {
            self.left += earned;
            self.since += self.every * earned;
        }
        let may = self.left > 0;
        self.left -= u32::from(may);
        may
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_at_once_and_then_as_they_are_earned() {
        let start = crate::clock::now();
        let at = |millis| start + Duration::from_millis(millis);
        let mut pace = Pace::new(1000, start);
        let mut taken = |millis, tries: usize| (0..tries).filter(|_| pace.take(at(millis))).count();
        assert_eq!(taken(0, 5000), 1000);
        assert_eq!(taken(10, 5000), 10);
        assert_eq!(taken(10, 5000), 0);
        assert_eq!(taken(60_000, 5000), 1000, "what is not used is not saved up");
    }

    #[test]
    fn what_is_earned_in_parts_is_not_lost() {
        let start = crate::clock::now();
        let mut pace = Pace::new(1000, start);
        assert_eq!((0..5000).filter(|_| pace.take(start)).count(), 1000);
        let taken = (1..=4000).filter(|i| pace.take(start + Duration::from_micros(250 * i))).count();
        assert_eq!(taken, 1000, "within a second, looked at each 250 µs");
    }
}
