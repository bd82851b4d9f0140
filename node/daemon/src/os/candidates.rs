//! This machine's addresses, where peers may reach it, and news of their change.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use anyhow::Result;
use futures_util::{StreamExt as _, TryStreamExt as _};
use postern_model::{
    Candidate,
    candidate::{CandidateKind, MAX_CANDIDATES},
};
use rtnetlink::{
    Handle, MulticastGroup,
    packet_core::NetlinkPayload,
    packet_route::{
        RouteNetlinkMessage,
        address::{AddressAttribute, AddressHeaderFlags, AddressScope},
        link::{LinkAttribute, LinkFlags},
    },
};
use tokio::sync::mpsc;

/// Changes come in bursts; the node looks at the first one, and again once they have settled.
const SETTLE: Duration = Duration::from_millis(250);
/// A burst that does not settle is looked at this often.
const RESTLESS: u32 = 8;
/// How interfaces of nodes begin.
const OURS: &str = "postern";

/// The addresses of all interfaces that are up, but for the node's own and other nodes', with the WireGuard port.
///
/// # Errors
/// When the kernel can't be asked.
pub async fn candidates(port: u16, own_interface: &str) -> Result<Vec<Candidate>> {
    let (connection, handle, _) = rtnetlink::new_connection()?;
    let task = tokio::spawn(connection);
    let addresses = addresses(&handle, own_interface).await;
    task.abort();
    let mut candidates: Vec<_> = addresses?
        .into_iter()
        .map(|ip| Candidate { addr: SocketAddr::new(ip, port), kind: CandidateKind::Host })
        .collect();
    candidates.sort_unstable();
    candidates.dedup();
    // One stays free for the address that the coordinator sees.
    candidates.truncate(MAX_CANDIDATES - 1);
    Ok(candidates)
}

async fn addresses(handle: &Handle, own_interface: &str) -> Result<Vec<IpAddr>> {
    let mut names = HashMap::new();
    let mut links = handle.link().get().execute();
    while let Some(link) = links.try_next().await? {
        let is_up = link.header.flags.contains(LinkFlags::Up) && !link.header.flags.contains(LinkFlags::Loopback);
        let name = link.attributes.iter().find_map(|attribute| match attribute {
            LinkAttribute::IfName(name) => Some(name.clone()),
            _ => None,
        });
        if let Some(name) = name.filter(|name| is_up && name != own_interface && !name.starts_with(OURS)) {
            names.insert(link.header.index, name);
        }
    }
    let mut found = Vec::new();
    let mut addresses = handle.address().get().execute();
    while let Some(address) = addresses.try_next().await? {
        let unusable = AddressHeaderFlags::Tentative | AddressHeaderFlags::Deprecated | AddressHeaderFlags::Dadfailed;
        if !names.contains_key(&address.header.index)
            || address.header.scope != AddressScope::Universe
            || address.header.flags.intersects(unusable)
        {
            continue;
        }
        // On a point-to-point link, `Address` is the other end's.
        let local = address.attributes.iter().find_map(|attribute| match attribute {
            AddressAttribute::Local(ip) => Some(*ip),
            _ => None,
        });
        let own = local.or_else(|| {
            address.attributes.iter().find_map(|attribute| match attribute {
                AddressAttribute::Address(ip) => Some(*ip),
                _ => None,
            })
        });
        found.extend(own);
    }
    Ok(found)
}

/// Tells that links, addresses or default routes have changed: at once, and again when the changes that follow have settled.
///
/// # Errors
/// When the kernel can't be asked to tell.
pub fn watch() -> Result<mpsc::Receiver<()>> {
    let groups = [
        MulticastGroup::Link,
        MulticastGroup::Ipv4Ifaddr,
        MulticastGroup::Ipv6Ifaddr,
        MulticastGroup::Ipv4Route,
        MulticastGroup::Ipv6Route,
    ];
    let (connection, _, messages) = rtnetlink::new_multicast_connection(&groups)?;
    let task = tokio::spawn(connection);
    let mut messages = messages.filter(|(message, _)| std::future::ready(matters(&message.payload)));
    let (changed, news) = mpsc::channel(1);
    tokio::spawn(async move {
        'watching: while messages.next().await.is_some() {
            if changed.send(()).await.is_err() {
                break;
            }
            let mut is_more = false;
            for _ in 0..RESTLESS {
                match tokio::time::timeout(SETTLE, messages.next()).await {
                    Ok(Some(_)) => is_more = true,
                    Ok(None) => break 'watching,
                    Err(_) => break,
                }
            }
            if is_more && changed.send(()).await.is_err() {
                break;
            }
        }
        task.abort();
    });
    Ok(news)
}

/// Of routes, only default ones say that the network is another one.
fn matters(message: &NetlinkPayload<RouteNetlinkMessage>) -> bool {
    match message {
        NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewRoute(route) | RouteNetlinkMessage::DelRoute(route)) => {
            route.header.destination_prefix_length == 0
        }
        NetlinkPayload::InnerMessage(_) => true,
        _ => false,
    }
}
