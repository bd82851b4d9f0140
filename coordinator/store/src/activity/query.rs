//! Reading: [`ActivityReader`], on a connection of its own.

use std::path::{Path, PathBuf};

use postern_model::{DeviceId, GrantId, PolicyId, ResourceId, Revision, Timestamp};
use rusqlite::{Connection, OpenFlags, OptionalExtension as _, Row, ToSql, params, params_from_iter};

use super::{ActivityKind, ActivityRecord, ActivityRow, log::last, row::policies};
use crate::{
    StoreError,
    columns::{Columns as _, Text},
    store::BUSY_TIMEOUT,
};

/// More rows than this are not sorted to find the last ones among them.
const MANY: u32 = 10_000;

const READING: &str = "reading the access activity";

/// Which rows. Names are compared with those that were recorded; one that nobody ever had finds nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ActivityQuery {
    /// Only this user's.
    pub user: Option<String>,
    /// Only of the device with this name.
    pub device: Option<String>,
    /// Only of the resource with this name.
    pub resource: Option<String>,
    /// Only of this kind.
    pub kind: Option<ActivityKind>,
    /// Only what happened at this time or later.
    pub since: Option<Timestamp>,
    /// Only what happened before this time.
    pub until: Option<Timestamp>,
    /// The first rows after this id; without it, the last ones there are.
    pub after: Option<u64>,
    /// How many at most.
    pub limit: u32,
}

/// Some rows, in the order in which they arrived.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ActivityPage {
    /// The rows.
    pub rows: Vec<ActivityRow>,
    /// After which id to read on.
    pub up_to: u64,
}

/// Reads while someone else writes.
#[derive(Debug)]
pub struct ActivityReader {
    db: Connection,
    path: PathBuf,
}

impl ActivityReader {
    /// Opens an existing file for reading.
    ///
    /// # Errors
    /// When it can't be read.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let db = Connection::open_with_flags(path, flags).and_then(|db| db.busy_timeout(BUSY_TIMEOUT).map(|()| db));
        let db = db.map_err(|error| StoreError::from_sqlite(&error, READING, path))?;
        Ok(Self { db, path: path.to_owned() })
    }

    /// Reads rows.
    ///
    /// # Errors
    /// When the file can't be read, or a row in it makes no sense.
    pub fn read(&self, query: &ActivityQuery) -> Result<ActivityPage, StoreError> {
        read(&self.db, query).map_err(|error| self.error(&error))
    }

    /// The id of the last row that was ever written; 0 before the first.
    ///
    /// # Errors
    /// When the file can't be read.
    pub fn last(&self) -> Result<u64, StoreError> {
        last(&self.db).map_err(|error| self.error(&error))
    }

    /// Up to which row a receiver has said that it took all, if it ever did.
    ///
    /// # Errors
    /// When the file can't be read.
    pub fn taken(&self, receiver: &str) -> Result<Option<u64>, StoreError> {
        let sql = "SELECT up_to FROM cursors WHERE receiver = ?1";
        let taken = self.db.query_row(sql, [receiver], |row| row.get(0)).optional();
        taken.map_err(|error| self.error(&error))
    }

    pub(super) fn db(&self) -> &Connection {
        &self.db
    }

    pub(super) fn error(&self, error: &rusqlite::Error) -> StoreError {
        StoreError::from_sqlite(error, READING, &self.path)
    }
}

fn read(db: &Connection, query: &ActivityQuery) -> rusqlite::Result<ActivityPage> {
    // Looked at first: what is written meanwhile is in the next page.
    let end = last(db)?;
    let ActivityQuery { user, device, resource, kind, since, until, after, limit } = query;
    let mut tests = vec!["id <= ?"];
    let mut values: Vec<Box<dyn ToSql>> = vec![Box::new(end)];
    let mut test = |sql: &'static str, value: Option<Box<dyn ToSql>>| {
        if let Some(value) = value {
            tests.push(sql);
            values.push(value);
        }
    };
    let text = |text: &Option<String>| text.clone().map(|text| Box::new(text) as Box<dyn ToSql>);
    let time = |time: &Option<Timestamp>| time.map(|time| Box::new(time.unix_millis()) as Box<dyn ToSql>);
    test("user = ?", text(user));
    test("device = ?", text(device));
    test("resource = ?", text(resource));
    test("kind = ?", kind.map(|kind| Box::new(kind.label()) as Box<dyn ToSql>));
    // The plus sign keeps the index on times out. Page by page the order of ids is what matters: no page may sort all that
    // comes after it.
    let by_time = after.is_none() && are_few(db, *since, *until)?;
    let (from, to) = if by_time { ("at >= ?", "at < ?") } else { ("+at >= ?", "+at < ?") };
    test(from, time(since));
    test(to, time(until));
    let after = after.map(|after| i64::try_from(after).unwrap_or(i64::MAX));
    test("id > ?", after.map(|after| Box::new(after) as Box<dyn ToSql>));
    values.push(Box::new(limit));
    let order = if after.is_some() { "ASC" } else { "DESC" };
    let sql = format!("SELECT * FROM activity WHERE {} ORDER BY id {order} LIMIT ?", tests.join(" AND "));
    let mut statement = db.prepare_cached(&sql)?;
    let rows = statement.query_map(params_from_iter(values), row)?;
    let mut rows: Vec<_> = rows.collect::<rusqlite::Result<_>>()?;
    if after.is_none() {
        rows.reverse();
    }
    let is_full = u64::try_from(rows.len()).is_ok_and(|len| len >= u64::from(*limit));
    let up_to = match rows.last() {
        Some(last) if after.is_some() && is_full => last.id,
        _ => end,
    };
    Ok(ActivityPage { rows, up_to })
}

/// Whether so few rows are of that time that they are best found by it; of many, the last ones are soon found from the end.
fn are_few(db: &Connection, since: Option<Timestamp>, until: Option<Timestamp>) -> rusqlite::Result<bool> {
    if since.is_none() && until.is_none() {
        return Ok(false);
    }
    let (since, until) =
        (since.map_or(i64::MIN, Timestamp::unix_millis), until.map_or(i64::MAX, Timestamp::unix_millis));
    let sql = "SELECT COUNT(*) FROM (SELECT 1 FROM activity WHERE at >= ?1 AND at < ?2 LIMIT ?3)";
    let count: u32 = db.prepare_cached(sql)?.query_row(params![since, until, MANY], |row| row.get(0))?;
    Ok(count < MANY)
}

fn row(row: &Row<'_>) -> rusqlite::Result<ActivityRow> {
    let maybe_time = |column| row.get::<_, Option<i64>>(column).map(|time| time.map(Timestamp::from_unix_millis));
    let maybe_device = |column| row.get::<_, Option<Text<DeviceId>>>(column).map(|id| id.map(|id| id.0));
    let record = ActivityRecord {
        at: row.time("at")?,
        received_at: row.time("received_at")?,
        kind: row.text("kind")?,
        user: row.get("user")?,
        device_id: maybe_device("device_id")?,
        device: row.get("device")?,
        resource_id: row.get::<_, Option<Text<ResourceId>>>("resource_id")?.map(|id| id.0),
        resource: row.get("resource")?,
        grant: row.get::<_, Option<Text<GrantId>>>("grant_id")?.map(|id| id.0),
        gateway_id: maybe_device("gateway_id")?,
        gateway: row.get("gateway")?,
        policy: row.get::<_, Option<Text<PolicyId>>>("policy_id")?.map(|id| id.0),
        policies: row.get::<_, Option<String>>("policies")?.map(|ids| policies(&ids)).unwrap_or_default(),
        filter: row.get("filter")?,
        flow: row.get::<_, Option<i64>>("flow")?.map(i64::cast_unsigned),
        protocol: row.get("protocol")?,
        port: row.get("port")?,
        queried: row.get("queried")?,
        opened_at: maybe_time("opened_at")?,
        up: row.get("up")?,
        down: row.get("down")?,
        reason: row.get("reason")?,
        times: row.get("times")?,
        revision: row.get::<_, Option<u64>>("revision")?.map(Revision),
    };
    Ok(ActivityRow { id: row.get("id")?, record })
}
