//! Reaching a resource as an application would: an ICMP echo (RFC 792) where that is open, else a TCP connection.

use std::{
    net::{Ipv4Addr, SocketAddr, SocketAddrV4},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use postern_model::PortSet;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, ipproto, sockopt};

use crate::local::protocol::ResourceRow;

/// How long an answer is waited for.
const PATIENCE: Duration = Duration::from_secs(5);
/// Between two of them.
const INTERVAL: Duration = Duration::from_millis(200);
/// More than this are not sent in one go.
const MAX_COUNT: u32 = 100;

/// Pings `count` times; says with what, and how many milliseconds each took.
///
/// # Errors
/// When the resource has nothing open that could answer, or the system refuses.
pub(crate) async fn ping(row: &ResourceRow, count: u32) -> Result<(String, Vec<Option<f64>>)> {
    let count = count.clamp(1, MAX_COUNT);
    let port = match &row.filter.tcp {
        PortSet::Ranges(ranges) => ranges.first().map(|range| range.first()),
        PortSet::Any => Some(80),
        PortSet::None => None,
    };
    let v4 = row.addr.v4;
    let mut times = Vec::new();
    let with = match port {
        _ if row.filter.icmp => "icmp".to_owned(),
        Some(port) => format!("tcp/{port}"),
        None => bail!("'{}' has neither ICMP nor a TCP port open, so nothing can be pinged", row.name),
    };
    for sequence in 0..count {
        if sequence > 0 {
            tokio::time::sleep(INTERVAL).await;
        }
        times.push(match port {
            _ if row.filter.icmp => {
                let sequence = u16::try_from(sequence).unwrap_or(0);
                tokio::task::spawn_blocking(move || echo(v4, sequence)).await??
            }
            Some(port) => connect(v4, port).await,
            None => None,
        });
    }
    Ok((with, times))
}

async fn connect(to: Ipv4Addr, port: u16) -> Option<f64> {
    let start = postern_dataplane::clock::now();
    let attempt = tokio::net::TcpStream::connect(SocketAddr::from((to, port)));
    match tokio::time::timeout(PATIENCE, attempt).await {
        Ok(Ok(_)) => Some(since(start)),
        _ => None,
    }
}

/// One echo and its reply.
fn echo(to: Ipv4Addr, sequence: u16) -> Result<Option<f64>> {
    let socket =
        rustix::net::socket_with(AddressFamily::INET, SocketType::RAW, SocketFlags::CLOEXEC, Some(ipproto::ICMP));
    let socket = socket.context("an ICMP socket can't be opened")?;
    sockopt::set_socket_timeout(&socket, sockopt::Timeout::Recv, Some(Duration::from_millis(250)))?;
    let mut id = [0; 2];
    getrandom::fill(&mut id)?;
    let sequence = sequence.to_be_bytes();
    let mut request = [8, 0, 0, 0, id[0], id[1], sequence[0], sequence[1]];
    let checksum = postern_packet::checksum::checksum(&request).to_be_bytes();
    request[2..4].copy_from_slice(&checksum);
    let start = postern_dataplane::clock::now();
    rustix::net::sendto(&socket, &request, SendFlags::empty(), &SocketAddrV4::new(to, 0))?;
    let mut buffer = [0; 1500];
    while postern_dataplane::clock::now().since(start) < PATIENCE {
        let received = rustix::net::recv(&socket, &mut buffer, RecvFlags::empty());
        let len = match received {
            Ok((len, _)) => len,
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => continue,
            Err(error) => return Err(error.into()),
        };
        let packet = &buffer[..len];
        let header = packet.first().map_or(0, |first| usize::from(first & 0xf) * 4);
        let is_ours = packet.get(12..16) == Some(&to.octets())
            && packet.get(header) == Some(&0)
            && packet.get(header + 4..header + 8) == Some(&request[4..8]);
        if is_ours {
            return Ok(Some(since(start)));
        }
    }
    Ok(None)
}

fn since(start: postern_model::Moment) -> f64 {
    postern_dataplane::clock::now().since(start).as_secs_f64() * 1000.0
}
