//! How quickly a connection is there that nobody has asked for before, and what it costs to be reachable: on the real programs
//! in network namespaces.
//!
//! - [`first_byte`]: from `curl` to the first byte, without a grant at first
//! - [`relayed`]: what passes a relay, and what that costs it
//! - [`crowd`]: devices that do nothing, and what a coordinator and a relay pay for them

mod crowd;
mod first_byte;
mod relayed;

use anyhow::{Context as _, Result};
pub(crate) use crowd::hold;
use postern_lab::{Office, eventually};
use serde_json::json;

use crate::figures::table;

/// So many idle sessions are measured.
const CROWD: usize = 1000;

/// Measures everything, with so many rounds of what is measured in rounds.
pub(crate) fn run(rounds: u32, json: bool) -> Result<()> {
    let first_byte = first_byte::measure(rounds)?;
    let relayed = relayed::measure()?;
    println!();
    let (with_session, mut rows) = sessions(false)?;
    let (with_both, more) = sessions(true)?;
    rows.extend(more);
    table(&["1,000 idle devices, each with", "memory before, MiB", "after, MiB", "each, KiB"], &rows);
    if json {
        let all = json!({
            "first_byte": first_byte, "relayed": relayed, "session_kib": with_session,
            "session_and_relay_kib": with_both,
        });
        println!("{}", serde_json::to_string_pretty(&all)?);
    }
    Ok(())
}

/// By how much a coordinator's memory grows for each idle device that has a session, and perhaps waits at its relay.
fn sessions(at_relay: bool) -> Result<(f64, Vec<Vec<String>>)> {
    let mut office = Office::new(&[])?;
    let uses = CROWD.to_string();
    let token = office.coordinator.token(&["--user", "alice", "--uses", &uses])?;
    let before = office.coordinator.process()?.resident()?;
    let program = std::env::current_exe()?;
    let mut crowd = office.laptop.command(program.to_str().context("the program's path is not text")?);
    crowd.args(["crowd", &token, &uses]).args(at_relay.then_some("--at-relay"));
    let crowd = office.laptop.spawn("crowd", &mut crowd)?;
    eventually("all devices are there", || {
        anyhow::ensure!(crowd.log().contains("sessions"), "{}", crowd.log());
        Ok(())
    })?;
    let after = office.coordinator.process()?.resident()?;
    #[allow(clippy::cast_precision_loss, reason = "a figure for people")]
    let each = after.saturating_sub(before) as f64 / CROWD as f64 / 1024.0;
    let what = if at_relay { "a session and a relay's connection" } else { "a session" };
    Ok((each, vec![vec![what.to_owned(), mebibytes(before), mebibytes(after), format!("{each:.1}")]]))
}

#[allow(clippy::cast_precision_loss, reason = "a figure for people")]
fn mebibytes(bytes: u64) -> String {
    format!("{:.1}", bytes as f64 / f64::from(1 << 20))
}
