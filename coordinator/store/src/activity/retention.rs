//! What is too old, or more than there is room for, goes: the oldest first, a little at a time.

use std::time::Duration;

use postern_model::Timestamp;
use rusqlite::{Connection, Transaction, TransactionBehavior, params};

/// How many rows go in one transaction; the writer waits for no longer than that takes.
const BATCH: u32 = 2000;
/// How many pages are given back to the disk at once.
const PAGES: u32 = 2000;

/// How long, and how much.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// Rows go this long after they were received. By the coordinator's clock: a gateway's has no say in it.
    pub keep: Duration,
    /// Bytes that rows and their indexes may take; the write-ahead log comes on top.
    pub max_size: u64,
}

/// What was removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Tidied {
    /// How many rows were too old.
    pub old: u64,
    /// How many had no room.
    pub excess: u64,
    /// Whether there is more to do at once.
    pub more: bool,
}

pub(super) fn tidy(db: &mut Connection, now: Timestamp, retention: Retention) -> rusqlite::Result<Tidied> {
    let keep = i64::try_from(retention.keep.as_millis()).unwrap_or(i64::MAX);
    let before = now.unix_millis().saturating_sub(keep);
    let tx = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
    // The first rows only: they arrive in the order of their ids, and more than that is not looked through.
    let sql = "DELETE FROM activity WHERE id IN (SELECT id FROM
        (SELECT id, received_at FROM activity ORDER BY id LIMIT ?1) WHERE received_at < ?2) RETURNING received_at";
    begin_recording(&tx, now)?;
    let mut tidied = Tidied { old: forgotten(&tx, sql, params![BATCH, before])?, ..Tidied::default() };
    let sql = "DELETE FROM grants WHERE id IN (SELECT id FROM grants WHERE expires_at < ?1 LIMIT ?2)";
    let grants = removed(&tx, sql, params![before, BATCH])?;
    if size(&tx)? > retention.max_size {
        let sql =
            "DELETE FROM activity WHERE id IN (SELECT id FROM activity ORDER BY id LIMIT ?1) RETURNING received_at";
        tidied.excess = forgotten(&tx, sql, params![BATCH])?;
    }
    tx.commit()?;
    // What is too large may still be, unless there was nothing left to go.
    tidied.more = tidied.excess > 0 || [tidied.old, grants].contains(&BATCH.into());
    give_back(db)?;
    Ok(tidied)
}

/// The first time, everything is recorded from here on.
fn begin_recording(tx: &Transaction<'_>, now: Timestamp) -> rusqlite::Result<()> {
    let sql = "INSERT INTO recording (id, since) VALUES (1, ?1) ON CONFLICT (id) DO NOTHING";
    tx.prepare_cached(sql)?.execute([now.unix_millis()])?;
    Ok(())
}

/// Removes rows, and says that what was received up to then is not all recorded any more.
fn forgotten(tx: &Transaction<'_>, sql: &str, params: impl rusqlite::Params) -> rusqlite::Result<u64> {
    let (mut count, mut last) = (0, None);
    let mut statement = tx.prepare_cached(sql)?;
    let mut rows = statement.query(params)?;
    while let Some(row) = rows.next()? {
        count += 1;
        last = last.max(Some(row.get::<_, i64>(0)?));
    }
    if let Some(last) = last {
        let sql = "UPDATE recording SET since = MAX(since, ?1)";
        tx.prepare_cached(sql)?.execute([last.saturating_add(1)])?;
    }
    Ok(count)
}

fn removed(tx: &Transaction<'_>, sql: &str, params: impl rusqlite::Params) -> rusqlite::Result<u64> {
    let rows = tx.prepare_cached(sql)?.execute(params)?;
    Ok(u64::try_from(rows).unwrap_or(u64::MAX))
}

/// The bytes of the pages that are in use.
fn size(db: &Connection) -> rusqlite::Result<u64> {
    let pragma = |name: &str| db.pragma_query_value(None, name, |row| row.get::<_, u64>(0));
    Ok(pragma("page_count")?.saturating_sub(pragma("freelist_count")?).saturating_mul(pragma("page_size")?))
}

fn give_back(db: &Connection) -> rusqlite::Result<()> {
    // It gives back one page with each step, so all of its rows have to be taken.
    let mut statement = db.prepare(&format!("PRAGMA incremental_vacuum({PAGES})"))?;
    let mut rows = statement.query([])?;
    while rows.next()?.is_some() {}
    Ok(())
}
