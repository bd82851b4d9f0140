//! The store on real SQLite files.

mod activity;
mod chain;
mod crash;
mod disk;
mod model;
mod opening;
mod records;
mod refusals;
mod round_trip;

use std::path::PathBuf;

use postern_model::{
    NetworkRanges, Revision, Timestamp,
    addr::FIRST_INDEX,
    audit::{Actor, AuditEvent},
    change::{Batch, Change},
    record::Network,
};

use crate::Store;

pub(crate) const NOW: Timestamp = Timestamp::from_unix_millis(1_700_000_000_000);

/// A directory for one database, removed with it.
pub(crate) struct Place(tempfile::TempDir);

impl Place {
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.0.path().join("state.db")
    }

    pub(crate) fn store(&self) -> Store {
        Store::open(&self.path(), &first()).unwrap()
    }

    /// The file, for those who should not touch it.
    pub(crate) fn sqlite(&self) -> rusqlite::Connection {
        rusqlite::Connection::open(self.path()).unwrap()
    }
}

pub(crate) fn network() -> Network {
    Network {
        zone: "postern.internal".parse().unwrap(),
        ranges: NetworkRanges::from_random([1, 2, 3, 4, 5]),
        next_device_index: FIRST_INDEX,
        next_resource_index: FIRST_INDEX,
    }
}

pub(crate) fn event(action: &str) -> AuditEvent {
    AuditEvent {
        at: NOW,
        actor: Actor::AdminSocket,
        action: action.to_owned(),
        object: "test:one".to_owned(),
        details: vec![("why".to_owned(), "a \"quoted\" reason, and ümlauts".to_owned())],
    }
}

pub(crate) fn batch(changes: impl Into<Vec<Change>>) -> Batch {
    Batch { changes: changes.into(), audit: vec![event("test.change")] }
}

pub(crate) fn first() -> Batch {
    batch([Change::PutNetwork(network())])
}

#[test]
fn an_empty_batch_is_nothing() {
    let place = Place::new();
    let mut store = place.store();
    let before = store.load().unwrap();
    let revision = store.commit(&Batch { changes: vec![], audit: vec![] }).unwrap();
    assert_eq!(revision, Revision(1));
    assert_eq!(store.load().unwrap(), before);
}

#[test]
fn each_batch_makes_one_revision() {
    let place = Place::new();
    let mut store = place.store();
    assert_eq!(store.load().unwrap().revision, Revision(1));
    let only_audit = Batch { changes: vec![], audit: vec![event("a.b"), event("a.c")] };
    assert_eq!(store.commit(&only_audit).unwrap(), Revision(2));
    assert_eq!(store.load().unwrap().revision, Revision(2));
}
