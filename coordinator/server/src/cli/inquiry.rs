//! `change`, `explain` and `who-can`: their words, what they ask, and how the answers are told.

use clap::{Args, Subcommand};
use postern_model::ResourceName;

use super::{
    plan::{Plan, get, path, table, told},
    render::{self, columns, maybe},
};
use crate::api::{
    changes::ChangeRow,
    inquiry::{ExplanationRow, Port, ReachRow, TestRow},
};

#[derive(Debug, Subcommand)]
pub(super) enum ChangeWords {
    /// List the latest changes, with what they took away and where that is enforced.
    List,
    /// Show what a change has come to: who has acknowledged it, and how soon.
    Show {
        /// The revision, as 'change list' and the audit log show it, or last.
        #[arg(default_value = "last")]
        revision: String,
    },
}

#[derive(Debug, Args)]
pub(super) struct ExplainWords {
    /// A user or a device, by name; user:NAME or device:ID where both have that name.
    who: String,
    /// The resource, like wiki, wiki:443 or dns:udp/53.
    #[arg(value_name = "RESOURCE[:PORT]", value_parser = resource)]
    what: (ResourceName, Option<String>),
}

#[derive(Debug, Args)]
pub(super) struct WhoCanWords {
    /// The resource, like wiki, wiki:443 or dns:udp/53.
    #[arg(value_name = "RESOURCE[:PORT]", value_parser = resource)]
    what: (ResourceName, Option<String>),
}

fn resource(text: &str) -> Result<(ResourceName, Option<String>), String> {
    let (name, port) = text.split_once(':').map_or((text, None), |(name, port)| (name, Some(port)));
    if let Some(port) = port {
        port.parse::<Port>()?;
    }
    Ok((name.parse().map_err(|error: postern_model::name::NameError| error.to_string())?, port.map(str::to_owned)))
}

pub(super) fn change(words: ChangeWords) -> Plan {
    match words {
        ChangeWords::List => get("/changes", table(changes)),
        ChangeWords::Show { revision } => get(&path(&["changes", &revision]), told(|row| change_shown(&row))),
    }
}

pub(super) fn explain(ExplainWords { who, what }: ExplainWords) -> Plan {
    // The query takes what a path takes, after its slash.
    let who = path(&[&who]).trim_start_matches('/').to_owned();
    get(&format!("/explain?who={who}&{}", query(&what)), table(explanations))
}

pub(super) fn who_can(WhoCanWords { what }: WhoCanWords) -> Plan {
    get(&format!("/who-can?{}", query(&what)), table(reaches))
}

fn query((resource, port): &(ResourceName, Option<String>)) -> String {
    let port = port.as_ref().map(|port| format!("&port={}", port.replace('/', "%2F"))).unwrap_or_default();
    format!("resource={resource}{port}")
}

fn millis(millis: Option<f64>) -> String {
    millis.map_or_else(|| "-".to_owned(), |millis| format!("{millis} ms"))
}

fn changes(rows: &[ChangeRow]) -> String {
    let head = ["REVISION", "TIME", "WHAT", "REVOKED", "NARROWED", "CUT", "ENFORCED", "P99"];
    columns(
        rows,
        "Nothing was changed since the coordinator started; what earlier changes came to is in the audit log.",
        &head,
        |row| {
            vec![
                row.revision.to_string(),
                row.at.short(),
                match (row.what.first(), row.what.len() + row.more) {
                    (None, _) => "-".to_owned(),
                    (Some(first), 1) => first.clone(),
                    (Some(first), count) => format!("{first} (and {} more)", count - 1),
                },
                row.revoked.to_string(),
                row.narrowed.to_string(),
                row.cut.to_string(),
                format!("{} of {}", row.enforced, row.nodes),
                millis(row.p99_ms),
            ]
        },
    )
}

fn change_shown(row: &ChangeRow) -> String {
    let mut what = row.what.clone();
    what.extend((row.more > 0).then(|| format!("{} more", row.more)));
    let mut lines = vec![format!("Change {} of {}: {}", row.revision, row.at.short(), render::list(&what))];
    lines.push(format!(
        "Decided {} anew: {} revoked, {} narrowed. Cut {}.",
        counted(row.redecided as u64, "grant"),
        row.revoked,
        row.narrowed,
        counted(row.cut, "open connection")
    ));
    if row.nodes == 0 {
        lines.push("No gateway had anything to enforce.".to_owned());
        return lines.join("\n");
    }
    let over = row.enforced - row.acknowledged.min(row.enforced);
    let over = if over > 0 { format!(" ({over} by the end of its leases)") } else { String::new() };
    lines.push(format!("Enforced on {} of {} gateways{over}.", row.enforced, row.nodes));
    if row.p50_ms.is_some() {
        lines.push(format!(
            "From commit to acknowledgement (of those within 30 s): p50 {}, p99 {}.",
            millis(row.p50_ms),
            millis(row.p99_ms)
        ));
    }
    for missing in &row.missing {
        let state = if missing.offline { "is offline" } else { "has not acknowledged" };
        let until = maybe(missing.until.map(super::super::api::answer::Time::short).as_ref());
        let (gateway, pending) = (&missing.gateway, counted(missing.pending as u64, "grant"));
        lines.push(format!("{gateway} {state}: {pending} there will have ended with the lease by {until}."));
    }
    lines.join("\n")
}

/// `1 grant`, `2 grants`.
fn counted(count: u64, thing: &str) -> String {
    format!("{count} {thing}{}", if count == 1 { "" } else { "s" })
}

fn explanations(rows: &[ExplanationRow]) -> String {
    rows.iter().map(explanation).collect::<Vec<_>>().join("\n\n")
}

fn explanation(row: &ExplanationRow) -> String {
    let who = match &row.user {
        Some(user) => format!("{user} on {}", row.device),
        None => row.device.clone(),
    };
    let mut lines = vec![match (row.allowed, &row.because) {
        (true, _) => format!("Allowed: {who} may reach {} on {}.", row.resource, row.open),
        (false, Some(because)) => format!("Denied: {who} may not reach {}: {because}.", row.resource),
        (false, None) => format!("Denied: {who} may reach {} on {}, and not on that port.", row.resource, row.open),
    }];
    for policy in &row.policies {
        let mut words = vec![format!("{} {} {}", policy.effect, policy.subject, policy.resource)];
        words.push(format!("on {}", policy.ports));
        words.extend(policy.until.iter().map(|until| format!("until {until}")));
        words.extend(policy.shadow.then(|| "(shadow)".to_owned()));
        let state = if policy.current { policy.condition.as_str() } else { "over" };
        let by = if row.policy == Some(policy.id) { ", and allows it" } else { "" };
        lines.push(format!("  policy {}: {}: {state}{by}", policy.id, words.join(" ")));
        lines.extend(policy.tests.iter().map(|test| format!("    {}", test_line(test))));
        lines.extend(policy.cedar.iter().map(|cedar| format!("    {}", cedar.replace('\n', "\n    "))));
    }
    if !row.fix.is_empty() {
        lines.push("What would change that:".to_owned());
        lines.extend(row.fix.iter().map(|test| format!("  {}", test_line(test))));
    }
    lines.join("\n")
}

fn test_line(test: &TestRow) -> String {
    let hint = test.hint.as_ref().map(|hint| format!(" ({hint})")).unwrap_or_default();
    format!("{}: {}{hint}", test.test, test.answer)
}

fn reaches(rows: &[ReachRow]) -> String {
    columns(rows, "Nobody can reach it.", &["USER", "DEVICE", "OPEN NOW", "WHY NOT"], |row| {
        let why = match (&row.device, row.reason) {
            (None, _) => "has no device".to_owned(),
            (Some(_), reason) => maybe(reason.as_ref()),
        };
        vec![maybe(row.user.as_ref()), maybe(row.device.as_ref()), row.open.to_string(), why]
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_change_is_told_with_who_is_missing_and_until_when() {
        let row = json!({
            "revision": 7, "at": "2026-05-01T12:00:00Z", "what": ["policy.remove policy:x"], "more": 3, "redecided": 2, "revoked": 2,
            "narrowed": 0, "cut": 1, "enforced": 1, "acknowledged": 1, "nodes": 2, "p50_ms": 1.5, "p99_ms": 1.5,
            "missing": [{ "gateway": "gw-b", "offline": true, "pending": 1, "until": "2026-05-01T12:10:00Z" }],
        });
        let text = change_shown(&serde_json::from_value(row).unwrap());
        for line in [
            "Decided 2 grants anew: 2 revoked, 0 narrowed. Cut 1 open connection.",
            "Enforced on 1 of 2 gateways.",
            "policy.remove policy:x and 3 more",
            "gw-b is offline: 1 grant there will have ended with the lease by ",
        ] {
            assert!(text.contains(line), "{line}\n{text}");
        }
    }
}
