//! News of changes to resolver files, from inotify(7).
//!
//! What a change is, is up to who reads the file: news may come without one.

use std::{os::fd::OwnedFd, path::PathBuf, time::Duration};

use anyhow::{Context as _, Result};
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use tokio::{io::unix::AsyncFd, sync::mpsc, task::JoinHandle};

/// A program that rewrites a file may do so in steps.
const SETTLE: Duration = Duration::from_millis(250);
/// Two programs that both want the file shall not keep each other, and the machine, busy.
const PAUSE: Duration = Duration::from_secs(1);

/// Tells, a moment after, that any of the files may have changed, until aborted.
pub(crate) fn watch(files: Vec<PathBuf>, news: mpsc::Sender<()>) -> JoinHandle<()> {
    tokio::spawn(async move {
        if let Err(error) = tell(&files, &news).await {
            tracing::warn!(error = format!("{error:#}"), "changes of this machine's resolver will not be noticed");
        }
    })
}

async fn tell(files: &[PathBuf], news: &mpsc::Sender<()>) -> Result<()> {
    let mut watches = start(files)?;
    loop {
        watches.readable().await?.retain_ready();
        tokio::time::sleep(SETTLE).await;
        // A file that was replaced is another one: watched anew, before anybody looks into it, so that nothing is missed.
        watches = start(files)?;
        if news.send(()).await.is_err() {
            return Ok(());
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Watches each file, which may be mounted over, and its directory, where it may be replaced.
fn start(files: &[PathBuf]) -> Result<AsyncFd<OwnedFd>> {
    let watches = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK).context("inotify is not there")?;
    let (of_file, of_dir) =
        (WatchFlags::CLOSE_WRITE | WatchFlags::MODIFY, WatchFlags::MOVED_TO | WatchFlags::CREATE | WatchFlags::DELETE);
    for file in files {
        // Either may be missing; then there is nothing to change in it.
        let _ = inotify::add_watch(&watches, file, of_file);
        if let Some(dir) = file.parent() {
            let _ = inotify::add_watch(&watches, dir, of_dir);
        }
    }
    #[allow(deprecated, reason = "the other way is unsafe; a descriptor that is owned is all that it asks for")]
    Ok(AsyncFd::new(watches)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn writing_replacing_removing_and_making_are_told_of() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("resolv.conf");
        std::fs::write(&path, "one").unwrap();
        let (sender, mut news) = mpsc::channel(1);
        let task = watch(vec![path.clone(), "/nowhere/at/all".into()], sender);
        // The watch begins when the task first runs, and this thread runs it only when it waits.
        tokio::task::yield_now().await;
        let replaced = dir.path().join("new");
        let changes: [&dyn Fn(); 4] = [
            &|| std::fs::write(&path, "two").unwrap(),
            &|| {
                std::fs::write(&replaced, "three").unwrap();
                std::fs::rename(&replaced, &path).unwrap();
            },
            &|| std::fs::remove_file(&path).unwrap(),
            &|| std::fs::write(&path, "four").unwrap(),
        ];
        for change in changes {
            change();
            news.recv().await.unwrap();
        }
        task.abort();
    }
}
