//! The recorder, piece by piece, on a real disk.
//!
//! - `disk`: what crashes and damage do to a spool; `bounds`: how much it takes
//! - `shipping`: what arrives at a coordinator that comes and goes; `recorder`: the thread

mod bounds;
mod disk;
mod recorder;
mod shipping;

use std::path::Path;

use postern_model::{
    DeviceId, GrantId, Protocol, ResourceId, Timestamp,
    activity::{FlowEnd, FlowEntry, FlowEvent, SpoolId},
};

use super::spool::Spool;

/// The first spool of a directory; those after it have other ids.
const FIRST: SpoolId = SpoolId([1; 16]);

fn gateway(number: u8) -> DeviceId {
    DeviceId::from_bytes([number; 16])
}

fn open(dir: &Path, fresh: u8, limit: u64) -> Spool {
    Spool::open(dir, gateway(1), SpoolId([fresh; 16]), limit).unwrap()
}

/// Entries of different lengths, told apart by their flow.
fn entry(flow: u64) -> FlowEntry {
    let label = "a".repeat(1 + usize::try_from(flow % 60).unwrap());
    let opened_at = Timestamp::from_unix_millis(1_800_000_000_000);
    FlowEntry {
        number: 0,
        at: opened_at,
        flow,
        grant: GrantId::from_bytes([2; 16]),
        device: gateway(3),
        resource: ResourceId::from_bytes([4; 16]),
        protocol: Protocol::Tcp,
        port: 443,
        queried: (!flow.is_multiple_of(3)).then(|| format!("{label}.example.com").parse().unwrap()),
        event: if flow.is_multiple_of(2) {
            FlowEvent::Opened
        } else {
            FlowEvent::Closed { opened_at, up: flow, down: u64::MAX - flow, end: FlowEnd::Idle }
        },
    }
}

fn append(spool: &mut Spool, flows: std::ops::Range<u64>) {
    flows.for_each(|flow| spool.append(entry(flow)).unwrap());
}

/// Numbers and flows.
fn seen(entries: &[FlowEntry]) -> Vec<(u64, u64)> {
    entries.iter().map(|entry| (entry.number, entry.flow)).collect()
}

/// All that is left, which is recorded with this.
fn drain(spool: &mut Spool) -> Vec<(u64, u64)> {
    let mut all = Vec::new();
    loop {
        let batch = spool.batch().unwrap();
        let Some(last) = batch.last() else { return all };
        all.extend(seen(&batch));
        spool.record(last.number).unwrap();
    }
}

/// The files with entries, in order.
fn files(dir: &Path) -> Vec<std::path::PathBuf> {
    let files = std::fs::read_dir(dir).unwrap().map(|file| file.unwrap().path());
    let mut files: Vec<_> = files.filter(|path| path.extension().is_some_and(|it| it == "jsonl")).collect();
    files.sort();
    files
}

fn size(dir: &Path) -> u64 {
    files(dir).iter().map(|file| file.metadata().unwrap().len()).sum()
}
