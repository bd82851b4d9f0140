//! The command line. All but `serve` and `relay serve` asks a running coordinator through its admin API.
//!
//! Exit codes: 0 done, 1 refused or failed, 2 wrong input. With `--json`, standard output is one object or one list, and for
//! `activity tail` and `activity export` one object per line.

mod activity;
mod advice;
mod client;
mod declaration;
mod inquiry;
mod json;
mod lines;
mod plan;
mod policies;
mod relays;
mod render;
#[cfg(test)]
mod tests;
mod words;

use std::{
    ffi::OsString,
    io::Write as _,
    path::{Path, PathBuf},
    process::ExitCode,
};

use activity::words::ActivityWords;
use advice::AdviceWords;
use anyhow::{Context as _, Result};
use clap::{ArgMatches, CommandFactory as _, FromArgMatches as _, parser::ValueSource};
use client::Door;
use plan::Plan;
use policies::PolicyWords;
use postern_model::ApiKey;
use relays::{RelayServeWords, RelayWords};
use serde_json::Value;
use words::{Cli, ServeWords, Words};
use zeroize::Zeroizing;

use crate::{
    relay::{self, RelayConfig},
    serve::{ServeConfig, default_listen, serve},
};

const NAME: &str = "postern-coordinator";
/// Where an API key is looked for in the environment.
const API_KEY: &str = "POSTERN_API_KEY";
/// Wrong input.
const USAGE: u8 = 2;

/// Runs the program.
pub fn main() -> ExitCode {
    let (cli, explicit, is_given) = match parse(std::env::args_os()) {
        Ok(parsed) => parsed,
        Err(error) => error.exit(),
    };
    match cli.words {
        Words::Policy(PolicyWords::Schema) => {
            let _ = write!(std::io::stdout(), "{}", postern_policy::expert::SCHEMA);
            ExitCode::SUCCESS
        }
        Words::Policy(policies::PolicyWords::Declared(declaration::DeclarationWords::Test { path })) => {
            finish(declaration::test(&path, cli.json))
        }
        Words::Serve(words) => {
            log_to_stderr();
            finish(run_serve(&cli.state_dir, words).map(|()| ExitCode::SUCCESS))
        }
        Words::Relay(RelayWords::Serve(words)) => {
            log_to_stderr();
            // The default is the coordinator's.
            let state_dir = if is_given { cli.state_dir } else { relay::DEFAULT_STATE_DIR.into() };
            finish(run_relay(state_dir, words).map(|()| ExitCode::SUCCESS))
        }
        _ => match door(&cli, explicit) {
            Ok(door) => finish(run_admin(&door, cli)),
            Err(problem) => {
                eprintln!("{NAME}: {problem:#}");
                ExitCode::from(USAGE)
            }
        },
    }
}

fn finish(result: Result<ExitCode>) -> ExitCode {
    result.unwrap_or_else(|error| {
        eprintln!("{NAME}: {error:#}");
        ExitCode::FAILURE
    })
}

/// The words; whether the state directory was given among them, and whether it was given at all.
fn parse(words: impl IntoIterator<Item = OsString>) -> Result<(Cli, bool, bool), clap::Error> {
    let mut command = Cli::command();
    let matches: ArgMatches = command.try_get_matches_from_mut(words)?;
    let source = matches.value_source("state_dir");
    let is_explicit = source == Some(ValueSource::CommandLine);
    let is_given = source.is_some_and(|source| source != ValueSource::DefaultValue);
    let cli = Cli::from_arg_matches(&matches).map_err(|error| error.format(&mut command))?;
    Ok((cli, is_explicit, is_given))
}

/// Through which door to ask. Whoever names a state directory means the coordinator there, whatever key lies around in
/// the environment.
fn door(cli: &Cli, explicit_state_dir: bool) -> Result<Door> {
    let key = match &cli.api_key_file {
        Some(file) => {
            let text = std::fs::read_to_string(file).map(Zeroizing::new);
            let text = text.with_context(|| format!("the API key file {} can't be read", file.display()))?;
            Some(text.parse::<ApiKey>().with_context(|| file.display().to_string())?)
        }
        None if explicit_state_dir && cli.url.is_none() => None,
        None => match std::env::var(API_KEY).map(Zeroizing::new) {
            Ok(text) if !text.is_empty() => Some(text.parse::<ApiKey>().context(API_KEY)?),
            Ok(_) | Err(std::env::VarError::NotPresent) => None,
            Err(std::env::VarError::NotUnicode(_)) => {
                anyhow::bail!("{API_KEY}: this API key is damaged; copy it again")
            }
        },
    };
    match (key, &cli.url) {
        (Some(key), Some(url)) => Ok(Door::Network(url.0.clone(), Box::new(key))),
        (Some(key), None) => Ok(Door::Network(key.coordinator.clone(), Box::new(key))),
        (None, Some(_)) => anyhow::bail!(
            "--url needs an API key: put one into {API_KEY}, or into a file and name that with --api-key-file; 'apikey create' makes one"
        ),
        (None, None) => Ok(Door::Socket(cli.state_dir.clone())),
    }
}

fn run_serve(state_dir: &Path, words: ServeWords) -> Result<()> {
    let ServeWords { listen, public_address, lease, no_relay, activity } = words;
    let (state_dir, relay) = (state_dir.to_owned(), !no_relay);
    block_on(serve(ServeConfig { state_dir, listen, public_address, lease, relay, activity: activity.into() }))
}

fn run_relay(state_dir: PathBuf, words: RelayServeWords) -> Result<()> {
    let RelayServeWords { listen, trust, rate } = words;
    let listen = listen.unwrap_or_else(default_listen);
    // Megabits to bytes.
    block_on(relay::serve(RelayConfig { state_dir, listen, trust, rate: rate * 125_000 }))
}

fn block_on(service: impl Future<Output = Result<()>>) -> Result<()> {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().context("threads can't be started")?;
    let result = runtime.block_on(service);
    // What still runs has nothing left to say to anyone.
    runtime.shutdown_timeout(std::time::Duration::from_secs(1));
    result
}

fn run_admin(door: &Door, cli: Cli) -> Result<ExitCode> {
    if let Words::Policy(policies::PolicyWords::Declared(words)) = cli.words {
        return declaration::run(words, door, cli.json);
    }
    let is_verification = matches!(cli.words, Words::Audit(words::AuditWords::Verify));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let words = match cli.words {
        Words::Activity(words @ (ActivityWords::Tail { .. } | ActivityWords::Export { .. })) => {
            return runtime.block_on(activity::run(door, words, cli.json));
        }
        Words::Policy(PolicyWords::Advice(AdviceWords::Advise { since, out: Some(file) })) => {
            return runtime.block_on(advice::write(door, since, &file, cli.json));
        }
        words => words,
    };
    let Plan { call, tell } = plan::plan(words).context("nothing to ask for")?;
    let answer = runtime.block_on(door.call(call))?;
    // A broken chain is an answer like any other, but no success.
    let strange = "the coordinator's answer makes no sense; is it of another version?";
    let value: Value = serde_json::from_str(&answer).context(strange)?;
    let is_failure = is_verification && value["ok"] != Value::Bool(true);
    let text = if cli.json { json::indent(&answer) } else { tell(value).context(strange)? };
    // Whoever reads may have read enough.
    let _ = writeln!(std::io::stdout(), "{text}");
    Ok(if is_failure { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn log_to_stderr() {
    let filter = tracing_subscriber::EnvFilter::try_from_env("POSTERN_LOG");
    let filter = filter.unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    let is_terminal = std::io::IsTerminal::is_terminal(&std::io::stderr());
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(is_terminal).init();
}
