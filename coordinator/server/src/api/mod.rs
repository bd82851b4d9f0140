//! The admin HTTP API.

use crate::coordinator::Coordinator;

/// All routes.
#[allow(clippy::needless_pass_by_value)]
pub fn router(coordinator: Coordinator) -> axum::Router {
    drop(coordinator);
    axum::Router::new()
}
