//! The command line. Exit codes: 0 done, 1 refused or failed, 2 wrong input.

mod checks;
mod metrics;
mod render;
mod spawn;

use std::{
    io::Read as _,
    net::IpAddr,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context as _, Result, bail};
use clap::{Parser, Subcommand};
use postern_model::JoinToken;
use postern_statedir::OpenError;
use serde::Serialize;
use tokio::net::UnixStream;
use zeroize::Zeroizing;

use crate::{
    daemon, doctor,
    local::{
        client,
        protocol::{DownReply, ExplainedReply, PingReply, Request, ResourceRow, Status, UpReply, WhoisReply},
    },
    netcheck::{self, Known},
    os,
    state_dir::{Settings, StateDir},
};

/// Reach private resources by name, each through its own small door.
#[derive(Debug, Parser)]
#[command(name = "postern", version, propagate_version = true)]
struct Cli {
    /// Which node of this machine, by its state directory.
    #[arg(long, global = true, env = "POSTERN_STATE_DIR", default_value = "/var/lib/postern", value_name = "DIR")]
    state_dir: PathBuf,
    /// Print JSON.
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Words,
}

#[derive(Debug, Subcommand)]
enum Words {
    /// Bring the node up. The first time with a join token; '-' reads it from standard input.
    Up {
        /// The join token that your admin gave you.
        token: Option<String>,
        /// The UDP port that peers reach this node on, for good; without it, one is chosen and kept.
        #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
        port: Option<u16>,
        /// On a gateway: how much the records of flows that wait for the coordinator may take of the disk, for good; such as
        /// 256M. 64M unless told.
        #[arg(long, value_name = "SIZE", value_parser = size)]
        activity_spool: Option<u64>,
    },
    /// Take the node down until the next 'up'.
    Down,
    /// Take the node down and forget this device's identity.
    Logout,
    /// Show how the node is.
    Status,
    /// Print the node's counters in Prometheus' text format.
    Metrics,
    /// List what can be reached.
    Resources,
    /// Reach a resource through the tunnel; says by which path and how long it takes.
    Ping {
        /// The resource's name, or one of its DNS names.
        resource: String,
        /// How many times.
        #[arg(short, long, default_value_t = 1)]
        count: u32,
    },
    /// Look what the network lets through: UDP, NAT, relays, port mapping, proxy.
    Netcheck,
    /// Look for what is wrong, and say what to do about it. Exits with 1 if something does not work.
    Doctor,
    /// Say why a resource can be reached, or not, and what you can do about it.
    Explain {
        /// The resource's name, or one of its DNS names.
        resource: String,
    },
    /// On a gateway: say which device and user has an overlay address.
    Whois {
        /// An address that a server saw.
        address: IpAddr,
    },
    /// Run in the foreground, for service managers.
    Daemon {
        /// Leave the session of who started it.
        #[arg(long, hide = true)]
        own_session: bool,
    },
}

/// Runs the program.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("postern: the program can't start: {error}");
            return ExitCode::FAILURE;
        }
    };
    let result = runtime.block_on(run(cli));
    // Whatever still runs in the background has nothing more to say.
    runtime.shutdown_timeout(std::time::Duration::from_secs(1));
    match result {
        Ok(code) => code,
        Err(error) => {
            eprintln!("postern: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(cli: Cli) -> Result<ExitCode> {
    let Cli { state_dir, json, command } = cli;
    match command {
        Words::Daemon { own_session } => {
            log_to_stderr();
            if own_session {
                rustix::process::setsid().context("the daemon can't leave the session of who started it")?;
            }
            daemon::run(&state_dir).await?;
        }
        Words::Up { token, port, activity_spool } => {
            return up(&state_dir, token, (port, activity_spool), json).await;
        }
        Words::Down => print(json, &down(&state_dir, false).await?, render::down),
        Words::Logout => print(json, &down(&state_dir, true).await?, render::logout),
        Words::Status => {
            print(json, &status(&state_dir).await?, render::status);
        }
        Words::Metrics => {
            let status: Status = client::ask(running(&state_dir).await?, &Request::Status).await?;
            print(json, &status, metrics::text);
        }
        Words::Resources => {
            let rows: Vec<ResourceRow> = client::ask(running(&state_dir).await?, &Request::Resources).await?;
            print(json, &rows, |rows| render::resources(rows));
        }
        Words::Ping { resource, count } => {
            let request = Request::Ping { resource, count };
            let reply: PingReply = client::ask(running(&state_dir).await?, &request).await?;
            print(json, &reply, render::ping);
            if reply.milliseconds.iter().all(Option::is_none) {
                return Ok(ExitCode::FAILURE);
            }
        }
        Words::Explain { resource } => {
            let request = Request::Explain { resource };
            let reply: ExplainedReply = client::ask(running(&state_dir).await?, &request).await?;
            print(json, &reply, render::explain);
        }
        Words::Netcheck => {
            let report = match client::connect(&state_dir).await? {
                Some(daemon) => client::ask(daemon, &Request::Netcheck).await?,
                None => netcheck::run(Known::of(StateDir::identity_in(&state_dir)?.as_ref())).await,
            };
            print(json, &report, checks::netcheck);
        }
        Words::Doctor => {
            let facts = doctor::collect(&state_dir, status(&state_dir).await?).await?;
            let findings = doctor::findings(&facts);
            print(json, &findings, |findings| checks::doctor(findings));
            if doctor::is_ill(&findings) {
                return Ok(ExitCode::FAILURE);
            }
        }
        Words::Whois { address } => {
            let request = Request::Whois { addr: address };
            let reply: WhoisReply = client::ask(running(&state_dir).await?, &request).await?;
            print(json, &reply, render::whois);
        }
    }
    Ok(ExitCode::SUCCESS)
}

const NOT_RUNNING: &str = "the daemon is not running; 'postern up' starts it";
const NOT_ENROLLED: &str = "this device is not enrolled: ask your admin for a join token and run 'postern up TOKEN'";

async fn running(state_dir: &Path) -> Result<UnixStream> {
    let daemon = client::connect(state_dir).await?;
    daemon.with_context(|| without_daemon(state_dir).problem.unwrap_or_else(|| NOT_RUNNING.into()))
}

async fn status(state_dir: &Path) -> Result<Status> {
    match client::connect(state_dir).await? {
        Some(daemon) => client::ask(daemon, &Request::Status).await,
        None => Ok(without_daemon(state_dir)),
    }
}

/// How a node is that has no daemon: as its state directory says.
fn without_daemon(state_dir: &Path) -> Status {
    // Without the directory's lock: a daemon that starts at this moment needs it.
    match StateDir::identity_in(state_dir) {
        Ok(Some(identity)) => Status {
            enrolled: true,
            problem: Some(NOT_RUNNING.into()),
            id: Some(identity.device),
            name: Some(identity.name),
            coordinator: Some(identity.coordinator.to_string()),
            ..Status::default()
        },
        Ok(None) => Status { problem: Some(NOT_ENROLLED.into()), ..Status::default() },
        Err(error) => Status { problem: Some(format!("{error:#}")), ..Status::default() },
    }
}

async fn up(
    state_dir: &Path,
    token: Option<String>,
    (port, activity_spool): (Option<u16>, Option<u64>),
    json: bool,
) -> Result<ExitCode> {
    let token = match token {
        Some(dash) if dash == "-" => {
            let mut text = Zeroizing::new(String::new());
            std::io::stdin().read_to_string(&mut text).context("standard input can't be read")?;
            Some(text)
        }
        token => token.map(Zeroizing::new),
    };
    if let Some(text) = &token
        && let Err(error) = text.parse::<JoinToken>()
    {
        // Wrong input, told before anything is started.
        eprintln!("postern: {error}");
        return Ok(ExitCode::from(2));
    }
    let daemon = match client::connect(state_dir).await? {
        Some(daemon) => daemon,
        None => spawn::daemon(state_dir).await?,
    };
    let reply: UpReply = client::ask(daemon, &Request::Up { token, port, activity_spool }).await?;
    print(json, &reply, render::up);
    Ok(ExitCode::SUCCESS)
}

/// Bytes, from a number of them with `K`, `M` or `G` behind it, or nothing.
fn size(text: &str) -> Result<u64, String> {
    let (digits, shift) = match text.char_indices().next_back() {
        Some((at, 'K')) => (&text[..at], 10),
        Some((at, 'M')) => (&text[..at], 20),
        Some((at, 'G')) => (&text[..at], 30),
        _ => (text, 0),
    };
    let bytes = digits.parse::<u64>().ok().and_then(|number| number.checked_mul(1 << shift));
    bytes
        .filter(|bytes| (1 << 20..=1 << 40).contains(bytes))
        .ok_or_else(|| "use a size from 1M to 1024G, such as 256M".into())
}

/// Also without a daemon: what a crashed one left is set back.
async fn down(state_dir: &Path, logout: bool) -> Result<DownReply> {
    let request = if logout { Request::Logout } else { Request::Down };
    if let Some(daemon) = client::connect(state_dir).await? {
        return client::ask(daemon, &request).await;
    }
    if !state_dir.exists() {
        return Ok(DownReply { was_up: false, was_enrolled: false });
    }
    let state = match StateDir::open(state_dir) {
        Err(OpenError::InUse(_)) => bail!("the daemon is starting or stopping; try again"),
        opened => opened?,
    };
    os::recover(state.path()).await?;
    let settings = state.settings()?;
    state.set_settings(&Settings { up: false, ..settings.clone() })?;
    // A damaged identity is one, too, and this is how to be rid of it.
    let was_enrolled = !matches!(state.identity(), Ok(None));
    if logout {
        state.forget_identity()?;
    }
    Ok(DownReply { was_up: settings.up, was_enrolled })
}

fn print<T: Serialize>(json: bool, value: &T, human: impl FnOnce(&T) -> String) {
    use std::io::Write as _;
    let text = if json {
        serde_json::to_string_pretty(value).unwrap_or_else(|error| format!("{{\"error\": \"{error}\"}}"))
    } else {
        human(value)
    };
    // Whoever reads may have read enough.
    let _ = writeln!(std::io::stdout(), "{}", text.trim_end());
}

fn log_to_stderr() {
    let filter = tracing_subscriber::EnvFilter::try_from_env("POSTERN_LOG");
    // When the stream that carries QUIC ends, quinn's endpoint calls that an error; the node says itself what it means.
    let filter = filter.unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info,quinn::endpoint=off"));
    let is_terminal = std::io::IsTerminal::is_terminal(&std::io::stderr());
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(is_terminal).init();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_stand_before_or_after_the_command() {
        for words in
            [["postern", "--json", "--state-dir", "/x", "status"], ["postern", "status", "--state-dir", "/x", "--json"]]
        {
            let cli = Cli::try_parse_from(words).unwrap();
            assert!(cli.json && cli.state_dir == Path::new("/x"));
        }
    }

    #[test]
    fn sizes_have_units_and_bounds() {
        assert_eq!(
            [size("1M"), size("1048576"), size("2G"), size("1024K")].map(Result::unwrap),
            [1 << 20, 1 << 20, 2 << 30, 1 << 20]
        );
        for wrong in ["", "M", "1023K", "1025G", "99999999999999999999G", "18446744073709551615G", "-1M", "1 M", "64MB"]
        {
            assert!(size(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn wrong_input_exits_with_2() {
        let error = Cli::try_parse_from(["postern", "whois", "not-an-address"]).unwrap_err();
        assert_eq!(error.exit_code(), 2);
    }
}
