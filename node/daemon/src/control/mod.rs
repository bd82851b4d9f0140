//! The coordinator's client: enrolment once, then a session for as long as the node is up.
//!
//! - [`enrol`]: a join token becomes an identity
//! - [`session`]: connects, and connects again; messages and access requests
//! - `tls`: the pinned key; `stream`: frames

pub mod enrol;
pub mod session;

mod stream;
mod tls;

use std::{
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use postern_model::{
    Sha256,
    token::{Host, HostPort},
};
use quinn::{Connection, ConnectionError, Endpoint};

/// How long a connection attempt may take.
const CONNECT: Duration = Duration::from_secs(10);
/// The name that TLS wants to hear; keys are pinned, so nobody checks it.
const SERVER_NAME: &str = "postern-coordinator";

/// Connects to the coordinator at any of its addresses.
async fn connect(
    coordinator: &HostPort,
    pin: Sha256,
    identity: Option<tls::DeviceCredential>,
) -> Result<(Endpoint, Connection)> {
    let config = tls::client_config(pin, identity)?;
    let mut last = None;
    for addr in resolve(coordinator).await? {
        match connect_to(addr, config.clone()).await {
            Ok(connected) => return Ok(connected),
            Err(error) => last = Some(error),
        }
    }
    match last {
        Some(error) => Err(error).with_context(|| format!("the coordinator at {coordinator} can't be reached")),
        None => bail!("the coordinator's name in {coordinator} has no address"),
    }
}

async fn connect_to(addr: SocketAddr, config: quinn::ClientConfig) -> Result<(Endpoint, Connection)> {
    let any = if addr.is_ipv6() {
        SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0))
    } else {
        SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0))
    };
    let mut endpoint = Endpoint::client(any)?;
    endpoint.set_default_client_config(config);
    let connecting = endpoint.connect(addr, SERVER_NAME)?;
    let connection = tokio::time::timeout(CONNECT, connecting).await.context("no answer came in time")?;
    Ok((endpoint, connection?))
}

async fn resolve(coordinator: &HostPort) -> Result<Vec<SocketAddr>> {
    match &coordinator.host {
        Host::Ip(ip) => Ok(vec![SocketAddr::new(*ip, coordinator.port)]),
        Host::Name(name) => {
            let found = tokio::net::lookup_host((name.as_str(), coordinator.port)).await;
            Ok(found.with_context(|| format!("the coordinator's name '{name}' can't be resolved"))?.collect())
        }
    }
}

/// The code with which the coordinator closed the connection, if that is what went wrong.
fn close_code(error: &anyhow::Error) -> Option<u32> {
    let closed = |error: &ConnectionError| match error {
        ConnectionError::ApplicationClosed(closed) => u32::try_from(closed.error_code.into_inner()).ok(),
        _ => None,
    };
    error.chain().find_map(|cause| {
        let read = cause.downcast_ref().and_then(|error| match error {
            quinn::ReadError::ConnectionLost(error) => Some(error),
            _ => None,
        });
        let written = cause.downcast_ref().and_then(|error| match error {
            quinn::WriteError::ConnectionLost(error) => Some(error),
            _ => None,
        });
        cause.downcast_ref::<ConnectionError>().or(read).or(written).and_then(closed)
    })
}
