//! Rows as JSON lines at the end of a file, which is opened anew on SIGHUP, so that it can be rotated.

use std::{
    io::{self, Read as _, Seek as _, SeekFrom, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::{Source, Trouble};
use crate::activity::{Activity, line};

/// A file to which rows are appended.
pub(crate) struct FileSink {
    path: PathBuf,
    file: std::fs::File,
    hangup: Signal,
}

impl FileSink {
    /// Opens the file, or makes it (mode 0600).
    ///
    /// # Errors
    /// When it can't be opened.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let file = open(path);
        let file = file.with_context(|| format!("--activity-file {} can't be written", path.display()))?;
        Ok(Self { path: path.to_owned(), file, hangup: signal(SignalKind::hangup())? })
    }

    /// Writes what comes until told to stop.
    ///
    /// # Errors
    /// When the activity can't be read at all.
    pub(crate) async fn run(mut self, activity: Activity, stopping: CancellationToken) -> Result<()> {
        let mut source = Source::from_now(&activity, &stopping).await?;
        let mut trouble = Trouble::default();
        loop {
            tokio::select! {
                more = source.wait() => if !more { return Ok(()) },
                _ = self.hangup.recv() => {
                    self = self.reopen(&mut trouble).await;
                    continue;
                }
            }
            let rows = source.read().await;
            let lines = line::lines(&rows)?;
            let count = rows.len() as u64;
            let (this, written) = self.blocking(move |this| this.file.write_all(&lines)).await;
            self = this;
            if let Err(error) = written {
                source.lose(count, &format!("{} can't be written: {error}", self.path.display()));
                // Which also mends a line that was written by half.
                self = self.reopen(&mut trouble).await;
            }
        }
    }

    /// The file that has the name now; the one before is kept while there is none.
    async fn reopen(self, trouble: &mut Trouble) -> Self {
        let (this, opened) = self.blocking(|this| open(&this.path).map(|file| this.file = file)).await;
        if let Err(error) = opened
            && trouble.is_worth_a_word()
        {
            tracing::warn!(path = %this.path.display(), %error, "the activity file can't be opened anew");
        }
        this
    }

    async fn blocking<R: Send + 'static>(mut self, f: impl FnOnce(&mut Self) -> R + Send + 'static) -> (Self, R) {
        let work = move || {
            let result = f(&mut self);
            (self, result)
        };
        let done = tokio::task::spawn_blocking(work).await;
        done.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))
    }
}

/// Opens for appending, at the beginning of a line.
fn open(path: &Path) -> io::Result<std::fs::File> {
    let mut file = std::fs::OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(path)?;
    // A pipe or a device has no end to look at.
    if file.metadata()?.is_file() && file.seek(SeekFrom::End(0))? > 0 {
        file.seek(SeekFrom::End(-1))?;
        let mut last = [0];
        file.read_exact(&mut last)?;
        if last != *b"\n" {
            file.write_all(b"\n")?;
        }
    }
    Ok(file)
}
