//! Rows to a syslog daemon: RFC 5424, the JSON as the message; one datagram each, or over TCP with its length ahead (RFC 6587).

use std::{fmt, path::PathBuf, str::FromStr, time::Duration};

use anyhow::Result;
use tokio::{
    io::AsyncWriteExt as _,
    net::{TcpStream, UdpSocket, UnixDatagram},
};
use tokio_util::sync::CancellationToken;

use postern_model::token::{Host, HostPort};

use super::{Source, Trouble};
use crate::activity::{Activity, line::ActivityLine};

/// Facility 13 (log audit), severity 6 (informational).
const PRIORITY: u32 = 13 * 8 + 6;
/// How long connecting, or writing, may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// Between the first attempts to connect, and between later ones.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LAST_PAUSE: Duration = Duration::from_secs(30);

/// Where a syslog daemon listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SyslogTarget {
    /// On a datagram socket of this machine.
    Unix(PathBuf),
    /// On UDP.
    Udp(HostPort),
    /// On TCP.
    Tcp(HostPort),
}

impl FromStr for SyslogTarget {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("'{text}' is no syslog: write it like unix:/dev/log, udp:HOST:514 or tcp:HOST:601");
        let (kind, rest) = text.split_once(':').ok_or_else(wrong)?;
        match kind {
            "unix" if rest.starts_with('/') => Ok(Self::Unix(rest.into())),
            "udp" => rest.parse().map(Self::Udp).map_err(|_| wrong()),
            "tcp" => rest.parse().map(Self::Tcp).map_err(|_| wrong()),
            _ => Err(wrong()),
        }
    }
}

impl fmt::Display for SyslogTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Udp(address) => write!(f, "udp:{address}"),
            Self::Tcp(address) => write!(f, "tcp:{address}"),
        }
    }
}

enum Link {
    Unix(UnixDatagram),
    Udp(UdpSocket),
    Tcp(TcpStream),
}

/// A syslog daemon to which rows are sent.
pub(crate) struct SyslogSink {
    target: SyslogTarget,
    hostname: String,
    link: Option<Link>,
}

impl SyslogSink {
    /// Nothing is sent yet.
    pub(crate) fn new(target: SyslogTarget) -> Self {
        Self { target, hostname: hostname(), link: None }
    }

    /// Sends what comes until told to stop.
    ///
    /// # Errors
    /// When the activity can't be read at all.
    pub(crate) async fn run(mut self, activity: Activity, stopping: CancellationToken) -> Result<()> {
        let mut source = Source::from_now(&activity, &stopping).await?;
        let (mut trouble, mut pause) = (Trouble::default(), FIRST_PAUSE);
        while source.wait().await {
            for row in source.read().await {
                let message = message(&row, &self.hostname)?;
                loop {
                    let Err(error) = self.deliver(&message).await else {
                        pause = FIRST_PAUSE;
                        break;
                    };
                    self.link = None;
                    if trouble.is_worth_a_word() {
                        tracing::warn!(to = %self.target, %error, "syslog can't be reached");
                    }
                    if matches!(self.target, SyslogTarget::Udp(_)) {
                        // An answer to an earlier one that nobody listens: there is no knowing which was lost.
                        source.lose(1, "nobody listens there");
                        break;
                    }
                    if !source.pause(pause).await {
                        return Ok(());
                    }
                    pause = (2 * pause).min(LAST_PAUSE);
                }
            }
        }
        Ok(())
    }

    async fn deliver(&mut self, message: &str) -> std::io::Result<()> {
        let deliver = async {
            let link = match &mut self.link {
                Some(link) => link,
                none => none.insert(connect(&self.target).await?),
            };
            match link {
                Link::Unix(socket) => socket.send(message.as_bytes()).await.map(drop),
                Link::Udp(socket) => socket.send(message.as_bytes()).await.map(drop),
                Link::Tcp(stream) => stream.write_all(format!("{} {message}", message.len()).as_bytes()).await,
            }
        };
        tokio::time::timeout(PATIENCE, deliver).await.unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into()))
    }
}

async fn connect(target: &SyslogTarget) -> std::io::Result<Link> {
    match target {
        SyslogTarget::Unix(path) => {
            let socket = UnixDatagram::unbound()?;
            socket.connect(path)?;
            Ok(Link::Unix(socket))
        }
        SyslogTarget::Udp(address) => {
            let mut last = std::io::Error::from(std::io::ErrorKind::NotFound);
            for address in tokio::net::lookup_host((host(address), address.port)).await? {
                let any: std::net::IpAddr = match address {
                    std::net::SocketAddr::V4(_) => std::net::Ipv4Addr::UNSPECIFIED.into(),
                    std::net::SocketAddr::V6(_) => std::net::Ipv6Addr::UNSPECIFIED.into(),
                };
                let socket = UdpSocket::bind((any, 0)).await?;
                match socket.connect(address).await {
                    Ok(()) => return Ok(Link::Udp(socket)),
                    Err(error) => last = error,
                }
            }
            Err(last)
        }
        SyslogTarget::Tcp(address) => Ok(Link::Tcp(TcpStream::connect((host(address), address.port)).await?)),
    }
}

fn host(address: &HostPort) -> String {
    match &address.host {
        Host::Ip(ip) => ip.to_string(),
        Host::Name(name) => name.to_string(),
    }
}

/// One message, without what frames it.
fn message(row: &ActivityLine, hostname: &str) -> serde_json::Result<String> {
    let json = serde_json::to_string(row)?;
    let process = std::process::id();
    Ok(format!("<{PRIORITY}>1 {} {hostname} postern-coordinator {process} {} - {json}", row.at, row.kind))
}

/// This machine's name as RFC 5424 takes it; a dash when it has none.
fn hostname() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name: String = name.trim().chars().filter(char::is_ascii_graphic).take(255).collect();
    if name.is_empty() { "-".to_owned() } else { name }
}

#[cfg(test)]
mod tests {
    use postern_model::Timestamp;

    use super::*;

    #[test]
    fn a_message_is_what_rfc_5424_has() {
        let row = ActivityLine::gap(7, 3, "fell_behind", Timestamp::from_unix_millis(1_777_636_800_123));
        let text = message(&row, "gate").unwrap();
        let (header, json) = text.split_once(" - ").unwrap();
        let process = std::process::id().to_string();
        assert_eq!(
            header.split(' ').collect::<Vec<_>>(),
            ["<110>1", "2026-05-01T12:00:00.123Z", "gate", "postern-coordinator", &process, "gap"]
        );
        assert_eq!(serde_json::from_str::<serde_json::Value>(json).unwrap()["times"], 3);
    }

    #[test]
    fn only_what_can_be_a_syslog_is_taken() {
        for right in ["unix:/dev/log", "udp:192.0.2.1:514", "tcp:log.example.com:601", "tcp:[2001:db8::1]:601"] {
            assert_eq!(right.parse::<SyslogTarget>().unwrap().to_string(), right);
        }
        for wrong in ["", "/dev/log", "unix:dev/log", "udp:514", "tls:log.example.com:6514", "udp:192.0.2.1"] {
            assert!(wrong.parse::<SyslogTarget>().unwrap_err().contains("unix:/dev/log"), "{wrong}");
        }
    }
}
