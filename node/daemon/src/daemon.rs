//! [`Daemon`]: the process that runs for as long as the machine does, with a node in it whenever one is wanted.

use std::{
    net::IpAddr,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use postern_model::{DenyReason, JoinToken};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::watch,
};
use zeroize::Zeroizing;

use crate::{
    control::enrol,
    local::{
        protocol::{DownReply, ExplainedReply, PingReply, Request, ResourceRow, Status, UpReply, WhoisReply},
        server::{self, to_line},
    },
    netcheck::{self, Known, Report},
    node::NodeHandle,
    os::{self, interface::InterfaceName},
    ping,
    state_dir::{Identity, Settings, StateDir},
};

/// How long a coordinator may take to enrol this device.
const ENROL: Duration = Duration::from_secs(30);

/// The daemon's state, for the local API.
#[derive(Debug)]
pub struct Daemon {
    state: Arc<StateDir>,
    /// Tells this daemon's life from another's with the same identity.
    instance: [u8; 16],
    /// The node, if there is one; never locked for longer than it takes to look.
    node: Mutex<Option<NodeHandle>>,
    /// Why a node that should have come up with the daemon did not.
    trouble: Mutex<Option<String>>,
    /// Held by whoever starts or stops a node, which may take long.
    change: tokio::sync::Mutex<()>,
    /// Counts what ends an enrolment that is under way.
    ends: watch::Sender<u64>,
}

/// Runs until told to stop (SIGTERM, SIGINT, SIGHUP, SIGQUIT). The machine is left as it was found; what was wanted stays
/// wanted.
///
/// # Errors
/// When it can't start.
pub async fn run(state_dir: &Path) -> Result<()> {
    let mut stop = StopSignals::listen()?;
    // Keys are in its memory: none of it goes into a core file, nor to another program of the same user.
    rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable)?;
    let state = Arc::new(StateDir::open(state_dir)?);
    // Ahead of everything else: what a crashed daemon left, such as a resolver that nobody answers.
    os::recover(state.path()).await.context("what an earlier run left can't be undone")?;
    let mut instance = [0; 16];
    getrandom::fill(&mut instance)?;
    let daemon = Arc::new(Daemon {
        state,
        instance,
        node: Mutex::new(None),
        trouble: Mutex::new(None),
        change: tokio::sync::Mutex::new(()),
        ends: watch::Sender::new(0),
    });
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
        () = stop.received() => {}
    }
    tell_service_manager(sd_notify::NotifyState::Stopping);
    let _changing = daemon.end_enrolment().await;
    if let Some(node) = daemon.take_node() {
        node.stop().await;
    }
    let _ = std::fs::remove_file(state_dir.join(crate::state_dir::SOCKET));
    tracing::info!("stopped");
    Ok(())
}

/// All that ask a process to end. A hangup does so too: there is nothing to read anew, and it would end it otherwise.
struct StopSignals([Signal; 4]);

impl StopSignals {
    fn listen() -> Result<Self> {
        let [terminate, interrupt] = [signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?];
        Ok(Self([terminate, interrupt, signal(SignalKind::hangup())?, signal(SignalKind::quit())?]))
    }

    async fn received(&mut self) {
        let [terminate, interrupt, hangup, quit] = &mut self.0;
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
            _ = hangup.recv() => {}
            _ = quit.recv() => {}
        }
    }
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
        let _changing = self.change.lock().await;
        let wanted = self.state.settings().is_ok_and(|settings| settings.up);
        let resumed = match self.state.identity() {
            Ok(Some(identity)) if wanted => InterfaceName::claim().and_then(|claim| self.start(identity, claim)),
            Ok(_) => return,
            Err(error) => Err(error),
        };
        if let Err(error) = resumed {
            let why = format!("{error:#}");
            tracing::error!(error = why, "the node can't come up");
            self.set_trouble(Some(why));
        }
    }

    fn set_trouble(&self, trouble: Option<String>) {
        *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = trouble;
    }

    fn start(&self, identity: Identity, claim: InterfaceName) -> Result<NodeHandle> {
        let node = NodeHandle::start(Arc::clone(&self.state), identity, self.instance, claim)?;
        *self.place() = Some(node.clone());
        self.set_trouble(None);
        Ok(node)
    }

    fn place(&self) -> MutexGuard<'_, Option<NodeHandle>> {
        self.node.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn node(&self) -> Option<NodeHandle> {
        self.place().clone()
    }

    fn take_node(&self) -> Option<NodeHandle> {
        self.place().take()
    }

    /// Ends an enrolment that is under way, and keeps others from starting or stopping a node.
    async fn end_enrolment(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.ends.send_modify(|count| *count += 1);
        self.change.lock().await
    }

    async fn respond(&self, request: Request) -> Result<String> {
        match request {
            Request::Up { token, port, activity_spool } => to_line(self.up(token, port, activity_spool).await),
            Request::Down => to_line(self.down().await),
            Request::Logout => to_line(self.logout().await),
            Request::Status => to_line(self.status().await),
            Request::Resources => to_line(self.resources().await),
            Request::Ping { resource, count } => to_line(self.ping(&resource, count).await),
            Request::Explain { resource } => to_line(self.explain(&resource).await),
            Request::Netcheck => to_line(self.netcheck().await),
            Request::Whois { addr } => to_line(self.whois(addr).await),
        }
    }

    /// Enrols if there is a token, and comes up.
    async fn up(
        &self,
        token: Option<Zeroizing<String>>,
        port: Option<u16>,
        activity_spool: Option<u64>,
    ) -> Result<UpReply> {
        // What ends an enrolment counts from here on, also while somebody else is at it.
        let mut ends = self.ends.subscribe();
        let node = {
            let _changing = self.change.lock().await;
            let identity = match (self.state.identity()?, &token) {
                (Some(identity), Some(_)) => bail!(
                    "this device is enrolled already, as '{}': run 'postern up' without a token, or 'postern logout' first",
                    identity.name
                ),
                (None, None) => {
                    bail!("this device is not enrolled: ask your admin for a join token and run 'postern up TOKEN'")
                }
                (identity, _) => identity,
            };
            let changes = self.set_port(port)? | self.set_activity_spool(activity_spool)?;
            match self.node() {
                Some(node) if !changes && !node.has_ended().await => {
                    self.state.set_settings(&Settings { up: true, ..self.state.settings()? })?;
                    node
                }
                ended => {
                    if let Some(ended) = ended {
                        self.take_node();
                        ended.stop().await;
                    }
                    // Ahead of the enrolment: a token is not to be used up for a node that can't run.
                    let claim = InterfaceName::claim()?;
                    let identity = match (identity, token) {
                        (Some(identity), _) => identity,
                        (None, token) => self.enrol(&token.unwrap_or_default(), &mut ends).await?,
                    };
                    self.state.set_settings(&Settings { up: true, ..self.state.settings()? })?;
                    self.start(identity, claim)?
                }
            }
        };
        node.usable().await?;
        Ok(UpReply { status: self.status().await?, resources: self.resources().await? })
    }

    /// Keeps the port for good; whether it is another than before.
    fn set_port(&self, port: Option<u16>) -> Result<bool> {
        let settings = self.state.settings()?;
        let Some(port) = port.filter(|port| *port != settings.wireguard_port || !settings.is_port_fixed) else {
            return Ok(false);
        };
        let moves = port != settings.wireguard_port;
        self.state.set_settings(&Settings { wireguard_port: port, is_port_fixed: true, ..settings })?;
        Ok(moves)
    }

    /// Keeps the spool's size for good; whether it is another than before.
    fn set_activity_spool(&self, bytes: Option<u64>) -> Result<bool> {
        let settings = self.state.settings()?;
        let changes = bytes.is_some() && bytes != settings.activity_spool;
        if changes {
            self.state.set_settings(&Settings { activity_spool: bytes, ..settings })?;
        }
        Ok(changes)
    }

    async fn enrol(&self, token: &str, ends: &mut watch::Receiver<u64>) -> Result<Identity> {
        let token: JoinToken = token.parse()?;
        let posture = os::posture::posture().await;
        tokio::select! {
            enrolled = tokio::time::timeout(ENROL, enrol::enrol(&self.state, &token, posture)) => {
                enrolled.with_context(|| {
                    let coordinator = &token.coordinator;
                    format!("the coordinator at {coordinator} did not enrol this device within {ENROL:?}; try again")
                })?
            }
            _ = ends.changed() => bail!("enrolling was ended by 'postern down', or by the daemon's end"),
        }
    }

    /// Takes the node down.
    async fn down(&self) -> Result<DownReply> {
        let _changing = self.end_enrolment().await;
        self.stop().await
    }

    /// Takes the node down and forgets its identity.
    async fn logout(&self) -> Result<DownReply> {
        let _changing = self.end_enrolment().await;
        let down = self.stop().await?;
        self.state.forget_identity()?;
        Ok(down)
    }

    async fn stop(&self) -> Result<DownReply> {
        self.state.set_settings(&Settings { up: false, ..self.state.settings()? })?;
        self.set_trouble(None);
        let node = self.take_node();
        let was_up = node.is_some();
        if let Some(node) = node {
            node.stop().await;
        }
        Ok(DownReply { was_up, was_enrolled: self.state.identity().is_ok_and(|identity| identity.is_some()) })
    }

    /// How it is.
    async fn status(&self) -> Result<Status> {
        match self.node() {
            Some(node) => node.status().await,
            None => {
                let identity = self.state.identity();
                let trouble = self.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone();
                let problem = identity.as_ref().err().map(|error| format!("{error:#}")).or(trouble);
                let identity = identity.ok().flatten();
                Ok(Status {
                    version: Some(env!("CARGO_PKG_VERSION").into()),
                    enrolled: identity.is_some(),
                    running: true,
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
        self.running()?.resources().await
    }

    /// Why a resource can be reached, or not.
    async fn explain(&self, resource: &str) -> Result<ExplainedReply> {
        let node = self.running()?;
        let row = named(&node, resource).await?;
        let reply = node.explain(row.id).await?;
        let because = reply.reason.map(|reason| match reason {
            // What is missing follows.
            DenyReason::ConditionNotMet => "a condition of access is not met".to_owned(),
            reason => reason.to_string(),
        });
        Ok(ExplainedReply { id: row.id, name: row.name, allowed: !reply.open.is_empty(), because, reply })
    }

    /// Reaches a resource.
    async fn ping(&self, resource: &str, count: u32) -> Result<PingReply> {
        let node = self.running()?;
        let row = named(&node, resource).await?;
        node.grant(row.id).await?;
        let (with, milliseconds) = ping::ping(&row, count).await?;
        let gateway = node.gateway_of(row.id).await?;
        let peer = node.status().await?.peers.into_iter().find(|peer| Some(peer.id) == gateway);
        let (endpoint, relay) = peer.map_or((None, None), |peer| (peer.endpoint, peer.relay));
        Ok(PingReply { id: row.id, name: row.name.clone(), with, gateway, endpoint, relay, milliseconds })
    }

    /// What the network lets through.
    async fn netcheck(&self) -> Result<Report> {
        let mut known = Known::of(self.state.identity()?.as_ref());
        if let Some(node) = self.node() {
            known.transport = node.status().await?.transport;
            known.reach = Some(node.reach().await?);
        }
        Ok(netcheck::run(known).await)
    }

    /// Who has an overlay address.
    async fn whois(&self, addr: IpAddr) -> Result<WhoisReply> {
        let found = self.running()?.whois(addr).await?;
        found.with_context(|| {
            format!(
                "no device with a grant through this gateway has the address {addr} (a node knows only its own clients)"
            )
        })
    }

    fn running(&self) -> Result<NodeHandle> {
        self.node().context("the node is down; run 'postern up'")
    }
}

/// The resource with this name, in whichever of its forms.
async fn named(node: &NodeHandle, resource: &str) -> Result<ResourceRow> {
    let rows = node.resources().await?;
    let is_it = |row: &ResourceRow| {
        row.name.as_str() == resource
            || row.fqdn.as_str() == resource
            || row.aliases.iter().any(|alias| alias.as_str() == resource)
    };
    let row = rows.into_iter().find(is_it);
    row.with_context(|| format!("there is no resource '{resource}' for this device; see 'postern resources'"))
}
