//! A server with both ways in, and clients.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use postern_encap::{ALPN, client::ClientSocket, server::Socket};
use postern_model::Sha256;
use quinn::{
    AsyncUdpSocket, Connection, Endpoint, EndpointConfig,
    crypto::rustls::{QuicClientConfig, QuicServerConfig},
};
use rcgen::{CertificateParams, KeyPair, PKCS_ED25519, PublicKeyData as _};
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use sha2::Digest as _;
use tokio::{
    net::{TcpListener, TcpStream},
    task::{AbortHandle, JoinHandle},
};
use tokio_rustls::{TlsAcceptor, TlsConnector, client::TlsStream};

/// Fails the test when it hangs.
pub(crate) async fn within<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(Duration::from_secs(20), future).await.expect("it hangs")
}

/// Echoes what it is told, and says from where it came.
pub(crate) struct Server {
    pub(crate) addr: SocketAddr,
    pub(crate) pin: Sha256,
    pub(crate) socket: Arc<Socket>,
    key: KeyPair,
    connections: Arc<Mutex<Vec<Connection>>>,
    streams: Arc<Mutex<Vec<AbortHandle>>>,
    tasks: Vec<JoinHandle<()>>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

/// A client in a stream.
pub(crate) struct InStream {
    pub(crate) connection: Connection,
    pub(crate) socket: Arc<ClientSocket>,
    _endpoint: Endpoint,
}

impl Server {
    /// With room for so many streams, on one port of both kinds.
    pub(crate) async fn start(streams: usize) -> Self {
        let key = KeyPair::generate_for(&PKCS_ED25519).unwrap();
        let pin = Sha256(sha2::Sha256::digest(key.subject_public_key_info()).into());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let runtime = quinn::default_runtime().unwrap();
        let udp = runtime.wrap_udp_socket(std::net::UdpSocket::bind(addr).unwrap()).unwrap();
        let socket = Socket::new(udp, streams);
        let quic = QuicServerConfig::try_from(server_tls(&key, &[b"echo"])).unwrap();
        let endpoint = Endpoint::new_with_abstract_socket(
            EndpointConfig::default(),
            Some(quinn::ServerConfig::with_crypto(Arc::new(quic))),
            Arc::clone(&socket) as Arc<dyn AsyncUdpSocket>,
            runtime,
        );
        let connections = Arc::default();
        let echoing = tokio::spawn(serve(endpoint.unwrap(), Arc::clone(&connections)));
        let acceptor = TlsAcceptor::from(Arc::new(server_tls(&key, &[ALPN])));
        let streams = Arc::default();
        let accepting = tokio::spawn(accept(listener, acceptor, Arc::clone(&socket), Arc::clone(&streams)));
        Self { addr, pin, socket, key, connections, streams, tasks: vec![echoing, accepting] }
    }

    /// A client over a stream; the server has seen it.
    pub(crate) async fn stream_client(&self) -> InStream {
        let socket = within(postern_encap::client::connect(self.addr, self.pin)).await.unwrap();
        let runtime = quinn::default_runtime().unwrap();
        let endpoint = Endpoint::new_with_abstract_socket(
            EndpointConfig::default(),
            None,
            Arc::clone(&socket) as Arc<dyn AsyncUdpSocket>,
            runtime,
        );
        let endpoint = endpoint.unwrap();
        let connection = self.connect(&endpoint, socket.remote()).await;
        InStream { connection, socket, _endpoint: endpoint }
    }

    /// A client by UDP.
    pub(crate) async fn udp_client(&self) -> Connection {
        let endpoint = Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
        self.connect(&endpoint, self.addr).await
    }

    async fn connect(&self, endpoint: &Endpoint, to: SocketAddr) -> Connection {
        let mut tls = postern_pin::client(self.pin).unwrap().with_no_client_auth();
        tls.alpn_protocols = vec![b"echo".to_vec()];
        let config = quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls).unwrap()));
        let before = self.connections.lock().unwrap().len();
        let connection = within(endpoint.connect_with(config, to, "server").unwrap()).await.unwrap();
        within(async {
            while self.connections.lock().unwrap().len() == before {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        })
        .await;
        connection
    }

    /// A TLS connection as anybody may make it.
    pub(crate) async fn tls(&self, protocols: &[&[u8]]) -> TlsStream<TcpStream> {
        let mut tls = postern_pin::client(self.pin).unwrap().with_no_client_auth();
        tls.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
        let tcp = TcpStream::connect(self.addr).await.unwrap();
        let name = ServerName::try_from("server").unwrap();
        within(TlsConnector::from(Arc::new(tls)).connect(name, tcp)).await.unwrap()
    }

    /// Where another TLS server with the same key listens, which speaks no ALPN.
    pub(crate) async fn plain_tls(&self) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(server_tls(&self.key, &[])));
        tokio::spawn(async move {
            let (tcp, _) = listener.accept().await.unwrap();
            let _ = acceptor.accept(tcp).await;
        });
        addr
    }

    /// From where the server sees its connection of this number come.
    pub(crate) fn seen(&self, number: usize) -> SocketAddr {
        self.connections.lock().unwrap()[number].remote_address()
    }

    /// How its connection of this number ended.
    pub(crate) async fn closed(&self, number: usize) -> quinn::ConnectionError {
        let connection = self.connections.lock().unwrap()[number].clone();
        connection.closed().await
    }

    /// Waits until so many streams are open.
    pub(crate) async fn has_streams(&self, count: usize) {
        within(async {
            while self.socket.streams() != count {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        })
        .await;
    }

    /// Ends all streams without a word to QUIC.
    pub(crate) fn cut_streams(&self) {
        self.streams.lock().unwrap().drain(..).for_each(|stream| stream.abort());
    }
}

fn server_tls(key: &KeyPair, protocols: &[&[u8]]) -> rustls::ServerConfig {
    let certificate = CertificateParams::new(vec!["server".into()]).unwrap().self_signed(key).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = rustls::ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_no_client_auth();
    let private = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let mut tls = builder.with_single_cert(vec![certificate.der().clone()], private).unwrap();
    tls.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
    tls
}

async fn accept(
    listener: TcpListener,
    acceptor: TlsAcceptor,
    socket: Arc<Socket>,
    streams: Arc<Mutex<Vec<AbortHandle>>>,
) {
    loop {
        let (tcp, from) = listener.accept().await.unwrap();
        let (acceptor, socket) = (acceptor.clone(), Arc::clone(&socket));
        let carrying = tokio::spawn(async move {
            let Ok(stream) = acceptor.accept(tcp).await else { return };
            if let Ok(carrying) = socket.attach(stream, from) {
                drop(socket);
                carrying.await;
            }
        });
        streams.lock().unwrap().push(carrying.abort_handle());
    }
}

async fn serve(endpoint: Endpoint, connections: Arc<Mutex<Vec<Connection>>>) {
    while let Some(incoming) = endpoint.accept().await {
        let connections = Arc::clone(&connections);
        tokio::spawn(async move {
            let Ok(connection) = incoming.await else { return };
            connections.lock().unwrap().push(connection.clone());
            while let Ok((mut send, mut receive)) = connection.accept_bi().await {
                let connection = connection.clone();
                tokio::spawn(async move {
                    let Ok(said) = receive.read_to_end(4 << 20).await else { return };
                    let _ = send.write_all(&said).await;
                    let _ = send.write_all(connection.remote_address().to_string().as_bytes()).await;
                    let _ = send.finish();
                });
            }
        });
    }
}
