//! `/sites`: the gateways that can reach the same targets.

use axum::{
    Json, Router,
    response::IntoResponse,
    routing::{get, post},
};
use postern_core::{Command, Core, Touched};
use postern_model::{
    SiteId, SiteName,
    record::{Owner, Site},
};
use serde::{Deserialize, Serialize};

use super::{
    answer::{Answer, Time},
    auth::Admin,
    devices::{self, DeviceRow},
    problem::Problem,
    request::{Asked, Body, Named, Nothing},
};
use crate::coordinator::Coordinator;

/// One site.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct SiteRow {
    pub(crate) id: SiteId,
    pub(crate) name: SiteName,
    /// Its gateways' names, but for revoked ones.
    pub(crate) gateways: Vec<String>,
    /// Those of them that are drained.
    pub(crate) drained: Vec<String>,
    pub(crate) created_at: Time,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct NewSite {
    name: SiteName,
}

/// How a gateway is to be drained.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct How {
    /// Also if no other one of its site is in service.
    #[serde(default)]
    force: bool,
}

pub(super) fn routes() -> Router<Coordinator> {
    Router::new().route("/sites", get(list).post(add))
}

/// Those that take a query.
pub(super) fn gateways() -> Router<Coordinator> {
    Router::new()
        .route("/sites/{site}/gateways/{device}/drain", post(drain))
        .route("/sites/{site}/gateways/{device}/undrain", post(undrain))
}

fn row(core: &Core, site: &Site) -> SiteRow {
    let gateways = core.state().devices_of(Owner::Site(site.id)).filter(|device| !device.revoked);
    let mut gateways: Vec<_> = gateways.map(|device| (device.name.clone(), device.drained)).collect();
    gateways.sort();
    let drained = gateways.iter().filter(|(_, drained)| *drained).map(|(name, _)| name.clone()).collect();
    let gateways = gateways.into_iter().map(|(name, _)| name).collect();
    SiteRow { id: site.id, name: site.name.clone(), gateways, drained, created_at: Time(site.created_at) }
}

async fn list(admin: Admin) -> Json<Vec<SiteRow>> {
    let mut rows = admin.list(|core| core.state().sites.values().map(|site| row(core, site)).collect()).await;
    rows.sort_by(|a: &SiteRow, b| a.name.cmp(&b.name));
    rows
}

async fn add(admin: Admin, Body(new): Body<NewSite>) -> Result<impl IntoResponse, Problem> {
    let touched = |core: &Core, touched: &Touched| match touched {
        Touched::Site(id) => Some(row(core, core.state().sites.get(id)?)),
        _ => None,
    };
    Ok(admin.change(Command::AddSite { name: new.name }, touched).await?.created())
}

async fn drain(
    admin: Admin,
    Named((site, device)): Named<(SiteName, String)>,
    Asked(How { force }): Asked<How>,
) -> Result<Answer<DeviceRow>, Problem> {
    let id = devices::named(&admin, device).await?;
    admin.change(Command::DrainGateway { site, id, is_forced: force }, devices::touched).await
}

async fn undrain(
    admin: Admin,
    Named((site, device)): Named<(SiteName, String)>,
    _: Asked<Nothing>,
) -> Result<Answer<DeviceRow>, Problem> {
    let id = devices::named(&admin, device).await?;
    admin.change(Command::UndrainGateway { site, id }, devices::touched).await
}
