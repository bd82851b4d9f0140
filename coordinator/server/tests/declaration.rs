//! Declarations through the real program: plan, apply, test and export, with their exit codes.

#![allow(clippy::unwrap_used, reason = "what fails here fails the test")]

mod program;

use std::{fmt::Write as _, fs, path::PathBuf};

use program::{Running, Said, program, run, text};
use serde_json::json;

const EXAMPLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/examples/policy.toml");

fn write(running: &Running, name: &str, text: &str) -> PathBuf {
    let path = running.dir.path().join(name);
    fs::write(&path, text).unwrap();
    path
}

#[track_caller]
fn exits(said: &Said, code: i32) {
    assert_eq!(said.code, code, "{}\n{}", said.stdout, said.stderr);
}

#[test]
fn a_file_is_planned_applied_and_exported_as_it_is() {
    let running = Running::start();
    let plan = running.say(&format!("policy plan {EXAMPLE} --detailed-exitcode"));
    exits(&plan, 2);
    for line in
        ["+ resource wiki", "+ group member eng  user: alice", "gains tcp/80,443 icmp of wiki", "5 of 5 assertions"]
    {
        assert!(plan.stdout.contains(line), "'{line}' is not in:\n{}", plan.stdout);
    }
    exits(&running.say(&format!("policy plan {EXAMPLE}")), 0);
    assert_eq!(running.json("policy list"), json!([]), "a plan changes nothing");
    let log = running.json("audit verify");

    let applied = running.done(&format!("policy apply {EXAMPLE}"));
    assert!(applied.contains("Done: ") && applied.contains(" changes, at revision"), "{applied}");
    assert_eq!(running.json("policy list").as_array().unwrap().len(), 5);
    assert_eq!(running.json("group list").as_array().unwrap().len(), 4);
    assert_ne!(running.json("audit verify")["entries"], log["entries"], "each step is in the log");
    let again = running.say(&format!("policy plan {EXAMPLE} --detailed-exitcode"));
    exits(&again, 0);
    assert!(again.stdout.contains("Nothing to change"), "{}", again.stdout);
    assert!(running.done(&format!("policy apply {EXAMPLE}")).contains("Nothing to change"));

    // Export, then plan, is empty; the export into an empty network makes the same.
    let out = running.dir.path().join("exported.toml");
    running.done(&format!("policy export --out {}", out.display()));
    exits(&running.say(&format!("policy plan {} --detailed-exitcode", out.display())), 0);
    assert_eq!(running.done("policy export"), fs::read_to_string(&out).unwrap());
    let other = Running::start();
    other.done(&format!("policy apply {}", out.display()));
    assert_eq!(other.done("policy export"), fs::read_to_string(&out).unwrap());
    exits(&other.say(&format!("policy plan {EXAMPLE} --detailed-exitcode")), 0);
    assert_eq!(running.json("policy export")["sites"], json!({"office": {}}));
}

#[test]
fn an_edit_says_who_loses_what_and_a_plan_that_is_outdated_is_refused() {
    let running = Running::start();
    running.done(&format!("policy apply {EXAMPLE}"));
    let example = fs::read_to_string(EXAMPLE).unwrap();
    let edited =
        example.replace("[\"alice\", \"bob\"]", "[\"alice\"]").replace("open = \"tcp/5432\"", "open = \"tcp/5433\"");
    let without = edited.split("# What has to hold").next().unwrap();
    let path = write(&running, "edited.toml", without);
    let plan = running.json(&format!("policy plan {}", path.display()));
    let steps: Vec<_> = plan["steps"].as_array().unwrap().iter().map(|step| text(step, "thing")).collect();
    assert_eq!(steps, ["resource", "group.member"]);
    assert_eq!(plan["steps"][0]["details"], json!([{"name": "open", "value": "tcp/5433", "was": "tcp/5432"}]));
    let rows = plan["access"].as_array().unwrap();
    let is_bobs_loss = |row: &&serde_json::Value| row["users"] == json!(["bob"]) && row["resources"] == json!(["wiki"]);
    let lost = &rows.iter().find(is_bobs_loss).unwrap()["changes"][0];
    assert_eq!((text(lost, "change"), text(lost, "ports")), ("lost", "tcp/80,443 icmp"));
    assert!(rows.iter().all(|row| row["users"] != json!(["carol"])), "whom it does not touch is not told: {plan}");

    running.done("user add mallory");
    let apply = format!("policy apply {} --revision {}", path.display(), plan["revision"]);
    let said = running.say(&apply);
    exits(&said, 1);
    assert!(said.stderr.contains("plan again"), "{}", said.stderr);
    assert_eq!(running.json("group list")[1]["members"], json!(["alice", "bob"]));
    let done = running.json(&format!("policy apply {}", path.display()));
    assert_eq!(done["applied"]["steps"], done["plan"]["steps"]);
    assert_eq!(running.json("group list")[1]["members"], json!(["alice"]));
}

#[test]
fn what_would_not_hold_is_not_applied() {
    let running = Running::start();
    let example = fs::read_to_string(EXAMPLE).unwrap();
    let path = write(
        &running,
        "wrong.toml",
        &example.replace("effect = \"deny\"\nsubject = \"group:contractors\"", "subject = \"everyone\""),
    );
    let said = run(program().args(["policy", "test"]).arg(&path));
    exits(&said, 1);
    let failing = "FAILS   contractors and others stay out of the orders database";
    assert!(said.stdout.contains(failing) && said.stdout.contains("allow everyone tag:prod"), "{}", said.stdout);
    assert!(said.stdout.contains("ok      but on call, one does"), "{}", said.stdout);
    let said = running.say(&format!("policy apply {}", path.display()));
    exits(&said, 1);
    assert!(said.stderr.contains("'contractors and others stay out of the orders database'"), "{}", said.stderr);
    assert_eq!((running.json("policy list"), running.json("user list")), (json!([]), json!([])));
    // By itself, and in JSON.
    let said = run(program().args(["policy", "test", EXAMPLE, "--json"]));
    exits(&said, 0);
    let rows: serde_json::Value = serde_json::from_str(&said.stdout).unwrap();
    assert!(rows.as_array().unwrap().iter().all(|row| row["outcome"] == "holds"), "{rows}");
    // What the file does not say is skipped, and said; skipping all is no success.
    let without = example.split("# In the short form").next().unwrap();
    let denial =
        "[[assertions]]\nname = \"bob stays out\"\nexpect = \"deny\"\nuser = \"bob\"\nresource = \"orders-db\"\n";
    let path = write(&running, "unsaid.toml", &format!("{without}{denial}"));
    let said = run(program().args(["policy", "test"]).arg(&path));
    exits(&said, 1);
    let lines = ["skipped bob stays out: no policies are declared", "0 hold, 0 fail, 1 skipped. Nothing was checked."];
    assert!(lines.iter().all(|line| said.stdout.contains(line)), "{}", said.stdout);
    exits(&run(program().args(["policy", "test", "--json"]).arg(&path)), 1);
    let path = write(&running, "members.toml", &example.replace("members = [\"carol\"]\n", ""));
    let said = run(program().args(["policy", "test"]).arg(&path));
    exits(&said, 0);
    let lines = [
        "skipped but on call, one does: only the coordinator knows who is in the group 'contractors'",
        "ok      and not by night",
    ];
    assert!(lines.iter().all(|line| said.stdout.contains(line)), "{}", said.stdout);
    // What can't be read is neither tested nor planned.
    let path = write(&running, "broken.toml", "[groups.eng]\nmember = [\"alice\"]\n");
    for words in ["test", "plan --detailed-exitcode", "apply"] {
        let said = running.say(&format!("policy {words} {}", path.display()));
        exits(&said, 1);
        let places = ["broken.toml", "line 2", "unknown field `member`", "`members`"];
        assert!(places.iter().all(|place| said.stderr.contains(place)), "{}", said.stderr);
    }
}

#[test]
fn a_site_with_something_left_stays_and_a_folder_is_read_whole() {
    let running = Running::start();
    running.done("site add branch");
    running.done("resource add files --site branch --target 10.0.0.9 --tcp 445");
    let folder = running.dir.path().join("network");
    fs::create_dir(&folder).unwrap();
    let sites = write(&running, "network/sites.toml", "[sites.office]\n");
    let said = running.say(&format!("policy apply {}", folder.display()));
    exits(&said, 1);
    assert!(said.stderr.contains("site 'branch' still has the resource 'files'"), "{}", said.stderr);
    write(&running, "network/more.toml", "[resources]\n");
    running.done(&format!("policy apply {}", folder.display()));
    assert_eq!(running.json("resource list"), json!([]));
    assert_eq!(running.json("site list").as_array().unwrap().len(), 1);
    write(&running, "network/more.toml", "[sites.office]\n");
    let said = running.say(&format!("policy plan {}", folder.display()));
    exits(&said, 1);
    assert!(said.stderr.contains(&sites.display().to_string()) && said.stderr.contains("both"), "{}", said.stderr);
}

#[test]
fn a_large_file_passes_and_one_that_is_too_large_does_not() {
    let running = Running::start();
    let mut large = String::from("[sites.office]\n");
    for n in 0..1000 {
        writeln!(large, "[users.u{n}]\n[resources.r{n}]\nsite = \"office\"\ntarget = \"10.0.0.5\"\nopen = \"tcp/443\"")
            .unwrap();
        writeln!(large, "[[policies]]\nsubject = \"user:u{n}\"\nresource = \"r{n}\"").unwrap();
    }
    let path = write(&running, "large.toml", &large);
    let said = running.done(&format!("policy apply {}", path.display()));
    assert!(said.contains("Done: 3001 changes"), "{}", &said[said.len() - 200..]);
    let huge = format!("# {}\n", "x".repeat(16 * 1024 * 1024));
    let path = write(&running, "huge.toml", &huge);
    let said = running.say(&format!("policy plan {}", path.display()));
    exits(&said, 1);
    assert!(said.stderr.contains("at most 16777216 bytes"), "{}", said.stderr);
}
