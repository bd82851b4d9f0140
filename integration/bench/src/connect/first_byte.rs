//! From `curl` to the first byte of a page that this device may see and has no grant for, nor a tunnel to its gateway: name, access
//! request, the gateway's acknowledgement, handshake, TCP, HTTP.
//!
//! Beside it what the way is made of: a round trip to the coordinator, to the gateway, and the same page once there is a grant.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use postern_lab::{Node, Office, eventually};
use serde_json::{Value, json};

use crate::figures::{Times, millis, now, table};

/// Rounds begin no sooner after each other: of so many handshakes of one address in a second as they would make, a gateway asks for
/// proof of the address first (a cookie), which is not what is measured.
const ROUND: Duration = Duration::from_secs(1);

/// What curl tells of one request.
#[derive(Debug, Clone, Copy)]
struct Request {
    name: Duration,
    connected: Duration,
    first_byte: Duration,
}

/// So many rounds, each from nothing.
pub(super) fn measure(rounds: u32) -> Result<Value> {
    let mut office = Office::new(&[])?;
    office.open_wiki()?;
    let _gateway = office.join_gateway()?;
    let laptop = office.join_laptop()?;
    office.is_open("http://wiki.postern.internal/")?;
    let (mut cold, mut warm) = ([(); 3].map(|()| Times::default()), Times::default());
    for _ in 0..rounds {
        let begun = now();
        close(&office, &laptop)?;
        let request = get(&office)?;
        cold[0].push(request.name);
        cold[1].push(request.connected);
        cold[2].push(request.first_byte);
        warm.push(get(&office)?.first_byte);
        std::thread::sleep(ROUND.saturating_sub(begun.elapsed()));
    }
    let round_trip = round_trip(&office)?;
    let [name, connected, first_byte] = cold.map(percentiles);
    let warm = percentiles(warm);
    let row = |what: &str, (p50, p99)| vec![what.to_owned(), millis(p50), millis(p99)];
    let rows = [
        row("name", name),
        row("connected", connected),
        row("first byte", first_byte),
        row("first byte, with a grant", warm),
    ];
    table(&["from curl's start, without a grant, to", "p50", "p99"], &rows);
    println!("{rounds} rounds; a round trip to the coordinator takes {}.", millis(round_trip));
    let ms = |time: Duration| time.as_secs_f64() * 1e3;
    Ok(json!({
        "rounds": rounds, "coordinator_round_trip_ms": ms(round_trip), "cold_name_p50_ms": ms(name.0),
        "cold_connected_p50_ms": ms(connected.0), "cold_first_byte_p50_ms": ms(first_byte.0),
        "cold_first_byte_p99_ms": ms(first_byte.1), "warm_first_byte_p50_ms": ms(warm.0),
    }))
}

/// The median, and what 99 in 100 stayed within.
fn percentiles(mut times: Times) -> (Duration, Duration) {
    (times.percentile(0.5), times.percentile(0.99))
}

/// Takes the grant away, and gives the right to ask for it back.
fn close(office: &Office, laptop: &Node) -> Result<()> {
    let policies = office.coordinator.ctl(&["policy", "list"])?;
    for policy in policies.as_array().context("a list")? {
        office.coordinator.ctl(&["policy", "remove", policy["id"].as_str().context("a policy has an id")?])?;
    }
    eventually("the tunnel is gone", || {
        let peers = laptop.json(&["status"])?["peers"].as_array().map(Vec::len);
        ensure!(peers == Some(0), "{peers:?} peers");
        Ok(())
    })?;
    office.coordinator.ctl(&["policy", "allow", "user:alice", "wiki"])?;
    eventually("the wiki may be seen", || {
        let resources = laptop.json(&["resources"])?;
        ensure!(resources.as_array().is_some_and(|rows| rows.len() == 1), "{resources}");
        Ok(())
    })
}

fn get(office: &Office) -> Result<Request> {
    let told = office.laptop.run(&[
        "curl",
        "-4",
        "-sS",
        "-o",
        "/dev/null",
        "--max-time",
        "10",
        "-w",
        "%{time_namelookup} %{time_connect} %{time_starttransfer}",
        "http://wiki.postern.internal/",
    ])?;
    let told = told.success()?;
    let times: Vec<_> = told.split_whitespace().map(str::parse::<f64>).collect::<Result<_, _>>()?;
    let [name, connected, first_byte] = times[..] else { anyhow::bail!("curl said '{told}'") };
    let [name, connected, first_byte] = [name, connected, first_byte].map(Duration::from_secs_f64);
    Ok(Request { name, connected, first_byte })
}

/// A ping to the coordinator's machine.
fn round_trip(office: &Office) -> Result<Duration> {
    let ping =
        office.laptop.run(&["ping", "-q", "-c", "20", "-i", "0.01", postern_lab::office::COORDINATOR])?.success()?;
    let average =
        ping.rsplit_once(" = ").and_then(|(_, times)| times.split('/').nth(1)).context("ping tells no times")?;
    Ok(Duration::from_secs_f64(average.trim().parse::<f64>()? / 1e3))
}
