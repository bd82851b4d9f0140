//! A declaration that takes access away from a node that has it: planned first, then enforced.

use postern_model::DenyReason;
use postern_wire::CoordinatorMessage;
use serde_json::json;

use super::{
    office::Office,
    program::{Running, text},
};

#[tokio::test]
async fn a_plan_names_the_live_grant_and_apply_revokes_it_at_both_ends() {
    let running = Running::start();
    let mut office = Office::open(&running, "hq", 60).await;
    let grant = office.grant().await;
    let file = running.dir.path().join("network.toml");
    std::fs::write(&file, "policies = []\n").unwrap();
    let plan = running.json(&format!("policy plan {}", file.display()));
    let cut = &plan["grants"][0];
    assert_eq!((text(cut, "grant"), text(cut, "user")), (grant.to_string().as_str(), "hq-alice"));
    assert_eq!((text(cut, "resource"), text(cut, "before"), text(cut, "after")), ("hq-wiki", "tcp/443", "nothing"));
    assert_eq!(cut["ends"], json!("no_policy"));
    let told = running.done(&format!("policy plan {}", file.display()));
    assert!(told.contains("hq-alice loses tcp/443 of hq-wiki"), "{told}");
    assert_eq!(running.json("grant list").as_array().unwrap().len(), 1, "a plan cuts nothing");

    // A renewal moves the state's revision, and outdates no plan.
    office.grant().await;
    let revision = plan["revision"].as_u64().unwrap();
    let done = running.json(&format!("policy apply {} --revision {revision}", file.display()));
    assert_eq!(done["applied"]["steps"].as_array().unwrap().len(), 1);
    for node in [&mut office.told, &mut office.session] {
        let reason = loop {
            match node.hear().await {
                CoordinatorMessage::RevokeGrant { grant: ended, reason } if ended == grant => break reason,
                // Among what else it hears.
                _ => {}
            }
        };
        assert_eq!(reason, DenyReason::UnknownResource);
    }
    assert_eq!(running.json("grant list"), json!([]));
}
