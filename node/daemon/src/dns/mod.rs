//! The stub resolver on this node's own overlay address: the zone's names are answered by the engine, all others are passed
//! on, byte for byte, to the resolvers that the machine had before.

mod upstream;

use std::{
    future::Future,
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use postern_engine::DnsVerdict;
use postern_model::OverlayAddr;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream, UdpSocket},
    sync::{Semaphore, watch},
};

const PORT: u16 = 53;
/// Queries at once that wait for a decision, which takes no time, and that wait for another resolver, which may; more are
/// dropped, and asked again by whoever asked. Apart, so that a resolver that hangs does not take the zone's names along.
const QUERIES: usize = 512;
/// TCP connections at once.
const CONNECTIONS: usize = 64;
/// How long a TCP connection may be silent.
const IDLE: Duration = Duration::from_secs(10);
/// The header of a DNS message (RFC 1035 section 4.1.1).
const HEADER: usize = 12;

/// The resolvers that the machine has beside this one; they may change.
pub type Upstreams = watch::Receiver<Arc<[SocketAddr]>>;

#[derive(Clone)]
struct Limits {
    queries: Arc<Semaphore>,
    forwards: Arc<Semaphore>,
}

/// Bound and not yet serving.
#[derive(Debug)]
pub struct DnsStub {
    udp: Vec<UdpSocket>,
    tcp: Vec<TcpListener>,
}

impl DnsStub {
    /// Listens on port 53 of both overlay addresses, or of the IPv4 one where there is no IPv6.
    ///
    /// # Errors
    /// When the IPv4 address can't be listened on.
    pub async fn bind(addr: OverlayAddr) -> io::Result<Self> {
        let mut stub = Self { udp: Vec::new(), tcp: Vec::new() };
        stub.add((IpAddr::from(addr.v4), PORT).into()).await?;
        if let Err(error) = stub.add((IpAddr::from(addr.v6), PORT).into()).await {
            tracing::debug!(%error, "names are answered on the IPv4 address alone");
        }
        Ok(stub)
    }

    async fn add(&mut self, addr: SocketAddr) -> io::Result<()> {
        let (udp, tcp) = (UdpSocket::bind(addr).await?, TcpListener::bind(addr).await?);
        self.udp.push(udp);
        self.tcp.push(tcp);
        Ok(())
    }

    /// Answers, until dropped. `decide` says what to do with a query; what is not ours goes to the first of `upstreams`, as
    /// they are then, that answers.
    pub async fn serve<F>(self, upstreams: Upstreams, decide: impl Fn(Vec<u8>) -> F + Clone + Send + Sync + 'static)
    where
        F: Future<Output = DnsVerdict> + Send + 'static,
    {
        let mut tasks = tokio::task::JoinSet::new();
        let limits = Limits { queries: Arc::new(Semaphore::new(QUERIES)), forwards: Arc::new(Semaphore::new(QUERIES)) };
        for socket in self.udp {
            tasks.spawn(serve_udp(Arc::new(socket), upstreams.clone(), limits.clone(), decide.clone()));
        }
        for listener in self.tcp {
            tasks.spawn(serve_tcp(listener, upstreams.clone(), decide.clone()));
        }
        while tasks.join_next().await.is_some() {}
    }
}

async fn serve_udp<F>(
    socket: Arc<UdpSocket>,
    upstreams: Upstreams,
    limits: Limits,
    decide: impl Fn(Vec<u8>) -> F + Clone + Send + Sync + 'static,
) where
    F: Future<Output = DnsVerdict> + Send + 'static,
{
    let mut buffer = vec![0; 65_535];
    loop {
        let (len, from) = match socket.recv_from(&mut buffer).await {
            Ok(received) => received,
            Err(error) => {
                // Such as an answer that the one who asked did not wait for.
                tracing::debug!(%error, "a query could not be received");
                tokio::time::sleep(Duration::from_millis(5)).await;
                continue;
            }
        };
        let Ok(permit) = Arc::clone(&limits.queries).try_acquire_owned() else { continue };
        let query = buffer[..len].to_vec();
        let (socket, upstreams, decide) = (Arc::clone(&socket), upstreams.clone(), decide.clone());
        let forwards = Arc::clone(&limits.forwards);
        tokio::spawn(async move {
            let verdict = decide(query.clone()).await;
            drop(permit);
            let answer = match verdict {
                DnsVerdict::Answer(answer) => Some(answer),
                DnsVerdict::Forward => match forwards.try_acquire() {
                    Ok(_permit) => {
                        let servers = Arc::clone(&upstreams.borrow());
                        Some(upstream::by_udp(&query, &servers).await.unwrap_or_else(|| failure(&query)))
                    }
                    Err(_) => None,
                },
                DnsVerdict::Drop => None,
            };
            if let Some(answer) = answer {
                let _ = socket.send_to(&answer, from).await;
            }
        });
    }
}

async fn serve_tcp<F>(
    listener: TcpListener,
    upstreams: Upstreams,
    decide: impl Fn(Vec<u8>) -> F + Clone + Send + Sync + 'static,
) where
    F: Future<Output = DnsVerdict> + Send + 'static,
{
    let connections = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let Ok(permit) = Arc::clone(&connections).try_acquire_owned() else { continue };
        let (upstreams, decide) = (upstreams.clone(), decide.clone());
        tokio::spawn(async move {
            let _permit = permit;
            let _ = converse(stream, &upstreams, decide).await;
        });
    }
}

async fn converse<F>(mut stream: TcpStream, upstreams: &Upstreams, decide: impl Fn(Vec<u8>) -> F) -> io::Result<()>
where
    F: Future<Output = DnsVerdict>,
{
    while let Ok(query) = tokio::time::timeout(IDLE, read_message(&mut stream)).await {
        let query = query?;
        let answer = match decide(query.clone()).await {
            DnsVerdict::Answer(answer) => answer,
            DnsVerdict::Forward => {
                let servers = Arc::clone(&upstreams.borrow());
                upstream::by_tcp(&query, &servers).await.unwrap_or_else(|| failure(&query))
            }
            DnsVerdict::Drop => return Ok(()),
        };
        write_message(&mut stream, &answer).await?;
    }
    Ok(())
}

/// Two bytes of length, then the message (RFC 1035 section 4.2.2).
async fn read_message(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut message = vec![0; usize::from(stream.read_u16().await?)];
    stream.read_exact(&mut message).await?;
    Ok(message)
}

async fn write_message(stream: &mut TcpStream, message: &[u8]) -> io::Result<()> {
    let len = u16::try_from(message.len()).map_err(io::Error::other)?;
    let mut framed = len.to_be_bytes().to_vec();
    framed.extend_from_slice(message);
    stream.write_all(&framed).await
}

/// "Server failure" (RFC 1035 section 4.1.1), made from the query's header and question.
fn failure(query: &[u8]) -> Vec<u8> {
    let mut answer = query.to_vec();
    if let Some(header) = answer.first_chunk_mut::<HEADER>() {
        header[2] |= 0x80;
        header[3] = 0x80 | 2;
    }
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An answer to everything, and whether it was asked.
    async fn upstream(marker: u8) -> SocketAddr {
        let udp = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let addr = udp.local_addr().unwrap();
        let tcp = TcpListener::bind(addr).await.unwrap();
        tokio::spawn(async move {
            let mut buffer = [0; 512];
            loop {
                let (len, from) = udp.recv_from(&mut buffer).await.unwrap();
                let mut answer = buffer[..len].to_vec();
                answer[2] |= 0x80;
                answer.push(marker);
                udp.send_to(&answer, from).await.unwrap();
            }
        });
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = tcp.accept().await.unwrap();
                let mut answer = read_message(&mut stream).await.unwrap();
                answer[2] |= 0x80;
                answer.push(marker);
                write_message(&mut stream, &answer).await.unwrap();
            }
        });
        addr
    }

    fn query(id: u16) -> Vec<u8> {
        let mut query = id.to_be_bytes().to_vec();
        query.extend([1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 3, b'f', b'o', b'o', 0, 0, 1, 0, 1]);
        query
    }

    async fn stub(upstreams: Vec<SocketAddr>) -> SocketAddr {
        stub_with(upstreams).await.0
    }

    async fn stub_with(upstreams: Vec<SocketAddr>) -> (SocketAddr, watch::Sender<Arc<[SocketAddr]>>) {
        let (sender, upstreams) = watch::channel(upstreams.into());
        let mut stub = DnsStub { udp: Vec::new(), tcp: Vec::new() };
        let udp = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let addr = udp.local_addr().unwrap();
        stub.tcp.push(TcpListener::bind(addr).await.unwrap());
        stub.udp.push(udp);
        tokio::spawn(stub.serve(upstreams, |query| async move {
            match query[1] {
                1 => DnsVerdict::Answer(b"ours".to_vec()),
                2 => DnsVerdict::Drop,
                _ => DnsVerdict::Forward,
            }
        }));
        (addr, sender)
    }

    async fn ask_udp(stub: SocketAddr, query: &[u8]) -> Vec<u8> {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        socket.send_to(query, stub).await.unwrap();
        let mut buffer = [0; 512];
        let (len, _) = socket.recv_from(&mut buffer).await.unwrap();
        buffer[..len].to_vec()
    }

    async fn ask_tcp(stub: SocketAddr, query: &[u8]) -> Vec<u8> {
        let mut stream = TcpStream::connect(stub).await.unwrap();
        write_message(&mut stream, query).await.unwrap();
        read_message(&mut stream).await.unwrap()
    }

    #[tokio::test]
    async fn ours_are_answered_and_others_passed_on_as_they_come() {
        let stub = stub(vec![upstream(7).await]).await;
        assert_eq!(ask_udp(stub, &query(1)).await, b"ours");
        assert_eq!(ask_tcp(stub, &query(1)).await, b"ours");
        let mut expected = query(9);
        expected[2] |= 0x80;
        expected.push(7);
        assert_eq!(ask_udp(stub, &query(9)).await, expected);
        assert_eq!(ask_tcp(stub, &query(9)).await, expected);
    }

    #[tokio::test]
    async fn the_next_server_is_asked_when_the_first_does_not_answer_and_failure_is_said() {
        // Bound and closed again: nobody answers there.
        let nobody = UdpSocket::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let stub_with_two = stub(vec![nobody, upstream(8).await]).await;
        assert_eq!(ask_udp(stub_with_two, &query(9)).await.last(), Some(&8));
        let stub_with_none = stub(vec![]).await;
        let answer = ask_udp(stub_with_none, &query(9)).await;
        assert_eq!((answer[2] & 0x80, answer[3] & 0xf), (0x80, 2), "SERVFAIL");
    }
    #[tokio::test]
    async fn other_servers_are_asked_once_they_are_told() {
        let (stub, servers) = stub_with(vec![upstream(7).await]).await;
        assert_eq!(ask_udp(stub, &query(9)).await.last(), Some(&7));
        servers.send_replace(vec![upstream(8).await].into());
        assert_eq!(ask_udp(stub, &query(9)).await.last(), Some(&8));
        assert_eq!(ask_tcp(stub, &query(9)).await.last(), Some(&8));
    }

    #[tokio::test]
    async fn a_server_that_hangs_does_not_take_our_names_along() {
        let silent = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let stub = stub(vec![silent.local_addr().unwrap()]).await;
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let mut buffer = [0; 512];
        // Each is received by the silent one before the next is sent, so that all of them are under way.
        for _ in 0..QUERIES {
            socket.send_to(&query(9), stub).await.unwrap();
            silent.recv_from(&mut buffer).await.unwrap();
        }
        assert_eq!(ask_udp(stub, &query(1)).await, b"ours");
    }
}
