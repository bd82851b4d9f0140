//! Who and what there is in the simulated network. Three clients, each of a user of its own; two sites, the first one with two
//! gateways and the other with one; four resources, of which two share a target, and the sites' private networks overlap.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use postern_model::{
    DeviceId, Filter, NetworkRanges, OverlayAddr, PortSet, Posture, ResourceId, Revision, SecretBytes, Sha256, SiteId,
    SiteName, Timestamp, TokenId, UserId, UserName,
    addr::FIRST_INDEX,
    record::{Device, Network, Owner, Resource, Site, User, World},
};
use postern_wireguard::PrivateKey;

/// A node, by number: the clients first, then the gateways.
pub type At = usize;
/// How many clients there are.
pub const CLIENTS: usize = 3;
/// How many sites there are.
const SITES: usize = 2;
/// How many gateways there are.
pub const GATEWAYS: usize = 3;
/// How many nodes there are.
pub const NODES: usize = CLIENTS + GATEWAYS;
/// How long grants last unless renewed.
pub const LEASE: Duration = Duration::from_secs(60);

/// The host behind the resources 0 and 1 at the first site, and the first address of resource 3's host at the second.
const SHARED_TARGET: &str = "10.0.0.5";

/// A resource as it is at the start.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    pub(crate) name: &'static str,
    site: usize,
    pub(crate) target: &'static str,
    tcp: &'static str,
    udp: &'static str,
    icmp: bool,
}

/// All resources.
pub const RESOURCES: [Plan; 4] = [
    Plan { name: "wiki", site: 0, target: SHARED_TARGET, tcp: "80,443", udp: "53", icmp: true },
    Plan { name: "shop", site: 0, target: SHARED_TARGET, tcp: "80,8080", udp: "53,5353", icmp: false },
    Plan { name: "db", site: 0, target: "fd00:10::5", tcp: "5432", udp: "53", icmp: true },
    Plan { name: "files", site: 1, target: "files.example.com", tcp: "80", udp: "53", icmp: true },
];

/// Ports that steps choose from: some are open somewhere, 9 is nowhere.
pub const PORTS: [u16; 7] = [80, 443, 8080, 5432, 53, 5353, 9];

impl Plan {
    /// What is open of it: all that was planned, or less.
    pub(crate) fn filter(&self, variant: u8) -> Filter {
        let ports = |text: &str| text.parse::<PortSet>().expect("a port list");
        let all = Filter { tcp: ports(self.tcp), udp: ports(self.udp), icmp: self.icmp };
        match variant % 4 {
            0 => all,
            1 => Filter { udp: PortSet::None, icmp: false, ..all },
            2 => Filter { tcp: PortSet::None, ..all },
            _ => Filter { tcp: ports("80,5432"), udp: PortSet::Any, icmp: true },
        }
    }
}

/// The gateways of a resource.
pub fn gateways_of(resource: usize) -> impl Iterator<Item = At> {
    (CLIENTS..NODES).filter(move |at| site_of(*at) == RESOURCES[resource].site)
}

/// The site of a gateway.
fn site_of(gateway: At) -> usize {
    (gateway - CLIENTS) % SITES
}

/// The name of a gateway's site.
pub(crate) fn site_name(gateway: At) -> SiteName {
    name_of_site(site_of(gateway))
}

fn name_of_site(site: usize) -> SiteName {
    format!("site-{site}").parse().expect("a name")
}

/// Whether a node is a gateway.
pub(crate) fn is_gateway(at: At) -> bool {
    at >= CLIENTS
}

pub(crate) fn user_name(client: At) -> UserName {
    ["alice", "bob", "user-3"][client].parse().expect("a user's name")
}

pub(crate) fn private_key(at: At) -> PrivateKey {
    PrivateKey::from_bytes(&SecretBytes::new([byte(at) + 1; 32]))
}

pub(crate) fn device_id(at: At) -> DeviceId {
    DeviceId::from_bytes([byte(at) + 0x10; 16])
}

pub(crate) fn resource_id(resource: usize) -> ResourceId {
    ResourceId::from_bytes([byte(resource) + 0x20; 16])
}

pub(crate) fn resource_with(id: ResourceId) -> Option<usize> {
    (0..RESOURCES.len()).find(|resource| resource_id(*resource) == id)
}

fn user_id(client: At) -> UserId {
    UserId::from_bytes([byte(client) + 0x30; 16])
}

fn site_id(site: usize) -> SiteId {
    SiteId::from_bytes([byte(site) + 0x40; 16])
}

fn byte(number: usize) -> u8 {
    u8::try_from(number).expect("there are few")
}

pub(crate) fn ranges() -> NetworkRanges {
    NetworkRanges::from_random([1, 2, 3, 4, 5])
}

pub(crate) fn device_addr(at: At) -> OverlayAddr {
    ranges().device(FIRST_INDEX + u32::from(byte(at))).expect("within the range")
}

pub(crate) fn resource_addr(resource: usize) -> OverlayAddr {
    ranges().resource(FIRST_INDEX + u32::from(byte(resource))).expect("within the range")
}

/// One of the two, as an address.
pub(crate) fn of_family(addr: OverlayAddr, is_v6: bool) -> IpAddr {
    if is_v6 { addr.v6.into() } else { addr.v4.into() }
}

/// Where a node's WireGuard socket is, after it has moved so many times.
pub(crate) fn outside(at: At, moves: u8) -> SocketAddr {
    let addr: IpAddr = if moves.is_multiple_of(2) {
        [192, 0, 2 + moves, byte(at) + 1].into()
    } else {
        [0x2001, 0xdb8, 0, 0, 0, 0, u16::from(moves), u16::from(byte(at)) + 1].into()
    };
    (addr, 51_820).into()
}

/// What the coordinator begins with: everyone is enrolled, nothing is allowed.
pub(crate) fn world() -> World {
    let long_ago = Timestamp::from_unix_millis(0);
    let device = |at: At| Device {
        id: device_id(at),
        name: format!("device-{at}"),
        owner: if is_gateway(at) { Owner::Site(site_id(site_of(at))) } else { Owner::User(user_id(at)) },
        key: Sha256([byte(at); 32]),
        wireguard: private_key(at).public(),
        addr: device_addr(at),
        revoked: false,
        drained: false,
        posture: Posture::default(),
        enrolled_at: long_ago,
        token: TokenId::from_bytes([byte(at); 16]),
    };
    let resource = |(number, plan): (usize, &Plan)| Resource {
        id: resource_id(number),
        name: plan.name.parse().expect("a resource's name"),
        aliases: Vec::new(),
        tags: std::collections::BTreeSet::new(),
        site: site_id(plan.site),
        target: plan.target.parse().expect("a target"),
        filter: plan.filter(0),
        addr: resource_addr(number),
        created_at: long_ago,
    };
    let user = |client| User { id: user_id(client), name: user_name(client), suspended: false, created_at: long_ago };
    let site = |site| Site { id: site_id(site), name: name_of_site(site), created_at: long_ago };
    World {
        revision: Revision(1),
        network: Network {
            zone: "postern.internal".parse().expect("a zone"),
            ranges: ranges(),
            next_device_index: FIRST_INDEX + u32::from(byte(NODES)),
            next_resource_index: FIRST_INDEX + u32::from(byte(RESOURCES.len())),
        },
        users: (0..CLIENTS).map(user).collect(),
        groups: Vec::new(),
        members: Vec::new(),
        sites: (0..SITES).map(site).collect(),
        resources: RESOURCES.iter().enumerate().map(resource).collect(),
        policies: Vec::new(),
        devices: (0..NODES).map(device).collect(),
        tokens: Vec::new(),
        api_keys: Vec::new(),
        relays: Vec::new(),
        grants: Vec::new(),
    }
}
