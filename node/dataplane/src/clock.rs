//! The one place that reads a clock.

use std::time::Duration;

use postern_model::Moment;
use rustix::time::{ClockId, clock_gettime};

/// Now, on the clock that runs through suspend (`CLOCK_BOOTTIME`): a lease ends while the lid is closed.
pub fn now() -> Moment {
    let time = clock_gettime(ClockId::Boottime);
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    let nanos = u32::try_from(time.tv_nsec).unwrap_or(0);
    Moment::from_boot(Duration::new(seconds, nanos))
}
