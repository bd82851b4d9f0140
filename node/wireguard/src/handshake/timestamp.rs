//! The timestamps in initiations (section 5.1 of the WireGuard paper), which keep old ones from being played again.
//!
//! A peer remembers the highest of this node's and takes none below it, also after this node was restarted: so they come
//! from the wall clock, and this is the one place outside a `clock.rs` that reads one. It is not an argument because
//! whoever forgot to let it rise would shut the node out, and nothing else ever depends on it.
//!
//! What goes out is rounded down, so that nobody reads the clock's fine steps off it, and then made to rise: by one
//! nanosecond at least from any to the next in this process, whatever is done to the clock.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, SystemTime},
};

/// 2^24 ns, about 17 ms.
const STEP: u64 = 1 << 24;
/// TAI64's label for the Unix epoch, with the 37 seconds by which TAI is ahead of UTC.
const TAI64_EPOCH: u64 = (1 << 62) + 37;

/// The last one that was handed out, in nanoseconds since the Unix epoch.
static LAST: AtomicU64 = AtomicU64::new(0);

/// A TAI64N label. Its bytes compare as the times do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(super) struct Timestamp(pub(super) [u8; 12]);

impl Timestamp {
    /// One that is higher than all before.
    pub(super) fn next() -> Self {
        let now = read_clock();
        let mut next = now;
        // Always stored, so there is nothing to make of the result.
        let _ = LAST.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |last| {
            next = after(last, now);
            Some(next)
        });
        Self::at(next)
    }

    fn at(nanos: u64) -> Self {
        let time = Duration::from_nanos(nanos);
        let mut bytes = [0; 12];
        bytes[..8].copy_from_slice(&(TAI64_EPOCH + time.as_secs()).to_be_bytes());
        bytes[8..].copy_from_slice(&time.subsec_nanos().to_be_bytes());
        Self(bytes)
    }
}

/// The time rounded down, or just after the last one if that is later.
fn after(last: u64, now: u64) -> u64 {
    (now & !(STEP - 1)).max(last.saturating_add(1))
}

/// Nanoseconds since the Unix epoch; 0 before it.
#[allow(clippy::disallowed_methods)] // See above: the one clock that can't be an argument.
fn read_clock() -> u64 {
    let since_epoch = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since_epoch.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_higher_than_the_last() {
        let mut last = Timestamp::default();
        for _ in 0..1000 {
            let next = Timestamp::next();
            assert!(next > last);
            last = next;
        }
    }

    #[test]
    fn they_rise_with_the_clock_and_do_not_fall_with_it() {
        assert_eq!(after(0, 10 * STEP + 12345), 10 * STEP, "rounded down");
        assert_eq!(after(10 * STEP, 10 * STEP + 99), 10 * STEP + 1);
        assert_eq!(after(10 * STEP + 1, 11 * STEP + 5), 11 * STEP);
        assert_eq!(after(11 * STEP, 0), 11 * STEP + 1, "the clock was set back");
        assert_eq!(after(u64::MAX, 0), u64::MAX, "some 500 years on");
    }

    #[test]
    fn they_are_tai64n() {
        let stamp = Timestamp::at(1_000_000_000 * 5 + 7);
        assert_eq!(stamp.0, [0x40, 0, 0, 0, 0, 0, 0, 42, 0, 0, 0, 7]);
    }
}
