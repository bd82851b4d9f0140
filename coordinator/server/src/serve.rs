//! Starts everything, and ends it in order.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    path::PathBuf,
    time::Duration,
};

use anyhow::{Context as _, Result};
use postern_core::{Core, CoreConfig, RelayConfig};
use postern_model::{
    NetworkRanges,
    addr::FIRST_INDEX,
    audit::{Actor, AuditEvent},
    change::{Batch, Change},
    record::Network,
    token::{Host, HostPort},
};
use postern_store::{Store, activity::Retention};
use tokio::{
    signal::unix::{SignalKind, signal},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

use crate::{
    activity::{
        Activity,
        sinks::{FileSink, HttpSink, SyslogSink},
    },
    api,
    certificates::{DeviceCa, Identity},
    clock,
    coordinator::Coordinator,
    listeners,
    nodes::{self, Nodes},
    passes::{self, PassKey},
    state_dir::StateDir,
};

/// The port that nodes and the admin API share unless told otherwise.
pub const DEFAULT_PORT: u16 = 8443;

/// How long a grant holds unless told otherwise.
pub const DEFAULT_LEASE: Duration = Duration::from_secs(600);

/// How long a gateway has to acknowledge a grant.
const ACK_TIMEOUT: Duration = Duration::from_secs(5);
/// How many access requests of one device may wait at once.
const REQUESTS_PER_DEVICE: usize = 64;
/// The zone under which resources answer.
const ZONE: &str = "postern.internal";
/// How long open API requests have to end when the coordinator stops.
const GRACE: Duration = Duration::from_secs(5);

/// What `serve` is told.
#[derive(Debug, Clone)]
pub struct ServeConfig {
    /// Where keys, database and admin socket are.
    pub state_dir: PathBuf,
    /// UDP and TCP for nodes, and TCP for the admin API. `[::]:8443` (which takes IPv4 too) unless told.
    pub listen: Option<SocketAddr>,
    /// What goes into tokens. Kept for later starts; else the host's first address.
    pub public_address: Option<HostPort>,
    /// How long a grant holds unless renewed.
    pub lease: Duration,
    /// Whether it is a relay too.
    pub relay: bool,
    /// What becomes of access activity.
    pub activity: ActivityConfig,
}

pub use crate::activity::{
    DEFAULT_KEEP, DEFAULT_MAX_SIZE,
    sinks::{HttpTarget, SyslogTarget},
};

/// What becomes of access activity.
#[derive(Debug, Clone)]
pub struct ActivityConfig {
    /// How long it is kept, and how much of it.
    pub retention: Retention,
    /// Is appended to this file.
    pub file: Option<PathBuf>,
    /// Is sent to this syslog daemon.
    pub syslog: Option<SyslogTarget>,
    /// Is posted to this receiver.
    pub http: Option<HttpTarget>,
    /// With the bearer token in this file.
    pub http_token_file: Option<PathBuf>,
}

/// Runs the coordinator until it is told to stop (SIGTERM, SIGINT).
///
/// # Errors
/// When it can't start, or can't go on.
pub async fn serve(config: ServeConfig) -> Result<()> {
    let stopping = CancellationToken::new();
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut tasks = start(&config, &stopping).await?;
    tell_service_manager(sd_notify::NotifyState::Ready);
    let ended = tokio::select! {
        _ = terminate.recv() => Ok(()),
        _ = interrupt.recv() => Ok(()),
        Some(ended) = tasks.join_next() => ended.map_err(anyhow::Error::from).flatten(),
    };
    tell_service_manager(sd_notify::NotifyState::Stopping);
    stopping.cancel();
    let _ = tokio::time::timeout(GRACE, async { while tasks.join_next().await.is_some() {} }).await;
    tracing::info!("stopped");
    ended
}

/// Does nothing without a service manager that waits for it (sd_notify(3)).
fn tell_service_manager(state: sd_notify::NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(&[state]) {
        tracing::warn!(%error, "the service manager can't be told");
    }
}

async fn start(config: &ServeConfig, stopping: &CancellationToken) -> Result<JoinSet<Result<()>>> {
    let dir = StateDir::open(&config.state_dir)?;
    // Keys first: whether they may be made depends on there being no database yet.
    let identity = Identity::new(dir.identity_key()?)?;
    let ca = DeviceCa::new(dir.device_ca_key()?)?;
    let psk_master = dir.psk_master()?;
    let pass_key = PassKey::new(&dir.pass_key()?)?;
    let reset_secret = psk_master.clone();
    let listen = config.listen.unwrap_or_else(default_listen);
    let public_address = public_address(&dir, config, listen.port())?;
    let store = Store::open(&dir.database(), &first_batch()?)?;
    let (activity, writer) = Activity::open(&dir.activity(), config.activity.retention)?;
    let core_config = CoreConfig {
        lease: config.lease,
        ack_timeout: ACK_TIMEOUT,
        requests_per_device: REQUESTS_PER_DEVICE,
        psk_master,
        relays: Some(RelayConfig {
            signer: pass_key.signer(),
            trust: pass_key.trust()?,
            own: config.relay.then(|| passes::own_entry(identity.pin(), public_address.clone())),
        }),
    };
    let mut core = Core::new(store.load()?, core_config);
    core.begin(clock::moment());
    let (endpoint, quic, quic_config) = nodes::bind(listen, &identity, &ca, &reset_secret, config.relay)?;
    let listener = listeners::tcp(listen).await?;
    let socket = listeners::unix(&dir.admin_socket())?;
    let tls = identity.tcp_tls()?;
    let mut tasks = JoinSet::new();
    start_activity(&mut tasks, &activity, &config.activity, stopping)?;
    let coordinator =
        Coordinator::new(core, store, activity, identity.pin(), public_address.clone(), stopping.clone())?;
    tracing::info!(%listen, %public_address, state_dir = %config.state_dir.display(), "the coordinator is running");

    let stop = stopping.clone();
    tasks.spawn(async move {
        writer.run(stop).await;
        Ok(())
    });
    let timers = coordinator.clone().run_timers();
    tasks.spawn(async move {
        timers.await;
        Ok(())
    });
    let relay =
        if config.relay { Some(passes::relay([pass_key.trust()?], postern_relay::serve::DEFAULT_RATE)) } else { None };
    if let Some(relay) = relay.clone() {
        let stop = stopping.clone();
        tasks.spawn(async move {
            relay.run(stop).await;
            Ok(())
        });
    }
    let nodes = Nodes::new(coordinator.clone(), ca, quic_config, relay).serve(endpoint, stopping.clone());
    tasks.spawn(async move {
        nodes.await;
        Ok(())
    });
    let router = api::router(coordinator);
    tasks.spawn(listeners::serve_tcp(listener, tls, Some(router.clone()), quic, stopping.clone()));
    let stop = stopping.clone();
    tasks.spawn(async move {
        // The directory is this coordinator's for as long as its socket is.
        listeners::serve_socket(socket, &dir.admin_socket(), router, stop).await
    });
    Ok(tasks)
}

/// Starts what hands activity on.
fn start_activity(
    tasks: &mut JoinSet<Result<()>>,
    activity: &Activity,
    config: &ActivityConfig,
    stopping: &CancellationToken,
) -> Result<()> {
    let here = || (activity.clone(), stopping.clone());
    if let Some(path) = &config.file {
        let ((activity, stopping), sink) = (here(), FileSink::open(path)?);
        tasks.spawn(sink.run(activity, stopping));
    }
    if let Some(target) = &config.syslog {
        let ((activity, stopping), sink) = (here(), SyslogSink::new(target.clone()));
        tasks.spawn(sink.run(activity, stopping));
    }
    if let Some(target) = &config.http {
        let ((activity, stopping), sink) = (here(), HttpSink::new(target.clone(), config.http_token_file.clone())?);
        tasks.spawn(sink.run(activity, stopping));
    }
    Ok(())
}

/// Both families where the machine has both.
pub(crate) fn default_listen() -> SocketAddr {
    let both = SocketAddr::from((Ipv6Addr::UNSPECIFIED, DEFAULT_PORT));
    match UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0)) {
        Ok(_) => both,
        Err(_) => SocketAddr::from((Ipv4Addr::UNSPECIFIED, DEFAULT_PORT)),
    }
}

fn public_address(dir: &StateDir, config: &ServeConfig, port: u16) -> Result<HostPort> {
    if let Some(address) = &config.public_address {
        dir.set_public_address(address)?;
        return Ok(address.clone());
    }
    if let Some(address) = dir.public_address()? {
        if address.port != port {
            tracing::warn!(
                %address, listening_on = port,
                "join tokens name the port of an earlier --public-address; give that again if it leads here, or the new one"
            );
        }
        return Ok(address);
    }
    let ip = match config.listen {
        Some(listen) if !listen.ip().is_unspecified() => listen.ip(),
        _ => first_address(),
    };
    tracing::warn!(%ip, "no --public-address was given; join tokens will name this machine's own address");
    Ok(HostPort { host: Host::Ip(ip), port })
}

/// The address from which this machine would speak to others. Nothing is sent.
fn first_address() -> IpAddr {
    let source = |bind: IpAddr, to: IpAddr| {
        let socket = UdpSocket::bind((bind, 0)).ok()?;
        socket.connect((to, 9)).ok()?;
        socket.local_addr().ok().map(|addr| addr.ip())
    };
    // Addresses reserved for documentation (RFC 5737, RFC 3849): routed like any other, and nobody's.
    let v4 = source(Ipv4Addr::UNSPECIFIED.into(), Ipv4Addr::new(192, 0, 2, 1).into());
    let v6 = || source(Ipv6Addr::UNSPECIFIED.into(), Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1).into());
    v4.or_else(v6).unwrap_or(Ipv4Addr::LOCALHOST.into())
}

/// What a new database begins with.
pub(crate) fn first_batch() -> Result<Batch> {
    let mut bits = [0; 5];
    getrandom::fill(&mut bits).context("the system gives no random bytes")?;
    let network = Network {
        zone: ZONE.parse()?,
        ranges: NetworkRanges::from_random(bits),
        next_device_index: FIRST_INDEX,
        next_resource_index: FIRST_INDEX,
    };
    let event = AuditEvent {
        at: clock::now(),
        actor: Actor::Coordinator,
        action: "network.create".into(),
        object: format!("network:{}", network.zone),
        details: vec![("ula".into(), network.ranges.ula.to_string())],
    };
    Ok(Batch { changes: vec![Change::PutNetwork(network)], audit: vec![event] })
}
