//! Listening sockets: the admin API's two doors, and the UDP socket for nodes.

use std::{io, net::SocketAddr, os::unix::fs::PermissionsExt as _, path::Path, sync::Arc, time::Duration};

use anyhow::{Context as _, Result, bail};
use axum::{Extension, Router};
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::graceful::GracefulShutdown,
    service::TowerToHyperService,
};
use postern_model::audit::Actor;
use tokio::{
    net::{TcpListener, UnixListener},
    sync::Semaphore,
};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use crate::{
    coordinator::ApiOrigin,
    prefix::{Prefix, Shares},
};

/// How long a TLS handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(5);
/// How long the header of a request may take, the wait for it included.
const HEADERS: Duration = Duration::from_secs(30);
/// How long a connection may last; a request that streams its body byte by byte ends with it.
const LIFE: Duration = Duration::from_secs(600);
/// Connections over HTTPS at once; more wait to be accepted.
const CONNECTIONS: usize = 512;
/// Of which one source may have so many; more are dropped.
const CONNECTIONS_EACH: usize = 64;
/// The longest path of a socket (unix(7)), its final zero byte left out.
const SOCKET_PATH: usize = 107;

/// The UDP socket for nodes.
pub(crate) fn udp(listen: SocketAddr) -> Result<std::net::UdpSocket> {
    std::net::UdpSocket::bind(listen).with_context(|| busy("UDP", listen))
}

/// The TCP socket for the admin API.
pub(crate) async fn tcp(listen: SocketAddr) -> Result<TcpListener> {
    TcpListener::bind(listen).await.with_context(|| busy("TCP", listen))
}

fn busy(protocol: &str, listen: SocketAddr) -> String {
    format!("can't listen on {protocol} {listen}; choose another address with --listen ADDR:PORT")
}

/// The admin socket, which only this user can open.
///
/// # Errors
/// When it can't be made there.
pub(crate) fn unix(path: &Path) -> Result<UnixListener> {
    if path.as_os_str().len() > SOCKET_PATH {
        bail!(
            "{} can't be made: a socket's path has at most {SOCKET_PATH} bytes; choose a shorter --state-dir",
            path.display()
        );
    }
    // A socket from before a crash; the state directory's lock says that nobody listens on it.
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(error).with_context(|| format!("{} can't be replaced", path.display()));
        }
        _ => {}
    }
    let listener = UnixListener::bind(path).with_context(|| format!("{} can't be made", path.display()))?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// Serves the API on the admin socket, and removes the socket in the end.
pub(crate) async fn serve_socket(
    listener: UnixListener,
    path: &Path,
    router: Router,
    stopping: CancellationToken,
) -> Result<()> {
    let router = router.layer(Extension(ApiOrigin::Socket)).layer(Extension(Actor::AdminSocket));
    axum::serve(listener, router).with_graceful_shutdown(stopping.cancelled_owned()).await?;
    let _ = std::fs::remove_file(path);
    Ok(())
}

/// Serves the API over HTTPS to whoever shows an API key. Strangers can't hold more than [`CONNECTIONS`] connections, one
/// of them no more than [`CONNECTIONS_EACH`], nor any for longer than they have something to say.
pub(crate) async fn serve_https(
    listener: TcpListener,
    tls: rustls::ServerConfig,
    router: Router,
    stopping: CancellationToken,
) -> Result<()> {
    let acceptor = TlsAcceptor::from(Arc::new(tls));
    let service = TowerToHyperService::new(router.layer(Extension(ApiOrigin::Network)));
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEADERS);
    let (open, shares) = (Arc::new(Semaphore::new(CONNECTIONS)), Shares::new(CONNECTIONS_EACH));
    let connections = GracefulShutdown::new();
    loop {
        let permit = Arc::clone(&open).acquire_owned().await?;
        let accepted = tokio::select! {
            () = stopping.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        let (stream, from) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of file descriptors, most likely: some will come back.
                tracing::warn!(%error, "a connection to the admin API could not be accepted");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let Some(share) = shares.take(Prefix::of(from.ip())) else {
            tracing::debug!(%from, "too many connections to the admin API from there");
            continue;
        };
        let (acceptor, service, http, watcher) =
            (acceptor.clone(), service.clone(), http.clone(), connections.watcher());
        tokio::spawn(async move {
            let (_permit, _share) = (permit, share);
            let Ok(Ok(stream)) = tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)).await else { return };
            let connection = watcher.watch(http.serve_connection(TokioIo::new(stream), service));
            if tokio::time::timeout(LIFE, connection).await.is_err() {
                tracing::debug!("a connection to the admin API was open for too long");
            }
        });
    }
    connections.shutdown().await;
    Ok(())
}
