//! A node as hostile as it likes: it says what bytes it wants, with whatever certificate it has.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use postern_model::{DeviceId, JoinToken, PublicKey, SecretBytes};
use postern_wire::{CoordinatorMessage, Decoder, Enrol, EnrolReply, Hello, Limit, Opening, frame};
use quinn::{
    Connection, ConnectionError, Endpoint, RecvStream, SendStream, TransportConfig, crypto::rustls::QuicClientConfig,
};
use rcgen::{CertificateParams, KeyPair, PKCS_ED25519};
use rustls::{
    DigitallySignedStruct, Error, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    sign::{CertifiedKey, SingleCertAndKey},
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use serde::{Serialize, de::DeserializeOwned};

/// How long anything may take before it counts as hanging.
const PATIENCE: Duration = Duration::from_secs(20);

/// What a client takes unless it wants to be difficult.
const STREAM_WINDOW: u32 = 1 << 20;

/// A device certificate with its key.
pub(crate) struct Credential {
    pub(crate) certificate: Vec<u8>,
    pub(crate) key: KeyPair,
}

/// An enrolled device.
pub(crate) struct Device {
    pub(crate) id: DeviceId,
    pub(crate) credential: Credential,
}

/// Connects, with or without a certificate.
pub(crate) async fn connect(
    server: SocketAddr,
    credential: Option<&Credential>,
) -> Result<Connection, ConnectionError> {
    connect_from("127.0.0.1", server, credential, STREAM_WINDOW).await
}

/// Connects to the relay at the same port.
pub(crate) async fn connect_to_relay(
    server: SocketAddr,
    credential: Option<&Credential>,
) -> Result<Connection, ConnectionError> {
    let mut endpoint = Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
    endpoint.set_default_client_config(config(credential, STREAM_WINDOW, postern_wire::relay::ALPN));
    within(endpoint.connect(server, "postern-coordinator").unwrap()).await
}

/// Connects from this address, and takes `window` bytes on a stream ahead of what is read.
pub(crate) async fn connect_from(
    from: &str,
    server: SocketAddr,
    credential: Option<&Credential>,
    window: u32,
) -> Result<Connection, ConnectionError> {
    let mut endpoint = Endpoint::client(SocketAddr::new(from.parse().unwrap(), 0)).unwrap();
    endpoint.set_default_client_config(config(credential, window, postern_wire::ALPN));
    within(endpoint.connect(server, "postern-coordinator").unwrap()).await
}

pub(crate) fn config(credential: Option<&Credential>, window: u32, protocol: &[u8]) -> quinn::ClientConfig {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anyone(provider)));
    let mut tls = match credential {
        None => builder.with_no_client_auth(),
        Some(Credential { certificate, key }) => {
            let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
            let key = rustls::crypto::aws_lc_rs::sign::any_supported_type(&key).unwrap();
            // Not `with_client_auth_cert`, which would see that a stolen certificate is not this key's.
            let shown = CertifiedKey::new(vec![CertificateDer::from(certificate.clone())], key);
            builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(shown)))
        }
    };
    tls.alpn_protocols = vec![protocol.to_vec()];
    let mut transport = TransportConfig::default();
    transport.keep_alive_interval(Some(Duration::from_secs(2)));
    transport.stream_receive_window(window.into());
    let mut config = quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls).unwrap()));
    config.transport_config(Arc::new(transport));
    config
}

/// Fails the test when it hangs.
pub(crate) async fn within<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(PATIENCE, future).await.expect("it hangs")
}

/// The code with which the coordinator closes the connection.
pub(crate) async fn close_code(connection: &Connection) -> u32 {
    match within(connection.closed()).await {
        ConnectionError::ApplicationClosed(closed) => u32::try_from(closed.error_code.into_inner()).unwrap(),
        other => panic!("closed otherwise: {other}"),
    }
}

/// One stream, in messages or in bytes.
pub(crate) struct Stream {
    pub(crate) send: SendStream,
    receive: RecvStream,
    decoder: Decoder,
}

impl Stream {
    pub(crate) async fn open(connection: &Connection) -> Self {
        let (send, receive) = within(connection.open_bi()).await.unwrap();
        Self { send, receive, decoder: Decoder::new(Limit::Coordinator) }
    }

    /// Opens a stream with this message.
    pub(crate) async fn with(connection: &Connection, opening: &impl Serialize) -> Self {
        let mut stream = Self::open(connection).await;
        stream.say(opening).await;
        stream
    }

    pub(crate) async fn say(&mut self, message: &impl Serialize) {
        self.bytes(&frame::encode(message, Limit::Coordinator).unwrap()).await;
    }

    /// A close may overtake what is written, so errors don't count.
    pub(crate) async fn bytes(&mut self, bytes: &[u8]) {
        let _ = within(self.send.write_all(bytes)).await;
    }

    /// The next message.
    pub(crate) async fn hear<M: DeserializeOwned>(&mut self) -> M {
        self.try_hear().await.expect("more to come")
    }

    /// The next message, unless the stream or the connection ends.
    pub(crate) async fn try_hear<M: DeserializeOwned>(&mut self) -> Option<M> {
        let mut buffer = [0; 4096];
        loop {
            if let Some(message) = self.decoder.poll_message().unwrap() {
                return Some(message);
            }
            let len = within(self.receive.read(&mut buffer)).await.ok()??;
            self.decoder.handle_bytes(&buffer[..len]);
        }
    }
}

/// A request for a certificate for `key`.
pub(crate) fn csr(key: &KeyPair) -> Vec<u8> {
    CertificateParams::default().serialize_request(key).unwrap().der().to_vec()
}

/// What enrols with a token, all of it honest.
pub(crate) fn enrol_request(token: &JoinToken, key: &KeyPair, wireguard: u8) -> Enrol {
    Enrol {
        token: token.id,
        secret: SecretBytes::new(*token.secret.expose()),
        csr: csr(key),
        wireguard: PublicKey([wireguard; 32]),
        posture: postern_model::Posture { hostname: format!("node{wireguard}"), ..Default::default() },
    }
}

/// Asks to enrol, and hears the answer.
pub(crate) async fn enrol(server: SocketAddr, request: Enrol) -> EnrolReply {
    let connection = connect(server, None).await.unwrap();
    Stream::with(&connection, &Opening::Enrol(request)).await.hear().await
}

/// Opens a session, and hears the welcome.
pub(crate) async fn session(connection: &Connection) -> Stream {
    let mut session = Stream::with(connection, &hello()).await;
    let heard: CoordinatorMessage = session.hear().await;
    assert!(matches!(heard, CoordinatorMessage::Welcome(_)), "{heard:?}");
    session
}

/// Hears the certificate that was asked for, and the pass for relays that comes with it: which first is nobody's promise.
pub(crate) async fn renewed(session: &mut Stream) {
    let mut heard: [CoordinatorMessage; 2] = [session.hear().await, session.hear().await];
    heard.sort_by_key(|message| matches!(message, CoordinatorMessage::Relays { .. }));
    let is_all = matches!(heard, [CoordinatorMessage::Certificate { .. }, CoordinatorMessage::Relays { .. }]);
    assert!(is_all, "{heard:?}");
}

/// Whether a future is ready without waiting, and with what.
pub(crate) async fn at_once<F: Future>(future: F) -> Option<F::Output> {
    tokio::select! {
        biased;
        ready = future => Some(ready),
        () = std::future::ready(()) => None,
    }
}

/// Enrols an honest device.
pub(crate) async fn enrolled(server: SocketAddr, token: &JoinToken, wireguard: u8) -> Device {
    let key = KeyPair::generate_for(&PKCS_ED25519).unwrap();
    match enrol(server, enrol_request(token, &key, wireguard)).await {
        EnrolReply::Enrolled(enrolled) => {
            Device { id: enrolled.device, credential: Credential { certificate: enrolled.certificate, key } }
        }
        EnrolReply::Refused(refusal) => panic!("refused: {refusal}"),
    }
}

/// A hello of a node that is nowhere.
pub(crate) fn hello() -> Opening {
    hello_of(1)
}

/// A hello of another node that is nowhere.
pub(crate) fn hello_of(instance: u8) -> Opening {
    Opening::Hello(Hello {
        instance: [instance; 16],
        wireguard_port: 4000,
        candidates: Vec::new(),
        relay: None,
        posture: postern_model::Posture::default(),
    })
}

/// Believes any coordinator: what is tested here is the other side.
#[derive(Debug)]
struct Anyone(Arc<rustls::crypto::CryptoProvider>);

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("TLS 1.2".into()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        rustls::crypto::verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
