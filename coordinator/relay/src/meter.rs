//! [`Meter`]: a token bucket. Pure; the time is an argument.

use std::time::Duration;

use postern_model::Moment;

/// Lets through so much per second, and so much at once.
#[derive(Debug, Clone)]
pub struct Meter {
    rate: u64,
    burst: u64,
    level: u64,
    /// Up to when the level was filled; what is less than one unit is not lost, since it stands still until then.
    filled: Moment,
}

impl Meter {
    /// `rate` units per second, of which `burst` may come at once. Begins full.
    pub fn new(rate: u64, burst: u64, now: Moment) -> Self {
        Self { rate: rate.max(1), burst, level: burst, filled: now }
    }

    /// Whether so many units may pass now; they count if so.
    pub fn take(&mut self, units: u64, now: Moment) -> bool {
        self.fill(now);
        let may = self.level >= units;
        if may {
            self.level -= units;
        }
        may
    }

    /// How long until a unit may pass; takes it then.
    pub fn wait(&mut self, now: Moment) -> Duration {
        if self.take(1, now) {
            return Duration::ZERO;
        }
        // It is taken ahead of time.
        let wait = Duration::from_nanos(1_000_000_000_u64.div_ceil(self.rate));
        self.filled = self.filled + wait;
        (self.filled).since(now)
    }

    fn fill(&mut self, now: Moment) {
        let passed = now.since(self.filled);
        let gained = passed.as_nanos().saturating_mul(self.rate.into()) / 1_000_000_000;
        if gained == 0 {
            return;
        }
        self.level = self.burst.min(self.level.saturating_add(u64::try_from(gained).unwrap_or(u64::MAX)));
        self.filled = if self.level == self.burst {
            now
        } else {
            let took = gained.saturating_mul(1_000_000_000) / u128::from(self.rate);
            self.filled + Duration::from_nanos(u64::try_from(took).unwrap_or(u64::MAX))
        };
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(micros: u64) -> Moment {
        Moment::from_boot(Duration::from_micros(micros))
    }

    #[test]
    fn what_waits_is_let_through_at_the_rate() {
        let mut meter = Meter::new(100, 3, at(0));
        let mut now = 0;
        let mut waits = Vec::new();
        for _ in 0..6 {
            let wait = meter.wait(at(now));
            waits.push(wait.as_millis());
            now += u64::try_from(wait.as_micros()).unwrap();
        }
        assert_eq!(waits, [0, 0, 0, 10, 10, 10]);
    }

    proptest! {
        #[test]
        fn never_more_than_the_burst_and_the_rate_and_never_much_less(
            rate in 1_u64..1_000_000, burst in 1_u64..10_000, steps in prop::collection::vec((0_u64..100_000, 1_u64..500), 1..200),
        ) {
            let mut meter = Meter::new(rate, burst, at(0));
            let (mut now, mut passed, mut refused) = (0, 0_u64, false);
            for (wait, units) in steps {
                now += wait;
                if meter.take(units, at(now)) { passed += units } else { refused = true }
                let most = burst + rate * now / 1_000_000;
                prop_assert!(passed <= most, "{passed} of {most}");
            }
            prop_assert!(refused || passed > 0);
        }
    }
}
