//! `/grants`: who may reach what right now. They come from decisions, so there is nothing to change here.

use axum::{Json, Router, routing::get};
use postern_core::Core;
use postern_model::{Filter, GrantId, PolicyId, ResourceName, UserName, grant::Grant};
use serde::{Deserialize, Serialize};

use super::{answer::Time, auth::Admin};
use crate::coordinator::Coordinator;

/// One grant in force.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct GrantRow {
    pub(crate) id: GrantId,
    /// The device's name.
    pub(crate) device: String,
    /// Whose it is, if a person's.
    pub(crate) user: Option<UserName>,
    pub(crate) resource: ResourceName,
    /// The name of the gateway that carries it.
    pub(crate) gateway: String,
    pub(crate) policy: PolicyId,
    pub(crate) filter: Filter,
    pub(crate) granted_at: Time,
    pub(crate) expires_at: Time,
}

pub(super) fn routes() -> Router<Coordinator> {
    Router::new().route("/grants", get(list))
}

fn row(core: &Core, grant: &Grant) -> Option<GrantRow> {
    let state = core.state();
    let device = state.devices.get(&grant.device)?;
    Some(GrantRow {
        id: grant.id,
        device: device.name.clone(),
        user: state.user_of(device).map(|user| user.name.clone()),
        resource: state.resources.get(&grant.resource)?.name.clone(),
        gateway: state.devices.get(&grant.gateway)?.name.clone(),
        policy: grant.policy,
        filter: grant.filter.clone(),
        granted_at: Time(grant.granted_at),
        expires_at: Time(grant.expires_at),
    })
}

async fn list(admin: Admin) -> Json<Vec<GrantRow>> {
    let mut rows = admin.list(|core| core.state().grants.values().filter_map(|it| row(core, it)).collect()).await;
    rows.sort_by_key(|row: &GrantRow| row.granted_at.0);
    rows
}
