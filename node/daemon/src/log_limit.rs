//! What repeats is logged a few times, and then only how often it was not: a log must not fill the disk, least of all because
//! somebody else repeats it.

use std::time::Duration;

use postern_model::Moment;

/// So many lines in so much time.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LogLimit {
    lines: u32,
    period: Duration,
    began: Option<Moment>,
    said: u32,
    unsaid: u64,
}

impl Default for LogLimit {
    /// Ten lines in ten minutes: enough to see what goes on.
    fn default() -> Self {
        Self::new(10, Duration::from_secs(600))
    }
}

impl LogLimit {
    pub(crate) fn new(lines: u32, period: Duration) -> Self {
        Self { lines, period, began: None, said: 0, unsaid: 0 }
    }

    /// Whether to log this one; if so, how many were not logged since the last that was.
    pub(crate) fn admit(&mut self, now: Moment) -> Option<u64> {
        if self.began.is_none_or(|began| now.since(began) >= self.period) {
            (self.began, self.said) = (Some(now), 0);
        }
        if self.said == self.lines {
            self.unsaid += 1;
            return None;
        }
        self.said += 1;
        Some(std::mem::take(&mut self.unsaid))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_few_are_logged_and_the_rest_counted() {
        let mut limit = LogLimit::new(2, Duration::from_secs(60));
        let start = Moment::default();
        let mut admit = |seconds| limit.admit(start + Duration::from_secs(seconds));
        assert_eq!([admit(0), admit(1), admit(2), admit(59)], [Some(0), Some(0), None, None]);
        assert_eq!([admit(60), admit(61), admit(62)], [Some(2), Some(0), None]);
    }
}
