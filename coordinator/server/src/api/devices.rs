//! `/devices`: enrolled machines, by id or by name.

use std::net::SocketAddr;

use axum::{
    Json, Router,
    routing::{delete, get, post},
};
use postern_core::{Command, Core, Refusal, Touched};
use postern_model::{
    DeviceId, OverlayAddr, Posture, PublicKey, SiteName, UserName,
    record::{Device, Owner},
};
use serde::{Deserialize, Serialize};

use super::{
    answer::{Answer, Time},
    auth::Admin,
    problem::Problem,
    request::Named,
};
use crate::coordinator::Coordinator;

/// One device.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct DeviceRow {
    pub(crate) id: DeviceId,
    pub(crate) name: String,
    /// Whose it is, if a person's.
    pub(crate) user: Option<UserName>,
    /// Whose gateway it is, if one.
    pub(crate) site: Option<SiteName>,
    pub(crate) addr: OverlayAddr,
    pub(crate) revoked: bool,
    /// Whether it is a gateway that carries nothing for now.
    pub(crate) drained: bool,
    pub(crate) connected: bool,
    pub(crate) connected_since: Option<Time>,
    pub(crate) connected_from: Option<SocketAddr>,
    pub(crate) wireguard_key: PublicKey,
    pub(crate) posture: Posture,
    pub(crate) enrolled_at: Time,
}

pub(super) fn routes() -> Router<Coordinator> {
    Router::new()
        .route("/devices", get(list))
        .route("/devices/{device}", delete(remove))
        .route("/devices/{device}/revoke", post(revoke))
}

fn row(core: &Core, device: &Device) -> DeviceRow {
    let state = core.state();
    let (user, site) = match device.owner {
        Owner::User(id) => (state.users.get(&id).map(|user| user.name.clone()), None),
        Owner::Site(id) => (None, state.sites.get(&id).map(|site| site.name.clone())),
    };
    let presence = core.presence(device.id);
    DeviceRow {
        id: device.id,
        name: device.name.clone(),
        user,
        site,
        addr: device.addr,
        revoked: device.revoked,
        drained: device.drained,
        connected: presence.is_some(),
        connected_since: presence.map(|(since, _)| Time(since)),
        connected_from: presence.map(|(_, from)| from),
        wireguard_key: device.wireguard,
        posture: device.posture.clone(),
        enrolled_at: Time(device.enrolled_at),
    }
}

/// The device that an admin means by its id or its name.
pub(super) async fn named(admin: &Admin, text: String) -> Result<DeviceId, Problem> {
    let found = admin.coordinator.read(|core| {
        let state = core.state();
        let by_id = text.parse().ok().filter(|id| state.devices.contains_key(id));
        by_id.or_else(|| state.device_named(&text).map(|device| device.id))
    });
    let found = found.await;
    found.ok_or_else(|| Refusal::NotFound { kind: "device", name: text, list: "device list" }.into())
}

/// The row of a device that was touched.
pub(super) fn touched(core: &Core, touched: &Touched) -> Option<DeviceRow> {
    match touched {
        Touched::Device(id) => Some(row(core, core.state().devices.get(id)?)),
        _ => None,
    }
}

async fn list(admin: Admin) -> Json<Vec<DeviceRow>> {
    let mut rows = admin.list(|core| core.state().devices.values().map(|device| row(core, device)).collect()).await;
    rows.sort_by(|a: &DeviceRow, b| a.name.cmp(&b.name));
    rows
}

async fn revoke(admin: Admin, Named(device): Named<String>) -> Result<Answer<DeviceRow>, Problem> {
    let id = named(&admin, device).await?;
    admin.change(Command::RevokeDevice { id }, touched).await
}

async fn remove(admin: Admin, Named(device): Named<String>) -> Result<Answer<()>, Problem> {
    let id = named(&admin, device).await?;
    admin.remove(Command::RemoveDevice { id }).await
}
