//! [`ActivityLog`]: the one connection that writes.

use std::path::{Path, PathBuf};

use postern_model::Timestamp;
use rusqlite::{Connection, OpenFlags, Transaction, TransactionBehavior, params};
use rusqlite_migration::{M, Migrations};

use super::{
    ActivityReader, ActivityRecord, GrantFacts,
    intake::{self, Flows},
    retention::{self, Retention, Tidied},
};
use crate::{
    StoreError,
    columns::Text,
    store::{self, configure, create_private},
};

/// In order; one that was released is never edited.
const MIGRATIONS: &[M<'_>] = &[M::up(include_str!("../migrations/activity_001.sql"))];

const OPENING: &str = "opening the access activity";
const RECORDING: &str = "the access activity";
const TIDYING: &str = "removing old access activity";
/// The write-ahead log shrinks back to this once it is written over.
const WAL: i64 = 16 << 20;

/// What was decided, with the grants that it put.
#[derive(Debug, Clone, Default)]
pub struct Decisions {
    /// One each.
    pub records: Vec<ActivityRecord>,
    /// New, renewed or changed: what gateways will tell of flows is held against these.
    pub grants: Vec<GrantFacts>,
}

/// One thing to be written.
#[derive(Debug)]
pub enum Arrival {
    /// Decisions of the coordinator.
    Decisions(Decisions),
    /// What a gateway tells of flows.
    Flows(Flows),
    /// A receiver has taken all up to this row.
    Taken {
        /// Which.
        receiver: String,
        /// Up to and with which.
        up_to: u64,
    },
}

/// What came of a write.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Written {
    /// For each arrival that was [`Flows`], in order: up to which entry its spool is recorded.
    pub up_to: Vec<u64>,
    /// How many rows were added.
    pub rows: u64,
    /// Entries that were there already.
    pub repeated: u64,
    /// Entries that were not taken, because they are not about what their gateway carried.
    pub refused: u64,
    /// The id of the last row there is.
    pub last: u64,
}

/// The activity file, for the one who writes it.
#[derive(Debug)]
pub struct ActivityLog {
    pub(super) db: Connection,
    path: PathBuf,
}

impl ActivityLog {
    /// Opens the file, makes it (mode 0600) when there is none, and brings its tables up to date.
    ///
    /// # Errors
    /// When it can't be read or written, is damaged, or was written by a newer version.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        create_private(path).map_err(|error| StoreError::Disk {
            doing: OPENING,
            path: path.to_owned(),
            cause: error.to_string(),
        })?;
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let open = || {
            let db = Connection::open_with_flags(path, flags)?;
            // Has to come before anything is written: what is deleted can then be given back, page by page.
            db.pragma_update(None, "auto_vacuum", "INCREMENTAL")?;
            configure(&db)?;
            db.pragma_update_and_check(None, "journal_size_limit", WAL, |_| Ok(()))?;
            Ok(db)
        };
        let mut db = open().map_err(|error| StoreError::from_sqlite(&error, OPENING, path))?;
        store::migrate(&Migrations::from_slice(MIGRATIONS), &mut db, OPENING, path)?;
        Ok(Self { db, path: path.to_owned() })
    }

    /// Writes all of it in one transaction: on disk when this returns, or not there at all.
    ///
    /// # Errors
    /// When it can't be written; then nothing was.
    pub fn write(&mut self, arrivals: &[Arrival]) -> Result<Written, StoreError> {
        self.try_write(arrivals).map_err(|error| StoreError::from_sqlite(&error, RECORDING, &self.path))
    }

    fn try_write(&mut self, arrivals: &[Arrival]) -> rusqlite::Result<Written> {
        // Dropped before its commit, a transaction is rolled back.
        let tx = self.db.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let mut written = Written::default();
        for arrival in arrivals {
            match arrival {
                Arrival::Decisions(Decisions { records, grants }) => {
                    for facts in grants {
                        put_grant(&tx, facts)?;
                    }
                    for record in records {
                        insert(&tx, record)?;
                        written.rows += 1;
                    }
                }
                Arrival::Flows(flows) => {
                    let up_to = intake::write(&tx, flows, &mut written)?;
                    written.up_to.push(up_to);
                }
                Arrival::Taken { receiver, up_to } => {
                    let sql = "INSERT INTO cursors (receiver, up_to) VALUES (?1, ?2)
                        ON CONFLICT (receiver) DO UPDATE SET up_to = excluded.up_to";
                    tx.prepare_cached(sql)?.execute(params![receiver, up_to])?;
                }
            }
        }
        written.last = last(&tx)?;
        tx.commit()?;
        Ok(written)
    }

    /// Removes some of what is too old or too much, and gives its room back to the disk; never much at once.
    ///
    /// # Errors
    /// When the file can't be written.
    pub fn tidy(&mut self, now: Timestamp, retention: Retention) -> Result<Tidied, StoreError> {
        retention::tidy(&mut self.db, now, retention)
            .map_err(|error| StoreError::from_sqlite(&error, TIDYING, &self.path))
    }

    /// A second connection, for reading while this one writes.
    ///
    /// # Errors
    /// When the file can't be read.
    pub fn reader(&self) -> Result<ActivityReader, StoreError> {
        ActivityReader::open(&self.path)
    }
}

/// The id of the last row that was ever written.
pub(super) fn last(db: &Connection) -> rusqlite::Result<u64> {
    let sql = "SELECT COALESCE((SELECT seq FROM sqlite_sequence WHERE name = 'activity'), 0)";
    db.prepare_cached(sql)?.query_row([], |row| row.get(0))
}

pub(super) fn put_grant(tx: &Transaction<'_>, facts: &GrantFacts) -> rusqlite::Result<()> {
    let sql = "INSERT INTO grants (id, gateway_id, gateway, device_id, device, user, resource_id, resource, policy_id,
            expires_at)
        VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)
        ON CONFLICT (id) DO UPDATE SET policy_id = excluded.policy_id, expires_at = excluded.expires_at";
    let GrantFacts { grant, gateway, device, user, resource } = facts;
    tx.prepare_cached(sql)?.execute(params![
        Text(grant.id),
        Text(grant.gateway),
        gateway,
        Text(grant.device),
        device,
        user,
        Text(grant.resource),
        resource,
        Text(grant.policy),
        grant.expires_at.unix_millis(),
    ])?;
    Ok(())
}

pub(super) fn insert(tx: &Transaction<'_>, record: &ActivityRecord) -> rusqlite::Result<()> {
    let sql = "INSERT INTO activity (at, received_at, kind, user, device_id, device, resource_id, resource, grant_id,
            gateway_id, gateway, policy_id, policies, filter, flow, protocol, port, queried, opened_at, up, down, reason, times,
            revision)
        VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19, ?20, ?21, ?22,
            ?23, ?24)";
    let policies: Vec<_> = record.policies.iter().map(ToString::to_string).collect();
    tx.prepare_cached(sql)?.execute(params![
        record.at.unix_millis(),
        record.received_at.unix_millis(),
        record.kind.label(),
        record.user,
        record.device_id.map(Text),
        record.device,
        record.resource_id.map(Text),
        record.resource,
        record.grant.map(Text),
        record.gateway_id.map(Text),
        record.gateway,
        record.policy.map(Text),
        (!policies.is_empty()).then(|| policies.join(",")),
        record.filter,
        record.flow.map(u64::cast_signed),
        record.protocol,
        record.port,
        record.queried,
        record.opened_at.map(Timestamp::unix_millis),
        record.up.map(countable),
        record.down.map(countable),
        record.reason,
        countable(record.times),
        record.revision.map(|revision| countable(revision.0)),
    ])?;
    Ok(())
}

/// SQLite counts up to 2^63; whoever tells of more bytes has told nothing more by it.
fn countable(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
