//! Asking the resolvers that the machine had before.

use std::{
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use tokio::net::{TcpStream, UdpSocket};

use super::{HEADER, read_message, write_message};

/// How long one server has before the next one is asked.
const PATIENCE: Duration = Duration::from_secs(2);

/// The first answer of any of them. Each query has a socket, and so a port, of its own (RFC 5452).
pub(super) async fn by_udp(query: &[u8], servers: &[SocketAddr]) -> Option<Vec<u8>> {
    for server in servers {
        if let Ok(Some(answer)) = tokio::time::timeout(PATIENCE, ask_udp(query, *server)).await {
            return Some(answer);
        }
    }
    None
}

async fn ask_udp(query: &[u8], server: SocketAddr) -> Option<Vec<u8>> {
    let any = if server.is_ipv6() {
        SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0))
    } else {
        SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0))
    };
    let socket = UdpSocket::bind(any).await.ok()?;
    socket.connect(server).await.ok()?;
    socket.send(query).await.ok()?;
    let mut buffer = vec![0; 65_535];
    loop {
        let len = socket.recv(&mut buffer).await.ok()?;
        if answers(&buffer[..len], query) {
            buffer.truncate(len);
            return Some(buffer);
        }
    }
}

pub(super) async fn by_tcp(query: &[u8], servers: &[SocketAddr]) -> Option<Vec<u8>> {
    for server in servers {
        let ask = async {
            let mut stream = TcpStream::connect(server).await.ok()?;
            write_message(&mut stream, query).await.ok()?;
            read_message(&mut stream).await.ok().filter(|answer| answers(answer, query))
        };
        if let Ok(Some(answer)) = tokio::time::timeout(PATIENCE, ask).await {
            return Some(answer);
        }
    }
    None
}

/// Whether it is a response with the query's id and question.
fn answers(answer: &[u8], query: &[u8]) -> bool {
    let is_response = answer.get(2).is_some_and(|flags| flags & 0x80 != 0);
    let question = |message: &[u8]| {
        let name = message.get(HEADER..)?;
        let end = name.iter().position(|byte| *byte == 0)?;
        name.get(..end + 5).map(<[u8]>::to_ascii_lowercase)
    };
    let same_question = match (question(answer), question(query)) {
        (Some(answer), Some(query)) => answer == query,
        // A refusal may leave the question out.
        _ => answer.get(4..6) == Some(&[0, 0]),
    };
    is_response && answer.get(..2) == query.get(..2) && same_question
}
