//! `/policies`: who may reach what.

use axum::{
    Json, Router,
    response::IntoResponse,
    routing::{delete, get},
};
use postern_core::{Command, Core, Touched};
use postern_model::{
    PolicyId, ResourceName, Subject,
    record::{Policy, Principal},
};
use serde::{Deserialize, Serialize};

use super::{
    answer::{Answer, Time},
    auth::Admin,
    problem::Problem,
    request::{Body, Named},
};
use crate::coordinator::Coordinator;

/// One policy.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct PolicyRow {
    pub(crate) id: PolicyId,
    pub(crate) subject: Subject,
    pub(crate) resource: ResourceName,
    pub(crate) created_at: Time,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct NewPolicy {
    subject: Subject,
    resource: ResourceName,
}

pub(super) fn routes() -> Router<Coordinator> {
    Router::new().route("/policies", get(list).post(allow)).route("/policies/{id}", delete(remove))
}

fn row(core: &Core, policy: &Policy) -> Option<PolicyRow> {
    let state = core.state();
    let subject = match policy.principal {
        Principal::User(id) => Subject::User(state.users.get(&id)?.name.clone()),
        Principal::Group(id) => Subject::Group(state.groups.get(&id)?.name.clone()),
        Principal::Device(id) => Subject::Device(id),
    };
    let resource = state.resources.get(&policy.resource)?.name.clone();
    Some(PolicyRow { id: policy.id, subject, resource, created_at: Time(policy.created_at) })
}

async fn list(admin: Admin) -> Json<Vec<PolicyRow>> {
    let mut rows = admin.list(|core| core.state().policies.values().filter_map(|it| row(core, it)).collect()).await;
    rows.sort_by_cached_key(|row: &PolicyRow| (row.resource.clone(), row.subject.to_string()));
    rows
}

async fn allow(admin: Admin, Body(new): Body<NewPolicy>) -> Result<impl IntoResponse, Problem> {
    let touched = |core: &Core, touched| match touched {
        Touched::Policy(id) => row(core, core.state().policies.get(&id)?),
        _ => None,
    };
    let command = Command::Allow { subject: new.subject, resource: new.resource };
    Ok(admin.change(command, touched).await?.created())
}

async fn remove(admin: Admin, Named(id): Named<PolicyId>) -> Result<Answer<()>, Problem> {
    admin.remove(Command::RemovePolicy { id }).await
}
