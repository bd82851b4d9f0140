//! What a device says of itself reaches the coordinator as it changes.

use anyhow::{Context as _, Result, ensure};
use postern_lab::{Host, Node, Office, eventually, wait::now};
use serde_json::{Value, json};

/// A firewall as people write them: answers come in, and nothing else does.
const GUARD: &str = "table inet guard {
  chain input {
    type filter hook input priority filter; policy drop;
    ct state established,related accept
    iifname lo accept
  }
}";
/// Rules that look alike and keep nothing out: for what is forwarded, on a condition, or followed by the opposite.
const NO_GUARD: &str = "table inet busy {
  chain forward {
    type filter hook forward priority filter; policy drop;
  }
  chain some {
    type filter hook input priority filter; policy accept;
    iifname eth9 drop
  }
  chain first {
    type filter hook input priority 10; policy accept;
    tcp dport 1 drop
    accept
  }
}";

fn nft(host: &Host, script: &str) -> Result<()> {
    host.run(&["nft", script])?.success().with_context(|| script.to_owned()).map(drop)
}

/// What the coordinator has of the laptop.
fn posture(office: &Office) -> Result<Value> {
    Ok(office.coordinator.find(&["device", "list"], "name", "laptop")?["posture"].clone())
}

fn shows(office: &Office, laptop: &Node, firewall: bool) -> Result<()> {
    let start = now();
    let both = eventually(&format!("the firewall is {firewall}"), || {
        let posture = posture(office)?;
        ensure!(posture["firewall"] == firewall, "{posture}");
        Ok(posture)
    })
    .with_context(|| laptop.log())?;
    println!("the firewall is {firewall} after {:?}", start.elapsed());
    let own = laptop.json(&["status"])?["posture"].clone();
    ensure!(own == both, "the node says the same of itself: {own} {both}");
    Ok(())
}

#[test]
fn a_firewall_that_comes_and_goes_is_seen_by_the_coordinator() -> Result<()> {
    let office = Office::new(&[])?;
    // Ahead of the node, so that all that it ever says is said in the presence of these.
    nft(&office.laptop, NO_GUARD)?;
    let laptop = office.join_laptop()?;
    shows(&office, &laptop, false)?;
    let first = posture(&office)?;
    ensure!(first["hostname"] == "laptop" && !first["kernel"].as_str().unwrap_or_default().is_empty(), "{first}");
    ensure!(first.get("screen_lock").is_none(), "there is no screen: {first}");

    nft(&office.laptop, GUARD)?;
    shows(&office, &laptop, true)?;
    nft(&office.laptop, "delete table inet guard")?;
    shows(&office, &laptop, false)?;

    let audit = office.coordinator.ctl(&["audit", "list", "--limit", "1000"])?;
    let changes = audit.as_array().context("entries")?.iter().filter(|entry| entry["action"] == "device.posture");
    let details = changes.flat_map(|entry| entry["details"].as_array().into_iter().flatten());
    let firewall: Vec<_> = details.filter(|detail| detail[0] == "firewall").map(|detail| detail[1].clone()).collect();
    // At first it may have taken its time to find out that there was none.
    let changes = if firewall.first() == Some(&json!("false")) { &firewall[1..] } else { &firewall };
    ensure!(*changes == [json!("true"), json!("false")], "rules that keep nothing out never were a firewall: {audit}");
    let text = laptop.run(&["status"])?.success()?;
    ensure!(text.contains("no firewall"), "{text}");
    Ok(())
}

#[test]
fn a_change_while_the_coordinator_is_away_is_in_the_next_hello() -> Result<()> {
    let mut office = Office::new(&[])?;
    let laptop = office.join_laptop()?;
    shows(&office, &laptop, false)?;
    office.coordinator.kill()?;
    nft(&office.laptop, GUARD)?;
    eventually("the node knows", || {
        let status = laptop.json(&["status"])?;
        ensure!(status["posture"]["firewall"] == true, "{status}");
        Ok(())
    })?;
    office.coordinator.resume()?;
    shows(&office, &laptop, true)
}
