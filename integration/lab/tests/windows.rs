//! What is allowed until a time ends at that time, though nobody is there any more to say so.

use anyhow::{Context as _, Result, ensure};
use postern_lab::{Host, Node, Office, eventually};
use rustix::process::Signal;
use serde_json::Value;

const WIKI: &str = "http://wiki.postern.internal/";
/// How long after its end a connection may be seen to be cut, on a machine with much to do. The lease that a policy without an
/// end yields here is 10 minutes.
const MARGIN: i64 = 5;

/// The wall clock in this host, in seconds, when `of` is; a time as `date` reads it.
fn seconds(host: &Host, of: &str) -> Result<i64> {
    Ok(host.run(&["date", "-u", "-d", of, "+%s"])?.success()?.trim().parse()?)
}

struct Scene {
    office: Office,
    gateway: Node,
    laptop: Node,
}

/// The wiki, which nobody may reach.
fn scene() -> Result<Scene> {
    let mut office = Office::new(&[])?;
    office.open_wiki()?;
    let policy = office.coordinator.find(&["policy", "list"], "resource", "wiki")?;
    office.coordinator.ctl(&["policy", "remove", policy["id"].as_str().context("an id")?])?;
    let gateway = office.join_gateway()?;
    let laptop = office.join_laptop()?;
    office.is_closed(WIKI)?;
    Ok(Scene { office, gateway, laptop })
}

impl Scene {
    /// With a policy that is about to end at `end`: away with the coordinator, and what runs is cut then and not later.
    fn ends_without_the_coordinator(&mut self, end: i64, away: impl FnOnce(&mut Office) -> Result<()>) -> Result<()> {
        self.office.is_open(WIKI)?;
        let mut download = self.office.download()?;
        let grants = self.office.coordinator.ctl(&["grant", "list"])?;
        let lease = grants[0]["expires_at"].as_str().with_context(|| grants.to_string())?.to_owned();
        ensure!(seconds(&self.office.laptop, &lease)? == end, "the lease ends with the decision: {lease}, not {end}");
        away(&mut self.office)?;

        let now = |scene: &Self| seconds(&scene.office.laptop, "now");
        while download.ended().is_none() && now(self)? < end + MARGIN {
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
        let cut = now(self)?;
        ensure!((end - 1..end + MARGIN).contains(&cut), "cut at {cut}, and the end was at {end}: {}", download.log());
        self.office.is_cut(&mut download)?;
        println!("cut within {} s of the end", cut - end + 1);

        // By the gateway, which carries nothing any more and has told the server, and not only by the laptop.
        eventually("the gateway has ended it", || {
            let status = self.gateway.json(&["status"])?;
            ensure!(status["grants_carried"] == 0 && status["connected"] == false, "{status}");
            let sockets = ["ss", "-Htn", "state", "established", "sport", "=", ":80"];
            let open = self.office.wiki.run(&sockets)?.success()?;
            ensure!(open.trim().is_empty(), "{open}");
            Ok(())
        })?;
        let fresh = self.office.get(WIKI)?;
        ensure!(!fresh.ok(), "no new connection: {fresh:?}");
        let resources = self.laptop.json(&["resources"])?;
        ensure!(resources[0]["lease_seconds_left"].is_null(), "{resources}");
        Ok(())
    }

    fn is_connected_again(&self) -> Result<()> {
        eventually("the laptop is connected again", || {
            ensure!(self.laptop.json(&["status"])?["connected"] == true);
            Ok(())
        })
    }

    /// The coordinator, back again, has seen that the policy is over.
    fn has_expired(&self, policy: &str) -> Result<()> {
        self.is_connected_again()?;
        eventually("the policy is gone", || {
            let policies = self.office.coordinator.ctl(&["policy", "list"])?;
            ensure!(!policies.to_string().contains(policy), "{policies}");
            Ok(())
        })?;
        let audit = self.office.coordinator.ctl(&["audit", "list", "--limit", "1000"])?;
        let is_it = |entry: &&Value| entry["action"] == "policy.expire" && entry["object"].to_string().contains(policy);
        let count = audit.as_array().context("entries")?.iter().filter(is_it).count();
        ensure!(count == 1, "{count} entries say that {policy} has expired: {audit}");
        self.office.coordinator.run(&["audit", "verify"])?.success()?;
        self.office.is_closed(WIKI)
    }
}

/// A policy that ends in so many seconds, and when.
fn until(office: &Office, wait: i64) -> Result<(String, i64)> {
    let end = seconds(&office.laptop, "now")? + wait;
    let text = office.laptop.run(&["date", "-u", "-d", &format!("@{end}"), "+%Y-%m-%dT%H:%M:%SZ"])?.success()?;
    let policy = office.coordinator.policy(&["allow", "user:alice", "wiki", "--until", text.trim()])?;
    Ok((policy, end))
}

#[test]
fn until_holds_with_a_coordinator_that_hangs() -> Result<()> {
    let mut scene = scene()?;
    let (policy, end) = until(&scene.office, 12)?;
    scene.ends_without_the_coordinator(end, |office| office.coordinator.process()?.signal(Signal::STOP))?;
    scene.office.coordinator.process()?.signal(Signal::CONT)?;
    scene.has_expired(&policy)
}

#[test]
fn until_holds_with_a_coordinator_that_was_killed() -> Result<()> {
    let mut scene = scene()?;
    let (policy, end) = until(&scene.office, 12)?;
    scene.ends_without_the_coordinator(end, |office| office.coordinator.kill())?;
    scene.office.coordinator.resume()?;
    scene.has_expired(&policy)?;

    // What is allowed again afterwards is not touched by the end of before.
    scene.office.coordinator.policy(&["allow", "user:alice", "wiki"])?;
    scene.office.is_open(WIKI)
}

#[test]
fn a_window_closes_with_the_coordinator_away() -> Result<()> {
    let mut scene = scene()?;
    // The shortest window there is ends with the minute; with the next one, if this is nearly over.
    let now = seconds(&scene.office.laptop, "now")?;
    let end = (now + 12) / 60 * 60 + 60;
    let minute = |at: i64| (at / 60).rem_euclid(60);
    let when = format!("time.minute in {}..{}", minute(now), minute(end));
    scene.office.coordinator.policy(&["allow", "user:alice", "wiki", "--when", &when])?;
    scene.ends_without_the_coordinator(end, |office| office.coordinator.kill())?;

    scene.office.coordinator.resume()?;
    scene.is_connected_again()?;
    scene.office.is_closed(WIKI)?;
    let explained = scene.office.coordinator.ctl(&["explain", "alice", "wiki"])?;
    ensure!(explained[0]["allowed"] == false && explained[0]["reason"] == "condition_not_met", "{explained}");
    let policies = scene.office.coordinator.ctl(&["policy", "list"])?;
    ensure!(policies.as_array().is_some_and(|all| all.len() == 1), "the window comes again: {policies}");
    Ok(())
}
