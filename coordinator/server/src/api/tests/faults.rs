//! What is refused, how, and that nothing of it happens.

use axum::http::Method;
use postern_store::StoreError;

use super::*;
use crate::{api::problem::Problem, coordinator::SubmitError};

#[tokio::test]
async fn what_is_refused_is_not_half_done() {
    let setting = Setting::office().await;
    let before = setting.revision().await;
    let wiki = |with: Value| {
        let mut body = json!({"name": "db", "site": "office", "target": "10.0.0.6", "tcp": "5432"});
        body.as_object_mut().unwrap().extend(with.as_object().unwrap().clone());
        body
    };
    for (path, body, status, why) in [
        ("/users", json!({"name": "alice"}), 409, "already"),
        ("/users", json!({"name": "bob", "groups": ["eng", "moon"]}), 404, "group list"),
        ("/users", json!({"name": "Bob!"}), 400, "lower-case"),
        ("/users", json!({"name": "bob", "admin": true}), 400, "unknown field"),
        ("/users", json!({}), 400, "name"),
        ("/users", json!(["bob", []]), 400, "object"),
        ("/groups", json!({"name": "eng"}), 409, "already"),
        ("/sites", json!({"name": "office"}), 409, "already"),
        ("/sites", json!({"name": 5}), 400, "string"),
        ("/resources", wiki(json!({"name": "wiki"})), 409, "already"),
        ("/resources", wiki(json!({"site": "moon"})), 404, "site list"),
        ("/resources", wiki(json!({"tcp": "none"})), 422, "nothing through"),
        ("/resources", wiki(json!({"target": "0.0.0.0"})), 400, "single host"),
        ("/resources", wiki(json!({"aliases": ["wiki.postern.internal"]})), 409, "wiki"),
        ("/resources", wiki(json!({"aliases": ["a.example.com", "a.example.com"]})), 422, "twice"),
        ("/api-keys", json!({"name": "Not A Label"}), 400, "API key name"),
    ] {
        setting.post(path, body).await.refused(status, why);
    }
    for (method, path, status, why) in [
        ("DELETE", "/users/bob", 404, "user list"),
        ("DELETE", "/users/Bob!", 400, "lower-case"),
        ("DELETE", "/groups/moon", 404, "group list"),
        ("DELETE", "/policies/junk", 400, "not an id"),
        ("DELETE", "/policies/0192d3c8-1f6e-7c44-b2a0-5d1c9a7e4f10", 404, "policy list"),
        ("POST", "/tokens/0192d3c8-1f6e-7c44-b2a0-5d1c9a7e4f10/withdraw", 404, "token list"),
        ("POST", "/devices/0192d3c8-1f6e-7c44-b2a0-5d1c9a7e4f10/revoke", 404, "device list"),
        ("DELETE", "/groups/eng/members/bob", 404, "user list"),
        ("GET", "/moons", 404, "/api/v1/moons"),
        ("GET", "/users?name=alice", 400, "takes no query"),
        ("GET", "/devices?limit=1", 400, "takes no query"),
        ("DELETE", "/users/alice?force=true", 400, "takes no query"),
        ("GET", "/audit?form=csv", 400, "unknown field"),
        ("GET", "/audit/verify?from=1", 400, "unknown field"),
        ("DELETE", "/users", 405, "DELETE"),
        ("POST", "/users", 415, "application/json"),
    ] {
        setting.act(method, path).await.refused(status, why);
    }
    assert_eq!(setting.revision().await, before);
    assert!(setting.find("/users", "name", "bob").await.is_none());
}

#[tokio::test]
async fn a_body_has_to_be_json_and_not_too_long() {
    let setting = Setting::office().await;
    let send = async |body: String| {
        let request = Request::builder().method(Method::POST).uri("/api/v1/users");
        let request = request.header(header::CONTENT_TYPE, "application/json; charset=utf-8");
        ask(&setting.socket, request.body(Body::from(body)).unwrap()).await
    };
    send("{\"name\":".into()).await.refused(400, "EOF");
    send(String::new()).await.refused(400, "EOF");
    send("{\"name\":\"bob\"} x".into()).await.refused(400, "trailing");
    send(format!("{{\"name\":\"{}\"}}", "x".repeat(70_000))).await.is(413);
    send("{\"name\":\"bob\"}".into()).await.is(201);
}

#[tokio::test]
async fn a_change_that_cant_be_recorded_did_not_happen() {
    let setting = Setting::office().await;
    let before = setting.revision().await;
    // Another program holds the database.
    let other = rusqlite::Connection::open(setting.dir.path().join("coordinator.db")).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    setting.post("/users", json!({"name": "bob"})).await.is(503);
    assert_eq!(setting.revision().await, before);
    assert!(setting.find("/users", "name", "bob").await.is_none());
    other.execute_batch("ROLLBACK").unwrap();
    setting.post("/users", json!({"name": "bob"})).await.is(201);
}

#[test]
fn faults_of_the_store_have_their_status() {
    let path = || std::path::PathBuf::from("coordinator.db");
    for (error, status) in [
        (StoreError::Full { doing: "the change", path: path() }, 507),
        (StoreError::Busy { doing: "the change", path: path() }, 503),
        (StoreError::Disk { doing: "the change", path: path(), cause: "I/O".into() }, 503),
        (StoreError::Corrupt { path: path(), what: "junk".into() }, 500),
    ] {
        let detail = error.to_string();
        let problem = Problem::from(SubmitError::Fault(error));
        assert_eq!((problem.status, problem.detail), (status, detail));
    }
    assert_eq!(Problem::from(SubmitError::Stopped).status, 503);
}
