//! What is old, or too much, goes; what is left is the newest.

use std::time::Duration;

use super::*;
use crate::activity::{Retention, Tidied};

const MINUTE: Retention = Retention { keep: Duration::from_secs(60), max_size: u64::MAX };

fn tidy(log: &mut ActivityLog, now: Timestamp, retention: Retention) -> Tidied {
    let mut sum = Tidied::default();
    for _ in 0..1000 {
        let done = log.tidy(now, retention).unwrap();
        sum = Tidied { old: sum.old + done.old, excess: sum.excess + done.excess, more: done.more };
        if !done.more {
            return sum;
        }
    }
    panic!("it never ends");
}

fn many(log: &mut ActivityLog, count: u64) {
    for first in (0..count).step_by(1000) {
        let records: Vec<_> = (first..count.min(first + 1000)).map(|n| denial("alice", n)).collect();
        log.write(&decided(records)).unwrap();
    }
}

#[test]
fn what_is_too_old_goes_and_nothing_else() {
    let place = Place::new();
    let mut log = place.log();
    many(&mut log, 100);
    assert_eq!(tidy(&mut log, later(60), MINUTE), Tidied::default(), "none is older than a minute");
    let done = tidy(&mut log, later(100), MINUTE);
    assert_eq!((done.old, done.excess), (40, 0));
    let left = all(&log);
    assert_eq!((left.len(), left[0].id), (60, 41));
    assert_eq!(tidy(&mut log, later(1000), MINUTE).old, 60);
    log.write(&decided([denial("bob", 1000)])).unwrap();
    assert_eq!(all(&log)[0].id, 101, "no id is given twice, though the table was empty");
}

#[test]
fn a_gateway_s_clock_does_not_say_when() {
    let place = Place::new();
    let mut log = place.granted();
    let at = [i64::MIN, i64::MAX].map(Timestamp::from_unix_millis);
    log.write(&told([FlowEntry { at: at[0], ..entry(1) }, FlowEntry { at: at[1], ..entry(2) }])).unwrap();
    assert_eq!(tidy(&mut log, later(60), MINUTE).old, 0);
    assert_eq!(tidy(&mut log, later(61), MINUTE).old, 2);
}

#[test]
fn many_that_are_too_old_go_bit_by_bit() {
    let place = Place::new();
    let mut log = place.log();
    many(&mut log, 4500);
    let done = log.tidy(later(100_000), MINUTE).unwrap();
    assert_eq!(done, Tidied { old: 2000, excess: 0, more: true });
    assert_eq!(tidy(&mut log, later(100_000), MINUTE).old, 2500);
    assert_eq!(all(&log), []);
}

#[test]
fn what_has_no_room_goes_and_the_file_gets_smaller() {
    let place = Place::new();
    let mut log = place.log();
    many(&mut log, 20_000);
    let bytes = || {
        place.sqlite().query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
        std::fs::metadata(place.path()).unwrap().len()
    };
    let before = bytes();
    let bound = Retention { keep: Duration::MAX, max_size: before / 2 };
    let done = tidy(&mut log, later(20_000), bound);
    assert!(done.excess >= 8000, "{done:?}");
    let left = all(&log);
    assert!(left.len() >= 6000, "not more than has to: {} are left", left.len());
    assert_eq!(left.last().unwrap().id, 20_000, "the newest stays");
    assert!(bytes() <= bound.max_size, "{} of {}", bytes(), before);
    assert_eq!(tidy(&mut log, later(20_000), bound), Tidied::default());
}

#[test]
fn what_was_granted_is_forgotten_with_the_rows_of_its_time() {
    let place = Place::new();
    let mut log = place.granted();
    // The lease ends after ten minutes.
    tidy(&mut log, later(660), MINUTE);
    assert_eq!(log.write(&told([entry(1)])).unwrap().rows, 1);
    tidy(&mut log, later(661), MINUTE);
    assert_eq!(log.write(&told([entry(2)])).unwrap().refused, 1);
}
