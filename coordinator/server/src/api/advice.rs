//! `/policies/advice`: what policies allow and nobody uses, with the policies that would allow no more than what was used.

use std::time::Duration;

use axum::{Json, Router, http::StatusCode, routing::get};
use postern_core::{Advice, AdviceReport, Finding, State, Uncovered, advise};
use postern_model::{
    Condition, Effect, ScopeName, Subject, Timestamp,
    record::{Policy, Principal},
    usage::UsageGap,
};
use postern_policy::until;
use serde::{Deserialize, Serialize};

use super::{
    answer::Time,
    auth::Admin,
    policies::{self, PolicyRow},
    problem::Problem,
    request::Asked,
    shadows::{counted, since},
};
use crate::coordinator::Coordinator;

/// The period unless told.
const PERIOD: Duration = Duration::from_secs(30 * 24 * 3600);

/// What could be less.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct AdviceAnswer {
    /// What was used since then is kept.
    pub(crate) since: Time,
    /// How many policies were looked at, and of how many nothing is said: because they are younger than the period, or
    /// because activity of their resources is missing in it.
    pub(crate) looked_at: usize,
    pub(crate) young: usize,
    pub(crate) unrecorded: usize,
    pub(crate) advice: Vec<AdviceRow>,
    /// All policies, with all of the advice applied.
    pub(crate) policies: Vec<DeclaredRow>,
}

/// Advice about one policy.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct AdviceRow {
    pub(crate) policy: PolicyRow,
    pub(crate) findings: Vec<FindingRow>,
    /// How often it granted access, how many flows there were under that, and when either was last.
    pub(crate) granted: u64,
    pub(crate) flows: u64,
    pub(crate) last: Option<Time>,
    /// What to have instead; nothing: it can go.
    pub(crate) instead: Vec<DeclaredRow>,
}

/// What is too much in a policy.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct FindingRow {
    /// `unused`, `covered`, `ports`, `subject` or `scope`.
    pub(crate) finding: String,
    /// As a sentence.
    pub(crate) what: String,
}

/// A policy as a declarative file has it.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct DeclaredRow {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) effect: Option<Effect>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) subject: Option<Subject>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) resource: Option<ScopeName>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) ports: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) when: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) until: Option<String>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) shadow: bool,
    /// All of it, as an expert wrote it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) cedar: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Which {
    since: Option<Time>,
}

pub(super) fn routes() -> Router<Coordinator> {
    Router::new().route("/policies/advice", get(advice))
}

async fn advice(admin: Admin, Asked(which): Asked<Which>) -> Result<Json<AdviceAnswer>, Problem> {
    let since = since(which.since, PERIOD);
    // A copy, so that no change waits for what comes of it.
    let world = admin.coordinator.read(|core| core.state().world()).await;
    let usage = admin.coordinator.activity.look(move |reader| reader.usage(since)).await?;
    let work = move || {
        let state = State::new(world);
        advise(&state, &usage, since).map(|report| answer(&state, &report))
    };
    let done = tokio::task::spawn_blocking(work).await.map_err(|_| Problem::unexpected())?;
    done.map(Json).map_err(|uncovered| refusal(&uncovered, since))
}

fn refusal(uncovered: &Uncovered, since: Timestamp) -> Problem {
    let since = Time(since).short();
    let detail = match uncovered {
        Uncovered::Before { recorded_since: None } => {
            "no advice can be given: no activity is recorded yet; ask again when some time has passed".to_owned()
        }
        Uncovered::Before { recorded_since: Some(recorded) } => format!(
            "no advice can be given: activity is recorded since {} only, and the period begins at {since}; ask again later, or for a shorter period (--since)",
            Time(*recorded).short()
        ),
        Uncovered::Gap(UsageGap { gateway, name, times, last }) => {
            let whose = match (gateway, name) {
                (None, _) => "decisions".to_owned(),
                (Some(id), None) => format!("flows that gateway {id} carried"),
                (Some(_), Some(name)) => format!("flows that gateway {name}, which is gone, carried"),
            };
            format!(
                "no advice can be given: since {since}, {times} {whose} are missing in the activity, the last at {}; ask for a period after that (--since)",
                Time(*last).short()
            )
        }
        Uncovered::TooMuch => format!(
            "no advice can be given: there is more activity since {since} than can be looked at; ask for a shorter period (--since)"
        ),
    };
    Problem::new(StatusCode::CONFLICT, detail)
}

fn answer(state: &State, report: &AdviceReport) -> AdviceAnswer {
    let mut declared: Vec<_> = report.policies.iter().filter_map(|policy| declared(state, policy)).collect();
    declared.sort_by_cached_key(|row| {
        let DeclaredRow { effect, subject, resource, ports, when, until, shadow, cedar } = row;
        let (subject, ports) = (subject.clone(), ports.clone());
        (resource.clone(), *effect, subject, ports, when.clone(), until.clone(), *shadow, cedar.clone())
    });
    let AdviceReport { since, looked_at, young, unrecorded, .. } = *report;
    AdviceAnswer {
        since: Time(since),
        looked_at,
        young,
        unrecorded,
        advice: report.advice.iter().filter_map(|advice| row(state, advice)).collect(),
        policies: declared,
    }
}

fn row(state: &State, advice: &Advice) -> Option<AdviceRow> {
    let Advice { policy, findings, evidence, instead } = advice;
    Some(AdviceRow {
        policy: policies::row_in(state, policy)?,
        findings: findings.iter().map(|finding| finding_row(state, finding)).collect(),
        granted: evidence.granted,
        flows: evidence.flows,
        last: evidence.last.map(Time),
        instead: instead.iter().filter_map(|policy| declared(state, policy)).collect(),
    })
}

fn declared(state: &State, policy: &Policy) -> Option<DeclaredRow> {
    let row = policies::row_in(state, policy)?;
    if matches!(policy.condition, Some(Condition::Cedar { .. })) {
        let nothing = DeclaredRow {
            effect: None,
            subject: None,
            resource: None,
            ports: None,
            when: None,
            until: None,
            shadow: false,
            cedar: None,
        };
        return Some(DeclaredRow { cedar: row.cedar, ..nothing });
    }
    Some(DeclaredRow {
        effect: (row.effect == Effect::Deny).then_some(Effect::Deny),
        subject: Some(row.subject),
        resource: Some(row.resource),
        ports: row.ports,
        when: row.when,
        until: policy.until.map(until::display),
        shadow: row.shadow,
        cedar: None,
    })
}

fn finding_row(state: &State, finding: &Finding) -> FindingRow {
    let (finding, what) = match finding {
        Finding::Unused => ("unused", "nothing was granted by it".to_owned()),
        Finding::Covered => {
            ("covered", "nobody needs it: other policies allow all that was used, without condition".to_owned())
        }
        Finding::Ports { used, unused } => ("ports", format!("nobody used {unused}, only {used}")),
        Finding::Subject { members, used, instead } => {
            let of = counted(*members as u64, "member");
            let used = few(used.iter().map(|it| who(state, *it)));
            (
                "subject",
                format!(
                    "of {of}, only {used} used it; allow {} instead",
                    few(instead.iter().map(|it| who(state, *it)))
                ),
            )
        }
        Finding::Scope { resources, used, instead } => {
            let name = |id| state.resources.get(&id).map_or_else(|| id.to_string(), |it| it.name.to_string());
            let scope = |it| state.scope_name(it).map_or_else(|| "?".to_owned(), |name| name.to_string());
            let of = counted(*resources as u64, "resource");
            let was = if used.len() == 1 { "was" } else { "were" };
            let used = few(used.iter().map(|id| name(*id)));
            ("scope", format!("of {of}, only {used} {was} used; open {} instead", few(instead.iter().map(scope))))
        }
    };
    FindingRow { finding: finding.to_owned(), what }
}

fn who(state: &State, principal: Principal) -> String {
    state.subject_of(principal).map_or_else(|| "?".to_owned(), |subject| subject.to_string())
}

/// The first of them, and how many more there are.
fn few(names: impl Iterator<Item = String>) -> String {
    const FEW: usize = 10;
    let names: Vec<_> = names.collect();
    match names.len().checked_sub(FEW) {
        None | Some(0) => names.join(", "),
        Some(more) => format!("{} and {more} more", names[..FEW].join(", ")),
    }
}
