//! `/policies`: who may reach what, and who may not.

use axum::{
    Json, Router,
    http::StatusCode,
    response::IntoResponse,
    routing::{delete, get, post},
};
use postern_core::{Command, Core, NewPolicy, State, Touched};
use postern_model::{Condition, Effect, Filter, PolicyId, ScopeName, Subject, record::Policy};
use postern_policy::until;
use serde::{Deserialize, Serialize};

use super::{
    answer::{Answer, Time},
    auth::Admin,
    problem::Problem,
    request::{Body, Named},
};
use crate::coordinator::Coordinator;

/// One policy.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct PolicyRow {
    pub(crate) id: PolicyId,
    pub(crate) effect: Effect,
    pub(crate) subject: Subject,
    pub(crate) resource: ScopeName,
    /// All that the resource opens, unless it is told: `tcp/443 icmp`.
    pub(crate) ports: Option<String>,
    /// The condition in the short form.
    pub(crate) when: Option<String>,
    /// The policy as an expert wrote it.
    pub(crate) cedar: Option<String>,
    /// As it is written: a day, up to whose end it applies, or a time.
    pub(crate) until: Option<String>,
    pub(crate) shadow: bool,
    pub(crate) created_at: Time,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct New {
    #[serde(default)]
    effect: Effect,
    subject: Subject,
    resource: ScopeName,
    ports: Option<String>,
    when: Option<String>,
    until: Option<String>,
    #[serde(default)]
    shadow: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct NewCedar {
    source: String,
}

pub(super) fn routes() -> Router<Coordinator> {
    Router::new()
        .route("/policies", get(list).post(add))
        .route("/policies/cedar", post(add_cedar))
        .route("/policies/{id}", delete(remove))
}

fn row(core: &Core, policy: &Policy) -> Option<PolicyRow> {
    row_in(core.state(), policy)
}

pub(super) fn row_in(state: &State, policy: &Policy) -> Option<PolicyRow> {
    let (when, cedar) = match policy.condition.clone() {
        Some(Condition::Short { text }) => (Some(text), None),
        Some(Condition::Cedar { source, .. }) => (None, Some(source)),
        None => (None, None),
    };
    Some(PolicyRow {
        id: policy.id,
        effect: policy.effect,
        subject: state.subject_of(policy.principal)?,
        resource: state.scope_name(&policy.scope)?,
        ports: policy.ports.as_ref().map(ToString::to_string),
        when,
        cedar,
        until: policy.until.map(until::display),
        shadow: policy.shadow,
        created_at: Time(policy.created_at),
    })
}

async fn list(admin: Admin) -> Json<Vec<PolicyRow>> {
    let mut rows = admin.list(|core| core.state().policies.values().filter_map(|it| row(core, it)).collect()).await;
    rows.sort_by_cached_key(|row: &PolicyRow| (row.resource.clone(), row.effect, row.subject.clone(), row.id));
    rows
}

async fn add(admin: Admin, Body(new): Body<New>) -> Result<impl IntoResponse, Problem> {
    let New { effect, subject, resource, ports, when, until, shadow } = new;
    let malformed = |error: &dyn std::fmt::Display| Problem::malformed(error.to_string());
    let ports = ports.map(|text| text.parse::<Filter>()).transpose().map_err(|error| malformed(&error))?;
    let until = until.map(|text| until::parse(&text)).transpose().map_err(|error| malformed(&error))?;
    let command = NewPolicy { effect, subject, scope: resource, ports, when, until, shadow }.into();
    let touched = |core: &Core, touched: &Touched| match touched {
        Touched::Policy(id) => row(core, core.state().policies.get(id)?),
        _ => None,
    };
    Ok(admin.change(command, touched).await?.created())
}

async fn add_cedar(admin: Admin, Body(NewCedar { source }): Body<NewCedar>) -> Result<impl IntoResponse, Problem> {
    let Touched::Policies(ids) = admin.submit(Command::AddCedar { source }).await? else {
        return Err(Problem::unexpected());
    };
    let find = |core: &Core| ids.iter().filter_map(|id| row(core, core.state().policies.get(id)?)).collect();
    Ok((StatusCode::CREATED, admin.list(find).await))
}

async fn remove(admin: Admin, Named(id): Named<PolicyId>) -> Result<Answer<()>, Problem> {
    admin.remove(Command::RemovePolicy { id }).await
}
