//! Ways to the coordinator: QUIC by UDP, or in a TLS stream over TCP, perhaps through an HTTP proxy.
//!
//! All its addresses are tried nearly at once, by UDP first. When nothing has answered within a second, or UDP has not worked in
//! this network before, TCP is tried beside it; whichever finishes its handshake first is used, and the others are dropped.

use std::{
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, Error, Result, bail};
use postern_encap::{
    client::{self, ClientSocket},
    proxy::Proxies,
};
use postern_model::{Sha256, token::HostPort};
use postern_wire::close;
use quinn::{AsyncUdpSocket, ClientConfig, Connection, Endpoint, EndpointConfig};
use serde::{Deserialize, Serialize};
use tokio::{sync::watch, task::JoinSet, time::sleep};

use super::{
    attend::changed,
    tls::{self, Configs, DeviceCredential},
};
use crate::os::nat64;

/// How long all attempts together may take.
const CONNECT: Duration = Duration::from_secs(10);
/// Attempts under way at once, when the network changes again and again.
const ATTEMPTS: usize = 3;
/// How long UDP has before TCP is tried too.
const HEAD_START: Duration = Duration::from_secs(1);
/// How long UDP still has when TCP has failed for certain: the coordinator is not there, most likely, and a fresh attempt
/// finds it sooner than the ever rarer packets of an old one.
const AFTERMATH: Duration = Duration::from_secs(2);
/// Between two addresses of the coordinator.
const STAGGER: Duration = Duration::from_millis(250);
/// Addresses that are tried.
const ADDRESSES: usize = 8;
/// How long a farewell may take.
const FAREWELL: Duration = Duration::from_secs(2);
/// The name that TLS wants to hear; keys are pinned, so nobody checks it.
const SERVER_NAME: &str = "postern-coordinator";

/// What carries the packets to the coordinator.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Transport {
    /// UDP, as it should be.
    Udp,
    /// A TLS stream on TCP.
    Tcp,
    /// The same through an HTTP proxy.
    Proxy,
}

impl std::fmt::Display for Transport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Udp => "udp",
            Self::Tcp => "tcp",
            Self::Proxy => "proxy",
        })
    }
}

/// A coordinator or a relay, and who we are to it.
#[derive(Clone)]
pub(crate) struct Way {
    /// What it is, for errors.
    what: &'static str,
    server: HostPort,
    pin: Sha256,
    configs: Configs,
}

/// A connection, with all that it needs to live.
pub(crate) struct Connected {
    pub(crate) endpoint: Endpoint,
    pub(crate) connection: Connection,
    pub(crate) transport: Transport,
    socket: Arc<dyn AsyncUdpSocket>,
    stream: Option<Arc<ClientSocket>>,
}

impl Connected {
    /// Sends something that the coordinator answers at once, if it is there.
    pub(crate) fn ping(&self) {
        // quinn sends a ping when its socket is another one, and does not mind that it is the same.
        if let Err(error) = self.endpoint.rebind_abstract(Arc::clone(&self.socket)) {
            tracing::debug!(%error, "the other end can't be pinged");
        }
    }

    /// How many packets were sent to it.
    pub(crate) fn sent(&self) -> u64 {
        self.connection.stats().udp_tx.datagrams
    }

    /// How many packets have come from the coordinator.
    pub(crate) fn received(&self) -> u64 {
        self.connection.stats().udp_rx.datagrams
    }

    /// Why the stream that carries it is over, if it is: what quinn says about that explains nothing.
    pub(crate) fn stream_end(&self) -> Option<String> {
        let ended = self.stream.as_ref()?.ended()?;
        Some(format!("the connection over TCP broke: {ended}"))
    }

    /// Tells the coordinator that the node leaves; returns once that is acknowledged, or soon.
    pub(crate) async fn say_goodbye(self) {
        self.connection.close(close::DONE.into(), b"");
        // The endpoint has to live for as long as the farewell takes.
        let _ = tokio::time::timeout(FAREWELL, self.endpoint.wait_idle()).await;
    }
}

impl Way {
    /// To the coordinator that holds the pinned key.
    ///
    /// # Errors
    /// When the certificate can't be used.
    pub(crate) fn new(coordinator: HostPort, pin: Sha256, credential: Option<DeviceCredential>) -> Result<Self> {
        let configs = tls::client_configs(pin, credential)?;
        Ok(Self::to("coordinator", coordinator, pin, configs))
    }

    /// To a server of another kind, spoken to like this.
    pub(crate) fn to(what: &'static str, server: HostPort, pin: Sha256, configs: Configs) -> Self {
        Self { what, server, pin, configs }
    }

    /// Connects however it can be done; `tcp_at_once` when UDP is not likely to work.
    ///
    /// # Errors
    /// When it can't be done; a wrong key is told before anything else.
    pub(crate) async fn connect(&self, tcp_at_once: bool) -> Result<Connected> {
        let mut failed = Failed::default();
        let all = self.race(tcp_at_once, &mut failed);
        match tokio::time::timeout(CONNECT, all).await {
            Ok(Some(connected)) => Ok(connected),
            Ok(None) | Err(_) => Err(failed.into_error(self.what, &self.server)),
        }
    }

    /// The same, and when the network changes meanwhile, anew beside what is under way: what was sent before may have gone nowhere.
    ///
    /// # Errors
    /// When all of it has failed.
    pub(super) async fn connect_amid(&self, tcp_at_once: bool, changes: &mut watch::Receiver<()>) -> Result<Connected> {
        let mut attempts = JoinSet::new();
        let attempt = |tcp_at_once| {
            let way = self.clone();
            async move { way.connect(tcp_at_once).await }
        };
        attempts.spawn(attempt(tcp_at_once));
        loop {
            tokio::select! {
                Some(outcome) = attempts.join_next() => match outcome? {
                    Ok(connected) => return Ok(connected),
                    Err(error) if attempts.is_empty() => return Err(error),
                    Err(_) => {}
                },
                () = changed(changes), if attempts.len() < ATTEMPTS => drop(attempts.spawn(attempt(false))),
            }
        }
    }

    async fn race(&self, tcp_at_once: bool, failed: &mut Failed) -> Option<Connected> {
        let (mut udp, mut tcp) = (std::pin::pin!(self.over_udp()), std::pin::pin!(self.over_tcp()));
        let mut head_start = std::pin::pin!(sleep(if tcp_at_once { Duration::ZERO } else { HEAD_START }));
        let mut aftermath = std::pin::pin!(sleep(CONNECT));
        let mut is_tcp_due = tcp_at_once;
        while failed.udp.is_none() || failed.tcp.is_none() {
            tokio::select! {
                outcome = &mut udp, if failed.udp.is_none() => match outcome {
                    Ok(connected) => return Some(connected),
                    Err(error) => {
                        tracing::debug!(error = format!("{error:#}"), "not reached by UDP");
                        failed.udp = Some(error);
                        is_tcp_due = true;
                    }
                },
                () = &mut head_start, if !is_tcp_due => is_tcp_due = true,
                outcome = &mut tcp, if is_tcp_due && failed.tcp.is_none() => match outcome {
                    Ok(connected) => return Some(connected),
                    Err(error) => {
                        tracing::debug!(error = format!("{error:#}"), "not reached by TCP");
                        failed.tcp = Some(error);
                        aftermath.set(sleep(AFTERMATH));
                    }
                },
                () = &mut aftermath => return None,
            }
        }
        None
    }

    async fn over_udp(&self) -> Result<Connected> {
        let config = self.configs.udp.clone();
        first(self.addresses().await?, |addr| udp_to(addr, config.clone())).await
    }

    async fn over_tcp(&self) -> Result<Connected> {
        let (pin, config) = (self.pin, self.configs.stream.clone());
        let proxies = Proxies::from_env()?;
        if let Some(proxy) = proxies.toward(&self.server) {
            // Which also looks the name up: here nobody may know it.
            let socket = client::connect_through(proxy, &self.server, pin).await?;
            return in_stream(socket, Transport::Proxy, config).await;
        }
        let to = |addr| {
            let config = config.clone();
            async move { in_stream(client::connect(addr, pin).await?, Transport::Tcp, config).await }
        };
        first(self.addresses().await?, to).await
    }

    /// By UDP to this address and no other, which was just seen to answer.
    pub(crate) async fn connect_to(&self, addr: SocketAddr) -> Result<Connected> {
        let connecting = udp_to(addr, self.configs.udp.clone());
        tokio::time::timeout(HEAD_START * 3, connecting).await.context("no answer came in time")?
    }

    /// Where the server is, by all ways that this network has.
    pub(crate) async fn addresses(&self) -> Result<Vec<SocketAddr>> {
        let mut addresses = nat64::addresses(&self.server).await?;
        if addresses.is_empty() {
            bail!("the name in {} has no address", self.server);
        }
        addresses.truncate(ADDRESSES);
        Ok(addresses)
    }
}

/// A connection that ends with a farewell, however it does.
pub(crate) struct Goodbye(pub(crate) Option<Connected>);

impl Goodbye {
    pub(crate) fn get(&self) -> &Connected {
        self.0.as_ref().expect("until dropped")
    }
}

impl Drop for Goodbye {
    fn drop(&mut self) {
        if let Some(connected) = self.0.take() {
            tokio::spawn(connected.say_goodbye());
        }
    }
}

/// What went wrong, by either way.
#[derive(Default)]
struct Failed {
    udp: Option<Error>,
    tcp: Option<Error>,
}

impl Failed {
    fn into_error(self, what: &str, server: &HostPort) -> Error {
        const SILENCE: &str = "no answer came in time";
        let cannot = format!("the {what} at {server} can't be reached");
        match self {
            Self { tcp: Some(tcp), .. } if tls::is_wrong_pin(&tcp) => tcp.context(cannot),
            Self { udp: Some(udp), .. } if tls::is_wrong_pin(&udp) => udp.context(cannot),
            Self { udp, tcp } => {
                let over_tcp = tcp.map_or_else(|| SILENCE.to_owned(), |tcp| format!("{tcp:#}"));
                let udp = udp.unwrap_or_else(|| Error::msg(SILENCE));
                udp.context(format!("{cannot}, neither over TCP ({over_tcp}) nor by UDP"))
            }
        }
    }
}

/// The first attempt that succeeds, of one for each address, each a moment after the one before.
async fn first<F>(addresses: Vec<SocketAddr>, attempt: impl Fn(SocketAddr) -> F) -> Result<Connected>
where
    F: Future<Output = Result<Connected>> + Send + 'static,
{
    let mut attempts = JoinSet::new();
    for (number, addr) in (0..).zip(addresses) {
        let attempt = attempt(addr);
        attempts.spawn(async move {
            sleep(STAGGER * number).await;
            attempt.await
        });
    }
    let mut last = None;
    while let Some(outcome) = attempts.join_next().await {
        match outcome? {
            Ok(connected) => return Ok(connected),
            Err(error) if last.as_ref().is_some_and(tls::is_wrong_pin) => drop(error),
            Err(error) => last = Some(error),
        }
    }
    Err(last.unwrap_or_else(|| Error::msg("there is no address to try")))
}

async fn udp_to(addr: SocketAddr, config: ClientConfig) -> Result<Connected> {
    let any = if addr.is_ipv6() {
        SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0))
    } else {
        SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0))
    };
    let socket = std::net::UdpSocket::bind(any).context("no UDP socket can be opened")?;
    let socket = quinn::default_runtime().context("no async runtime")?.wrap_udp_socket(socket)?;
    shake_hands(socket, addr, config, Transport::Udp, None).await
}

async fn in_stream(stream: Arc<ClientSocket>, transport: Transport, config: ClientConfig) -> Result<Connected> {
    let (socket, remote) = (Arc::clone(&stream), stream.remote());
    shake_hands(socket, remote, config, transport, Some(stream)).await
}

async fn shake_hands(
    socket: Arc<dyn AsyncUdpSocket>,
    addr: SocketAddr,
    config: ClientConfig,
    transport: Transport,
    stream: Option<Arc<ClientSocket>>,
) -> Result<Connected> {
    let runtime = quinn::default_runtime().context("no async runtime")?;
    let (config_of_all, our) = (EndpointConfig::default(), Arc::clone(&socket));
    let endpoint = Endpoint::new_with_abstract_socket(config_of_all, None, our, runtime)?;
    let connection = endpoint.connect_with(config, addr, SERVER_NAME)?.await?;
    Ok(Connected { endpoint, connection, transport, socket, stream })
}

#[cfg(test)]
mod tests;
