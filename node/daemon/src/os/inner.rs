//! The interfaces behind which this machine's own containers are: bridges with nothing but virtual ports, and virtual
//! cables, but for those that lead outside.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Result;
use futures_util::TryStreamExt as _;
use rtnetlink::{
    RouteMessageBuilder,
    packet_route::{
        link::{InfoKind, LinkAttribute, LinkInfo},
        route::RouteAttribute,
    },
};

/// What counts about an interface.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Link {
    name: String,
    kind: Kind,
    /// The bridge that it is a port of.
    bridge: Option<u32>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Bridge,
    /// One end of a cable whose other end may be in a container.
    Cable,
    /// A virtual machine's end.
    Tap,
    /// Real hardware, and all else that may lead anywhere.
    Other,
}

/// Their names, in order.
///
/// # Errors
/// When the kernel can't be asked.
pub(super) async fn inner() -> Result<Vec<String>> {
    let (connection, handle, _) = rtnetlink::new_connection()?;
    let task = tokio::spawn(connection);
    let ask = async {
        let mut links = BTreeMap::new();
        let mut found = handle.link().get().execute();
        while let Some(link) = found.try_next().await? {
            links.insert(link.header.index, read(&link.attributes));
        }
        let mut uplinks = BTreeSet::new();
        let mut routes = handle.route().get(RouteMessageBuilder::<std::net::Ipv4Addr>::new().build()).execute();
        while let Some(route) = routes.try_next().await? {
            if route.header.destination_prefix_length == 0 {
                uplinks.extend(route.attributes.iter().filter_map(|attribute| match attribute {
                    RouteAttribute::Oif(index) => Some(*index),
                    _ => None,
                }));
            }
        }
        Ok(choose(&links, &uplinks))
    };
    let chosen = ask.await;
    task.abort();
    chosen
}

fn read(attributes: &[LinkAttribute]) -> Link {
    let mut link = Link { name: String::new(), kind: Kind::Other, bridge: None };
    for attribute in attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name.clone_from(name),
            LinkAttribute::Controller(index) => link.bridge = Some(*index),
            LinkAttribute::LinkInfo(infos) => {
                for info in infos {
                    match info {
                        LinkInfo::Kind(InfoKind::Bridge) => link.kind = Kind::Bridge,
                        LinkInfo::Kind(InfoKind::Veth) => link.kind = Kind::Cable,
                        LinkInfo::Kind(InfoKind::Tun) => link.kind = Kind::Tap,
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    link
}

/// In doubt none: without a default route nobody can tell which way is out.
fn choose(links: &BTreeMap<u32, Link>, uplinks: &BTreeSet<u32>) -> Vec<String> {
    if uplinks.is_empty() {
        return Vec::new();
    }
    let is_inner = |index: u32, link: &Link| match link.kind {
        _ if uplinks.contains(&index) => false,
        Kind::Bridge => {
            let mut ports = links.values().filter(|port| port.bridge == Some(index));
            ports.all(|port| matches!(port.kind, Kind::Cable | Kind::Tap))
        }
        // A port's packets are the bridge's.
        Kind::Cable => link.bridge.is_none(),
        Kind::Tap | Kind::Other => false,
    };
    let mut names: Vec<_> =
        links.iter().filter(|(index, link)| is_inner(**index, link)).map(|(_, link)| link.name.clone()).collect();
    names.sort_unstable();
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(name: &str, kind: Kind, bridge: Option<u32>) -> Link {
        Link { name: name.into(), kind, bridge }
    }

    #[test]
    fn containers_are_inside_and_neighbours_are_not() {
        let links = BTreeMap::from([
            (1, link("lo", Kind::Other, None)),
            (2, link("wlan0", Kind::Other, None)),
            (3, link("docker0", Kind::Bridge, None)),
            (4, link("veth1", Kind::Cable, Some(3))),
            (5, link("br-lan", Kind::Bridge, None)),
            (6, link("eth0", Kind::Other, Some(5))),
            (7, link("vnet0", Kind::Tap, Some(5))),
            (8, link("ve-pod", Kind::Cable, None)),
            (9, link("virbr0", Kind::Bridge, None)),
            (10, link("vnet1", Kind::Tap, Some(9))),
            (11, link("tun0", Kind::Tap, None)),
        ]);
        assert_eq!(choose(&links, &[2].into()), ["docker0", "ve-pod", "virbr0"]);
        assert_eq!(choose(&links, &[8, 9].into()), ["docker0"], "what leads outside is not inside");
        assert_eq!(choose(&links, &[].into()), <[String; 0]>::default());
    }

    #[tokio::test]
    async fn the_kernel_is_asked() {
        assert!(!inner().await.unwrap().contains(&"lo".to_owned()));
    }
}
