//! Listening sockets: the admin API's socket, TCP for the API and for nodes, and UDP for nodes.

use std::{io, net::SocketAddr, os::unix::fs::PermissionsExt as _, path::Path, sync::Arc, time::Duration};

use anyhow::{Context as _, Result, bail};
use axum::{Extension, Router};
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::graceful::GracefulShutdown,
    service::TowerToHyperService,
};
use postern_encap::{
    server::{STREAMS, Socket},
    shares::{Prefix, Shares},
};
use postern_model::audit::Actor;
use tokio::{
    net::{TcpListener, TcpStream, UnixListener},
    sync::Semaphore,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_util::sync::CancellationToken;

use crate::coordinator::ApiOrigin;

/// How long a TLS handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(5);
/// How long the header of a request may take, the wait for it included.
const HEADERS: Duration = Duration::from_secs(30);
/// How long a connection may last; a request that streams its body byte by byte ends with it.
const LIFE: Duration = Duration::from_secs(600);
/// TLS handshakes at once; more wait to be accepted.
const HANDSHAKES: usize = 512;
/// Of which one source may have so many; more are dropped. It is hundreds in a second for an office whose nodes all come back.
const HANDSHAKES_EACH: usize = 64;
/// Connections to the API over HTTPS at once; more are dropped.
const CONNECTIONS: usize = 512;
/// Of which one source may have so many; more are dropped.
const CONNECTIONS_EACH: usize = 64;
/// Open files that this process would like to be allowed.
const FILES: u64 = 16_384;
/// Of which so many are for all but nodes' streams.
const FILES_APART: usize = HANDSHAKES + CONNECTIONS + 256;
/// The longest path of a socket (unix(7)), its final zero byte left out.
const SOCKET_PATH: usize = 107;

/// The UDP socket for nodes.
pub(crate) fn udp(listen: SocketAddr) -> Result<std::net::UdpSocket> {
    std::net::UdpSocket::bind(listen).with_context(|| busy("UDP", listen))
}

/// The TCP socket for the admin API, and for nodes.
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

/// Serves TCP connections, each by what it says in its TLS handshake (ALPN): the API over HTTPS, to whoever shows an API key; or a
/// stream of QUIC packets, which becomes a part of the nodes' socket and has that one's bounds. Strangers can't hold more
/// than [`CONNECTIONS`] to the API, one of them no more than [`CONNECTIONS_EACH`], nor any for longer than they have something to
/// say; nodes take none of these, and the API none of theirs. Without a `router` there is no API, and who asks for it is sent away.
pub(crate) async fn serve_tcp(
    listener: TcpListener,
    tls: rustls::ServerConfig,
    router: Option<Router>,
    quic: Arc<Socket>,
    stopping: CancellationToken,
) -> Result<()> {
    let acceptor = TlsAcceptor::from(Arc::new(tls));
    let service = router.map(|router| TowerToHyperService::new(router.layer(Extension(ApiOrigin::Network))));
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEADERS);
    let (shaking, shaking_shares) = (Arc::new(Semaphore::new(HANDSHAKES)), Shares::new(HANDSHAKES_EACH));
    let (open, shares) = (Arc::new(Semaphore::new(CONNECTIONS)), Shares::new(CONNECTIONS_EACH));
    let connections = GracefulShutdown::new();
    loop {
        let handshake = Arc::clone(&shaking).acquire_owned().await?;
        let accepted = tokio::select! {
            () = stopping.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        let (stream, from) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of file descriptors, most likely: some will come back.
                tracing::warn!(%error, "a TCP connection could not be accepted");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let source = Prefix::of(from.ip());
        let Some(handshake_share) = shaking_shares.take(source) else {
            tracing::debug!(%from, "too many TLS handshakes from there");
            continue;
        };
        let (acceptor, service, http, watcher) =
            (acceptor.clone(), service.clone(), http.clone(), connections.watcher());
        let (quic, open, shares) = (Arc::clone(&quic), Arc::clone(&open), Arc::clone(&shares));
        tokio::spawn(async move {
            let Ok(Ok(stream)) = tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)).await else { return };
            drop((handshake, handshake_share));
            if stream.get_ref().1.alpn_protocol() == Some(postern_encap::ALPN) {
                return carry(stream, from, quic).await;
            }
            drop(quic);
            let Some(service) = service else { return };
            let (Ok(_permit), Some(_share)) = (open.try_acquire_owned(), shares.take(source)) else {
                tracing::debug!(%from, "too many connections to the admin API");
                return;
            };
            let connection = watcher.watch(http.serve_connection(TokioIo::new(stream), service));
            if tokio::time::timeout(LIFE, connection).await.is_err() {
                tracing::debug!("a connection to the admin API was open for too long");
            }
        });
    }
    connections.shutdown().await;
    Ok(())
}

/// Carries a node's QUIC packets. It ends with the stream or, when the coordinator stops, with the nodes' endpoint, which
/// has something to say to the last.
async fn carry(stream: TlsStream<TcpStream>, from: SocketAddr, quic: Arc<Socket>) {
    // Packets are not to wait for each other.
    let _ = stream.get_ref().0.set_nodelay(true);
    let attached = quic.attach(stream, from);
    drop(quic);
    match attached {
        Ok(carrying) => {
            let ended = carrying.await;
            tracing::debug!(%from, %ended, "a stream of QUIC packets ended");
        }
        Err(full) => tracing::debug!(%from, %full, "a stream of QUIC packets was refused"),
    }
}

/// How many nodes may be connected by TCP: each takes a file descriptor, and others are needed too. Raises this process's limit of
/// them to what it may have.
pub(crate) fn streams() -> usize {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let wanted = limit.maximum.unwrap_or(u64::MAX).min(FILES);
    if limit.current.is_some_and(|current| current < wanted) {
        let raised = Rlimit { current: Some(wanted), ..limit };
        if let Err(error) = setrlimit(Resource::Nofile, raised) {
            tracing::debug!(%error, "the limit of open files can't be raised");
        }
    }
    let files = usize::try_from(getrlimit(Resource::Nofile).current.unwrap_or(FILES)).unwrap_or(usize::MAX);
    files.saturating_sub(FILES_APART).max(files / 2).min(STREAMS)
}
