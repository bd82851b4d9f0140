//! The thread, between a lane's news and sessions.

use std::{
    path::Path,
    sync::{
        Arc, Mutex,
        mpsc::{Receiver, channel},
    },
    time::Duration,
};

use postern_dataplane::{FlowReport, clock};
use postern_engine::{CarriedGrant, FlowChange, FlowNews};
use postern_model::{
    Filter, GrantId, Moment, NetworkRanges, Protocol, PublicKey, ResourceId,
    activity::{FlowEnd, FlowEntry, FlowEvent, SpoolId},
};
use postern_wire::NodeMessage;

use super::gateway;
use crate::activity::Recorder;

/// How long anything may take before it counts as broken.
const PATIENCE: Duration = Duration::from_secs(30);

/// What the lane has to tell.
#[derive(Clone, Default)]
struct News(Arc<Mutex<Vec<FlowReport>>>);

impl News {
    fn add(&self, news: Vec<FlowNews>, lost: u64) {
        self.0.lock().unwrap().push(FlowReport { news, has_more: false, lost });
    }

    fn take(&self) -> Option<FlowReport> {
        let mut reports = self.0.lock().unwrap();
        let mut report = if reports.is_empty() { None } else { Some(reports.remove(0)) }?;
        report.has_more = !reports.is_empty();
        Some(report)
    }
}

fn news(flow: u64, change: FlowChange) -> FlowNews {
    let ranges = NetworkRanges::from_random([1; 5]);
    let grant = CarriedGrant {
        grant: GrantId::from_bytes([2; 16]),
        client: gateway(3),
        client_addr: ranges.device(300).unwrap(),
        peer: PublicKey([4; 32]),
        resource: ResourceId::from_bytes([5; 16]),
        resource_addr: ranges.resource(300).unwrap(),
        targets: vec![],
        filter: Filter::default(),
        expires: Moment::default(),
        queried: Some("wiki.example.com".parse().unwrap()),
    };
    FlowNews { flow, at: clock::now(), grant: Arc::new(grant), protocol: Protocol::Tcp, port: 443, change }
}

fn start(dir: &Path, lane: &News) -> Recorder {
    let lane = lane.clone();
    Recorder::start(dir.join("activity"), gateway(1), 1 << 20, move || lane.take()).unwrap()
}

/// A session, and what is said in it.
fn session(recorder: &Recorder) -> Receiver<NodeMessage> {
    let (said, heard) = channel();
    recorder.set_session(Some(Box::new(move |message| drop(said.send(message)))));
    heard
}

fn next(heard: &Receiver<NodeMessage>) -> (SpoolId, Vec<FlowEntry>) {
    match heard.recv_timeout(PATIENCE).expect("a batch") {
        NodeMessage::Activity { spool, entries } => (spool, entries),
        other => panic!("{other:?}"),
    }
}

fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let until = clock::now() + PATIENCE;
    while !is_so() {
        assert!(clock::now() < until, "waited in vain until {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_flow_arrives_with_what_is_known_of_it_and_again_until_it_is_recorded() {
    let (dir, lane) = (tempfile::tempdir().unwrap(), News::default());
    let recorder = start(dir.path(), &lane);
    let heard = session(&recorder);
    let opened_at = clock::now();
    lane.add(vec![news(1, FlowChange::Opened)], 0);
    recorder.handle_news();
    let (spool, first) = next(&heard);
    let [opened] = &first[..] else { panic!("{first:?}") };
    assert_eq!((opened.number, &opened.event, opened.device), (1, &FlowEvent::Opened, gateway(3)));
    assert_eq!((opened.protocol, opened.port), (Protocol::Tcp, 443));
    assert_eq!(opened.queried.as_ref().unwrap().as_str(), "wiki.example.com");
    let now = i64::try_from(crate::clock::since_epoch().as_millis()).unwrap();
    assert!((now - opened.at.unix_millis()).abs() < 60_000, "by the wall clock");

    // Nobody said that it is recorded, and the session ends.
    recorder.set_session(None);
    lane.add(vec![news(1, FlowChange::Closed { opened_at, up: 10, down: 20, end: FlowEnd::Cut })], 5);
    recorder.handle_news();
    wait_until("it is written down", || recorder.counts().waiting() == 2);
    let heard = session(&recorder);
    let (again, both) = next(&heard);
    assert_eq!((again, both.len(), &both[0]), (spool, 2, opened));
    let FlowEvent::Closed { opened_at, up: 10, down: 20, end: FlowEnd::Cut } = both[1].event else {
        panic!("{both:?}")
    };
    assert!((opened_at.unix_millis() - opened.at.unix_millis()).abs() < 60_000);
    assert_eq!((both[1].number, both[1].flow), (2, opened.flow));
    recorder.handle_recorded(spool, 2);
    wait_until("it is recorded", || recorder.counts().waiting() == 0);
    assert_eq!(recorder.counts().dropped(), 5, "what the lane gave up");
    assert!(heard.try_recv().is_err());
}

#[test]
fn what_a_stop_ends_is_told_at_the_next_start() {
    let (dir, lane) = (tempfile::tempdir().unwrap(), News::default());
    let recorder = start(dir.path(), &lane);
    let opened_at = clock::now();
    lane.add(vec![news(1, FlowChange::Opened)], 0);
    lane.add(vec![news(1, FlowChange::Closed { opened_at, up: 1, down: 2, end: FlowEnd::Stopped })], 0);
    // Without a word of them: whoever ends it has no time for that.
    recorder.finish();
    let recorder = start(dir.path(), &lane);
    let (_, entries) = next(&session(&recorder));
    assert_eq!(entries.iter().map(|entry| entry.number).collect::<Vec<_>>(), [1, 2]);
    lane.add(vec![news(1, FlowChange::Opened)], 0);
    recorder.handle_news();
    wait_until("it is written down", || recorder.counts().waiting() == 3);
    let (_, after) = next(&session(&recorder));
    assert_ne!(after[2].flow, after[0].flow, "the lane counts from 1 again, and it is another flow");
}

#[test]
fn a_disk_that_takes_nothing_is_counted_and_tried_again() {
    let (dir, lane) = (tempfile::tempdir().unwrap(), News::default());
    // Something is in the directory's place.
    std::fs::write(dir.path().join("activity"), "").unwrap();
    let recorder = start(dir.path(), &lane);
    let heard = session(&recorder);
    lane.add(vec![news(1, FlowChange::Opened)], 0);
    recorder.handle_news();
    wait_until("it is lost", || recorder.counts().dropped() == 1);
    std::fs::remove_file(dir.path().join("activity")).unwrap();
    wait_until("there is a spool", || dir.path().join("activity/spool.json").exists());
    lane.add(vec![news(2, FlowChange::Opened)], 0);
    recorder.handle_news();
    assert_eq!(next(&heard).1.len(), 1);
}
