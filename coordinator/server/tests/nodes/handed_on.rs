//! Where activity goes besides the list: to whoever follows it, and into an export.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    os::unix::fs::PermissionsExt as _,
    process::{Child, ChildStdout, Command, Stdio},
};

use serde_json::{Value, json};

use super::{
    office::{Office, rows, rows_once},
    program::{Running, program, text},
};

/// A command that goes on and on; killed when dropped.
struct Following {
    child: Child,
    lines: std::io::Lines<BufReader<ChildStdout>>,
}

impl Following {
    fn start(command: &mut Command) -> Self {
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, lines }
    }

    fn of(running: &Running, words: &str) -> Self {
        Self::start(program().arg("--state-dir").arg(running.state()).args(words.split_whitespace()))
    }

    /// The next line.
    async fn line(&mut self) -> String {
        tokio::task::block_in_place(|| self.lines.next()).expect("more lines").unwrap()
    }

    async fn row(&mut self) -> Value {
        serde_json::from_str(&self.line().await).unwrap()
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_follows_sees_what_comes_and_only_what_was_asked_for() {
    let mut program = Running::start();
    let mut office = Office::open(&program, "hq", 1).await;
    office.denial(20).await;
    rows_once(&program, "", 1).await;
    let mut from_first = Following::of(&program, "activity tail --after 0 --json");
    let mut flows =
        Following::of(&program, "activity tail --user hq-alice --kind flow_close --since 2001-01-01T00:00:00Z");
    assert_eq!(from_first.row().await["kind"], "deny", "what was there before");
    let grant = office.grant().await;
    assert_eq!(from_first.row().await["kind"], "allow");
    let told = vec![office.opened(grant, 1), office.closed(grant, 2)];
    office.tell(told).await;
    let line = flows.line().await;
    for part in ["flow_close", "hq-alice", "node2", "hq-wiki", "tcp/443", "up 2B down 1.9KiB", "for 1m", "(finished)"] {
        assert!(line.contains(part), "'{part}' is not in {line}");
    }
    assert_eq!((&from_first.row().await["kind"], &from_first.row().await["id"]), (&json!("flow_open"), &json!(4)));

    // A restart is no end, and nothing is missed or told twice.
    program.serve.kill().unwrap();
    program.serve.wait().unwrap();
    program.restart();
    let office = office.reopen(&program).await;
    office.denial(21).await;
    assert_eq!(from_first.row().await["id"], 5);
    let human = program.done("activity list --kind flow_close");
    assert!(human.contains("KIND") && human.contains("hq-wiki"), "{human}");
    assert_eq!(program.done("activity list --user nobody"), "There is no such activity.\n");
    program.fails("activity list --kind dance", 2, "flow_close");
    program.fails("activity list --since yesterday", 2, "how long ago");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_key_follows_no_longer() {
    let running = Running::start();
    let office = Office::open(&running, "hq", 1).await;
    let made = running.json("apikey create watcher");
    let mut watcher = program();
    watcher.env("POSTERN_API_KEY", text(&made, "api_key")).args(["activity", "tail", "--after", "0", "--json"]);
    let mut watching = Following::start(&mut watcher);
    office.denial(20).await;
    assert_eq!(watching.row().await["id"], 1);
    running.done(&format!("apikey revoke {}", text(&made, "id")));
    office.denial(21).await;
    rows_once(&running, "", 2).await;
    assert!(tokio::task::block_in_place(|| watching.lines.next()).is_none(), "it hears no more");
    assert_eq!(watching.child.wait().unwrap().code(), Some(1));
}

#[tokio::test]
async fn an_export_is_all_of_it_and_private() {
    let program = Running::start();
    let mut office = Office::open(&program, "hq", 1).await;
    let grant = office.grant().await;
    for batch in 0..25 {
        let entries = (1..=100).map(|n| office.closed(grant, batch * 100 + n)).collect();
        office.tell(entries).await;
    }
    let all = rows(&program, "");
    let path = program.dir.path().join("export");
    let said = program.done(&format!("activity export --out {}", path.display()));
    assert_eq!(said, format!("Wrote {} rows to {}.\n", all.len(), path.display()));
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let parsed = |lines: &str| lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect::<Vec<Value>>();
    assert_eq!(parsed(&fs::read_to_string(&path).unwrap()), all, "over several pages");
    assert_eq!(parsed(&program.done("activity export --kind allow")), [all[0].clone()]);
    assert_eq!(parsed(&program.done("activity export --user nobody")), Vec::<Value>::new());
    program.fails("activity export --out /nowhere/export", 1, "/nowhere/export");
    let names: Vec<_> = fs::read_dir(program.dir.path()).unwrap().map(|it| it.unwrap().file_name()).collect();
    assert!(!names.iter().any(|name| name.to_string_lossy().ends_with(".part")), "{names:?}");
}
