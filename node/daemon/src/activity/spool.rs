//! Entries on the disk until the coordinator has them: numbered from 1, in order, and bounded, the oldest going first.
//!
//! A number stands for one entry for as long as there is the spool, whatever crashes: entries are read, and so told to
//! anybody, only once they are on the disk, and numbers that may have been on something torn are not used again. Numbers
//! may be left out.

use std::{
    collections::VecDeque,
    fs::{DirBuilder, File},
    io,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
};

use postern_model::{
    DeviceId,
    activity::{FlowEntry, MAX_ENTRIES, SpoolId},
};
use serde::{Deserialize, Serialize};

use super::segment::{self, Segment};

const NAME: &str = "spool.json";
/// A segment is not longer than this, but for its last batch; nor than a share of the spool's limit.
const SEGMENT_BYTES: u64 = 1 << 20;
const SEGMENT_SHARE: u64 = 8;
/// A segment that is recorded and longer than this makes room for an empty one.
const ROLL_BYTES: u64 = 64 << 10;

/// Which spool this is, in a file of its own.
#[derive(Debug, Serialize, Deserialize)]
struct Name {
    spool: SpoolId,
    /// Whose flows they are. Another device's gateway starts another one.
    gateway: DeviceId,
}

/// Entries that are not written yet.
#[derive(Debug, Default)]
struct Unwritten {
    text: Vec<u8>,
    count: u64,
}

/// Where the last batch ended.
#[derive(Debug, Clone, Copy)]
struct Place {
    segment: u64,
    number: u64,
    at: u64,
}

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Spool {
    dir: PathBuf,
    id: SpoolId,
    limit: u64,
    /// In order; the last one is written to. Never none.
    segments: VecDeque<Segment>,
    /// The last one's file; `None` when another one is to be begun.
    file: Option<File>,
    unwritten: Unwritten,
    /// The number of the next entry.
    next: u64,
    /// The coordinator has all up to this.
    recorded: u64,
    place: Option<Place>,
    dropped: u64,
}

impl Spool {
    /// Opens the spool of a directory, which is made if there is none; if it has none of this gateway, a new one, with
    /// this id.
    pub(super) fn open(dir: &Path, gateway: DeviceId, fresh: SpoolId, limit: u64) -> io::Result<Self> {
        DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
        let name = postern_statedir::read(dir, NAME)?.and_then(|text| serde_json::from_str::<Name>(&text).ok());
        let mut found = Vec::new();
        for file in std::fs::read_dir(dir)? {
            let file = file?;
            let first = file.file_name().to_str().and_then(Segment::first_of);
            found.extend(first.map(|first| (first, file.path())));
        }
        found.sort_unstable();
        let mut spool = Self {
            dir: dir.to_owned(),
            id: fresh,
            limit,
            segments: VecDeque::new(),
            file: None,
            unwritten: Unwritten::default(),
            next: 1,
            recorded: 0,
            place: None,
            dropped: 0,
        };
        match name.filter(|name| name.gateway == gateway && !found.is_empty()) {
            Some(name) => {
                spool.id = name.spool;
                spool.enter(found)?;
            }
            None => {
                found.iter().try_for_each(|(_, path)| std::fs::remove_file(path))?;
                let name = serde_json::to_string(&Name { spool: fresh, gateway })?;
                postern_statedir::write_whole(&dir.join(NAME), &name)?;
                spool.begin_segment()?;
            }
        }
        Ok(spool)
    }

    /// Takes in the segments that are there.
    fn enter(&mut self, found: Vec<(u64, PathBuf)>) -> io::Result<()> {
        let mut torn = 0;
        for (first, path) in found {
            let (segment, cut) = Segment::open(path, first)?;
            torn = cut;
            self.next = segment.next();
            self.segments.push_back(segment);
        }
        self.recorded = self.segments.front().map_or(0, |first| first.first - 1);
        if torn > 0 {
            // Whatever was there: none of its numbers is used again, also if this ends here.
            self.next += torn.div_ceil(segment::SHORTEST);
            self.begin_segment()?;
        } else {
            self.file = self.segments.back().map(Segment::append).transpose()?;
        }
        Ok(())
    }

    /// Which spool.
    pub(super) fn id(&self) -> SpoolId {
        self.id
    }

    /// Takes an entry and gives it its number. It is on the disk after the next [`sync`](Self::sync).
    pub(super) fn append(&mut self, mut entry: FlowEntry) -> io::Result<()> {
        entry.number = self.next;
        self.unwritten.text.extend_from_slice(segment::line(&entry)?.as_bytes());
        self.unwritten.count += 1;
        self.next += 1;
        Ok(())
    }

    /// Writes what was taken, and makes room for it.
    ///
    /// # Errors
    /// When it can't be written. Then it is lost, and counted.
    pub(super) fn sync(&mut self) -> io::Result<()> {
        let Unwritten { text, count } = std::mem::take(&mut self.unwritten);
        if count == 0 {
            return Ok(());
        }
        let written = self.write(&text, count);
        if written.is_err() {
            self.dropped += count;
            // What follows has other numbers than are due in this one.
            self.file = None;
        }
        self.make_room();
        written
    }

    fn write(&mut self, text: &[u8], count: u64) -> io::Result<()> {
        let first = self.next - count;
        let longest = SEGMENT_BYTES.min(self.limit / SEGMENT_SHARE);
        if self.segments.back().is_some_and(|last| last.bytes >= longest || last.next() != first) {
            self.file = None;
        }
        if self.file.is_none() {
            self.begin_segment_at(first)?;
        }
        match (self.segments.back_mut(), &mut self.file) {
            (Some(segment), Some(file)) => segment.write(file, text, count),
            _ => Err(io::Error::other("the spool has no file to write to")),
        }
    }

    fn begin_segment(&mut self) -> io::Result<()> {
        self.begin_segment_at(self.next - self.unwritten.count)
    }

    fn begin_segment_at(&mut self, first: u64) -> io::Result<()> {
        let (segment, file) = Segment::create(&self.dir, first)?;
        self.segments.push_back(segment);
        self.file = Some(file);
        Ok(())
    }

    /// Drops the oldest segments while there is too much.
    fn make_room(&mut self) {
        while self.segments.len() > 1 && self.segments.iter().map(|segment| segment.bytes).sum::<u64>() > self.limit {
            if let Some(oldest) = self.segments.pop_front() {
                self.dropped += oldest.count_after(self.recorded);
                remove(&oldest);
            }
        }
    }

    /// The next entries that the coordinator does not have; those that are not on the disk yet are not among them.
    pub(super) fn batch(&mut self) -> io::Result<Vec<FlowEntry>> {
        let mut batch = Vec::new();
        let next = self.recorded + 1;
        let place = self.place.filter(|place| place.number == next);
        let mut damaged = None;
        for (nth, segment) in self.segments.iter().enumerate().filter(|(_, segment)| segment.next() > next) {
            let known = place.filter(|place| place.segment == segment.first);
            let (mut number, mut at) = known.map_or((segment.first, 0), |place| (place.number, place.at));
            while batch.is_empty() {
                // First past what the coordinator has; then one batch.
                let skipped = usize::try_from(next.saturating_sub(number)).unwrap_or(usize::MAX);
                let most = if skipped > 0 { skipped } else { MAX_ENTRIES };
                let lines = segment.read(at, number, most)?;
                if lines.is_torn {
                    damaged = Some((nth, number + lines.entries.len() as u64, at + lines.bytes));
                }
                if lines.entries.is_empty() {
                    break;
                }
                number += lines.entries.len() as u64;
                at += lines.bytes;
                if skipped == 0 {
                    batch = lines.entries;
                }
                if lines.is_torn {
                    break;
                }
            }
            if !batch.is_empty() || damaged.is_some() {
                self.place = Some(Place { segment: segment.first, number, at });
                break;
            }
        }
        if let Some((nth, number, at)) = damaged {
            self.give_up_rest(nth, number, at);
            if batch.is_empty() {
                return self.batch();
            }
        }
        Ok(batch)
    }

    /// A segment is damaged from there on.
    fn give_up_rest(&mut self, nth: usize, number: u64, at: u64) {
        let Some(segment) = self.segments.get_mut(nth) else { return };
        self.dropped += segment.next() - number;
        segment.cut_at(number, at);
        if nth + 1 == self.segments.len() {
            self.file = None;
        }
    }

    /// The coordinator has everything up to this; what it can't have yet does not count.
    pub(super) fn record(&mut self, up_to: u64) -> io::Result<()> {
        let written = self.segments.back().map_or(0, |last| last.next() - 1);
        self.recorded = self.recorded.max(up_to.min(written));
        while self.segments.len() > 1 && self.segments.front().is_some_and(|first| first.next() - 1 <= self.recorded) {
            self.segments.pop_front().iter().for_each(remove);
        }
        self.roll(ROLL_BYTES)
    }

    /// Begins an empty segment when all of a long one is recorded.
    fn roll(&mut self, longer_than: u64) -> io::Result<()> {
        let is_old = |last: &Segment| last.bytes > longer_than && last.count_after(self.recorded) == 0;
        if self.segments.len() == 1 && self.segments.front().is_some_and(is_old) {
            self.begin_segment()?;
            self.segments.pop_front().iter().for_each(remove);
        }
        Ok(())
    }

    /// Writes what is left, so that the next one to open this finds no more than it has to.
    pub(super) fn close(mut self) -> io::Result<()> {
        self.sync()?;
        self.roll(0)
    }

    /// How many entries the coordinator does not have.
    pub(super) fn waiting(&self) -> u64 {
        let written: u64 = self.segments.iter().map(|segment| segment.count_after(self.recorded)).sum();
        written + self.unwritten.count
    }

    /// How many were lost since it was opened: for want of room, or because they could not be written or read.
    pub(super) fn dropped(&self) -> u64 {
        self.dropped
    }

    /// The last number that the coordinator has.
    pub(super) fn recorded(&self) -> u64 {
        self.recorded
    }
}

/// A file that stays is found at the next start, and told of again.
fn remove(segment: &Segment) {
    if let Err(error) = segment.remove() {
        tracing::warn!(%error, "a part of the activity spool can't be removed");
    }
}
