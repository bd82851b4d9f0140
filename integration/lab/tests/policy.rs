//! Policies under live traffic: what an edit takes away ends at once, what it leaves goes on, and each is proven by the
//! gateway's acknowledgement.

use anyhow::{Context as _, Result, ensure};
use postern_lab::{Background, Node, Office, eventually, office, servers};
use serde_json::Value;

const WIKI: &str = "http://wiki.postern.internal/";

struct Scene {
    office: Office,
    _gateway: Node,
    _laptop: Node,
}

/// The wiki with alice's policy for it, and what `prepare` adds before the nodes join.
fn scene(prepare: impl FnOnce(&mut Office) -> Result<()>) -> Result<Scene> {
    let mut office = Office::new(&[])?;
    office.open_wiki()?;
    prepare(&mut office)?;
    let gateway = office.join_gateway()?;
    let laptop = office.join_laptop()?;
    Ok(Scene { office, _gateway: gateway, _laptop: laptop })
}

impl Scene {
    /// Removes a policy, and returns what that has come to.
    fn remove(&self, policy: &str) -> Result<Value> {
        self.office.coordinator.ctl(&["policy", "remove", policy])?;
        self.office.coordinator.enforced(&format!("policy:{policy}"))
    }

    /// A TCP stream that would take minutes, once it carries data.
    fn stream(&self, name: &str) -> Result<Background> {
        let start = || {
            let mut iperf = self.office.laptop.command("iperf3");
            iperf.args(["-c", "speed.postern.internal", "-t", "300", "-b", "100M", "-i", "0.2", "--forceflush"]);
            self.office.laptop.spawn(name, &mut iperf)
        };
        let mut stream = start()?;
        eventually("a stream runs", || {
            if stream.ended().is_some() {
                // The server may not be done with the one before.
                stream = start()?;
            }
            let log = stream.log();
            let last = log.lines().rfind(|line| line.contains("bits/sec")).with_context(|| log.clone())?;
            ensure!(!last.contains(" 0.00 Bytes") && stream.ended().is_none(), "{log}");
            Ok(())
        })?;
        Ok(stream)
    }
}

/// Proof of what one edit did at the one gateway there is.
fn is_proven(change: &Value) -> Result<()> {
    ensure!(change["enforced"] == 1 && change["nodes"] == 1, "enforced on 1 of 1: {change}");
    ensure!(change["cut"].as_u64() >= Some(1), "open connections were cut: {change}");
    ensure!(change["p99_ms"].as_f64() > Some(0.0) && change["p50_ms"].is_f64(), "and how soon: {change}");
    ensure!(change["missing"].as_array().is_some_and(Vec::is_empty), "nobody is missing: {change}");
    Ok(())
}

#[test]
fn a_stream_is_cut_by_each_revocation_and_runs_again_after_each_regrant() -> Result<()> {
    let scene = scene(|office| {
        let server = servers::iperf3(&office.db)?;
        office.serve(server);
        let words = ["resource", "add", "speed", "--site", "office", "--target", office::DB, "--tcp", "5201"];
        office.coordinator.ctl(&words).map(drop)
    })?;
    for round in 0..5 {
        let policy = scene.office.coordinator.policy(&["allow", "user:alice", "speed"])?;
        let mut stream = scene.stream(&format!("stream-{round}"))?;
        let change = scene.remove(&policy)?;
        let code = stream.wait()?;
        ensure!(code != 0 && stream.log().contains("error"), "iperf3 ended with {code}: {}", stream.log());
        ensure!(change["revoked"] == 1, "{change}");
        is_proven(&change)?;
        let shown = scene.office.coordinator.run(&["change", "show", &change["revision"].to_string()])?.success()?;
        ensure!(shown.contains("Enforced on 1 of 1 gateways."), "{shown}");
        // The user has other rights, which are not touched.
        scene.office.is_open(WIKI)?;
        let again = scene.office.laptop.run(&["iperf3", "-c", "speed.postern.internal", "-t", "1"])?;
        ensure!(!again.ok(), "no policy, no stream: {again:?}");
    }
    scene.office.coordinator.run(&["audit", "verify"])?.success()?;
    Ok(())
}

#[test]
fn a_denial_wins_over_what_allows_until_it_is_removed() -> Result<()> {
    let scene = scene(|office| {
        let server = servers::nginx(&office.db, 80, "hello from the board")?;
        office.serve(server);
        office.coordinator.ctl(&[
            "resource",
            "add",
            "board",
            "--site",
            "office",
            "--target",
            office::DB,
            "--tcp",
            "80",
        ])?;
        office.coordinator.policy(&["allow", "user:alice", "board"]).map(drop)
    })?;
    let mut other = scene.office.download_of("board", "http://board.postern.internal/big")?;
    for _ in 0..2 {
        let mut download = scene.office.download()?;
        let denial = scene.office.coordinator.policy(&["deny", "user:alice", "wiki"])?;
        is_proven(&scene.office.coordinator.enforced(&format!("policy:{denial}"))?)?;
        scene.office.is_cut(&mut download)?;
        scene.office.is_closed(WIKI)?;
        let allowing = scene.office.coordinator.find(&["policy", "list"], "resource", "wiki")?;
        ensure!(allowing["effect"] == "allow", "what allows it is still there: {allowing}");
        // An end at which nothing is taken away: there is nothing to enforce.
        let change = scene.remove(&denial)?;
        ensure!(change["revoked"] == 0 && change["nodes"] == 0, "{change}");
        scene.office.is_open(WIKI)?;
    }
    ensure!(other.ended().is_none(), "the other resource was never touched: {}", other.log());
    scene.office.grows("board")
}

#[test]
fn ports_are_let_through_one_by_one_and_taken_away_one_by_one() -> Result<()> {
    let scene = scene(|office| {
        let second = servers::nginx(&office.wiki, 8080, "hello from the second port")?;
        office.serve(second);
        let target = ["--target", office::WIKI, "--tcp", "80,8080"];
        office.coordinator.ctl(&[&["resource", "add", "both", "--site", "office"], &target[..]].concat()).map(drop)
    })?;
    let (first, second) = ("http://both.postern.internal/", "http://both.postern.internal:8080/");
    scene.office.coordinator.policy(&["allow", "user:alice", "both", "--ports", "tcp/80"])?;
    scene.office.is_open(first)?;
    let refused = scene.office.get(second)?;
    ensure!(refused.code == Some(7), "open on the resource, and not in the policy: {refused:?}");

    let more = scene.office.coordinator.policy(&["allow", "user:alice", "both", "--ports", "tcp/8080"])?;
    scene.office.is_open(second)?;
    let mut kept = scene.office.download_of("kept", "http://both.postern.internal/big")?;
    let mut taken = scene.office.download_of("taken", "http://both.postern.internal:8080/big")?;
    let change = scene.remove(&more)?;
    is_proven(&change)?;
    ensure!(change["narrowed"] == 1 && change["revoked"] == 0 && change["cut"] == 1, "{change}");
    scene.office.is_cut(&mut taken)?;
    scene.office.grows("kept")?;
    ensure!(scene.office.get(second)?.code == Some(7), "no new connection to what was taken away");

    // A denial of one port narrows alike.
    scene.office.coordinator.policy(&["allow", "user:alice", "both"])?;
    scene.office.is_open(second)?;
    let mut taken = scene.office.download_of("taken", "http://both.postern.internal:8080/big")?;
    let denial = scene.office.coordinator.policy(&["deny", "everyone", "both", "--ports", "tcp/8080"])?;
    is_proven(&scene.office.coordinator.enforced(&format!("policy:{denial}"))?)?;
    scene.office.is_cut(&mut taken)?;
    scene.office.grows("kept")?;
    ensure!(kept.ended().is_none(), "the port that stayed: {}", kept.log());
    scene.office.is_open(first)
}

#[test]
fn a_tag_that_is_taken_from_a_resource_takes_its_connections_along() -> Result<()> {
    let scene = scene(|office| {
        for (name, port) in [("first", 8001), ("second", 8002)] {
            let server = servers::nginx(&office.db, port, name)?;
            office.serve(server);
            let port = port.to_string();
            let words = ["resource", "add", name, "--site", "office", "--target", office::DB, "--tcp", &port];
            office.coordinator.ctl(&[&words[..], &["--tag", "web"]].concat())?;
        }
        office.coordinator.policy(&["allow", "user:alice", "tag:web"]).map(drop)
    })?;
    let mut first = scene.office.download_of("first", "http://first.postern.internal:8001/big")?;
    let mut second = scene.office.download_of("second", "http://second.postern.internal:8002/big")?;
    scene.office.coordinator.ctl(&["resource", "edit", "first", "--no-tag"])?;
    scene.office.is_cut(&mut first)?;
    is_proven(&scene.office.coordinator.enforced("resource:first")?)?;
    scene.office.is_closed("http://first.postern.internal:8001/")?;
    scene.office.grows("second")?;
    ensure!(second.ended().is_none(), "what kept its tag: {}", second.log());

    scene.office.coordinator.ctl(&["resource", "edit", "first", "--tag", "web"])?;
    scene.office.is_open("http://first.postern.internal:8001/")
}

#[test]
fn cedar_with_an_error_says_where_and_without_one_decides() -> Result<()> {
    let scene = scene(|_| Ok(()))?;
    let coordinator = &scene.office.coordinator;
    let allowing = coordinator.find(&["policy", "list"], "resource", "wiki")?;
    scene.remove(allowing["id"].as_str().context("an id")?)?;
    scene.office.is_closed(WIKI)?;

    let file = scene.office.lab.dir().join("policies.cedar");
    let path = file.to_string_lossy().into_owned();
    let head = "permit (principal in User::\"alice\", action == Action::\"connect\",\n        resource == Resource::";
    for (text, place) in [
        // Not Cedar; not in the schema; nothing of this name; and one good policy does not go in beside a bad one.
        (format!("{head}\"wiki\")\nwhen {{ context.time.hour >>= 0 }};"), "line 3, column 27"),
        (format!("{head}\"wiki\")\nwhen {{ context.posture.colour == \"red\" }};"), "line 3, column 8"),
        (format!("{head}\"nowhere\");"), "line 2, column 21"),
        (format!("{head}\"wiki\");\n\n{head}\"wiki\")\nwhen {{ context.when.hour > 0 }};"), "line 6, column 8"),
    ] {
        std::fs::write(&file, &text)?;
        let output = coordinator.run(&["policy", "add", "--cedar", &path])?;
        ensure!(output.code == Some(1) && output.stderr.contains(place), "{place} in\n{text}\n{output:?}");
        let policies = coordinator.ctl(&["policy", "list"])?;
        ensure!(policies.as_array().is_some_and(Vec::is_empty), "nothing was added: {policies}");
    }
    scene.office.is_closed(WIKI)?;

    let good = format!("@ports(\"tcp/80\")\n{head}\"wiki\")\nwhen {{ context.time.hour < 24 }};\n");
    std::fs::write(&file, good)?;
    coordinator.run(&["policy", "add", "--cedar", &path])?.success()?;
    scene.office.is_open(WIKI)?;
    let ping = ["ping", "-c", "1", "-W", "2", "wiki.postern.internal"];
    ensure!(!scene.office.laptop.run(&ping)?.ok(), "the resource may be pinged, the policy is about a port");

    // Cedar that forbids wins as well.
    let mut download = scene.office.download()?;
    std::fs::write(&file, format!("forbid{}\"wiki\");", &head["permit".len()..]))?;
    coordinator.run(&["policy", "add", "--cedar", &path])?.success()?;
    scene.office.is_cut(&mut download)?;
    scene.office.is_closed(WIKI)
}
