//! `/resources`: what is protected.

use std::collections::BTreeSet;

use axum::{
    Json, Router,
    response::IntoResponse,
    routing::{get, patch},
};
use postern_core::{Command, Core, ResourceEdit, Touched};
use postern_model::{
    Filter, Fqdn, OverlayAddr, PortSet, ResourceId, ResourceName, SiteName, TagName, Target, record::Resource,
};
use serde::{Deserialize, Serialize};

use super::{
    answer::{Answer, Time},
    auth::Admin,
    problem::Problem,
    request::{Body, Named},
};
use crate::coordinator::Coordinator;

/// One resource.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct ResourceRow {
    pub(crate) id: ResourceId,
    pub(crate) name: ResourceName,
    /// The name under which it answers.
    pub(crate) fqdn: Fqdn,
    pub(crate) aliases: Vec<Fqdn>,
    pub(crate) tags: Vec<TagName>,
    pub(crate) site: SiteName,
    pub(crate) target: Target,
    pub(crate) tcp: PortSet,
    pub(crate) udp: PortSet,
    pub(crate) icmp: bool,
    pub(crate) addr: OverlayAddr,
    pub(crate) created_at: Time,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct NewResource {
    name: ResourceName,
    site: SiteName,
    target: Target,
    #[serde(default)]
    tcp: PortSet,
    #[serde(default)]
    udp: PortSet,
    #[serde(default)]
    icmp: bool,
    #[serde(default)]
    aliases: Vec<Fqdn>,
    #[serde(default)]
    tags: BTreeSet<TagName>,
}

/// What is left out stays as it is.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Edit {
    target: Option<Target>,
    tcp: Option<PortSet>,
    udp: Option<PortSet>,
    icmp: Option<bool>,
    aliases: Option<Vec<Fqdn>>,
    tags: Option<BTreeSet<TagName>>,
}

pub(super) fn routes() -> Router<Coordinator> {
    Router::new().route("/resources", get(list).post(add)).route("/resources/{name}", patch(edit).delete(remove))
}

fn row(core: &Core, resource: &Resource) -> Option<ResourceRow> {
    let state = core.state();
    let Resource { id, name, aliases, tags, site, target, filter, addr, created_at } = resource.clone();
    Some(ResourceRow {
        id,
        fqdn: name.in_zone(&state.network.zone),
        name,
        aliases,
        tags: tags.into_iter().collect(),
        site: state.sites.get(&site)?.name.clone(),
        target,
        tcp: filter.tcp,
        udp: filter.udp,
        icmp: filter.icmp,
        addr,
        created_at: Time(created_at),
    })
}

fn touched(core: &Core, touched: &Touched) -> Option<ResourceRow> {
    let Touched::Resource(id) = touched else { return None };
    row(core, core.state().resources.get(id)?)
}

async fn list(admin: Admin) -> Json<Vec<ResourceRow>> {
    let mut rows = admin.list(|core| core.state().resources.values().filter_map(|it| row(core, it)).collect()).await;
    rows.sort_by(|a: &ResourceRow, b| a.name.cmp(&b.name));
    rows
}

async fn add(admin: Admin, Body(new): Body<NewResource>) -> Result<impl IntoResponse, Problem> {
    let NewResource { name, site, target, tcp, udp, icmp, aliases, tags } = new;
    let command = Command::AddResource { name, site, target, filter: Filter { tcp, udp, icmp }, aliases, tags };
    Ok(admin.change(command, touched).await?.created())
}

async fn edit(
    admin: Admin,
    Named(name): Named<ResourceName>,
    Body(edit): Body<Edit>,
) -> Result<Answer<ResourceRow>, Problem> {
    let Edit { target, tcp, udp, icmp, aliases, tags } = edit;
    let command =
        Command::EditResource { name, edit: ResourceEdit { site: None, target, tcp, udp, icmp, aliases, tags } };
    admin.change(command, touched).await
}

async fn remove(admin: Admin, Named(name): Named<ResourceName>) -> Result<Answer<()>, Problem> {
    admin.remove(Command::RemoveResource { name }).await
}
