//! The only place in the coordinator that reads a clock; everything else takes the time as an argument.

use std::time::{SystemTime, UNIX_EPOCH};

use postern_model::Timestamp;

/// The wall clock, now.
#[allow(clippy::disallowed_methods, reason = "this is the one place")]
pub fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp::from_unix_millis(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}
