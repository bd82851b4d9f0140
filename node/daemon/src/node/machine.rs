//! What a node changes on the machine: the interface, routes, firewall, resolver and the sockets that answer on it.

use std::{collections::BTreeSet, net::SocketAddr, path::Path, sync::Arc};

use anyhow::{Context as _, Result};
use postern_dataplane::LaneHandle;
use postern_engine::DnsVerdict;
use postern_model::{Fqdn, Moment, NetworkRanges, OverlayAddr, PublicKey};
use postern_wire::Welcome;
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::JoinHandle,
};

use super::DnsQuery;
use crate::{
    dns::DnsStub,
    os::{Configured, Names, NetworkConfig, interface::InterfaceName},
    uapi::{Uapi, UapiStatus},
};

/// What was set up, and for what.
struct SetUp {
    place: (OverlayAddr, NetworkRanges, bool),
    configured: Configured,
    upstreams: watch::Sender<Arc<[SocketAddr]>>,
    dns: JoinHandle<()>,
    watch: JoinHandle<()>,
    /// Tells that the machine's interfaces have changed.
    links: watch::Sender<()>,
    firewall: JoinHandle<()>,
    names: Option<Names>,
}

/// The machine, as far as the node touches it.
pub(super) struct Machine {
    claim: InterfaceName,
    key: PublicKey,
    /// Told of changes of the machine's resolver.
    resolver_news: mpsc::Sender<()>,
    set_up: Option<SetUp>,
    uapi: Option<JoinHandle<()>>,
}

impl Machine {
    /// `resolver_news` is where to say that [`follow_resolver`](Self::follow_resolver) is to be called.
    pub(super) fn new(claim: InterfaceName, key: PublicKey, resolver_news: mpsc::Sender<()>) -> Self {
        Self { claim, key, resolver_news, set_up: None, uapi: None }
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
        let mut configured = Configured::apply(state_dir, config).await?;
        let (upstreams, latest_upstreams) = watch::channel(configured.upstreams().into());
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
        let dns = tokio::spawn(async move { stub.serve(latest_upstreams, decide).await });
        let watch = configured.watch_resolver(self.resolver_news.clone());
        let concern = configured.concern();
        tokio::spawn(async move {
            if let Some(concern) = concern.await {
                tracing::warn!("{concern}");
            }
        });
        let (links, latest_links) = watch::channel(());
        let (firewall, names) = (configured.keep_firewall(latest_links), configured.lead_names());
        self.set_up = Some(SetUp { place, configured, upstreams, dns, watch, links, firewall, names });
        Ok(())
    }

    /// The machine's interfaces have changed.
    pub(super) fn follow_links(&self) {
        if let Some(set_up) = &self.set_up {
            set_up.links.send_replace(());
        }
    }

    /// When to call [`follow_resolver`](Self::follow_resolver) even without news.
    pub(super) fn poll_timeout(&self) -> Option<Moment> {
        self.set_up.as_ref().and_then(|set_up| set_up.configured.poll_timeout())
    }

    /// The machine's resolver may have changed.
    pub(super) fn follow_resolver(&mut self, now: Moment) {
        let Some(set_up) = &mut self.set_up else { return };
        let before = set_up.configured.watched();
        if let Err(error) = set_up.configured.follow_resolver(now) {
            tracing::warn!(error = format!("{error:#}"), "names of resources may not be found");
        }
        set_up.upstreams.send_replace(set_up.configured.upstreams().into());
        // What stands in the place of a file now may be a link that leads elsewhere.
        if set_up.configured.watched() != before {
            set_up.watch.abort();
            set_up.watch = set_up.configured.watch_resolver(self.resolver_news.clone());
        }
    }

    /// What on the machine keeps the node from doing all that it should; found out when awaited, away from the node's task.
    pub(super) fn concern(&self) -> impl Future<Output = Option<String>> + Send + use<> {
        let concern = self.set_up.as_ref().map(|set_up| set_up.configured.concern());
        async move {
            match concern {
                Some(concern) => concern.await,
                None => None,
            }
        }
    }

    /// Leads these names to this node, beside the zone's. That takes its time elsewhere; what is returned ends with it.
    pub(super) fn set_aliases(&self, aliases: BTreeSet<Fqdn>) -> impl Future<Output = ()> + Send + use<> {
        let told = self.set_up.as_ref().and_then(|set_up| set_up.names.as_ref()).map(|names| names.set(aliases));
        async move {
            if let Some(told) = told {
                told.await;
            }
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
        if let Some(SetUp { configured, dns, watch, links, firewall, names, .. }) = self.set_up.take() {
            watch.abort();
            // Nothing is put up again from here on.
            drop(links);
            let _ = firewall.await;
            if let Some(names) = names {
                names.end().await;
            }
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
