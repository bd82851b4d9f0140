//! `/policies/shadow-report` and `/policies/ID/enforce`: what policies in shadow would have decided, and letting one decide.

use std::{
    collections::{BTreeSet, HashMap},
    time::Duration,
};

use axum::{Json, Router, routing::get};
use postern_core::{Command, Core, Cuts, Refusal};
use postern_model::{DeviceId, Effect, PolicyId, ResourceId, Timestamp, usage::ShadowUse};
use serde::{Deserialize, Serialize};

use super::{
    answer::Time,
    auth::Admin,
    policies::{self, PolicyRow},
    problem::Problem,
    request::{Asked, Named},
};
use crate::{clock, coordinator::Coordinator};

/// The period unless told.
const PERIOD: Duration = Duration::from_secs(7 * 24 * 3600);
/// So many names are told.
const NAMES: usize = 5;
/// For more pairs of a device and a resource, flows are not counted.
const PAIRS: usize = 20_000;

/// What policies in shadow would have decided.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct ShadowReport {
    pub(crate) since: Time,
    /// Since when activity is recorded.
    pub(crate) recorded_since: Option<Time>,
    /// Whether there was more than could be added up.
    pub(crate) is_cut: bool,
    pub(crate) policies: Vec<ShadowRow>,
}

/// What one policy in shadow would have decided.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct ShadowRow {
    #[serde(flatten)]
    pub(crate) policy: PolicyRow,
    /// Since when it was watched: the period, but no longer than it is there and activity is recorded.
    pub(crate) watched_since: Time,
    /// Empty when nothing would have been different.
    pub(crate) differences: Vec<DifferenceRow>,
    /// How many flows there were that it would not have let happen; not told when there is too much to count.
    pub(crate) flows: Option<u64>,
    /// All of that as a sentence.
    pub(crate) summary: String,
}

/// One way in which decisions would have been others.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct DifferenceRow {
    /// `would_allow`, `would_deny`, `would_widen` or `would_narrow`.
    pub(crate) difference: String,
    pub(crate) times: u64,
    pub(crate) users: usize,
    pub(crate) devices: usize,
    pub(crate) resources: usize,
    /// The first few of those whom it is about: users, and devices that are no user's.
    pub(crate) who: Vec<String>,
    /// The first few of the resources.
    pub(crate) what: Vec<String>,
    pub(crate) first: Time,
    pub(crate) last: Time,
}

/// A policy, and what it cuts by deciding.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct EnforcedRow {
    #[serde(flatten)]
    pub(crate) policy: PolicyRow,
    /// Whether it decides now, or it was only asked what that would cut.
    pub(crate) enforced: bool,
    /// Live grants that end, and that let less through.
    pub(crate) ended: usize,
    pub(crate) narrowed: usize,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Which {
    since: Option<Time>,
    policy: Option<PolicyId>,
}

pub(super) fn routes() -> Router<Coordinator> {
    Router::new().route("/policies/{id}/enforce", get(foresee).post(enforce))
}

/// Those that take a query.
pub(super) fn reports() -> Router<Coordinator> {
    Router::new().route("/policies/shadow-report", get(report))
}

/// The begin of a period that ends now.
pub(super) fn since(asked: Option<Time>, period: Duration) -> Timestamp {
    let ago = i64::try_from(period.as_millis()).unwrap_or(i64::MAX);
    let by_default = || Timestamp::from_unix_millis(clock::now().unix_millis().saturating_sub(ago));
    asked.map_or_else(by_default, |time| time.0)
}

fn policy_row(core: &Core, id: PolicyId) -> Option<PolicyRow> {
    policies::row_in(core.state(), core.state().policies.get(&id)?)
}

fn no_policy(id: PolicyId) -> Problem {
    Refusal::NotFound { kind: "policy", name: id.to_string(), list: "policy list" }.into()
}

async fn report(admin: Admin, Asked(Which { since, policy }): Asked<Which>) -> Result<Json<ShadowReport>, Problem> {
    let since = self::since(since, PERIOD);
    let rows = admin.coordinator.read(|core| {
        let state = core.state();
        match policy {
            Some(id) => policy_row(core, id).map(|row| vec![row]),
            None => {
                let shadows = state.policies.values().filter(|policy| policy.shadow);
                Some(shadows.filter_map(|policy| policies::row_in(state, policy)).collect::<Vec<_>>())
            }
        }
    });
    let rows = match (rows.await, policy) {
        (Some(rows), _) => rows,
        (None, Some(id)) => return Err(no_policy(id)),
        (None, None) => return Err(Problem::unexpected()),
    };
    let activity = &admin.coordinator.activity;
    let looked = activity.look(move |reader| Ok((reader.shadows(since)?, reader.recorded_since()?)));
    let ((sums, is_cut), recorded_since) = looked.await?;
    let mut by_policy = HashMap::<PolicyId, Vec<&ShadowUse>>::new();
    for sum in &sums {
        for id in &sum.policies {
            by_policy.entry(*id).or_default().push(sum);
        }
    }
    let denied: HashMap<_, _> =
        rows.iter().map(|row| (row.id, denied(by_policy.get(&row.id).map_or(&[], Vec::as_slice)))).collect();
    let mut flows = HashMap::new();
    if denied.values().map(Vec::len).sum::<usize>() <= PAIRS {
        let pairs: Vec<_> = denied.values().flatten().copied().collect();
        let mut counts = activity.look(move |reader| reader.flows_of(&pairs)).await?.into_iter();
        for (id, pairs) in &denied {
            flows.insert(*id, counts.by_ref().take(pairs.len()).sum());
        }
    }
    let row = |row: PolicyRow| {
        let watched = [since, row.created_at.0].into_iter().chain(recorded_since).max().unwrap_or(since);
        let differences = sum_up(by_policy.get(&row.id).map_or(&[], Vec::as_slice));
        let flows = flows.get(&row.id).copied();
        let summary = summary(&row, &differences, flows, Time(watched));
        ShadowRow { policy: row, watched_since: Time(watched), differences, flows, summary }
    };
    let mut policies: Vec<_> = rows.into_iter().map(row).collect();
    policies.sort_by_cached_key(|row| {
        let times: u64 = row.differences.iter().map(|it| it.times).sum();
        (std::cmp::Reverse(times), row.policy.id)
    });
    Ok(Json(ShadowReport { since: Time(since), recorded_since: recorded_since.map(Time), is_cut, policies }))
}

/// Whom it would have denied what, and since when.
fn denied(sums: &[&ShadowUse]) -> Vec<(DeviceId, ResourceId, Timestamp)> {
    let mut since = HashMap::<_, Timestamp>::new();
    for sum in sums.iter().filter(|sum| sum.difference == "would_deny") {
        if let (Some(device), Some(resource)) = (sum.device, sum.resource) {
            let at = since.entry((device, resource)).or_insert(sum.first);
            *at = sum.first.min(*at);
        }
    }
    since.into_iter().map(|((device, resource), at)| (device, resource, at)).collect()
}

fn sum_up(sums: &[&ShadowUse]) -> Vec<DifferenceRow> {
    let kinds = ["would_allow", "would_widen", "would_narrow", "would_deny"];
    let row = |kind: &str| {
        let mut sums: Vec<_> = sums.iter().filter(|sum| sum.difference == kind).collect();
        sums.sort_by_key(|sum| sum.first);
        let (first, last) = (sums.first()?.first, sums.iter().map(|sum| sum.last).max()?);
        let who = sums.iter().filter_map(|sum| sum.user.as_ref().or(sum.device_name.as_ref()));
        let what = sums.iter().filter_map(|sum| sum.resource_name.as_ref());
        Some(DifferenceRow {
            difference: kind.to_owned(),
            times: sums.iter().fold(0, |times, sum| times.saturating_add(sum.times)),
            users: sums.iter().filter_map(|sum| sum.user.as_ref()).collect::<BTreeSet<_>>().len(),
            devices: sums.iter().filter_map(|sum| sum.device).collect::<BTreeSet<_>>().len(),
            resources: sums.iter().filter_map(|sum| sum.resource).collect::<BTreeSet<_>>().len(),
            who: first_few(who),
            what: first_few(what),
            first: Time(first),
            last: Time(last),
        })
    };
    kinds.into_iter().filter_map(row).collect()
}

fn first_few<'a>(names: impl Iterator<Item = &'a String>) -> Vec<String> {
    let mut few: Vec<String> = Vec::new();
    for name in names {
        if few.len() < NAMES && !few.contains(name) {
            few.push(name.clone());
        }
    }
    few
}

fn summary(row: &PolicyRow, differences: &[DifferenceRow], flows: Option<u64>, since: Time) -> String {
    if differences.is_empty() {
        return format!("Nothing would have been different since {}.", since.short());
    }
    let one = |it: &DifferenceRow| {
        let verdict = match it.difference.as_str() {
            "would_allow" => "would have been allowed and not denied",
            "would_widen" => "would have opened more",
            "would_narrow" => "would have opened less",
            _ => "would have been denied and not allowed",
        };
        let (times, devices, resources) = (
            counted(it.times, "decision"),
            counted(it.devices as u64, "device"),
            counted(it.resources as u64, "resource"),
        );
        format!("{times} about {devices} and {resources} {verdict}")
    };
    let mut parts: Vec<_> = differences.iter().map(one).collect();
    if row.effect == Effect::Deny {
        parts.extend(flows.filter(|flows| *flows > 0).map(|flows| {
            let verb = if flows == 1 { "was" } else { "were" };
            format!("{} that {verb} opened since would not have been", counted(flows, "flow"))
        }));
    }
    format!("Had it decided, {}.", parts.join("; "))
}

/// `1 user`, `2 users`.
pub(super) fn counted(count: u64, noun: &str) -> String {
    if count == 1 { format!("1 {noun}") } else { format!("{count} {noun}s") }
}

async fn foresee(admin: Admin, Named(id): Named<PolicyId>) -> Result<Json<EnforcedRow>, Problem> {
    let foreseen = admin.coordinator.look(move |core, env| core.cuts(&Command::EnforcePolicy { id }, env));
    let Cuts { ended, narrowed } = foreseen.await??;
    let policy = admin.coordinator.read(|core| policy_row(core, id)).await.ok_or_else(|| no_policy(id))?;
    Ok(Json(EnforcedRow { policy, enforced: false, ended, narrowed }))
}

async fn enforce(admin: Admin, Named(id): Named<PolicyId>) -> Result<Json<EnforcedRow>, Problem> {
    admin.submit(Command::EnforcePolicy { id }).await?;
    let what = ("policy.enforce".to_owned(), format!("policy:{id}"));
    let done = admin.coordinator.read(|core| {
        let report = core.change_reports().find(|report| report.what.contains(&what));
        let (ended, narrowed) = report.map_or((0, 0), |report| (report.ended, report.changed));
        Some(EnforcedRow { policy: policy_row(core, id)?, enforced: true, ended, narrowed })
    });
    // Someone else may have removed it in between.
    done.await.map(Json).ok_or_else(|| no_policy(id))
}
