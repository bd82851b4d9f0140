//! [`Store`], which loads and commits, and [`Reader`], which reads the audit log beside it.

use std::{
    fs::{OpenOptions, Permissions},
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    time::Duration,
};

use postern_model::{Revision, audit::AuditEntry, change::Batch, record::World};
use rusqlite::{Connection, OpenFlags, TransactionBehavior};
use rusqlite_migration::{M, MigrationDefinitionError, Migrations};

use crate::{
    AuditQuery, AuditReport, StoreError, audit,
    changes::{self, ChangeError},
    world,
};

/// In order; one that was released is never edited.
const MIGRATIONS: &[M<'_>] = &[M::up(include_str!("migrations/001_tables.sql"))];

/// How long a commit waits for another program (a backup, `sqlite3`) to let go of the database. Short, because all
/// decisions wait with it.
pub(crate) const BUSY_TIMEOUT: Duration = Duration::from_secs(2);

const OPENING: &str = "opening the database";
const LOADING: &str = "loading the state";
const COMMITTING: &str = "the change";
const READING_AUDIT: &str = "reading the audit log";

/// The coordinator's database, for the one who writes it.
#[derive(Debug)]
pub struct Store {
    pub(crate) db: Connection,
    path: PathBuf,
}

impl Store {
    /// Opens the database, makes it (mode 0600) when there is none, and brings its tables up to date. A database without
    /// a network gets `first` as its first commit, which has to make one.
    ///
    /// # Errors
    /// When the file can't be read or written, is damaged, or was written by a newer version.
    pub fn open(path: &Path, first: &Batch) -> Result<Self, StoreError> {
        create_private(path).map_err(|error| StoreError::Disk {
            doing: OPENING,
            path: path.to_owned(),
            cause: error.to_string(),
        })?;
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let db = Connection::open_with_flags(path, flags).and_then(|db| configure(&db).map(|()| db));
        let db = db.map_err(|error| StoreError::from_sqlite(&error, OPENING, path))?;
        let mut store = Self { db, path: path.to_owned() };
        store.migrate()?;
        if world::read(&store.db).map_err(|error| store.error(&error, OPENING))?.is_none() {
            store.commit(first)?;
        }
        Ok(store)
    }

    /// Reads the whole state.
    ///
    /// # Errors
    /// When the file can't be read or is damaged.
    pub fn load(&self) -> Result<World, StoreError> {
        let world = world::read(&self.db).map_err(|error| self.error(&error, LOADING))?;
        world.ok_or_else(|| StoreError::Corrupt { path: self.path.clone(), what: "it has no network".into() })
    }

    /// Commits the batch whole: its changes, its audit entries and the next revision, on disk when this returns. An
    /// empty batch is nothing and makes no revision.
    ///
    /// # Errors
    /// Whatever is wrong, nothing was changed. Changes without an audit entry are refused.
    pub fn commit(&mut self, batch: &Batch) -> Result<Revision, StoreError> {
        if batch.audit.is_empty() {
            if !batch.changes.is_empty() {
                let what = "it has no audit entry".into();
                return Err(StoreError::Constraint { doing: COMMITTING, what });
            }
            let revision = self.db.query_row("SELECT revision FROM state", [], |row| row.get(0));
            return revision.map(Revision).map_err(|error| self.error(&error, COMMITTING));
        }
        match self.try_commit(batch) {
            Ok(revision) => Ok(revision),
            Err(ChangeError::Missing(what)) => Err(StoreError::Constraint { doing: COMMITTING, what }),
            Err(ChangeError::Sqlite(error)) => Err(self.error(&error, COMMITTING)),
        }
    }

    /// A second connection, for reading the audit log while this one writes.
    ///
    /// # Errors
    /// When the file can't be read.
    pub fn reader(&self) -> Result<Reader, StoreError> {
        Reader::open(&self.path)
    }

    fn try_commit(&mut self, batch: &Batch) -> Result<Revision, ChangeError> {
        // Dropped before its commit, a transaction is rolled back.
        let tx = self.db.transaction_with_behavior(TransactionBehavior::Immediate)?;
        for change in &batch.changes {
            changes::write(&tx, change)?;
        }
        let revision = audit::append(&tx, &batch.audit)?;
        tx.commit()?;
        Ok(revision)
    }

    fn migrate(&mut self) -> Result<(), StoreError> {
        migrate(&Migrations::from_slice(MIGRATIONS), &mut self.db, OPENING, &self.path)
    }

    fn error(&self, error: &rusqlite::Error, doing: &'static str) -> StoreError {
        StoreError::from_sqlite(error, doing, &self.path)
    }
}

/// Reads the audit log on a connection of its own, so that no decision waits for a long read.
#[derive(Debug)]
pub struct Reader {
    pub(crate) db: Connection,
    path: PathBuf,
}

impl Reader {
    /// Opens an existing database for reading.
    ///
    /// # Errors
    /// When the file can't be read.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let db = Connection::open_with_flags(path, flags).and_then(|db| db.busy_timeout(BUSY_TIMEOUT).map(|()| db));
        let db = db.map_err(|error| StoreError::from_sqlite(&error, READING_AUDIT, path))?;
        Ok(Self { db, path: path.to_owned() })
    }

    /// Reads entries of the audit log.
    ///
    /// # Errors
    /// When the file can't be read, or an entry in it makes no sense.
    pub fn audit(&self, query: AuditQuery) -> Result<Vec<AuditEntry>, StoreError> {
        audit::read(&self.db, query).map_err(|error| StoreError::from_sqlite(&error, READING_AUDIT, &self.path))
    }

    /// Verifies the audit log from its first entry on, and names the first that does not fit.
    ///
    /// # Errors
    /// When the file can't be read. A broken chain is not an error but in the report.
    pub fn audit_verify(&self) -> Result<AuditReport, StoreError> {
        audit::verify(&self.db).map_err(|error| StoreError::from_sqlite(&error, READING_AUDIT, &self.path))
    }
}

/// Brings tables up to date.
pub(crate) fn migrate(
    migrations: &Migrations<'_>,
    db: &mut Connection,
    doing: &'static str,
    path: &Path,
) -> Result<(), StoreError> {
    use rusqlite_migration::Error;
    migrations.to_latest(db).map_err(|error| match error {
        Error::MigrationDefinition(MigrationDefinitionError::DatabaseTooFarAhead) => {
            StoreError::Newer { path: path.to_owned() }
        }
        Error::RusqliteError { err, .. } => StoreError::from_sqlite(&err, doing, path),
        other => StoreError::Other { doing, path: path.to_owned(), cause: other.to_string() },
    })
}

/// SQLite gives its companion files (`-wal`, `-shm`) the database's mode, so it has to be right from the beginning.
pub(crate) fn create_private(path: &Path) -> std::io::Result<()> {
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)?;
    file.set_permissions(Permissions::from_mode(0o600))
}

pub(crate) fn configure(db: &Connection) -> rusqlite::Result<()> {
    db.busy_timeout(BUSY_TIMEOUT)?;
    db.pragma_update_and_check(None, "journal_mode", "WAL", |_| Ok(()))?;
    // FULL: a commit is on the disk before anyone is told of it.
    db.pragma_update(None, "synchronous", "FULL")?;
    db.pragma_update(None, "foreign_keys", true)?;
    db.pragma_update(None, "trusted_schema", false)?;
    // Temporary b-trees must not fail where the disk is full.
    db.pragma_update(None, "temp_store", "MEMORY")
}
