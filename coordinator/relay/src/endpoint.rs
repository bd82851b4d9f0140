//! QUIC as a relay needs it: any client key, room for datagrams, and congestion left to what is inside them.

use std::{
    any::Any,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use aws_lc_rs::hmac;
use postern_model::Sha256;
use quinn::{
    Connection, EndpointConfig, IdleTimeout, TransportConfig, VarInt,
    congestion::{Controller, ControllerFactory, CubicConfig},
    crypto::rustls::{HandshakeData, QuicServerConfig},
};
use quinn_proto::{HashedConnectionIdGenerator, RttEstimator};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, SignatureScheme,
    client::danger::HandshakeSignatureValid,
    crypto::CryptoProvider,
    server::danger::{ClientCertVerified, ClientCertVerifier},
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use sha2::Digest as _;
use x509_parser::prelude::{FromDer as _, X509Certificate};

/// How long a silent node counts as connected. Nodes send something every 15 to 20 seconds.
const IDLE: Duration = Duration::from_secs(30);
/// Datagrams that have come and were not yet looked at, in bytes.
const RECEIVED: usize = 1 << 20;
/// Datagrams that wait to be sent to one node, in bytes: some milliseconds at full speed. What comes beyond is dropped.
const TO_SEND: usize = 1 << 20;
/// Bytes that a node may send on its stream ahead of what was read.
const STREAM_WINDOW: u32 = 64 << 10;
/// Bytes on their way on a stream to a node that it has not acknowledged.
const SEND_WINDOW: u64 = 256 << 10;
/// Bytes of datagrams on their way to one node: a gigabit per second over 130 ms.
const WINDOW: u64 = 16 << 20;

/// An endpoint that tells the nodes of its earlier life that their connections are gone (stateless resets, RFC 9000 section 10.3),
/// so that they need not find out by waiting. For that it has to know its connection ids again, and to make the same tokens
/// for them: both follow from `secret`, which has to be the same at each start, and nobody else's. `purpose` tells its uses apart.
pub fn endpoint_config(secret: &[u8], purpose: &str) -> EndpointConfig {
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret);
    let derive = |what: &str| hmac::sign(&key, format!("{purpose} {what}").as_bytes());
    let (tokens, ids) = (derive("reset tokens"), derive("connection ids"));
    let mut config = EndpointConfig::new(Arc::new(hmac::Key::new(hmac::HMAC_SHA256, tokens.as_ref())));
    let seed = ids.as_ref().first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes));
    config.cid_generator(move || Box::new(HashedConnectionIdGenerator::from_key(seed)));
    config
}

/// Whether a connection carries sealed packets, which is known only after its handshake; until then it is like any other.
///
/// What is inside a relayed datagram has congestion control of its own, and behind that another one would only see half of
/// the path, and halve the speed of all flows for what one has lost. As in TURN, the relay leaves it to them.
#[derive(Debug, Clone, Default)]
pub struct Window(Arc<AtomicBool>);

impl Window {
    /// From now on the connection is limited by what is inside its datagrams.
    pub fn open(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl ControllerFactory for Window {
    fn build(self: Arc<Self>, now: Instant, mtu: u16) -> Box<dyn Controller> {
        let inner = Arc::new(CubicConfig::default()).build(now, mtu);
        Box::new(Congestion { is_open: Self::clone(&self), inner })
    }
}

struct Congestion {
    is_open: Window,
    /// In charge of connections that carry no packets.
    inner: Box<dyn Controller>,
}

impl Controller for Congestion {
    fn on_sent(&mut self, now: Instant, bytes: u64, last_packet_number: u64) {
        self.inner.on_sent(now, bytes, last_packet_number);
    }

    fn on_ack(&mut self, now: Instant, sent: Instant, bytes: u64, app_limited: bool, rtt: &RttEstimator) {
        self.inner.on_ack(now, sent, bytes, app_limited, rtt);
    }

    fn on_end_acks(&mut self, now: Instant, in_flight: u64, app_limited: bool, largest: Option<u64>) {
        self.inner.on_end_acks(now, in_flight, app_limited, largest);
    }

    fn on_congestion_event(&mut self, now: Instant, sent: Instant, is_persistent: bool, lost: u64) {
        self.inner.on_congestion_event(now, sent, is_persistent, lost);
    }

    fn on_mtu_update(&mut self, mtu: u16) {
        self.inner.on_mtu_update(mtu);
    }

    fn window(&self) -> u64 {
        if self.is_open.0.load(Ordering::Relaxed) { WINDOW } else { self.inner.window() }
    }

    fn clone_box(&self) -> Box<dyn Controller> {
        Box::new(Self { is_open: self.is_open.clone(), inner: self.inner.clone_box() })
    }

    fn initial_window(&self) -> u64 {
        self.inner.initial_window()
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}

/// Makes room for datagrams, and for nodes that are silent for as long as nodes at a relay may be.
pub fn allow_datagrams(transport: &mut TransportConfig, window: &Window) {
    // 30 seconds is far below the limit of 2^62 milliseconds.
    transport.max_idle_timeout(IdleTimeout::try_from(IDLE).ok());
    transport.datagram_receive_buffer_size(Some(RECEIVED));
    transport.datagram_send_buffer_size(TO_SEND);
    transport.congestion_controller_factory(Arc::new(window.clone()));
}

/// QUIC of a relay that runs on its own.
///
/// # Errors
/// When the cryptography can't be set up.
pub fn server_config(
    tls: rustls::ServerConfig,
) -> Result<quinn::ServerConfig, quinn::crypto::rustls::NoInitialCipherSuite> {
    let mut transport = TransportConfig::default();
    transport.max_concurrent_bidi_streams(VarInt::from_u32(1));
    transport.max_concurrent_uni_streams(VarInt::from_u32(0));
    transport.stream_receive_window(VarInt::from_u32(STREAM_WINDOW));
    transport.receive_window(VarInt::from_u32(STREAM_WINDOW));
    transport.send_window(SEND_WINDOW);
    let window = Window::default();
    window.open();
    allow_datagrams(&mut transport, &window);
    let mut config = quinn::ServerConfig::with_crypto(Arc::new(QuicServerConfig::try_from(tls)?));
    config.transport_config(Arc::new(transport));
    Ok(config)
}

/// TLS of a relay that runs on its own: 1.3 only; a client certificate has to be shown, and only its key counts.
///
/// # Errors
/// When the cryptography can't be set up, or the key is none.
pub fn server_tls(
    certificate: CertificateDer<'static>,
    key: PrivateKeyDer<'static>,
) -> Result<rustls::ServerConfig, Error> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = rustls::ServerConfig::builder_with_provider(Arc::clone(&provider));
    let builder = builder.with_protocol_versions(&[&rustls::version::TLS13])?;
    let builder = builder.with_client_cert_verifier(Arc::new(AnyKey(provider)));
    let mut config = builder.with_single_cert(vec![certificate], key)?;
    config.alpn_protocols = vec![postern_wire::relay::ALPN.to_vec()];
    config.send_tls13_tickets = 0;
    Ok(config)
}

/// Whether a connection's client wants a relay.
pub fn is_for_relay(connection: &Connection) -> bool {
    let data = connection.handshake_data().and_then(|data| data.downcast::<HandshakeData>().ok());
    data.is_some_and(|data| data.protocol.as_deref() == Some(postern_wire::relay::ALPN))
}

/// The digest of the key that a connection's client has shown to hold.
pub fn client_key(connection: &Connection) -> Option<Sha256> {
    let chain = connection.peer_identity()?.downcast::<Vec<CertificateDer<'static>>>().ok()?;
    let (_, certificate) = X509Certificate::from_der(chain.first()?).ok()?;
    Some(Sha256(sha2::Sha256::digest(certificate.public_key().raw).into()))
}

/// Believes that whoever signs the handshake holds the key, and nothing else of a certificate: what the key is good for,
/// passes say.
#[derive(Debug)]
struct AnyKey(Arc<CryptoProvider>);

impl ClientCertVerifier for AnyKey {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let malformed = |_| Error::InvalidCertificate(CertificateError::BadEncoding);
        X509Certificate::from_der(end_entity).map_err(malformed)?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("TLS 1.2 is not spoken here".into()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
