//! `/users`: people, or what acts as one.

use axum::{
    Json, Router,
    response::IntoResponse,
    routing::{delete, get, post},
};
use postern_core::{Command, Core, Touched};
use postern_model::{GroupName, UserId, UserName, record::User};
use postern_policy::Facts as _;
use serde::{Deserialize, Serialize};

use super::{
    answer::{Answer, Time},
    auth::Admin,
    problem::Problem,
    request::{Body, Named},
};
use crate::coordinator::Coordinator;

/// One user.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct UserRow {
    pub(crate) id: UserId,
    pub(crate) name: UserName,
    pub(crate) groups: Vec<GroupName>,
    pub(crate) suspended: bool,
    pub(crate) created_at: Time,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct NewUser {
    name: UserName,
    #[serde(default)]
    groups: Vec<GroupName>,
}

pub(super) fn routes() -> Router<Coordinator> {
    Router::new()
        .route("/users", get(list).post(add))
        .route("/users/{name}", delete(remove))
        .route("/users/{name}/suspend", post(suspend))
        .route("/users/{name}/resume", post(resume))
}

fn row(core: &Core, user: &User) -> UserRow {
    let state = core.state();
    let groups = state.groups_of(user.id).into_iter();
    let mut groups: Vec<_> = groups.filter_map(|id| Some(state.groups.get(&id)?.name.clone())).collect();
    groups.sort();
    UserRow {
        id: user.id,
        name: user.name.clone(),
        groups,
        suspended: user.suspended,
        created_at: Time(user.created_at),
    }
}

fn touched(core: &Core, touched: &Touched) -> Option<UserRow> {
    let Touched::User(id) = touched else { return None };
    Some(row(core, core.state().users.get(id)?))
}

async fn list(admin: Admin) -> Json<Vec<UserRow>> {
    let mut rows = admin.list(|core| core.state().users.values().map(|user| row(core, user)).collect()).await;
    rows.sort_by(|a: &UserRow, b| a.name.cmp(&b.name));
    rows
}

async fn add(admin: Admin, Body(new): Body<NewUser>) -> Result<impl IntoResponse, Problem> {
    let command = Command::AddUser { name: new.name, groups: new.groups };
    Ok(admin.change(command, touched).await?.created())
}

async fn suspend(admin: Admin, Named(name): Named<UserName>) -> Result<Answer<UserRow>, Problem> {
    admin.change(Command::SuspendUser { name }, touched).await
}

async fn resume(admin: Admin, Named(name): Named<UserName>) -> Result<Answer<UserRow>, Problem> {
    admin.change(Command::ResumeUser { name }, touched).await
}

async fn remove(admin: Admin, Named(name): Named<UserName>) -> Result<Answer<()>, Problem> {
    admin.remove(Command::RemoveUser { name }).await
}
