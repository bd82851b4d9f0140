//! `/activity`: what is asked wrongly, and streams that nobody reads.

use http_body_util::BodyExt as _;
use postern_model::ResourceId;
use postern_wire::{AccessRequest, Hello};

use super::*;
use crate::coordinator::Caller;

impl Setting {
    /// A laptop that asks for so many things that are not there.
    async fn denials(&self, count: u32) {
        let device = self.enrol(json!({"user": "alice", "expires_in": "1h", "uses": 1}), "laptop", 9).await;
        let caller = Caller { device, key: Sha256([9; 32]), connection: 1 };
        let hello = Hello {
            instance: [1; 16],
            wireguard_port: 4000,
            candidates: vec![],
            relay: None,
            posture: Posture { hostname: "laptop".into(), ..Posture::default() },
        };
        let from = "192.0.2.1:4000".parse().unwrap();
        self.coordinator.connect(device, 1, hello, from, std::time::Duration::from_secs(60)).await.unwrap();
        for n in 0..count {
            let mut id = [0; 16];
            id[..4].copy_from_slice(&n.to_be_bytes());
            self.coordinator
                .access(caller, AccessRequest { resource: ResourceId::from_bytes(id), queried: None })
                .await
                .unwrap();
        }
        let activity = &self.coordinator.activity;
        activity.feed(u64::from(count) - 1).await.unwrap().wait().await;
    }

    async fn stream(&self, query: &str) -> axum::response::Response {
        let path = format!("/activity/stream{query}");
        self.socket.clone().oneshot(request("GET", &path, None)).await.unwrap()
    }
}

#[tokio::test]
async fn rows_come_as_asked_and_nonsense_is_refused() {
    let setting = Setting::office().await;
    setting.denials(5).await;
    let ids = |rows: Value| rows.as_array().unwrap().iter().map(|row| row["id"].as_u64().unwrap()).collect::<Vec<_>>();
    assert_eq!(ids(setting.get("/activity").await.is(200)), [1, 2, 3, 4, 5]);
    assert_eq!(ids(setting.get("/activity?limit=2").await.is(200)), [4, 5]);
    assert_eq!(ids(setting.get("/activity?after=1&limit=2&user=alice&kind=deny").await.is(200)), [2, 3]);
    assert_eq!(ids(setting.get("/activity?since=2001-01-01T00:00:00Z&device=laptop").await.is(200)), [1, 2, 3, 4, 5]);
    assert_eq!(ids(setting.get("/activity?until=2001-01-01T00:00:00Z").await.is(200)), [0; 0]);
    assert_eq!(ids(setting.get("/activity?user=nobody").await.is(200)), [0; 0]);
    let row = &setting.get("/activity?limit=1").await.is(200)[0];
    assert_eq!(
        (&row["kind"], &row["device"], &row["reason"]),
        (&json!("deny"), &json!("laptop"), &json!("unknown_resource"))
    );
    setting.get("/activity?limit=0").await.refused(400, "from 1");
    setting.get("/activity?limit=10001").await.refused(400, "10000");
    setting.get("/activity?kind=dance").await.refused(400, "flow_close");
    setting.get("/activity?since=yesterday").await.refused(400, "since");
    setting.get("/activity?usr=alice").await.refused(400, "usr");
    setting.get("/activity/stream?limit=3").await.refused(400, "limit");
}

#[tokio::test]
async fn nobody_without_a_key_sees_it() {
    let setting = Setting::office().await;
    for path in ["/activity", "/activity/stream"] {
        ask(&setting.network, request("GET", path, None)).await.refused(401, "API key");
    }
}

#[tokio::test]
async fn streams_are_few_and_free_again_once_their_readers_leave() {
    let setting = Setting::office().await;
    let mut open = Vec::new();
    for _ in 0..32 {
        let stream = setting.stream("").await;
        assert_eq!((stream.status(), &stream.headers()["postern-after"]), (StatusCode::OK, &"0".parse().unwrap()));
        open.push(stream);
    }
    setting.get("/activity/stream").await.refused(503, "too many streams");
    drop(open);
    while setting.stream("").await.status() != StatusCode::OK {
        tokio::task::yield_now().await;
    }
}

/// Nothing is kept for whoever does not read: it is cut, and can tell that from an end.
#[tokio::test]
async fn whoever_does_not_read_is_cut() {
    let setting = Setting::office().await;
    setting.denials(1700).await;
    let stream = setting.stream("?after=0").await;
    let mut body = stream.into_body();
    // It has a portion in its hands and one on the way; then its place is free again.
    while setting.coordinator.activity.streams_free() < 32 {
        tokio::task::yield_now().await;
    }
    let (mut rows, mut end) = (0, None);
    while let Some(frame) = body.frame().await {
        match frame {
            Ok(frame) => rows += frame.into_data().unwrap().iter().filter(|byte| **byte == b'\n').count(),
            Err(error) => end = Some(error),
        }
    }
    assert!(end.is_some() && rows < 1700, "{rows} rows");
}
