//! Waiting for something to become true, and saying what it was when it does not.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};

/// How long anything in the lab may take before it counts as broken. Generous: timing never decides a test.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Now, for measuring how long things took.
#[allow(clippy::disallowed_methods, reason = "the lab watches real processes in real time")]
pub fn now() -> Instant {
    Instant::now()
}

/// Calls `check` until it returns a value, for up to [`PATIENCE`].
///
/// # Errors
/// With `what` and the last error of `check`, when the time is over.
pub fn eventually<T>(what: &str, mut check: impl FnMut() -> Result<T>) -> Result<T> {
    let end = now() + PATIENCE;
    loop {
        match check() {
            Ok(value) => return Ok(value),
            Err(error) if now() >= end => bail!("waited {PATIENCE:?} in vain until {what}: {error:#}"),
            Err(_) => thread::sleep(Duration::from_millis(20)),
        }
    }
}
