//! A node that wants the relay inside the coordinator. It shows the same certificate as in its session.

use anyhow::{Context as _, Result, bail};
use postern_relay::Window;
use postern_wire::close;
use quinn::Connection;

use super::{Nodes, stream};
use postern_encap::shares::Prefix;

use crate::{certificates::DeviceIdentity, clock};

impl Nodes {
    /// Serves a connection that asked for the relay, to its end.
    pub(super) async fn relay(&self, connection: &Connection, window: &Window) -> Result<()> {
        let unauthorized = |why: &'static str| {
            connection.close(close::UNAUTHORIZED.into(), why.as_bytes());
            why
        };
        let certificate = stream::certificate(connection);
        let (Some(relay), Some(certificate)) = (&self.relay, certificate) else {
            bail!(unauthorized("a device certificate is needed"));
        };
        let Ok(identity) = DeviceIdentity::read(&certificate, clock::now()) else {
            bail!(unauthorized("the certificate names no device"));
        };
        let (device, number) = (identity.device, self.number());
        let source = Prefix::of(connection.remote_address().ip());
        let places = (self.newcomer_shares.take(source), self.newcomers.clone().try_acquire_owned());
        let (Some(share), Ok(permit)) = places else {
            connection.close(close::RETRY.into(), b"too many connections to the relay at once; try again in a moment");
            bail!("too many connections to the relay at once");
        };
        // Before the record is looked at: whoever is shut out from now on loses this connection too.
        let registry = &self.coordinator.registry;
        registry.add_relayed(device, number, connection.clone());
        if self.coordinator.read(|core| core.authorize_device(device, &identity.key)).await {
            window.open();
            relay.handle(connection.clone(), identity.key, (share, permit)).await;
            registry.remove_relayed(device, number);
            return Ok(());
        }
        registry.remove_relayed(device, number);
        let why = unauthorized("this device is revoked, removed or unknown");
        Err(anyhow::anyhow!(why)).with_context(|| format!("device {device}"))
    }
}
