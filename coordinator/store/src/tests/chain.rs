//! The audit chain: read beside the writer, verified by anyone, and broken by every kind of tampering.

use postern_model::{
    ApiKeyId, DeviceId, Revision, Sha256, TokenId,
    audit::{Actor, AuditEntry, AuditEvent},
    change::Batch,
};
use sha2::Digest as _;

use super::{Place, batch, event, records::change};
use crate::{AuditFault, AuditQuery, Store};

/// Six entries, the last two of one batch, and one per kind of actor.
fn six(place: &Place) -> Store {
    let mut store = place.store();
    let actors = [
        Actor::ApiKey(ApiKeyId::from_bytes([1; 16])),
        Actor::Device(DeviceId::from_bytes([2; 16])),
        Actor::Token(TokenId::from_bytes([3; 16])),
    ];
    for actor in actors {
        store.commit(&Batch { changes: vec![], audit: vec![AuditEvent { actor, ..event("test.note") }] }).unwrap();
    }
    let last = AuditEvent { actor: Actor::Coordinator, ..event("grant.end") };
    let two = Batch { audit: vec![event("user.add"), last], ..batch([change(1, 1, 1)]) };
    store.commit(&two).unwrap();
    store
}

fn all(store: &Store) -> Vec<AuditEntry> {
    store.reader().unwrap().audit(AuditQuery { after: Some(0), limit: 1000 }).unwrap()
}

#[test]
fn an_untouched_log_verifies_to_its_end() {
    let place = Place::new();
    let store = six(&place);
    let report = store.reader().unwrap().audit_verify().unwrap();
    let log = all(&store);
    assert_eq!((report.entries, report.fault), (6, None));
    assert_eq!(report.head, Some(log[5].hash));
    assert_eq!(log.iter().map(|entry| entry.id).collect::<Vec<_>>(), [1, 2, 3, 4, 5, 6]);
    assert_eq!(log.iter().map(|entry| entry.revision.0).collect::<Vec<_>>(), [1, 2, 3, 4, 5, 5]);
}

/// From what the entry's documentation says, with nothing of the store's code.
#[test]
fn an_exported_log_can_be_verified_by_anyone() {
    let place = Place::new();
    let mut previous = [0; 32];
    for entry in all(&six(&place)) {
        let mut json = serde_json::to_value(&entry).unwrap();
        let hash = json.as_object_mut().unwrap().remove("hash").unwrap();
        let mut sealed = String::from("{");
        for field in ["id", "revision", "at", "actor", "action", "object", "details"] {
            let value = match field {
                // A map of JSON values has lost the order of its fields.
                "actor" => serde_json::to_string(&entry.event.actor).unwrap(),
                _ => json[field].to_string(),
            };
            sealed.push_str(&format!("\"{field}\":{value},"));
        }
        sealed.pop();
        sealed.push('}');
        let digest = sha2::Sha256::new().chain_update(previous).chain_update(&sealed).finalize();
        assert_eq!(hash.as_str().unwrap(), Sha256(digest.into()).to_string(), "{sealed}");
        previous = digest.into();
    }
}

#[test]
fn entries_are_read_from_anywhere() {
    let place = Place::new();
    let store = six(&place);
    let reader = store.reader().unwrap();
    let read = |after, limit| -> Vec<u64> {
        reader.audit(AuditQuery { after, limit }).unwrap().iter().map(|entry| entry.id).collect()
    };
    assert_eq!(read(None, 2), [5, 6], "the last ones");
    assert_eq!(read(None, 100), [1, 2, 3, 4, 5, 6]);
    assert_eq!(read(Some(0), 2), [1, 2]);
    assert_eq!(read(Some(4), 100), [5, 6]);
    assert!(read(Some(6), 100).is_empty() && read(Some(u64::MAX), 100).is_empty() && read(None, 0).is_empty());
}

#[test]
fn a_reader_reads_and_verifies_while_the_writer_writes() {
    let place = Place::new();
    let mut store = six(&place);
    let reader = store.reader().unwrap();
    for n in 0..20 {
        // A write in the middle of a transaction of its own does not stop the reader, nor does it see it.
        store.db.execute_batch("BEGIN IMMEDIATE; DELETE FROM audit").unwrap();
        assert_eq!(reader.audit_verify().unwrap().entries, 6 + n);
        store.db.execute_batch("ROLLBACK").unwrap();
        store.commit(&batch([])).unwrap();
        let report = reader.audit_verify().unwrap();
        assert_eq!((report.entries, report.fault), (7 + n, None));
    }
}

#[test]
fn a_reader_can_write_nothing() {
    let place = Place::new();
    let store = six(&place);
    let reader = store.reader().unwrap();
    assert!(reader.db.execute("DELETE FROM audit", []).is_err());
}

/// Tampers with a log of six entries; what the verification says then.
fn fault(sql: &str) -> AuditFault {
    let place = Place::new();
    let store = six(&place);
    place.sqlite().execute_batch(sql).unwrap();
    let report = store.reader().unwrap().audit_verify().unwrap();
    let fault = report.fault.unwrap_or_else(|| panic!("not noticed: {sql}"));
    assert!(report.entries <= fault.id, "{sql}: {}", report.entries);
    fault
}

#[test]
fn every_edited_field_is_noticed_at_its_entry() {
    for set in [
        "revision = 3 + 1",
        "at = at + 1",
        "actor_kind = 'coordinator'",
        "actor_id = '00000000-0000-4000-8000-000000000000'",
        "actor_id = NULL",
        "actor_kind = 'nobody'",
        "action = 'user.add'",
        "object = 'test:two'",
        "details = '[[\"why\",\"another\"]]'",
        "details = 'no JSON'",
        "hash = 'AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA='",
        "hash = 'no hash'",
    ] {
        assert_eq!(fault(&format!("UPDATE audit SET {set} WHERE id = 3")).id, 3, "{set}");
    }
}

#[test]
fn an_edit_with_a_new_hash_is_noticed_at_the_next_entry() {
    let place = Place::new();
    let store = six(&place);
    let mut forged = all(&store)[2].clone();
    forged.event.object = "test:two".into();
    let hash = crate::audit::chain(&all(&store)[1].hash, 3, forged.revision, &forged.event).unwrap();
    let sql = format!("UPDATE audit SET object = 'test:two', hash = '{hash}' WHERE id = 3");
    place.sqlite().execute_batch(&sql).unwrap();
    let report = store.reader().unwrap().audit_verify().unwrap();
    assert_eq!(report.fault.unwrap().id, 4);
    // The last one has no next; the state row has its hash as well.
    let place = Place::new();
    let store = six(&place);
    let log = all(&store);
    let hash = crate::audit::chain(&log[4].hash, 6, log[5].revision, &event("forged")).unwrap();
    let sql = format!("UPDATE audit SET actor_kind = 'admin_socket', action = 'forged', hash = '{hash}' WHERE id = 6");
    place.sqlite().execute_batch(&sql).unwrap();
    let fault = store.reader().unwrap().audit_verify().unwrap().fault.unwrap();
    assert_eq!(fault.id, 6);
    assert!(fault.what.contains("written last"), "{}", fault.what);
}

#[test]
fn a_deleted_entry_is_missed() {
    for id in 1..=6 {
        let fault = fault(&format!("DELETE FROM audit WHERE id = {id}"));
        assert_eq!(fault.id, id);
        assert!(fault.what.contains("missing"), "{}", fault.what);
    }
    assert_eq!(fault("DELETE FROM audit WHERE id = 3; UPDATE audit SET id = id - 1 WHERE id > 3").id, 3);
    assert_eq!(fault("DELETE FROM audit").id, 1);
}

#[test]
fn a_log_cut_at_its_end_is_not_taken_for_a_shorter_one() {
    let fault = fault("DELETE FROM audit WHERE id > 4");
    assert_eq!(fault.id, 5);
    assert!(fault.what.contains("6 entries were written"), "{}", fault.what);
}

#[test]
fn an_inserted_entry_is_noticed_where_it_is() {
    const COPY: &str =
        "SELECT revision, at, actor_kind, actor_id, action, object, details, hash FROM audit WHERE id = 2";
    assert_eq!(fault(&format!("INSERT INTO audit SELECT 7, * FROM ({COPY})")).id, 7);
    assert_eq!(fault(&format!("INSERT INTO audit SELECT 9, * FROM ({COPY})")).id, 7);
    for id in [0, -3] {
        let fault = fault(&format!("INSERT INTO audit SELECT {id}, * FROM ({COPY})"));
        assert_eq!(fault.id, 0);
        assert!(fault.what.contains("inserted"), "{}", fault.what);
    }
    let shifted = "UPDATE audit SET id = id + 100 WHERE id > 2; UPDATE audit SET id = id - 99 WHERE id > 100";
    assert_eq!(fault(&format!("{shifted}; INSERT INTO audit SELECT 3, * FROM ({COPY})")).id, 3);
}

#[test]
fn reordered_entries_are_noticed_at_the_first_of_them() {
    let swap = "UPDATE audit SET id = 100 WHERE id = 2; UPDATE audit SET id = 2 WHERE id = 4;
        UPDATE audit SET id = 4 WHERE id = 100";
    assert_eq!(fault(swap).id, 2);
}

#[test]
fn an_edited_state_row_is_noticed() {
    assert_eq!(fault("UPDATE state SET audit_entries = 5").id, 6);
    assert_eq!(fault("UPDATE state SET audit_entries = 7").id, 7);
    assert_eq!(fault("UPDATE state SET revision = revision + 1").id, 6);
    assert_eq!(fault("UPDATE state SET revision = revision - 1").id, 6);
    assert_eq!(fault("UPDATE state SET audit_head = 'AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA='").id, 6);
    // One batch is one revision; entries moved to another break their hash, even if the end fits.
    assert_eq!(fault("UPDATE audit SET revision = 4 WHERE id = 5").id, 5);
}

#[test]
fn a_chain_goes_on_from_where_it_was_after_a_restart() {
    let place = Place::new();
    drop(six(&place));
    let mut store = place.store();
    assert_eq!(store.commit(&batch([])).unwrap(), Revision(6));
    let report = store.reader().unwrap().audit_verify().unwrap();
    assert_eq!((report.entries, report.fault), (7, None));
}
