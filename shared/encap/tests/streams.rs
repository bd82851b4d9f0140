//! QUIC over UDP and over streams at once, on real sockets of the loopback interface.

#![allow(clippy::unwrap_used, reason = "what fails here fails the test")]

mod ends;

use std::{net::SocketAddr, time::Duration};

use ends::{Server, within};
use postern_encap::{client, server};
use postern_wire::stun::{self, Transaction};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::UdpSocket,
};

/// What a client is told: the address from which the server sees it come, after an echo of much in both directions.
async fn echo(connection: &quinn::Connection) -> SocketAddr {
    let (mut send, mut receive) = within(connection.open_bi()).await.unwrap();
    let said: Vec<u8> = (0..300_000_u32).flat_map(u32::to_be_bytes).collect();
    let sent = said.clone();
    let sending = tokio::spawn(async move {
        send.write_all(&sent).await.unwrap();
        send.finish().unwrap();
    });
    let heard = within(receive.read_to_end(4 << 20)).await.unwrap();
    within(sending).await.unwrap();
    let (echoed, seen) = heard.split_at(said.len());
    assert_eq!(echoed, said);
    std::str::from_utf8(seen).unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn one_server_speaks_with_clients_in_streams_and_by_udp_at_once() {
    let server = Server::start(8).await;
    let (first, second) = (server.stream_client().await, server.stream_client().await);
    let third = server.udp_client().await;
    let (a, b, c) = tokio::join!(echo(&first.connection), echo(&second.connection), echo(&third));
    for seen in [a, b] {
        assert!(seen.ip().to_canonical().is_loopback(), "the real address: {seen}");
    }
    assert_ne!(a, b);
    assert!(c.ip().is_loopback());
    assert_eq!(server.socket.streams(), 2);
    assert!(server::is_in_stream(server.seen(0)) && server::is_in_stream(server.seen(1)));
    assert!(!server::is_in_stream(server.seen(2)));

    // A client that leaves says so, and its stream's place is free again.
    first.connection.close(7_u32.into(), b"done");
    let closed = within(server.closed(0)).await;
    assert!(matches!(&closed, quinn::ConnectionError::ApplicationClosed(close) if close.error_code == 7_u32.into()));
    drop(first);
    server.has_streams(1).await;
    echo(&second.connection).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_asks_by_stun_on_the_same_port_is_answered_also_amid_quic() {
    let server = Server::start(8).await;
    let (stream, udp) = (server.stream_client().await, server.udp_client().await);
    let talking = tokio::spawn(async move {
        echo(&udp).await;
        echo(&stream.connection).await;
    });
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.connect(server.addr).await.unwrap();
    for number in 0..50 {
        let transaction = Transaction::new([number; 12]);
        socket.send(&stun::request(transaction)).await.unwrap();
        let mut answer = [0; 100];
        let len = within(socket.recv(&mut answer)).await.unwrap();
        assert_eq!(stun::mapped_address(&answer[..len], transaction), Some(socket.local_addr().unwrap()));
    }
    within(talking).await.unwrap();

    // Nothing else that looks like it is answered, and by nobody.
    socket.send(&[0; 100]).await.unwrap();
    socket.send(&stun::answer(&stun::request(Transaction::new([1; 12])), server.addr).unwrap()).await.unwrap();
    let marker = Transaction::new([99; 12]);
    socket.send(&stun::request(marker)).await.unwrap();
    let mut answer = [0; 100];
    let len = within(socket.recv(&mut answer)).await.unwrap();
    assert!(stun::mapped_address(&answer[..len], marker).is_some(), "the first answer is to the last request");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_frame_ends_its_stream_and_no_other() {
    let server = Server::start(8).await;
    let good = server.stream_client().await;
    let mut bad = server.tls(&[postern_encap::ALPN]).await;
    bad.write_all(&[0xff, 0xff, 1, 2, 3]).await.unwrap();
    let mut rest = Vec::new();
    let _ = within(bad.read_to_end(&mut rest)).await;
    server.has_streams(1).await;
    assert!(rest.is_empty(), "nothing is said to it");
    echo(&good.connection).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn more_streams_than_there_may_be_are_refused_and_those_that_are_there_go_on() {
    let server = Server::start(2).await;
    let (first, second) = (server.stream_client().await, server.stream_client().await);
    let refused = client::connect(server.addr, server.pin).await.unwrap();
    within(async {
        while refused.ended().is_none() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    echo(&first.connection).await;
    drop(second);
    server.has_streams(1).await;
    let third = server.stream_client().await;
    echo(&third.connection).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_breaks_ends_its_connection_at_once() {
    let server = Server::start(8).await;
    let client = server.stream_client().await;
    server.cut_streams();
    within(client.connection.closed()).await;
    assert!(client.socket.ended().is_some(), "and it is known why");
    server.has_streams(0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_key_and_a_server_without_streams_are_told_apart() {
    let server = Server::start(8).await;
    let error = client::connect(server.addr, postern_model::Sha256([9; 32])).await.unwrap_err();
    assert!(error.is_wrong_pin(), "{error}");
    let plain = server.plain_tls().await;
    let error = client::connect(plain, server.pin).await.unwrap_err();
    assert!(!error.is_wrong_pin() && !error.to_string().contains("pin"), "{error}");
}
