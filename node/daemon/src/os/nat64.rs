//! Addresses as this network takes them: on one that has only IPv6 and translates, IPv4 addresses are written as IPv6 ones.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    time::Duration,
};

use anyhow::{Context as _, Result};
use postern_engine::Nat64;
use postern_model::token::{Host, HostPort};

/// How long the network's resolver may take to tell of NAT64.
const PATIENCE: Duration = Duration::from_secs(2);

/// The network's NAT64, if this machine has no way to IPv4 and needs it.
pub async fn find() -> Option<Nat64> {
    if has_route(Nat64::KNOWN[0].into()) {
        return None;
    }
    let answers = tokio::time::timeout(PATIENCE, tokio::net::lookup_host((Nat64::NAME, 0))).await;
    answers.ok()?.ok()?.find_map(|addr| match addr.ip() {
        IpAddr::V6(answer) => Nat64::from_answer(answer),
        IpAddr::V4(_) => None,
    })
}

/// Where a server is, by all ways that this network has.
///
/// # Errors
/// When its name can't be looked up.
pub async fn addresses(at: &HostPort) -> Result<Vec<SocketAddr>> {
    let mut found: Vec<SocketAddr> = match &at.host {
        Host::Ip(ip) => vec![SocketAddr::new(*ip, at.port)],
        Host::Name(name) => {
            let found = tokio::net::lookup_host((name.as_str(), at.port)).await;
            found.with_context(|| format!("the name '{name}' can't be resolved"))?.collect()
        }
    };
    let unreachable = |addr: &SocketAddr| match addr.ip() {
        IpAddr::V4(ip) if !has_route(addr.ip()) => Some(ip),
        _ => None,
    };
    let unreached: Vec<Ipv4Addr> = found.iter().filter_map(unreachable).collect();
    if !unreached.is_empty()
        && let Some(nat64) = find().await
    {
        found.extend(unreached.into_iter().map(|ip| SocketAddr::new(nat64.synthesize(ip).into(), at.port)));
    }
    Ok(found)
}

/// Whether the kernel knows a way to an address. Nothing is sent.
pub fn has_route(ip: IpAddr) -> bool {
    source_towards(ip).is_some()
}

/// From which of its addresses this machine sends to another; `None` when there is no way.
pub fn source_towards(ip: IpAddr) -> Option<IpAddr> {
    let any: IpAddr = match ip {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0)).ok()?;
    // The port counts for nothing.
    socket.connect((ip, 9)).ok()?;
    socket.local_addr().ok().map(|addr| addr.ip())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_a_way_to_oneself_and_its_source_is_oneself() {
        let own: IpAddr = Ipv4Addr::LOCALHOST.into();
        assert_eq!(source_towards(own), Some(own));
        assert!(has_route(own));
    }
}
