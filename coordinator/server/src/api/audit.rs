//! `/audit`: what happened. Entries come as they are stored (times in milliseconds since 1970), so that anyone can verify
//! the chain.

use axum::{Json, Router, routing::get};
use postern_model::{Sha256, audit::AuditEntry};
use postern_store::AuditQuery;
use serde::{Deserialize, Serialize};

use super::{
    auth::Admin,
    problem::Problem,
    request::{Asked, Nothing},
};
use crate::coordinator::Coordinator;

/// How many entries come unless told.
pub(crate) const DEFAULT_LIMIT: u32 = 100;
/// How many entries come at most.
pub(crate) const MAX_LIMIT: u32 = 100_000;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Which {
    after: Option<u64>,
    limit: Option<u32>,
}

/// Whether the chain holds.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct AuditReportRow {
    pub(crate) ok: bool,
    pub(crate) entries: u64,
    pub(crate) head: Option<Sha256>,
    pub(crate) fault: Option<AuditFaultRow>,
}

/// The first entry that does not fit, and in which way.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct AuditFaultRow {
    pub(crate) id: u64,
    pub(crate) what: String,
}

pub(super) fn routes() -> Router<Coordinator> {
    Router::new().route("/audit", get(list)).route("/audit/verify", get(verify))
}

async fn list(admin: Admin, Asked(which): Asked<Which>) -> Result<Json<Vec<AuditEntry>>, Problem> {
    let limit = which.limit.unwrap_or(DEFAULT_LIMIT);
    if !(1..=MAX_LIMIT).contains(&limit) {
        return Err(Problem::malformed(format!("'limit' is {limit}; it can be from 1 to {MAX_LIMIT}")));
    }
    Ok(Json(admin.coordinator.audit(AuditQuery { after: which.after, limit }).await?))
}

async fn verify(admin: Admin, _: Asked<Nothing>) -> Result<Json<AuditReportRow>, Problem> {
    let report = admin.coordinator.audit_verify().await?;
    let fault = report.fault.map(|fault| AuditFaultRow { id: fault.id, what: fault.what });
    Ok(Json(AuditReportRow { ok: fault.is_none(), entries: report.entries, head: report.head, fault }))
}
