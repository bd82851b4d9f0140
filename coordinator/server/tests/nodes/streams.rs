//! Nodes whose network lets no UDP through, and the admin API, share a port and nothing else.

use std::{net::SocketAddr, sync::Arc};

use postern_encap::client::{ClientSocket, connect};
use postern_model::Sha256;
use postern_wire::stun::{self, Transaction};
use quinn::{AsyncUdpSocket, Connection, ConnectionError, Endpoint, EndpointConfig};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    task::JoinSet,
};

use super::{
    client::{Credential, at_once, config, enrolled, session, within},
    program::Running,
    user_token,
};

/// A stream of QUIC packets to the coordinator.
async fn stream(server: SocketAddr, program: &Running) -> Arc<ClientSocket> {
    let pin = user_token(program).pin;
    within(connect(server, pin)).await.unwrap()
}

async fn connect_in(
    socket: Arc<ClientSocket>,
    credential: Option<&Credential>,
) -> Result<(Endpoint, Connection), ConnectionError> {
    let remote = socket.remote();
    let runtime = quinn::default_runtime().unwrap();
    let socket: Arc<dyn AsyncUdpSocket> = socket;
    let endpoint = Endpoint::new_with_abstract_socket(EndpointConfig::default(), None, socket, runtime).unwrap();
    let connecting =
        endpoint.connect_with(config(credential, 1 << 20, postern_wire::ALPN), remote, "postern-coordinator").unwrap();
    let connection = within(connecting).await?;
    Ok((endpoint, connection))
}

#[tokio::test]
async fn a_session_in_a_stream_is_like_any_other_and_shows_where_it_comes_from() {
    let program = Running::start();
    program.done("user add alice");
    let (server, token) = (program.address(), user_token(&program));
    let device = enrolled(server, &token, 1).await;
    let (_endpoint, connection) = connect_in(stream(server, &program).await, Some(&device.credential)).await.unwrap();
    let _session = session(&connection).await;
    let devices = program.json("device list");
    assert_eq!(devices[0]["connected"], true, "{devices}");
    let from: SocketAddr = devices[0]["connected_from"].as_str().unwrap().parse().unwrap();
    assert!(from.ip().is_loopback() && from.is_ipv4(), "{from}");

    // The stream proves nothing: without a certificate it is a stranger's, and after a revocation nobody's.
    program.done(&format!("device revoke {}", device.id));
    let closed = within(connection.closed()).await;
    assert!(matches!(closed, ConnectionError::ApplicationClosed(_)), "{closed}");
    let refused = connect_in(stream(server, &program).await, Some(&device.credential)).await;
    if let Ok((_endpoint, connection)) = refused {
        assert_eq!(super::close_code(&connection).await, postern_wire::close::UNAUTHORIZED);
    }
}

#[tokio::test]
async fn idle_connections_to_the_api_take_no_node_s_place_and_no_node_takes_theirs() {
    let program = Running::start();
    program.done("user add alice");
    let (server, token) = (program.address(), user_token(&program));
    let mut idle = Vec::new();
    for _ in 0..100 {
        idle.push(within(tls(server, token.pin)).await);
    }
    let device = enrolled(server, &token, 1).await;
    let mut streams = Vec::new();
    for _ in 0..100 {
        streams.push(stream(server, &program).await);
    }
    let (_endpoint, connection) = connect_in(stream(server, &program).await, Some(&device.credential)).await.unwrap();
    session(&connection).await;

    // A source has 64 places at the API; the rest was hung up on.
    let mut ended = JoinSet::new();
    for mut connection in idle {
        ended.spawn(async move { connection.read(&mut [0]).await });
    }
    for _ in 64..100 {
        within(ended.join_next()).await;
    }
    assert!(at_once(ended.join_next()).await.is_none(), "the others are there");
    // As soon as some leave, others are served, nodes or not.
    ended.shutdown().await;
    within(async { while !is_served(server, token.pin).await {} }).await;
    assert!(connection.close_reason().is_none());
}

/// Whether the API answers, if only that it wants a key.
async fn is_served(server: SocketAddr, pin: Sha256) -> bool {
    let mut connection = tls(server, pin).await;
    let mut answer = [0; 12];
    connection.write_all(b"GET /v1/users HTTP/1.1\r\nHost: x\r\n\r\n").await.is_ok()
        && connection.read_exact(&mut answer).await.is_ok_and(|_| &answer == b"HTTP/1.1 401")
}

/// TLS without a word of what is to be spoken.
async fn tls(server: SocketAddr, pin: Sha256) -> tokio_rustls::client::TlsStream<TcpStream> {
    let tls = postern_pin::client(pin).unwrap().with_no_client_auth();
    let name = rustls_pki_types::ServerName::try_from("postern-coordinator").unwrap();
    let tcp = TcpStream::connect(server).await.unwrap();
    tokio_rustls::TlsConnector::from(Arc::new(tls)).connect(name, tcp).await.unwrap()
}

#[tokio::test]
async fn the_nodes_port_answers_stun() {
    let program = Running::start();
    let socket = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.connect(program.address()).await.unwrap();
    let transaction = Transaction::new([7; 12]);
    socket.send(&stun::request(transaction)).await.unwrap();
    let mut answer = [0; 100];
    let len = within(socket.recv(&mut answer)).await.unwrap();
    assert_eq!(stun::mapped_address(&answer[..len], transaction), Some(socket.local_addr().unwrap()));
}
