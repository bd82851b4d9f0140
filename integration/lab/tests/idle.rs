//! What a node costs that is connected and has nothing to do.

use std::{collections::HashMap, fs, thread, time::Duration};

use anyhow::{Result, ensure};
use postern_lab::{Background, Office, eventually};

/// A node's memory, at most.
const RESIDENT: u64 = 30 << 20;
/// How long it is watched, and how often all its threads together may wake meanwhile.
const WATCHED: Duration = Duration::from_secs(10);
const WAKES: u64 = 50;
/// What else happens on the machine, such as files that come and go in `/etc`, can only add to that; so the calmest of so many
/// times counts.
const TRIES: usize = 6;

/// How often each thread of a process has gone to sleep so far, by its directory.
fn sleeps(process: &Background) -> Result<HashMap<String, u64>> {
    let mut sleeps = HashMap::new();
    for thread in fs::read_dir(format!("/proc/{}/task", process.pid()))? {
        let path = thread?.path();
        // One that ends just now has no file any more.
        let text = fs::read_to_string(path.join("status")).unwrap_or_default();
        let count = text.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:")?.trim().parse().ok());
        sleeps.extend(count.map(|count| (path.to_string_lossy().into_owned(), count)));
    }
    Ok(sleeps)
}

/// How often its threads woke since the earlier count.
fn wakes(process: &Background, before: &HashMap<String, u64>) -> Result<u64> {
    let after = sleeps(process)?;
    Ok(after.iter().map(|(thread, count)| count - before.get(thread).copied().unwrap_or(0)).sum())
}

#[test]
fn connected_nodes_without_traffic_are_small_and_sleep() -> Result<()> {
    let mut office = Office::new(&[])?;
    office.open_wiki()?;
    let (mut gateway, mut laptop) = (office.join_gateway()?, office.join_laptop()?);
    office.is_open("http://wiki.postern.internal/")?;
    eventually("both are connected and have a session", || {
        for node in [&gateway, &laptop] {
            let status = node.json(&["status"])?;
            ensure!(status["connected"] == true && status["peers"][0]["handshake_seconds_ago"].is_number(), "{status}");
        }
        Ok(())
    })?;

    let nodes: [&Background; 2] = [gateway.process()?, laptop.process()?];
    let mut calmest = [u64::MAX; 2];
    for _ in 0..TRIES {
        let before = nodes.map(sleeps);
        thread::sleep(WATCHED);
        for ((node, before), calmest) in nodes.iter().zip(before).zip(&mut calmest) {
            *calmest = wakes(node, &before?)?.min(*calmest);
        }
        println!("gateway and laptop woke {calmest:?} times in {WATCHED:?} at least");
        if calmest.iter().all(|wakes| *wakes < WAKES) {
            break;
        }
    }
    ensure!(calmest.iter().all(|wakes| *wakes < WAKES), "gateway and laptop woke {calmest:?} times in {WATCHED:?}");
    for node in nodes {
        let resident = node.resident()?;
        println!("{resident} bytes resident");
        ensure!(resident < RESIDENT, "{resident} bytes resident");
    }
    Ok(())
}
