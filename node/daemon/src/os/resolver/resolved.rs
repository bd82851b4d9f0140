//! systemd-resolved, told over D-Bus. Each call has a limit: a bus that hangs must not hang the node.

use std::{path::Path, time::Duration};

use anyhow::{Context as _, Result};
use postern_model::Fqdn;
use serde::Serialize;

use super::{RESOLV_CONF, is_in_the_namespace_of_init};
use crate::os::{NetworkConfig, interface::index_of};

/// The servers that systemd-resolved itself asks, as it writes them down for others.
pub(super) const UPLINK: &str = "/run/systemd/resolve/resolv.conf";
/// How long the bus, or systemd-resolved, may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// Whether names go through it: it owns `/etc/resolv.conf`, and this process is where it is.
pub(super) fn is_in_charge() -> bool {
    let leads_to_it =
        std::fs::canonicalize(RESOLV_CONF).is_ok_and(|path| path.starts_with(Path::new("/run/systemd/resolve")));
    leads_to_it && is_in_the_namespace_of_init() == Some(true)
}

/// Tells it to ask this node for the zone's names.
pub(super) async fn tell(config: &NetworkConfig) -> Result<()> {
    let resolved = Resolved::connect().await?;
    let index = index_of(&config.interface).with_context(|| format!("the interface {} is gone", config.interface))?;
    let index = i32::try_from(index)?;
    let (v4, v6) = (config.addr.v4.octets().to_vec(), config.addr.v6.octets().to_vec());
    let servers = [(rustix::net::AddressFamily::INET, v4), (rustix::net::AddressFamily::INET6, v6)];
    let servers: Vec<_> = servers.into_iter().map(|(family, bytes)| (i32::from(family.as_raw()), bytes)).collect();
    resolved.call("SetLinkDNS", &(index, servers)).await?;
    resolved.call("SetLinkDefaultRoute", &(index, false)).await?;
    tell_names(&config.interface, &[&config.zone]).await
}

/// Tells it which names, and what lies below them, to ask this node for; and for nothing else.
pub(super) async fn tell_names(interface: &str, names: &[&Fqdn]) -> Result<()> {
    let resolved = Resolved::connect().await?;
    let index = index_of(interface).with_context(|| format!("the interface {interface} is gone"))?;
    let names: Vec<_> = names.iter().map(|name| (name.as_str(), true)).collect();
    resolved.call("SetLinkDomains", &(i32::try_from(index)?, names)).await?;
    resolved.call("FlushCaches", &()).await
}

/// Tells it to forget the interface; one that is gone is forgotten already.
pub(in crate::os) async fn revert(interface: &str) -> Result<()> {
    let Ok(index) = index_of(interface) else { return Ok(()) };
    Resolved::connect().await?.call("RevertLink", &(i32::try_from(index)?,)).await
}

struct Resolved(zbus::Connection);

impl Resolved {
    async fn connect() -> Result<Self> {
        let connected = in_time(PATIENCE, zbus::Connection::system()).await;
        Ok(Self(connected.context("the system bus can't be reached")?))
    }

    async fn call<B>(&self, method: &str, body: &B) -> Result<()>
    where
        B: Serialize + zbus::zvariant::DynamicType,
    {
        let (name, path) = ("org.freedesktop.resolve1", "/org/freedesktop/resolve1");
        let call = self.0.call_method(Some(name), path, Some("org.freedesktop.resolve1.Manager"), method, body);
        in_time(PATIENCE, call).await.with_context(|| format!("systemd-resolved refuses {method}"))?;
        Ok(())
    }
}

async fn in_time<T>(patience: Duration, work: impl Future<Output = zbus::Result<T>>) -> Result<T> {
    let done = tokio::time::timeout(patience, work).await;
    Ok(done.with_context(|| format!("no answer within {patience:?}"))??)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_bus_that_never_answers_is_given_up() {
        let never = std::future::pending::<zbus::Result<()>>();
        let error = in_time(Duration::from_millis(10), never).await.unwrap_err();
        assert!(format!("{error:#}").contains("no answer within 10ms"), "{error:#}");
    }
}
