//! [`Daemon`]: the process that runs for as long as the machine does, with a node in it whenever one is wanted.

use std::{net::IpAddr, path::Path, sync::Arc};

use anyhow::{Context as _, Result, bail};
use postern_model::JoinToken;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::Mutex,
};
use zeroize::Zeroizing;

use crate::{
    control::enrol,
    local::{
        protocol::{DownReply, PingReply, Request, ResourceRow, Status, UpReply, WhoisReply},
        server::{self, to_line},
    },
    node::NodeHandle,
    os, ping,
    state_dir::{Identity, Settings, StateDir},
};

/// The daemon's state, for the local API.
#[derive(Debug)]
pub struct Daemon {
    state: Arc<StateDir>,
    /// Tells this daemon's life from another's with the same identity.
    instance: [u8; 16],
    node: Mutex<Option<NodeHandle>>,
}

/// Runs until told to stop (SIGTERM, SIGINT). The machine is left as it was found; what was wanted stays wanted.
///
/// # Errors
/// When it can't start.
pub async fn run(state_dir: &Path) -> Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let state = Arc::new(StateDir::open(state_dir)?);
    // Ahead of everything else: what a crashed daemon left, such as a resolver that nobody answers.
    os::recover(state.path()).await.context("what an earlier run left can't be undone")?;
    let mut instance = [0; 16];
    getrandom::fill(&mut instance)?;
    let daemon = Arc::new(Daemon { state, instance, node: Mutex::new(None) });
    let listener = server::bind(daemon.state.path())?;
    daemon.resume().await;
    tell_service_manager(sd_notify::NotifyState::Ready);
    let serving = Arc::clone(&daemon);
    let respond = move |request| {
        let daemon = Arc::clone(&serving);
        async move { daemon.respond(request).await }
    };
    tokio::select! {
        () = server::serve(listener, respond) => {}
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    tell_service_manager(sd_notify::NotifyState::Stopping);
    if let Some(node) = daemon.node.lock().await.take() {
        node.stop().await;
    }
    let _ = std::fs::remove_file(state_dir.join(crate::state_dir::SOCKET));
    tracing::info!("stopped");
    Ok(())
}

/// Does nothing without a service manager that waits for it (sd_notify(3)).
fn tell_service_manager(state: sd_notify::NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(&[state]) {
        tracing::warn!(%error, "the service manager can't be told");
    }
}

impl Daemon {
    /// Brings the node up if it was up when the last daemon ended.
    async fn resume(&self) {
        let wanted = self.state.settings().is_ok_and(|settings| settings.up);
        match self.state.identity() {
            Ok(Some(identity)) if wanted => {
                if let Err(error) = self.start(identity, &mut *self.node.lock().await) {
                    tracing::error!(error = format!("{error:#}"), "the node can't come up");
                }
            }
            Ok(_) => {}
            Err(error) => tracing::error!(error = format!("{error:#}"), "the node can't come up"),
        }
    }

    fn start(&self, identity: Identity, place: &mut Option<NodeHandle>) -> Result<NodeHandle> {
        let node = NodeHandle::start(Arc::clone(&self.state), identity, self.instance)?;
        *place = Some(node.clone());
        Ok(node)
    }

    async fn respond(&self, request: Request) -> Result<String> {
        match request {
            Request::Up { token } => to_line(self.up(token).await),
            Request::Down => to_line(self.down().await),
            Request::Logout => to_line(self.logout().await),
            Request::Status => to_line(self.status().await),
            Request::Resources => to_line(self.resources().await),
            Request::Ping { resource, count } => to_line(self.ping(&resource, count).await),
            Request::Whois { addr } => to_line(self.whois(addr).await),
        }
    }

    /// Enrols if there is a token, and comes up.
    async fn up(&self, token: Option<Zeroizing<String>>) -> Result<UpReply> {
        let node = {
            let mut place = self.node.lock().await;
            let identity = match (self.state.identity()?, token) {
                (Some(identity), Some(_)) => bail!(
                    "this device is enrolled already, as '{}': run 'postern up' without a token, or 'postern logout' first",
                    identity.name
                ),
                (Some(identity), None) => identity,
                (None, None) => {
                    bail!("this device is not enrolled: ask your admin for a join token and run 'postern up TOKEN'")
                }
                (None, Some(token)) => {
                    let token: JoinToken = token.parse()?;
                    let identity = enrol::enrol(&token, os::posture()).await?;
                    self.state.set_identity(&identity)?;
                    identity
                }
            };
            self.state.set_settings(&Settings { up: true, ..self.state.settings()? })?;
            match place.take() {
                Some(node) if !node.has_ended().await => {
                    *place = Some(node.clone());
                    node
                }
                ended => {
                    if let Some(ended) = ended {
                        ended.stop().await;
                    }
                    self.start(identity, &mut place)?
                }
            }
        };
        node.usable().await?;
        Ok(UpReply { status: self.status().await?, resources: self.resources().await? })
    }

    /// Takes the node down.
    async fn down(&self) -> Result<DownReply> {
        let mut place = self.node.lock().await;
        self.state.set_settings(&Settings { up: false, ..self.state.settings()? })?;
        let node = place.take();
        let was_up = node.is_some();
        if let Some(node) = node {
            node.stop().await;
        }
        Ok(DownReply { was_up, was_enrolled: self.state.identity().is_ok_and(|identity| identity.is_some()) })
    }

    /// Takes the node down and forgets its identity.
    async fn logout(&self) -> Result<DownReply> {
        let down = self.down().await?;
        self.state.forget_identity()?;
        Ok(down)
    }

    /// How it is.
    async fn status(&self) -> Result<Status> {
        let node = self.node.lock().await.clone();
        match node {
            Some(node) => node.status().await,
            None => {
                let identity = self.state.identity();
                let problem = identity.as_ref().err().map(|error| format!("{error:#}"));
                let identity = identity.ok().flatten();
                Ok(Status {
                    enrolled: identity.is_some(),
                    problem,
                    id: identity.as_ref().map(|identity| identity.device),
                    name: identity.as_ref().map(|identity| identity.name.clone()),
                    coordinator: identity.as_ref().map(|identity| identity.coordinator.to_string()),
                    ..Status::default()
                })
            }
        }
    }

    /// What it may reach.
    async fn resources(&self) -> Result<Vec<ResourceRow>> {
        self.running().await?.resources().await
    }

    /// Reaches a resource.
    async fn ping(&self, resource: &str, count: u32) -> Result<PingReply> {
        let node = self.running().await?;
        let rows = node.resources().await?;
        let named = |row: &&ResourceRow| {
            row.name.as_str() == resource
                || row.fqdn.as_str() == resource
                || row.aliases.iter().any(|alias| alias.as_str() == resource)
        };
        let row = rows.iter().find(named);
        let row =
            row.with_context(|| format!("there is no resource '{resource}' for this device; see 'postern resources'"))?;
        node.grant(row.id).await?;
        let (with, milliseconds) = ping::ping(row, count).await?;
        let gateway = node.gateway_of(row.id).await?;
        let endpoint = node.status().await?.peers.into_iter().find(|peer| Some(peer.id) == gateway);
        let endpoint = endpoint.and_then(|peer| peer.endpoint);
        Ok(PingReply { id: row.id, name: row.name.clone(), with, gateway, endpoint, milliseconds })
    }

    /// Who has an overlay address.
    async fn whois(&self, addr: IpAddr) -> Result<WhoisReply> {
        let found = self.running().await?.whois(addr).await?;
        found.with_context(|| {
            format!(
                "no device with a grant through this gateway has the address {addr} (a node knows only its own clients)"
            )
        })
    }

    async fn running(&self) -> Result<NodeHandle> {
        self.node.lock().await.clone().context("the node is down; run 'postern up'")
    }
}
