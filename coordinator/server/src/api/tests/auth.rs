//! Who may ask, and every way in which a key must fail.

use postern_model::{ApiKey, SecretBytes};

use super::*;

async fn with_key(setting: &Setting, key: &str) -> Answer {
    let mut request = request("GET", "/users", None);
    request.headers_mut().insert(header::AUTHORIZATION, format!("Bearer {key}").parse().unwrap());
    ask(&setting.network, request).await
}

async fn key(setting: &Setting) -> ApiKey {
    let made = setting.post("/api-keys", json!({"name": "backup"})).await.is(201);
    assert_eq!(made["name"], "backup");
    let key: ApiKey = made["api_key"].as_str().unwrap().parse().unwrap();
    assert_eq!(made["id"], key.id.to_string());
    key
}

#[tokio::test]
async fn a_key_opens_until_it_is_revoked_and_is_named_in_the_log() {
    let setting = Setting::office().await;
    let key = key(&setting).await;
    with_key(&setting, &key.expose()).await.is(200);

    let mut add = request("POST", "/users", Some(json!({"name": "bob"})));
    add.headers_mut().insert(header::AUTHORIZATION, format!("bearer {}", *key.expose()).parse().unwrap());
    ask(&setting.network, add).await.is(201);
    let log = setting.get("/audit?limit=1").await.is(200);
    assert_eq!(log[0]["actor"], json!({"kind": "api_key", "id": key.id.to_string()}));
    assert_eq!(log[0]["action"], "user.add");

    let listed = setting.get("/api-keys").await.is(200);
    assert_eq!(listed[0]["id"], key.id.to_string());
    assert!(listed[0].get("api_key").is_none() && listed[0].get("secret_hash").is_none(), "{listed}");

    setting.act("DELETE", &format!("/api-keys/{}", key.id)).await.is(200);
    with_key(&setting, &key.expose()).await.refused(401, "revoked");
    setting.act("DELETE", &format!("/api-keys/{}", key.id)).await.refused(404, "apikey list");
}

#[tokio::test]
async fn no_key_is_no_entry() {
    let setting = Setting::office().await;
    let before = setting.revision().await;
    for (method, path) in [
        ("GET", "/users"),
        ("GET", "/audit"),
        ("DELETE", "/users/alice"),
        ("POST", "/users/alice/suspend"),
        ("GET", "/nothing-there"),
        ("PUT", "/users"),
    ] {
        let answer = ask(&setting.network, request(method, path, None)).await;
        assert_eq!(answer.headers[header::WWW_AUTHENTICATE], "Bearer realm=\"postern\"");
        answer.refused(401, "API key");
    }
    ask(&setting.network, request("POST", "/users", Some(json!({"name": "mallory"})))).await.is(401);
    assert_eq!(setting.revision().await, before);
}

#[tokio::test]
async fn a_wrong_key_is_no_entry() {
    let setting = Setting::office().await;
    let good = key(&setting).await;
    let secret = |byte: u8| {
        let mut secret = *good.secret.expose();
        secret[31] ^= byte;
        SecretBytes::new(secret)
    };
    let altered = ApiKey { secret: secret(1), ..good.clone() };
    let elsewhere = ApiKey { pin: Sha256([8; 32]), ..good.clone() };
    let unknown = ApiKey { id: postern_model::ApiKeyId::from_bytes([9; 16]), ..good.clone() };
    for wrong in [altered, elsewhere, unknown] {
        let answer = with_key(&setting, &wrong.expose()).await;
        assert!(!answer.body.to_string().contains(&wrong.expose()[20..40]), "the key is not repeated");
        answer.refused(401, "not valid here");
    }
    let text = good.expose();
    let join_token = setting.post("/tokens", json!({"user": "alice"})).await.is(201);
    for wrong in [&text[..text.len() - 1], "postern-key-", "x", "", join_token["token"].as_str().unwrap()] {
        with_key(&setting, wrong).await.is(401);
    }
    with_key(&setting, &good.expose()).await.is(200);
}

#[tokio::test]
async fn a_key_counts_only_as_a_single_bearer() {
    let setting = Setting::office().await;
    let good = key(&setting).await.expose();
    for scheme in ["Basic", "Bearer  ", ""] {
        let mut request = request("GET", "/users", None);
        request.headers_mut().insert(header::AUTHORIZATION, format!("{scheme} {}x", *good).parse().unwrap());
        ask(&setting.network, request).await.is(401);
    }
    let mut twice = request("GET", "/users", None);
    for _ in 0..2 {
        twice.headers_mut().append(header::AUTHORIZATION, format!("Bearer {}", *good).parse().unwrap());
    }
    ask(&setting.network, twice).await.is(401);
    // An actor that did not come from a door is not believed, nor a request without a door.
    let router = super::super::router(setting.coordinator.clone());
    ask(&router, request("GET", "/users", None)).await.is(401);
    let posing = setting.network.clone().layer(Extension(Actor::AdminSocket));
    ask(&posing, request("GET", "/users", None)).await.is(401);
}
