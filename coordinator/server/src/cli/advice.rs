//! `policy shadow-report`, `policy enforce` and `policy advise`: their words, what they ask, and how the answers are told.

use std::{
    fs,
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context as _, Result};
use clap::Subcommand;
use hyper::Method;
use postern_model::{PolicyId, Timestamp};
use serde_json::{Value, json};

use super::{
    activity::words::time,
    client::{Call, Door},
    plan::{Plan, act, get, path, told},
    render,
};
use crate::api::{
    advice::{AdviceAnswer, AdviceRow, DeclaredRow},
    answer::Time,
    declaration::file::File,
    policies::PolicyRow,
    shadows::{DifferenceRow, EnforcedRow, ShadowReport, ShadowRow},
};

#[derive(Debug, Subcommand)]
pub(super) enum AdviceWords {
    /// Sum up what policies in shadow would have decided.
    ShadowReport {
        /// Since when: a time like 2026-05-01T12:00:00Z, or how long ago.
        #[arg(long, value_name = "TIME|DURATION", default_value = "7days", value_parser = time)]
        since: Timestamp,
        /// Only of this policy.
        #[arg(long, value_name = "ID")]
        policy: Option<PolicyId>,
    },
    /// Take a policy out of shadow: from now on it decides, and what it denies is cut.
    Enforce {
        /// As 'policy list' shows it.
        id: PolicyId,
        /// Only say what that would cut.
        #[arg(long)]
        dry_run: bool,
    },
    /// Say which policies allow more than anybody uses, and what would allow no more than that.
    Advise {
        /// What was used since then is kept: a time, or how long ago. Younger policies are left alone.
        #[arg(long, value_name = "TIME|DURATION", default_value = "30days", value_parser = time)]
        since: Timestamp,
        /// Write all policies, with the advice applied, into this file, for 'policy plan' and 'policy apply'.
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
}

pub(super) fn plan(words: &AdviceWords) -> Plan {
    match words {
        AdviceWords::ShadowReport { since, policy } => {
            let policy = policy.map(|id| format!("&policy={id}")).unwrap_or_default();
            let path = format!("/policies/shadow-report?since={}{policy}", escaped(*since));
            get(&path, told(|report: ShadowReport| shadow_report(&report)))
        }
        AdviceWords::Enforce { id, dry_run } => {
            let id = id.to_string();
            let segments = ["policies", &id, "enforce"];
            let tell = told(|row: EnforcedRow| enforced(&row));
            if *dry_run { get(&path(&segments), tell) } else { act(&segments, tell) }
        }
        AdviceWords::Advise { since, .. } => get(&advice_path(*since), told(|answer: AdviceAnswer| advice(&answer))),
    }
}

fn advice_path(since: Timestamp) -> String {
    format!("/policies/advice?since={}", escaped(since))
}

fn escaped(time: Timestamp) -> String {
    Time(time).to_string().replace(':', "%3A")
}

/// Asks for advice, tells it, and writes the policies with it into a file: whole, or not at all.
pub(super) async fn write(door: &Door, since: Timestamp, file: &Path, json: bool) -> Result<ExitCode> {
    let call = Call { method: Method::GET, path: advice_path(since), body: None };
    let text = door.call(call).await?;
    let strange = "the coordinator's answer makes no sense; is it of another version?";
    let answer: AdviceAnswer = serde_json::from_str(&text).context(strange)?;
    write_whole(file, &toml(&answer)?).with_context(|| format!("{} can't be written", file.display()))?;
    let said = if json {
        let value: Value = serde_json::from_str(&text).context(strange)?;
        super::json::indent(&json!({ "file": file, "advice": value["advice"] }).to_string())
    } else {
        let file = file.display();
        format!(
            "{}\n\nWrote all {} policies, with that, to {file}: 'policy plan {file}' says what would change.",
            advice(&answer),
            answer.policies.len()
        )
    };
    // Whoever reads may have read enough.
    let _ = writeln!(io::stdout(), "{said}");
    Ok(ExitCode::SUCCESS)
}

fn write_whole(path: &Path, text: &str) -> io::Result<()> {
    let mut part = path.as_os_str().to_owned();
    part.push(".part");
    // Not through a link that someone else has put there.
    let _ = fs::remove_file(&part);
    let mut file = fs::File::options().write(true).create_new(true).mode(0o600).open(&part)?;
    let written = file.write_all(text.as_bytes()).and_then(|()| file.sync_all());
    let written = written.and_then(|()| fs::rename(&part, path));
    if written.is_err() {
        let _ = fs::remove_file(&part);
    }
    written
}

fn headline(row: &PolicyRow) -> String {
    let mut words = format!("{} {} {}", row.effect, row.subject, row.resource);
    words.extend(row.ports.iter().map(|ports| format!(" on {ports}")));
    words.extend(row.when.iter().map(|when| format!(", when {when}")));
    words.extend(row.cedar.iter().map(|_| ", in Cedar".to_owned()));
    words.extend(row.until.iter().map(|until| format!(", until {until}")));
    format!("policy {}: {words}", row.id)
}

fn shadow_report(report: &ShadowReport) -> String {
    let mut lines = Vec::new();
    match report.recorded_since {
        None => lines.push("No activity is recorded yet.".to_owned()),
        Some(recorded) if recorded.0 > report.since.0 => {
            lines.push(format!("Activity is recorded since {} only.", recorded.short()));
        }
        Some(_) => {}
    }
    if report.is_cut {
        lines.push("There was more than can be added up: ask for a shorter period.".to_owned());
    }
    if report.policies.is_empty() {
        lines.push("No policy is in shadow.".to_owned());
    }
    lines.extend(report.policies.iter().map(shadow_row));
    lines.join("\n")
}

fn shadow_row(row: &ShadowRow) -> String {
    let decides = if row.policy.shadow { "" } else { " (it decides by now)" };
    let mut lines = vec![format!("{}{decides}", headline(&row.policy)), format!("  {}", row.summary)];
    lines.extend(row.differences.iter().map(|it| {
        let DifferenceRow { difference, times, users, devices, resources, .. } = it;
        let (who, what) = (some(&it.who, (*users).max(it.who.len())), some(&it.what, *resources));
        format!(
            "  {difference}: {times} times, {users} users, {devices} devices, {resources} resources; {who} to {what}; from {} to {}",
            it.first.short(),
            it.last.short()
        )
    }));
    lines.join("\n")
}

/// Names of some, with an ellipsis where there are more.
fn some(names: &[String], of: usize) -> String {
    let more = if of > names.len() { ", …" } else { "" };
    format!("{}{more}", names.join(", "))
}

fn enforced(row: &EnforcedRow) -> String {
    let EnforcedRow { policy, enforced, ended, narrowed } = row;
    let id = policy.id;
    if *enforced {
        let cuts = match (ended, narrowed) {
            (0, 0) => "It cut nothing".to_owned(),
            _ => format!("Live grants that ended: {ended}; that let less through: {narrowed}"),
        };
        format!("Policy {id} decides from now on. {cuts}; 'change show' says where that is enforced.")
    } else {
        format!("Policy {id} would end {ended} live grants, and narrow {narrowed}. Nothing was changed.")
    }
}

fn advice(answer: &AdviceAnswer) -> String {
    let AdviceAnswer { since, looked_at, young, unrecorded, advice, .. } = answer;
    let mut parts =
        vec![format!("Looked at {looked_at} policies that allow, and at what was used since {}.", since.short())];
    if *young > 0 {
        parts.push(format!("Nothing is said of {young} that are younger than that."));
    }
    if *unrecorded > 0 {
        parts.push(format!("Nothing is said of {unrecorded}, of whose resources some activity is missing."));
    }
    let mut lines = vec![parts.join(" ")];
    if advice.is_empty() {
        lines.push("None of them allows more than was used.".to_owned());
    }
    lines.extend(advice.iter().map(advice_row));
    lines.join("\n")
}

fn advice_row(row: &AdviceRow) -> String {
    let mut lines = vec![String::new(), headline(&row.policy)];
    lines.extend(row.findings.iter().map(|finding| format!("  {}", finding.what)));
    let last = row.last.map_or_else(|| "never used".to_owned(), |last| format!("last used {}", last.short()));
    lines.push(format!("  evidence: granted or renewed {} times, {} flows, {last}", row.granted, row.flows));
    if row.instead.is_empty() {
        lines.push(format!("  remove it: policy remove {}", row.policy.id));
    } else {
        lines.push("  instead:".to_owned());
        lines.extend(row.instead.iter().map(|it| format!("    {}", words(it))));
    }
    lines.join("\n")
}

/// As 'policy allow' takes it.
fn words(row: &DeclaredRow) -> String {
    let effect = row.effect.unwrap_or_default();
    let mut words =
        format!("policy {effect} {} {}", render::maybe(row.subject.as_ref()), render::maybe(row.resource.as_ref()));
    words.extend(row.ports.iter().map(|ports| format!(" --ports '{ports}'")));
    words.extend(row.when.iter().map(|when| format!(" --when '{}'", when.replace('\'', "'\\''"))));
    words.extend(row.until.iter().map(|until| format!(" --until {until}")));
    words
}

/// All policies as a declarative file.
fn toml(answer: &AdviceAnswer) -> Result<String> {
    let file: File = serde_json::from_value(json!({ "policies": answer.policies }))?;
    let text = toml::to_string_pretty(&file).context("the policies can't be written as TOML")?;
    Ok(format!(
        "# All policies, with the advice of 'policy advise' on what was used since {}. Policies that are not in here go.\n\n{text}",
        answer.since
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn declared(json: Value) -> DeclaredRow {
        serde_json::from_value(json).unwrap()
    }

    #[test]
    fn the_file_says_all_policies_also_when_there_are_none() {
        let policies = json!([
            { "subject": "user:alice", "resource": "wiki", "when": "posture.os == \"a\\\\b\"", "until": "2026-12-31" },
            { "effect": "deny", "subject": "everyone", "resource": "tag:prod", "ports": "tcp/22", "shadow": true },
            { "cedar": "permit (principal,\naction, resource);" },
        ]);
        let since = Time(Timestamp::from_unix_millis(1_777_636_800_000));
        let declared = serde_json::from_value(policies.clone()).unwrap();
        let answer = AdviceAnswer { since, looked_at: 0, young: 0, unrecorded: 0, advice: vec![], policies: declared };
        let file: File = toml::from_str(&toml(&answer).unwrap()).unwrap();
        assert_eq!(json!(file), json!({ "policies": policies }));
        // An absent section would leave them as they are.
        let none = toml(&AdviceAnswer { policies: vec![], ..answer }).unwrap();
        assert!(none.ends_with("go.\n\npolicies = []\n"), "{none}");
    }

    #[test]
    fn a_file_is_written_whole_and_private_and_not_through_a_link() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        let (file, victim) = (dir.path().join("policies.toml"), dir.path().join("victim"));
        std::fs::write(&victim, "untouched").unwrap();
        std::os::unix::fs::symlink(&victim, dir.path().join("policies.toml.part")).unwrap();
        write_whole(&file, "policies = []\n").unwrap();
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "policies = []\n");
        assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(std::fs::read_to_string(&victim).unwrap(), "untouched");
        assert!(write_whole(&dir.path().join("nowhere").join("file"), "").is_err());
    }

    #[test]
    fn the_words_in_place_of_a_policy_can_be_typed() {
        let row = json!({ "subject": "user:alice", "resource": "wiki", "ports": "tcp/80 icmp", "when": "posture.os == \"it's\"" });
        let said = words(&declared(row));
        assert_eq!(said, r#"policy allow user:alice wiki --ports 'tcp/80 icmp' --when 'posture.os == "it'\''s"'"#);
    }
}
