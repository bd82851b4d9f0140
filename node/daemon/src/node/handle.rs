//! [`NodeHandle`]: how the daemon speaks to a running node.

use std::{
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow};
use postern_dataplane::{LaneConfig, LaneEvent, Sockets, Tun, clock};
use postern_engine::Engine;
use postern_model::{Posture, PublicKey, ResourceId};
use postern_wire::{ExplainReply, Hello};
use postern_wireguard::PrivateKey;
use tokio::sync::{mpsc, oneshot, watch};

use super::{
    Inputs, LogLimits, Node,
    machine::Machine,
    posture::{self, Wanted},
    reaching,
    tuning::Tuning,
};
use crate::{
    activity,
    control::session::SessionKeeper,
    local::protocol::{ResourceRow, Status, WhoisReply},
    os::{
        self,
        interface::InterfaceName,
        posture::{AT_START, Collector, Extent},
    },
    reach::{self, Outlet, Reach, ReachConfig, ReachStatus},
    state_dir::{Identity, Settings, StateDir},
    uapi::UapiStatus,
};

/// The longest packet inside the tunnel: what fits, sealed, into 1500 bytes of IPv6.
const MTU: u16 = 1420;
/// How long coming up may take.
const USABLE: Duration = Duration::from_secs(30);
/// How long a grant may take.
const GRANT: Duration = Duration::from_secs(10);
/// Packets without a grant that wait to be looked at; more are not taken from the lane.
const MISSES: usize = 4096;

/// What the node is asked.
pub(crate) enum Command {
    Stop(oneshot::Sender<()>),
    Usable(oneshot::Sender<Result<(), String>>),
    Grant(ResourceId, oneshot::Sender<Result<(), String>>),
    Status(oneshot::Sender<Status>),
    Resources(oneshot::Sender<Vec<ResourceRow>>),
    Explain(ResourceId, oneshot::Sender<Option<ExplainReply>>),
    GatewayOf(ResourceId, oneshot::Sender<Option<PublicKey>>),
    Whois(IpAddr, oneshot::Sender<Option<WhoisReply>>),
    Uapi(oneshot::Sender<UapiStatus>),
    Reach(oneshot::Sender<ReachStatus>),
    HasEnded(oneshot::Sender<bool>),
}

/// A running node; clones are the same one.
#[derive(Debug, Clone)]
pub struct NodeHandle {
    commands: mpsc::Sender<Command>,
}

impl NodeHandle {
    /// Starts a node: its TUN device, its sockets, its lane, and the attempt to reach its coordinator.
    ///
    /// # Errors
    /// When the system refuses any of it.
    pub fn start(state: Arc<StateDir>, identity: Identity, instance: [u8; 16], claim: InterfaceName) -> Result<Self> {
        let settings = state.settings()?;
        let tuning = Tuning::from_env()?;
        let sockets = bind(&settings, tuning)?;
        let wireguard_port = sockets.port();
        let activity_spool = settings.activity_spool.unwrap_or(activity::SPOOL_BYTES);
        state.set_settings(&Settings { wireguard_port, ..settings })?;
        let tun = Tun::create(claim.as_str(), MTU, tuning.lanes, tuning.offloads);
        let tun = tun.context("the network interface can't be made")?;
        let private = PrivateKey::from_bytes(&identity.wireguard_key);
        let (lane_events, from_lane) = mpsc::unbounded_channel();
        let (outlet, (ear, heard)) = (Outlet::default(), reach::ear());
        let misses = Arc::new(AtomicUsize::new(0));
        let (counted, limit) = (Arc::clone(&misses), MISSES);
        let lane = postern_dataplane::spawn(
            LaneConfig { tun, sockets, private: private.clone(), relay: Arc::new(outlet.clone()) },
            move |event| {
                let event = match event {
                    LaneEvent::Stun(from, datagram) => return ear.hear(from, datagram, clock::now()),
                    event => event,
                };
                // Tables in force must be heard of; packets without a grant may be lost, and come again.
                let is_miss = matches!(event, LaneEvent::Miss(_));
                if !is_miss || counted.fetch_add(1, Ordering::Relaxed) < limit {
                    let _ = lane_events.send(event);
                } else {
                    counted.fetch_sub(1, Ordering::Relaxed);
                }
            },
        )?;
        let lane = Arc::new(lane);
        let (commands, from_handle) = mpsc::channel(64);
        let (session_events, from_session) = mpsc::channel(256);
        let (done, from_work) = mpsc::channel(256);
        let (dns, from_dns) = mpsc::channel(256);
        let (resolver_news, resolver) = mpsc::channel(1);
        let hello =
            Hello { instance, wireguard_port, candidates: Vec::new(), relay: None, posture: Posture::default() };
        let (hello, latest_hello) = watch::channel(hello);
        let (wanted, latest_wanted) = watch::channel(Wanted::default());
        let coordinator = identity.coordinator.clone();
        let (identity, latest_identity) = watch::channel(Arc::new(identity));
        let (reach_events, from_reach) = mpsc::channel(64);
        let lanes: Arc<dyn reach::Lanes> = Arc::new(reaching::OfNode(Arc::clone(&lane)));
        let reach = Reach::start(
            ReachConfig { identity: latest_identity.clone(), coordinator, wireguard_port, lanes, outlet },
            heard,
            reach_events,
        );
        let node = Node {
            state,
            identity,
            hello,
            engine: Engine::new(),
            lane,
            machine: Machine::new(claim, private.public(), resolver_news),
            reach: Some(reach),
            learned: Vec::new(),
            network: None,
            table: None,
            session: None,
            keeper: None,
            recorder: None,
            activity_spool,
            welcome: None,
            problem: Some("not connected to the coordinator yet".into()),
            is_evicted: false,
            is_stuck: false,
            renew_certificate_at: None,
            wanted,
            say_posture_at: clock::now(),
            wait_usable: Vec::new(),
            wait_grant: Vec::new(),
            done,
            dns,
            misses,
            log: LogLimits::default(),
            commands: commands.downgrade(),
        };
        tokio::spawn(async move {
            let mut node = node;
            // The first hello already says where the node may be reached, and what of the machine can be known soon.
            node.look_at_network().await;
            let mut collector = Collector::new("/");
            node.tell_posture(collector.collect(Extent::All, AT_START).await);
            node.keeper = Some(SessionKeeper::start(latest_identity, latest_hello, session_events));
            let addresses = os::candidates::watch().unwrap_or_else(|error| {
                tracing::warn!(error = format!("{error:#}"), "changes of this machine's addresses will not be noticed");
                mpsc::channel(1).1
            });
            let woke = os::wake::watch().unwrap_or_else(|error| {
                tracing::warn!(%error, "it will not be noticed when this machine has slept");
                mpsc::channel(1).1
            });
            node.run(Inputs {
                commands: from_handle,
                lane: from_lane,
                session: from_session,
                done: from_work,
                dns: from_dns,
                addresses,
                woke,
                reach: from_reach,
                resolver,
                posture: posture::follow(collector, latest_wanted),
            })
            .await;
        });
        Ok(Self { commands })
    }

    /// Ends the node and waits until the machine is as it was.
    pub async fn stop(&self) {
        let _ = self.ask(Command::Stop).await;
    }

    /// Whether it can't go on by itself.
    pub async fn has_ended(&self) -> bool {
        self.ask(Command::HasEnded).await.unwrap_or(true)
    }

    /// Waits until resources can be reached.
    ///
    /// # Errors
    /// With what is wrong, when that does not happen soon.
    pub async fn usable(&self) -> Result<()> {
        match tokio::time::timeout(USABLE, self.ask(Command::Usable)).await {
            Ok(usable) => usable?.map_err(|problem| anyhow!(problem)),
            Err(_) => {
                let problem = self.status().await?.problem.unwrap_or_else(|| "it takes longer than it should".into());
                Err(anyhow!("the node is not usable yet: {problem}"))
            }
        }
    }

    /// Asks for a grant for a resource, and waits for it.
    ///
    /// # Errors
    /// When it is denied, or takes too long.
    pub async fn grant(&self, resource: ResourceId) -> Result<()> {
        let granted = tokio::time::timeout(GRANT, self.ask(|answer| Command::Grant(resource, answer)));
        granted.await.context("the coordinator did not answer in time")??.map_err(|reason| anyhow!(reason))
    }

    /// Why a resource can be reached, or not.
    ///
    /// # Errors
    /// When the coordinator can't be asked.
    pub async fn explain(&self, resource: ResourceId) -> Result<ExplainReply> {
        let reply = self.ask(|answer| Command::Explain(resource, answer)).await?;
        reply.context("the coordinator can't be asked now; 'postern status' says how the node is")
    }

    /// How it is.
    ///
    /// # Errors
    /// When the node is going down.
    pub async fn status(&self) -> Result<Status> {
        self.ask(Command::Status).await
    }

    /// How it is reached.
    ///
    /// # Errors
    /// When the node is going down.
    pub async fn reach(&self) -> Result<ReachStatus> {
        self.ask(Command::Reach).await
    }

    /// What it may reach.
    ///
    /// # Errors
    /// When the node is going down.
    pub async fn resources(&self) -> Result<Vec<ResourceRow>> {
        self.ask(Command::Resources).await
    }

    /// Through which gateway it reaches a resource, if it holds a grant.
    ///
    /// # Errors
    /// When the node is going down.
    pub async fn gateway_of(&self, resource: ResourceId) -> Result<Option<PublicKey>> {
        self.ask(|answer| Command::GatewayOf(resource, answer)).await
    }

    /// Which of its clients has an overlay address.
    ///
    /// # Errors
    /// When the node is going down.
    pub async fn whois(&self, addr: IpAddr) -> Result<Option<WhoisReply>> {
        self.ask(|answer| Command::Whois(addr, answer)).await
    }

    async fn ask<T>(&self, command: impl FnOnce(oneshot::Sender<T>) -> Command) -> Result<T> {
        let (answer, answered) = oneshot::channel();
        self.commands.send(command(answer)).await.ok().context("the node is going down")?;
        answered.await.context("the node is going down")
    }
}

/// What `wg show` is told; nothing when the node is going down.
pub(super) async fn uapi_status(commands: mpsc::WeakSender<Command>) -> UapiStatus {
    let ask = async {
        let (answer, answered) = oneshot::channel();
        commands.upgrade()?.send(Command::Uapi(answer)).await.ok()?;
        answered.await.ok()
    };
    ask.await.unwrap_or_default()
}

/// On the port that peers know; on another if that is taken, unless someone has chosen it.
fn bind(settings: &Settings, tuning: Tuning) -> Result<Sockets> {
    let bind = |port| Sockets::bind(port, tuning.lanes, tuning.offloads);
    let port = settings.wireguard_port;
    match bind(port) {
        Ok(sockets) => Ok(sockets),
        Err(error) if settings.is_port_fixed => Err(error)
            .with_context(|| format!("UDP port {port} can't be opened; 'postern up --port PORT' chooses another")),
        Err(_) if port != 0 => bind(0).context("no UDP port can be opened"),
        Err(error) => Err(error).context("no UDP port can be opened"),
    }
}
