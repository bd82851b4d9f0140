//! A program's state directory: its user's alone (0700), one program at a time, files written whole or not at all.
//!
//! Coordinator and node each keep a directory of this kind; what is in it is theirs.

use std::{
    fs::{DirBuilder, File, OpenOptions, Permissions, TryLockError},
    io::{self, ErrorKind, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use zeroize::Zeroizing;

const LOCK: &str = "lock";
const PRIVATE_DIR: u32 = 0o700;
const PRIVATE_FILE: u32 = 0o600;

/// Why a state directory can't be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// It can't be made.
    #[error("the state directory {} can't be made", .0.display())]
    Make(PathBuf, #[source] io::Error),
    /// It is there, others may read it, and what is in it does not say that it is a state directory.
    #[error(
        "{} can't be a state directory: it is there already, with something else in it, and open to other users; choose another, or 'chmod 700' it if it is to be one",
        .0.display()
    )]
    Open(PathBuf),
    /// It belongs to someone else.
    #[error("the state directory {} is not this user's", .0.display())]
    Foreign(PathBuf, #[source] io::Error),
    /// Nothing can be written in it.
    #[error("the state directory {} can't be written", .0.display())]
    Write(PathBuf, #[source] io::Error),
    /// Another program has it.
    #[error("another program is running with --state-dir {}: use that one, stop it, or choose another directory", .0.display())]
    InUse(PathBuf),
}

/// An open state directory; no other program can open it until this one is dropped.
#[derive(Debug)]
pub struct StateDir {
    path: PathBuf,
    _lock: File,
}

impl StateDir {
    /// Opens the directory, and makes it (mode 0700) when there is none.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub fn open(path: &Path) -> Result<Self, OpenError> {
        let here = || path.to_owned();
        let made = DirBuilder::new().recursive(true).mode(PRIVATE_DIR).create(path);
        made.map_err(|error| OpenError::Make(here(), error))?;
        let mode = std::fs::metadata(path).map_err(|error| OpenError::Foreign(here(), error))?.permissions().mode();
        if mode & 0o077 != 0 {
            // Not somebody's home or /etc by a slip of the finger.
            let is_empty = std::fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_none());
            if !is_empty && !path.join(LOCK).exists() {
                return Err(OpenError::Open(here()));
            }
            let private = Permissions::from_mode(PRIVATE_DIR);
            std::fs::set_permissions(path, private).map_err(|error| OpenError::Foreign(here(), error))?;
        }
        let lock = OpenOptions::new().write(true).create(true).truncate(false).mode(PRIVATE_FILE).open(path.join(LOCK));
        let lock = lock.map_err(|error| OpenError::Write(here(), error))?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { path: here(), _lock: lock }),
            Err(TryLockError::WouldBlock) => Err(OpenError::InUse(here())),
            Err(TryLockError::Error(error)) => Err(OpenError::Write(here(), error)),
        }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What is in a file of the directory, if there is one. Wiped when dropped.
    ///
    /// # Errors
    /// When it is there and can't be read; with the file's name.
    pub fn read(&self, name: &str) -> io::Result<Option<Zeroizing<String>>> {
        read(&self.path, name)
    }

    /// Writes a file of the directory (mode 0600) as [`write_whole`] does.
    ///
    /// # Errors
    /// When it can't be written; then the file is as it was. With the file's name.
    pub fn write(&self, name: &str, text: &str) -> io::Result<()> {
        write_whole(&self.path.join(name), text)
    }
}

/// What is in a file of a state directory, if there is one, whoever has the directory open. Wiped when dropped.
///
/// # Errors
/// When it is there and can't be read; with the file's name.
pub fn read(dir: &Path, name: &str) -> io::Result<Option<Zeroizing<String>>> {
    let path = dir.join(name);
    match std::fs::read_to_string(&path) {
        Ok(text) => Ok(Some(Zeroizing::new(text))),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(named(&path, "read", &error)),
    }
}

/// Writes a file (mode 0600) whole or not at all; it is on the disk when this returns.
///
/// # Errors
/// When it can't be written; then the file is as it was. With the file's name.
pub fn write_whole(path: &Path, text: &str) -> io::Result<()> {
    let mut new = path.as_os_str().to_owned();
    new.push(".new");
    let write = || {
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(PRIVATE_FILE).open(&new)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        std::fs::rename(&new, path)?;
        path.parent().map_or(Ok(()), |dir| File::open(dir)?.sync_all())
    };
    write().map_err(|error| {
        let _ = std::fs::remove_file(&new);
        named(path, "written", &error)
    })
}

fn named(path: &Path, what: &str, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{} can't be {what}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        std::fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn a_directory_is_private_and_one_programs() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("some/state");
        let state = StateDir::open(&path).unwrap();
        assert_eq!(mode(&path), 0o700);
        assert!(matches!(StateDir::open(&path), Err(OpenError::InUse(_))));
        drop(state);
        // Opened up by someone since: closed again.
        std::fs::set_permissions(&path, Permissions::from_mode(0o755)).unwrap();
        StateDir::open(&path).unwrap();
        assert_eq!(mode(&path), 0o700);
    }

    #[test]
    fn a_directory_of_other_use_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("home");
        std::fs::create_dir(&path).unwrap();
        std::fs::set_permissions(&path, Permissions::from_mode(0o755)).unwrap();
        std::fs::write(path.join("letter"), "dear bob").unwrap();
        assert!(matches!(StateDir::open(&path), Err(OpenError::Open(_))));
        assert_eq!((mode(&path), std::fs::read_dir(&path).unwrap().count()), (0o755, 1));
        std::fs::set_permissions(&path, Permissions::from_mode(0o700)).unwrap();
        StateDir::open(&path).unwrap();
        // One that was made for it, such as by a service manager.
        std::fs::create_dir(dir.path().join("empty")).unwrap();
        StateDir::open(&dir.path().join("empty")).unwrap();
        assert_eq!(mode(&dir.path().join("empty")), 0o700);
    }

    #[test]
    fn files_are_private_and_whole() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::open(&dir.path().join("state")).unwrap();
        assert_eq!(state.read("secret").unwrap(), None);
        state.write("secret", "one").unwrap();
        state.write("secret", "two").unwrap();
        assert_eq!(state.read("secret").unwrap().unwrap().as_str(), "two");
        assert_eq!(mode(&state.path().join("secret")), 0o600);
        std::fs::create_dir(state.path().join("taken")).unwrap();
        let error = state.write("taken", "three").unwrap_err().to_string();
        assert!(error.contains("taken"), "{error}");
        assert!(!state.path().join("taken.new").exists(), "nothing is left behind");
    }
}
