//! From the commit of a revocation to the last packet that a gateway lets through, with the real programs in network
//! namespaces: a coordinator, a gateway, a laptop that holds so many grants with a live flow each, and the server behind them.

use std::{collections::HashMap, time::Duration};

use anyhow::{Context as _, Result, ensure};
use postern_lab::{Background, Office, eventually, office::WIKI};
use serde_json::{Value, json};

use crate::{
    figures::{Times, millis, table, wall_clock},
    traffic::INTERVAL,
};

const GRANTS: [u16; 3] = [1, 10, 100];
const PORT: u16 = 9000;

pub(crate) fn run(rounds: u32, json: bool) -> Result<()> {
    let mut rows = Vec::new();
    let mut all = Vec::new();
    for grants in GRANTS {
        let (mut packets, mut acknowledged) = measure(grants, rounds)?;
        let (p50, p99) = (packets.percentile(0.5), packets.percentile(0.99));
        let (ack_p50, ack_p99) = (acknowledged.percentile(0.5), acknowledged.percentile(0.99));
        rows.push(vec![
            grants.to_string(),
            packets.len().to_string(),
            millis(p50),
            millis(p99),
            millis(ack_p50),
            millis(ack_p99),
        ]);
        all.push(json!({
            "grants": grants, "flows": packets.len(), "last_packet_p50_ms": p50.as_secs_f64() * 1e3,
            "last_packet_p99_ms": p99.as_secs_f64() * 1e3, "acknowledged_p50_ms": ack_p50.as_secs_f64() * 1e3,
            "acknowledged_p99_ms": ack_p99.as_secs_f64() * 1e3,
        }));
    }
    table(&["live grants", "flows cut", "last packet p50", "p99", "acknowledged p50", "p99"], &rows);
    println!(
        "Last packet: from when the coordinator began to commit the change to the last packet that reached the server \
         (packets are {INTERVAL:?} apart). Acknowledged: from the commit to the gateway's acknowledgement, per round."
    );
    if json {
        println!("{}", serde_json::to_string_pretty(&all)?);
    }
    Ok(())
}

fn measure(grants: u16, rounds: u32) -> Result<(Times, Times)> {
    let office = Office::new(&[])?;
    let _gateway = office.join_gateway()?;
    let laptop = office.join_laptop()?;
    let mut targets = Vec::new();
    for port in PORT..PORT + grants {
        let (name, port) = (format!("r{port}"), port.to_string());
        let words = ["resource", "add", &name, "--site", "office", "--target", WIKI, "--udp", &port, "--tag", "bench"];
        let added = office.coordinator.ctl(&words)?;
        targets.push(added["addr"]["v4"].as_str().context("a resource has an address")?.to_owned());
    }
    let program = std::env::current_exe()?;
    let program = program.to_str().context("the program's path is not text")?;
    let receiver = {
        let mut command = office.wiki.command(program);
        command.args(["receive", WIKI, &PORT.to_string(), &grants.to_string()]);
        office.wiki.spawn("receive", &mut command)?
    };
    let _sender = {
        let mut command = office.laptop.command(program);
        command.args(["send", &PORT.to_string()]).args(&targets);
        office.laptop.spawn("send", &mut command)?
    };
    let (mut packets, mut acknowledged) = (Times::default(), Times::default());
    for _ in 0..rounds {
        let policy = office.coordinator.ctl(&["policy", "allow", "user:alice", "tag:bench"])?;
        let started = wall_clock();
        eventually("all flows pass", || {
            let last = last(&receiver)?;
            let passing = last.values().filter(|at| **at > started).count();
            ensure!(passing == usize::from(grants), "{passing} of {grants}: {}", laptop.log());
            Ok(())
        })?;
        let id = policy["id"].as_str().context("a policy has an id")?;
        office.coordinator.ctl(&["policy", "remove", id])?;
        let change = eventually("the change is enforced", || {
            let change = office.coordinator.ctl(&["change", "show"])?;
            ensure!(change["enforced"] == change["nodes"] && change["nodes"] == 1, "{change}");
            Ok(change)
        })?;
        acknowledged.push(Duration::from_secs_f64(change["p99_ms"].as_f64().context("no p99_ms")? / 1e3));
        let committed = committed(&office, &change)?;
        // Settled: nothing new has come for a while.
        let settled = eventually("the last packets are counted", || {
            let last = last(&receiver)?;
            let newest = last.values().max().copied().unwrap_or_default();
            ensure!(wall_clock().saturating_sub(newest) > Duration::from_millis(500), "packets still pass");
            Ok(last)
        })?;
        ensure!(settled.len() == usize::from(grants), "a flow was never seen");
        for at in settled.values() {
            packets.push(at.saturating_sub(committed));
        }
    }
    Ok((packets, acknowledged))
}

/// When the change was proposed, by the audit log: a little before it was on disk.
fn committed(office: &Office, change: &Value) -> Result<Duration> {
    let entries = office.coordinator.ctl(&["audit", "list", "--limit", "1000"])?;
    let entries = entries.as_array().context("not a list")?;
    let entry = entries.iter().find(|entry| entry["revision"] == change["revision"]).context("no such revision")?;
    Ok(Duration::from_millis(entry["at"].as_u64().context("an entry has a time")?))
}

/// When the last packet of each flow came, by what the receiver wrote last.
fn last(receiver: &Background) -> Result<HashMap<String, Duration>> {
    let log = receiver.log();
    let line = log.lines().rev().find(|line| line.ends_with('}')).context("the receiver has said nothing yet")?;
    let last: HashMap<String, u64> = serde_json::from_str(line)?;
    Ok(last.into_iter().map(|(port, micros)| (port, Duration::from_micros(micros))).collect())
}
