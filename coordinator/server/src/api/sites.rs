//! `/sites`: the gateways that can reach the same targets.

use axum::{Json, Router, response::IntoResponse, routing::get};
use postern_core::{Command, Core, Touched};
use postern_model::{
    SiteId, SiteName,
    record::{Owner, Site},
};
use serde::{Deserialize, Serialize};

use super::{answer::Time, auth::Admin, problem::Problem, request::Body};
use crate::coordinator::Coordinator;

/// One site.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct SiteRow {
    pub(crate) id: SiteId,
    pub(crate) name: SiteName,
    /// Its gateways' names, but for revoked ones.
    pub(crate) gateways: Vec<String>,
    pub(crate) created_at: Time,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct NewSite {
    name: SiteName,
}

pub(super) fn routes() -> Router<Coordinator> {
    Router::new().route("/sites", get(list).post(add))
}

fn row(core: &Core, site: &Site) -> SiteRow {
    let gateways = core.state().devices_of(Owner::Site(site.id)).filter(|device| !device.revoked);
    let mut gateways: Vec<_> = gateways.map(|device| device.name.clone()).collect();
    gateways.sort();
    SiteRow { id: site.id, name: site.name.clone(), gateways, created_at: Time(site.created_at) }
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
