//! Whoever does nothing but be there keeps nobody else out.

use postern_wire::{EnrolReply, Opening, close};
use quinn::{Connection, ConnectionError};
use rcgen::{KeyPair, PKCS_ED25519};

use super::{
    client::{Stream, close_code, connect, connect_from, enrol_request, enrolled, session, within},
    program::Running,
    user_token,
};

/// The code and the words with which a connection is closed.
async fn farewell(connection: &Connection) -> (u32, String) {
    let code = close_code(connection).await;
    let Some(ConnectionError::ApplicationClosed(closed)) = connection.close_reason() else { unreachable!() };
    (code, String::from_utf8_lossy(&closed.reason).into_owned())
}

#[tokio::test]
async fn idle_strangers_keep_nobody_from_enrolling() {
    let program = Running::start();
    program.done("user add alice");
    let (server, token) = (program.address(), user_token(&program));
    let mut idle = tokio::task::JoinSet::new();
    for _ in 0..80 {
        idle.spawn(async move { connect(server, None).await.unwrap() });
    }
    let idle = within(idle.join_all()).await;

    let connection = connect_from("127.0.0.2", server, None, 1 << 20).await.unwrap();
    let key = KeyPair::generate_for(&PKCS_ED25519).unwrap();
    let mut stream = Stream::with(&connection, &Opening::Enrol(enrol_request(&token, &key, 1))).await;
    let reply: EnrolReply = stream.hear().await;
    assert!(matches!(reply, EnrolReply::Enrolled(_)), "{reply:?}");

    let mut turned_away = 0;
    for connection in &idle {
        let (code, why) = farewell(connection).await;
        assert_eq!(code, close::RETRY, "{why}");
        turned_away += usize::from(why.starts_with("too many enrolments"));
    }
    assert!(turned_away > 0, "one source has its share");
    // They are gone, and so is what they held.
    enrolled(server, &user_token(&program), 2).await;
}

#[tokio::test]
async fn a_device_has_a_session_soon_or_no_connection() {
    let program = Running::start();
    program.done("user add alice");
    let device = enrolled(program.address(), &user_token(&program), 1).await;
    let connection = connect(program.address(), Some(&device.credential)).await.unwrap();
    assert_eq!(farewell(&connection).await, (close::RETRY, "no session was begun in time".to_owned()));
}

#[tokio::test]
async fn a_device_has_four_connections_and_its_session_is_the_last_to_go() {
    let program = Running::start();
    program.done("user add alice");
    let device = enrolled(program.address(), &user_token(&program), 1).await;
    let served = connect(program.address(), Some(&device.credential)).await.unwrap();
    let _session = session(&served).await;
    let mut others = Vec::new();
    for _ in 0..10 {
        others.push(connect(program.address(), Some(&device.credential)).await.unwrap());
    }
    let mut turned_away = 0;
    for other in &others {
        let (code, why) = farewell(other).await;
        assert_eq!(code, close::RETRY, "{why}");
        turned_away += usize::from(why.starts_with("too many connections"));
    }
    assert!(turned_away > 0, "ten are too many");
    assert!(served.close_reason().is_none());
}
