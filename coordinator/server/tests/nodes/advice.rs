//! What shadows would have decided, and what nobody uses: from real decisions and what a gateway tells, to the edit.

use postern_model::{DenyReason, ResourceId};
use postern_wire::{AccessReply, CoordinatorMessage};
use serde_json::{Value, json};

use super::{
    office::{Office, rows_once},
    program::{Running, text},
};

async fn refused(office: &Office, resource: ResourceId) -> DenyReason {
    match office.ask(resource).await.hear::<AccessReply>().await {
        AccessReply::Denied { reason } => reason,
        AccessReply::Granted(granted) => panic!("{granted:?}"),
    }
}

fn of<'a>(report: &'a Value, id: &str) -> &'a Value {
    let rows = report["policies"].as_array().unwrap();
    rows.iter().find(|row| row["id"] == *id).unwrap_or_else(|| panic!("{id} is not in {report}"))
}

#[tokio::test]
async fn a_shadow_is_summed_up_and_then_decides() {
    let program = Running::start();
    let mut office = Office::open(&program, "hq", 1).await;
    let grant = office.grant().await;
    program.done("resource add hq-db --site hq --target 10.0.0.6 --tcp 5432");
    let db = text(&program.json("resource list")[0], "id").parse().unwrap();
    let id = |row: Value| text(&row, "id").to_owned();
    let deny = id(program.json("policy deny everyone hq-wiki --shadow"));
    let allow = id(program.json("policy allow user:hq-alice hq-db --shadow"));
    let idle = id(program.json("policy deny user:hq-alice everything --when posture.os==\"Plan9\" --shadow"));
    // The live grant, a renewal, a request; then flows to what would have been denied.
    office.grant().await;
    refused(&office, db).await;
    rows_once(&program, "--kind shadow", 3).await;
    let entries = vec![office.opened(grant, 1), office.opened(grant, 2), office.closed(grant, 3)];
    office.tell(entries).await;

    let report = program.json("policy shadow-report");
    let denial = of(&report, &deny);
    let [difference] = denial["differences"].as_array().unwrap().as_slice() else { panic!("{denial}") };
    assert_eq!((text(difference, "difference"), &difference["times"]), ("would_deny", &json!(2)));
    let counts = ["users", "devices", "resources"].map(|name| difference[name].as_u64().unwrap());
    assert_eq!((counts, &difference["who"], &difference["what"]), ([1; 3], &json!(["hq-alice"]), &json!(["hq-wiki"])));
    assert_eq!((&denial["flows"], &denial["shadow"]), (&json!(2), &json!(true)));
    assert!(text(denial, "summary").contains("2 flows that were opened since would not have been"), "{denial}");
    let opening = of(&report, &allow);
    assert_eq!((&opening["differences"][0]["times"], &opening["flows"]), (&json!(1), &json!(0)));
    assert_eq!(text(&opening["differences"][0], "difference"), "would_allow");
    let nothing = program.done(&format!("policy shadow-report --policy {idle}"));
    assert!(nothing.contains("Nothing would have been different since") && !nothing.contains(&deny), "{nothing}");
    let told = program.done("policy shadow-report --since 1h");
    assert!(told.contains("would_deny: 2 times, 1 users, 1 devices, 1 resources; hq-alice to hq-wiki"), "{told}");
    let row = &rows_once(&program, "--kind shadow", 3).await[0];
    assert_eq!(row["policies"], json!([deny]), "{row}");

    let asked = program.done(&format!("policy enforce {deny} --dry-run"));
    assert!(asked.contains("would end 1 live grants") && asked.contains("Nothing was changed"), "{asked}");
    assert_eq!(program.json("grant list").as_array().unwrap().len(), 1);
    let enforced = program.json(&format!("policy enforce {deny}"));
    assert_eq!(
        (&enforced["enforced"], &enforced["ended"], &enforced["shadow"], text(&enforced, "id")),
        (&json!(true), &json!(1), &json!(false), deny.as_str())
    );
    assert_eq!(program.json("grant list"), json!([]));
    // It may not even know of it any more.
    assert_eq!(refused(&office, office.resource).await, DenyReason::UnknownResource);
    let last = program.json("audit list --limit 1000");
    assert!(last.as_array().unwrap().iter().any(|entry| entry["action"] == "policy.enforce"), "{last}");
    program.fails(&format!("policy enforce {deny}"), 1, "decides already");
    program.fails("policy enforce 0192d3c8-1f6e-7c44-b2a0-5d1c9a7e4f10 --dry-run", 1, "policy list");
    program.fails("policy shadow-report --policy 0192d3c8-1f6e-7c44-b2a0-5d1c9a7e4f10", 1, "policy list");
    program.fails("policy shadow-report --since yesterday", 2, "how long ago");
    // In shadow is what is left of them.
    assert_eq!(program.json("policy shadow-report")["policies"].as_array().unwrap().len(), 2);
}

/// Once it is said since when activity is recorded.
async fn is_recording(program: &Running) {
    for _ in 0..1000 {
        if program.json("policy shadow-report")["recorded_since"].is_string() {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    panic!("nothing is recorded: {}", program.log());
}

#[tokio::test]
async fn what_nobody_uses_is_found_and_what_is_used_stays() {
    let program = Running::start();
    is_recording(&program).await;
    let mut office = Office::open(&program, "hq", 1).await;
    let first = text(&program.json("policy list")[0], "id").to_owned();
    for words in [
        "group add staff",
        "group member add staff hq-alice",
        "user add bob --group staff",
        "user add carol --group staff",
        "resource edit hq-wiki --tcp 22,443",
    ] {
        program.done(words);
    }
    program.done(&format!("policy remove {first}"));
    program.json("policy deny user:carol hq-wiki --when time.hour==3");
    let unused = program.json("policy allow user:carol hq-wiki --until 2099-12-31");
    let broad = program.json("policy allow group:staff hq-wiki --when auth.strength>=1");
    let since = text(&broad, "created_at");
    let grant = office.grant().await;
    rows_once(&program, "--kind allow", 1).await;
    let entries = vec![office.opened(grant, 1), office.closed(grant, 2)];
    office.tell(entries).await;

    let advised = program.json(&format!("policy advise --since {since}"));
    let advice = advised["advice"].as_array().unwrap();
    let about = |policy: &Value| advice.iter().find(|row| row["policy"]["id"] == policy["id"]).unwrap();
    assert_eq!((advice.len(), &advised["looked_at"], &advised["young"]), (2, &json!(2), &json!(0)), "{advised}");
    assert_eq!((&about(&unused)["instead"], text(&about(&unused)["findings"][0], "finding")), (&json!([]), "unused"));
    let narrowed = json!({
        "subject": "user:hq-alice", "resource": "hq-wiki", "ports": "tcp/443", "when": "auth.strength>=1"
    });
    let row = about(&broad);
    assert_eq!((&row["instead"], &row["granted"], &row["flows"]), (&json!([narrowed]), &json!(1), &json!(1)));
    let left = &advised["policies"];
    assert_eq!((left.as_array().unwrap().len(), &left[0]["subject"]), (2, &json!("user:hq-alice")), "{left}");
    assert_eq!(left[1]["effect"], "deny", "{left}");

    // Nothing is said of what is younger, or before the record began; and no file is written then.
    let file = program.dir.path().join("policies.toml");
    let (later, path) = (program.json("policy allow user:bob hq-wiki"), file.display());
    program.fails(&format!("policy advise --out {path}"), 1, "activity is recorded since");
    assert!(!file.exists());
    let told = program.done(&format!("policy advise --since {since} --out {path}"));
    assert!(told.contains("nobody used tcp/22, only tcp/443") && told.contains("Nothing is said of 1"), "{told}");
    assert!(told.contains("of 3 members, only user:hq-alice used it"), "{told}");
    // Carried out, what was used goes on, and nothing else is open.
    let plan = program.json(&format!("policy plan {path}"));
    assert_eq!((plan["steps"].as_array().unwrap().len(), &plan["notes"]), (3, &json!([])), "{plan}");
    let told = plan["access"].to_string();
    assert!(told.contains("\"lost\"") && !told.contains("\"gained\""), "{plan}");
    program.done(&format!("policy apply {path}"));
    let CoordinatorMessage::InstallGrant(narrowed) = office.told.hear().await else { panic!("it is not narrowed") };
    assert_eq!((narrowed.grant, narrowed.filter.to_string()), (grant, "tcp/443".to_owned()));
    assert_eq!(program.json("policy list").as_array().unwrap().len(), 3);
    program.done(&format!("policy remove {}", text(&later, "id")));
    let reach = program.json("who-can hq-wiki");
    let open: Vec<_> =
        reach.as_array().unwrap().iter().map(|row| (text(row, "user"), text(&row["open"], "tcp"))).collect();
    // Of carol only a denial speaks, which lets nobody in.
    assert_eq!(open, [("hq-alice", "443")]);
}
