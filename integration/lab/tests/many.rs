//! Many at once: grants on one gateway, and connections to one resource.

use std::fmt::Write as _;

use anyhow::{Context as _, Result, ensure};
use postern_lab::{Node, Office, eventually, wait::now};

/// More than any queue of a session has room for, unless it has room for all.
const RESOURCES: usize = 400;
/// Connections opened at once, before there is a grant.
const BURST: usize = 200;
/// How long a client may be cut off after its gateway is back. It takes a moment; without the gateway's help it would take
/// the client 15 seconds to find out that its session is gone.
const CUT_OFF: std::time::Duration = std::time::Duration::from_secs(8);

/// Adds resources `r0`, `r1`, and so on, all of them the wiki, and lets alice reach them.
fn open_many(office: &Office) -> Result<()> {
    for number in 0..RESOURCES {
        let name = format!("r{number}");
        let words =
            ["resource", "add", &name, "--site", "office", "--target", postern_lab::office::WIKI, "--tcp", "80"];
        office.coordinator.ctl(&words)?;
        office.coordinator.ctl(&["policy", "allow", "user:alice", &name])?;
    }
    Ok(())
}

/// Looks all of them up, which asks for grants ahead, until the gateway carries that many.
fn hold_all(office: &Office, gateway: &Node) -> Result<()> {
    let mut names = String::new();
    for number in 0..RESOURCES {
        writeln!(names, "r{number}.postern.internal A")?;
    }
    let file = office.laptop.dir().join("names");
    std::fs::write(&file, names)?;
    eventually("the gateway carries a grant for each", || {
        office.laptop.run(&["dig", "+short", "+tries=1", "+time=5", "-f", &file.to_string_lossy()])?.success()?;
        carries_all(gateway)
    })
}

fn carries_all(gateway: &Node) -> Result<()> {
    let status = gateway.json(&["status"])?;
    let carried = status["grants_carried"].as_u64();
    ensure!(status["connected"] == true && carried >= Some(RESOURCES as u64), "{status}");
    Ok(())
}

fn page(office: &Office, name: &str) -> Result<()> {
    let page = office.laptop.run(&["curl", "-sS", "--max-time", "2", &format!("http://{name}.postern.internal/")])?;
    ensure!(page.success()?.contains("hello from the wiki"));
    Ok(())
}

#[test]
fn a_gateway_restarted_with_many_grants_keeps_its_session_and_its_clients() -> Result<()> {
    let mut office = Office::new(&[])?;
    office.open_wiki()?;
    open_many(&office)?;
    let mut gateway = office.join_gateway()?;
    let laptop = office.join_laptop()?;
    hold_all(&office, &gateway).with_context(|| laptop.log())?;
    page(&office, "r0")?;

    gateway.process()?.kill()?;
    gateway.resume()?;
    eventually("the gateway is back with all grants", || carries_all(&gateway)).with_context(|| gateway.log())?;
    let back = now();
    eventually("a new connection works", || page(&office, "r1")).with_context(|| gateway.log())?;
    let cut_off = back.elapsed();
    println!("a new connection {cut_off:?} after the gateway was back");
    for number in 2..20 {
        page(&office, &format!("r{number}"))?;
    }
    carries_all(&gateway)?;
    ensure!(!gateway.log().contains("not connected to the coordinator"), "its session broke: {}", gateway.log());
    ensure!(cut_off < CUT_OFF, "clients were cut off for {cut_off:?}");
    Ok(())
}

#[test]
fn a_burst_of_connections_before_there_is_a_grant_succeeds_whole() -> Result<()> {
    let mut office = Office::new(&[])?;
    office.open_wiki()?;
    let _gateway = office.join_gateway()?;
    let laptop = office.join_laptop()?;
    let wiki = office.coordinator.find(&["resource", "list"], "name", "wiki")?;
    let address = wiki["addr"]["v4"].as_str().context("an address")?;
    // By address: looking up the name would ask for the grant ahead.
    let most = BURST.to_string();
    let url = format!("http://{address}/?[1-{BURST}]");
    let words = ["-sS", "--max-time", "25", "--parallel", "--parallel-immediate", "--parallel-max", &most, &url];
    let output = office.laptop.run(&[&["curl"], &words[..]].concat())?;
    let pages = output.stdout.matches("hello from the wiki").count();
    ensure!(output.ok() && pages == BURST, "{pages} of {BURST}: {}\n{}", output.stderr, laptop.log());
    Ok(())
}
