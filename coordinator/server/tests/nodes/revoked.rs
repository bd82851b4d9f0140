//! A revoked device is out, whatever it does not do.

use postern_wire::{CoordinatorMessage, close};

use super::{
    client::{Stream, close_code, connect, connect_from, enrolled, hello, session},
    program::Running,
    user_token,
};

#[tokio::test]
async fn not_reading_keeps_nobody_in() {
    let program = Running::start();
    program.done("user add alice");
    let device = enrolled(program.address(), &user_token(&program), 1).await;
    // Whatever comes after the welcome does not fit, and is not read.
    let connection = connect_from("127.0.0.1", program.address(), Some(&device.credential), 16).await.unwrap();
    let _session = session(&connection).await;
    program.done(&format!("device revoke {}", device.id));
    assert_eq!(close_code(&connection).await, close::UNAUTHORIZED);
}

#[tokio::test]
async fn not_saying_hello_keeps_nobody_in() {
    let program = Running::start();
    program.done("user add alice");
    // On a machine so slow that the deadline for the hello comes first, once more.
    for key in 1..=5 {
        let device = enrolled(program.address(), &user_token(&program), key).await;
        let connection = connect(program.address(), Some(&device.credential)).await.unwrap();
        let _session = session(&connection).await;
        let silent = connect(program.address(), Some(&device.credential)).await.unwrap();
        program.done(&format!("device revoke {}", device.id));
        assert_eq!(close_code(&connection).await, close::UNAUTHORIZED);
        match close_code(&silent).await {
            close::UNAUTHORIZED => return,
            close::RETRY => {}
            other => panic!("closed with {other}"),
        }
    }
    panic!("the deadline for the hello came first each time");
}

#[tokio::test]
async fn whoever_never_reads_is_told_to_come_back() {
    let program = Running::start();
    program.done("user add alice");
    let device = enrolled(program.address(), &user_token(&program), 1).await;
    let connection = connect_from("127.0.0.1", program.address(), Some(&device.credential), 16).await.unwrap();
    let _unread = Stream::with(&connection, &hello()).await;
    assert_eq!(close_code(&connection).await, close::RETRY);
    let connection = connect(program.address(), Some(&device.credential)).await.unwrap();
    let mut read = Stream::with(&connection, &hello()).await;
    assert!(matches!(read.hear().await, CoordinatorMessage::Welcome(_)));
}
