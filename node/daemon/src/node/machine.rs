//! What a node changes on the machine: the interface, routes, firewall, resolver and the sockets that answer on it.

use std::{collections::BTreeSet, path::Path, sync::Arc};

use anyhow::{Context as _, Result};
use postern_dataplane::LaneHandle;
use postern_engine::DnsVerdict;
use postern_model::{Fqdn, NetworkRanges, OverlayAddr, PublicKey};
use postern_wire::Welcome;
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinHandle,
};

use super::DnsQuery;
use crate::{
    dns::DnsStub,
    os::{Configured, NetworkConfig, interface::InterfaceName},
    uapi::{Uapi, UapiStatus},
};

/// What was set up, and for what.
struct SetUp {
    place: (OverlayAddr, NetworkRanges, bool),
    configured: Configured,
    dns: JoinHandle<()>,
}

/// The machine, as far as the node touches it.
pub(super) struct Machine {
    claim: InterfaceName,
    key: PublicKey,
    set_up: Option<SetUp>,
    uapi: Option<JoinHandle<()>>,
}

impl Machine {
    pub(super) fn new(claim: InterfaceName, key: PublicKey) -> Self {
        Self { claim, key, set_up: None, uapi: None }
    }

    /// The interface's name.
    pub(super) fn interface(&self) -> &str {
        self.claim.as_str()
    }

    /// This node's WireGuard key.
    pub(super) fn key(&self) -> PublicKey {
        self.key
    }

    /// Sets the machine up as the welcome says, unless it is so already.
    pub(super) async fn configure(
        &mut self,
        state_dir: &Path,
        welcome: &Welcome,
        queries: &mpsc::Sender<DnsQuery>,
    ) -> Result<()> {
        let place = (welcome.addr, welcome.ranges, welcome.site.is_some());
        if self.set_up.as_ref().is_some_and(|set_up| set_up.place == place) {
            return Ok(());
        }
        self.take_back().await;
        let config = NetworkConfig {
            interface: self.claim.as_str().to_owned(),
            addr: welcome.addr,
            ranges: welcome.ranges,
            zone: welcome.zone.clone(),
            is_gateway: welcome.site.is_some(),
        };
        let configured = Configured::apply(state_dir, &config).await?;
        let upstreams = configured.upstreams().to_vec();
        let stub = match DnsStub::bind(welcome.addr).await.context("names can't be answered on the overlay address") {
            Ok(stub) => stub,
            Err(error) => {
                undo(configured).await;
                return Err(error);
            }
        };
        let queries = queries.clone();
        let decide = move |query: Vec<u8>| {
            let queries = queries.clone();
            async move {
                let (answer, answered) = oneshot::channel();
                match queries.send((query, answer)).await {
                    Ok(()) => answered.await.unwrap_or(DnsVerdict::Drop),
                    Err(_) => DnsVerdict::Drop,
                }
            }
        };
        let dns = tokio::spawn(async move { stub.serve(upstreams, decide).await });
        self.set_up = Some(SetUp { place, configured, dns });
        Ok(())
    }

    /// Leads these names to this node, beside the zone's.
    pub(super) async fn set_aliases(&mut self, aliases: BTreeSet<Fqdn>) {
        let Some(set_up) = &mut self.set_up else { return };
        if let Err(error) = set_up.configured.set_aliases(aliases).await {
            tracing::warn!(error = format!("{error:#}"), "aliases of resources may not be found");
        }
    }

    /// Answers `wg show`. Whoever can't is still a node.
    pub(super) fn answer_wg<F>(&mut self, status: impl Fn() -> F + Clone + Send + Sync + 'static)
    where
        F: Future<Output = UapiStatus> + Send + 'static,
    {
        let uapi = match Uapi::bind(self.claim.as_str()) {
            Ok(uapi) => uapi,
            Err(error) => {
                tracing::warn!(%error, "'wg show' will not see this node");
                return;
            }
        };
        self.uapi = Some(tokio::spawn(async move { uapi.serve(status).await }));
    }

    /// Leaves the machine as it was found.
    pub(super) async fn undo(&mut self, lane: &Arc<LaneHandle>) {
        self.take_back().await;
        if let Some(uapi) = self.uapi.take() {
            uapi.abort();
            let _ = uapi.await;
        }
        let lane = Arc::clone(lane);
        let _ = tokio::task::spawn_blocking(move || lane.stop()).await;
    }

    async fn take_back(&mut self) {
        if let Some(SetUp { configured, dns, .. }) = self.set_up.take() {
            undo(configured).await;
            dns.abort();
            let _ = dns.await;
        }
    }
}

async fn undo(configured: Configured) {
    if let Err(error) = configured.undo().await {
        tracing::error!(error = format!("{error:#}"), "not everything could be set back; the next start tries again");
    }
}
