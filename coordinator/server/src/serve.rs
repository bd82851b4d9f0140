//! Starts everything, and ends it in order.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use postern_model::token::HostPort;

/// The port that nodes and the admin API share unless told otherwise.
pub const DEFAULT_PORT: u16 = 8443;

/// The admin socket's name inside the state directory.
pub const ADMIN_SOCKET: &str = "admin.sock";

/// What `serve` is told.
#[derive(Debug, Clone)]
pub struct ServeConfig {
    /// Where keys, database and admin socket are.
    pub state_dir: PathBuf,
    /// UDP for nodes and TCP for the admin API. `[::]:8443` (which takes IPv4 too) unless told.
    pub listen: Option<SocketAddr>,
    /// What goes into tokens. Kept for later starts; else the host's first address.
    pub public_address: Option<HostPort>,
    /// How long a grant holds unless renewed.
    pub lease: Duration,
}

/// Runs the coordinator until it is told to stop (SIGTERM, SIGINT).
///
/// # Errors
/// When it can't start, or can't go on.
#[allow(clippy::todo, clippy::unused_async, unused_variables)]
pub async fn serve(config: ServeConfig) -> anyhow::Result<()> {
    todo!()
}
