//! An HTTP proxy as offices have it: `CONNECT host:port` (RFC 9110) to the ports that it allows, and nothing else. Targets are given
//! by address: a thread of the test has no resolver of the host.

use std::{
    io::{self, BufRead as _, BufReader, Read, Write},
    net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context as _, Result};

use crate::topology::Host;

/// The longest request that is read.
const LONGEST_REQUEST: u64 = 16 << 10;
/// How long a target may take to accept.
const CONNECT: Duration = Duration::from_secs(10);

/// A running proxy. Dropping it ends it, and what goes through it.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    host: Host,
    ports: Vec<u16>,
    ended: AtomicBool,
    requests: Mutex<Vec<String>>,
    streams: Mutex<Vec<TcpStream>>,
}

impl Proxy {
    /// Starts one at this address of a host, that connects to these ports.
    ///
    /// # Errors
    /// When the address can't be bound.
    pub fn start(host: &Host, address: IpAddr, port: u16, ports: &[u16]) -> Result<Self> {
        let listener = host.within(|| {
            TcpListener::bind((address, port)).with_context(|| format!("listen on {address} port {port}"))
        })?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            host: host.clone(),
            ports: ports.to_vec(),
            ended: AtomicBool::new(false),
            requests: Mutex::default(),
            streams: Mutex::default(),
        });
        let thread = thread::Builder::new().name("proxy".into()).spawn({
            let shared = shared.clone();
            move || shared.accept(&listener)
        })?;
        Ok(Self { address, shared, thread: Some(thread) })
    }

    /// What belongs into `https_proxy`.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The first line of each request so far.
    pub fn requests(&self) -> Vec<String> {
        self.shared.requests.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::Relaxed);
        let address = self.address;
        // It waits for a connection: this one.
        let _ = self.shared.host.within(|| Ok(TcpStream::connect(address)?));
        for stream in self.shared.streams.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn accept(self: &Arc<Self>, listener: &TcpListener) {
        for stream in listener.incoming() {
            if self.ended.load(Ordering::Relaxed) {
                return;
            }
            let Ok(stream) = stream else { continue };
            let shared = self.clone();
            thread::spawn(move || drop(shared.serve(stream)));
        }
    }

    fn serve(&self, mut client: TcpStream) -> Result<()> {
        let mut reader = BufReader::new(client.try_clone()?.take(LONGEST_REQUEST));
        let mut first = String::new();
        reader.read_line(&mut first)?;
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line)? == 0 || line.trim().is_empty() {
                break;
            }
        }
        let early = reader.buffer().to_vec();
        self.requests.lock().unwrap_or_else(PoisonError::into_inner).push(first.trim().to_owned());
        let mut words = first.split_whitespace();
        let (Some("CONNECT"), Some(target)) = (words.next(), words.next()) else {
            return answer(&mut client, "405 Method Not Allowed");
        };
        let port = target.rsplit_once(':').and_then(|(_, port)| port.parse::<u16>().ok());
        if !port.is_some_and(|port| self.ports.contains(&port)) {
            return answer(&mut client, "403 Forbidden");
        }
        let Ok(mut server) = self.connect(target) else { return answer(&mut client, "502 Bad Gateway") };
        answer(&mut client, "200 Connection established")?;
        server.write_all(&early)?;

        let mut streams = self.streams.lock().unwrap_or_else(PoisonError::into_inner);
        streams.extend([client.try_clone()?, server.try_clone()?]);
        drop(streams);
        let (back_from, back_to) = (server.try_clone()?, client.try_clone()?);
        let back = thread::spawn(move || copy(back_from, back_to));
        copy(client, server);
        let _ = back.join();
        Ok(())
    }

    fn connect(&self, target: &str) -> Result<TcpStream> {
        let target: SocketAddr = target.parse().with_context(|| format!("{target} is no address with a port"))?;
        self.host.within(|| Ok(TcpStream::connect_timeout(&target, CONNECT)?))
    }
}

fn answer(client: &mut TcpStream, status: &str) -> Result<()> {
    write!(client, "HTTP/1.1 {status}\r\n\r\n")?;
    Ok(())
}

/// One direction, to its end.
fn copy(mut from: TcpStream, mut to: TcpStream) {
    let _ = io::copy(&mut from, &mut to);
    let _ = to.shutdown(Shutdown::Write);
}
