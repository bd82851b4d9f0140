//! Access that hangs on what the device says of itself: opened by it, cut by it, and never opened by what is not known.

use anyhow::{Context as _, Result, ensure};
use postern_lab::{Background, Host, Node, Office, eventually, office, servers};
use rustix::process::Signal;
use serde_json::Value;

const WIKI: &str = "http://wiki.postern.internal/";

/// A firewall as people write them: answers come in, those of the tunnel too, and nothing else does.
const GUARD: &str = "table inet guard {
  chain input {
    type filter hook input priority filter; policy drop;
    ct state established,related accept
    iifname lo accept
  }
}";

fn guard(host: &Host) -> Result<()> {
    host.run(&["nft", GUARD])?.success().map(drop)
}

fn unguard(host: &Host) -> Result<()> {
    host.run(&["nft", "delete table inet guard"])?.success().map(drop)
}

struct Scene {
    office: Office,
    _gateway: Node,
    laptop: Node,
}

/// The wiki, which alice may reach under this condition only.
fn scene(when: impl FnOnce(&Office) -> String) -> Result<Scene> {
    let mut office = Office::new(&[])?;
    office.open_wiki()?;
    let policy = office.coordinator.find(&["policy", "list"], "resource", "wiki")?;
    office.coordinator.ctl(&["policy", "remove", policy["id"].as_str().context("an id")?])?;
    office.coordinator.policy(&["allow", "user:alice", "wiki", "--when", &when(&office)])?;
    let gateway = office.join_gateway()?;
    let laptop = office.join_laptop()?;
    Ok(Scene { office, _gateway: gateway, laptop })
}

impl Scene {
    /// `explain alice wiki`, for the one device.
    fn explained(&self) -> Result<Value> {
        let rows = self.office.coordinator.ctl(&["explain", "alice", "wiki"])?;
        rows.as_array().and_then(|rows| rows.first()).cloned().with_context(|| rows.to_string())
    }

    /// Waits until the coordinator has this answer to the policy's only test.
    fn answers(&self, answer: &str) -> Result<Value> {
        eventually(&format!("the test is {answer}"), || {
            let explained = self.explained()?;
            ensure!(explained["policies"][0]["tests"][0]["answer"] == answer, "{explained}");
            ensure!(explained["allowed"] == (answer == "met"), "{explained}");
            Ok(explained)
        })
        .with_context(|| self.laptop.log())
    }

    /// The rows of this kind.
    fn activity(&self, kind: &str) -> Result<Vec<Value>> {
        let rows = self.office.coordinator.ctl(&["activity", "list", "--kind", kind, "--limit", "1000"])?;
        rows.as_array().cloned().context("a list")
    }
}

/// An ssh session that goes on until it is cut.
fn ssh(office: &Office, key: &std::path::Path) -> Result<Background> {
    let mut ssh = office.laptop.command("ssh");
    for option in ["StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "LogLevel=ERROR"] {
        ssh.args(["-o", option]);
    }
    ssh.arg("-i").arg(key).args(["root@shell.postern.internal", "echo begun; while sleep 0.1; do echo on; done"]);
    let mut session = office.laptop.spawn("ssh", &mut ssh)?;
    eventually("the ssh session runs", || {
        ensure!(session.log().contains("begun\non") && session.ended().is_none(), "{}", session.log());
        Ok(())
    })?;
    Ok(session)
}

#[test]
fn a_firewall_opens_access_and_an_ssh_session_ends_with_it() -> Result<()> {
    let mut scene = scene(|_| "posture.firewall".into())?;
    let (sshd, key) = servers::sshd(&scene.office.db)?;
    scene.office.serve(sshd);
    let coordinator = &scene.office.coordinator;
    coordinator.ctl(&["resource", "add", "shell", "--site", "office", "--target", office::DB, "--tcp", "22"])?;
    coordinator.policy(&["allow", "user:alice", "shell", "--when", "posture.firewall"])?;

    scene.answers("not met")?;
    scene.office.is_closed(WIKI)?;
    let text = coordinator.run(&["explain", "alice", "wiki"])?.success()?;
    for words in ["Denied: alice on laptop", "posture.firewall: not met", "turn the firewall on"] {
        ensure!(text.contains(words), "'{words}' in: {text}");
    }
    // The user is told as much of their own device, and nothing of anyone else.
    coordinator.ctl(&["user", "add", "bob"])?;
    coordinator.policy(&["allow", "user:bob", "wiki", "--when", "posture.disk_encrypted"])?;
    let own = scene.laptop.run(&["explain", "wiki"])?.success()?;
    ensure!(own.contains("You can't reach wiki now") && own.contains("turn the firewall on"), "{own}");
    ensure!(!["bob", "disk_encrypted", "policy"].iter().any(|word| own.contains(word)), "{own}");

    guard(&scene.office.laptop)?;
    scene.answers("met")?;
    scene.office.is_open(WIKI)?;
    let own = scene.laptop.run(&["explain", "wiki"])?.success()?;
    ensure!(own.contains("You can reach wiki"), "{own}");
    let mut download = scene.office.download()?;
    let mut session = ssh(&scene.office, &key)?;
    unguard(&scene.office.laptop)?;
    let code = session.wait()?;
    ensure!(
        code == 255 && ["reset", "Broken pipe"].iter().any(|how| session.log().contains(how)),
        "ssh ended with {code}: {}",
        session.log()
    );
    scene.office.is_cut(&mut download)?;
    scene.office.is_closed(WIKI)?;
    scene.answers("not met")?;

    // The records say why, of the grant and of the connection.
    eventually("the records say why", || {
        for (resource, port) in [("shell", 22), ("wiki", 80)] {
            let is_it = |row: &&Value| row["resource"] == resource && row["user"] == "alice";
            let (ends, closed) = (scene.activity("end")?, scene.activity("flow_close")?);
            let end = ends.iter().find(is_it).with_context(|| format!("no end of {resource}: {ends:?}"))?;
            ensure!(end["reason"] == "condition_not_met", "{end}");
            let cut = closed.iter().filter(is_it).find(|row| row["reason"] == "cut");
            let cut = cut.with_context(|| format!("no connection to {resource} was cut: {closed:?}"))?;
            ensure!(cut["port"] == port && cut["grant"] == end["grant"], "{cut} by {end}");
        }
        Ok(())
    })?;
    guard(&scene.office.laptop)?;
    scene.office.is_open(WIKI)
}

#[test]
fn a_custom_check_opens_and_closes() -> Result<()> {
    let marker = |office: &Office| office.laptop.dir().join("marker");
    let mut scene = scene(|office| format!("file(\"{}\")", marker(office).display()))?;
    let marker = marker(&scene.office);
    let denied = scene.answers("not met")?;
    let hint = denied["fix"][0]["hint"].as_str().unwrap_or_default();
    ensure!(hint.contains(&*marker.to_string_lossy()), "{denied}");
    scene.office.is_closed(WIKI)?;
    // One that looks alike does not do.
    std::fs::write(marker.with_extension("old"), "")?;
    std::fs::write(&marker, "")?;
    scene.answers("met")?;
    scene.office.is_open(WIKI)?;
    let mut download = scene.office.download()?;
    std::fs::remove_file(&marker)?;
    scene.office.is_cut(&mut download)?;
    scene.office.is_closed(WIKI)?;
    scene.laptop.process()?.terminate().map(drop)
}

#[test]
fn what_a_device_can_not_know_of_itself_meets_neither_a_test_nor_its_opposite() -> Result<()> {
    let scene = scene(|_| "posture.screen_lock".into())?;
    scene.office.coordinator.policy(&["allow", "user:alice", "wiki", "--when", "!posture.screen_lock"])?;
    guard(&scene.office.laptop)?;
    // Once it is known that there is a firewall, the device has said all that it can.
    scene.office.coordinator.ctl(&[
        "resource",
        "add",
        "board",
        "--site",
        "office",
        "--target",
        office::DB,
        "--icmp",
    ])?;
    scene.office.coordinator.policy(&["allow", "user:alice", "board", "--when", "posture.firewall"])?;
    let board = ["ping", "-c", "1", "-W", "2", "board.postern.internal"];
    eventually("what it does know counts", || scene.office.laptop.run(&board)?.success())?;
    let explained = scene.explained()?;
    let policies = explained["policies"].as_array().context("policies")?;
    ensure!(policies.len() == 2 && policies.iter().all(|it| it["tests"][0]["answer"] == "unknown"), "{explained}");
    scene.office.is_closed(WIKI)
}

#[test]
fn a_posture_that_is_not_known_any_more_opens_nothing() -> Result<()> {
    let mut scene = scene(|_| "posture.firewall".into())?;
    guard(&scene.office.laptop)?;
    scene.answers("met")?;
    // It asked for nothing yet, then it hangs, and the coordinator forgets when it last spoke.
    scene.laptop.process()?.signal(Signal::STOP)?;
    scene.office.coordinator.kill()?;
    scene.office.coordinator.resume()?;
    let explained = scene.answers("unknown")?;
    let hint = explained["fix"][0]["hint"].as_str().unwrap_or_default();
    ensure!(hint.contains("the posture is too old, or was never sent"), "{explained}");
    let who = scene.office.coordinator.ctl(&["who-can", "wiki"])?;
    ensure!(who[0]["open"].as_str().is_some_and(str::is_empty) || who[0]["reason"] == "condition_not_met", "{who}");

    // What it was is of no use when it comes back as another.
    unguard(&scene.office.laptop)?;
    scene.laptop.process()?.kill()?;
    scene.laptop.resume()?;
    scene.answers("not met")?;
    scene.office.is_closed(WIKI)?;
    ensure!(scene.activity("allow")?.is_empty(), "nothing was ever granted");
    guard(&scene.office.laptop)?;
    scene.office.is_open(WIKI)
}

#[test]
fn a_firewall_that_goes_while_the_coordinator_is_away_cuts_when_it_is_back() -> Result<()> {
    let mut scene = scene(|_| "posture.firewall".into())?;
    guard(&scene.office.laptop)?;
    scene.office.is_open(WIKI)?;
    let mut download = scene.office.download()?;
    scene.office.coordinator.kill()?;
    unguard(&scene.office.laptop)?;
    eventually("the node knows", || {
        let status = scene.laptop.json(&["status"])?;
        ensure!(status["posture"]["firewall"] == false, "{status}");
        Ok(())
    })?;
    ensure!(download.ended().is_none(), "the lease goes on while nobody can decide: {}", download.log());
    scene.office.coordinator.resume()?;
    scene.office.is_cut(&mut download)?;
    scene.office.is_closed(WIKI)
}

#[test]
fn where_a_laptop_comes_from_is_followed_while_its_connection_lives() -> Result<()> {
    let scene = scene(|_| "source.ip in \"203.0.113.30/32\"".to_owned())?;
    scene.office.is_open(WIKI)?;
    let mut download = scene.office.download()?;
    // The same connection, from another address: QUIC moves along.
    let laptop = &scene.office.laptop;
    laptop.ip(&["addr", "add", "203.0.113.31/24", "dev", "eth0"])?;
    laptop.ip(&["addr", "del", "203.0.113.30/24", "dev", "eth0"])?;
    laptop.ip(&["addr", "replace", "203.0.113.31/24", "dev", "eth0"])?;
    scene.answers("not met")?;
    scene.office.is_cut(&mut download)?;
    scene.office.is_closed(WIKI)?;
    let devices = scene.office.coordinator.ctl(&["device", "list"])?;
    let moved = devices
        .as_array()
        .context("a list")?
        .iter()
        .any(|row| row["connected_from"].as_str().is_some_and(|from| from.starts_with("203.0.113.31:")));
    ensure!(moved, "{devices}");
    // And back.
    laptop.ip(&["addr", "add", "203.0.113.30/24", "dev", "eth0"])?;
    laptop.ip(&["addr", "del", "203.0.113.31/24", "dev", "eth0"])?;
    laptop.ip(&["addr", "replace", "203.0.113.30/24", "dev", "eth0"])?;
    scene.answers("met")?;
    scene.office.is_open(WIKI)
}
