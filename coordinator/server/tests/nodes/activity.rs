//! What gateways tell of flows, and who is believed.

use std::os::unix::fs::PermissionsExt as _;

use postern_model::{GrantId, activity::SpoolId};
use postern_wire::{AccessReply, CoordinatorMessage, NodeMessage, close};
use serde_json::json;

use super::{
    client::{close_code, connect, csr, renewed, session},
    office::{Office, SPOOL, entry, rows, rows_once},
    program::{Running, text},
};

#[tokio::test]
async fn decisions_and_flows_are_recorded_once_and_survive_a_crash() {
    let mut program = Running::start();
    let mut office = Office::open(&program, "hq", 1).await;
    let grant = office.grant().await;
    office.denial(9).await;
    let told = vec![office.opened(grant, 1), office.closed(grant, 2)];
    assert_eq!(office.tell(told.clone()).await, 2);
    // What was acknowledged is on the disk.
    program.serve.kill().unwrap();
    program.serve.wait().unwrap();
    program.restart();
    let flows = rows(&program, "--resource hq-wiki --user hq-alice");
    let kinds: Vec<_> = flows.iter().map(|row| text(row, "kind")).collect();
    assert_eq!(kinds, ["allow", "flow_open", "flow_close"]);
    let (allow, closed) = (&flows[0], &flows[2]);
    assert_eq!((text(allow, "device"), text(allow, "gateway")), ("node2", "node1"));
    assert_eq!((text(allow, "filter"), text(allow, "grant")), ("tcp/443", &*grant.to_string()));
    for field in ["user", "device", "device_id", "resource", "resource_id", "gateway", "grant", "policy"] {
        assert_eq!(closed[field], allow[field], "{field}");
    }
    let expected = json!({"up": 2, "down": 2000, "protocol": "tcp", "port": 443, "reason": "finished", "flow": "1",
        "at": "2023-11-14T22:14:20.000Z", "opened_at": "2023-11-14T22:13:20.000Z", "queried": "wiki.postern.internal"});
    for (field, value) in expected.as_object().unwrap() {
        assert_eq!(&closed[field], value, "{field}");
    }
    let denials = rows(&program, "--kind deny");
    assert_eq!(
        (denials.len(), &denials[0]["user"], text(&denials[0], "reason")),
        (1, &json!("hq-alice"), "unknown_resource")
    );

    // The answer may have been lost: it tells all of it again, and then more.
    let mut office = office.reopen(&program).await;
    let before = rows(&program, "");
    assert_eq!(office.tell(told).await, 2);
    assert_eq!(rows(&program, ""), before, "a replayed batch changes nothing");
    let more = office.opened(grant, 3);
    assert_eq!(office.tell(vec![more]).await, 3);
    assert_eq!(rows(&program, "--kind flow_open").len(), 2);
    let mode = std::fs::metadata(program.state().join("activity.db")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[tokio::test]
async fn each_decision_has_its_kind() {
    let program = Running::start();
    let mut office = Office::open(&program, "hq", 1).await;
    let grant = office.grant().await;
    assert_eq!(office.grant().await, grant, "renewed");
    program.done("resource edit hq-wiki --udp 53");
    program.done("user suspend hq-alice");
    for _ in 0..3 {
        let reply = office.ask(office.resource).await.hear::<AccessReply>().await;
        assert!(matches!(reply, AccessReply::Denied { .. }), "{reply:?}");
    }
    let recorded = rows_once(&program, "", 5).await;
    let said: Vec<_> = recorded.iter().map(|row| (text(row, "kind"), row["filter"].as_str())).collect();
    let (before, after) = (Some("tcp/443"), Some("tcp/443 udp/53"));
    assert_eq!(said, [("allow", before), ("renew", before), ("change", after), ("end", after), ("deny", None)]);
    assert!(recorded.iter().all(|row| row["user"] == "hq-alice" && row["resource"] == "hq-wiki"), "{recorded:?}");
    assert_eq!(text(&recorded[4], "reason"), "user_suspended");
    // Each of them is an entry of the audit log, in the same revision.
    let audit = program.json("audit list --limit 1000");
    let audit: Vec<_> = audit.as_array().unwrap().iter().map(|entry| &entry["revision"]).collect();
    assert!(recorded.iter().all(|row| audit.contains(&&row["revision"])), "{recorded:?}");
}

#[tokio::test]
async fn names_are_those_of_then_and_an_ended_grant_is_remembered() {
    let mut program = Running::start();
    let mut office = Office::open(&program, "hq", 1).await;
    let grant = office.grant().await;
    rows_once(&program, "--kind allow", 1).await;
    program.done("user remove hq-alice");
    program.done("resource remove hq-wiki");
    let ended = rows_once(&program, "--kind end", 1).await;
    assert_eq!(text(&ended[0], "user"), "hq-alice");
    program.serve.kill().unwrap();
    program.serve.wait().unwrap();
    program.restart();
    // What it had spooled while the coordinator was away.
    let connection = connect(program.address(), Some(&office.gateway.credential)).await.unwrap();
    office.told = session(&connection).await;
    let last = office.closed(grant, 1);
    assert_eq!(office.tell(vec![last]).await, 1);
    let closed = &rows(&program, "--kind flow_close")[0];
    assert_eq!(
        (text(closed, "user"), text(closed, "device"), text(closed, "resource")),
        ("hq-alice", "node2", "hq-wiki")
    );
}

#[tokio::test]
async fn a_laptop_s_activity_is_refused() {
    let program = Running::start();
    let mut office = Office::open(&program, "hq", 1).await;
    let grant = office.grant().await;
    let entries = vec![office.opened(grant, 1), office.closed(grant, 2)];
    office.session.say(&NodeMessage::Activity { spool: SPOOL, entries: entries.clone() }).await;
    // It gets no answer, and its session goes on.
    office.session.say(&NodeMessage::RenewCertificate { csr: csr(&office.laptop.credential.key) }).await;
    renewed(&mut office.session).await;
    // What a gateway tells after that is written after it: there is nothing of the laptop's.
    assert_eq!(office.tell(entries).await, 2);
    assert_eq!(rows(&program, "--kind flow_open").len(), 1);
    assert_eq!(text(&rows(&program, "--kind flow_open")[0], "gateway"), "node1");
}

#[tokio::test]
async fn a_gateway_writes_nothing_into_the_log_of_another_site() {
    let program = Running::start();
    let (mut hq, mut lab) = (Office::open(&program, "hq", 1).await, Office::open(&program, "lab", 11).await);
    let (hq_grant, lab_grant) = (hq.grant().await, lab.grant().await);
    let forged = vec![
        entry(hq_grant, hq.laptop.id, hq.resource, 1),
        entry(lab_grant, hq.laptop.id, lab.resource, 2),
        entry(lab_grant, lab.laptop.id, hq.resource, 3),
        entry(GrantId::from_bytes([99; 16]), hq.laptop.id, hq.resource, 4),
        entry(lab_grant, lab.gateway.id, lab.resource, 5),
    ];
    assert_eq!(lab.tell(forged).await, 5, "it need not tell it again");
    assert_eq!(rows(&program, "--kind flow_open"), Vec::<serde_json::Value>::new());
    let honest = lab.opened(lab_grant, 6);
    assert_eq!(lab.tell(vec![honest]).await, 6);
    assert_eq!(text(&rows(&program, "--kind flow_open")[0], "user"), "lab-alice");
    assert!(program.log().contains("never carried"), "{}", program.log());
    // With the same numbers, from its own spool: they are counted apart.
    let own = hq.opened(hq_grant, 1);
    assert_eq!(hq.tell(vec![own]).await, 1);
    assert_eq!(rows(&program, "--user hq-alice --kind flow_open").len(), 1);
}

#[tokio::test]
async fn a_busy_gateway_passes() {
    let program = Running::start();
    let mut office = Office::open(&program, "hq", 1).await;
    let grant = office.grant().await;
    for batch in 0..50 {
        let entries = (1..=100).map(|n| office.closed(grant, batch * 100 + n)).collect();
        assert_eq!(office.tell(entries).await, (batch + 1) * 100);
    }
    let recorded = rows(&program, "--kind flow_close");
    let ups: Vec<_> = recorded.iter().map(|row| row["up"].as_u64().unwrap()).collect();
    assert_eq!(ups, (1..=5000).collect::<Vec<_>>(), "in order");
    // What it could not keep is said.
    let late = office.closed(grant, 5011);
    assert_eq!(office.tell(vec![late]).await, 5011);
    let gap = &rows(&program, "--kind gap")[0];
    assert_eq!((&gap["times"], text(gap, "gateway"), text(gap, "reason")), (&json!(10), "node1", "spool_full"));
}

/// While activity can't be written, decisions are made as ever, gateways keep theirs, and nothing is lost in the end.
#[tokio::test]
async fn a_log_that_can_not_be_written_holds_up_no_decision() {
    let program = Running::start();
    let mut office = Office::open(&program, "hq", 1).await;
    let grant = office.grant().await;
    rows_once(&program, "--kind allow", 1).await;
    let other = rusqlite::Connection::open(program.state().join("activity.db")).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let entries = vec![office.opened(grant, 1)];
    office.told.say(&NodeMessage::Activity { spool: SPOOL, entries }).await;
    for n in 20..25 {
        office.denial(n).await;
        // In the session of the gateway that waits for its answer.
        assert_eq!(office.grant().await, grant);
    }
    assert_eq!(rows(&program, "").len(), 1);
    other.execute_batch("ROLLBACK").unwrap();
    let heard: CoordinatorMessage = office.told.hear().await;
    assert_eq!(heard, CoordinatorMessage::ActivityRecorded { spool: SPOOL, up_to: 1 });
    let recorded = rows_once(&program, "", 12).await;
    let count = |kind| recorded.iter().filter(|row| row["kind"] == kind).count();
    assert_eq!((count("deny"), count("renew"), count("flow_open")), (5, 5, 1), "{recorded:?}");
}

#[tokio::test]
async fn no_gateway_fills_the_disk() {
    const ROOM: u64 = 1 << 20;
    let words = ["--activity-max-size", "1MiB"].map(str::to_owned).to_vec();
    let program = Running::start_with(tempfile::tempdir().unwrap(), words);
    let mut office = Office::open(&program, "hq", 1).await;
    let grant = office.grant().await;
    for batch in 0..150 {
        let entries = (1..=100).map(|n| office.closed(grant, batch * 100 + n)).collect();
        office.tell(entries).await;
    }
    let db = rusqlite::Connection::open(program.state().join("activity.db")).unwrap();
    let pragma = |name: &str| db.pragma_query_value(None, name, |row| row.get::<_, u64>(0)).unwrap();
    let used = || (pragma("page_count") - pragma("freelist_count")) * pragma("page_size");
    for _ in 0..1000 {
        if used() <= ROOM {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    assert!(used() <= ROOM, "{}", used());
    let left = rows(&program, "");
    assert!(left.len() > 500 && left.last().unwrap()["up"] == 15_000, "the newest stay: {} do", left.len());
    assert_eq!(program.json("audit verify")["ok"], true);
}

#[tokio::test]
async fn a_gateway_that_does_not_listen_is_told_to_come_back_and_others_are_served() {
    let program = Running::start();
    let (mut rude, mut polite) = (Office::open(&program, "hq", 1).await, Office::open(&program, "lab", 11).await);
    let (rude_grant, polite_grant) = (rude.grant().await, polite.grant().await);
    let connection = connect(program.address(), Some(&rude.gateway.credential)).await.unwrap();
    let mut told = session(&connection).await;
    for n in 0..2000_u64 {
        if connection.close_reason().is_some() {
            break;
        }
        let spool = SpoolId([u8::try_from(n % 256).unwrap(); 16]);
        told.say(&NodeMessage::Activity { spool, entries: vec![rude.opened(rude_grant, n + 1)] }).await;
    }
    assert_eq!(close_code(&connection).await, close::RETRY);
    let own = polite.opened(polite_grant, 1);
    assert_eq!(polite.tell(vec![own]).await, 1);
}
