//! Where the servers are that are asked: names looked up, and IPv4 addresses as NAT64 takes them where there is no IPv4.

use std::{net::SocketAddr, time::Duration};

use futures_util::future::join_all;
use postern_model::token::HostPort;

use super::questions::Server;
use crate::os::nat64;

/// How long a name may take.
const PATIENCE: Duration = Duration::from_secs(3);
/// Of each server, so many addresses of each family are asked at most.
const EACH: usize = 2;

/// The addresses of servers. Those whose names can't be looked up now have none.
pub(crate) async fn addresses(servers: Vec<(Server, HostPort)>) -> Vec<(Server, SocketAddr)> {
    let found = servers.into_iter().map(|(server, at)| async move {
        let found = tokio::time::timeout(PATIENCE, nat64::addresses(&at)).await;
        let found = found.ok().and_then(Result::ok).unwrap_or_default();
        let of_family =
            |is_v6| found.iter().copied().filter(move |addr: &SocketAddr| addr.is_ipv6() == is_v6).take(EACH);
        of_family(false).chain(of_family(true)).map(|addr| (server, addr)).collect::<Vec<_>>()
    });
    join_all(found).await.concat()
}
