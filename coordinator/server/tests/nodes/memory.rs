//! What the coordinator keeps for those who send more than is read.

use postern_wire::{CoordinatorMessage, Opening};
use quinn::SendStream;

use super::{
    client::{Stream, at_once, connect, enrolled, hello, session, within},
    program::Running,
    user_token,
};

/// A stream's share, and a connection's.
const STREAM: usize = 64 << 10;
const CONNECTION: usize = 256 << 10;

/// How much may be sent on a stream before the coordinator takes more. Asked without waiting, so that nothing is taken.
async fn room(stream: &mut SendStream) -> usize {
    let mut room = 0;
    while let Some(written) = at_once(stream.write(&[0; 16 << 10])).await {
        room += written.unwrap();
    }
    room
}

#[tokio::test]
async fn a_stranger_has_one_stream_and_little_room() {
    let program = Running::start();
    let connection = connect(program.address(), None).await.unwrap();
    let mut first = Stream::open(&connection).await;
    assert!(at_once(connection.open_bi()).await.is_none(), "a second stream, which nobody would read");
    let room = room(&mut first.send).await;
    assert!((1..=STREAM).contains(&room), "{room} bytes");
}

#[tokio::test]
async fn a_device_has_little_room_on_all_its_streams_together() {
    let program = Running::start();
    program.done("user add alice");
    let device = enrolled(program.address(), &user_token(&program), 1).await;
    let connection = connect(program.address(), Some(&device.credential)).await.unwrap();
    let _session = session(&connection).await;
    let mut streams = Vec::new();
    for _ in 0..50 {
        streams.push(within(connection.open_bi()).await.unwrap());
    }
    let mut all = 0;
    for (send, _) in &mut streams {
        let room = room(send).await;
        assert!(room <= STREAM, "{room} bytes");
        all += room;
    }
    assert!((1..=CONNECTION).contains(&all), "{all} bytes");
}

#[tokio::test]
async fn the_longest_message_still_fits() {
    let program = Running::start();
    program.done("user add alice");
    let device = enrolled(program.address(), &user_token(&program), 1).await;
    let connection = connect(program.address(), Some(&device.credential)).await.unwrap();
    let Opening::Hello(mut long) = hello() else { unreachable!() };
    long.posture.kernel = "k".repeat(60 << 10);
    let mut stream = Stream::with(&connection, &Opening::Hello(long)).await;
    let heard: CoordinatorMessage = stream.hear().await;
    assert!(matches!(heard, CoordinatorMessage::Welcome(_)), "{heard:?}");
}
