//! How quickly a connection is there that nobody has asked for before, and what it costs to be reachable: on the real programs
//! in network namespaces.
//!
//! - [`first_byte`]: from `curl` to the first byte, without a grant at first
//! - [`crowd`]: devices that do nothing, and what a coordinator pays for them

mod crowd;
mod first_byte;

use anyhow::{Context as _, Result};
pub(crate) use crowd::hold;
use postern_lab::{Office, eventually};
use serde_json::{Value, json};

use crate::figures::table;

/// So many idle sessions are measured.
const CROWD: usize = 1000;

/// Measures everything, with so many rounds of what is measured in rounds.
pub(crate) fn run(rounds: u32, json: bool) -> Result<()> {
    let first_byte = first_byte::measure(rounds)?;
    let sessions = sessions()?;
    if json {
        let all = json!({ "first_byte": first_byte, "coordinator_sessions": sessions });
        println!("{}", serde_json::to_string_pretty(&all)?);
    }
    Ok(())
}

/// What a coordinator's memory grows by for each idle session.
fn sessions() -> Result<Value> {
    let mut office = Office::new(&[])?;
    let uses = CROWD.to_string();
    let token = office.coordinator.token(&["--user", "alice", "--uses", &uses])?;
    let before = office.coordinator.process()?.resident()?;
    let program = std::env::current_exe()?;
    let mut crowd = office.laptop.command(program.to_str().context("the program's path is not text")?);
    crowd.args(["crowd", &token, &uses]);
    let crowd = office.laptop.spawn("crowd", &mut crowd)?;
    eventually("all devices are there", || {
        anyhow::ensure!(crowd.log().contains("sessions"), "{}", crowd.log());
        Ok(())
    })?;
    let after = office.coordinator.process()?.resident()?;
    #[allow(clippy::cast_precision_loss, reason = "a figure for people")]
    let each = after.saturating_sub(before) as f64 / CROWD as f64 / 1024.0;
    println!();
    table(
        &["a coordinator's idle sessions", "memory before, MiB", "after, MiB", "each, KiB"],
        &[vec![CROWD.to_string(), mebibytes(before), mebibytes(after), format!("{each:.1}")]],
    );
    Ok(json!({ "sessions": CROWD, "before_bytes": before, "after_bytes": after, "each_kib": each }))
}

#[allow(clippy::cast_precision_loss, reason = "a figure for people")]
fn mebibytes(bytes: u64) -> String {
    format!("{:.1}", bytes as f64 / f64::from(1 << 20))
}
