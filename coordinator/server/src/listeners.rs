//! Listening sockets: the admin API's two doors, and the UDP socket for nodes.

use std::{io, net::SocketAddr, os::unix::fs::PermissionsExt as _, path::Path, sync::Arc, time::Duration};

use anyhow::{Context as _, Result};
use axum::{Extension, Router, serve::Listener};
use postern_model::audit::Actor;
use tokio::{
    net::{TcpListener, TcpStream, UnixListener},
    sync::{Semaphore, mpsc},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_util::sync::CancellationToken;

use crate::coordinator::ApiOrigin;

/// How long a TLS handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// TLS handshakes under way at once.
const HANDSHAKES: usize = 128;

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

/// Serves the API on the admin socket, which only this user can open.
pub(crate) async fn serve_socket(path: &Path, router: Router, stopping: CancellationToken) -> Result<()> {
    // A socket from before a crash; the state directory's lock says that nobody listens on it.
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(error).with_context(|| format!("{} can't be replaced", path.display()));
        }
        _ => {}
    }
    let listener = UnixListener::bind(path).with_context(|| format!("{} can't be made", path.display()))?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    let router = router.layer(Extension(ApiOrigin::Socket)).layer(Extension(Actor::AdminSocket));
    axum::serve(listener, router).with_graceful_shutdown(stopping.cancelled_owned()).await?;
    let _ = std::fs::remove_file(path);
    Ok(())
}

/// Serves the API over HTTPS.
pub(crate) async fn serve_https(
    listener: TcpListener,
    tls: rustls::ServerConfig,
    router: Router,
    stopping: CancellationToken,
) -> Result<()> {
    let local = listener.local_addr()?;
    let (ready, accepted) = mpsc::channel(16);
    tokio::spawn(accept(listener, TlsAcceptor::from(Arc::new(tls)), ready, stopping.clone()));
    let router = router.layer(Extension(ApiOrigin::Network));
    axum::serve(Tls { accepted, local }, router).with_graceful_shutdown(stopping.cancelled_owned()).await?;
    Ok(())
}

/// Hands on what has shaken hands, so that a slow client keeps nobody waiting.
async fn accept(
    listener: TcpListener,
    acceptor: TlsAcceptor,
    ready: mpsc::Sender<(TlsStream<TcpStream>, SocketAddr)>,
    stopping: CancellationToken,
) {
    let handshakes = Arc::new(Semaphore::new(HANDSHAKES));
    loop {
        let Ok(permit) = Arc::clone(&handshakes).acquire_owned().await else { return };
        let accepted = tokio::select! {
            () = stopping.cancelled() => return,
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
        let (acceptor, ready) = (acceptor.clone(), ready.clone());
        tokio::spawn(async move {
            let _permit = permit;
            if let Ok(Ok(stream)) = tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)).await {
                let _ = ready.send((stream, from)).await;
            }
        });
    }
}

struct Tls {
    accepted: mpsc::Receiver<(TlsStream<TcpStream>, SocketAddr)>,
    local: SocketAddr,
}

impl Listener for Tls {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        match self.accepted.recv().await {
            Some(accepted) => accepted,
            // Stopping: the graceful shutdown ends the wait.
            None => std::future::pending().await,
        }
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        Ok(self.local)
    }
}
