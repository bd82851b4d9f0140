//! A site with two gateways, one of which goes away: killed, frozen, drained. New connections work at once, and open ones end
//! with a reset and do not hang.

use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use postern_lab::{Background, Node, Office, eventually, wait::now};
use rustix::process::Signal;
use serde_json::Value;

const URL: &str = "http://wiki.postern.internal/";
/// How long after its start the coordinator gives gateways time to come back.
const GRACE: Duration = Duration::from_secs(10);
const NAMES: [&str; 2] = ["gateway", "gateway-b"];

/// Two gateways, and a download of the laptop through one of them.
struct Scene {
    office: Office,
    gateways: [Node; 2],
    laptop: Node,
    download: Background,
    /// Through which one it goes.
    used: usize,
}

fn scene() -> Result<Scene> {
    let mut office = Office::new(&[])?;
    let started = now();
    office.open_wiki()?;
    let host = office.lab.host("gateway-b")?;
    host.link("eth0", &office.internet, &["203.0.113.21/24"])?;
    host.link("eth1", &office.office, &["10.0.0.2/24"])?;
    std::fs::write(host.resolv_conf(), "nameserver 203.0.113.53\n")?;
    let second = Node::join(&host, &office.coordinator.token(&["--site", "office"])?)?;
    let gateways = [office.join_gateway()?, second];
    let laptop = office.join_laptop()?;
    let download = office.download()?;
    // For a while after its start the coordinator misses no gateway.
    while started.elapsed() < GRACE {
        office.grows("big")?;
    }
    let used = carrier(&office)?;
    Ok(Scene { office, gateways, laptop, download, used })
}

trait Rows {
    fn device(&self, name: &str) -> Result<Value>;
}

impl Rows for Office {
    fn device(&self, name: &str) -> Result<Value> {
        self.coordinator.find(&["device", "list"], "name", name)
    }
}

/// Which gateway carries the laptop's grant.
fn carrier(office: &Office) -> Result<usize> {
    let grant = office.coordinator.find(&["grant", "list"], "resource", "wiki")?;
    let gateway = &grant["gateway"];
    NAMES.iter().position(|name| gateway == name).with_context(|| format!("no gateway {gateway}"))
}

impl Scene {
    fn other(&self) -> usize {
        1 - self.used
    }

    /// Until a new connection works. Each try is short: what is sent to a gateway that is gone is lost.
    fn works_again(&self) -> Result<()> {
        eventually("a new connection works", || {
            let page = self.office.laptop.run(&["curl", "-sS", "--max-time", "1", URL])?.success()?;
            ensure!(page.contains("hello from the wiki"), "{page}");
            Ok(())
        })
        .with_context(|| self.laptop.log())
    }

    /// The gateway is gone from now on: its grant moves, new connections work, the open one is reset.
    fn fails_over(&mut self, how: &str) -> Result<()> {
        let since = now();
        self.works_again()?;
        println!("{how}: a new connection works after {:?}", since.elapsed());
        ensure!(carrier(&self.office)? == self.other(), "through the other gateway");
        self.office.is_cut(&mut self.download)?;
        println!("{how}: the open connection was reset within {:?}", since.elapsed());
        let moved = self.audit("grant.move")?;
        ensure!(moved["details"].to_string().contains(NAMES[self.other()]), "{moved}");
        self.office.coordinator.run(&["audit", "verify"])?.success().map(drop)
    }

    /// The last audit entry of this action.
    fn audit(&self, action: &str) -> Result<Value> {
        let audit = self.office.coordinator.ctl(&["audit", "list", "--limit", "1000"])?;
        let entries = audit.as_array().context("a list")?;
        let last = entries.iter().rev().find(|entry| entry["action"] == action);
        last.cloned().with_context(|| format!("no {action}: {audit}"))
    }

    /// A download that goes on.
    fn download_again(&mut self) -> Result<()> {
        self.download = self.office.download()?;
        Ok(())
    }
}

#[test]
fn a_killed_gateway_is_replaced_and_its_connections_are_reset() -> Result<()> {
    let mut scene = scene()?;
    let used = scene.used;
    scene.gateways[used].process()?.kill()?;
    scene.fails_over("killed")?;
    // It comes back and carries nothing of before; what runs through the other one goes on.
    scene.download_again()?;
    scene.gateways[used].resume()?;
    eventually("it is back", || {
        let status = scene.gateways[used].json(&["status"])?;
        ensure!(status["connected"] == true && status["grants_carried"] == 0, "{status}");
        Ok(())
    })?;
    scene.office.grows("big")?;
    ensure!(scene.download.ended().is_none(), "{}", scene.download.log());
    // And when the other one dies, it takes over.
    scene.used = scene.other();
    let used = scene.used;
    scene.gateways[used].process()?.kill()?;
    scene.fails_over("killed, the other one")
}

#[test]
fn a_frozen_gateway_is_replaced_like_a_dead_one() -> Result<()> {
    let mut scene = scene()?;
    let used = scene.used;
    scene.gateways[used].process()?.signal(Signal::STOP)?;
    scene.fails_over("frozen")?;
    ensure!(scene.office.device(NAMES[used])?["connected"] == false, "it is seen to be away");
    scene.download_again()?;
    scene.gateways[used].process()?.signal(Signal::CONT)?;
    eventually("it is back, and has let go", || {
        let status = scene.gateways[used].json(&["status"])?;
        ensure!(status["connected"] == true && status["grants_carried"] == 0, "{status}");
        Ok(())
    })
    .with_context(|| scene.gateways[used].log())?;
    scene.office.grows("big")?;
    ensure!(scene.download.ended().is_none(), "nobody is disturbed by that: {}", scene.download.log());
    Ok(())
}

#[test]
fn a_drained_gateway_hands_over_and_serves_again_when_undrained() -> Result<()> {
    let mut scene = scene()?;
    let (used, other) = (scene.used, scene.other());
    let ctl = |office: &Office, words: &[&str]| office.coordinator.ctl(&[&["site"], words].concat());
    ctl(&scene.office, &["drain", "office", NAMES[used]])?;
    scene.fails_over("drained")?;
    let row = scene.office.device(NAMES[used])?;
    ensure!(row["connected"] == true && row["drained"] == true, "{row}");
    eventually("it has let go", || {
        let status = scene.gateways[used].json(&["status"])?;
        ensure!(status["grants_carried"] == 0, "{status}");
        Ok(())
    })?;
    let table = scene.office.coordinator.run(&["site", "list"])?.success()?;
    ensure!(table.contains(&format!("{}:drained", NAMES[used])), "{table}");

    // The last one is drained only by force, and then nothing passes.
    let refused = scene.office.coordinator.run(&["site", "drain", "office", NAMES[other]])?;
    ensure!(refused.code == Some(1) && refused.stderr.contains("--force"), "{refused:?}");
    scene.office.is_open(URL)?;
    ctl(&scene.office, &["drain", "office", NAMES[other], "--force"])?;
    // A grant that nothing can take goes on to its end: whoever has it is not cut off for it.
    scene.office.is_open(URL)?;
    ctl(&scene.office, &["undrain", "office", NAMES[used]])?;
    eventually("the first one serves again", || {
        ensure!(carrier(&scene.office)? == used);
        Ok(())
    })?;
    scene.works_again()?;
    match scene.office.coordinator.run(&["site", "undrain", "office", NAMES[used]])? {
        output if output.code == Some(1) => ensure!(output.stderr.contains("not drained"), "{output:?}"),
        output => bail!("undrained twice: {output:?}"),
    }
    Ok(())
}
