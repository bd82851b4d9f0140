//! A relay on loopback, and nodes that speak QUIC with it.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use bytes::Bytes;
use postern_model::{PublicKey, Sha256, TrustKey};
use postern_wire::{
    Decoder, Limit, Pass, RelayNews, RelayRequest, SignedPass, frame,
    relay::{Header, Part},
};
use quinn::{Connection, ConnectionError, Endpoint, RecvStream, SendStream, crypto::rustls::QuicClientConfig};
use rcgen::{CertificateParams, KeyPair, PKCS_ED25519, PublicKeyData as _};
use rustls::{
    DigitallySignedStruct, Error, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use sha2::Digest as _;
use tokio_util::sync::CancellationToken;

use crate::{Relay, RelaySettings, Trust, Window, clock, endpoint, state::Limits};

/// How long anything may take before it counts as hanging.
const PATIENCE: Duration = Duration::from_secs(20);

/// A relay that runs, and the coordinator that it believes.
pub(super) struct Running {
    pub(super) relay: Relay,
    pub(super) address: SocketAddr,
    signer: Ed25519KeyPair,
    stopping: CancellationToken,
}

/// A node: its keys, and who it is to WireGuard.
pub(super) struct Keys {
    key: KeyPair,
    pub(super) wireguard: PublicKey,
}

/// A node at a relay.
pub(super) struct Node {
    pub(super) connection: Connection,
    send: SendStream,
    receive: RecvStream,
    decoder: Decoder,
}

pub(super) async fn within<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(PATIENCE, future).await.expect("it hangs")
}

impl Running {
    pub(super) fn start(rate: u64) -> Self {
        let signer = Ed25519KeyPair::generate().unwrap();
        let trust = Trust::new([TrustKey(signer.public_key().as_ref().try_into().unwrap())]);
        let relay = Relay::new(RelaySettings { trust, rate, limits: Limits::default() });
        let key = KeyPair::generate_for(&PKCS_ED25519).unwrap();
        let (certificate, key) = certified(&key);
        let config = endpoint::server_config(endpoint::server_tls(certificate, key).unwrap()).unwrap();
        let quic = Endpoint::server(config, "127.0.0.1:0".parse().unwrap()).unwrap();
        let (address, stopping) = (quic.local_addr().unwrap(), CancellationToken::new());
        tokio::spawn(relay.clone().run(stopping.clone()));
        let accepting = relay.clone();
        tokio::spawn(async move {
            while let Some(incoming) = quic.accept().await {
                let relay = accepting.clone();
                tokio::spawn(async move {
                    let Ok(connection) = incoming.await else { return };
                    let key = endpoint::client_key(&connection).expect("a certificate is asked for");
                    relay.handle(connection, key, ()).await;
                });
            }
        });
        Self { relay, address, signer, stopping }
    }

    /// A pass of the coordinator's, for an hour.
    pub(super) fn pass(&self, holder: &Keys, peer: &Keys) -> SignedPass {
        self.pass_until(holder, peer, Duration::from_secs(3600))
    }

    pub(super) fn pass_until(&self, holder: &Keys, peer: &Keys, left: Duration) -> SignedPass {
        let expires = clock::now().plus(left);
        self.sign(Pass { key: holder.digest(), holder: holder.wireguard, peer: peer.wireguard, expires })
    }

    pub(super) fn sign(&self, pass: Pass) -> SignedPass {
        let signature = self.signer.sign(&pass.signed_bytes()).as_ref().try_into().unwrap();
        SignedPass { pass, signature }
    }

    pub(super) async fn connect(&self, keys: &Keys) -> Node {
        let connection = within(keys.endpoint().connect(self.address, "relay").unwrap()).await.unwrap();
        let (send, receive) = within(connection.open_bi()).await.unwrap();
        Node { connection, send, receive, decoder: Decoder::new(Limit::Anonymous) }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stopping.cancel();
    }
}

fn certified(key: &KeyPair) -> (CertificateDer<'static>, PrivateKeyDer<'static>) {
    let certificate = CertificateParams::new(vec!["node.example.com".into()]).unwrap().self_signed(key).unwrap();
    (certificate.der().clone(), PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der())))
}

impl Keys {
    pub(super) fn new(wireguard: u8) -> Self {
        Self { key: KeyPair::generate_for(&PKCS_ED25519).unwrap(), wireguard: PublicKey([wireguard; 32]) }
    }

    pub(super) fn digest(&self) -> Sha256 {
        Sha256(sha2::Sha256::digest(self.key.subject_public_key_info()).into())
    }

    fn endpoint(&self) -> Endpoint {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = rustls::ClientConfig::builder_with_provider(Arc::clone(&provider));
        let builder = builder.with_protocol_versions(&[&rustls::version::TLS13]).unwrap().dangerous();
        let (certificate, key) = certified(&self.key);
        let builder = builder.with_custom_certificate_verifier(Arc::new(Anyone(provider)));
        let mut tls = builder.with_client_auth_cert(vec![certificate], key).unwrap();
        tls.alpn_protocols = vec![postern_wire::relay::ALPN.to_vec()];
        let mut config = quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls).unwrap()));
        let mut transport = quinn::TransportConfig::default();
        let window = Window::default();
        window.open();
        endpoint::allow_datagrams(&mut transport, &window);
        config.transport_config(Arc::new(transport));
        let mut endpoint = Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
        endpoint.set_default_client_config(config);
        endpoint
    }
}

impl Node {
    pub(super) async fn ask(&mut self, request: &RelayRequest) {
        within(self.send.write_all(&frame::encode(request, Limit::Node).unwrap())).await.unwrap();
    }

    pub(super) async fn show(&mut self, pass: SignedPass) {
        self.ask(&RelayRequest::Open { pass }).await;
    }

    pub(super) async fn bytes(&mut self, bytes: &[u8]) {
        let _ = within(self.send.write_all(bytes)).await;
    }

    pub(super) async fn hear(&mut self) -> RelayNews {
        let mut buffer = [0; 4096];
        loop {
            if let Some(news) = self.decoder.poll_message().unwrap() {
                return news;
            }
            let len = within(self.receive.read(&mut buffer)).await.unwrap().expect("the relay ended the stream");
            self.decoder.handle_bytes(&buffer[..len]);
        }
    }

    /// The channel that a pass has opened.
    pub(super) async fn opened(&mut self) -> u32 {
        match self.hear().await {
            RelayNews::Opened { channel, .. } => channel,
            other => panic!("{other:?}"),
        }
    }

    /// Waits until the peer of a channel is there, or is not any more.
    pub(super) async fn until_there(&mut self, channel: u32, there: bool) {
        let news = self.hear().await;
        assert_eq!(news, RelayNews::There { channel, is_there: there });
    }

    pub(super) fn send(&self, channel: u32, packet: &[u8]) {
        let mut datagram = Vec::new();
        Header { channel, part: Part::Whole }.encode(&mut datagram);
        datagram.extend_from_slice(packet);
        self.connection.send_datagram(datagram.into()).unwrap();
    }

    pub(super) async fn receive(&self) -> (u32, Part, Bytes) {
        let datagram = within(self.connection.read_datagram()).await.unwrap();
        let (header, packet) = Header::decode(&datagram).unwrap();
        (header.channel, header.part, datagram.slice_ref(packet))
    }

    /// The code with which the relay closes the connection.
    pub(super) async fn close_code(&self) -> u32 {
        match within(self.connection.closed()).await {
            ConnectionError::ApplicationClosed(closed) => u32::try_from(closed.error_code.into_inner()).unwrap(),
            other => panic!("closed otherwise: {other}"),
        }
    }
}

/// Believes any relay: what is tested here is the other side.
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
