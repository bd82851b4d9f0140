//! Enrolment against a coordinator whose answers may be lost.

use std::net::SocketAddr;

use postern_model::{DeviceId, PublicKey, Sha256, TokenId};
use postern_wire::Enrolled;
use quinn::{Connection, Endpoint, crypto::rustls::QuicServerConfig};
use rcgen::PublicKeyData as _;
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use sha2::Digest as _;
use tempfile::TempDir;

use super::*;

/// What a request showed of the device's keys. One Ed25519 key signs one request in one way (RFC 8032).
type Shown = (Vec<u8>, PublicKey);

/// Takes requests, and answers each as told.
struct Coordinator {
    endpoint: Endpoint,
    pin: Sha256,
}

impl Coordinator {
    fn new() -> Self {
        let key = KeyPair::generate_for(&PKCS_ED25519).unwrap();
        let pin = Sha256(sha2::Sha256::digest(key.subject_public_key_info()).into());
        let certificate = CertificateParams::new(vec!["a.example.com".into()]).unwrap().self_signed(&key).unwrap();
        let private = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let provider = std::sync::Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = rustls::ServerConfig::builder_with_provider(provider);
        let builder = builder.with_protocol_versions(&[&rustls::version::TLS13]).unwrap().with_no_client_auth();
        let mut tls = builder.with_single_cert(vec![certificate.der().clone()], private).unwrap();
        tls.alpn_protocols = vec![postern_wire::ALPN.to_vec()];
        let config = quinn::ServerConfig::with_crypto(std::sync::Arc::new(QuicServerConfig::try_from(tls).unwrap()));
        let endpoint = Endpoint::server(config, SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
        Self { endpoint, pin }
    }

    fn token(&self, id: u8) -> JoinToken {
        JoinToken {
            coordinator: self.endpoint.local_addr().unwrap().to_string().parse().unwrap(),
            pin: self.pin,
            id: TokenId::from_bytes([id; 16]),
            secret: SecretBytes::new([id; 32]),
        }
    }

    /// One request; `None` loses the answer.
    async fn serve(&self, reply: Option<EnrolReply>) -> Shown {
        let connection: Connection = self.endpoint.accept().await.unwrap().await.unwrap();
        let (mut send, receive) = connection.accept_bi().await.unwrap();
        let Some(Opening::Enrol(request)) = stream::Reader::new(receive).next().await.unwrap() else { panic!() };
        match reply {
            Some(reply) => {
                stream::send(&mut send, &reply, Limit::Anonymous).await.unwrap();
                send.finish().unwrap();
                connection.closed().await;
            }
            None => connection.close(close::DONE.into(), b""),
        }
        (request.csr, request.wireguard)
    }
}

fn enrolled() -> Option<EnrolReply> {
    let device = DeviceId::from_bytes([9; 16]);
    Some(EnrolReply::Enrolled(Enrolled { device, name: "laptop".into(), certificate: vec![1, 2, 3] }))
}

fn state() -> (TempDir, StateDir) {
    let dir = tempfile::tempdir().unwrap();
    let state = StateDir::open(&dir.path().join("node")).unwrap();
    (dir, state)
}

/// Asks once, and is answered so.
async fn ask(
    coordinator: &Coordinator,
    state: &StateDir,
    token: &JoinToken,
    reply: Option<EnrolReply>,
) -> (Result<Identity>, Shown) {
    tokio::join!(enrol(state, token, Posture::default()), coordinator.serve(reply))
}

#[tokio::test]
async fn what_was_asked_with_lost_answer_is_asked_again_with_the_same_keys() {
    let (coordinator, (_dir, state)) = (Coordinator::new(), state());
    let token = coordinator.token(1);
    let (lost, first) = ask(&coordinator, &state, &token, None).await;
    lost.unwrap_err();
    assert!(state.identity().unwrap().is_none());
    let (again, second) = ask(&coordinator, &state, &token, enrolled()).await;
    let identity = again.unwrap();
    assert_eq!(first, second);
    assert_eq!(PrivateKey::from_bytes(&identity.wireguard_key).public(), first.1);
    assert_eq!(state.identity().unwrap().unwrap().wireguard_key, identity.wireguard_key);
    assert_eq!(state.enrolling().unwrap(), None, "kept in one place");
}

#[tokio::test]
async fn another_token_is_shown_with_other_keys() {
    let (coordinator, (_dir, state)) = (Coordinator::new(), state());
    let (_, first) = ask(&coordinator, &state, &coordinator.token(1), None).await;
    let (_, second) = ask(&coordinator, &state, &coordinator.token(2), None).await;
    assert_ne!(first.0, second.0);
    assert_ne!(first.1, second.1);
}

#[tokio::test]
async fn a_refusal_ends_it_and_a_fault_does_not() {
    let (coordinator, (_dir, state)) = (Coordinator::new(), state());
    let token = coordinator.token(1);
    let refused = |why| Some(EnrolReply::Refused(why));
    let (_, first) = ask(&coordinator, &state, &token, refused(EnrolRefusal::CoordinatorFault)).await;
    let (error, second) = ask(&coordinator, &state, &token, refused(EnrolRefusal::KeyInUse)).await;
    assert_eq!(error.unwrap_err().downcast_ref(), Some(&EnrolRefusal::KeyInUse));
    assert_eq!(first, second);
    assert_eq!(state.enrolling().unwrap(), None);
    let (_, third) = ask(&coordinator, &state, &token, enrolled()).await;
    assert_ne!(second, third);
}

#[tokio::test]
async fn whoever_is_told_to_come_back_comes_back() {
    let (coordinator, (_dir, state)) = (Coordinator::new(), state());
    let token = coordinator.token(1);
    let full_at_first = async {
        let connection = coordinator.endpoint.accept().await.unwrap().await.unwrap();
        connection.close(close::RETRY.into(), b"too many enrolments");
        coordinator.serve(enrolled()).await
    };
    let (outcome, _) = tokio::join!(enrol(&state, &token, Posture::default()), full_at_first);
    assert_eq!(outcome.unwrap().name, "laptop");
}
