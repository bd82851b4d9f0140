//! The only place in this crate that reads a clock: the runtime's, so that tests may hold it.

use tokio::time::Instant;

/// Now.
pub(crate) fn now() -> Instant {
    Instant::now()
}
