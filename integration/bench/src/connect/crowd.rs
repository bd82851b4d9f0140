//! Many devices that do nothing: they enrol, open a session, perhaps wait at the coordinator's relay, and stay. What a coordinator
//! and a relay pay for each of them.
//!
//! The devices are real as far as a coordinator can tell: keys, certificates, QUIC connections of their own, hellos; there are
//! only no nodes behind them, which this machine could not hold as many of.

use std::{convert::Infallible, io::Write as _, net::SocketAddr, sync::Arc, time::Duration};

use anyhow::{Context as _, Result, bail, ensure};
use postern_model::{JoinToken, Posture, PublicKey, SecretBytes, Sha256, token::Host};
use postern_wire::{CoordinatorMessage, Decoder, Enrol, EnrolReply, Hello, Limit, Opening, RelayRequest, frame};
use quinn::{Connection, Endpoint, RecvStream, SendStream, crypto::rustls::QuicClientConfig};
use rcgen::{CertificateParams, KeyPair, PKCS_ED25519};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use serde::{Serialize, de::DeserializeOwned};

/// So many connect at the same time: a coordinator lets no more than four strangers in from one address.
const AT_ONCE: usize = 2;
/// So many share a UDP socket: each would have its own elsewhere, and file descriptors are few here.
const PER_SOCKET: usize = 64;
/// A relay has sent whoever showed no pass that counts away by then.
const UNPROVEN: Duration = Duration::from_secs(12);
/// How long one may take to come in.
const PATIENCE: Duration = Duration::from_secs(30);

/// Enrols so many devices with a token that is good for all of them, and keeps their sessions open until it is killed; with
/// `at_relay`, their connections to the coordinator's relay as well.
///
/// # Errors
/// When one of them is not let in.
pub(crate) fn hold(token: &str, count: usize, at_relay: bool) -> Result<Infallible> {
    let token: Arc<JoinToken> = Arc::new(token.parse()?);
    let Host::Ip(ip) = token.coordinator.host else { bail!("the coordinator has to be named by its address") };
    let server = SocketAddr::new(ip, token.coordinator.port);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let sessions = runtime.block_on(async {
        let mut sessions = Vec::with_capacity(count);
        let mut endpoint = None;
        while sessions.len() < count {
            let mut coming = tokio::task::JoinSet::new();
            for _ in 0..AT_ONCE.min(count - sessions.len()) {
                let number = sessions.len() + coming.len();
                if number.is_multiple_of(PER_SOCKET) {
                    endpoint = Some(Endpoint::client(([0, 0, 0, 0], 0).into())?);
                }
                let endpoint = endpoint.clone().context("an endpoint")?;
                let token = Arc::clone(&token);
                coming.spawn(async move {
                    let entering = enter(endpoint, server, token, number, at_relay);
                    let entered = tokio::time::timeout(PATIENCE, entering).await;
                    entered.with_context(|| format!("device {number} did not come in"))?
                });
            }
            while let Some(session) = coming.join_next().await {
                sessions.push(session??);
            }
        }
        anyhow::Ok(sessions)
    })?;
    if at_relay {
        std::thread::sleep(UNPROVEN);
    }
    let is_open = |(connection, ..): &(Connection, _, _)| connection.close_reason().is_none();
    ensure!(sessions.iter().flatten().all(is_open), "a connection was closed");
    println!("{count} sessions");
    std::io::stdout().flush()?;
    loop {
        std::thread::park();
    }
}

/// An open session; it lasts as long as its parts. And the same with a relay.
type Session = Vec<(Connection, SendStream, RecvStream)>;

/// One device enrols, and opens its session.
async fn enter(
    endpoint: Endpoint,
    server: SocketAddr,
    token: Arc<JoinToken>,
    number: usize,
    at_relay: bool,
) -> Result<Session> {
    let key = KeyPair::generate_for(&PKCS_ED25519)?;
    let mut wireguard = [0; 32];
    wireguard[..8].copy_from_slice(&(number as u64 + 1).to_be_bytes());
    let enrol = Enrol {
        token: token.id,
        secret: SecretBytes::new(*token.secret.expose()),
        csr: CertificateParams::default().serialize_request(&key)?.der().to_vec(),
        wireguard: PublicKey(wireguard),
        posture: Posture { hostname: format!("idle-{number}"), ..Posture::default() },
    };
    let anonymous =
        endpoint.connect_with(config(token.pin, None, postern_wire::ALPN)?, server, "postern-coordinator")?.await?;
    let (_, _, reply) = ask::<EnrolReply>(&anonymous, &Opening::Enrol(enrol)).await?;
    anonymous.close(postern_wire::close::DONE.into(), b"");
    let EnrolReply::Enrolled(enrolled) = reply else { bail!("device {number} was not enrolled: {reply:?}") };
    let credential = (enrolled.certificate, key);
    let connect = |protocol| {
        let config = config(token.pin, Some(&credential), protocol)?;
        anyhow::Ok(endpoint.connect_with(config, server, "postern-coordinator")?)
    };
    let connection = connect(postern_wire::ALPN)?.await?;
    let hello = Hello {
        instance: [1; 16],
        wireguard_port: 51_820,
        candidates: Vec::new(),
        relay: None,
        posture: Posture::default(),
    };
    let (send, receive, welcome) = ask::<CoordinatorMessage>(&connection, &Opening::Hello(hello)).await?;
    let CoordinatorMessage::Welcome(welcome) = welcome else { bail!("device {number} is not welcome: {welcome:?}") };
    let mut session = vec![(connection, send, receive)];
    if at_relay {
        let pass = welcome.relay_pass.context("the coordinator gave no pass")?;
        let connection = connect(postern_wire::relay::ALPN)?.await?;
        let (mut send, receive) = connection.open_bi().await?;
        // A node's own pass is not answered.
        send.write_all(&frame::encode(&RelayRequest::Open { pass }, Limit::Node)?).await?;
        session.push((connection, send, receive));
    }
    Ok(session)
}

/// A question on a stream of its own, and its answer.
async fn ask<T: DeserializeOwned>(
    connection: &Connection,
    question: &impl Serialize,
) -> Result<(SendStream, RecvStream, T)> {
    let (mut send, mut receive) = connection.open_bi().await?;
    send.write_all(&frame::encode(question, Limit::Node)?).await?;
    let mut decoder = Decoder::new(Limit::Coordinator);
    let mut buffer = [0; 4096];
    loop {
        if let Some(answer) = decoder.poll_message()? {
            return Ok((send, receive, answer));
        }
        let len = receive.read(&mut buffer).await?.context("no answer")?;
        decoder.handle_bytes(&buffer[..len]);
    }
}

/// As nodes have it.
fn config(pin: Sha256, credential: Option<&(Vec<u8>, KeyPair)>, protocol: &[u8]) -> Result<quinn::ClientConfig> {
    let builder = postern_pin::client(pin)?;
    let mut tls = match credential {
        None => builder.with_no_client_auth(),
        Some((certificate, key)) => {
            let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
            builder.with_client_auth_cert(vec![CertificateDer::from(certificate.clone())], key)?
        }
    };
    tls.alpn_protocols = vec![protocol.to_vec()];
    let mut transport = quinn::TransportConfig::default();
    transport.keep_alive_interval(Some(Duration::from_secs(3)));
    let mut config = quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls)?));
    config.transport_config(Arc::new(transport));
    Ok(config)
}
