//! `/activity`: what was decided and what flowed. A list, or a stream of JSON lines that goes on as rows come.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::Poll,
    time::Duration,
};

use axum::{
    Json, Router,
    body::{Body, Bytes},
    http::{StatusCode, header},
    response::{IntoResponse as _, Response},
    routing::get,
};
use postern_store::activity::ActivityQuery;
use serde::Deserialize;
use tokio::sync::mpsc;

use super::{answer::Time, auth::Admin, problem::Problem, request::Asked};
use crate::{
    activity::{feed::Feed, line, line::ActivityLine},
    coordinator::{Coordinator, SubmitError},
};

/// How many rows come unless told.
pub(crate) const DEFAULT_LIMIT: u32 = 100;
/// How many rows come at most.
pub(crate) const MAX_LIMIT: u32 = 10_000;

/// The header of a stream that says after which row it begins.
pub(crate) const AFTER: &str = "postern-after";

/// Rows that a stream reads at once.
const PORTION: u32 = 500;
/// How long whoever reads a stream may take for a portion.
const STALL: Duration = if cfg!(test) { Duration::from_millis(200) } else { Duration::from_secs(10) };
/// After so long without a row comes an empty line, so that either end notices when the other is gone.
const HEARTBEAT: Duration = Duration::from_secs(15);
/// What comes within this time is read together.
const GATHER: Duration = Duration::from_millis(50);

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Which {
    user: Option<String>,
    device: Option<String>,
    resource: Option<String>,
    kind: Option<String>,
    since: Option<Time>,
    until: Option<Time>,
    after: Option<u64>,
    limit: Option<u32>,
}

impl Which {
    fn query(self) -> Result<ActivityQuery, Problem> {
        let Self { user, device, resource, kind, since, until, after, limit } = self;
        let limit = limit.unwrap_or(DEFAULT_LIMIT);
        if !(1..=MAX_LIMIT).contains(&limit) {
            return Err(Problem::malformed(format!("'limit' is {limit}; it can be from 1 to {MAX_LIMIT}")));
        }
        let kind = kind.map(|kind| kind.parse()).transpose();
        let kind =
            kind.map_err(|error: postern_store::activity::row::KindError| Problem::malformed(error.to_string()))?;
        let (since, until) = (since.map(|time| time.0), until.map(|time| time.0));
        Ok(ActivityQuery { user, device, resource, kind, since, until, after, limit })
    }
}

pub(super) fn routes() -> Router<Coordinator> {
    Router::new().route("/activity", get(list)).route("/activity/stream", get(stream))
}

async fn list(admin: Admin, Asked(which): Asked<Which>) -> Result<Json<Vec<ActivityLine>>, Problem> {
    let page = admin.coordinator.activity.read(which.query()?).await?;
    Ok(Json(page.rows.into_iter().map(ActivityLine::from).collect()))
}

/// What comes from now on; with `after` or `since`, what there is from there on first. Ends when the client leaves, takes
/// nothing for a while, may not ask any more, or the coordinator stops.
async fn stream(admin: Admin, Asked(which): Asked<Which>) -> Result<Response, Problem> {
    if which.limit.is_some() {
        return Err(Problem::malformed("a stream has no 'limit': it goes on until you leave"));
    }
    let query = ActivityQuery { limit: PORTION, ..which.query()? };
    let activity = &admin.coordinator.activity;
    let busy = || Problem::new(StatusCode::SERVICE_UNAVAILABLE, "too many streams of activity are open: end some");
    let place = activity.stream().ok_or_else(busy)?;
    let after = query.after.unwrap_or_else(|| if query.since.is_some() { 0 } else { activity.latest() });
    let feed = activity.feed(after).await.map_err(SubmitError::from)?;
    let (sender, mut portions) = mpsc::channel::<Bytes>(1);
    let is_over = Arc::new(AtomicBool::new(false));
    let ended = Arc::clone(&is_over);
    tokio::spawn(async move {
        let _place = place;
        if tell(&admin, feed, &query, &sender).await {
            ended.store(true, Ordering::Release);
        }
    });
    let body = futures_util::stream::poll_fn(move |context| match portions.poll_recv(context) {
        Poll::Ready(None) if !is_over.load(Ordering::Acquire) => {
            // Not an end, so that nobody takes a part for the whole.
            is_over.store(true, Ordering::Release);
            Poll::Ready(Some(Err(io::Error::other("the stream was cut"))))
        }
        portion => portion.map(|portion| portion.map(Ok)),
    });
    let begins = [(header::CONTENT_TYPE.as_str(), "application/x-ndjson"), (AFTER, &after.to_string())];
    Ok((begins, Body::from_stream(body)).into_response())
}

/// Tells rows as they come. Whether it has come to an end, and was not cut.
async fn tell(admin: &Admin, mut feed: Feed, query: &ActivityQuery, sender: &mpsc::Sender<Bytes>) -> bool {
    let stopping = admin.coordinator.stopping();
    loop {
        if !admin.is_still_admitted().await {
            return false;
        }
        let read = feed.read(query).await.map_err(anyhow::Error::from);
        let lines = read.and_then(|portion| {
            let rows: Vec<_> = portion.rows.into_iter().map(ActivityLine::from).collect();
            Ok(line::lines(&rows)?)
        });
        let lines = match lines {
            Ok(lines) => lines,
            Err(error) => {
                tracing::error!(error = format!("{error:#}"), "a stream of activity can't go on");
                return false;
            }
        };
        if !lines.is_empty() && sender.send_timeout(lines.into(), STALL).await.is_err() {
            return false;
        }
        if feed.behind() > 0 {
            continue;
        }
        tokio::select! {
            () = stopping.cancelled() => return true,
            () = sender.closed() => return true,
            more = feed.wait() => if !more { return true },
            () = tokio::time::sleep(HEARTBEAT) => {
                if sender.send_timeout(Bytes::from_static(b"\n"), STALL).await.is_err() {
                    return false;
                }
                continue;
            }
        }
        tokio::time::sleep(GATHER).await;
    }
}
