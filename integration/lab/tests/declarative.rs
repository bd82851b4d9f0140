//! A network kept as a file: exported, edited, planned and applied, with connections open that the plan foretells the end of.

use std::fs;

use anyhow::{Context as _, Result, ensure};
use postern_lab::{Node, Office, Output, office, servers};
use serde_json::Value;

const WIKI: &str = "http://wiki.postern.internal/";
const ADMIN: &str = "http://wiki.postern.internal:8080/";
const BOARD: &str = "http://board.postern.internal/";

struct Scene {
    office: Office,
    _gateway: Node,
    _laptop: Node,
    file: String,
}

/// The wiki on two ports and the board, both for the group of which alice is; bob is in none.
fn scene() -> Result<Scene> {
    let mut office = Office::new(&[])?;
    let servers = [
        servers::nginx(&office.wiki, 80, "hello from the wiki")?,
        servers::nginx(&office.wiki, 8080, "admin pages")?,
        servers::nginx(&office.db, 80, "hello from the board")?,
    ];
    servers.into_iter().for_each(|server| office.serve(server));
    for (name, target, ports) in [("wiki", office::WIKI, "80,8080"), ("board", office::DB, "80")] {
        office.coordinator.ctl(&["resource", "add", name, "--site", "office", "--target", target, "--tcp", ports])?;
    }
    for words in ["user add bob", "group add eng", "group member add eng alice"] {
        office.coordinator.ctl(&words.split(' ').collect::<Vec<_>>())?;
    }
    for resource in ["wiki", "board"] {
        office.coordinator.policy(&["allow", "group:eng", resource])?;
    }
    let gateway = office.join_gateway()?;
    let laptop = office.join_laptop()?;
    let file = office.lab.dir().join("network.toml").to_string_lossy().into_owned();
    let scene = Scene { office, _gateway: gateway, _laptop: laptop, file };
    scene.run(&["export", "--out", &scene.file])?.success()?;
    Ok(scene)
}

impl Scene {
    fn run(&self, words: &[&str]) -> Result<Output> {
        self.office.coordinator.run(&[&["policy"], words].concat())
    }

    fn plan(&self) -> Result<Value> {
        self.office.coordinator.ctl(&["policy", "plan", &self.file])
    }

    /// Replaces one text in the file, which must be there, with another.
    fn edit(&self, from: &str, to: &str) -> Result<()> {
        let text = fs::read_to_string(&self.file)?;
        ensure!(text.matches(from).count() == 1, "'{from}' is once in: {text}");
        Ok(fs::write(&self.file, text.replace(from, to))?)
    }

    /// Holds that all is as the file says.
    fn is_as_declared(&self) -> Result<()> {
        let plan = self.plan()?;
        for list in ["steps", "access", "grants"] {
            ensure!(plan[list].as_array().is_some_and(Vec::is_empty), "nothing to do: {plan}");
        }
        let output = self.run(&["plan", &self.file, "--detailed-exitcode"])?;
        ensure!(output.ok() && output.stdout.contains("Nothing to change"), "{output:?}");
        Ok(())
    }
}

/// The row of a list whose field is this.
fn find<'a>(list: &'a Value, field: &str, value: &str) -> Result<&'a Value> {
    let found = list.as_array().context("a list")?.iter().find(|row| row[field] == value);
    found.with_context(|| format!("none with {field} = {value}: {list}"))
}

#[test]
fn an_exported_network_planned_again_is_as_it_is() -> Result<()> {
    let scene = scene()?;
    scene.is_as_declared()?;
    let edits = || {
        let audit = scene.office.coordinator.ctl(&["audit", "list", "--limit", "1000"])?;
        let is_edit = |entry: &&Value| {
            let action = entry["action"].as_str().unwrap_or_default();
            ["user.", "group.", "site.", "resource.", "policy."].iter().any(|kind| action.starts_with(kind))
        };
        anyhow::Ok(audit.as_array().context("entries")?.iter().filter(is_edit).count())
    };
    let before = edits()?;
    ensure!(before > 5, "those that made it: {before}");
    let mut download = scene.office.download()?;
    let applied = scene.office.coordinator.ctl(&["policy", "apply", &scene.file])?;
    ensure!(applied["applied"]["steps"].as_array().is_some_and(Vec::is_empty), "{applied}");
    ensure!(edits()? == before, "nothing was done");
    scene.office.grows("big")?;
    ensure!(download.ended().is_none(), "{}", download.log());
    let again = scene.run(&["export"])?.success()?;
    ensure!(again == fs::read_to_string(&scene.file)?, "the same once more: {again}");
    Ok(())
}

#[test]
fn an_edit_does_to_live_traffic_what_its_plan_said() -> Result<()> {
    let scene = scene()?;
    let mut wiki = scene.office.download_of("wiki", &format!("{WIKI}big"))?;
    let mut admin = scene.office.download_of("admin", &format!("{ADMIN}big"))?;
    let mut board = scene.office.download_of("board", &format!("{BOARD}big"))?;
    let policy = scene.office.coordinator.find(&["policy", "list"], "resource", "board")?;

    // The board goes from the group to bob; of the wiki one port stays.
    scene.edit("subject = \"group:eng\"\nresource = \"board\"", "subject = \"user:bob\"\nresource = \"board\"")?;
    scene.edit("resource = \"wiki\"", "resource = \"wiki\"\nports = \"tcp/80\"")?;
    let plan = scene.plan()?;
    let access = plan["access"].as_array().with_context(|| plan.to_string())?;
    let told: Vec<_> = access
        .iter()
        .flat_map(|row| row["changes"].as_array().into_iter().flatten().map(move |change| (row, change)))
        .map(|(row, change)| {
            format!("{} {} {} {}", row["users"], change["change"], row["resources"], change["ports"]).replace('"', "")
        })
        .collect();
    for change in ["[alice] lost [board] tcp/80", "[alice] lost [wiki] tcp/8080", "[bob] gained [board] tcp/80"] {
        ensure!(told.iter().any(|it| it == change), "'{change}' in {told:?}");
    }
    ensure!(told.len() == 3, "and nothing else: {told:?}");
    let (ends, narrows) = (find(&plan["grants"], "resource", "board")?, find(&plan["grants"], "resource", "wiki")?);
    ensure!(ends["user"] == "alice" && ends["device"] == "laptop" && ends["ends"] == "no_policy", "{ends}");
    ensure!(
        narrows["before"] == "tcp/80,8080" && narrows["after"] == "tcp/80" && narrows["ends"].is_null(),
        "{narrows}"
    );
    let output = scene.run(&["plan", &scene.file, "--detailed-exitcode"])?;
    ensure!(output.code == Some(2) && output.stdout.contains("alice loses tcp/80 of board"), "{output:?}");
    for name in ["wiki", "admin", "board"] {
        scene.office.grows(name).context("a plan cuts nothing")?;
    }

    scene.office.coordinator.ctl(&["policy", "apply", &scene.file, "--revision", &plan["revision"].to_string()])?;
    scene.office.is_cut(&mut board)?;
    scene.office.is_cut(&mut admin)?;
    let id = policy["id"].as_str().context("an id")?;
    let change = scene.office.coordinator.enforced(&format!("policy:{id}"))?;
    ensure!(change["revoked"] == 1 && change["narrowed"] == 1 && change["cut"] == 2, "{change}");
    ensure!(change["nodes"] == 1, "{change}");
    scene.office.is_closed(BOARD)?;
    scene.office.is_closed(ADMIN)?;
    scene.office.is_open(WIKI)?;
    scene.office.grows("wiki")?;
    ensure!(wiki.ended().is_none(), "what the plan did not name goes on: {}", wiki.log());
    scene.is_as_declared()
}

#[test]
fn what_is_outdated_or_asserts_what_would_not_hold_is_refused_whole() -> Result<()> {
    let scene = scene()?;
    let mut download = scene.office.download()?;
    scene.edit("subject = \"group:eng\"\nresource = \"wiki\"", "subject = \"user:bob\"\nresource = \"wiki\"")?;
    let refused = |words: &[&str], why: &str| {
        let output = scene.run(&[&["apply", &scene.file], words].concat())?;
        ensure!(output.code == Some(1) && output.stderr.contains(why), "'{why}' in {output:?}");
        scene.office.grows("big").context("nothing was cut")?;
        scene.office.is_open(WIKI)
    };

    // Someone else was quicker.
    let planned = scene.plan()?["revision"].to_string();
    scene.office.coordinator.ctl(&["group", "add", "late"])?;
    refused(&["--revision", &planned], "plan")?;
    scene.office.coordinator.find(&["group", "list"], "name", "late").context("the other's change stands")?;

    let held = fs::read_to_string(&scene.file)?;
    let assertion = "\n[[assertions]]\nname = \"engineers keep the wiki\"\nexpect = \"allow\"\nuser = \"alice\"\nresource = \"wiki\"\n";
    fs::write(&scene.file, held.clone() + assertion)?;
    refused(&[], "engineers keep the wiki")?;
    let test = scene.run(&["test", &scene.file])?;
    ensure!(test.code == Some(1) && test.stdout.contains("engineers keep the wiki"), "offline too: {test:?}");
    fs::write(&scene.file, held.replace("[[policies]]", "[[policys]]"))?;
    refused(&[], "policys")?;
    ensure!(download.ended().is_none(), "{}", download.log());

    fs::write(&scene.file, held)?;
    scene.run(&["apply", &scene.file])?.success()?;
    scene.office.is_cut(&mut download)?;
    scene.office.is_closed(WIKI)?;
    let groups = scene.office.coordinator.ctl(&["group", "list"])?;
    ensure!(!groups.to_string().contains("late"), "what the file leaves out is gone: {groups}");
    scene.is_as_declared()
}
