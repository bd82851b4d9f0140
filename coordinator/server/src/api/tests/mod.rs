//! The real router over a real store in a directory of its own.

mod activity;
mod auth;
mod changes;
mod declaration;
mod faults;

use axum::{
    Extension, Router,
    body::{Body, to_bytes},
    http::{HeaderMap, Request, StatusCode, header},
};
use postern_core::{Core, CoreConfig, EnrolProof};
use postern_model::{
    DeviceId, JoinToken, Posture, PublicKey, SecretBytes, Sha256,
    audit::Actor,
    token::{HostPort, hash_secret},
};
use postern_store::{Store, activity::Retention};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

use crate::{
    activity::{Activity, DEFAULT_KEEP, DEFAULT_MAX_SIZE},
    coordinator::{ApiOrigin, Coordinator},
    serve::first_batch,
};

const PIN: Sha256 = Sha256([7; 32]);

/// A coordinator that nobody but its API speaks to.
struct Setting {
    dir: tempfile::TempDir,
    coordinator: Coordinator,
    /// The API as it is behind the admin socket.
    socket: Router,
    /// The API as it is behind HTTPS.
    network: Router,
}

struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: Value,
}

impl Setting {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("coordinator.db"), &first_batch().unwrap()).unwrap();
        let config = CoreConfig {
            lease: std::time::Duration::from_secs(600),
            ack_timeout: std::time::Duration::from_secs(5),
            requests_per_device: 64,
            psk_master: SecretBytes::new([1; 32]),
            relays: None,
        };
        let core = Core::new(store.load().unwrap(), config);
        let address: HostPort = "coordinator.example.com:8443".parse().unwrap();
        let retention = Retention { keep: DEFAULT_KEEP, max_size: DEFAULT_MAX_SIZE };
        let (activity, writer) = Activity::open(&dir.path().join("activity.db"), retention).unwrap();
        tokio::spawn(writer.run(CancellationToken::new()));
        let coordinator = Coordinator::new(core, store, activity, PIN, address, CancellationToken::new()).unwrap();
        let router = super::router(coordinator.clone());
        let network = router.clone().layer(Extension(ApiOrigin::Network));
        let socket = router.layer(Extension(ApiOrigin::Socket)).layer(Extension(Actor::AdminSocket));
        Self { dir, coordinator, socket, network }
    }

    /// With a site `office`, a group `eng`, a user `alice` in it, and a resource `wiki` that she may reach.
    async fn office() -> Self {
        let setting = Self::new();
        setting.post("/sites", json!({"name": "office"})).await.is(201);
        setting.post("/groups", json!({"name": "eng"})).await.is(201);
        setting.post("/users", json!({"name": "alice", "groups": ["eng"]})).await.is(201);
        let wiki = json!({"name": "wiki", "site": "office", "target": "10.0.0.5", "tcp": "80,443", "icmp": true});
        setting.post("/resources", wiki).await.is(201);
        setting.post("/policies", json!({"subject": "user:alice", "resource": "wiki"})).await.is(201);
        setting
    }

    async fn get(&self, path: &str) -> Answer {
        ask(&self.socket, request("GET", path, None)).await
    }

    async fn post(&self, path: &str, body: Value) -> Answer {
        ask(&self.socket, request("POST", path, Some(body))).await
    }

    async fn act(&self, method: &str, path: &str) -> Answer {
        ask(&self.socket, request(method, path, None)).await
    }

    /// The row of a list whose `field` is `value`.
    async fn find(&self, list: &str, field: &str, value: &str) -> Option<Value> {
        let rows = self.get(list).await.is(200);
        rows.as_array().unwrap().iter().find(|row| row[field] == value).cloned()
    }

    async fn revision(&self) -> u64 {
        self.coordinator.read(|core| core.state().revision.0).await
    }

    /// Enrols a device with a new token for `{"user": …}` or `{"site": …}`.
    async fn enrol(&self, owner: Value, hostname: &str, key: u8) -> DeviceId {
        let made = self.post("/tokens", owner).await.is(201);
        let token: JoinToken = made["token"].as_str().unwrap().parse().unwrap();
        assert_eq!(token.pin, PIN);
        let proof = EnrolProof {
            token: token.id,
            secret_hash: hash_secret(&token.secret),
            device_key: Sha256([key; 32]),
            wireguard: PublicKey([key; 32]),
            posture: Posture { hostname: hostname.into(), ..Posture::default() },
            from: "192.0.2.1:4000".parse().unwrap(),
        };
        self.coordinator.enrol(proof).await.unwrap().unwrap().device
    }
}

impl Answer {
    /// The body, if the status is this one; a refusal's is a problem.
    #[track_caller]
    fn is(self, status: u16) -> Value {
        assert_eq!(self.status.as_u16(), status, "{}", self.body);
        if status >= 400 {
            assert_eq!(self.headers[header::CONTENT_TYPE], "application/problem+json");
            assert_eq!(self.body["status"], status);
            assert!(self.body["title"].is_string(), "{}", self.body);
        }
        assert_eq!(self.headers[header::CACHE_CONTROL], "no-store");
        self.body
    }

    /// Refused with this status, for a reason that says so.
    #[track_caller]
    fn refused(self, status: u16, why: &str) {
        let body = self.is(status);
        assert!(body["detail"].as_str().unwrap().contains(why), "'{why}' is not in {body}");
    }
}

fn request(method: &str, path: &str, body: Option<Value>) -> Request<Body> {
    let request = Request::builder().method(method).uri(format!("{}{path}", super::PREFIX));
    match body {
        None => request.body(Body::empty()),
        Some(body) => request.header(header::CONTENT_TYPE, "application/json").body(Body::from(body.to_string())),
    }
    .unwrap()
}

async fn ask(router: &Router, request: Request<Body>) -> Answer {
    let response = router.clone().oneshot(request).await.unwrap();
    let (status, headers) = (response.status(), response.headers().clone());
    let bytes = to_bytes(response.into_body(), usize::MAX).await.unwrap();
    Answer { status, headers, body: serde_json::from_slice(&bytes).unwrap() }
}
