//! The handle and its writer, over a real file.

use postern_store::activity::{ActivityKind, ActivityRecord, ActivityRow};
use tokio_util::sync::CancellationToken;

use super::*;

const RETENTION: Retention = Retention { keep: DEFAULT_KEEP, max_size: DEFAULT_MAX_SIZE };

fn denials(count: usize) -> Decisions {
    let now = crate::clock::now();
    Decisions { records: vec![ActivityRecord::new(ActivityKind::Deny, now, now); count], grants: vec![] }
}

async fn rows(activity: &Activity) -> Vec<ActivityRow> {
    let query = ActivityQuery { after: Some(0), limit: u32::MAX, ..ActivityQuery::default() };
    activity.read(query).await.unwrap().rows
}

#[tokio::test]
async fn what_finds_no_room_is_said_to_be_missing() {
    let dir = tempfile::tempdir().unwrap();
    let (activity, writer) = Activity::open(&dir.path().join("activity.db"), RETENTION).unwrap();
    // Nobody writes, and nobody waits for that.
    activity.take(denials(RECORDS + 1000));
    activity.take(denials(7));
    activity.take(denials(5));
    let stopping = CancellationToken::new();
    let mut latest = activity.0.latest.clone();
    let writing = tokio::spawn(writer.run(stopping.clone()));
    let expected = RECORDS as u64 + 1001;
    latest.wait_for(|latest| *latest == expected).await.unwrap();
    let written = rows(&activity).await;
    let last = &written.last().unwrap().record;
    assert_eq!((last.kind, last.times, written.len() as u64), (ActivityKind::Gap, 12, expected));
    activity.take(denials(1));
    latest.wait_for(|latest| *latest == expected + 1).await.unwrap();
    stopping.cancel();
    writing.await.unwrap();
}

#[tokio::test]
async fn what_waits_when_the_coordinator_stops_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let (activity, writer) = Activity::open(&dir.path().join("activity.db"), RETENTION).unwrap();
    for _ in 0..COMMITS {
        activity.take(denials(1));
    }
    let stopping = CancellationToken::new();
    stopping.cancel();
    writer.run(stopping).await;
    assert_eq!(rows(&activity).await.len(), COMMITS);
    assert!(activity.set_cursor("late", 1).await.is_err(), "nobody writes any more");
}

#[tokio::test]
async fn a_feed_says_what_is_gone_before_it_was_read() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("activity.db");
    let (activity, writer) = Activity::open(&path, RETENTION).unwrap();
    tokio::spawn(writer.run(CancellationToken::new()));
    let mut feed = activity.feed(0).await.unwrap();
    activity.take(denials(10));
    activity.0.latest.clone().wait_for(|latest| *latest == 10).await.unwrap();
    rusqlite::Connection::open(&path).unwrap().execute("DELETE FROM activity WHERE id < 5", []).unwrap();
    assert!(feed.wait().await);
    let query = ActivityQuery { limit: 4, ..ActivityQuery::default() };
    let portion = feed.read(&query).await.unwrap();
    assert_eq!((portion.missing, portion.rows.len(), feed.after(), feed.behind()), (4, 4, 8, 2));
    let portion = feed.read(&query).await.unwrap();
    assert_eq!((portion.missing, portion.rows.len(), feed.behind()), (0, 2, 0));
    // What a filter leaves out is not missing.
    feed.skip_to(0);
    let nobody = ActivityQuery { user: Some("nobody".into()), ..query };
    let portion = feed.read(&nobody).await.unwrap();
    assert_eq!((portion.missing, portion.rows.len(), feed.after()), (0, 0, 10));
}
