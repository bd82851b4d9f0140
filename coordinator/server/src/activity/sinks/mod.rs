//! Where rows go besides: a file, a syslog daemon, an HTTP receiver. Each has a [`Source`], a place of its own in the
//! activity; its queue is the table, and whoever falls too far behind gets a `gap` in place of what it lost.
//!
//! File and syslog are told what comes while the coordinator runs, once, as well as that goes. An HTTP receiver is told all, at
//! least once, across restarts: how far it has confirmed is kept beside the rows.

mod file;
mod http;
mod syslog;

use anyhow::Result;
pub(crate) use file::FileSink;
pub(crate) use http::HttpSink;
pub use http::HttpTarget;
use postern_model::Moment;
use postern_store::activity::ActivityQuery;
pub(crate) use syslog::SyslogSink;
pub use syslog::SyslogTarget;
use tokio_util::sync::CancellationToken;

use super::{Activity, feed::Feed, line::ActivityLine};
use crate::clock;

/// Rows that are handed on at once.
const PORTION: u32 = 500;
/// Rows that file and syslog may fall behind.
const BEHIND: u64 = 50_000;
/// Between two words about what goes on going wrong.
const QUIET: std::time::Duration = std::time::Duration::from_secs(60);

/// Rows for one sink.
struct Source {
    feed: Feed,
    stopping: CancellationToken,
    /// How far it may fall behind, if there is a limit.
    behind: Option<u64>,
    lost: Trouble,
    lost_rows: u64,
}

impl Source {
    /// With what comes from now on.
    async fn from_now(activity: &Activity, stopping: &CancellationToken) -> Result<Self> {
        Self::after(activity, activity.latest(), Some(BEHIND), stopping).await
    }

    async fn after(activity: &Activity, after: u64, behind: Option<u64>, stopping: &CancellationToken) -> Result<Self> {
        let feed = activity.feed(after).await?;
        Ok(Self { feed, stopping: stopping.clone(), behind, lost: Trouble::default(), lost_rows: 0 })
    }

    /// Waits until there is something; `false` when it is time to stop. Nothing is lost when the future is dropped.
    async fn wait(&mut self) -> bool {
        tokio::select! {
            () = self.stopping.cancelled() => false,
            more = self.feed.wait() => more,
        }
    }

    /// The next rows, of which there are some after [`Self::wait`]; with a gap in place of those that are not to be had.
    async fn read(&mut self) -> Vec<ActivityLine> {
        let before = self.feed.after();
        let mut missing = 0;
        if let Some(behind) = self.behind.filter(|behind| self.feed.behind() > *behind) {
            missing = self.feed.behind() - behind / 2;
            self.feed.skip_to(before + missing);
        }
        let query = ActivityQuery { limit: PORTION, ..ActivityQuery::default() };
        let rows = match self.feed.read(&query).await {
            Ok(portion) => {
                missing += portion.missing;
                portion.rows
            }
            Err(error) => {
                tracing::error!(%error, "activity can't be read to be handed on");
                tokio::time::sleep(std::time::Duration::from_secs(1)).await;
                Vec::new()
            }
        };
        let mut lines: Vec<_> = rows.into_iter().map(ActivityLine::from).collect();
        if missing > 0 {
            self.lose(missing, "it fell behind what is kept");
            let last = lines.first().map_or(self.feed.after(), |first| first.id.saturating_sub(1));
            lines.insert(0, ActivityLine::gap(last, missing, "fell_behind", clock::now()));
        }
        lines
    }

    /// Counts rows that the sink did not get.
    fn lose(&mut self, rows: u64, why: &str) {
        self.lost_rows += rows;
        if self.lost.is_worth_a_word() {
            tracing::warn!(rows = self.lost_rows, why, "activity was not handed on");
        }
    }

    /// Waits before the next attempt; `false` when it is time to stop.
    async fn pause(&mut self, wait: std::time::Duration) -> bool {
        tokio::select! {
            () = self.stopping.cancelled() => false,
            () = tokio::time::sleep(wait) => true,
        }
    }
}

/// Something that may go wrong again and again, and is said once in a while.
#[derive(Debug, Default)]
struct Trouble(Option<Moment>);

impl Trouble {
    fn is_worth_a_word(&mut self) -> bool {
        let now = clock::moment();
        let is_due = self.0.is_none_or(|said| now.since(said) >= QUIET);
        if is_due {
            self.0 = Some(now);
        }
        is_due
    }
}
