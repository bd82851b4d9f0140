//! Declarations through the API: what each route answers, and what it refuses.

use serde_json::{Value, json};

use super::{Setting, ask, request};
use crate::api::declaration::MAX_DECLARATION;

fn declared(declaration: &Value) -> Value {
    json!({ "declaration": declaration })
}

#[tokio::test]
async fn what_is_exported_is_applied_to_no_effect_and_what_is_planned_comes_true() {
    let setting = Setting::office().await;
    let mut exported = setting.get("/export").await.is(200);
    assert_eq!(exported["groups"], json!({"eng": {"members": ["alice"]}}));
    assert_eq!(exported["policies"], json!([{"subject": "user:alice", "resource": "wiki"}]));
    let wiki = json!({"site": "office", "target": "10.0.0.5", "open": "tcp/80,443 icmp"});
    assert_eq!(exported["resources"], json!({ "wiki": wiki }));
    let before = setting.revision().await;
    let plan = setting.post("/plan", declared(&exported)).await.is(200);
    assert_eq!((&plan["steps"], &plan["access"]), (&json!([]), &json!([])));
    let applied = setting.post("/apply", declared(&exported)).await.is(200);
    assert_eq!((applied["revision"].as_u64(), &applied["steps"]), (Some(before), &json!([])));

    exported["policies"] = json!([{"subject": "group:eng", "resource": "wiki", "ports": "tcp/443"}]);
    let plan = setting.post("/plan", declared(&exported)).await.is(200);
    let change = json!({"change": "lost", "ports": "tcp/80 icmp", "when": null, "until": null});
    let row = json!({
        "group": null, "of": 1, "count": 1, "users": ["alice"], "devices": [], "resources": ["wiki"], "changes": [change],
    });
    assert_eq!(plan["access"], json!([row]));
    assert_eq!(setting.revision().await, before, "a plan changes nothing");
    let apply = json!({"declaration": exported, "revision": plan["revision"]});
    let applied = setting.post("/apply", apply.clone()).await.is(200);
    assert_eq!((applied["revision"].as_u64(), &applied["steps"]), (Some(before + 1), &plan["steps"]));
    setting.post("/apply", apply).await.refused(409, "plan again");
}

#[tokio::test]
async fn what_can_not_be_is_refused_and_changes_nothing() {
    let setting = Setting::office().await;
    let before = setting.revision().await;
    for route in ["/plan", "/apply"] {
        for (declaration, status, why) in [
            (json!({"group": {}}), 400, "unknown field `group`"),
            (json!({"policies": [{"subject": "everyone"}]}), 400, "'subject' and a 'resource'"),
            (json!({"policies": [{"subject": "group:moon", "resource": "wiki"}]}), 404, "no group 'moon'"),
            (json!({"sites": {}}), 409, "still has the resource 'wiki'"),
            (json!({"policies": [{"cedar": "permit (principal"}]}), 422, "line 1"),
        ] {
            setting.post(route, declared(&declaration)).await.refused(status, why);
        }
        setting.post(route, json!({"declaration": {}, "revisoin": 1})).await.refused(400, "revisoin");
        let asked = request("POST", route, Some(declared(&json!({}))));
        ask(&setting.network, asked).await.refused(401, "API key");
        let long = json!({"assertions": [{
            "name": "x".repeat(MAX_DECLARATION), "expect": "deny", "user": "alice", "resource": "wiki",
        }]});
        setting.post(route, declared(&long)).await.is(413);
    }
    let stays_out = json!({"assertions": [{"name": "out", "expect": "deny", "user": "alice", "resource": "wiki"}]});
    setting.post("/plan", declared(&stays_out)).await.is(200);
    setting.post("/apply", declared(&stays_out)).await.refused(409, "'out'");
    assert_eq!(setting.revision().await, before);
}
