//! Filters, pages, and cursors.

use std::{fs, os::unix::fs::PermissionsExt as _};

use super::*;
use crate::StoreError;

fn ids(log: &ActivityLog, query: &ActivityQuery) -> Vec<u64> {
    log.reader().unwrap().read(query).unwrap().rows.iter().map(|row| row.id).collect()
}

fn last_of(limit: u32) -> ActivityQuery {
    ActivityQuery { limit, ..ActivityQuery::default() }
}

/// Six rows: denials of alice and bob in turn, then two flows of alice's laptop to the wiki.
fn six(place: &Place) -> ActivityLog {
    let mut log = place.granted();
    log.write(&decided([denial("alice", 10), denial("bob", 20), denial("alice", 30), denial("bob", 40)])).unwrap();
    log.write(&told([entry(50), entry(60)].map(|entry| FlowEntry { number: entry.number / 10 - 4, ..entry }))).unwrap();
    log
}

#[test]
fn each_filter_narrows_and_all_of_them_together() {
    let place = Place::new();
    let log = six(&place);
    let some = |text: &str| Some(text.to_owned());
    let all = last_of(100);
    for (query, expected) in [
        (all.clone(), &[1, 2, 3, 4, 5, 6][..]),
        (last_of(2), &[5, 6]),
        (ActivityQuery { user: some("alice"), ..all.clone() }, &[1, 3, 5, 6]),
        (ActivityQuery { user: some("alice"), limit: 1, ..all.clone() }, &[6]),
        (ActivityQuery { user: some("alice"), after: Some(1), limit: 1, ..all.clone() }, &[3]),
        (ActivityQuery { user: some("nobody"), ..all.clone() }, &[]),
        (ActivityQuery { user: some("' OR 1=1 --"), ..all.clone() }, &[]),
        (ActivityQuery { device: some("laptop"), ..all.clone() }, &[5, 6]),
        (ActivityQuery { resource: some("wiki"), user: some("bob"), ..all.clone() }, &[]),
        (ActivityQuery { resource: some("wiki"), user: some("alice"), ..all.clone() }, &[5, 6]),
        (ActivityQuery { kind: Some(ActivityKind::Deny), ..all.clone() }, &[1, 2, 3, 4]),
        (ActivityQuery { since: Some(later(30)), ..all.clone() }, &[3, 4, 5, 6]),
        (ActivityQuery { until: Some(later(30)), ..all.clone() }, &[1, 2]),
        (ActivityQuery { since: Some(later(20)), until: Some(later(41)), user: some("bob"), ..all.clone() }, &[2, 4]),
        (ActivityQuery { after: Some(4), ..all.clone() }, &[5, 6]),
        (ActivityQuery { after: Some(4), since: Some(later(60)), ..all.clone() }, &[6]),
        (ActivityQuery { after: Some(u64::MAX), ..all.clone() }, &[]),
        (ActivityQuery { after: Some(0), limit: 0, ..all.clone() }, &[]),
    ] {
        assert_eq!(ids(&log, &query), expected, "{query:?}");
    }
}

#[test]
fn pages_together_are_the_whole() {
    let place = Place::new();
    let log = six(&place);
    let reader = log.reader().unwrap();
    for limit in 1..8 {
        let (mut after, mut seen) = (0, Vec::new());
        loop {
            let query = ActivityQuery { after: Some(after), user: Some("alice".into()), ..last_of(limit) };
            let page = reader.read(&query).unwrap();
            seen.extend(page.rows.iter().map(|row| row.id));
            assert!(page.up_to > after || page.rows.is_empty());
            after = page.up_to;
            if page.rows.is_empty() {
                break;
            }
        }
        assert_eq!((seen, after), (vec![1, 3, 5, 6], 6), "{limit} at a time");
    }
}

#[test]
fn the_last_of_many_are_those_of_few() {
    let place = Place::new();
    let mut log = place.log();
    // Against the order of arrival, so that times and ids don't agree.
    let records: Vec<_> = (0..12_000).map(|n| denial("alice", 12_000 - n)).collect();
    log.write(&decided(records)).unwrap();
    let of = |since, until| ids(&log, &ActivityQuery { since, until, ..last_of(2) });
    assert_eq!(of(Some(later(1)), None), [11_999, 12_000], "all of them");
    assert_eq!(of(Some(later(11_000)), None), [1000, 1001], "a thousand");
    assert_eq!(of(None, Some(later(11_500))), [11_999, 12_000]);
    assert_eq!(of(Some(later(11_000)), Some(later(11_500))), [1000, 1001]);
}

#[test]
fn no_page_sorts_what_comes_after_it() {
    let place = Place::new();
    let _log = six(&place);
    let db = place.sqlite();
    for sql in [
        "SELECT * FROM activity WHERE id <= 9 AND +at >= 5 AND id > 3 ORDER BY id ASC LIMIT 5",
        "SELECT * FROM activity WHERE id <= 9 AND user = 'alice' AND id > 3 ORDER BY id ASC LIMIT 5",
        "SELECT * FROM activity WHERE id <= 9 AND resource = 'wiki' ORDER BY id DESC LIMIT 5",
    ] {
        let mut plan = db.prepare(&format!("EXPLAIN QUERY PLAN {sql}")).unwrap();
        let steps: Vec<String> = plan.query_map([], |row| row.get(3)).unwrap().map(Result::unwrap).collect();
        assert!(steps.iter().all(|step| step.starts_with("SEARCH")), "{sql}: {steps:?}");
    }
}

#[test]
fn a_receiver_goes_on_where_it_was() {
    let place = Place::new();
    let mut log = six(&place);
    let taken = |log: &ActivityLog| log.reader().unwrap().taken("https://log.example.com/").unwrap();
    assert_eq!(taken(&log), None);
    for up_to in [3, 6] {
        log.write(&[Arrival::Taken { receiver: "https://log.example.com/".into(), up_to }]).unwrap();
    }
    drop(log);
    let log = place.log();
    assert_eq!(taken(&log), Some(6));
    assert_eq!(log.reader().unwrap().taken("http://elsewhere.example.com/").unwrap(), None);
}

#[test]
fn its_files_are_private() {
    let place = Place::new();
    let _log = six(&place);
    let files: Vec<_> = fs::read_dir(place.path().parent().unwrap()).unwrap().map(|file| file.unwrap()).collect();
    assert!(files.len() >= 2, "the write-ahead log is there too: {files:?}");
    for file in files {
        assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600, "{file:?}");
    }
}

#[test]
fn a_newer_or_a_damaged_file_is_refused_in_words() {
    let place = Place::new();
    drop(place.log());
    place.sqlite().pragma_update(None, "user_version", 99).unwrap();
    assert!(matches!(ActivityLog::open(&place.path()), Err(StoreError::Newer { .. })));
    fs::write(
        place.path(),
        "not a database, but long enough for its header to be looked at; a hundred bytes, that is.....",
    )
    .unwrap();
    for leftover in ["activity.db-wal", "activity.db-shm"] {
        let _ = fs::remove_file(place.path().with_file_name(leftover));
    }
    assert!(matches!(ActivityLog::open(&place.path()), Err(StoreError::Corrupt { .. })));
}

#[test]
fn rows_that_make_no_sense_are_said_to_be_damaged() {
    let place = Place::new();
    let log = six(&place);
    place.sqlite().execute("UPDATE activity SET kind = 'dance' WHERE id = 3", []).unwrap();
    let error = log.reader().unwrap().read(&last_of(100)).unwrap_err();
    assert!(matches!(error, StoreError::Corrupt { .. }), "{error:?}");
}
