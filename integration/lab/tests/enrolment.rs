//! Joining with a token, and every way in which a token must fail.

use anyhow::{Context as _, Result, ensure};
use postern_lab::{Node, Office, eventually};

#[test]
fn a_token_works_once_and_only_as_it_was_made() -> Result<()> {
    let office = Office::new(&[])?;
    let coordinator = &office.coordinator;
    let node = Node::start(&office.laptop)?;
    let refused = |token: &str, code: i32, why: &str| {
        let up = node.run(&["up", token])?;
        ensure!(up.code == Some(code) && up.stderr.contains(why), "expected exit {code} and '{why}': {up:?}");
        ensure!(!up.stderr.contains(token), "the token is not repeated");
        let secret = token.get(20..).filter(|secret| secret.len() > 20);
        ensure!(secret.is_none_or(|secret| !node.log().contains(secret)), "nor logged");
        anyhow::Ok(())
    };

    let withdrawn = coordinator.ctl(&["token", "create", "--user", "alice"])?;
    coordinator.ctl(&["token", "withdraw", withdrawn["id"].as_str().context("an id")?])?;
    refused(withdrawn["token"].as_str().context("a token")?, 1, "withdrawn")?;

    let expired = coordinator.ctl(&["token", "create", "--user", "alice", "--expires", "1s"])?;
    eventually("the token expires", || {
        let token = coordinator.find(&["token", "list"], "id", expired["id"].as_str().context("an id")?)?;
        ensure!(token["status"] == "expired", "{token}");
        Ok(())
    })?;
    refused(expired["token"].as_str().context("a token")?, 1, "expired")?;

    let good = coordinator.token(&["--user", "alice"])?;
    let mut altered = good.clone();
    altered.replace_range(60..61, if &good[60..61] == "A" { "B" } else { "A" });
    refused(&altered, 2, "damaged")?;
    refused("postern-join-nonsense", 2, "damaged")?;
    refused("nonsense", 2, "postern-join-")?;

    node.up(Some(&good))?;
    ensure!(node.json(&["status"])?["user"] == "alice");
    let again = node.run(&["up", &good])?;
    ensure!(again.code == Some(1) && again.stderr.contains("logout"), "already enrolled: {again:?}");

    let other = Node::start(&office.gateway)?;
    let up = other.run(&["up", &good])?;
    ensure!(up.code == Some(1) && up.stderr.contains("already been used"), "{up:?}");
    ensure!(coordinator.ctl(&["device", "list"])?.as_array().is_some_and(|devices| devices.len() == 1));
    let audit = coordinator.ctl(&["audit", "list", "--limit", "1000"])?.to_string();
    ensure!(audit.contains("device.enrol") && audit.contains("enrol.refuse"), "{audit}");
    ensure!(!audit.contains(&good[20..]), "no secret in the audit log");
    Ok(())
}

#[test]
fn a_coordinator_with_another_key_is_not_believed() -> Result<()> {
    let mut office = Office::new(&[])?;
    let token = office.coordinator.token(&["--user", "alice"])?;
    let laptop = office.join_laptop()?;
    // Someone takes over the address with a coordinator of their own.
    office.coordinator.kill()?;
    std::fs::rename(office.coordinator.state_dir(), office.lab.dir().join("stolen-address"))?;
    office.coordinator.resume()?;

    let fresh = Node::start(&office.gateway)?;
    let up = fresh.run(&["up", &token])?;
    ensure!(up.code == Some(1) && up.stderr.contains("pin"), "{up:?}");
    eventually("the enrolled node sees that it is another, and does not follow", || {
        let status = laptop.json(&["status"])?;
        let problem = status["problem"].as_str().unwrap_or_default();
        ensure!(status["connected"] == false && problem.contains("another key"), "{status}");
        Ok(())
    })?;
    let devices = office.coordinator.ctl(&["device", "list"])?;
    ensure!(devices.as_array().is_some_and(Vec::is_empty), "nobody has joined the impostor: {devices}");
    Ok(())
}

#[test]
fn of_two_nodes_with_one_state_directory_only_one_is_online() -> Result<()> {
    let mut office = Office::new(&[])?;
    office.open_wiki()?;
    let _gateway = office.join_gateway()?;
    let laptop = office.join_laptop()?;
    let thief_host = office.lab.host("thief")?;
    thief_host.link("eth0", &office.internet, &["203.0.113.66/24"])?;
    let copy = thief_host.dir().join("node");
    let from = laptop.state_dir().to_string_lossy().into_owned();
    thief_host.run(&["cp", "-r", &from, &copy.to_string_lossy()])?.success()?;
    let _thief = Node::start_in(&thief_host, copy)?;

    eventually("the first node is told", || {
        let status = laptop.json(&["status"])?;
        ensure!(status["connected"] == false && status.to_string().contains("identity"), "{status}");
        Ok(())
    })?;
    let page = office.laptop.run(&["curl", "-sS", "--max-time", "5", "http://wiki.postern.internal/"])?;
    ensure!(!page.ok(), "whoever is superseded reaches nothing");
    let audit = office.coordinator.ctl(&["audit", "list", "--limit", "1000"])?.to_string();
    ensure!(audit.contains("device.superseded"), "{audit}");
    Ok(())
}

#[test]
fn up_starts_the_daemon_itself_and_logout_forgets_everything() -> Result<()> {
    let mut office = Office::new(&[])?;
    office.open_wiki()?;
    let _gateway = office.join_gateway()?;
    let token = office.coordinator.token(&["--user", "alice"])?;
    let binary = postern_lab::postern::binary("postern")?.to_string_lossy().into_owned();
    let state = office.laptop.dir().join("fresh").to_string_lossy().into_owned();
    let said = office.laptop.run(&[&binary, "--state-dir", &state, "up", "--port", "40123", &token])?.success()?;
    ensure!(said.contains("wiki"), "up says what can be reached: {said}");
    let sockets = office.laptop.run(&["ss", "-Hlun", "sport", "=", ":40123"])?.success()?;
    ensure!(!sockets.trim().is_empty(), "it listens where it was told to");
    ensure!(office.laptop.run(&["curl", "-sS", "--max-time", "15", "http://wiki.postern.internal/"])?.ok());

    office.laptop.run(&[&binary, "logout", "--state-dir", &state])?.success()?;
    ensure!(std::fs::read_to_string(office.laptop.resolv_conf())? == "nameserver 203.0.113.53\n");
    let up = office.laptop.run(&[&binary, "--state-dir", &state, "up"])?;
    ensure!(up.code == Some(1) && up.stderr.contains("token"), "nothing is left to come up with: {up:?}");
    for entry in std::fs::read_dir(&state)? {
        let entry = entry?;
        if entry.file_type()?.is_file() {
            let text = String::from_utf8_lossy(&std::fs::read(entry.path())?).into_owned();
            ensure!(!text.contains("PRIVATE KEY"), "{:?} still holds a key", entry.path());
        }
    }
    Ok(())
}
