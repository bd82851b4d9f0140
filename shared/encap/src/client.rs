//! [`ClientSocket`]: a QUIC client's socket over one stream to one server. Whatever address quinn sends to, it goes there.

use std::{
    fmt, io,
    io::IoSliceMut,
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, Mutex, OnceLock, PoisonError},
    task::{Context, Poll},
};

use postern_model::{Sha256, token::HostPort};
use quinn::{
    AsyncUdpSocket, UdpPoller,
    udp::{RecvMeta, Transmit},
};
use rustls_pki_types::ServerName;
use tokio::{net::TcpStream, sync::mpsc};
use tokio_rustls::TlsConnector;

use crate::{
    ALPN,
    proxy::{Proxy, ProxyError},
    server::{fill, send},
    stream::{self, Arrived, Ended},
};

/// The name that TLS wants to hear; keys are pinned, so nobody checks it.
const SERVER_NAME: &str = "postern-coordinator";

/// Why there is no stream.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// TCP failed.
    #[error("TCP to {0} failed: {1}")]
    Tcp(SocketAddr, #[source] io::Error),
    /// The proxy can't be used.
    #[error(transparent)]
    Proxy(#[from] ProxyError),
    /// The cryptography can't be set up.
    #[error("TLS can't be set up: {0}")]
    Setup(#[from] rustls::Error),
    /// The TLS handshake failed.
    #[error("the TLS handshake failed: {0}")]
    Tls(#[source] io::Error),
    /// Whoever holds the key speaks no QUIC in streams.
    #[error("the coordinator takes no QUIC over TCP: it is older than this node")]
    NotSpoken,
}

impl ConnectError {
    /// Whether whoever answered holds another key than the pinned one.
    pub fn is_wrong_pin(&self) -> bool {
        let Self::Tls(error) = self else { return false };
        let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
        inner.is_some_and(postern_pin::is_wrong_pin)
    }
}

/// Opens a stream to the server at this address, if it holds the pinned key. Callers set the limit of time.
///
/// # Errors
/// When there is no way, or somebody else answers.
pub async fn connect(addr: SocketAddr, pin: Sha256) -> Result<Arc<ClientSocket>, ConnectError> {
    let tcp = TcpStream::connect(addr).await.map_err(|error| ConnectError::Tcp(addr, error))?;
    secure(tcp, addr, pin).await
}

/// The same through an HTTP proxy, which looks up the server's name itself.
///
/// # Errors
/// When the proxy refuses, there is no way, or somebody else answers.
pub async fn connect_through(proxy: &Proxy, server: &HostPort, pin: Sha256) -> Result<Arc<ClientSocket>, ConnectError> {
    let tcp = proxy.open(server).await?;
    let addr = tcp.peer_addr().map_err(ConnectError::Tls)?;
    secure(tcp, addr, pin).await
}

async fn secure(tcp: TcpStream, addr: SocketAddr, pin: Sha256) -> Result<Arc<ClientSocket>, ConnectError> {
    // Packets are not to wait for each other.
    let _ = tcp.set_nodelay(true);
    let local = tcp.local_addr().map_err(|error| ConnectError::Tcp(addr, error))?;
    let mut tls = postern_pin::client(pin)?.with_no_client_auth();
    tls.alpn_protocols = vec![ALPN.to_vec()];
    tls.resumption = rustls::client::Resumption::disabled();
    let name = ServerName::try_from(SERVER_NAME).expect("a DNS name");
    let stream = TlsConnector::from(Arc::new(tls)).connect(name, tcp).await.map_err(ConnectError::Tls)?;
    if stream.get_ref().1.alpn_protocol() != Some(ALPN) {
        return Err(ConnectError::NotSpoken);
    }
    let (outgoing, to_write) = mpsc::channel(stream::OUTGOING);
    let (arrived, inbox) = mpsc::channel(stream::INCOMING);
    let ended = Arc::new(OnceLock::new());
    let end = Arc::clone(&ended);
    // It ends with the socket, once what the socket was last given is written.
    tokio::spawn(async move {
        let how = stream::carry(stream, addr, to_write, arrived.clone(), None).await;
        let _ = end.set(how);
        // Only now does the socket hear of it.
        drop(arrived);
    });
    Ok(Arc::new(ClientSocket { remote: addr, local, outgoing, inbox: Mutex::new(inbox), ended }))
}

/// Give it to `quinn::Endpoint::new_with_abstract_socket`, and connect to [`ClientSocket::remote`]. When the stream ends,
/// so does the endpoint.
pub struct ClientSocket {
    remote: SocketAddr,
    local: SocketAddr,
    outgoing: mpsc::Sender<Vec<u8>>,
    /// Locked by the endpoint's driver alone.
    inbox: Mutex<mpsc::Receiver<Arrived>>,
    ended: Arc<OnceLock<Ended>>,
}

impl ClientSocket {
    /// From where packets seem to come: the server, or the proxy.
    pub fn remote(&self) -> SocketAddr {
        self.remote
    }

    /// Why the stream is over, once it is. quinn only says that its endpoint is gone.
    pub fn ended(&self) -> Option<&Ended> {
        self.ended.get()
    }
}

impl fmt::Debug for ClientSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientSocket").field("remote", &self.remote).finish_non_exhaustive()
    }
}

impl AsyncUdpSocket for ClientSocket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Box::pin(AlwaysWritable)
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        send(&self.outgoing, transmit);
        Ok(())
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        metas: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let mut inbox = self.inbox.lock().unwrap_or_else(PoisonError::into_inner);
        match fill(&mut inbox, cx, bufs, metas) {
            0 if inbox.is_closed() && inbox.is_empty() => {
                Poll::Ready(Err(io::Error::new(io::ErrorKind::ConnectionAborted, "the stream of QUIC packets ended")))
            }
            0 => Poll::Pending,
            count => Poll::Ready(Ok(count)),
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.local)
    }
}

/// What has no room is dropped, so nobody waits for it.
#[derive(Debug)]
struct AlwaysWritable;

impl UdpPoller for AlwaysWritable {
    fn poll_writable(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
