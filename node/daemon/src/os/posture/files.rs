//! Reading what may be anything: only plain files, only so much of them, and never a wait for somebody to write.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read as _, Seek as _, SeekFrom},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    time::UNIX_EPOCH,
};

use rustix::fs::OFlags;

/// Settings and what `/proc` and `/sys` say are shorter than this, in bytes.
const MAX_TEXT: u64 = 1 << 20;

/// The place in the tree under `root` that an absolute path means.
pub(super) fn under(root: &Path, path: impl AsRef<Path>) -> PathBuf {
    let path = path.as_ref();
    root.join(path.strip_prefix("/").unwrap_or(path))
}

/// All of a short text.
///
/// # Errors
/// When it can't be read, is no plain file, or is too long.
pub(super) fn text(path: &Path) -> io::Result<String> {
    let mut bytes = Vec::new();
    open(path)?.take(MAX_TEXT + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_TEXT {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// The end of a log, from the beginning of a line on.
///
/// # Errors
/// As [`text`], but for the length.
pub(super) fn tail(path: &Path) -> io::Result<String> {
    let mut file = open(path)?;
    let skipped = file.metadata()?.len().saturating_sub(MAX_TEXT);
    file.seek(SeekFrom::Start(skipped))?;
    let mut bytes = Vec::new();
    file.take(MAX_TEXT).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes).into_owned();
    Ok(if skipped == 0 { text } else { text.split_once('\n').map(|(_, rest)| rest.to_owned()).unwrap_or_default() })
}

/// A plain file; a pipe would keep whoever opens it waiting.
///
/// # Errors
/// When it can't be opened, or is something else.
pub(super) fn open(path: &Path) -> io::Result<File> {
    let flags = i32::try_from(OFlags::NONBLOCK.bits()).unwrap_or_default();
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("it is no plain file"));
    }
    Ok(file)
}

/// When a file was last written, in seconds since the Unix epoch.
pub(super) fn written_at(path: &Path) -> Option<u64> {
    let modified = std::fs::metadata(path).ok()?.modified().ok()?;
    modified.duration_since(UNIX_EPOCH).ok().map(|since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_files_are_read_and_only_so_much() {
        let dir = tempfile::tempdir().unwrap();
        let long = dir.path().join("long");
        std::fs::write(&long, "0123456789abcde\n".repeat(1 << 17)).unwrap();
        assert!(text(&long).is_err());
        let end = tail(&long).unwrap();
        assert!(end.len() as u64 <= MAX_TEXT && end.lines().all(|line| line == "0123456789abcde"));
        let pipe = dir.path().join("pipe");
        let made = std::process::Command::new("mkfifo").arg(&pipe).status().unwrap();
        assert!(made.success());
        assert!(text(&pipe).is_err() && tail(&pipe).is_err() && text(dir.path()).is_err());
        assert_eq!(under(Path::new("/a"), "/b/c"), Path::new("/a/b/c"));
    }
}
