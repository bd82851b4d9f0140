//! The activity file: what gateways tell, reading it, and what goes.

mod crash;
mod intake;
mod reading;
mod retention;
mod usage;

use std::{path::PathBuf, sync::Arc};

use postern_model::{
    DeviceId, GrantId, PolicyId, Protocol, ResourceId, Timestamp,
    activity::{FlowEnd, FlowEntry, FlowEvent, SpoolId},
    grant::Grant,
};

use super::NOW;
use crate::activity::{
    ActivityKind, ActivityLog, ActivityQuery, ActivityRecord, ActivityRow, Arrival, Decisions, Flows, GrantFacts,
};

pub(crate) const GATEWAY: DeviceId = DeviceId::from_bytes([1; 16]);
pub(crate) const OTHER_GATEWAY: DeviceId = DeviceId::from_bytes([2; 16]);
pub(crate) const LAPTOP: DeviceId = DeviceId::from_bytes([3; 16]);
pub(crate) const WIKI: ResourceId = ResourceId::from_bytes([4; 16]);
pub(crate) const GRANT: GrantId = GrantId::from_bytes([5; 16]);
pub(crate) const SPOOL: SpoolId = SpoolId([6; 16]);

pub(crate) struct Place(tempfile::TempDir);

impl Place {
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.0.path().join("activity.db")
    }

    pub(crate) fn log(&self) -> ActivityLog {
        ActivityLog::open(&self.path()).unwrap()
    }

    /// With one grant, of the laptop to the wiki.
    pub(crate) fn granted(&self) -> ActivityLog {
        let mut log = self.log();
        let grants = vec![facts(GRANT, GATEWAY)];
        log.write(&[Arrival::Decisions(Decisions { records: vec![], grants })]).unwrap();
        log
    }

    pub(crate) fn sqlite(&self) -> rusqlite::Connection {
        rusqlite::Connection::open(self.path()).unwrap()
    }
}

pub(crate) fn later(seconds: u64) -> Timestamp {
    NOW.plus(std::time::Duration::from_secs(seconds))
}

pub(crate) fn facts(id: GrantId, gateway: DeviceId) -> GrantFacts {
    let grant = Grant {
        id,
        device: LAPTOP,
        resource: WIKI,
        gateway,
        policy: PolicyId::from_bytes([7; 16]),
        filter: "tcp/443".parse().unwrap(),
        granted_at: NOW,
        expires_at: later(600),
    };
    GrantFacts {
        grant,
        gateway: "gate".into(),
        device: "laptop".into(),
        user: Some("alice".into()),
        resource: "wiki".into(),
    }
}

pub(crate) fn entry(number: u64) -> FlowEntry {
    FlowEntry {
        number,
        at: later(number.min(1 << 20)),
        flow: u64::MAX - number,
        grant: GRANT,
        device: LAPTOP,
        resource: WIKI,
        protocol: Protocol::Tcp,
        port: 443,
        queried: Some("wiki.postern.internal".parse().unwrap()),
        event: FlowEvent::Closed { opened_at: NOW, up: number, down: number.saturating_mul(2), end: FlowEnd::Finished },
    }
}

/// What the gateway tells in one message; the coordinator knows nothing of its grants.
pub(crate) fn flows(entries: impl IntoIterator<Item = FlowEntry>) -> Flows {
    Flows {
        gateway: GATEWAY,
        gateway_name: "gate".into(),
        spool: SPOOL,
        received_at: NOW,
        entries: entries.into_iter().map(|entry| (entry, None)).collect(),
    }
}

pub(crate) fn told(entries: impl IntoIterator<Item = FlowEntry>) -> [Arrival; 1] {
    [Arrival::Flows(flows(entries))]
}

/// The same, with the grant as the coordinator has it in force.
pub(crate) fn told_in_force(entries: impl IntoIterator<Item = FlowEntry>, facts: GrantFacts) -> [Arrival; 1] {
    let mut flows = flows(entries);
    let facts = Arc::new(facts);
    flows.entries.iter_mut().for_each(|(_, it)| *it = Some(Arc::clone(&facts)));
    [Arrival::Flows(flows)]
}

pub(crate) fn decided(records: impl Into<Vec<ActivityRecord>>) -> [Arrival; 1] {
    [Arrival::Decisions(Decisions { records: records.into(), grants: vec![] })]
}

pub(crate) fn denial(user: &str, seconds: u64) -> ActivityRecord {
    ActivityRecord {
        user: Some(user.into()),
        reason: Some("no_policy".into()),
        ..ActivityRecord::new(ActivityKind::Deny, later(seconds), later(seconds))
    }
}

pub(crate) fn all(log: &ActivityLog) -> Vec<ActivityRow> {
    let query = ActivityQuery { after: Some(0), limit: u32::MAX, ..ActivityQuery::default() };
    log.reader().unwrap().read(&query).unwrap().rows
}

/// The numbers of the entries that are in the table, as `up` tells them; a gap is how many are missing, below zero.
pub(crate) fn numbers(log: &ActivityLog) -> Vec<i64> {
    let number = |row: &ActivityRow| match row.record.up {
        Some(up) => up.cast_signed(),
        None => -row.record.times.cast_signed(),
    };
    all(log).iter().map(number).collect()
}

/// A released migration is never edited: files that it made are out there. When this fails, undo the edit and add a new
/// migration.
#[test]
fn released_migrations_are_as_they_were() {
    use sha2::Digest as _;
    let sql = include_str!("../../migrations/activity_001.sql");
    let digest = postern_model::Sha256(sha2::Sha256::digest(sql).into()).to_string();
    assert_eq!(digest, "/+D3K9QebjUR7sPbIy2j5E1Fu6Y/Ot++6UE0JzsdKKE=");
}
