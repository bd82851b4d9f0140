//! [`Writer`]: the one task that writes activity: all that waits in one transaction, and then what waited meanwhile.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use postern_model::Timestamp;
use postern_store::{
    StoreError,
    activity::{ActivityKind, ActivityLog, ActivityRecord, Arrival, Decisions, Retention, Tidied, Written},
};
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::MissedTickBehavior,
};
use tokio_util::sync::CancellationToken;

use super::{FLOWS, Job, Waiting};
use crate::clock;

/// Commits whose decisions go into one transaction.
const COMMITS_AT_ONCE: usize = 1024;
/// How often what is old is looked for.
const TIDY: Duration = Duration::from_secs(60);
/// After so many new rows it is looked for at once: nobody fills the disk faster than it is tidied.
const TIDY_AFTER: u64 = 5000;
/// For so many new rows something old goes, which is twice as much.
const TIDY_EACH: u64 = 1000;
/// Between two attempts to write when the disk is full or fails.
const AGAIN: Duration = Duration::from_secs(1);
/// Between two words about what goes on going wrong.
const QUIET: Duration = Duration::from_secs(60);

/// Writes until told to stop.
#[derive(Debug)]
pub(crate) struct Writer {
    log: ActivityLog,
    retention: Retention,
    decisions: mpsc::Receiver<Decisions>,
    flows: mpsc::Receiver<Job>,
    waiting: Arc<Waiting>,
    latest: watch::Sender<u64>,
    /// Rows since it was last tidied.
    fresh: u64,
    /// Entries of gateways that were not taken, and when that was last said.
    refused: u64,
    said: Option<postern_model::Moment>,
}

impl Writer {
    pub(super) fn new(
        log: ActivityLog,
        retention: Retention,
        decisions: mpsc::Receiver<Decisions>,
        flows: mpsc::Receiver<Job>,
        waiting: Arc<Waiting>,
        latest: watch::Sender<u64>,
    ) -> Self {
        Self { log, retention, decisions, flows, waiting, latest, fresh: 0, refused: 0, said: None }
    }

    /// Writes what comes until told to stop, and then what waits.
    pub(crate) async fn run(mut self, stopping: CancellationToken) {
        let mut tidy = tokio::time::interval(TIDY);
        tidy.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let (mut decided, mut told) = (Vec::new(), Vec::new());
            let received = tokio::select! {
                biased;
                () = stopping.cancelled() => break,
                received = self.decisions.recv_many(&mut decided, COMMITS_AT_ONCE) => received,
                received = self.flows.recv_many(&mut told, FLOWS) => received,
                _ = tidy.tick() => {
                    self = self.tidy().await;
                    continue;
                }
                () = std::future::ready(()), if self.fresh >= TIDY_AFTER => {
                    self = self.tidy().await;
                    continue;
                }
            };
            if received == 0 {
                // Nobody is left who could send.
                return;
            }
            self.fill(&mut decided, &mut told);
            self = self.write(decided, told, &stopping).await;
            // More goes than came, for as long as there is too much.
            for _ in 0..=self.fresh / TIDY_EACH {
                if self.fresh < TIDY_AFTER {
                    break;
                }
                self = self.tidy().await;
            }
        }
        loop {
            let (mut decided, mut told) = (Vec::new(), Vec::new());
            self.fill(&mut decided, &mut told);
            if decided.is_empty() && told.is_empty() {
                return;
            }
            self = self.write(decided, told, &stopping).await;
        }
    }

    /// With what waits in the other queue too.
    fn fill(&mut self, decided: &mut Vec<Decisions>, told: &mut Vec<Job>) {
        while decided.len() < COMMITS_AT_ONCE
            && let Ok(more) = self.decisions.try_recv()
        {
            decided.push(more);
        }
        while told.len() < FLOWS
            && let Ok(more) = self.flows.try_recv()
        {
            told.push(more);
        }
    }

    async fn write(mut self, decided: Vec<Decisions>, told: Vec<Job>, stopping: &CancellationToken) -> Self {
        let records: usize = decided.iter().map(|decided| decided.records.len()).sum();
        let mut arrivals: Vec<_> = decided.into_iter().map(Arrival::Decisions).collect();
        let dropped = self.waiting.dropped.swap(0, Ordering::Relaxed);
        if dropped > 0 {
            tracing::warn!(dropped, "too many decisions at once: the activity lacks some, the audit log does not");
            arrivals.push(Arrival::Decisions(missing(dropped, clock::now())));
        }
        // Answered in the order in which they were asked; the decisions came first.
        let (told, waiting): (Vec<_>, Vec<_>) = told.into_iter().map(|job| (job.arrival, job.done)).unzip();
        let is_flows: Vec<_> = told.iter().map(|arrival| matches!(arrival, Arrival::Flows(_))).collect();
        arrivals.extend(told);
        if arrivals.is_empty() {
            return self;
        }
        let arrivals = Arc::new(arrivals);
        let written = loop {
            let (log, now) = (Arc::clone(&arrivals), clock::moment());
            let (this, written) = self.blocking(move |this| this.log.write(&log)).await;
            self = this;
            match written {
                Ok(written) => break Some(written),
                // A fault in what was to be written, which trying again does not mend.
                Err(error @ StoreError::Constraint { .. }) => {
                    tracing::error!(%error, "activity was lost");
                    break None;
                }
                Err(error) => {
                    if self.said.is_none_or(|said| now.since(said) >= QUIET) {
                        self.said = Some(now);
                        tracing::error!(%error, "activity can't be written; trying again, and gateways keep theirs");
                    }
                }
            }
            if stopping.is_cancelled() {
                break None;
            }
            tokio::time::sleep(AGAIN).await;
        };
        self.waiting.records.fetch_sub(records, Ordering::Relaxed);
        if let Some(written) = written {
            self.answer(&written, &is_flows, waiting);
        }
        self
    }

    fn answer(&mut self, written: &Written, is_flows: &[bool], waiting: Vec<oneshot::Sender<u64>>) {
        let mut up_to = written.up_to.iter();
        for (is_flows, done) in is_flows.iter().zip(waiting) {
            // Whoever asked may have left.
            let _ = done.send(if *is_flows { up_to.next().copied().unwrap_or_default() } else { 0 });
        }
        self.fresh += written.rows;
        if written.rows > 0 {
            self.latest.send_replace(written.last);
        }
        if written.refused > 0 {
            self.refused += written.refused;
            let now = clock::moment();
            if self.said.is_none_or(|said| now.since(said) >= QUIET) {
                self.said = Some(now);
                let refused = self.refused;
                tracing::warn!(
                    refused,
                    "gateways told of flows under grants that they never carried; that is not recorded"
                );
            }
        }
    }

    async fn tidy(mut self) -> Self {
        self.fresh = 0;
        let retention = self.retention;
        let (this, tidied) = self.blocking(move |this| this.log.tidy(clock::now(), retention)).await;
        self = this;
        match tidied {
            Ok(Tidied { excess, more, .. }) => {
                if excess > 0 {
                    tracing::debug!(excess, "activity was removed, because --activity-max-size is reached");
                }
                // What comes in meanwhile has its turn first.
                self.fresh = if more { TIDY_AFTER } else { 0 };
            }
            Err(error) => tracing::warn!(%error, "old activity could not be removed"),
        }
        self
    }

    /// Does something that waits for the disk, apart from the runtime's own threads.
    async fn blocking<R: Send + 'static>(mut self, f: impl FnOnce(&mut Self) -> R + Send + 'static) -> (Self, R) {
        let work = move || {
            let result = f(&mut self);
            (self, result)
        };
        let done = tokio::task::spawn_blocking(work).await;
        done.unwrap_or_else(|error| match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // Blocking work is never cancelled once it runs; before that, the runtime is going away.
            Err(_) => std::process::abort(),
        })
    }
}

fn missing(dropped: u64, now: Timestamp) -> Decisions {
    let gap = ActivityRecord {
        reason: Some("too_many_decisions".to_owned()),
        times: dropped,
        ..ActivityRecord::new(ActivityKind::Gap, now, now)
    };
    Decisions { records: vec![gap], grants: Vec::new() }
}
