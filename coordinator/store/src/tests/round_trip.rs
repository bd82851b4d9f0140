//! What is committed is what is loaded, and what is refused leaves no trace.

use postern_model::{
    change::{Batch, Change},
    record::World,
};
use proptest::prelude::*;

use super::{
    Place, batch, model,
    records::{CHANGES, change},
};
use crate::{AuditQuery, StoreError};

/// One of every record, and what they speak of.
fn everything() -> Batch {
    let records = (0..4).flat_map(|n| [1, 3, 7, 9, 11, 13, 15, 17, 19].map(|which| change(which, n, n)));
    let members = (0..4).map(|n| change(5, n, n + 1));
    batch(records.chain(members).collect::<Vec<_>>())
}

fn load(place: &Place) -> World {
    place.store().load().unwrap()
}

#[test]
fn every_record_is_loaded_as_it_was_committed() {
    let place = Place::new();
    let mut store = place.store();
    let expected = model::after(&store.load().unwrap(), &everything()).unwrap();
    store.commit(&everything()).unwrap();
    assert_eq!(store.load().unwrap(), expected);
    drop(store);
    assert_eq!(load(&place), expected, "also by another process");
    assert_eq!(expected.grants.len(), 4);
    assert!(expected.resources.iter().any(|resource| resource.aliases.len() > 1));
}

#[test]
fn the_order_of_references_in_a_batch_does_not_matter() {
    let place = Place::new();
    let mut store = place.store();
    let mut backwards = everything();
    backwards.changes.reverse();
    let expected = model::after(&store.load().unwrap(), &backwards).unwrap();
    store.commit(&backwards).unwrap();
    assert_eq!(store.load().unwrap(), expected);
}

#[test]
fn a_put_replaces_and_keeps_the_place() {
    let place = Place::new();
    let mut store = place.store();
    store.commit(&everything()).unwrap();
    for which in [1, 3, 7, 9, 11, 13, 15, 17, 19] {
        for n in 0..4 {
            let replace = batch([change(which, n, n + 4)]);
            let expected = model::after(&store.load().unwrap(), &replace).unwrap();
            store.commit(&replace).unwrap();
            assert_eq!(store.load().unwrap(), expected, "{:?}", replace.changes);
        }
    }
}

#[test]
fn whatever_was_put_can_be_removed() {
    let place = Place::new();
    let mut store = place.store();
    let before = store.load().unwrap();
    store.commit(&everything()).unwrap();
    let members = (0..4).map(|n| change(6, n, n + 1));
    let rest = [2, 4, 8, 10, 12, 14, 16, 18, 20].map(|which| (0..4).map(move |n| change(which, n, 0)));
    store.commit(&batch(members.chain(rest.into_iter().flatten()).collect::<Vec<_>>())).unwrap();
    let after = store.load().unwrap();
    assert_eq!(World { revision: before.revision, ..after }, before);
    let aliases: u64 = place.sqlite().query_row("SELECT count(*) FROM resource_aliases", [], |row| row.get(0)).unwrap();
    assert_eq!(aliases, 0);
}

fn batches() -> impl Strategy<Value = Vec<Change>> {
    let one = (0..CHANGES, 0u8..4, 0u8..8).prop_map(|(which, n, kind)| change(which, n, kind));
    prop::collection::vec(one, 1..5)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    /// Invariant: a batch is committed whole and loaded as it was, or refused for a reason and leaves nothing.
    #[test]
    fn the_store_does_what_the_model_does(batches in prop::collection::vec(batches(), 1..40), is_full: bool) {
        let place = Place::new();
        let mut store = place.store();
        if is_full {
            store.commit(&everything()).unwrap();
        }
        let mut world = store.load().unwrap();
        for changes in batches {
            let batch = batch(changes);
            match (store.commit(&batch), model::after(&world, &batch)) {
                (Ok(revision), Some(after)) => {
                    prop_assert_eq!(revision, after.revision);
                    world = after;
                }
                (Err(StoreError::Constraint { .. }), None) => {}
                (done, expected) => prop_assert!(false, "{done:?}, but {expected:?} for {batch:?}"),
            }
            prop_assert_eq!(&store.load().unwrap(), &world);
        }
        drop(store);
        prop_assert_eq!(&load(&place), &world);
        let reader = place.store().reader().unwrap();
        let log = reader.audit(AuditQuery { after: Some(0), limit: 1000 }).unwrap();
        prop_assert_eq!(u64::try_from(log.len()).unwrap(), world.revision.0);
        prop_assert_eq!(reader.audit_verify().unwrap().fault, None);
    }
}
