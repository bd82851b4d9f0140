//! What the store refuses, it refuses whole and in words.

use postern_model::{audit::AuditEvent, change::Batch};

use super::{
    Place, batch, event,
    records::{change, user_id},
};
use crate::{AuditQuery, Store, StoreError};

fn refused(store: &mut Store, batch: &Batch) -> String {
    let before = (store.load().unwrap(), log(store));
    let error = store.commit(batch).unwrap_err();
    assert!(matches!(error, StoreError::Constraint { .. }), "{error:?}");
    assert_eq!((store.load().unwrap(), log(store)), before);
    error.to_string()
}

fn log(store: &Store) -> Vec<postern_model::audit::AuditEntry> {
    store.reader().unwrap().audit(AuditQuery { after: None, limit: 1000 }).unwrap()
}

#[test]
fn changes_without_an_audit_entry_are_refused() {
    let place = Place::new();
    let mut store = place.store();
    let silent = Batch { audit: vec![], ..batch([change(1, 1, 1)]) };
    assert!(refused(&mut store, &silent).contains("no audit entry"));
}

#[test]
fn a_change_that_fails_takes_the_ones_around_it_along() {
    let place = Place::new();
    let mut store = place.store();
    store.commit(&batch([change(1, 1, 1)])).unwrap();
    // The first is good, the second removes what is not there, the third is good.
    let middle = batch([change(1, 2, 2), change(2, 3, 0), change(1, 4, 4)]);
    let words = refused(&mut store, &middle);
    assert!(words.contains(&user_id(3).to_string()), "{words}");
    store.commit(&batch([change(1, 2, 2), change(1, 4, 4)])).unwrap();
    assert_eq!(store.load().unwrap().users.len(), 3);
}

#[test]
fn what_is_not_there_is_not_removed() {
    let place = Place::new();
    let mut store = place.store();
    for which in [2, 4, 6, 8, 10, 12, 14, 16, 18, 20] {
        refused(&mut store, &batch([change(which, 1, 1)]));
    }
}

#[test]
fn what_others_speak_of_is_not_removed() {
    let place = Place::new();
    let mut store = place.store();
    // User 2 with device 1, site 0 with resource 0, and a membership.
    store.commit(&batch([change(1, 2, 1), change(13, 1, 2), change(3, 0, 1), change(5, 0, 2)])).unwrap();
    store.commit(&batch([change(7, 0, 1), change(9, 0, 3)])).unwrap();
    for removal in [change(2, 2, 0), change(4, 0, 0), change(8, 0, 0)] {
        refused(&mut store, &batch([removal]));
    }
    store.commit(&batch([change(2, 2, 0), change(14, 1, 0), change(6, 0, 2)])).unwrap();
}

#[test]
fn names_and_keys_are_one_of_a_kind() {
    use super::records::{device, resource, token, user};
    use postern_model::change::Change;
    let place = Place::new();
    let mut store = place.store();
    store.commit(&batch([change(1, 0, 1), change(1, 2, 1), change(7, 1, 1)])).unwrap();
    store
        .commit(&batch([
            Change::PutDevice(device(1, 2)),
            Change::PutResource(resource(1, 1)),
            Change::PutToken(token(1, 2)),
        ]))
        .unwrap();
    let (one, other) = (device(1, 2), device(2, 2));
    let same = [
        Change::PutUser(postern_model::record::User { name: user(2, 1).name, ..user(3, 1) }),
        Change::PutDevice(postern_model::record::Device { name: one.name, ..other.clone() }),
        Change::PutDevice(postern_model::record::Device { key: one.key, ..other.clone() }),
        Change::PutDevice(postern_model::record::Device { wireguard: one.wireguard, ..other.clone() }),
        Change::PutDevice(postern_model::record::Device { addr: one.addr, ..other }),
        Change::PutResource(postern_model::record::Resource { name: resource(1, 1).name, ..resource(2, 1) }),
        Change::PutResource(postern_model::record::Resource { aliases: resource(1, 1).aliases, ..resource(2, 1) }),
        Change::PutResource(postern_model::record::Resource { addr: resource(1, 1).addr, ..resource(2, 1) }),
        Change::PutToken(postern_model::record::Token { secret_hash: token(1, 2).secret_hash, ..token(2, 2) }),
    ];
    assert!(!resource(1, 1).aliases.is_empty());
    for change in same {
        refused(&mut store, &batch([change]));
    }
}

#[test]
fn an_error_repeats_no_secret() {
    use super::records::token;
    use postern_model::{change::Change, record::Token};
    let place = Place::new();
    let mut store = place.store();
    store.commit(&batch([change(1, 2, 1), Change::PutToken(token(1, 2))])).unwrap();
    let again = Token { secret_hash: token(1, 2).secret_hash, ..token(2, 2) };
    let words = refused(&mut store, &batch([Change::PutToken(again)]));
    assert!(!words.contains(&token(1, 2).secret_hash.to_string()), "{words}");
}

#[test]
fn a_locked_database_is_said_to_be_locked_and_nothing_is_lost() {
    let place = Place::new();
    let mut store = place.store();
    let other = place.sqlite();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let error = store.commit(&batch([change(1, 1, 1)])).unwrap_err();
    assert!(matches!(error, StoreError::Busy { .. }) && error.to_string().contains("locked"), "{error}");
    other.execute_batch("ROLLBACK").unwrap();
    store.commit(&batch([change(1, 1, 1)])).unwrap();
    assert_eq!(store.load().unwrap().users.len(), 1);
}

#[test]
fn a_batch_of_audit_entries_alone_changes_nothing_else() {
    let place = Place::new();
    let mut store = place.store();
    let before = store.load().unwrap();
    let deny: AuditEvent = event("access.deny");
    store.commit(&Batch { changes: vec![], audit: vec![deny.clone()] }).unwrap();
    assert_eq!(log(&store).last().unwrap().event, deny);
    let after = store.load().unwrap();
    assert_eq!(postern_model::record::World { revision: before.revision, ..after }, before);
}
