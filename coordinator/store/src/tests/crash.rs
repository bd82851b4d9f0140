//! `kill -9` in the middle of commits: what was acknowledged is there, and nothing is there by half.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    path::PathBuf,
    process::{Command, Stdio},
};

use super::{Place, batch, event, first, records};
use crate::Store;
use postern_model::change::{Batch, Change};

const PATH: &str = "POSTERN_STORE_TEST_PATH";

/// The child: commits, says so, and goes on until it is killed.
#[test]
#[ignore = "is started by the test below, and killed"]
fn commits_until_it_is_killed() {
    let path = PathBuf::from(std::env::var_os(PATH).expect("the database's path"));
    let mut store = Store::open(&path, &first()).unwrap();
    let mut out = std::io::stdout();
    loop {
        let n = store.load().unwrap().revision.0;
        // A user and a group that belong together, so that a batch by half would show; three audit entries.
        let number = u8::try_from(n % 200).unwrap();
        let [kind, _] = n.to_be_bytes()[6..] else { unreachable!() };
        let changes = vec![Change::PutUser(records::user(number, kind)), records::change(3, number, kind)];
        let audit = vec![event("one"), event("two"), event("three")];
        let revision = store.commit(&Batch { changes, audit }).unwrap();
        writeln!(out, "committed {revision}").unwrap();
        out.flush().unwrap();
    }
}

/// Starts the child, kills it once it has acknowledged `count` commits, and returns the last one that it acknowledged.
fn run_and_kill(place: &Place, count: usize) -> u64 {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "--nocapture", "tests::crash::commits_until_it_is_killed"])
        .env(PATH, place.path())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut commits =
        std::iter::from_fn(move || lines.by_ref().find_map(|line| line.ok()?.strip_prefix("committed ")?.parse().ok()));
    let last = commits.by_ref().take(count).last();
    child.kill().unwrap();
    child.wait().unwrap();
    // What it had said before it died.
    commits.last().or(last).expect("it committed something")
}

#[test]
fn kill_9_loses_nothing_that_was_acknowledged() {
    let place = Place::new();
    for count in [1, 2, 3, 5, 8, 13, 21, 34, 55, 89] {
        let acknowledged = run_and_kill(&place, count);
        let mut store = place.store();
        let world = store.load().unwrap();
        // The commit that it was in the middle of may have come through.
        assert!((acknowledged..=acknowledged + 1).contains(&world.revision.0), "{acknowledged}: {}", world.revision);
        let users: Vec<_> = world.users.iter().map(|user| user.created_at).collect();
        let groups: Vec<_> = world.groups.iter().map(|group| group.created_at).collect();
        assert_eq!(users, groups, "each user has the group of its batch");
        let report = store.reader().unwrap().audit_verify().unwrap();
        assert_eq!(report.fault, None);
        store.commit(&batch([])).unwrap();
    }
}
