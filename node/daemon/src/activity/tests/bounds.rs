//! How much a spool takes, of the disk and of a message.

use postern_model::activity::{FlowEntry, MAX_ENTRIES};
use postern_wire::{Decoder, Limit, NodeMessage, frame::encode};

use super::{append, drain, entry, files, open, size};

/// Invariant: a spool keeps within its limit, and the oldest entries go first, and are counted.
#[test]
fn the_oldest_entries_make_room() {
    let (dir, limit) = (tempfile::tempdir().unwrap(), 64 << 10);
    let mut spool = open(dir.path(), 1, limit);
    for batch in 0..100 {
        append(&mut spool, batch * 20..(batch + 1) * 20);
        spool.sync().unwrap();
        assert!(size(dir.path()) <= limit, "after {batch} batches");
        assert_eq!(spool.waiting() + spool.dropped(), (batch + 1) * 20);
    }
    assert!(spool.dropped() > 0 && size(dir.path()) > limit / 2);
    let first = spool.dropped();
    assert_eq!(drain(&mut spool), (first..2000).map(|flow| (flow + 1, flow)).collect::<Vec<_>>());
    assert_eq!((spool.waiting(), files(dir.path()).len()), (0, 1), "what is recorded is gone");
}

#[test]
fn what_is_recorded_is_not_told_again_after_a_clean_end() {
    let dir = tempfile::tempdir().unwrap();
    let mut spool = open(dir.path(), 1, 1 << 20);
    append(&mut spool, 0..1000);
    spool.sync().unwrap();
    drain(&mut spool);
    assert_eq!(size(dir.path()), 0, "a long file goes as soon as it is recorded");
    append(&mut spool, 1000..1003);
    spool.sync().unwrap();
    drain(&mut spool);
    spool.close().unwrap();
    assert_eq!(size(dir.path()), 0);
    let mut spool = open(dir.path(), 2, 1 << 20);
    append(&mut spool, 0..1);
    spool.sync().unwrap();
    assert_eq!(drain(&mut spool), [(1004, 0)], "the numbers go on");
}

/// Invariant: no batch is longer than a message may be, whatever the entries are.
#[test]
fn a_batch_fits_into_a_message() {
    let dir = tempfile::tempdir().unwrap();
    let mut spool = open(dir.path(), 1, 1 << 20);
    append(&mut spool, 0..MAX_ENTRIES as u64);
    spool.sync().unwrap();
    let long =
        [["a".repeat(63)].as_slice(), &["b".repeat(63)], &["c".repeat(63)], &["d".repeat(61)]].concat().join(".");
    for flow in 0..MAX_ENTRIES as u64 {
        let longest = FlowEntry { queried: Some(long.parse().unwrap()), port: u16::MAX, ..entry(u64::MAX - 2 * flow) };
        spool.append(longest).unwrap();
    }
    spool.sync().unwrap();
    let mut lengths = Vec::new();
    loop {
        let entries = spool.batch().unwrap();
        let Some(last) = entries.last().map(|last| last.number) else { break };
        lengths.push(entries.len());
        let message = NodeMessage::Activity { spool: spool.id(), entries };
        let mut decoder = Decoder::new(Limit::Node);
        decoder.handle_bytes(&encode(&message, Limit::Node).unwrap());
        assert_eq!(decoder.poll_message().unwrap().as_ref(), Some(&message));
        spool.record(last).unwrap();
    }
    assert!(lengths.len() > 2 && lengths.iter().all(|len| *len <= MAX_ENTRIES), "{lengths:?}");
    assert_eq!(lengths.iter().sum::<usize>(), 2 * MAX_ENTRIES);
}
