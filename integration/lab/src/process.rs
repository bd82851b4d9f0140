//! Commands that run to their end, and processes in the background whose output is kept for when they fail.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};

use crate::wait::eventually;

/// What a command printed and how it ended.
#[derive(Debug, Clone)]
pub struct Output {
    /// The exit code; `None` when a signal ended it.
    pub code: Option<i32>,
    /// Standard output, lossily.
    pub stdout: String,
    /// Standard error, lossily.
    pub stderr: String,
}

impl Output {
    /// Whether it exited with 0.
    pub fn ok(&self) -> bool {
        self.code == Some(0)
    }

    /// Its standard output, if it exited with 0.
    ///
    /// # Errors
    /// With what it printed, if not.
    pub fn success(self) -> Result<String> {
        ensure!(self.ok(), "exit {:?}: {} {}", self.code, self.stdout.trim(), self.stderr.trim());
        Ok(self.stdout)
    }
}

/// Runs a command to its end.
///
/// # Errors
/// When it can't be started.
pub fn run(command: &mut Command) -> Result<Output> {
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("start {command:?}"))?;
    Ok(Output {
        code: output.status.code(),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    })
}

/// A process in the background. Dropping it kills it.
#[derive(Debug)]
pub struct Background {
    child: Child,
    log: PathBuf,
    keep: bool,
}

impl Background {
    /// Starts it with its output going to `log` (appended).
    ///
    /// # Errors
    /// When it can't be started.
    pub fn spawn(command: &mut Command, log: &Path) -> Result<Self> {
        let file =
            File::options().create(true).append(true).open(log).with_context(|| format!("open {}", log.display()))?;
        command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
        let child = command.spawn().with_context(|| format!("start {command:?}"))?;
        Ok(Self { child, log: log.to_owned(), keep: false })
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Bytes of memory that it has in use.
    pub fn resident(&self) -> Result<u64> {
        let file = format!("/proc/{}/status", self.pid());
        let text = fs::read_to_string(&file).with_context(|| format!("read {file}"))?;
        let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no 'VmRSS'")?;
        let kilobytes: u64 = line.trim().trim_end_matches("kB").trim().parse()?;
        Ok(kilobytes << 10)
    }

    /// Leaves it running when dropped.
    pub fn keep(&mut self) {
        self.keep = true;
    }

    /// What it printed so far.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// The exit code, if it has ended; a signal counts as -1.
    pub fn ended(&mut self) -> Option<i32> {
        self.child.try_wait().ok().flatten().map(|status| status.code().unwrap_or(-1))
    }

    /// Waits for its end and returns the exit code.
    pub fn wait(&mut self) -> Result<i32> {
        eventually("the process ends", || self.ended().context("it still runs")).with_context(|| self.log())
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let pid = Pid::from_raw(i32::try_from(self.pid())?).context("a process id")?;
        kill_process(pid, signal).context("signal the process")
    }

    /// Ends it at once, as `kill -9` does.
    pub fn kill(&mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Asks it to end, and waits.
    pub fn terminate(&mut self) -> Result<i32> {
        self.signal(Signal::TERM)?;
        self.wait()
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        if !self.keep {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}
