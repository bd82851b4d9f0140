//! Starts a daemon in the background when none is running: what `postern up` does on a machine without a service.

use std::{
    fs::OpenOptions,
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use postern_statedir::OpenError;
use tokio::net::UnixStream;

use crate::{
    local::client,
    state_dir::{LOG, StateDir},
};

/// How long a daemon may take until it answers.
const PATIENCE: Duration = Duration::from_secs(10);
/// A log longer than this, in bytes, is put aside in place of the one that was put aside before.
const MAX_LOG: u64 = 4 << 20;

/// Starts a daemon and returns once it answers.
pub(super) async fn daemon(state_dir: &Path) -> Result<UnixStream> {
    // Makes the directory, with the right mode, for the log.
    match StateDir::open(state_dir) {
        Ok(_) | Err(OpenError::InUse(_)) => {}
        Err(error) => return Err(error.into()),
    }
    let path = state_dir.join(LOG);
    if std::fs::metadata(&path).is_ok_and(|found| found.len() > MAX_LOG) {
        let _ = std::fs::rename(&path, path.with_extension("log.1"));
    }
    let log = OpenOptions::new().create(true).append(true).mode(0o600).open(&path);
    let log = log.with_context(|| format!("the daemon's log {} can't be written", path.display()))?;
    let program = std::env::current_exe().context("this program can't be found")?;
    let mut command = Command::new(program);
    // A session of its own: what ends the terminal, or its programs, does not end it.
    command.args(["daemon", "--own-session", "--state-dir"]).arg(state_dir).current_dir("/");
    command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
    let mut child = command.spawn().context("the daemon can't be started")?;
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        if let Some(daemon) = client::connect(state_dir).await? {
            return Ok(daemon);
        }
        if let Some(status) = child.try_wait()? {
            bail!("the daemon ended at once ({status}): {}", last_line(&path));
        }
        if tokio::time::Instant::now() >= deadline {
            bail!("the daemon does not answer; see {}", path.display());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn last_line(path: &Path) -> String {
    let log = std::fs::read(path).unwrap_or_default();
    let log = String::from_utf8_lossy(&log);
    log.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("it said nothing").to_owned()
}
