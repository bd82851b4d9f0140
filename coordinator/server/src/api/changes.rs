//! `/changes`: what changes have come to at the gateways, with proof: who has acknowledged, and how soon.

use std::time::Duration;

use axum::{Json, Router, http::StatusCode, routing::get};
use postern_core::{ChangeReport, Core, Refusal};
use postern_model::{Revision, Timestamp};
use serde::{Deserialize, Serialize};

use super::{answer::Time, auth::Admin, problem::Problem, request::Named};
use crate::{clock, coordinator::Coordinator};

/// What one change has come to.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct ChangeRow {
    pub(crate) revision: Revision,
    pub(crate) at: Time,
    /// What was changed, as the audit log has it: `policy.remove policy:ID`.
    pub(crate) what: Vec<String>,
    /// How many more things it changed.
    pub(crate) more: usize,
    /// How many grants were decided anew, how many of them ended, how many were narrowed.
    pub(crate) redecided: usize,
    pub(crate) revoked: usize,
    pub(crate) narrowed: usize,
    /// How many open connections gateways have cut for it.
    pub(crate) cut: u64,
    /// How many gateways let nothing through any more that the change took away, and of how many.
    pub(crate) enforced: usize,
    /// How many of them have acknowledged that; the leases of the others have ended.
    pub(crate) acknowledged: usize,
    pub(crate) nodes: usize,
    /// From the commit to the acknowledgement, in milliseconds.
    pub(crate) p50_ms: Option<f64>,
    pub(crate) p99_ms: Option<f64>,
    /// The gateways that have not acknowledged.
    pub(crate) missing: Vec<MissingRow>,
}

/// A gateway that has not acknowledged all of it.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct MissingRow {
    pub(crate) gateway: String,
    pub(crate) offline: bool,
    /// How many grants it has yet to end.
    pub(crate) pending: usize,
    /// When the last of their leases ends, which no gateway outlives: by its own clock, with or without a coordinator.
    pub(crate) until: Option<Time>,
}

pub(super) fn routes() -> Router<Coordinator> {
    Router::new().route("/changes", get(list)).route("/changes/{revision}", get(show))
}

fn row(core: &Core, report: &ChangeReport, now: Timestamp) -> ChangeRow {
    let name = |id| core.state().devices.get(&id).map_or_else(|| id.to_string(), |device| device.name.clone());
    let pending = report.nodes.iter().filter(|(_, node)| !node.is_enforced(now));
    let missing = pending.map(|(id, node)| MissingRow {
        gateway: name(*id),
        offline: node.is_offline,
        pending: node.pending.len(),
        until: node.bound(now).map(Time),
    });
    let millis = |latency: Duration| (latency.as_secs_f64() * 1e5).round() / 100.0;
    let (p50, p99) = report.latency().unzip();
    ChangeRow {
        revision: report.revision,
        at: Time(report.at),
        what: report.what.iter().map(|(action, object)| format!("{action} {object}")).collect(),
        more: report.more,
        redecided: report.redecided,
        revoked: report.ended,
        narrowed: report.changed,
        cut: report.cut,
        enforced: report.nodes.values().filter(|node| node.is_enforced(now)).count(),
        acknowledged: report.nodes.values().filter(|node| node.has_acknowledged()).count(),
        nodes: report.nodes.len(),
        p50_ms: p50.map(millis),
        p99_ms: p99.map(millis),
        missing: missing.collect(),
    }
}

async fn list(admin: Admin) -> Json<Vec<ChangeRow>> {
    let now = clock::now();
    admin.list(|core| core.change_reports().map(|report| row(core, report, now)).collect()).await
}

async fn show(admin: Admin, Named(which): Named<String>) -> Result<Json<ChangeRow>, Problem> {
    let now = clock::now();
    let found = admin.coordinator.read(|core| {
        let report = match which.as_str() {
            "last" => core.change_reports().next(),
            number => core.change_report(Revision(number.parse().ok()?)),
        };
        report.map(|report| row(core, report, now))
    });
    let found = found.await;
    let none = "nothing was changed since the coordinator started; what earlier changes came to is in the audit log, as 'change.enforced'";
    if found.is_none() && which == "last" {
        return Err(Problem::new(StatusCode::NOT_FOUND, none));
    }
    found.map(Json).ok_or_else(|| Refusal::NotFound { kind: "change", name: which, list: "change list" }.into())
}
