//! Access activity, from real connections through the gateway to whoever asks the coordinator: all of it, once, whatever breaks.

use std::{collections::BTreeSet, fs};

use anyhow::{Context as _, Result, ensure};
use postern_lab::{Node, Office, Output, eventually, process::run};
use serde_json::Value;

/// The wiki by another name: what is asked for is recorded as it was asked.
const ALIAS: &str = "http://wiki.example.com/";
/// Connections amid which the coordinator goes away.
const AWAY: usize = 20;
/// More of them, which a gateway has to keep that is killed as well.
const MORE: usize = 5;

struct Scene {
    office: Office,
    gateway: Node,
    laptop: Node,
}

fn scene(options: &[&str]) -> Result<Scene> {
    let mut office = Office::new(options)?;
    office.open_wiki()?;
    office.coordinator.ctl(&["resource", "edit", "wiki", "--alias", "wiki.example.com"])?;
    let gateway = office.join_gateway()?;
    let laptop = office.join_laptop()?;
    Ok(Scene { office, gateway, laptop })
}

impl Scene {
    /// All rows of alice's and the wiki, the first one first.
    fn rows(&self) -> Result<Vec<Value>> {
        let words = ["activity", "list", "--user", "alice", "--resource", "wiki", "--limit", "10000"];
        let rows = self.office.coordinator.ctl(&words)?;
        rows.as_array().cloned().context("a list")
    }

    /// The rows, once so many connections have come to their end and the gateway has nothing left to tell.
    fn complete(&self, closed: usize) -> Result<Vec<Value>> {
        eventually(&format!("{closed} connections are recorded to their end"), || {
            let status = self.gateway.json(&["status"])?;
            ensure!(status["activity"]["waiting"] == 0 && status["activity"]["dropped"] == 0, "{}", status["activity"]);
            let rows = self.rows()?;
            let ends = of_kind(&rows, "flow_close").len();
            ensure!(ends >= closed, "{ends} so far");
            Ok(rows)
        })
        .with_context(|| self.gateway.log())
    }
}

fn of_kind<'a>(rows: &'a [Value], kind: &str) -> Vec<&'a Value> {
    rows.iter().filter(|row| row["kind"] == kind).collect()
}

/// Each connection's beginning and end are there, once each.
fn each_once(rows: &[Value], connections: usize) -> Result<()> {
    for kind in ["flow_open", "flow_close"] {
        let flows: Vec<_> = of_kind(rows, kind).iter().map(|row| row["flow"].to_string()).collect();
        let distinct: BTreeSet<_> = flows.iter().collect();
        ensure!(flows.len() == connections && distinct.len() == connections, "{kind} of {connections}: {flows:?}");
    }
    let gaps = of_kind(rows, "gap");
    ensure!(gaps.is_empty(), "nothing is missing: {gaps:?}");
    Ok(())
}

/// JSON lines, read.
fn lines(text: &str) -> Result<Vec<Value>> {
    text.lines().map(|line| serde_json::from_str(line).with_context(|| line.to_owned())).collect()
}

fn ids(rows: &[Value]) -> Vec<u64> {
    rows.iter().filter_map(|row| row["id"].as_u64()).collect()
}

#[test]
fn a_page_by_its_alias_is_recorded_from_the_decision_to_the_last_byte() -> Result<()> {
    let scene = scene(&["--activity-file", "activity.jsonl"])?;
    let mut tail = scene.office.coordinator.begin("tail", &["activity", "tail", "--kind", "flow_open", "--json"])?;
    ensure!(scene.office.get(ALIAS)?.success()?.contains("hello from the wiki"));
    let rows = scene.complete(1)?;
    each_once(&rows, 1)?;

    let allow = of_kind(&rows, "allow");
    let (allow, open, close) = (allow[0], of_kind(&rows, "flow_open")[0], of_kind(&rows, "flow_close")[0]);
    let policy = scene.office.coordinator.find(&["policy", "list"], "resource", "wiki")?;
    ensure!(allow["policy"] == policy["id"] && allow["filter"].as_str().is_some_and(|it| it.contains("80")), "{allow}");
    for row in [allow, open, close] {
        let names = [("user", "alice"), ("device", "laptop"), ("resource", "wiki"), ("gateway", "gateway")];
        ensure!(names.iter().all(|(name, value)| row[name] == *value), "{row}");
        ensure!(row["grant"].is_string() && row["grant"] == allow["grant"], "under one grant: {row}");
    }
    for row in [open, close] {
        ensure!(row["protocol"] == "tcp" && row["port"] == 80 && row["queried"] == "wiki.example.com", "{row}");
        ensure!(row["flow"] == open["flow"], "one connection: {row}");
    }
    // A request and its answer, with the packets that each needs around it.
    ensure!(close["up"].as_u64() > Some(100) && close["down"].as_u64() > Some(100), "{close}");
    ensure!(close["reason"] == "finished" && close["opened_at"].is_string(), "{close}");

    // What was refused is there as a refusal, and there is no connection of it.
    scene.office.coordinator.ctl(&["policy", "remove", policy["id"].as_str().context("an id")?])?;
    scene.office.coordinator.policy(&["allow", "user:alice", "wiki", "--when", "posture.firewall"])?;
    eventually("the laptop knows of the wiki again, and is refused", || {
        let refused = scene.office.get(ALIAS)?;
        ensure!(refused.code == Some(7), "{refused:?}");
        let denials = scene.rows()?;
        let deny = of_kind(&denials, "deny");
        ensure!(deny.first().is_some_and(|row| row["reason"] == "condition_not_met"), "{denials:?}");
        each_once(&denials, 1)
    })?;
    let nobody = scene.office.coordinator.ctl(&["activity", "list", "--user", "bob"])?;
    ensure!(nobody.as_array().is_some_and(Vec::is_empty), "{nobody}");

    // Whoever watches has seen the connection, whoever exports gets all rows, and so does the file beside.
    eventually("the connection was streamed", || {
        ensure!(tail.ended().is_none(), "{}", tail.log());
        let seen = lines(&tail.log())?;
        ensure!(seen == [open.clone()], "{seen:?}");
        Ok(())
    })?;
    let all = scene.office.coordinator.run(&["activity", "export"])?.success()?;
    let exported = lines(&all)?;
    ensure!(exported.len() > 3 && ids(&exported).is_sorted_by(|a, b| a < b), "{all}");
    let file = scene.office.coordinator.host().dir().join("activity.jsonl");
    eventually("the file has the same lines", || {
        let written = fs::read_to_string(&file)?;
        ensure!(written == all, "{written}");
        Ok(())
    })
}

#[test]
fn a_coordinator_that_is_killed_misses_nothing_and_records_nothing_twice() -> Result<()> {
    let mut scene = scene(&[])?;
    let tail = scene.office.coordinator.begin("tail", &["activity", "tail", "--resource", "wiki", "--json"])?;
    ensure!(scene.office.get(ALIAS)?.ok());
    let before = scene.complete(1)?;

    // Connections one after the other, and the end of the coordinator in their midst.
    let mut loader = scene.office.laptop.command("sh");
    let each = format!("for i in $(seq {AWAY}); do curl -sS --max-time 15 {ALIAS} || exit 1; sleep 0.05; done");
    let mut loader = scene.office.laptop.spawn("loader", loader.args(["-c", &each]))?;
    eventually("some connections are made", || {
        ensure!(loader.log().lines().count() > 3, "{}", loader.log());
        Ok(())
    })?;
    scene.office.coordinator.kill()?;
    ensure!(loader.wait()? == 0, "{}", loader.log());
    scene.office.coordinator.resume()?;
    each_once(&scene.complete(1 + AWAY)?, 1 + AWAY)?;

    // With the coordinator away all the time, and a gateway that dies meanwhile: it has it all on its disk.
    scene.office.coordinator.kill()?;
    for _ in 0..MORE {
        ensure!(scene.office.get(ALIAS)?.ok());
    }
    eventually("the gateway keeps what it can't tell", || {
        let status = scene.gateway.json(&["status"])?;
        ensure!(status["activity"]["waiting"] == 2 * MORE, "{}", status["activity"]);
        Ok(())
    })?;
    scene.gateway.process()?.kill()?;
    scene.gateway.resume()?;
    scene.office.coordinator.resume()?;
    let rows = scene.complete(1 + AWAY + MORE)?;
    each_once(&rows, 1 + AWAY + MORE)?;
    let closed = of_kind(&rows, "flow_close");
    ensure!(closed.iter().all(|row| row["reason"] == "finished" && row["down"].as_u64() > Some(100)), "{closed:?}");
    ensure!(ids(&rows).starts_with(&ids(&before)), "rows from before are as they were");

    // The stream has gone on by itself, without a gap and without a repetition.
    eventually("the stream has all of it", || {
        let seen: Vec<_> = lines(&tail.log())?;
        ensure!(ids(&seen) == ids(&rows), "{:?} of {:?}", ids(&seen), ids(&rows));
        Ok(())
    })
}

#[test]
fn only_a_gateway_has_a_spool() -> Result<()> {
    let scene = scene(&[])?;
    ensure!(scene.office.get(ALIAS)?.ok());
    scene.complete(1)?;
    ensure!(scene.gateway.state_dir().join("activity").is_dir(), "the gateway's");
    ensure!(!scene.laptop.state_dir().join("activity").exists(), "the laptop records nothing");
    let status = scene.laptop.json(&["status"])?;
    ensure!(status["activity"].is_null(), "{status}");
    // What a spool holds says who went where: it is nobody else's.
    let find = |node: &Node| -> Result<Output> {
        let dir = node.state_dir().join("activity");
        run(std::process::Command::new("find").arg(dir).args(["-perm", "/077", "-o", "-not", "-user", "root"]))
    };
    let open = find(&scene.gateway)?.success()?;
    ensure!(open.trim().is_empty(), "readable for others: {open}");
    Ok(())
}
