//! Opening: what is made new, what is continued, and what is refused in words.

use std::{fs, os::unix::fs::PermissionsExt as _};

use postern_model::change::Batch;

use super::{Place, batch, first, records::change};
use crate::{Store, StoreError};

const MIGRATIONS: &[&str] = &[include_str!("../migrations/001_tables.sql")];

fn refused(place: &Place) -> StoreError {
    Store::open(&place.path(), &first()).unwrap_err()
}

#[test]
fn the_first_open_makes_private_files() {
    let place = Place::new();
    let mut store = place.store();
    store.commit(&batch([change(1, 1, 1)])).unwrap();
    let files: Vec<_> = fs::read_dir(place.path().parent().unwrap()).unwrap().map(|file| file.unwrap()).collect();
    assert!(files.len() >= 2, "the write-ahead log is there too: {files:?}");
    for file in files {
        assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600, "{file:?}");
    }
}

#[test]
fn a_file_that_others_could_read_is_made_private() {
    let place = Place::new();
    drop(place.store());
    fs::set_permissions(place.path(), fs::Permissions::from_mode(0o644)).unwrap();
    let _store = place.store();
    assert_eq!(fs::metadata(place.path()).unwrap().permissions().mode() & 0o777, 0o600);
}

#[test]
fn a_second_open_continues_and_makes_nothing_anew() {
    let place = Place::new();
    let mut store = place.store();
    store.commit(&batch([change(1, 1, 1)])).unwrap();
    let before = store.load().unwrap();
    drop(store);
    assert_eq!(place.store().load().unwrap(), before);
}

#[test]
fn a_first_batch_without_a_network_leaves_no_state_to_load() {
    let place = Place::new();
    let store = Store::open(&place.path(), &Batch { changes: vec![], audit: vec![] }).unwrap();
    assert!(matches!(store.load(), Err(StoreError::Corrupt { .. })));
    drop(store);
    place.store().load().unwrap();
}

#[test]
fn a_newer_database_is_refused_and_left_alone() {
    let place = Place::new();
    drop(place.store());
    place.sqlite().pragma_update(None, "user_version", 99).unwrap();
    let error = refused(&place);
    assert!(matches!(error, StoreError::Newer { .. }));
    let words = error.to_string();
    assert!(words.contains("newer version") && words.contains("install"), "{words}");
    let version: u32 = place.sqlite().query_row("PRAGMA user_version", [], |row| row.get(0)).unwrap();
    assert_eq!(version, 99);
}

fn is_damaged(place: &Place) {
    let error = Store::open(&place.path(), &first()).and_then(|store| store.load().map(drop)).unwrap_err();
    assert!(matches!(error, StoreError::Corrupt { .. }), "{error:?}");
    let words = error.to_string();
    assert!(words.contains("damaged") && words.contains("backup"), "{words}");
}

#[test]
fn a_file_that_is_no_database_is_said_to_be_damaged() {
    let place = Place::new();
    let text = "not a database, but long enough for its header to be looked at, which is a hundred bytes at least, so.";
    fs::write(place.path(), text).unwrap();
    is_damaged(&place);
    assert_eq!(fs::read_to_string(place.path()).unwrap(), text, "it is not overwritten");
}

#[test]
fn a_file_with_pages_overwritten_is_said_to_be_damaged() {
    let place = Place::new();
    let mut store = place.store();
    for n in 0..100 {
        store.commit(&batch([change(1, n, 1), change(3, n, 1)])).unwrap();
    }
    drop(store);
    let mut bytes = fs::read(place.path()).unwrap();
    // All but the first page, so that it still looks like a database.
    bytes[4096..].fill(0xa5);
    fs::write(place.path(), bytes).unwrap();
    is_damaged(&place);
}

#[test]
fn records_that_make_no_sense_are_said_to_be_damaged() {
    for sql in [
        "UPDATE users SET name = 'Not A Name'",
        "UPDATE users SET id = 'no id'",
        "UPDATE network SET ula = 'nowhere'",
        "UPDATE network SET next_device_index = -1",
        "UPDATE network SET next_device_index = 5000000000",
        "UPDATE state SET revision = -1",
        "DELETE FROM state",
        "DROP TABLE grants",
        "ALTER TABLE users DROP COLUMN suspended",
    ] {
        let place = Place::new();
        place.store().commit(&batch([change(1, 1, 1)])).unwrap();
        place.sqlite().execute_batch(&format!("PRAGMA foreign_keys = OFF; {sql}")).unwrap();
        let error = Store::open(&place.path(), &first()).and_then(|store| store.load().map(drop)).unwrap_err();
        assert!(matches!(error, StoreError::Corrupt { .. }), "{sql}: {error:?}");
    }
}

#[test]
fn a_path_that_leads_nowhere_is_named() {
    let place = Place::new();
    let path = place.path().join("below/a/file");
    let error = Store::open(&path, &first()).unwrap_err();
    assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
}

/// A released migration is never edited: databases that it made are out there. When this fails, undo the edit and add
/// a new migration.
#[test]
fn released_migrations_are_as_they_were() {
    use sha2::Digest as _;
    let digests: Vec<_> =
        MIGRATIONS.iter().map(|sql| postern_model::Sha256(sha2::Sha256::digest(sql).into()).to_string()).collect();
    assert_eq!(digests, ["7ocIMHGas5DYDsUc5kuQl6HVuywtTFqD1QVZlP/pyBU="]);
}
