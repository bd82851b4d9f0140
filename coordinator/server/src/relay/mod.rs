//! A relay on its own: `postern-coordinator relay serve`. It has a key of its own, by which nodes know it, and the
//! coordinator's public key, by which it knows passes; no database, and no word with the coordinator.

mod accept;

pub(crate) use accept::{NEWCOMERS, NEWCOMERS_EACH};

use std::{net::SocketAddr, path::PathBuf, sync::Arc};

use anyhow::{Context as _, Result, bail};
use postern_encap::server::Socket;
use postern_model::TrustKey;
use postern_relay::endpoint;
use postern_wire::close;
use rcgen::{KeyPair, PKCS_ED25519};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use zeroize::Zeroizing;

use crate::{certificates::Identity, listeners, passes};

/// Where a relay's state is unless told otherwise.
pub(crate) const DEFAULT_STATE_DIR: &str = "/var/lib/postern-relay";
const KEY: &str = "relay.key";
/// What is derived of the relay's key besides.
const PURPOSE: &str = "postern relay v1";
/// What stands in a coordinator's state directory.
const COORDINATORS: &str = "identity.key";

/// What `relay serve` is told.
#[derive(Debug, Clone)]
pub(crate) struct RelayConfig {
    /// Where its key is.
    pub(crate) state_dir: PathBuf,
    /// UDP for nodes, and TCP for those that can't use UDP.
    pub(crate) listen: SocketAddr,
    /// Whose passes count.
    pub(crate) trust: Vec<TrustKey>,
    /// Bytes per second that one node may send.
    pub(crate) rate: u64,
}

/// Runs the relay until it is told to stop (SIGTERM, SIGINT).
///
/// # Errors
/// When it can't start.
pub(crate) async fn serve(config: RelayConfig) -> Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let dir = postern_statedir::StateDir::open(&config.state_dir)?;
    let key = key(&dir)?;
    let endpoint_config = endpoint::endpoint_config(&Zeroizing::new(key.serialize_der()), PURPOSE);
    let identity = Identity::new(key)?;
    let pin = identity.pin();
    let runtime = quinn::default_runtime().context("no async runtime")?;
    let socket = Socket::new(runtime.wrap_udp_socket(listeners::udp(config.listen)?)?, listeners::streams());
    let quic = endpoint::server_config(identity.relay_tls()?)?;
    let quic =
        quinn::Endpoint::new_with_abstract_socket(endpoint_config, Some(quic), Arc::clone(&socket) as _, runtime)?;
    let listen = quic.local_addr()?;
    let listener = listeners::tcp(listen).await?;
    let relay = passes::relay(config.trust, config.rate);
    let stopping = CancellationToken::new();
    let running = tokio::spawn(relay.clone().run(stopping.clone()));
    let streams = tokio::spawn(listeners::serve_tcp(listener, identity.encap_tls()?, None, socket, stopping.clone()));
    let accepting = tokio::spawn(Arc::new(accept::Accept::new(relay)).run(quic.clone()));
    tracing::info!(%listen, %pin, state_dir = %config.state_dir.display(), "the relay is running");
    let port = listen.port();
    eprintln!("To register it: postern-coordinator relay add NAME --address HOST:{port} --pin {pin}");
    if let Err(error) = sd_notify::notify(&[sd_notify::NotifyState::Ready]) {
        tracing::warn!(%error, "the service manager can't be told");
    }
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    stopping.cancel();
    quic.close(close::RETRY.into(), b"stopping");
    quic.wait_idle().await;
    let _ = tokio::join!(running, accepting, streams);
    tracing::info!("stopped");
    Ok(())
}

/// The key by which nodes know this relay, made at the first start.
fn key(dir: &postern_statedir::StateDir) -> Result<KeyPair> {
    if dir.read(COORDINATORS)?.is_some() {
        bail!(
            "{} is a coordinator's state directory: a relay on its own needs another --state-dir",
            dir.path().display()
        );
    }
    let text = match dir.read(KEY)? {
        Some(text) => text,
        None => {
            let made = Zeroizing::new(KeyPair::generate_for(&PKCS_ED25519)?.serialize_pem());
            dir.write(KEY, &made)?;
            made
        }
    };
    let damaged = || format!("{} is damaged: restore it from a backup", dir.path().join(KEY).display());
    let pair = KeyPair::from_pem(&text).with_context(damaged)?;
    if pair.is_compatible(&PKCS_ED25519) { Ok(pair) } else { bail!(damaged()) }
}
