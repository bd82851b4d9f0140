//! Access activity: what was decided and what flowed, written down, streamed, and handed on.
//!
//! ```text
//! coordinator::transact ─► decisions ─► Activity::decided ─┐ bounded, never waits    ┌─► api: list, stream
//! nodes::activity ───────► claims ────► Activity::record ──┴─► writer ─► activity.db ─┤ feed
//!                                       bounded, waits                                └─► sinks: file, syslog, HTTP
//! ```
//!
//! Whoever reads keeps a place in the file and is told that there is more, so a slow one costs no memory. The audit log is the
//! durable truth of decisions; rows here are written after the commit, and what is on its way is lost in a crash. What
//! gateways tell is not: they keep it until it is on the disk here.
//!
//! - [`Activity`]: the handle; `writer`: the task behind it
//! - `decisions`: what a commit decided, as records; `claims`: what is known of the grants that a gateway tells of
//! - `feed`: reading on as rows come; `line`: a row as JSON; `sinks`: where rows go besides

pub(crate) mod claims;
pub(crate) mod feed;
pub(crate) mod line;
pub(crate) mod sinks;

mod decisions;
#[cfg(test)]
mod tests;
mod writer;

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use postern_core::State;
use postern_model::{Timestamp, change::Batch};
use postern_store::{
    StoreError,
    activity::{ActivityLog, ActivityPage, ActivityQuery, ActivityReader, Arrival, Decisions, Flows, Retention},
};
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
pub(crate) use writer::Writer;

use crate::coordinator::SubmitError;

/// How long rows are kept unless told.
pub const DEFAULT_KEEP: Duration = Duration::from_secs(90 * 24 * 3600);
/// How much room they may take unless told.
pub const DEFAULT_MAX_SIZE: u64 = 1 << 30;

/// Messages of gateways that wait to be written; more wait in their sessions.
const FLOWS: usize = 64;
/// Decisions that wait to be written. One change may be more, and is taken all the same when nothing else waits.
const RECORDS: usize = 65_536;
/// Commits whose decisions wait.
const COMMITS: usize = 8192;
/// Lists that are read at once; more wait.
const LISTS: usize = 4;
/// Streams that are open at once.
const STREAMS: usize = 32;

/// Where activity goes and comes from; clones are the same one.
#[derive(Debug, Clone)]
pub(crate) struct Activity(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    path: PathBuf,
    decisions: mpsc::Sender<Decisions>,
    flows: mpsc::Sender<Job>,
    waiting: Arc<Waiting>,
    latest: watch::Receiver<u64>,
    lists: Semaphore,
    streams: Arc<Semaphore>,
}

/// What is counted between the handle and the writer.
#[derive(Debug, Default)]
struct Waiting {
    /// Records on their way.
    records: AtomicUsize,
    /// Records that found no room, and are not yet said to be missing.
    dropped: AtomicU64,
}

/// Something that the writer answers once it is on the disk.
#[derive(Debug)]
struct Job {
    arrival: Arrival,
    /// With how far the spool is recorded, if it was of a spool.
    done: oneshot::Sender<u64>,
}

/// The writer has stopped: the coordinator ends.
#[derive(Debug, thiserror::Error)]
#[error("the coordinator is shutting down")]
pub(crate) struct Stopped;

impl Activity {
    /// Opens the file. Nothing is written before the [`Writer`] runs.
    ///
    /// # Errors
    /// When the file can't be opened.
    pub(crate) fn open(path: &Path, retention: Retention) -> Result<(Self, Writer), StoreError> {
        let log = ActivityLog::open(path)?;
        let (tell, latest) = watch::channel(log.reader()?.last()?);
        let (decisions, decided) = mpsc::channel(COMMITS);
        let (flows, told) = mpsc::channel(FLOWS);
        let waiting = Arc::<Waiting>::default();
        let writer = Writer::new(log, retention, decided, told, Arc::clone(&waiting), tell);
        let inner = Inner {
            path: path.to_owned(),
            decisions,
            flows,
            waiting,
            latest,
            lists: Semaphore::new(LISTS),
            streams: Arc::new(Semaphore::new(STREAMS)),
        };
        Ok((Self(Arc::new(inner)), writer))
    }

    /// Takes what this batch decided, once it is committed; `state` is from before it. Never waits: what finds no room is
    /// counted, and said to be missing.
    pub(crate) fn decided(&self, state: &State, batch: &Batch, now: Timestamp) {
        self.take(decisions::of(state, batch, now));
    }

    fn take(&self, decided: Decisions) {
        let records = decided.records.len();
        if records == 0 && decided.grants.is_empty() {
            return;
        }
        let Inner { decisions, waiting, .. } = &*self.0;
        // Commits come one after the other, so nobody else adds in between.
        let has_room = waiting.records.load(Ordering::Relaxed) < RECORDS;
        waiting.records.fetch_add(records, Ordering::Relaxed);
        if !has_room || decisions.try_send(decided).is_err() {
            waiting.records.fetch_sub(records, Ordering::Relaxed);
            waiting.dropped.fetch_add(records as u64, Ordering::Relaxed);
        }
    }

    /// Records what a gateway tells, and returns up to which entry its spool is on the disk. Waits for its turn; dropping the
    /// future does not take back what waits already.
    ///
    /// # Errors
    /// When the coordinator stops first.
    pub(crate) async fn record(&self, flows: Flows) -> Result<u64, Stopped> {
        self.submit(Arrival::Flows(flows)).await
    }

    /// Up to which row a receiver has taken all; what there is now, when it has never taken any.
    async fn cursor(&self, receiver: &str) -> anyhow::Result<u64> {
        let (path, name) = (self.0.path.clone(), receiver.to_owned());
        let read = tokio::task::spawn_blocking(move || ActivityReader::open(&path)?.taken(&name)).await??;
        if let Some(up_to) = read {
            return Ok(up_to);
        }
        let latest = self.latest();
        self.set_cursor(receiver, latest).await?;
        Ok(latest)
    }

    /// Keeps how far a receiver has taken the rows.
    async fn set_cursor(&self, receiver: &str, up_to: u64) -> Result<(), Stopped> {
        self.submit(Arrival::Taken { receiver: receiver.to_owned(), up_to }).await.map(drop)
    }

    async fn submit(&self, arrival: Arrival) -> Result<u64, Stopped> {
        let (done, is_done) = oneshot::channel();
        self.0.flows.send(Job { arrival, done }).await.map_err(|_| Stopped)?;
        is_done.await.map_err(|_| Stopped)
    }

    /// Reads one page.
    ///
    /// # Errors
    /// When the file can't be read.
    pub(crate) async fn read(&self, query: ActivityQuery) -> Result<ActivityPage, SubmitError> {
        self.look(move |reader| reader.read(&query)).await
    }

    /// Reads something else, when its turn has come.
    ///
    /// # Errors
    /// When the file can't be read.
    pub(crate) async fn look<R: Send + 'static>(
        &self,
        read: impl FnOnce(&ActivityReader) -> Result<R, StoreError> + Send + 'static,
    ) -> Result<R, SubmitError> {
        let _turn = self.0.lists.acquire().await.map_err(|_| SubmitError::Stopped)?;
        let path = self.0.path.clone();
        let read = move || read(&ActivityReader::open(&path)?);
        Ok(tokio::task::spawn_blocking(read).await.map_err(|_| SubmitError::Stopped)??)
    }

    /// A place in the file from which to read on, after this row. A place for one more stream has to be taken first.
    ///
    /// # Errors
    /// When the file can't be read.
    pub(crate) async fn feed(&self, after: u64) -> Result<feed::Feed, StoreError> {
        let path = self.0.path.clone();
        let opened = tokio::task::spawn_blocking(move || ActivityReader::open(&path)).await;
        let reader = opened.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))?;
        Ok(feed::Feed::new(reader, self.0.latest.clone(), after))
    }

    /// The id of the last row.
    pub(crate) fn latest(&self) -> u64 {
        *self.0.latest.borrow()
    }

    /// A place for one more stream, while there are some; free again when dropped.
    pub(crate) fn stream(&self) -> Option<tokio::sync::OwnedSemaphorePermit> {
        Arc::clone(&self.0.streams).try_acquire_owned().ok()
    }

    #[cfg(test)]
    pub(crate) fn streams_free(&self) -> usize {
        self.0.streams.available_permits()
    }
}
