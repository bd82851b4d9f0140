//! The product's own processes, driven through their command lines as people do.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::{
    process::{Background, Output, run},
    topology::Host,
    wait::eventually,
};

/// The port that coordinators in the lab listen on.
pub const PORT: u16 = 8443;

/// The built binary with this name: from `POSTERN_BIN_DIR`, or beside the running test.
///
/// # Errors
/// When it has not been built.
pub fn binary(name: &str) -> Result<PathBuf> {
    let dir = match std::env::var_os("POSTERN_BIN_DIR") {
        Some(dir) => PathBuf::from(dir),
        None => {
            let exe = std::env::current_exe()?;
            let dir = exe.parent().context("the test's directory")?;
            if dir.ends_with("deps") {
                dir.parent().context("the target directory")?.to_owned()
            } else {
                dir.to_owned()
            }
        }
    };
    let path = dir.join(name);
    ensure!(path.exists(), "{} is not built; run 'cargo build' first", path.display());
    Ok(path)
}

/// A coordinator in a host.
#[derive(Debug)]
pub struct Coordinator {
    host: Host,
    state: PathBuf,
    address: String,
    options: Vec<String>,
    process: Option<Background>,
}

impl Coordinator {
    /// Starts one that is reached at `address`, with more options for `serve`.
    pub fn start(host: &Host, address: &str, options: &[&str]) -> Result<Self> {
        let state = host.dir().join("coordinator");
        let options = options.iter().map(ToString::to_string).collect();
        let mut coordinator = Self { host: host.clone(), state, address: address.into(), options, process: None };
        coordinator.resume()?;
        Ok(coordinator)
    }

    /// Starts it again with the same state.
    pub fn resume(&mut self) -> Result<()> {
        let mut command = self.host.command(&binary("postern-coordinator")?.to_string_lossy());
        command.arg("serve").arg("--state-dir").arg(&self.state);
        let address = if self.address.contains(':') { format!("[{}]", self.address) } else { self.address.clone() };
        command.args(["--public-address", &format!("{address}:{PORT}")]).args(&self.options);
        let process = self.process.insert(self.host.spawn("coordinator", &mut command)?);
        let state = &self.state;
        eventually("the coordinator answers", || {
            ensure!(process.ended().is_none(), "it ended");
            ctl(state, &["user", "list"])?.success()
        })
        .with_context(|| process.log())?;
        Ok(())
    }

    /// From the next start on it says that it is reached there.
    pub fn set_address(&mut self, address: &str) {
        address.clone_into(&mut self.address);
    }

    /// Where it runs.
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// Its state directory.
    pub fn state_dir(&self) -> &Path {
        &self.state
    }

    /// The running process.
    pub fn process(&mut self) -> Result<&mut Background> {
        self.process.as_mut().context("the coordinator is not running")
    }

    /// `kill -9`.
    pub fn kill(&mut self) -> Result<()> {
        self.process()?.kill()
    }

    /// Runs an admin command, whatever comes of it.
    pub fn run(&self, words: &[&str]) -> Result<Output> {
        ctl(&self.state, words)
    }

    /// Runs an admin command with `--json` that must succeed.
    pub fn ctl(&self, words: &[&str]) -> Result<Value> {
        let stdout = ctl(&self.state, &[words, &["--json"]].concat())?.success().with_context(|| words.join(" "))?;
        serde_json::from_str(&stdout).with_context(|| format!("{}: not JSON: {stdout}", words.join(" ")))
    }

    /// Starts an admin command that goes on until its handle is dropped; it prints into its log.
    pub fn begin(&self, name: &str, words: &[&str]) -> Result<Background> {
        let mut command = self.host.command(&binary("postern-coordinator")?.to_string_lossy());
        self.host.spawn(name, command.arg("--state-dir").arg(&self.state).args(words))
    }

    /// Adds a policy (`["allow", "user:alice", "wiki"]`), and returns its id.
    pub fn policy(&self, words: &[&str]) -> Result<String> {
        let policy = self.ctl(&[&["policy"], words].concat())?;
        Ok(policy["id"].as_str().with_context(|| format!("no 'id' in {policy}"))?.to_owned())
    }

    /// What the change that touched this object (`policy:ID`) has come to, once its gateways enforce it.
    pub fn enforced(&self, object: &str) -> Result<Value> {
        eventually(&format!("the change of {object} is enforced"), || {
            let changes = self.ctl(&["change", "list"])?;
            let is_of_it = |change: &&Value| change["what"].to_string().contains(object);
            let found = changes.as_array().context("a list")?.iter().find(is_of_it);
            let change = found.with_context(|| format!("no such change: {changes}"))?;
            let change = self.ctl(&["change", "show", &change["revision"].to_string()])?;
            ensure!(change["enforced"] == change["nodes"], "{change}");
            Ok(change)
        })
    }

    /// Makes a join token; `words` say for whom (`["--user", "alice"]`).
    pub fn token(&self, words: &[&str]) -> Result<String> {
        let token = self.ctl(&[&["token", "create"], words].concat())?;
        Ok(token["token"].as_str().context("no 'token' in the answer")?.to_owned())
    }

    /// The rows of a list command whose field `field` is `value`.
    pub fn find(&self, list: &[&str], field: &str, value: &str) -> Result<Value> {
        let rows = self.ctl(list)?;
        let rows = rows.as_array().with_context(|| format!("{}: not a list", list.join(" ")))?;
        let found = rows.iter().find(|row| row[field] == value);
        found.cloned().with_context(|| format!("{}: none with {field} = {value}: {rows:?}", list.join(" ")))
    }
}

fn ctl(state: &Path, words: &[&str]) -> Result<Output> {
    run(Command::new(binary("postern-coordinator")?).arg("--state-dir").arg(state).args(words))
}

/// A node in a host.
#[derive(Debug)]
pub struct Node {
    host: Host,
    state: PathBuf,
    environment: Vec<(String, String)>,
    process: Option<Background>,
}

impl Node {
    /// Starts the daemon.
    pub fn start(host: &Host) -> Result<Self> {
        Self::start_in(host, host.dir().join("node"))
    }

    /// Starts the daemon with this state directory.
    pub fn start_in(host: &Host, state: PathBuf) -> Result<Self> {
        Self::start_with(host, state, &[])
    }

    /// Starts the daemon with this state directory and more variables in its environment, also when it is started again.
    pub fn start_with(host: &Host, state: PathBuf, environment: &[(&str, &str)]) -> Result<Self> {
        let environment = environment.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
        let mut node = Self { host: host.clone(), state, environment, process: None };
        node.resume()?;
        Ok(node)
    }

    /// Starts the daemon again with the same state.
    pub fn resume(&mut self) -> Result<()> {
        let mut command = self.host.named_command(&binary("postern")?.to_string_lossy());
        command.arg("daemon").arg("--state-dir").arg(&self.state).envs(self.environment.iter().cloned());
        self.process = Some(self.host.spawn("node", &mut command)?);
        eventually("the daemon answers", || {
            ensure!(self.process.as_mut().is_some_and(|process| process.ended().is_none()), "it ended");
            ensure!(self.json(&["status"])?["running"] == true, "it does not answer yet");
            Ok(())
        })
        .with_context(|| self.log())?;
        Ok(())
    }

    /// Starts the daemon and brings the node up with a token.
    pub fn join(host: &Host, token: &str) -> Result<Self> {
        let node = Self::start(host)?;
        node.up(Some(token))?;
        Ok(node)
    }

    /// `postern up [TOKEN]`; must succeed.
    pub fn up(&self, token: Option<&str>) -> Result<String> {
        let words: Vec<_> = ["up"].into_iter().chain(token).collect();
        self.run(&words)?.success().with_context(|| format!("postern up\n{}", self.log()))
    }

    /// Where the node is.
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// Its state directory.
    pub fn state_dir(&self) -> &Path {
        &self.state
    }

    /// What the daemon printed.
    pub fn log(&self) -> String {
        self.process.as_ref().map(Background::log).unwrap_or_default()
    }

    /// The running daemon.
    pub fn process(&mut self) -> Result<&mut Background> {
        self.process.as_mut().context("the daemon is not running")
    }

    /// Runs a `postern` command against this node, whatever comes of it.
    pub fn run(&self, words: &[&str]) -> Result<Output> {
        let mut command = self.host.command(&binary("postern")?.to_string_lossy());
        run(command.arg("--state-dir").arg(&self.state).args(words))
    }

    /// Runs a `postern` command with `--json` that must succeed.
    pub fn json(&self, words: &[&str]) -> Result<Value> {
        let stdout = self.run(&[words, &["--json"]].concat())?.success().with_context(|| words.join(" "))?;
        serde_json::from_str(&stdout).with_context(|| format!("{}: not JSON: {stdout}", words.join(" ")))
    }
}
