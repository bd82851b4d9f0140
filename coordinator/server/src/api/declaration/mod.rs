//! `/plan`, `/apply`, `/export`: how groups, sites, resources and policies are to be, all at once.
//!
//! - `file`: what a declaration looks like, in JSON and in the files of the command line; `values`: what it is made of
//! - `rows`: what a plan looks like

pub(crate) mod file;
pub(crate) mod rows;
mod values;

use axum::{
    Json, Router,
    extract::DefaultBodyLimit,
    routing::{get, post},
};
use file::File;
use postern_core::{Command, Touched};
use postern_model::Revision;
use rows::{AppliedRow, PlanRow, StepRow};
use serde::{Deserialize, Serialize};

use super::{auth::Admin, problem::Problem, request::Body};
use crate::coordinator::Coordinator;

/// The largest declaration.
pub(crate) const MAX_DECLARATION: usize = 16 * 1024 * 1024;

/// What is to be planned.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ToPlan {
    pub(crate) declaration: File,
}

/// What is to be applied.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ToApply {
    pub(crate) declaration: File,
    /// Refuse if what declarations speak of has changed since.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) revision: Option<Revision>,
}

pub(super) fn routes() -> Router<Coordinator> {
    Router::new()
        .route("/plan", post(plan))
        .route("/apply", post(apply))
        .layer(DefaultBodyLimit::max(MAX_DECLARATION))
        .route("/export", get(export))
}

async fn plan(admin: Admin, Body(asked): Body<ToPlan>) -> Result<Json<PlanRow>, Problem> {
    let declaration = asked.declaration.into();
    let plan = admin.coordinator.look(move |core, env| core.plan(&declaration, env)).await??;
    Ok(Json(plan.into()))
}

async fn apply(admin: Admin, Body(asked): Body<ToApply>) -> Result<Json<AppliedRow>, Problem> {
    let ToApply { declaration, revision } = asked;
    let command = Command::Declare { declaration: Box::new(declaration.into()), revision };
    let Touched::Declared(steps) = admin.submit(command).await? else { return Err(Problem::unexpected()) };
    let revision = admin.coordinator.read(|core| core.state().revision).await;
    Ok(Json(AppliedRow { revision, steps: steps.into_iter().map(StepRow::from).collect() }))
}

async fn export(admin: Admin) -> Result<Json<File>, Problem> {
    let declaration = admin.coordinator.look(postern_core::Core::export).await??;
    Ok(Json(declaration.into()))
}
