//! The WireGuard userspace configuration protocol, read-only: `wg show` lists this node as it would any other.
//!
//! See <https://www.wireguard.com/xplatform/>. Keys are not told: neither the private key nor preshared keys leave the daemon.
//! Changing anything is refused, since only grants decide who is a peer.

use std::{
    fmt::Write as _,
    fs::Permissions,
    future::Future,
    io,
    net::{IpAddr, SocketAddr},
    os::unix::fs::PermissionsExt as _,
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use postern_model::PublicKey;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{UnixListener, UnixStream},
    sync::Semaphore,
};

use crate::os::interface::RUN_DIR;

/// What is read of a request at most, in bytes.
const MAX_REQUEST: u64 = 1 << 20;
/// How long a request may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// Requests at once.
const REQUESTS: usize = 16;
/// "Operation not permitted".
const EPERM: u8 = 1;

/// A peer, as shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UapiPeer {
    /// Its key.
    pub key: PublicKey,
    /// Where it was last heard from.
    pub endpoint: Option<SocketAddr>,
    /// The overlay addresses that it stands for.
    pub allowed_ips: Vec<IpAddr>,
    /// When the last handshake was, since the Unix epoch.
    pub last_handshake: Option<Duration>,
    /// Bytes sent to it.
    pub tx_bytes: u64,
    /// Bytes received from it.
    pub rx_bytes: u64,
    /// How often it is sent something at least, while it is.
    pub persistent_keepalive: Option<Duration>,
}

/// What is shown.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UapiStatus {
    /// The UDP port.
    pub listen_port: u16,
    /// All peers.
    pub peers: Vec<UapiPeer>,
}

/// A bound socket; gone when dropped.
#[derive(Debug)]
pub struct Uapi {
    listener: UnixListener,
    path: PathBuf,
}

impl Drop for Uapi {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

impl Uapi {
    /// Listens where `wg` looks for this interface. Whoever holds the interface's name may replace a socket from before a crash.
    ///
    /// # Errors
    /// When the socket can't be made.
    pub fn bind(interface: &str) -> io::Result<Self> {
        let path = PathBuf::from(format!("{RUN_DIR}/{interface}.sock"));
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(&path)?;
        std::fs::set_permissions(&path, Permissions::from_mode(0o600))?;
        Ok(Self { listener, path })
    }

    /// Answers, until dropped.
    pub async fn serve<F>(self, status: impl Fn() -> F + Clone + Send + Sync + 'static)
    where
        F: Future<Output = UapiStatus> + Send + 'static,
    {
        let requests = Arc::new(Semaphore::new(REQUESTS));
        loop {
            let Ok((stream, _)) = self.listener.accept().await else {
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            };
            let Ok(permit) = Arc::clone(&requests).try_acquire_owned() else { continue };
            let status = status.clone();
            tokio::spawn(async move {
                let _permit = permit;
                let _ = tokio::time::timeout(PATIENCE, answer(stream, status)).await;
            });
        }
    }
}

async fn answer<F: Future<Output = UapiStatus>>(mut stream: UnixStream, status: impl Fn() -> F) -> io::Result<()> {
    let (read, mut write) = stream.split();
    let mut lines = BufReader::new(read.take(MAX_REQUEST)).lines();
    while let Some(request) = lines.next_line().await? {
        // A request ends with an empty line; nothing in between matters, since nothing can be changed.
        while lines.next_line().await?.is_some_and(|line| !line.is_empty()) {}
        let answer = if request == "get=1" { show(&status().await) } else { format!("errno={EPERM}\n\n") };
        write.write_all(answer.as_bytes()).await?;
    }
    Ok(())
}

fn show(status: &UapiStatus) -> String {
    let mut text = format!("listen_port={}\n", status.listen_port);
    for peer in &status.peers {
        text.push_str("public_key=");
        for byte in peer.key.0 {
            let _ = write!(text, "{byte:02x}");
        }
        text.push('\n');
        if let Some(endpoint) = peer.endpoint {
            let _ = writeln!(text, "endpoint={endpoint}");
        }
        let handshake = peer.last_handshake.unwrap_or_default();
        let _ = writeln!(text, "last_handshake_time_sec={}", handshake.as_secs());
        let _ = writeln!(text, "last_handshake_time_nsec={}", handshake.subsec_nanos());
        let _ = writeln!(text, "tx_bytes={}", peer.tx_bytes);
        let _ = writeln!(text, "rx_bytes={}", peer.rx_bytes);
        let keepalive = peer.persistent_keepalive.unwrap_or_default();
        let _ = writeln!(text, "persistent_keepalive_interval={}", keepalive.as_secs());
        for ip in &peer.allowed_ips {
            let _ = writeln!(text, "allowed_ip={ip}/{}", if ip.is_ipv4() { 32 } else { 128 });
        }
        text.push_str("protocol_version=1\n");
    }
    text.push_str("errno=0\n\n");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn ask(path: &std::path::Path, request: &str) -> String {
        let mut stream = UnixStream::connect(path).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn it_may_be_read_and_not_changed_and_tells_no_secret() {
        let interface = format!("test{}", std::process::id());
        std::fs::create_dir_all(RUN_DIR).unwrap();
        let uapi = Uapi::bind(&interface).unwrap();
        let path = uapi.path.clone();
        let peer = UapiPeer {
            key: PublicKey([0xab; 32]),
            endpoint: Some("192.0.2.1:4000".parse().unwrap()),
            allowed_ips: vec!["100.96.1.0".parse().unwrap()],
            last_handshake: Some(Duration::from_millis(5_500)),
            tx_bytes: 7,
            rx_bytes: 8,
            persistent_keepalive: Some(Duration::from_secs(20)),
        };
        let status = UapiStatus { listen_port: 4000, peers: vec![peer] };
        let serving = tokio::spawn(uapi.serve(move || {
            let status = status.clone();
            async move { status }
        }));
        let shown = ask(&path, "get=1\n\n").await;
        assert!(shown.contains(&format!("public_key={}\nendpoint=192.0.2.1:4000\n", "ab".repeat(32))), "{shown}");
        assert!(shown.contains("last_handshake_time_sec=5\nlast_handshake_time_nsec=500000000\n"), "{shown}");
        assert!(shown.contains("persistent_keepalive_interval=20\n"), "{shown}");
        assert!(shown.ends_with("errno=0\n\n") && !shown.contains("private_key") && !shown.contains("preshared"));
        assert_eq!(ask(&path, "set=1\nlisten_port=1\n\n").await, "errno=1\n\n");
        serving.abort();
        assert!(serving.await.unwrap_err().is_cancelled());
        assert!(!path.exists());
    }
}
