//! What nodes, strangers and thieves can do on the coordinator's QUIC port, tried byte by byte against the real program.

#![allow(clippy::unwrap_used, reason = "what fails here fails the test")]

mod activity;
mod advice;
mod candidates;
mod client;
mod crowd;
mod declared;
mod handed_on;
mod memory;
mod office;
mod rates;
mod relayed;
mod revoked;
mod slots;
mod streams;

#[path = "../program/mod.rs"]
mod program;

use client::{
    Credential, Device, Stream, close_code, connect, csr, enrol, enrol_request, enrolled, hello, renewed, within,
};
use postern_model::{DenyReason, ResourceId, SecretBytes};
use postern_wire::{
    AccessReply, AccessRequest, CoordinatorMessage, EnrolRefusal, EnrolReply, NodeMessage, Opening, close,
};
use program::Running;
use rcgen::{CertificateParams, DnType, KeyPair, PKCS_ED25519};
use serde::Serialize;

/// A message of a kind that nobody knows.
#[derive(Serialize)]
#[serde(tag = "kind", content = "body", rename_all = "snake_case")]
enum Future {
    Teleport { to: &'static str },
}

/// Bytes that are no opening of a stream.
fn malformed() -> Vec<Vec<u8>> {
    let framed = |body: &[u8]| [&u32::try_from(body.len()).unwrap().to_be_bytes(), body].concat();
    vec![
        framed(b""),
        framed(b"GET / HTTP/1.1\r\n\r\n"),
        framed(&[0xff; 64]),
        // A map that ends in the middle, a nest of arrays, a text instead of a map.
        framed(&[0xa2, 0x64, b'k', b'i', b'n', b'd']),
        framed(&[0x81; 4096]),
        framed(&[0x65, b'h', b'e', b'l', b'l', b'o']),
        // Four billion bytes are announced.
        u32::MAX.to_be_bytes().to_vec(),
    ]
}

/// How many entries of the audit log say this.
fn recorded(program: &Running, action: &str) -> usize {
    let log = program.json("audit list --limit 100000");
    log.as_array().unwrap().iter().filter(|entry| entry["action"] == action).count()
}

fn user_token(program: &Running) -> postern_model::JoinToken {
    program.token("--user alice")
}

#[tokio::test]
async fn a_stranger_may_enrol_and_nothing_else() {
    let program = Running::start();
    program.done("user add alice");
    let server = program.address();

    for bytes in malformed() {
        let connection = connect(server, None).await.unwrap();
        Stream::open(&connection).await.bytes(&bytes).await;
        assert_eq!(close_code(&connection).await, close::PROTOCOL, "{bytes:?}");
    }
    let connection = connect(server, None).await.unwrap();
    let large = vec![0; 17 << 10];
    Stream::open(&connection).await.bytes(&[&17_408_u32.to_be_bytes()[..], &large].concat()).await;
    assert_eq!(close_code(&connection).await, close::PROTOCOL, "more than a stranger may say");

    let access = Opening::AccessRequest(AccessRequest { resource: ResourceId::from_bytes([9; 16]), queried: None });
    for opening in [hello(), access] {
        let connection = connect(server, None).await.unwrap();
        let _stream = Stream::with(&connection, &opening).await;
        assert_eq!(close_code(&connection).await, close::UNAUTHORIZED);
    }

    // After all that, an honest device is served.
    enrolled(server, &user_token(&program), 1).await;
}

#[tokio::test]
async fn enrolment_tells_a_guesser_nothing() {
    let program = Running::start();
    program.done("user add alice");
    let (server, token) = (program.address(), user_token(&program));
    let key = KeyPair::generate_for(&PKCS_ED25519).unwrap();

    let guessed = postern_model::JoinToken { secret: SecretBytes::new([7; 32]), ..token.clone() };
    let invented = postern_model::JoinToken { id: postern_model::TokenId::from_bytes([7; 16]), ..token.clone() };
    for wrong in [guessed, invented] {
        let reply = enrol(server, enrol_request(&wrong, &key, 1)).await;
        assert!(matches!(reply, EnrolReply::Refused(EnrolRefusal::Invalid)), "{reply:?}");
    }

    let mut forged = enrol_request(&token, &key, 1);
    let last = forged.csr.len() - 1;
    forged.csr[last] ^= 1;
    let reply = enrol(server, forged).await;
    assert!(matches!(reply, EnrolReply::Refused(EnrolRefusal::BadRequest)), "a key it does not have: {reply:?}");
    let weak = enrol_request(&token, &KeyPair::generate().unwrap(), 1);
    let reply = enrol(server, weak).await;
    assert!(matches!(reply, EnrolReply::Refused(EnrolRefusal::BadRequest)), "not an Ed25519 key: {reply:?}");

    // None of that has used the token up.
    let first = enrolled(server, &token, 1).await;
    let reply = enrol(server, enrol_request(&token, &key, 2)).await;
    assert!(matches!(reply, EnrolReply::Refused(EnrolRefusal::Used)), "{reply:?}");
    let reply = enrol(server, enrol_request(&user_token(&program), &first.credential.key, 3)).await;
    assert!(matches!(reply, EnrolReply::Refused(EnrolRefusal::KeyInUse)), "another's key: {reply:?}");
}

#[tokio::test]
async fn a_device_that_talks_nonsense_loses_its_connection_and_no_other() {
    let program = Running::start();
    program.done("user add alice");
    let server = program.address();
    let (rude, polite) =
        (enrolled(server, &user_token(&program), 1).await, enrolled(server, &user_token(&program), 2).await);
    let calm = connect(server, Some(&polite.credential)).await.unwrap();
    let mut session = Stream::with(&calm, &hello()).await;
    assert!(matches!(session.hear().await, CoordinatorMessage::Welcome(_)));

    for bytes in malformed() {
        let connection = connect(server, Some(&rude.credential)).await.unwrap();
        Stream::open(&connection).await.bytes(&bytes).await;
        assert_eq!(close_code(&connection).await, close::PROTOCOL, "as an opening: {bytes:?}");

        let connection = connect(server, Some(&rude.credential)).await.unwrap();
        let mut stream = Stream::with(&connection, &hello()).await;
        assert!(matches!(stream.hear().await, CoordinatorMessage::Welcome(_)));
        stream.bytes(&bytes).await;
        assert_eq!(close_code(&connection).await, close::PROTOCOL, "in a session: {bytes:?}");
    }
    let access = Opening::AccessRequest(AccessRequest { resource: ResourceId::from_bytes([9; 16]), queried: None });
    let connection = connect(server, Some(&rude.credential)).await.unwrap();
    let _stream = Stream::with(&connection, &access).await;
    assert_eq!(close_code(&connection).await, close::PROTOCOL, "access ahead of a session");

    let connection = connect(server, Some(&rude.credential)).await.unwrap();
    let mut first = Stream::with(&connection, &hello()).await;
    assert!(matches!(first.hear().await, CoordinatorMessage::Welcome(_)));
    let _second = Stream::with(&connection, &hello()).await;
    assert_eq!(close_code(&connection).await, close::PROTOCOL, "a second session");

    // A certificate for another key than the device enrolled with.
    let connection = connect(server, Some(&rude.credential)).await.unwrap();
    let mut stream = Stream::with(&connection, &hello()).await;
    assert!(matches!(stream.hear().await, CoordinatorMessage::Welcome(_)));
    let other = KeyPair::generate_for(&PKCS_ED25519).unwrap();
    stream.say(&NodeMessage::RenewCertificate { csr: csr(&other) }).await;
    assert_eq!(close_code(&connection).await, close::PROTOCOL, "another key");

    // What a newer node might say is answered, and the session goes on.
    session.say(&Future::Teleport { to: "the vault" }).await;
    let answer: CoordinatorMessage = session.hear().await;
    assert!(matches!(&answer, CoordinatorMessage::Unknown { kind } if kind == "teleport"), "{answer:?}");
    session.say(&NodeMessage::RenewCertificate { csr: csr(&polite.credential.key) }).await;
    renewed(&mut session).await;
    assert!(calm.close_reason().is_none());
}

#[tokio::test]
async fn what_the_catalogue_lacks_and_what_does_not_exist_are_answered_alike() {
    let program = Running::start();
    for words in [
        "user add alice",
        "site add office",
        "resource add payroll --site office --target 10.0.0.6 --tcp 80",
        "resource add wiki --site office --target 10.0.0.5 --tcp 80",
        "policy allow user:alice wiki",
    ] {
        program.done(words);
    }
    let device = enrolled(program.address(), &user_token(&program), 1).await;
    let connection = connect(program.address(), Some(&device.credential)).await.unwrap();
    let mut session = Stream::with(&connection, &hello()).await;
    let CoordinatorMessage::Welcome(welcome) = session.hear().await else { panic!("no welcome") };
    let seen: Vec<_> = welcome.catalogue.iter().map(|entry| entry.name.as_str()).collect();
    assert_eq!(seen, ["wiki"], "of two resources, the one that she may reach");

    let rows = program.json("resource list");
    let payroll = rows.as_array().unwrap().iter().find(|row| row["name"] == "payroll").unwrap();
    let secret: ResourceId = payroll["id"].as_str().unwrap().parse().unwrap();
    let mut answers = Vec::new();
    for resource in [secret, ResourceId::from_bytes([9; 16])] {
        let mut stream =
            Stream::with(&connection, &Opening::AccessRequest(AccessRequest { resource, queried: None })).await;
        answers.push(stream.hear::<AccessReply>().await);
    }
    assert_eq!(answers[0], AccessReply::Denied { reason: DenyReason::UnknownResource });
    assert_eq!(answers[0], answers[1]);
    let log = program.json("audit list").to_string();
    assert!(log.contains("access.deny") && log.contains("no_policy"), "the admin sees the true reason: {log}");
    assert_eq!(program.json("grant list"), serde_json::json!([]));
}

#[tokio::test]
async fn only_a_certificate_of_ours_for_a_device_in_good_standing_connects() {
    let program = Running::start();
    program.done("user add alice");
    let server = program.address();
    let Device { id, credential } = enrolled(server, &user_token(&program), 1).await;

    // The same name, signed by itself.
    let key = KeyPair::generate_for(&PKCS_ED25519).unwrap();
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, id.to_string());
    let forged = Credential { certificate: params.self_signed(&key).unwrap().der().to_vec(), key };
    let refused = async |credential: &Credential| match connect(server, Some(credential)).await {
        Err(_) => true,
        // TLS 1.3 lets a client speak before its certificate was looked at.
        Ok(connection) => {
            let _stream = Stream::with(&connection, &hello()).await;
            matches!(within(connection.closed()).await, quinn::ConnectionError::ConnectionClosed(_))
        }
    };
    assert!(refused(&forged).await, "signed by itself");
    // The device's certificate without its key.
    let stolen = Credential { certificate: credential.certificate.clone(), ..forged };
    assert!(refused(&stolen).await, "a certificate is nothing without its key");

    let connection = connect(server, Some(&credential)).await.unwrap();
    let mut session = Stream::with(&connection, &hello()).await;
    assert!(matches!(session.hear().await, CoordinatorMessage::Welcome(_)));
    program.done(&format!("device revoke {id}"));
    let told: CoordinatorMessage = session.hear().await;
    assert!(matches!(told, CoordinatorMessage::Evicted { .. }), "{told:?}");
    assert_eq!(close_code(&connection).await, close::UNAUTHORIZED);
    let again = connect(server, Some(&credential)).await.unwrap();
    assert_eq!(close_code(&again).await, close::UNAUTHORIZED, "revoked");

    program.done(&format!("device remove {id}"));
    let again = connect(server, Some(&credential)).await.unwrap();
    assert_eq!(close_code(&again).await, close::UNAUTHORIZED, "removed");
}
