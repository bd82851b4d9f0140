//! Crashes: of the coordinator, of nodes, of the disk.

use std::{process::Command, thread};

use anyhow::{Context as _, Result, ensure};
use postern_lab::{Office, eventually, process::run};

const ORIGINAL: &str = "nameserver 203.0.113.53\n";

fn wiki(office: &Office) -> Result<()> {
    let page = office.laptop.run(&["curl", "-sS", "--max-time", "10", "http://wiki.postern.internal/"])?.success()?;
    ensure!(page.contains("hello from the wiki"));
    Ok(())
}

#[test]
fn a_coordinator_killed_amid_changes_loses_nothing_it_acknowledged() -> Result<()> {
    let mut office = Office::new(&[])?;
    office.open_wiki()?;
    let _gateway = office.join_gateway()?;
    let laptop = office.join_laptop()?;
    let mut download = office.download()?;

    for round in 0..3 {
        let state = office.coordinator.state_dir().to_owned();
        let binary = postern_lab::postern::binary("postern-coordinator")?;
        let writer = thread::spawn(move || {
            let mut acknowledged = Vec::new();
            for i in 0.. {
                let name = format!("user{round}-{i}");
                let output = run(Command::new(&binary).arg("--state-dir").arg(&state).args(["user", "add", &name]))?;
                if !output.ok() {
                    break;
                }
                acknowledged.push(name);
            }
            anyhow::Ok(acknowledged)
        });
        let first = format!("user{round}-5");
        eventually("some users are added", || office.coordinator.find(&["user", "list"], "name", &first))?;
        office.coordinator.kill()?;
        let acknowledged = writer.join().expect("the writer ends")?;
        office.coordinator.resume()?;
        let users = office.coordinator.ctl(&["user", "list"])?.to_string();
        for name in &acknowledged {
            ensure!(users.contains(&format!("\"{name}\"")), "{name} was acknowledged and is gone");
        }
        let audit = office.coordinator.ctl(&["audit", "list", "--limit", "100000"])?.to_string();
        for name in &acknowledged {
            ensure!(audit.contains(name), "{name} has no audit entry");
        }
        office.coordinator.run(&["audit", "verify"])?.success()?;
        eventually("the laptop is connected again", || {
            ensure!(laptop.json(&["status"])?["connected"] == true);
            Ok(())
        })?;
    }
    ensure!(download.ended().is_none(), "the open connection went on: {}", download.log());
    wiki(&office)
}

#[test]
fn a_killed_node_comes_back_by_itself_with_its_tunnel_and_restores_dns() -> Result<()> {
    let mut office = Office::new(&[])?;
    office.open_wiki()?;
    let mut gateway = office.join_gateway()?;
    let mut laptop = office.join_laptop()?;
    wiki(&office)?;

    laptop.process()?.kill()?;
    laptop.resume()?;
    eventually("the tunnel is back", || wiki(&office)).with_context(|| laptop.log())?;

    gateway.process()?.kill()?;
    gateway.resume()?;
    eventually("the gateway is back", || wiki(&office)).with_context(|| gateway.log())?;

    // Killed, and never started again but to go down: the machine is as it was before.
    laptop.process()?.kill()?;
    let status = laptop.json(&["status"])?;
    ensure!(
        status["enrolled"] == true && status["running"] == false,
        "a dead daemon's device is still someone: {status}"
    );
    ensure!(std::fs::read_to_string(office.laptop.resolv_conf())? != ORIGINAL);
    laptop.run(&["down"])?.success()?;
    ensure!(std::fs::read_to_string(office.laptop.resolv_conf())? == ORIGINAL);

    let forwarding = || office.gateway.run(&["cat", "/proc/sys/net/ipv4/ip_forward"])?.success();
    ensure!(forwarding()?.trim() == "1");
    gateway.process()?.terminate()?;
    ensure!(forwarding()?.trim() == "0", "the gateway's forwarding is as it was");
    ensure!(!office.gateway.run(&["nft", "list", "ruleset"])?.success()?.contains("postern"), "no rules are left");
    Ok(())
}

/// A small file system of its own, gone when dropped.
struct SmallDisk(String);

impl SmallDisk {
    fn mount(at: &std::path::Path) -> Result<Self> {
        std::fs::create_dir_all(at)?;
        let at = at.to_string_lossy().into_owned();
        run(Command::new("mount").args(["-t", "tmpfs", "-o", "size=8m,mode=700", "tmpfs", &at]))?.success()?;
        Ok(Self(at))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = run(Command::new("umount").args(["-l", &self.0]));
    }
}

#[test]
fn a_full_disk_refuses_changes_whole_and_harms_nothing() -> Result<()> {
    let mut office = Office::new(&[])?;
    office.open_wiki()?;
    office.coordinator.process()?.terminate()?;
    let state = office.coordinator.state_dir().to_owned();
    let moved = state.with_extension("moved");
    std::fs::rename(&state, &moved)?;
    let _disk = SmallDisk::mount(&state)?;
    run(Command::new("cp").arg("-a").arg(moved.join(".")).arg(&state))?.success()?;
    office.coordinator.resume()?;
    let _gateway = office.join_gateway()?;
    let _laptop = office.join_laptop()?;
    wiki(&office)?;

    let filler = state.join("filler");
    run(Command::new("dd").args(["if=/dev/zero", &format!("of={}", filler.display()), "bs=1k"]))?;
    // The write-ahead log may still have room in its pages; sooner or later there is none.
    let (refused, output) = eventually("a change is refused", || {
        static COUNT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let name = format!("late{}", COUNT.fetch_add(1, std::sync::atomic::Ordering::Relaxed));
        let output = office.coordinator.run(&["user", "add", &name])?;
        ensure!(!output.ok(), "{name} was added");
        Ok((name, output))
    })?;
    ensure!(output.code == Some(1) && output.stderr.contains("full"), "{output:?}");
    let users = office.coordinator.ctl(&["user", "list"])?.to_string();
    ensure!(!users.contains(&format!("\"{refused}\"")), "a refused change is not half there");
    wiki(&office).context("grants in force go on")?;

    std::fs::remove_file(filler)?;
    office.coordinator.ctl(&["user", "add", &refused])?;
    office.coordinator.run(&["audit", "verify"])?.success()?;
    wiki(&office)
}
