//! `policy`: its words, what they ask, and how the answer is told.

use std::path::Path;

use clap::{Args, Subcommand};
use postern_model::{Effect, Filter, PolicyId, ScopeName, Subject};
use postern_policy::until;
use serde_json::{Map, Value, json};

use super::{
    advice::{self, AdviceWords},
    declaration::DeclarationWords,
    plan::{Plan, post, remove, said, table},
    render,
};
use crate::api::policies::PolicyRow;

/// The longest file that is read.
const MAX_FILE: u64 = 1024 * 1024;

#[derive(Debug, Subcommand)]
pub(super) enum PolicyWords {
    /// Allow someone to reach resources.
    Allow(NewPolicy),
    /// Deny it: denials win over whatever allows. Open connections are cut.
    Deny(NewPolicy),
    /// Add policies written in Cedar, all of them or none.
    Add {
        /// The file with the policies.
        #[arg(long, value_name = "FILE", value_parser = read_file)]
        cedar: String,
    },
    #[command(flatten)]
    Declared(DeclarationWords),
    /// Show what policies in Cedar may speak of.
    Schema,
    /// List all policies.
    List,
    /// Remove a policy; connections that no other policy allows are cut.
    Remove {
        /// As 'policy list' shows it.
        id: PolicyId,
    },
    #[command(flatten)]
    Advice(AdviceWords),
}

#[derive(Debug, Args)]
pub(super) struct NewPolicy {
    /// user:NAME, group:NAME, device:ID or everyone.
    subject: Subject,
    /// A resource's name, tag:NAME or everything.
    resource: ScopeName,
    /// Under which condition, like 'posture.disk_encrypted && time.hour in 8..18'.
    #[arg(long, value_name = "CONDITION", value_parser = condition)]
    when: Option<String>,
    /// Up to the end of this day (UTC), or up to this time.
    #[arg(long, value_name = "2026-12-31|TIME", value_parser = end)]
    until: Option<String>,
    /// On these ports only, like 'tcp/5432' or 'tcp/80,443 icmp'.
    #[arg(long, value_name = "PORTS")]
    ports: Option<Filter>,
    /// Only evaluate and record it; it decides nothing.
    #[arg(long)]
    shadow: bool,
}

/// What the command asks; `None` when nobody has to be asked.
pub(super) fn plan(words: PolicyWords) -> Option<Plan> {
    Some(match words {
        PolicyWords::Allow(new) => add(Effect::Allow, new),
        PolicyWords::Deny(new) => add(Effect::Deny, new),
        PolicyWords::Add { cedar } => {
            post("/policies/cedar", json!({ "source": cedar }), table(|rows: &[PolicyRow]| added(rows)))
        }
        PolicyWords::Schema | PolicyWords::Declared(_) => return None,
        PolicyWords::Advice(words) => advice::plan(&words),
        PolicyWords::List => super::plan::get("/policies", table(policies)),
        PolicyWords::Remove { id } => {
            let sentence = format!("Removed policy {id}: what it allowed and no other policy does is cut.");
            remove(&["policies", &id.to_string()], said(sentence))
        }
    })
}

fn add(effect: Effect, new: NewPolicy) -> Plan {
    let NewPolicy { subject, resource, when, until, ports, shadow } = new;
    let mut sentence = match effect {
        Effect::Allow => format!("Allowed {subject} to reach {resource}"),
        Effect::Deny => format!("Denied {subject} access to {resource}"),
    };
    let words = [
        ports.as_ref().map(|ports| format!(" on {ports}")),
        when.as_ref().map(|when| format!(", when {when}")),
        until.as_ref().map(|until| format!(", until {until}")),
        shadow.then(|| " (in shadow: it decides nothing)".to_owned()),
    ];
    words.into_iter().flatten().for_each(|words| sentence.push_str(&words));
    sentence.push('.');
    let given = [
        ("effect", (effect == Effect::Deny).then(|| json!(effect))),
        ("when", when.map(Value::from)),
        ("until", until.map(Value::from)),
        ("ports", ports.map(|ports| json!(ports.to_string()))),
        ("shadow", shadow.then_some(Value::Bool(true))),
    ];
    let mut body = Map::from_iter([("subject".to_owned(), json!(subject)), ("resource".to_owned(), json!(resource))]);
    body.extend(given.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))));
    post("/policies", Value::Object(body), said(sentence))
}

fn added(rows: &[PolicyRow]) -> String {
    let lines = rows
        .iter()
        .map(|row| format!("Added policy {}: {} {} to reach {}.", row.id, row.effect, row.subject, row.resource));
    lines.collect::<Vec<_>>().join("\n")
}

fn policies(rows: &[PolicyRow]) -> String {
    let head = ["EFFECT", "SUBJECT", "RESOURCE", "PORTS", "UNTIL", "WHEN", "ID"];
    render::columns(rows, "There are no policies: nobody may reach anything.", &head, |row| {
        let effect = if row.shadow { format!("{} (shadow)", row.effect) } else { row.effect.to_string() };
        let when = match (&row.when, &row.cedar) {
            (Some(when), _) => when.clone(),
            (None, Some(_)) => "(Cedar; see --json)".to_owned(),
            (None, None) => "-".to_owned(),
        };
        vec![
            effect,
            row.subject.to_string(),
            row.resource.to_string(),
            render::maybe(row.ports.as_ref()),
            render::maybe(row.until.as_ref()),
            when,
            row.id.to_string(),
        ]
    })
}

/// As the coordinator would say it, but before it is asked.
fn condition(text: &str) -> Result<String, String> {
    postern_policy::check_condition(text).map(|()| text.to_owned()).map_err(|error| error.to_string())
}

fn end(text: &str) -> Result<String, String> {
    until::parse(text).map(|_| text.to_owned()).map_err(|error| error.to_string())
}

/// A whole file of text.
pub(super) fn read_file(path: &str) -> Result<String, String> {
    let read = || {
        let path = Path::new(path);
        if std::fs::metadata(path)?.len() > MAX_FILE {
            return Err(std::io::Error::other(format!("it is larger than {MAX_FILE} bytes")));
        }
        std::fs::read_to_string(path)
    };
    read().map_err(|error| format!("{path} can't be read: {error}"))
}
