//! Ways to a coordinator that answers by UDP, by TCP, or by both.

use std::sync::Mutex;

use postern_encap::{ALPN, server::Socket};
use quinn::crypto::rustls::QuicServerConfig;
use rcgen::{CertificateParams, KeyPair, PKCS_ED25519, PublicKeyData as _};
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use sha2::Digest as _;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::*;

/// Shakes hands with whoever comes, on one port of both kinds.
struct Coordinator {
    place: HostPort,
    pin: Sha256,
    /// What has come by TCP.
    streams: Arc<Mutex<u32>>,
    /// On the port where nobody answers by UDP, the socket that hears it.
    _silent: Option<std::net::UdpSocket>,
}

impl Coordinator {
    async fn start(answers_udp: bool) -> Self {
        let key = KeyPair::generate_for(&PKCS_ED25519).unwrap();
        let pin = Sha256(sha2::Sha256::digest(key.subject_public_key_info()).into());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let here = std::net::UdpSocket::bind(addr).unwrap();
        let (udp, silent) =
            if answers_udp { (here, None) } else { (std::net::UdpSocket::bind("127.0.0.1:0").unwrap(), Some(here)) };
        let runtime = quinn::default_runtime().unwrap();
        let socket = Socket::new(runtime.wrap_udp_socket(udp).unwrap(), 8);
        let quic = QuicServerConfig::try_from(server_tls(&key, postern_wire::ALPN)).unwrap();
        let config = quinn::ServerConfig::with_crypto(Arc::new(quic));
        let our = Arc::clone(&socket) as Arc<dyn AsyncUdpSocket>;
        let endpoint = Endpoint::new_with_abstract_socket(EndpointConfig::default(), Some(config), our, runtime);
        let endpoint = endpoint.unwrap();
        tokio::spawn(async move {
            while let Some(incoming) = endpoint.accept().await {
                tokio::spawn(async move {
                    if let Ok(connection) = incoming.await {
                        connection.closed().await;
                    }
                });
            }
        });
        let (acceptor, streams) = (TlsAcceptor::from(Arc::new(server_tls(&key, ALPN))), Arc::new(Mutex::new(0)));
        let count = Arc::clone(&streams);
        tokio::spawn(async move {
            while let Ok((tcp, from)) = listener.accept().await {
                *count.lock().unwrap() += 1;
                let (acceptor, socket) = (acceptor.clone(), Arc::clone(&socket));
                tokio::spawn(async move {
                    if let Ok(stream) = acceptor.accept(tcp).await {
                        socket.attach(stream, from).unwrap().await;
                    }
                });
            }
        });
        Self { place: addr.to_string().parse().unwrap(), pin, streams, _silent: silent }
    }

    fn way(&self) -> Way {
        Way::new(self.place.clone(), self.pin, None).unwrap()
    }
}

fn server_tls(key: &KeyPair, protocol: &[u8]) -> rustls::ServerConfig {
    let certificate = CertificateParams::new(vec!["a.example.com".into()]).unwrap().self_signed(key).unwrap();
    let private = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = rustls::ServerConfig::builder_with_provider(provider);
    let builder = builder.with_protocol_versions(&[&rustls::version::TLS13]).unwrap().with_no_client_auth();
    let mut tls = builder.with_single_cert(vec![certificate.der().clone()], private).unwrap();
    tls.alpn_protocols = vec![protocol.to_vec()];
    tls
}

#[tokio::test]
async fn where_nobody_answers_by_udp_tcp_is_used_and_proves_itself() {
    let coordinator = Coordinator::start(false).await;
    for tcp_at_once in [false, true] {
        let connected = coordinator.way().connect(tcp_at_once).await.unwrap();
        assert_eq!(connected.transport, Transport::Tcp);
        let before = connected.received();
        connected.ping();
        while connected.received() == before {
            sleep(Duration::from_millis(5)).await;
        }
        assert_eq!(connected.stream_end(), None);
        connected.say_goodbye().await;
    }
    assert_eq!(*coordinator.streams.lock().unwrap(), 2);
}

#[tokio::test]
async fn another_key_is_told_before_anything_else_whichever_way_it_is_seen() {
    for answers_udp in [false, true] {
        let coordinator = Coordinator::start(answers_udp).await;
        let way = Way::new(coordinator.place.clone(), Sha256([9; 32]), None).unwrap();
        let Err(error) = way.connect(false).await else { panic!("an impostor is believed") };
        assert!(tls::is_wrong_pin(&error), "{error:#}");
        assert!(*coordinator.streams.lock().unwrap() >= 1, "the other way was tried too");
    }
}

#[tokio::test]
async fn a_coordinator_that_is_not_there_is_told_of_with_both_reasons() {
    let silent = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let place: HostPort = silent.local_addr().unwrap().to_string().parse().unwrap();
    let way = Way::new(place.clone(), Sha256([9; 32]), None).unwrap();
    let Err(error) = way.connect(true).await else { panic!("nobody is there") };
    let told = format!("{error:#}");
    assert!(told.contains(&place.to_string()) && told.contains("refused") && told.contains("no answer"), "{told}");
    assert!(!tls::is_wrong_pin(&error));
}
