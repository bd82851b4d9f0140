//! How often a device or a stranger can make the coordinator write something down.

use std::{collections::BTreeSet, net::SocketAddr};

use postern_model::{DenyReason, JoinToken, Posture, ResourceId, SecretBytes, TokenId};
use postern_wire::{
    AccessReply, AccessRequest, CoordinatorMessage, Enrol, EnrolRefusal, EnrolReply, NodeMessage, Opening, close,
};
use rcgen::{KeyPair, PKCS_ED25519};
use serde_json::json;

use super::{
    client::{Stream, close_code, connect, enrol_request, enrolled, hello_of, session},
    program::Running,
    recorded, user_token,
};

#[tokio::test]
async fn access_requests_beyond_the_limit_are_denied_and_the_same_denial_is_not_recorded_each_time() {
    let program = Running::start();
    program.done("user add alice");
    let device = enrolled(program.address(), &user_token(&program), 1).await;
    let connection = connect(program.address(), Some(&device.credential)).await.unwrap();
    let _session = session(&connection).await;
    let request = Opening::AccessRequest(AccessRequest { resource: ResourceId::from_bytes([9; 16]), queried: None });
    let (mut decided, mut turned_away) = (0, 0);
    for _ in 0..20 {
        let mut streams = Vec::new();
        for _ in 0..80 {
            streams.push(Stream::with(&connection, &request).await);
        }
        for mut stream in streams {
            match stream.hear::<AccessReply>().await {
                AccessReply::Denied { reason: DenyReason::TooManyRequests } => turned_away += 1,
                AccessReply::Denied { reason: DenyReason::UnknownResource } => decided += 1,
                other => panic!("{other:?}"),
            }
        }
    }
    assert!(decided >= 128 && turned_away > 0, "{decided} decided, {turned_away} turned away");
    let rows = recorded(&program, "access.deny");
    assert!((1..16).contains(&rows), "{rows} entries");
    assert!(connection.close_reason().is_none(), "it is only told to slow down");
}

#[tokio::test]
async fn two_nodes_with_one_identity_do_not_fill_the_log() {
    let program = Running::start();
    program.done("user add alice");
    let device = enrolled(program.address(), &user_token(&program), 1).await;
    let mut welcomed = 0;
    let refused = loop {
        assert!(welcomed < 200, "nobody stops it");
        let connection = connect(program.address(), Some(&device.credential)).await.unwrap();
        let mut stream = Stream::with(&connection, &hello_of(welcomed % 2)).await;
        match stream.try_hear().await {
            Some(CoordinatorMessage::Welcome(_)) => welcomed += 1,
            Some(other) => panic!("{other:?}"),
            None => break close_code(&connection).await,
        }
    };
    assert_eq!(refused, close::RETRY);
    assert!(welcomed >= 10, "{welcomed}");
    assert!(recorded(&program, "device.superseded") < usize::from(welcomed));
}

#[tokio::test]
async fn of_many_postures_the_last_is_recorded() {
    let program = Running::start();
    program.done("user add alice");
    let device = enrolled(program.address(), &user_token(&program), 1).await;
    let connection = connect(program.address(), Some(&device.credential)).await.unwrap();
    let mut session = session(&connection).await;
    for patch in 1..=200 {
        let posture = Posture { kernel: format!("6.1.{patch}"), ..Posture::default() };
        session.say(&NodeMessage::Posture { posture }).await;
    }
    let last = || program.json("device list")[0]["posture"]["kernel"] == json!("6.1.200");
    for _ in 0..1500 {
        if last() {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    assert!(last(), "{}", program.json("device list"));
    let rows = recorded(&program, "device.posture");
    assert!(rows < 20, "{rows} entries");
}

/// Asks until it is told to come back later; returns what was answered before.
async fn until_told_to_wait(server: SocketAddr, mut request: impl FnMut() -> Enrol) -> Vec<EnrolReply> {
    let mut answered = Vec::new();
    loop {
        assert!(answered.len() < 200, "nobody stops it");
        let connection = connect(server, None).await.unwrap();
        let mut stream = Stream::with(&connection, &Opening::Enrol(request())).await;
        match stream.try_hear().await {
            Some(reply) => answered.push(reply),
            None => break assert_eq!(close_code(&connection).await, close::RETRY),
        }
    }
    answered
}

fn guess(token: &JoinToken) -> JoinToken {
    JoinToken { secret: SecretBytes::new([7; 32]), ..token.clone() }
}

fn key() -> KeyPair {
    KeyPair::generate_for(&PKCS_ED25519).unwrap()
}

#[tokio::test]
async fn guesses_fill_no_log_and_keep_out_nobody_who_has_the_secret() {
    let program = Running::start();
    program.done("user add alice");
    let (server, token) = (program.address(), user_token(&program));
    let (guessed, stranger) = (guess(&token), key());
    let answered = until_told_to_wait(server, || enrol_request(&guessed, &stranger, 1)).await;
    assert!(answered.iter().all(|reply| matches!(reply, EnrolReply::Refused(EnrolRefusal::Invalid))), "{answered:?}");
    assert!(answered.len() >= 16, "{}", answered.len());
    assert_eq!(recorded(&program, "enrol.refuse"), answered.len());

    // A token that is made up is nobody's: that uses up what the source may.
    let invented = JoinToken { id: TokenId::from_bytes([7; 16]), ..token.clone() };
    let answered = until_told_to_wait(server, || enrol_request(&invented, &stranger, 1)).await;
    assert!(!answered.is_empty());

    // From the same place as the guesses, with the token that was guessed at.
    enrolled(server, &token, 2).await;
    enrolled(server, &user_token(&program), 3).await;
}

#[tokio::test]
async fn refusals_of_those_who_have_the_secret_fill_no_log() {
    let program = Running::start();
    program.done("user add alice");
    let (server, token, late) = (program.address(), user_token(&program), key());
    enrolled(server, &token, 1).await;
    let answered = until_told_to_wait(server, || enrol_request(&token, &late, 2)).await;
    assert!(answered.iter().all(|reply| matches!(reply, EnrolReply::Refused(EnrolRefusal::Used))), "{answered:?}");
    assert!(answered.len() >= 16, "{}", answered.len());
    assert_eq!(recorded(&program, "enrol.refuse"), answered.len());
}

#[tokio::test]
async fn enrolling_again_and_again_fills_no_log() {
    let program = Running::start();
    program.done("user add alice");
    let (server, token, own) = (program.address(), user_token(&program), key());
    let answered = until_told_to_wait(server, || enrol_request(&token, &own, 1)).await;
    let devices: BTreeSet<_> = answered
        .iter()
        .map(|reply| match reply {
            EnrolReply::Enrolled(enrolled) => enrolled.device,
            EnrolReply::Refused(refusal) => panic!("refused: {refusal}"),
        })
        .collect();
    assert_eq!(devices.len(), 1);
    assert!(answered.len() >= 4, "once, and three times more: {}", answered.len());
    assert_eq!(recorded(&program, "device.enrol"), 1);
    assert_eq!(recorded(&program, "device.enrol.again"), answered.len() - 1);
    enrolled(server, &user_token(&program), 2).await;

    program.done("user suspend alice");
    let answered = until_told_to_wait(server, || enrol_request(&token, &own, 1)).await;
    let is_inactive = |reply: &EnrolReply| matches!(reply, EnrolReply::Refused(EnrolRefusal::OwnerInactive));
    assert!(answered.iter().all(is_inactive), "{answered:?}");
    assert_eq!(recorded(&program, "enrol.refuse"), answered.len());
}
