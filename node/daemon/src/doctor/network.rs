//! Findings about names, routes, other tunnels and what the network lets through.

use std::net::IpAddr;

use postern_model::NetworkRanges;

use super::{Facts, Finding, Resolved, error, note, warning};
use crate::{
    control::Transport,
    local::protocol::Status,
    netcheck::{Report, Tcp},
    os::routes::Route,
    reach::{Nat, PortMapping},
};

/// IPv6 needs packets of this length to get through (RFC 8200), in bytes.
const LEAST_MTU: u16 = 1280;

pub(super) fn findings(facts: &Facts) -> Vec<Finding> {
    let mut found: Vec<_> = [names(facts), made_up(facts)].into_iter().flatten().collect();
    found.extend(conflicts(facts));
    found.extend(other_vpn(facts));
    found.extend(mtu(&facts.status));
    found.extend(closed(facts));
    if let Some(report) = &facts.network {
        found.extend(udp(report, facts.status.transport));
        found.extend(nat(report, &facts.status));
    }
    found
}

fn names(facts: &Facts) -> Option<Finding> {
    let (name, addr, resolved) = facts.name.as_ref()?;
    match resolved {
        Resolved::To(found) if found.iter().any(|ip| addr.contains(*ip)) => None,
        Resolved::To(found) if !found.is_empty() => Some(error(
            format!("the name {name} leads to {}, and not to the resource at {}", list(found), addr.v4),
            "another resolver answers in the node's place: look which program writes /etc/resolv.conf, and whether a browser or \
             a VPN has a resolver of its own",
        )),
        Resolved::To(_) => Some(error(
            format!("this machine's resolver says that there is no {name}, so it does not ask the node"),
            "look which program writes /etc/resolv.conf, and whether it has the node's address as its first server; 'postern \
             down' and 'postern up' set it up anew",
        )),
        Resolved::Failed(why) => Some(error(
            format!("the name {name} can't be looked up: {why}"),
            "look at /etc/resolv.conf and whether the resolver that it names runs",
        )),
    }
}

fn made_up(facts: &Facts) -> Option<Finding> {
    let (name, Resolved::To(found)) = facts.made_up.as_ref()? else { return None };
    (!found.is_empty()).then(|| {
        error(
            format!("a name that nobody has ({name}) leads to {}: the network makes up answers to DNS", list(found)),
            "if this network has a page to log in to, do that first; otherwise set another DNS server",
        )
    })
}

fn list(found: &[IpAddr]) -> String {
    found.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// The ranges that this node leads to itself.
fn ranges(status: &Status, ranges: NetworkRanges) -> Vec<(IpAddr, u8)> {
    let mut all = ranges.resource_ranges().to_vec();
    if status.site.is_some() {
        all.extend(ranges.device_ranges());
    }
    all
}

/// Routes that lead parts of the overlay elsewhere.
fn conflicts(facts: &Facts) -> Vec<Finding> {
    let Some(overlay) = facts.status.ranges else { return Vec::new() };
    let overlay = ranges(&facts.status, overlay);
    let own = facts.status.interface.as_deref();
    let is_conflict = |route: &&Route| {
        !route.is_default()
            && Some(route.interface.as_str()) != own
            && overlay.iter().any(|(to, prefix)| {
                // A wider one loses against the node's own, which is why halves of everything are no conflict.
                route.prefix >= *prefix && route.overlaps(*to, *prefix)
            })
    };
    let conflicts = facts.routes.iter().filter(is_conflict).map(|route| {
        let (to, prefix, interface) = (route.to, route.prefix, &route.interface);
        error(
            format!("a route leads {to}/{prefix}, which belongs to the overlay, to {interface}: resources there are not reached"),
            format!("end the program that uses {interface}, or take the route away: 'ip route del {to}/{prefix} dev {interface}'"),
        )
    });
    conflicts.collect()
}

fn other_vpn(facts: &Facts) -> Vec<Finding> {
    let own = facts.status.interface.as_deref();
    let others = facts.tunnels.iter().filter(|name| Some(name.as_str()) != own);
    let found = others.filter_map(|name| {
        // Many set two halves in place of a default route.
        let leads_all = facts.routes.iter().any(|route| route.interface == *name && route.prefix <= 1);
        leads_all.then(|| {
            warning(
                format!("another VPN ({name}) takes all of this machine's traffic, this node's too"),
                "paths lead through it and are slower, and it may let no UDP through; leave the coordinator, relays and \
                 gateways out of it, or end it",
            )
        })
    });
    found.collect()
}

fn mtu(status: &Status) -> Vec<Finding> {
    let short = status.peers.iter().filter(|peer| peer.mtu < LEAST_MTU);
    let found = short.map(|peer| {
        note(
            format!("the path to peer {} carries only packets of {} bytes; longer ones are cut up on their way", peer.id, peer.mtu),
            "nothing, unless transfers are slow: then look for a tunnel in a tunnel, or a router with a low MTU, on the way",
        )
    });
    found.take(3).collect()
}

fn closed(facts: &Facts) -> Option<Finding> {
    let (closed, port) = (facts.closed.as_ref()?, facts.status.wireguard_port?);
    // A client begins, and its firewall lets answers in.
    facts.status.site?;
    Some(warning(
        format!("{closed} drops what comes to UDP port {port}"),
        format!(
            "clients reach this gateway through a relay at first, and directly once both have sent to each other; to let them in \
             at once, accept UDP port {port} there"
        ),
    ))
}

fn udp(report: &Report, transport: Option<Transport>) -> Vec<Finding> {
    let mut found = Vec::new();
    let is_blocked = report.udp == Some(false);
    let tcp = report.tcp.as_ref();
    let proxy = report.proxy.as_ref().map(|proxy| format!(" through the proxy {proxy}")).unwrap_or_default();
    match (is_blocked, tcp) {
        (true, Some(Tcp::Open)) => found.push(warning(
            "this network lets no UDP through",
            format!(
                "everything goes over TCP{proxy} and relays, which is slower; where you may, let UDP out to the coordinator's port \
                 and to any address"
            ),
        )),
        (true, Some(Tcp::Blocked { why })) => found.push(error(
            format!("neither UDP nor TCP gets through to the coordinator{proxy}: {why}"),
            "see whether this machine is online at all; where the network has an HTTP proxy, set HTTPS_PROXY for the daemon",
        )),
        (_, Some(Tcp::Intercepted)) => found.push(error(
            format!("somebody else answers TLS in the coordinator's place{proxy}"),
            "if this network has a page to log in to, do that first; if it reads everybody's TLS, ask its admin to let the \
             coordinator through",
        )),
        _ => {}
    }
    if !is_blocked && report.udp == Some(true) && transport.is_some_and(|transport| transport != Transport::Udp) {
        found.push(note(
            "the coordinator is connected over TCP though UDP gets through now",
            "nothing: the node changes over by itself within half a minute",
        ));
    }
    found
}

fn nat(report: &Report, status: &Status) -> Option<Finding> {
    let is_mapped = matches!(report.port_mapping, Some(PortMapping::Mapped { .. }));
    let port = status.wireguard_port?;
    (report.nat == Nat::Symmetric && !is_mapped).then(|| {
        note(
            "this network's NAT uses another port for each destination",
            format!(
                "peers behind such a NAT themselves are reached through relays; for direct paths, forward UDP port {port} to this \
                 machine, or let the router map ports (PCP or UPnP)"
            ),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::{super::Severity, *};
    use crate::local::protocol::PeerRow;
    use postern_model::{PublicKey, SiteId};

    fn facts() -> Facts {
        let ranges = Some(NetworkRanges::from_random([1, 2, 3, 4, 5]));
        let status =
            Status { interface: Some("postern0".into()), wireguard_port: Some(4000), ranges, ..Status::default() };
        Facts { status, ..Facts::default() }
    }

    fn found(facts: &Facts) -> Vec<(Severity, String)> {
        findings(facts).into_iter().map(|finding| (finding.severity, finding.what)).collect()
    }

    fn only(facts: &Facts) -> (Severity, String) {
        let found = found(facts);
        let [one] = &found[..] else { panic!("{found:?}") };
        one.clone()
    }

    fn route(to: &str, prefix: u8, interface: &str) -> Route {
        Route { to: to.parse().unwrap(), prefix, gateway: None, interface: interface.into(), metric: 0 }
    }

    #[test]
    fn names_that_do_not_lead_to_the_node_are_told() {
        let addr = NetworkRanges::from_random([1, 2, 3, 4, 5]).resource(300).unwrap();
        let name =
            |resolved| Facts { name: Some(("wiki.postern.internal".parse().unwrap(), addr, resolved)), ..facts() };
        assert_eq!(found(&name(Resolved::To(vec![addr.v6.into()]))), []);
        assert!(only(&name(Resolved::To(vec!["192.0.2.1".parse().unwrap()]))).1.contains("leads to 192.0.2.1"));
        assert!(only(&name(Resolved::To(vec![]))).1.contains("does not ask the node"));
        assert!(only(&name(Resolved::Failed("timeout".into()))).1.contains("timeout"));
    }

    #[test]
    fn made_up_answers_are_told() {
        let made_up = |found| Facts { made_up: Some(("x.postern.internal".parse().unwrap(), found)), ..facts() };
        assert_eq!(found(&made_up(Resolved::To(vec![]))), []);
        assert_eq!(found(&made_up(Resolved::Failed("no".into()))), []);
        assert_eq!(only(&made_up(Resolved::To(vec!["192.0.2.1".parse().unwrap()]))).0, Severity::Error);
    }

    #[test]
    fn routes_into_the_overlay_are_conflicts_and_others_are_not() {
        let with = |routes: &[Route]| Facts { routes: routes.to_vec(), ..facts() };
        let harmless = [
            route("0.0.0.0", 0, "eth0"),
            route("0.0.0.0", 1, "eth0"),
            route("10.0.0.0", 8, "eth0"),
            route("100.96.0.0", 11, "postern0"),
            route("100.64.1.0", 24, "eth1"),
        ];
        assert_eq!(found(&with(&harmless)), []);
        let (severity, what) = only(&with(&[route("100.100.0.0", 16, "vpn0")]));
        assert!(severity == Severity::Error && what.contains("100.100.0.0/16") && what.contains("vpn0"), "{what}");
        assert!(only(&with(&[route("fd01:203:405:2::", 64, "vpn0")])).1.contains("vpn0"));
        // A gateway leads clients' addresses to itself, too.
        let gateway = Status { site: Some(SiteId::from_bytes([1; 16])), ..facts().status };
        let facts = Facts { status: gateway, ..with(&[route("100.64.1.0", 24, "eth1")]) };
        assert_eq!(only(&facts).0, Severity::Error);
    }

    #[test]
    fn another_vpn_that_takes_everything_is_told() {
        let with = |prefix| Facts {
            tunnels: vec!["wg0".into(), "postern0".into()],
            routes: vec![route("0.0.0.0", prefix, "wg0")],
            ..facts()
        };
        assert!(only(&with(0)).1.contains("wg0") && only(&with(1)).1.contains("wg0"));
        assert_eq!(found(&with(8)), []);
    }

    #[test]
    fn a_short_path_is_noted() {
        let peer = |mtu| PeerRow {
            id: PublicKey([1; 32]),
            path: None,
            endpoint: None,
            relay: None,
            round_trip_ms: None,
            handshake_seconds_ago: None,
            sent_bytes: 0,
            received_bytes: 0,
            mtu,
            flows: 0,
        };
        let with = |mtu| Facts { status: Status { peers: vec![peer(mtu)], ..facts().status }, ..facts() };
        assert_eq!(found(&with(1280)), []);
        assert!(only(&with(1200)).1.contains("1200 bytes"));
    }

    #[test]
    fn a_closed_port_counts_on_gateways_alone() {
        let closed = Facts { closed: Some("chain in of table inet mine".into()), ..facts() };
        assert_eq!(found(&closed), []);
        let status = Status { site: Some(SiteId::from_bytes([1; 16])), ..facts().status };
        let (severity, what) = only(&Facts { status, ..closed });
        assert!(severity == Severity::Warning && what.contains("4000"), "{what}");
    }

    #[test]
    fn what_the_network_keeps_back_is_told() {
        let with = |report| Facts { network: Some(report), ..facts() };
        let blocked = |tcp| Report { udp: Some(false), tcp: Some(tcp), ..Report::default() };
        assert_eq!(only(&with(blocked(Tcp::Open))).0, Severity::Warning);
        let (severity, what) = only(&with(blocked(Tcp::Blocked { why: "refused".into() })));
        assert!(severity == Severity::Error && what.contains("refused"));
        assert!(only(&with(blocked(Tcp::Intercepted))).1.contains("somebody else"));
        let fine = Report { udp: Some(true), tcp: Some(Tcp::Open), ..Report::default() };
        assert_eq!(found(&with(fine.clone())), []);
        let status = Status { transport: Some(Transport::Tcp), ..facts().status };
        assert_eq!(only(&Facts { status, ..with(fine) }).0, Severity::Note);
    }

    #[test]
    fn a_symmetric_nat_is_noted_unless_a_port_is_mapped() {
        use crate::reach::MappingProtocol::Pcp;
        let with = |port_mapping| Facts {
            network: Some(Report { udp: Some(true), nat: Nat::Symmetric, port_mapping, ..Report::default() }),
            ..facts()
        };
        assert!(only(&with(Some(PortMapping::Unavailable))).1.contains("another port"));
        let addr = "198.51.100.7:4000".parse().unwrap();
        assert_eq!(found(&with(Some(PortMapping::Mapped { protocol: Pcp, addr }))), []);
    }
}
