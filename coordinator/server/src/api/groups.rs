//! `/groups`: sets of users.

use axum::{
    Json, Router,
    response::IntoResponse,
    routing::{delete, get, put},
};
use postern_core::{Command, Core, Touched};
use postern_model::{GroupId, GroupName, UserName, record::Group};
use serde::{Deserialize, Serialize};

use super::{
    answer::{Answer, Time},
    auth::Admin,
    problem::Problem,
    request::{Body, Named},
};
use crate::coordinator::Coordinator;

/// One group.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct GroupRow {
    pub(crate) id: GroupId,
    pub(crate) name: GroupName,
    pub(crate) members: Vec<UserName>,
    pub(crate) created_at: Time,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct NewGroup {
    name: GroupName,
}

pub(super) fn routes() -> Router<Coordinator> {
    Router::new()
        .route("/groups", get(list).post(add))
        .route("/groups/{name}", delete(remove))
        .route("/groups/{name}/members/{user}", put(add_member).delete(remove_member))
}

fn row(core: &Core, group: &Group) -> GroupRow {
    let state = core.state();
    let mut members: Vec<_> =
        state.members_of(group.id).filter_map(|id| Some(state.users.get(&id)?.name.clone())).collect();
    members.sort();
    GroupRow { id: group.id, name: group.name.clone(), members, created_at: Time(group.created_at) }
}

fn touched(core: &Core, touched: &Touched) -> Option<GroupRow> {
    let Touched::Group(id) = touched else { return None };
    Some(row(core, core.state().groups.get(id)?))
}

async fn list(admin: Admin) -> Json<Vec<GroupRow>> {
    let mut rows = admin.list(|core| core.state().groups.values().map(|group| row(core, group)).collect()).await;
    rows.sort_by(|a: &GroupRow, b| a.name.cmp(&b.name));
    rows
}

async fn add(admin: Admin, Body(new): Body<NewGroup>) -> Result<impl IntoResponse, Problem> {
    Ok(admin.change(Command::AddGroup { name: new.name }, touched).await?.created())
}

type Membership = Named<(GroupName, UserName)>;

async fn add_member(admin: Admin, Named((group, user)): Membership) -> Result<Answer<GroupRow>, Problem> {
    admin.change(Command::AddMember { group, user }, touched).await
}

async fn remove_member(admin: Admin, Named((group, user)): Membership) -> Result<Answer<GroupRow>, Problem> {
    admin.change(Command::RemoveMember { group, user }, touched).await
}

async fn remove(admin: Admin, Named(name): Named<GroupName>) -> Result<Answer<()>, Problem> {
    admin.remove(Command::RemoveGroup { name }).await
}
