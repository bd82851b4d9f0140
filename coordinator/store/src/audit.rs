//! The audit log: appending to the chain, reading it, and telling where it was tampered with.
//!
//! An entry's hash is SHA-256 over the previous entry's hash (32 zero bytes before the first) and the entry as compact
//! JSON, its fields in the order of [`AuditEntry`] and without `hash`. So an exported log can be verified by anyone. The
//! `state` row counts the entries and repeats the last hash: a log cut at its end is told apart from a shorter one.

use postern_model::{
    Revision, Sha256, Timestamp,
    audit::{Actor, AuditEntry, AuditEvent},
};
use rusqlite::{Connection, Row, Transaction, params};
use serde::Serialize;
use sha2::Digest as _;

use crate::columns::{Columns as _, Text, to_json, unreadable};

/// Which entries to read; they come in the order in which they were written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AuditQuery {
    /// The first entries after this id; without it, the last ones there are.
    pub after: Option<u64>,
    /// How many at most.
    pub limit: u32,
}

/// What a verification found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditReport {
    /// How many entries the chain has, counted up to the first that does not fit.
    pub entries: u64,
    /// The hash of the last entry that fits; `None` when there is none.
    pub head: Option<Sha256>,
    /// The first entry that does not fit, if there is one.
    pub fault: Option<AuditFault>,
}

/// Where the chain breaks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditFault {
    /// The id of the first entry that does not fit.
    pub id: u64,
    /// In which way, as a sentence.
    pub what: String,
}

/// What stands before the first entry.
const GENESIS: Sha256 = Sha256([0; 32]);

/// Where the log ends.
struct End {
    revision: Revision,
    entries: u64,
    head: Sha256,
}

/// Appends the events and makes the next revision of it all.
pub(crate) fn append(tx: &Transaction<'_>, events: &[AuditEvent]) -> rusqlite::Result<Revision> {
    let End { revision, mut entries, mut head } = end(tx)?;
    let revision = revision.next();
    let sql = "INSERT INTO audit (id, revision, at, actor_kind, actor_id, action, object, details, hash)
        VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)";
    let mut insert = tx.prepare_cached(sql)?;
    for event in events {
        entries += 1;
        head = chain(&head, entries, revision, event)?;
        let (kind, id) = actor_columns(&event.actor);
        insert.execute(params![
            entries,
            revision.0,
            event.at.unix_millis(),
            kind,
            id,
            event.action,
            event.object,
            to_json(&event.details)?,
            Text(head),
        ])?;
    }
    let sql = "UPDATE state SET revision = ?1, audit_entries = ?2, audit_head = ?3";
    tx.prepare_cached(sql)?.execute(params![revision.0, entries, Text(head)])?;
    Ok(revision)
}

/// Reads entries.
pub(crate) fn read(db: &Connection, query: AuditQuery) -> rusqlite::Result<Vec<AuditEntry>> {
    let AuditQuery { after, limit } = query;
    let Some(after) = after else {
        let sql = "SELECT * FROM (SELECT * FROM audit ORDER BY id DESC LIMIT ?1) ORDER BY id";
        return db.prepare_cached(sql)?.query_map([limit], entry)?.collect();
    };
    // No id is larger than an i64, so a larger `after` has nothing after it.
    let after = i64::try_from(after).unwrap_or(i64::MAX);
    let sql = "SELECT * FROM audit WHERE id > ?1 ORDER BY id LIMIT ?2";
    db.prepare_cached(sql)?.query_map(params![after, limit], entry)?.collect()
}

/// Recomputes the chain from its first entry on.
pub(crate) fn verify(db: &Connection) -> rusqlite::Result<AuditReport> {
    // One snapshot, however much is written meanwhile.
    let snapshot = db.unchecked_transaction()?;
    let end = end(&snapshot)?;
    let mut statement = snapshot.prepare("SELECT * FROM audit ORDER BY id")?;
    let mut rows = statement.query([])?;
    let (mut entries, mut head, mut revision) = (0, GENESIS, Revision::default());
    let mut fault = None;
    while let Some(row) = rows.next()? {
        match check(row, entries, &head, revision, end.entries) {
            Ok(entry) => (entries, head, revision) = (entry.id, entry.hash, entry.revision),
            Err(found) => {
                fault = Some(found);
                break;
            }
        }
    }
    if fault.is_none() && entries < end.entries {
        let what = format!("it is missing, though {} entries were written", end.entries);
        fault = Some(AuditFault { id: entries + 1, what });
    }
    if fault.is_none() && (head != end.head || revision != end.revision) {
        fault = Some(AuditFault { id: entries, what: "it is not the entry that was written last".into() });
    }
    Ok(AuditReport { entries, head: (entries > 0).then_some(head), fault })
}

/// The entry in `row`, if it is the one that comes after those seen.
fn check(row: &Row<'_>, seen: u64, head: &Sha256, revision: Revision, written: u64) -> Result<AuditEntry, AuditFault> {
    let id = row.get::<_, u64>("id").unwrap_or_default();
    let expected = seen + 1;
    if id != expected {
        // A row with a lower id than any that was written is not a gap but an intruder.
        let what = if id < expected { "it was inserted" } else { "it is missing" };
        return Err(AuditFault { id: id.min(expected), what: what.into() });
    }
    if id > written {
        return Err(AuditFault { id, what: format!("it was added: only {written} entries were written") });
    }
    let entry = entry(row).map_err(|error| AuditFault { id, what: format!("it can't be read: {error}") })?;
    if entry.revision < revision {
        return Err(AuditFault { id, what: format!("its revision {} is below the one before", entry.revision) });
    }
    let hash = chain(head, id, entry.revision, &entry.event);
    if hash.is_ok_and(|hash| hash == entry.hash) {
        Ok(entry)
    } else {
        Err(AuditFault { id, what: "its hash does not fit: it, or what came before, was altered".into() })
    }
}

fn end(db: &Connection) -> rusqlite::Result<End> {
    db.prepare_cached("SELECT * FROM state")?.query_row([], |row| {
        Ok(End {
            revision: Revision(row.get("revision")?),
            entries: row.get("audit_entries")?,
            head: row.text("audit_head")?,
        })
    })
}

/// The hash of an entry that follows `previous`.
pub(crate) fn chain(previous: &Sha256, id: u64, revision: Revision, event: &AuditEvent) -> rusqlite::Result<Sha256> {
    /// What is hashed of an entry, in this order.
    #[derive(Serialize)]
    struct Sealed<'a> {
        id: u64,
        revision: Revision,
        at: Timestamp,
        actor: &'a Actor,
        action: &'a str,
        object: &'a str,
        details: &'a [(String, String)],
    }
    let AuditEvent { at, actor, action, object, details } = event;
    let json = to_json(&Sealed { id, revision, at: *at, actor, action, object, details })?;
    let digest = sha2::Sha256::new().chain_update(previous.0).chain_update(json.as_bytes()).finalize();
    Ok(Sha256(digest.into()))
}

fn entry(row: &Row<'_>) -> rusqlite::Result<AuditEntry> {
    Ok(AuditEntry {
        id: row.get("id")?,
        revision: Revision(row.get("revision")?),
        event: AuditEvent {
            at: row.time("at")?,
            actor: actor(row)?,
            action: row.get("action")?,
            object: row.get("object")?,
            details: row.json("details")?,
        },
        hash: row.text("hash")?,
    })
}

fn actor_columns(actor: &Actor) -> (&'static str, Option<String>) {
    match actor {
        Actor::AdminSocket => ("admin_socket", None),
        Actor::ApiKey(id) => ("api_key", Some(id.to_string())),
        Actor::Device(id) => ("device", Some(id.to_string())),
        Actor::Token(id) => ("token", Some(id.to_string())),
        Actor::Coordinator => ("coordinator", None),
    }
}

fn actor(row: &Row<'_>) -> rusqlite::Result<Actor> {
    let kind: String = row.get("actor_kind")?;
    Ok(match kind.as_str() {
        "admin_socket" => Actor::AdminSocket,
        "api_key" => Actor::ApiKey(row.text("actor_id")?),
        "device" => Actor::Device(row.text("actor_id")?),
        "token" => Actor::Token(row.text("actor_id")?),
        "coordinator" => Actor::Coordinator,
        _ => return Err(unreadable(format!("unknown actor '{kind}'").into())),
    })
}
