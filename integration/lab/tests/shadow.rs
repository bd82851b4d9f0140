//! Policies in shadow: what they would do to live traffic is recorded, and none of it done.

use anyhow::{Context as _, Result, ensure};
use postern_lab::{Node, Office, eventually, office, servers};
use serde_json::Value;

const WIKI: &str = "http://wiki.postern.internal/";
const BOARD: &str = "http://board.postern.internal/";

struct Scene {
    office: Office,
    _gateway: Node,
    _laptop: Node,
}

/// The wiki, which alice may reach, and the board, which she knows of and may not: her laptop has no firewall.
fn scene() -> Result<Scene> {
    let mut office = Office::new(&[])?;
    office.open_wiki()?;
    let server = servers::nginx(&office.db, 80, "hello from the board")?;
    office.serve(server);
    office.coordinator.ctl(&["resource", "add", "board", "--site", "office", "--target", office::DB, "--tcp", "80"])?;
    office.coordinator.policy(&["allow", "user:alice", "board", "--when", "posture.firewall"])?;
    let gateway = office.join_gateway()?;
    let laptop = office.join_laptop()?;
    Ok(Scene { office, _gateway: gateway, _laptop: laptop })
}

impl Scene {
    /// The row that says what this policy would have made of alice's access.
    fn recorded(&self, policy: &str, difference: &str) -> Result<Value> {
        eventually(&format!("{difference} is recorded"), || {
            let rows = self.office.coordinator.ctl(&["activity", "list", "--user", "alice", "--kind", "shadow"])?;
            let found = rows.as_array().context("a list")?.iter().find(|row| row["policies"][0] == policy);
            let row = found.with_context(|| format!("none of {policy}: {rows}"))?;
            ensure!(row["reason"] == difference && row["device"] == "laptop", "{row}");
            Ok(row.clone())
        })
    }
}

#[test]
fn a_denial_in_shadow_cuts_nothing_and_says_what_it_would_cut() -> Result<()> {
    let scene = scene()?;
    let coordinator = &scene.office.coordinator;
    let mut download = scene.office.download()?;
    let shadow = coordinator.policy(&["deny", "everyone", "wiki", "--shadow"])?;
    let row = scene.recorded(&shadow, "would_deny")?;
    ensure!(row["resource"] == "wiki", "of the connection that is open: {row}");
    let change = coordinator.enforced(&format!("policy:{shadow}"))?;
    ensure!(change["revoked"] == 0 && change["narrowed"] == 0 && change["nodes"] == 0, "{change}");
    scene.office.grows("big")?;
    scene.office.is_open(WIKI)?;
    ensure!(download.ended().is_none(), "{}", download.log());

    let report = coordinator.ctl(&["policy", "shadow-report"])?;
    ensure!(report.to_string().contains(&shadow) && report.to_string().contains("would_deny"), "{report}");

    // The same in earnest: it was no idle threat.
    coordinator.ctl(&["policy", "enforce", &shadow])?;
    coordinator.enforced(&format!("policy:{shadow}"))?;
    scene.office.is_cut(&mut download)?;
    scene.office.is_closed(WIKI)
}

#[test]
fn an_allowance_in_shadow_opens_nothing_and_says_what_it_would_open() -> Result<()> {
    let scene = scene()?;
    let coordinator = &scene.office.coordinator;
    let shadow = coordinator.policy(&["allow", "user:alice", "board", "--shadow"])?;
    scene.office.is_closed(BOARD)?;
    let row = scene.recorded(&shadow, "would_allow")?;
    ensure!(row["resource"] == "board", "{row}");
    let explained = coordinator.ctl(&["explain", "alice", "board"])?;
    ensure!(explained[0]["allowed"] == false && explained[0]["reason"] == "condition_not_met", "{explained}");
    let grants = coordinator.ctl(&["grant", "list"])?;
    ensure!(!grants.to_string().contains("board"), "{grants}");

    coordinator.policy(&["allow", "user:alice", "board"])?;
    scene.office.is_open(BOARD)
}
