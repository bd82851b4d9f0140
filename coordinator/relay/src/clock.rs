//! The only place in the relay that reads a clock; everything else takes the time as an argument.

use std::{
    sync::LazyLock,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use postern_model::{Moment, Timestamp};

/// The wall clock, now: passes end by it.
#[allow(clippy::disallowed_methods, reason = "this is the one place")]
pub(crate) fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp::from_unix_millis(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}

/// A clock that nobody sets, now: for how long something takes. Starts when first asked, and not at zero.
#[allow(clippy::disallowed_methods, reason = "this is the one place")]
pub(crate) fn moment() -> Moment {
    static START: LazyLock<Instant> = LazyLock::new(Instant::now);
    Moment::from_boot(Duration::from_secs(1) + START.elapsed())
}
