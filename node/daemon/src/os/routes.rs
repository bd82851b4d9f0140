//! The machine's routes, asked of the kernel: where the default ones lead, and which others lie in the overlay's ranges.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use anyhow::Result;
use futures_util::TryStreamExt as _;
use rtnetlink::{
    Handle, RouteMessageBuilder,
    packet_route::{
        link::{InfoKind, LinkAttribute, LinkInfo},
        route::{RouteAddress, RouteAttribute, RouteMessage, RouteType},
    },
};
use serde::{Deserialize, Serialize};

/// More routes than this are not looked at: a router with the whole internet's is no place for a laptop's checks.
const MAX_ROUTES: usize = 10_000;

/// One route.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Route {
    /// To where: the address of the range.
    pub to: IpAddr,
    /// How many bits of it count; 0 for a default route.
    pub prefix: u8,
    /// Over which router, if over one.
    pub gateway: Option<IpAddr>,
    /// Through which interface.
    pub interface: String,
    /// The lower, the better.
    pub metric: u32,
}

impl Route {
    /// Whether it leads everywhere.
    pub fn is_default(&self) -> bool {
        self.prefix == 0
    }

    /// Whether its range and another have addresses in common.
    pub fn overlaps(&self, to: IpAddr, prefix: u8) -> bool {
        let bits = self.prefix.min(prefix);
        match (self.to, to) {
            (IpAddr::V4(a), IpAddr::V4(b)) => {
                (u32::from(a) ^ u32::from(b)).checked_shr(32 - u32::from(bits)).unwrap_or(0) == 0
            }
            (IpAddr::V6(a), IpAddr::V6(b)) => {
                (u128::from(a) ^ u128::from(b)).checked_shr(128 - u32::from(bits)).unwrap_or(0) == 0
            }
            _ => false,
        }
    }
}

/// All unicast routes, of all tables but the kernel's own.
///
/// # Errors
/// When the kernel can't be asked.
pub async fn routes() -> Result<Vec<Route>> {
    let (connection, handle, _) = rtnetlink::new_connection()?;
    let task = tokio::spawn(connection);
    let routes = ask(&handle).await;
    task.abort();
    routes
}

/// The interfaces that are tunnels: TUN devices, WireGuard and the like.
///
/// # Errors
/// When the kernel can't be asked.
pub async fn tunnels() -> Result<Vec<String>> {
    let (connection, handle, _) = rtnetlink::new_connection()?;
    let task = tokio::spawn(connection);
    let mut links = handle.link().get().execute();
    let mut found = Vec::new();
    while let Some(link) = links.try_next().await? {
        let is_tunnel = link.attributes.iter().any(|attribute| match attribute {
            LinkAttribute::LinkInfo(infos) => infos.iter().any(|info| match info {
                LinkInfo::Kind(InfoKind::Tun | InfoKind::Wireguard | InfoKind::Xfrm | InfoKind::Vti) => true,
                LinkInfo::Kind(InfoKind::Other(kind)) => kind == "ppp" || kind == "ovpn",
                _ => false,
            }),
            _ => false,
        });
        found.extend(link.attributes.into_iter().find_map(|attribute| match attribute {
            LinkAttribute::IfName(name) if is_tunnel => Some(name),
            _ => None,
        }));
    }
    task.abort();
    Ok(found)
}

async fn ask(handle: &Handle) -> Result<Vec<Route>> {
    let mut names = HashMap::new();
    let mut links = handle.link().get().execute();
    while let Some(link) = links.try_next().await? {
        let name = link.attributes.into_iter().find_map(|attribute| match attribute {
            LinkAttribute::IfName(name) => Some(name),
            _ => None,
        });
        names.insert(link.header.index, name.unwrap_or_default());
    }
    let mut found = Vec::new();
    let families: [(IpAddr, _); 2] = [
        (Ipv4Addr::UNSPECIFIED.into(), RouteMessageBuilder::<Ipv4Addr>::new().build()),
        (Ipv6Addr::UNSPECIFIED.into(), RouteMessageBuilder::<Ipv6Addr>::new().build()),
    ];
    for (any, family) in families {
        let mut routes = handle.route().get(family).execute();
        while let Some(route) = routes.try_next().await? {
            if found.len() < MAX_ROUTES {
                found.extend(read(&route, any, &names));
            }
        }
    }
    found.sort_unstable();
    Ok(found)
}

/// The kernel's own table, of addresses that are this machine's.
const LOCAL: u32 = 255;

fn read(message: &RouteMessage, any: IpAddr, names: &HashMap<u32, String>) -> Option<Route> {
    let mut route = Route {
        to: any,
        prefix: message.header.destination_prefix_length,
        gateway: None,
        interface: String::new(),
        metric: 0,
    };
    let mut table = u32::from(message.header.table);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(to) => route.to = address(to)?,
            RouteAttribute::Gateway(gateway) => route.gateway = address(gateway),
            RouteAttribute::Oif(index) => route.interface = names.get(index).cloned().unwrap_or_default(),
            RouteAttribute::Priority(metric) => route.metric = *metric,
            RouteAttribute::Table(number) => table = *number,
            _ => {}
        }
    }
    (message.header.kind == RouteType::Unicast && table != LOCAL).then_some(route)
}

fn address(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(ip) => Some((*ip).into()),
        RouteAddress::Inet6(ip) => Some((*ip).into()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(to: &str, prefix: u8) -> Route {
        Route { to: to.parse().unwrap(), prefix, gateway: None, interface: "tun0".into(), metric: 0 }
    }

    #[test]
    fn ranges_overlap_when_one_lies_in_the_other() {
        let [devices, other]: [IpAddr; 2] = ["100.64.0.0".parse().unwrap(), "fd01:203:405:2::".parse().unwrap()];
        for (to, prefix, expected) in [
            ("100.64.0.0", 10, true),
            ("100.70.1.0", 24, true),
            ("100.96.0.0", 11, false),
            ("0.0.0.0", 0, true),
            ("10.0.0.0", 8, false),
        ] {
            assert_eq!(route(to, prefix).overlaps(devices, 11), expected, "{to}/{prefix}");
        }
        assert!(route("fd00::", 8).overlaps(other, 64) && !route("fd01:203:405:1::", 64).overlaps(other, 64));
        assert!(route("fd01:203:405:2::5", 128).overlaps(other, 64));
        assert!(!route("::", 0).overlaps(devices, 11), "of the other family");
    }

    #[tokio::test]
    async fn the_kernel_tells_its_routes() {
        let routes = routes().await.unwrap();
        assert!(routes.iter().all(|route| route.prefix <= 128));
        assert!(routes.iter().filter(|route| route.is_default()).all(|route| route.to.is_unspecified()));
    }
}
