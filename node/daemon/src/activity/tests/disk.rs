//! Invariant: whatever crashes, what was acknowledged as written is read back whole and in order, and no number ever stands
//! for two entries.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::OpenOptions,
    io::Write as _,
    path::{Path, PathBuf},
};

use postern_model::{Protocol, Timestamp, activity::FlowEntry};
use proptest::prelude::*;

use super::{FIRST, append, drain, entry, files, gateway, open, seen};
use crate::activity::{segment, spool::Spool};

/// More than is written here, and little enough for several files.
const LIMIT: u64 = 640 << 10;

#[derive(Debug, Clone)]
enum Step {
    /// So many entries are written.
    Write(u64),
    /// One batch is read, and this share of it, in percent, recorded.
    Ship(usize),
    /// The daemon ends, and starts again.
    Restart,
    /// So many more entries were taken, and the daemon ends when this share of them, in percent, is on the disk.
    Crash(u64, usize),
    /// A byte of the newest file goes bad, at this share of its length, while the daemon runs or before its next start.
    Rot(usize, bool),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (1u64..60).prop_map(Step::Write),
        3 => (0usize..=100).prop_map(Step::Ship),
        1 => Just(Step::Restart),
        2 => ((1u64..40), (0usize..=100)).prop_map(|(entries, share)| Step::Crash(entries, share)),
        1 => ((0usize..100), any::<bool>()).prop_map(|(at, is_running)| Step::Rot(at, is_running)),
    ]
}

/// A spool, and what is known of it from outside.
struct World<'a> {
    dir: &'a Path,
    spool: Option<Spool>,
    next_flow: u64,
    next_number: u64,
    /// Numbers that stand for something, once and for all.
    meaning: BTreeMap<u64, u64>,
    /// Acknowledged as written, and on a disk that did not go bad.
    owed: BTreeSet<u64>,
    /// Files that went bad. Nothing that comes after is owed, until the spool notices.
    rotten: BTreeSet<PathBuf>,
}

impl World<'_> {
    fn spool(&mut self) -> &mut Spool {
        self.spool.as_mut().unwrap()
    }

    fn restart(&mut self, is_clean: bool) {
        let spool = self.spool.take().unwrap();
        if is_clean {
            spool.close().unwrap();
        }
        // Another id would be another spool.
        let spool = open(self.dir, 9, LIMIT);
        assert_eq!(spool.id(), FIRST);
        self.spool = Some(spool);
    }

    fn write(&mut self, count: u64) {
        let flows = self.next_flow..self.next_flow + count;
        self.next_flow = flows.end;
        append(self.spool(), flows.clone());
        self.spool().sync().unwrap();
        // What numbers they got is seen on the disk alone.
        let newest = files(self.dir).pop().unwrap();
        let text = String::from_utf8_lossy(&std::fs::read(&newest).unwrap()).into_owned();
        let entries = text.lines().filter_map(|line| serde_json::from_str::<FlowEntry>(line.split_once(' ')?.1).ok());
        let mut written: Vec<_> = entries.filter(|entry| flows.contains(&entry.flow)).collect();
        assert_eq!(written.len() as u64, count, "one after the other in one file");
        written.sort_by_key(|entry| entry.number);
        for entry in written {
            assert!(entry.number >= self.next_number, "{} stands for something", entry.number);
            self.next_number = entry.number + 1;
            self.meaning.insert(entry.number, entry.flow);
            if !self.rotten.contains(&newest) {
                self.owed.insert(entry.number);
            }
        }
    }

    /// Reads a batch; how many entries it had.
    fn ship(&mut self, share: usize) -> usize {
        let batch = self.spool().batch().unwrap();
        let recorded = self.spool().recorded();
        assert!(batch.iter().is_sorted_by(|a, b| a.number < b.number));
        for (number, flow) in seen(&batch) {
            assert!(number > recorded, "the coordinator has {number}");
            assert_eq!(self.meaning.get(&number), Some(&flow), "{number} means one thing");
        }
        if let Some(last) = batch.last().filter(|_| share > 0) {
            let kept = &batch[..batch.len() * share / 100];
            let skipped = self
                .owed
                .range(recorded + 1..last.number)
                .find(|owed| !batch.iter().any(|entry| entry.number == **owed));
            assert_eq!(skipped, None, "in order, without gaps");
            if let Some(last) = kept.last() {
                self.spool().record(last.number).unwrap();
                self.owed = self.owed.split_off(&(last.number + 1));
            }
        }
        batch.len()
    }

    fn crash(&mut self, count: u64, share: usize) {
        let newest = files(self.dir).pop().unwrap();
        // Its last entry, if all of it is whole, says which numbers come next.
        let text = std::fs::read(&newest).unwrap();
        let name = newest.file_stem().unwrap().to_str().unwrap().parse::<u64>().unwrap();
        let next = name + text.iter().filter(|byte| **byte == b'\n').count() as u64;
        if text.is_empty() || text.ends_with(b"\n") {
            let mut lines = Vec::new();
            for (number, flow) in (next..).zip(self.next_flow..self.next_flow + count) {
                lines.extend(segment::line(&FlowEntry { number, ..entry(flow) }).unwrap().into_bytes());
                if next >= self.next_number {
                    self.meaning.insert(number, flow);
                }
            }
            self.next_flow += count;
            if next >= self.next_number {
                let mut file = OpenOptions::new().append(true).open(&newest).unwrap();
                file.write_all(&lines[..lines.len() * share / 100]).unwrap();
                // Only those that are on the disk have their numbers.
                let whole = lines[..lines.len() * share / 100].iter().filter(|byte| **byte == b'\n').count() as u64;
                self.meaning.retain(|number, _| *number < next + whole);
                self.next_number = next + whole;
            }
        }
        self.restart(false);
    }

    fn rot(&mut self, at: usize, is_running: bool) {
        let newest = files(self.dir).pop().unwrap();
        let mut bytes = std::fs::read(&newest).unwrap();
        if bytes.is_empty() {
            return;
        }
        let at = bytes.len() * at / 100;
        bytes[at] ^= 0x55;
        std::fs::write(&newest, bytes).unwrap();
        let first = newest.file_stem().unwrap().to_str().unwrap().parse::<u64>().unwrap();
        self.owed = self.owed.iter().copied().filter(|number| *number < first).collect();
        self.rotten.insert(newest);
        if !is_running {
            self.restart(false);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn what_was_written_is_read_back_under_its_number(steps in prop::collection::vec(step(), 1..24)) {
        let dir = tempfile::tempdir().unwrap();
        let spool = Some(open(dir.path(), 1, LIMIT));
        let (meaning, owed) = (BTreeMap::new(), BTreeSet::new());
        let rotten = BTreeSet::new();
        let mut world = World { dir: dir.path(), spool, next_flow: 0, next_number: 1, meaning, owed, rotten };
        for step in steps {
            match step {
                Step::Write(count) => world.write(count),
                Step::Ship(share) => drop(world.ship(share)),
                Step::Restart => world.restart(true),
                Step::Crash(count, share) => world.crash(count, share),
                Step::Rot(at, is_running) => world.rot(at, is_running),
            }
        }
        while world.ship(100) > 0 {}
        prop_assert_eq!(world.owed, BTreeSet::new(), "all of it arrived");
        prop_assert_eq!(world.spool.unwrap().waiting(), 0);
    }
}

#[test]
fn a_spool_that_is_lost_has_no_successor_of_its_name() {
    let dir = tempfile::tempdir().unwrap();
    let write = |spool: &mut Spool| {
        append(spool, 0..3);
        spool.sync().unwrap();
    };
    write(&mut open(dir.path(), 1, LIMIT));
    assert_eq!(open(dir.path(), 2, LIMIT).id().0, [1; 16]);
    files(dir.path()).iter().for_each(|file| std::fs::remove_file(file).unwrap());
    let mut second = open(dir.path(), 2, LIMIT);
    assert_eq!(second.id().0, [2; 16], "its numbers begin anew");
    write(&mut second);
    std::fs::write(dir.path().join("spool.json"), "{").unwrap();
    let third = open(dir.path(), 3, LIMIT);
    assert_eq!((third.id().0, third.waiting()), ([3; 16], 0));
    // Nor does another gateway tell what this one carried.
    let other = Spool::open(dir.path(), gateway(7), super::SpoolId([4; 16]), LIMIT).unwrap();
    assert_eq!(other.id().0, [4; 16]);
}

/// How many numbers are left out after a tear goes by this.
#[test]
fn no_line_is_shorter_than_the_shortest() {
    let least = Timestamp::from_unix_millis(0);
    let shortest = FlowEntry { at: least, port: 0, protocol: Protocol::Tcp, queried: None, ..entry(0) };
    assert!(segment::line(&shortest).unwrap().len() as u64 >= segment::SHORTEST);
}

#[test]
fn a_file_that_somebody_removes_does_not_hold_up_the_others() {
    let dir = tempfile::tempdir().unwrap();
    let mut spool = open(dir.path(), 1, 32 << 10);
    for batch in 0..4 {
        append(&mut spool, batch * 20..(batch + 1) * 20);
        spool.sync().unwrap();
    }
    std::fs::remove_file(&files(dir.path())[0]).unwrap();
    let arrived = drain(&mut spool);
    assert_eq!(arrived.len() as u64 + spool.dropped(), 80);
    assert_eq!((arrived.last(), spool.waiting()), (Some(&(80, 79)), 0));
}

#[test]
fn what_is_not_on_the_disk_yet_is_told_to_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let mut spool = open(dir.path(), 1, LIMIT);
    append(&mut spool, 0..3);
    assert_eq!((spool.batch().unwrap().len(), spool.waiting()), (0, 3));
    spool.record(3).unwrap();
    assert_eq!(spool.recorded(), 0, "nor is it known to anybody");
    spool.sync().unwrap();
    assert_eq!(drain(&mut spool), [(1, 0), (2, 1), (3, 2)]);
}

#[test]
fn the_files_are_private() {
    use std::os::unix::fs::PermissionsExt as _;
    let parent = tempfile::tempdir().unwrap();
    let dir = parent.path().join("activity");
    let mut spool = open(&dir, 1, LIMIT);
    append(&mut spool, 0..3);
    spool.sync().unwrap();
    let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&dir), 0o700);
    assert!(std::fs::read_dir(&dir).unwrap().all(|file| mode(&file.unwrap().path()) == 0o600));
}
