//! How often a device or a stranger can make the coordinator write something down.

use postern_model::{DenyReason, JoinToken, Posture, ResourceId, SecretBytes};
use postern_wire::{
    AccessReply, AccessRequest, CoordinatorMessage, EnrolRefusal, EnrolReply, NodeMessage, Opening, close,
};
use rcgen::{KeyPair, PKCS_ED25519};
use serde_json::json;

use super::{
    client::{Stream, close_code, connect, enrol_request, enrolled, hello_of, session},
    program::Running,
    recorded, user_token,
};

#[tokio::test]
async fn access_requests_beyond_the_limit_are_denied_and_not_recorded() {
    let program = Running::start();
    program.done("user add alice");
    let device = enrolled(program.address(), &user_token(&program), 1).await;
    let connection = connect(program.address(), Some(&device.credential)).await.unwrap();
    let _session = session(&connection).await;
    let request = Opening::AccessRequest(AccessRequest { resource: ResourceId::from_bytes([9; 16]) });
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
    assert_eq!(recorded(&program, "access.deny"), decided);
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

#[tokio::test]
async fn refused_enrolments_do_not_fill_the_log() {
    let program = Running::start();
    program.done("user add alice");
    let (server, token) = (program.address(), user_token(&program));
    let key = KeyPair::generate_for(&PKCS_ED25519).unwrap();
    let guessed = JoinToken { secret: SecretBytes::new([7; 32]), ..token.clone() };
    let mut refused = 0;
    let code = loop {
        assert!(refused < 200, "nobody stops it");
        let connection = connect(server, None).await.unwrap();
        let mut stream = Stream::with(&connection, &Opening::Enrol(enrol_request(&guessed, &key, 1))).await;
        match stream.try_hear().await {
            Some(EnrolReply::Refused(EnrolRefusal::Invalid)) => refused += 1,
            Some(other) => panic!("{other:?}"),
            None => break close_code(&connection).await,
        }
    };
    assert_eq!(code, close::RETRY);
    assert!(refused >= 16, "{refused}");
    assert_eq!(recorded(&program, "enrol.refuse"), refused);
    // Another token is not concerned, even from the same place.
    enrolled(server, &user_token(&program), 2).await;
}
