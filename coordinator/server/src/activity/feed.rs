//! [`Feed`]: a place in the activity, from which to read on as rows come. Nothing is kept in memory but one page.

use postern_store::{
    StoreError,
    activity::{ActivityPage, ActivityQuery, ActivityReader, ActivityRow},
};
use tokio::sync::watch;

/// What a feed gives next.
#[derive(Debug, Default)]
pub(crate) struct Portion {
    /// The next rows; may be none when those that came don't fit the filter.
    pub(crate) rows: Vec<ActivityRow>,
    /// Rows that were there once and are not any more. Only counted without a filter.
    pub(crate) missing: u64,
}

/// A place in the activity.
#[derive(Debug)]
pub(crate) struct Feed {
    /// Away while it reads.
    reader: Option<ActivityReader>,
    latest: watch::Receiver<u64>,
    after: u64,
}

impl Feed {
    pub(super) fn new(reader: ActivityReader, latest: watch::Receiver<u64>, after: u64) -> Self {
        Self { reader: Some(reader), latest, after }
    }

    /// After which row it is.
    pub(crate) fn after(&self) -> u64 {
        self.after
    }

    /// How many rows are written beyond this place.
    pub(crate) fn behind(&self) -> u64 {
        self.latest.borrow().saturating_sub(self.after)
    }

    /// Goes on from there.
    pub(crate) fn skip_to(&mut self, after: u64) {
        self.after = after;
    }

    /// Waits until there are rows beyond this place; `false` when none will come any more.
    pub(crate) async fn wait(&mut self) -> bool {
        let after = self.after;
        self.latest.wait_for(|latest| *latest > after).await.is_ok()
    }

    /// Reads what comes next, at most `query.limit`, without waiting for more. Not to be dropped in the middle.
    ///
    /// # Errors
    /// When the file can't be read.
    pub(crate) async fn read(&mut self, query: &ActivityQuery) -> Result<Portion, StoreError> {
        let Some(reader) = self.reader.take() else { return Ok(Portion::default()) };
        let query = ActivityQuery { after: Some(self.after), ..query.clone() };
        let is_whole = query == ActivityQuery { after: query.after, limit: query.limit, ..ActivityQuery::default() };
        let read = move || {
            let page = reader.read(&query);
            (reader, page)
        };
        let done = tokio::task::spawn_blocking(read).await;
        let (reader, page) = done.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()));
        self.reader = Some(reader);
        let ActivityPage { rows, up_to } = page?;
        let passed = up_to.saturating_sub(self.after);
        self.after = up_to.max(self.after);
        let missing = if is_whole { passed.saturating_sub(rows.len() as u64) } else { 0 };
        Ok(Portion { rows, missing })
    }
}
