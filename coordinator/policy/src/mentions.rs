//! [`mentions`]: whom the clauses of a policy in Cedar speak of, besides whom the policy is for.

use postern_model::{Condition, record::Principal};
use serde_json::Value;

/// The users, groups and devices by whose membership or identity a condition may be answered otherwise.
pub fn mentions(condition: &Condition) -> Vec<Principal> {
    let mut found = Vec::new();
    if let Condition::Cedar { clauses, .. } = condition
        && let Ok(clauses) = serde_json::from_str(clauses)
    {
        look(&clauses, &mut found);
    }
    found
}

fn look(json: &Value, found: &mut Vec<Principal>) {
    match json {
        Value::Object(object) => {
            if let Some(entity) = object.get("__entity") {
                found.extend(principal(entity));
            }
            object.values().for_each(|value| look(value, found));
        }
        Value::Array(list) => list.iter().for_each(|value| look(value, found)),
        _ => {}
    }
}

fn principal(entity: &Value) -> Option<Principal> {
    let id = entity["id"].as_str()?;
    match entity["type"].as_str()? {
        "User" => id.parse().ok().map(Principal::User),
        "Group" => id.parse().ok().map(Principal::Group),
        "Device" => id.parse().ok().map(Principal::Device),
        _ => None,
    }
}
