//! The admin HTTP API, under `/api/v1`: JSON in and out, refusals as `problem`s.
//!
//! Each mutating route is one [`postern_core::Command`]; each list copies its rows out of the state and is encoded after
//! that, so that no change waits for a slow reader. The rows speak in names, and every one has its `id`. They are also what
//! the command line reads.
//!
//! - `auth`: who may ask; `request`: what is asked; `answer`, `problem`: what comes of it
//! - one file per thing: its rows and its routes

pub(crate) mod activity;
pub(crate) mod advice;
pub(crate) mod api_keys;
pub(crate) mod audit;
pub(crate) mod changes;
pub(crate) mod declaration;
pub(crate) mod devices;
pub(crate) mod grants;
pub(crate) mod groups;
pub(crate) mod inquiry;
pub(crate) mod policies;
pub(crate) mod relays;
pub(crate) mod resources;
pub(crate) mod shadows;
pub(crate) mod sites;
pub(crate) mod tokens;
pub(crate) mod users;

pub(crate) mod answer;
pub(crate) mod problem;

mod auth;
mod request;
#[cfg(test)]
mod tests;

use axum::{
    Router,
    extract::DefaultBodyLimit,
    http::{Method, StatusCode, Uri},
    middleware,
};
use problem::Problem;

use crate::coordinator::Coordinator;

/// Where all routes are.
pub(crate) const PREFIX: &str = "/api/v1";

/// The longest body; the largest honest one is a resource with all its aliases.
const MAX_BODY: usize = 64 * 1024;

/// All routes. The doors add through which of them a request came
/// ([`ApiOrigin`](crate::coordinator::ApiOrigin)); without that, none is let in.
pub fn router(coordinator: Coordinator) -> Router {
    let plain = Router::new()
        .merge(users::routes())
        .merge(groups::routes())
        .merge(sites::routes())
        .merge(resources::routes())
        .merge(policies::routes())
        .merge(declaration::routes())
        .merge(shadows::routes())
        .merge(relays::routes())
        .merge(tokens::routes())
        .merge(devices::routes())
        .merge(grants::routes())
        .merge(changes::routes())
        .merge(api_keys::routes())
        .route_layer(middleware::from_fn(request::no_query));
    let routes = plain.merge(audit::routes()).merge(activity::routes()).merge(inquiry::routes());
    let routes = routes.merge(sites::gateways()).merge(shadows::reports()).merge(advice::routes());
    Router::new()
        .nest(PREFIX, routes)
        .fallback(no_route)
        .method_not_allowed_fallback(no_method)
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .layer(middleware::from_fn_with_state(coordinator.clone(), auth::authenticate))
        .with_state(coordinator)
}

async fn no_route(uri: Uri) -> Problem {
    Problem::new(StatusCode::NOT_FOUND, format!("there is no '{}' in this API, which is under {PREFIX}", uri.path()))
}

async fn no_method(method: Method, uri: Uri) -> Problem {
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, format!("{method} is not possible on '{}'", uri.path()))
}
