//! A full disk, a real one: a small tmpfs in a mount namespace of its own.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use super::{Place, batch, event, first, records};
use crate::{Store, StoreError};
use postern_model::change::Batch;

const PATH: &str = "POSTERN_STORE_TEST_DISK";

/// Fills what is left of the disk.
fn fill(disk: &Path) -> PathBuf {
    let path = disk.join("filler");
    let mut size = 1 << 20;
    let mut bytes: Vec<u8> = Vec::new();
    while size > 0 {
        let longer = vec![0; bytes.len() + size];
        // Writing replaces the file, so a failed attempt leaves it cut; the next one is shorter.
        if fs::write(&path, &longer).is_ok() { bytes = longer } else { size /= 2 }
    }
    fs::write(&path, &bytes).ok();
    path
}

/// The child, inside the namespace.
#[test]
#[ignore = "is started by the test below, with a small disk"]
fn fills_the_disk() {
    let disk = PathBuf::from(std::env::var_os(PATH).expect("where the disk is"));
    let path = disk.join("state.db");
    let mut store = Store::open(&path, &first()).unwrap();
    let filler = fill(&disk);
    let mut refusals = 0;
    let mut before = store.load().unwrap();
    // What the log has allocated already may take a few commits.
    for n in 0..200 {
        let mut long = event("user.add");
        long.details.push(("text".into(), "x".repeat(20_000)));
        let batch = Batch { audit: vec![long], ..batch([records::change(1, n, 1)]) };
        match store.commit(&batch) {
            Ok(revision) => {
                before = store.load().unwrap();
                assert_eq!(before.revision, revision);
            }
            Err(error) => {
                assert!(matches!(error, StoreError::Full { .. }), "{error:?}");
                let words = error.to_string();
                assert!(words.contains("disk is full") && words.contains("free some space"), "{words}");
                assert_eq!(store.load().unwrap(), before, "a refused change left something");
                refusals += 1;
            }
        }
    }
    assert!(refusals > 100, "the disk was not full: {refusals}");
    assert_eq!(store.reader().unwrap().audit_verify().unwrap().fault, None);
    drop(store);
    let store = Store::open(&path, &first());
    assert!(store.is_ok_and(|store| store.load().unwrap() == before), "it opens on a full disk, and holds what it did");

    fs::remove_file(filler).unwrap();
    let mut store = Store::open(&path, &first()).unwrap();
    assert_eq!(store.load().unwrap(), before);
    store.commit(&batch([records::change(1, 250, 1)])).unwrap();
    assert_eq!(store.reader().unwrap().audit_verify().unwrap().fault, None);
}

#[test]
fn a_full_disk_refuses_changes_and_loses_nothing() {
    let place = Place::new();
    let disk = place.path();
    fs::create_dir(&disk).unwrap();
    let script = r#"mount -t tmpfs -o size=512k,mode=0700 tmpfs "$1" && shift && exec "$@""#;
    let child = Command::new("unshare")
        .args(["--user", "--map-root-user", "--mount", "sh", "-c", script, "sh"])
        .args([disk.as_os_str(), std::env::current_exe().unwrap().as_os_str()])
        .args(["--ignored", "--exact", "--nocapture", "tests::disk::fills_the_disk"])
        .env(PATH, &disk)
        .output()
        .expect("'unshare' of util-linux is installed");
    let output = String::from_utf8_lossy(&child.stdout) + String::from_utf8_lossy(&child.stderr);
    assert!(child.status.success() && output.contains("1 passed"), "{output}");
}
