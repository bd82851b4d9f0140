//! Every change, and what the lists say of it.

use postern_model::Revision;
use postern_wire::{AccessRequest, Hello};
use sha2::Digest as _;

use super::*;
use crate::coordinator::{Caller, Stale};

#[tokio::test]
async fn users_and_groups() {
    let setting = Setting::office().await;
    let alice = setting.find("/users", "name", "alice").await.unwrap();
    assert_eq!((&alice["groups"], &alice["suspended"]), (&json!(["eng"]), &json!(false)));
    assert!(alice["created_at"].as_str().unwrap().ends_with('Z'));

    setting.post("/users", json!({"name": "bob@example.com"})).await.is(201);
    let group = setting.act("PUT", "/groups/eng/members/bob%40example.com").await.is(200);
    assert_eq!(group["members"], json!(["alice", "bob@example.com"]));
    setting.act("PUT", "/groups/eng/members/bob@example.com").await.refused(409, "already");
    let group = setting.act("DELETE", "/groups/eng/members/bob@example.com").await.is(200);
    assert_eq!(group["members"], json!(["alice"]));

    let user = setting.act("POST", "/users/alice/suspend").await.is(200);
    assert_eq!((&user["suspended"], &user["id"]), (&json!(true), &alice["id"]));
    setting.act("POST", "/users/alice/suspend").await.refused(409, "suspended already");
    assert_eq!(setting.act("POST", "/users/alice/resume").await.is(200)["suspended"], false);

    let removed = setting.act("DELETE", "/users/alice").await.is(200);
    assert_eq!(removed, json!({"id": alice["id"], "removed": true}));
    assert_eq!(setting.get("/policies").await.is(200), json!([]), "their policies go with them");
    assert_eq!(setting.get("/groups").await.is(200)[0]["members"], json!([]));
    setting.act("DELETE", "/groups/eng").await.is(200);
    assert_eq!(setting.get("/groups").await.is(200), json!([]));
}

#[tokio::test]
async fn an_edit_touches_what_it_names_and_nothing_else() {
    let setting = Setting::office().await;
    let edit = async |body: Value| ask(&setting.socket, request("PATCH", "/resources/wiki", Some(body))).await;
    let before = setting.find("/resources", "name", "wiki").await.unwrap();
    assert_eq!(before["fqdn"], "wiki.postern.internal");
    let mut expected = before.clone();
    for (field, value) in [
        ("tcp", json!("8000-8100")),
        ("udp", json!("53")),
        ("icmp", json!(false)),
        ("target", json!("wiki.corp.example.com")),
        ("aliases", json!(["wiki.example.com", "w.example.com"])),
        ("aliases", json!([])),
        ("tcp", json!("none")),
    ] {
        expected[field] = value.clone();
        assert_eq!(edit(json!({field: value})).await.is(200), expected);
    }
    let revision = setting.revision().await;
    edit(json!({})).await.refused(422, "nothing would change");
    edit(json!({"udp": "none"})).await.refused(422, "let nothing through");
    edit(json!({"aliases": ["postern.internal"]})).await.refused(409, "zone");
    edit(json!({"tcp": "0", "target": "10.0.0.9"})).await.refused(400, "port list");
    edit(json!({"filter": {}})).await.refused(400, "unknown field");
    assert_eq!(setting.find("/resources", "name", "wiki").await.unwrap(), expected);
    assert_eq!(setting.revision().await, revision);
    setting.act("DELETE", "/resources/wiki").await.is(200);
    edit(json!({"tcp": "80"})).await.refused(404, "resource list");
}

#[tokio::test]
async fn policies_speak_in_names() {
    let setting = Setting::office().await;
    let device = setting.enrol(json!({"user": "alice"}), "laptop", 1).await;
    for subject in ["group:eng".to_owned(), format!("device:{device}")] {
        let made = setting.post("/policies", json!({"subject": subject, "resource": "wiki"})).await.is(201);
        assert_eq!((&made["subject"], &made["resource"]), (&json!(subject), &json!("wiki")));
        setting.post("/policies", json!({"subject": subject, "resource": "wiki"})).await.refused(409, "already");
        setting.act("DELETE", &format!("/policies/{}", made["id"].as_str().unwrap())).await.is(200);
    }
    setting.post("/policies", json!({"subject": "user:bob", "resource": "wiki"})).await.refused(404, "user list");
    setting.post("/policies", json!({"subject": "user:alice", "resource": "x"})).await.refused(404, "resource list");
    setting.post("/policies", json!({"subject": "alice", "resource": "wiki"})).await.refused(400, "user:NAME");
}

#[tokio::test]
async fn a_token_is_shown_once_and_kept_as_a_hash() {
    let setting = Setting::office().await;
    let made = setting.post("/tokens", json!({"user": "alice", "expires_in": "2h", "uses": 3})).await.is(201);
    let token: JoinToken = made["token"].as_str().unwrap().parse().unwrap();
    assert_eq!((token.pin, token.coordinator.to_string()), (PIN, "coordinator.example.com:8443".to_owned()));
    assert_eq!((&made["id"], &made["owner"]), (&json!(token.id.to_string()), &json!("user:alice")));
    let kept = setting.coordinator.read(|core| core.state().tokens[&token.id].clone()).await;
    assert_eq!(kept.secret_hash, hash_secret(&token.secret));
    assert_eq!(kept.created_at.until(kept.expires_at).as_secs(), 7200);

    let listed = setting.find("/tokens", "id", &token.id.to_string()).await.unwrap();
    assert_eq!((&listed["status"], &listed["uses_left"]), (&json!("usable"), &json!(3)));
    assert!(listed.get("token").is_none() && listed.get("secret_hash").is_none(), "{listed}");
    let gone = setting.act("POST", &format!("/tokens/{}/withdraw", token.id)).await.is(200);
    assert_eq!((&gone["withdrawn"], &gone["status"]), (&json!(true), &json!("withdrawn")));

    for (body, status, why) in [
        (json!({}), 400, "either"),
        (json!({"user": "alice", "site": "office"}), 400, "either"),
        (json!({"user": "alice", "expires_in": "soon"}), 400, "1h"),
        (json!({"user": "alice", "expires_in": "0s"}), 422, "--expires"),
        (json!({"user": "alice", "uses": 0}), 422, "--uses"),
        (json!({"user": "alice", "uses": -1}), 400, "invalid value"),
        (json!({"user": "bob"}), 404, "user list"),
        (json!({"site": "moon"}), 404, "site list"),
    ] {
        setting.post("/tokens", body).await.refused(status, why);
    }
    assert_eq!(setting.get("/tokens").await.is(200).as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn devices_and_grants() {
    let setting = Setting::office().await;
    let laptop = setting.enrol(json!({"user": "alice"}), "laptop", 1).await;
    let gateway = setting.enrol(json!({"site": "office"}), "door", 2).await;
    let row = setting.find("/devices", "user", "alice").await.unwrap();
    assert_eq!(row["id"], laptop.to_string());
    assert_eq!((&row["connected"], &row["connected_from"], &row["site"]), (&json!(false), &Value::Null, &Value::Null));
    assert!(row["addr"]["v4"].is_string() && row["addr"]["v6"].is_string(), "{row}");
    assert_eq!(setting.get("/sites").await.is(200)[0]["gateways"], json!(["door"]));

    let hello = Hello {
        instance: [1; 16],
        wireguard_port: 51820,
        candidates: vec![],
        relay: None,
        posture: Posture::default(),
    };
    let from = "192.0.2.9:4000".parse().unwrap();
    setting.coordinator.connect(gateway, 1, hello.clone(), from, std::time::Duration::ZERO).await.unwrap();
    setting.coordinator.connect(laptop, 2, hello, from, std::time::Duration::ZERO).await.unwrap();
    let row = setting.find("/devices", "site", "office").await.unwrap();
    assert_eq!((&row["connected"], &row["connected_from"]), (&json!(true), &json!("192.0.2.9:4000")));

    let wiki: postern_model::ResourceName = "wiki".parse().unwrap();
    let resource = setting.coordinator.read(|core| core.state().resource_named(&wiki).unwrap().id).await;
    let coordinator = setting.coordinator.clone();
    let caller = move |connection| Caller { device: laptop, key: Sha256([1; 32]), connection };
    let asked = coordinator.access(caller(1), AccessRequest { resource, queried: None }).await;
    assert_eq!(asked.unwrap_err(), Stale::Superseded, "not from the connection that has the session");
    let asked = coordinator
        .access(Caller { key: Sha256([9; 32]), ..caller(2) }, AccessRequest { resource, queried: None })
        .await;
    assert_eq!(asked.unwrap_err(), Stale::ShutOut, "not with another key");
    let asking =
        tokio::spawn(async move { coordinator.access(caller(2), AccessRequest { resource, queried: None }).await });
    let grant = loop {
        if let Some(grant) = setting.find("/grants", "device", "laptop").await {
            break grant;
        }
        tokio::task::yield_now().await;
    };
    assert_eq!((&grant["user"], &grant["resource"]), (&json!("alice"), &json!("wiki")));
    assert_eq!((&grant["gateway"], &grant["filter"]["tcp"]), (&json!("door"), &json!("80,443")));
    assert!(setting.find("/policies", "id", grant["policy"].as_str().unwrap()).await.is_some());

    // By name or by id.
    assert_eq!(setting.act("POST", "/devices/laptop/revoke").await.is(200)["revoked"], true);
    assert!(matches!(asking.await.unwrap(), Ok(postern_wire::AccessReply::Denied { .. })));
    let asked = setting.coordinator.access(caller(2), AccessRequest { resource, queried: None }).await;
    assert_eq!(asked.unwrap_err(), Stale::ShutOut, "not once it is revoked");
    assert_eq!(setting.get("/grants").await.is(200), json!([]));
    setting.act("DELETE", &format!("/devices/{laptop}")).await.is(200);
    setting.act("DELETE", "/devices/laptop").await.refused(404, "device list");
    assert!(setting.find("/devices", "user", "alice").await.is_none());
}

#[tokio::test]
async fn anyone_can_verify_the_log() {
    let setting = Setting::office().await;
    let report = setting.get("/audit/verify").await.is(200);
    assert_eq!((&report["ok"], &report["fault"]), (&json!(true), &Value::Null));
    let response = setting.socket.clone().oneshot(request("GET", "/audit?after=0&limit=1000", None)).await.unwrap();
    let text = String::from_utf8(to_bytes(response.into_body(), usize::MAX).await.unwrap().to_vec()).unwrap();
    // By nothing but the text: each entry up to its hash, after the hash before it.
    let entries: Vec<_> = text.trim_matches(['[', ']']).split_inclusive("=\"}").collect();
    let mut head = Sha256([0; 32]);
    for entry in &entries {
        let (sealed, hash) = entry.trim_start_matches(',').rsplit_once(",\"hash\":\"").unwrap();
        let digest = sha2::Sha256::new().chain_update(head.0).chain_update(format!("{sealed}}}")).finalize();
        head = Sha256(digest.into());
        assert_eq!(head.to_string(), hash.trim_end_matches("\"}"), "{entry}");
    }
    assert_eq!(report["head"], head.to_string());
    assert_eq!(report["entries"], entries.len());

    let two = setting.get("/audit?after=1&limit=2").await.is(200);
    assert_eq!(two.as_array().unwrap().iter().map(|it| it["id"].as_u64().unwrap()).collect::<Vec<_>>(), [2, 3]);
    assert_eq!(setting.coordinator.read(|core| core.state().revision).await, Revision(entries.len() as u64));
    for (query, why) in [("limit=0", "from 1"), ("limit=1000000", "100000"), ("after=x", ""), ("before=1", "unknown")] {
        setting.get(&format!("/audit?{query}")).await.refused(400, why);
    }
}

#[tokio::test]
async fn gateways_are_drained_and_undrained() {
    let setting = Setting::office().await;
    setting.post("/sites", json!({"name": "branch"})).await.is(201);
    setting.enrol(json!({"user": "alice"}), "laptop", 1).await;
    let door = setting.enrol(json!({"site": "office"}), "door", 2).await;
    let gate = setting.enrol(json!({"site": "office"}), "gate", 3).await;
    let hello = Hello {
        instance: [1; 16],
        wireguard_port: 51820,
        candidates: vec![],
        relay: None,
        posture: Posture::default(),
    };
    let from = "192.0.2.9:4000".parse().unwrap();
    let connect = async |device, number| {
        setting.coordinator.connect(device, number, hello.clone(), from, std::time::Duration::ZERO).await.unwrap();
    };
    connect(door, 1).await;
    let (drain, undrain) = ("/sites/office/gateways/door/drain", "/sites/office/gateways/door/undrain");
    let before = setting.revision().await;
    setting.act("POST", drain).await.refused(409, "--force");
    setting.act("POST", &format!("{drain}?force=maybe")).await.refused(400, "force");
    setting.act("POST", &format!("{drain}?gently=true")).await.refused(400, "gently");
    setting.act("POST", &format!("{undrain}?force=true")).await.refused(400, "force");
    setting.act("POST", undrain).await.refused(409, "not drained");
    setting.act("POST", "/sites/branch/gateways/door/drain").await.refused(409, "no gateway of site 'branch'");
    setting.act("POST", "/sites/office/gateways/laptop/drain").await.refused(409, "no gateway of site 'office'");
    setting.act("POST", "/sites/moon/gateways/door/drain").await.refused(404, "site list");
    setting.act("POST", "/sites/office/gateways/none/drain").await.refused(404, "device list");
    assert_eq!(setting.revision().await, before);

    connect(gate, 2).await;
    let row = setting.act("POST", drain).await.is(200);
    assert_eq!((&row["name"], &row["drained"], &row["connected"]), (&json!("door"), &json!(true), &json!(true)));
    setting.act("POST", drain).await.refused(409, "drained already");
    let site = setting.find("/sites", "name", "office").await.unwrap();
    assert_eq!((&site["gateways"], &site["drained"]), (&json!(["door", "gate"]), &json!(["door"])));
    setting.act("POST", &format!("/sites/office/gateways/{gate}/drain")).await.refused(409, "--force");
    let row = setting.act("POST", &format!("/sites/office/gateways/{gate}/drain?force=true")).await.is(200);
    assert_eq!(row["drained"], true);
    assert_eq!(setting.act("POST", undrain).await.is(200)["drained"], false);
    assert_eq!(setting.find("/devices", "name", "gate").await.unwrap()["drained"], true);
    let audit = setting.get("/audit?limit=3").await.is(200);
    let actions: Vec<_> = audit.as_array().unwrap().iter().map(|it| it["action"].as_str().unwrap()).collect();
    assert_eq!(actions, ["gateway.drain", "gateway.drain", "gateway.undrain"]);
}
