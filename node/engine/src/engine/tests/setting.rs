//! A small network: four resources, one gateway, two clients.

use std::time::Duration;

use postern_model::{
    Candidate, DeviceId, Filter, GrantId, NetworkRanges, OverlayAddr, PortSet, PresharedKey, PublicKey, ResourceId,
    Revision, candidate::CandidateKind,
};
use postern_wire::{CatalogueEntry, CoordinatorMessage, Granted, InstallGrant, PeerDevice, Welcome};

/// Resources by number.
pub(super) const WIKI: u8 = 0;
pub(super) const DB: u8 = 1;
pub(super) const MAIL: u8 = 2;
const NAMES: [&str; 4] = ["wiki", "db", "mail", "git"];

/// How long grants last.
pub(super) const LEASE: Duration = Duration::from_secs(600);
/// The gateway's key, and another's.
pub(super) const GATEWAY: PublicKey = PublicKey([7; 32]);
pub(super) const OTHER_GATEWAY: PublicKey = PublicKey([8; 32]);

pub(super) const fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

pub(super) fn ranges() -> NetworkRanges {
    NetworkRanges::from_random([1, 2, 3, 4, 5])
}

/// The addresses of this node.
pub(super) fn own() -> OverlayAddr {
    ranges().device(300).unwrap()
}

pub(super) fn resource(number: u8) -> ResourceId {
    ResourceId::from_bytes([number; 16])
}

pub(super) fn resource_addr(number: u8) -> OverlayAddr {
    ranges().resource(300 + u32::from(number)).unwrap()
}

pub(super) fn grant(number: u8) -> GrantId {
    GrantId::from_bytes([number; 16])
}

pub(super) fn everything() -> Filter {
    Filter { tcp: PortSet::Any, udp: PortSet::Any, icmp: true }
}

pub(super) fn candidate(port: u16) -> Candidate {
    Candidate { addr: ([192, 0, 2, 1], port).into(), kind: CandidateKind::Host }
}

pub(super) fn entry(number: u8) -> CatalogueEntry {
    CatalogueEntry {
        id: resource(number),
        name: NAMES[usize::from(number)].parse().unwrap(),
        aliases: vec![],
        addr: resource_addr(number),
        filter: everything(),
    }
}

/// A grant as the coordinator tells its client.
pub(super) fn granted(number: u8, of: u8) -> Granted {
    Granted {
        grant: grant(number),
        resource: resource(of),
        filter: everything(),
        lease: LEASE,
        gateway: GATEWAY,
        preshared_key: PresharedKey::new([9; 32]),
        candidates: vec![candidate(1)],
        relayed: None,
    }
}

/// A client of this node, were it a gateway.
pub(super) fn client(number: u8) -> PeerDevice {
    PeerDevice {
        id: DeviceId::from_bytes([number; 16]),
        name: format!("laptop-{number}"),
        user: Some("alice".to_owned()),
        addr: ranges().device(400 + u32::from(number)).unwrap(),
        wireguard: PublicKey([100 + number; 32]),
    }
}

/// A grant as the coordinator tells its gateway: of [`client`] 0, to the resource of the same number.
pub(super) fn install(number: u8, target: &str) -> InstallGrant {
    InstallGrant {
        grant: grant(number),
        client: client(0),
        preshared_key: PresharedKey::new([9; 32]),
        candidates: vec![candidate(2)],
        relayed: None,
        resource: resource(number),
        resource_name: NAMES[usize::from(number)].parse().unwrap(),
        resource_addr: resource_addr(number),
        target: target.parse().unwrap(),
        filter: everything(),
        lease: LEASE,
        queried: None,
    }
}

/// A snapshot with this catalogue, and no grants.
pub(super) fn welcome(catalogue: &[u8]) -> Welcome {
    Welcome {
        revision: Revision(1),
        device: DeviceId::from_bytes([50; 16]),
        name: "laptop".to_owned(),
        user: Some("alice".to_owned()),
        site: None,
        addr: own(),
        ranges: ranges(),
        zone: "postern.internal".parse().unwrap(),
        catalogue: catalogue.iter().map(|number| entry(*number)).collect(),
        granted: vec![],
        installed: vec![],
        renew_certificate_in: secs(86_400),
        checks: vec![],
        relays: vec![],
        relay_pass: None,
    }
}

pub(super) fn catalogue(put: &[CatalogueEntry], removed: &[u8]) -> CoordinatorMessage {
    let removed = removed.iter().map(|number| resource(*number)).collect();
    CoordinatorMessage::Catalogue { revision: Revision(2), put: put.to_vec(), removed }
}
