//! `/relays`: where nodes meet that can't reach each other.

use axum::{
    Json, Router,
    response::IntoResponse,
    routing::{delete, get},
};
use postern_core::{Command, Core, Touched};
use postern_model::{RelayId, RelayName, Sha256, TrustKey, record::Relay, token::HostPort};
use serde::{Deserialize, Serialize};

use super::{
    answer::{Answer, Time},
    auth::Admin,
    problem::Problem,
    request::{Body, Named},
};
use crate::coordinator::Coordinator;

/// One relay.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct RelayRow {
    pub(crate) id: RelayId,
    pub(crate) name: String,
    pub(crate) address: HostPort,
    pub(crate) pin: Sha256,
    /// How many devices that are connected wait there.
    pub(crate) nodes: usize,
    /// When it was added; the coordinator's own never was.
    pub(crate) created_at: Option<Time>,
}

/// All relays, and what one that runs on its own is to trust.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct RelayRows {
    /// For `relay serve --trust`.
    pub(crate) trust: Option<TrustKey>,
    pub(crate) relays: Vec<RelayRow>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct NewRelay {
    name: RelayName,
    address: HostPort,
    pin: Sha256,
}

pub(super) fn routes() -> Router<Coordinator> {
    Router::new().route("/relays", get(list).post(add)).route("/relays/{name}", delete(remove))
}

fn row(core: &Core, relay: &Relay) -> RelayRow {
    RelayRow {
        id: relay.id,
        name: relay.name.to_string(),
        address: relay.address.clone(),
        pin: relay.pin,
        nodes: core.waiting_at(relay.id),
        created_at: Some(Time(relay.created_at)),
    }
}

fn rows(core: &Core) -> RelayRows {
    let state = core.state();
    let added = |id: &RelayId| state.relays.get(id).map(|relay| Time(relay.created_at));
    let relays = core.relays().into_iter().map(|relay| RelayRow {
        nodes: core.waiting_at(relay.id),
        created_at: added(&relay.id),
        id: relay.id,
        name: relay.name,
        address: relay.address,
        pin: relay.pin,
    });
    RelayRows { trust: core.trust_key(), relays: relays.collect() }
}

async fn list(admin: Admin) -> Json<RelayRows> {
    Json(admin.coordinator.read(rows).await)
}

async fn add(admin: Admin, Body(new): Body<NewRelay>) -> Result<impl IntoResponse, Problem> {
    let touched = |core: &Core, touched: &Touched| match touched {
        Touched::Relay(id) => Some(row(core, core.state().relays.get(id)?)),
        _ => None,
    };
    let NewRelay { name, address, pin } = new;
    Ok(admin.change(Command::AddRelay { name, address, pin }, touched).await?.created())
}

async fn remove(admin: Admin, Named(name): Named<RelayName>) -> Result<Answer<()>, Problem> {
    admin.remove(Command::RemoveRelay { name }).await
}
