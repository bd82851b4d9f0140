//! An edit on the coordinator takes effect on connections that are already open.

use anyhow::{Context as _, Result, ensure};
use postern_lab::{Node, Office, eventually, wait::now};

struct Scene {
    office: Office,
    _gateway: Node,
    laptop: Node,
}

fn scene() -> Result<Scene> {
    let mut office = Office::new(&[])?;
    office.open_wiki()?;
    let gateway = office.join_gateway()?;
    let laptop = office.join_laptop()?;
    Ok(Scene { office, _gateway: gateway, laptop })
}

impl Scene {
    /// Does `edit`, and holds that the open download is reset, on the server's side too, and new connections fail.
    fn is_cut_by(&self, edit: &[&str]) -> Result<()> {
        let mut download = self.office.download()?;
        let start = now();
        self.office.coordinator.ctl(edit)?;
        let code = download.wait()?;
        println!("{}: open download cut after {:?}", edit.join(" "), start.elapsed());
        // 56: the connection was reset while receiving. A download that had run to its end would say 0.
        ensure!(code == 56, "curl ended with {code}: {}", download.log());
        ensure!(download.log().contains("reset"), "{}", download.log());
        eventually("the server's connection is gone", || {
            let open = self.office.wiki.run(&["ss", "-Htn", "state", "established", "sport", "=", ":80"])?.success()?;
            ensure!(open.trim().is_empty(), "{open}");
            Ok(())
        })?;
        self.is_closed()
    }

    fn is_closed(&self) -> Result<()> {
        let output = self.office.laptop.run(&["curl", "-sS", "--max-time", "15", "http://wiki.postern.internal/"])?;
        ensure!(matches!(output.code, Some(6 | 7)), "refused or unknown, not hanging: {output:?}");
        let address = self.office.coordinator.ctl(&["grant", "list"])?;
        ensure!(address.as_array().is_some_and(Vec::is_empty), "no grant is left: {address}");
        Ok(())
    }

    fn is_open(&self) -> Result<()> {
        eventually("the wiki is reached", || {
            self.office.laptop.run(&["curl", "-sS", "--max-time", "15", "http://wiki.postern.internal/"])?.success()
        })
        .with_context(|| self.laptop.log())?;
        Ok(())
    }
}

#[test]
fn removing_the_policy_cuts_and_allowing_again_opens() -> Result<()> {
    let scene = scene()?;
    for _ in 0..2 {
        let policy = scene.office.coordinator.find(&["policy", "list"], "resource", "wiki")?;
        scene.is_cut_by(&["policy", "remove", policy["id"].as_str().context("an id")?])?;
        scene.office.coordinator.ctl(&["policy", "allow", "user:alice", "wiki"])?;
        scene.is_open()?;
    }
    Ok(())
}

#[test]
fn suspending_the_user_cuts_and_resuming_opens() -> Result<()> {
    let scene = scene()?;
    scene.is_cut_by(&["user", "suspend", "alice"])?;
    scene.office.coordinator.ctl(&["user", "resume", "alice"])?;
    scene.is_open()
}

#[test]
fn leaving_the_group_cuts() -> Result<()> {
    let scene = scene()?;
    let policy = scene.office.coordinator.find(&["policy", "list"], "resource", "wiki")?;
    for words in ["group add eng", "group member add eng alice", "policy allow group:eng wiki"] {
        scene.office.coordinator.ctl(&words.split(' ').collect::<Vec<_>>())?;
    }
    scene.office.coordinator.ctl(&["policy", "remove", policy["id"].as_str().context("an id")?])?;
    scene.is_open()?;
    scene.is_cut_by(&["group", "member", "remove", "eng", "alice"])
}

#[test]
fn removing_the_resource_cuts() -> Result<()> {
    scene()?.is_cut_by(&["resource", "remove", "wiki"])
}

#[test]
fn revoking_the_device_cuts_for_good() -> Result<()> {
    let mut scene = scene()?;
    let device = scene.office.coordinator.find(&["device", "list"], "user", "alice")?;
    scene.is_cut_by(&["device", "revoke", device["id"].as_str().context("an id")?])?;

    // Its certificate is of no use any more, not after a restart either.
    scene.laptop.process()?.terminate()?;
    scene.laptop.resume()?;
    let up = scene.laptop.run(&["up"])?;
    ensure!(up.code == Some(1) && up.stderr.contains("revoked"), "{up:?}");
    scene.is_closed()
}

#[test]
fn a_lease_runs_out_when_the_coordinator_is_away() -> Result<()> {
    let mut office = Office::new(&["--lease", "8s"])?;
    office.open_wiki()?;
    let gateway = office.join_gateway()?;
    let laptop = office.join_laptop()?;
    let mut scene = Scene { office, _gateway: gateway, laptop };
    // Renewed for longer than one lease while the coordinator is there.
    let mut download = scene.office.download()?;
    let start = now();
    eventually("two leases have passed", || {
        ensure!(start.elapsed().as_secs() >= 17);
        Ok(())
    })?;
    ensure!(download.ended().is_none(), "renewed leases carry on: {}", download.log());

    scene.office.coordinator.kill()?;
    ensure!(download.wait()? == 56, "the lease ends the connection: {}", download.log());
    let output = scene.office.laptop.run(&["curl", "-sS", "--max-time", "15", "http://wiki.postern.internal/"])?;
    ensure!(!output.ok(), "no coordinator, no new grant");

    scene.office.coordinator.resume()?;
    scene.is_open()
}
