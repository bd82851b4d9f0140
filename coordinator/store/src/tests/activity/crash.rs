//! `kill -9` in the middle of a write: what was acknowledged is there, once.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    process::{Command, Stdio},
};

use super::*;

const PATH: &str = "POSTERN_ACTIVITY_TEST_PATH";

/// The child: a gateway's messages are written, with some that were told before, until it is killed.
#[test]
#[ignore = "is started by the test below, and killed"]
fn writes_until_it_is_killed() {
    let path = PathBuf::from(std::env::var_os(PATH).expect("the file's path"));
    let mut log = ActivityLog::open(&path).unwrap();
    let mut next = log.write(&told([])).unwrap().up_to[0] + 1;
    let mut out = std::io::stdout();
    loop {
        let first = next.saturating_sub(3).max(1);
        let written = log.write(&told((first..next + 10).map(entry))).unwrap();
        next = written.up_to[0] + 1;
        writeln!(out, "recorded {}", written.up_to[0]).unwrap();
        out.flush().unwrap();
    }
}

#[test]
fn kill_9_loses_nothing_that_was_acknowledged_and_repeats_nothing() {
    let place = Place::new();
    drop(place.granted());
    for count in [1, 2, 5, 13, 34, 60] {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--ignored", "--exact", "--nocapture", "tests::activity::crash::writes_until_it_is_killed"])
            .env(PATH, place.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut recorded = std::iter::from_fn(move || {
            lines.by_ref().find_map(|line| line.ok()?.strip_prefix("recorded ")?.parse::<i64>().ok())
        });
        let last = recorded.by_ref().take(count).last();
        child.kill().unwrap();
        child.wait().unwrap();
        let acknowledged = recorded.last().or(last).expect("it recorded something");
        let log = place.log();
        let there = numbers(&log);
        let len = i64::try_from(there.len()).unwrap();
        assert_eq!(there, (1..=len).collect::<Vec<_>>(), "each once, in order");
        assert!((acknowledged..=acknowledged + 10).contains(&len), "{acknowledged} acknowledged, {len} there");
    }
}
