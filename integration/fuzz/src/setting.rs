//! A node that the coordinator has welcomed.

use std::time::Duration;

use postern_engine::Engine;
use postern_model::{DeviceId, Filter, Moment, NetworkRanges, PortSet, ResourceId, Revision};
use postern_wire::{CatalogueEntry, CoordinatorMessage, Welcome};

pub(crate) const ZONE: &str = "postern.internal";

pub(crate) fn now() -> Moment {
    Moment::from_boot(Duration::from_secs(1_000))
}

pub(crate) fn ranges() -> NetworkRanges {
    NetworkRanges::from_random([1, 2, 3, 4, 5])
}

/// A snapshot with one resource: `wiki`, also `wiki.example.com`.
pub(crate) fn welcome() -> Welcome {
    let entry = CatalogueEntry {
        id: ResourceId::from_bytes([1; 16]),
        name: "wiki".parse().expect("a name"),
        aliases: vec!["wiki.example.com".parse().expect("a name")],
        addr: ranges().resource(300).expect("within the range"),
        filter: Filter { tcp: PortSet::Any, udp: PortSet::Any, icmp: true },
    };
    Welcome {
        revision: Revision(1),
        device: DeviceId::from_bytes([2; 16]),
        name: "laptop".to_owned(),
        user: Some("alice".to_owned()),
        site: None,
        addr: ranges().device(300).expect("within the range"),
        ranges: ranges(),
        zone: ZONE.parse().expect("a name"),
        catalogue: vec![entry],
        granted: vec![],
        installed: vec![],
        renew_certificate_in: Duration::from_secs(86_400),
        checks: vec![],
        relays: vec![],
        relay_pass: None,
    }
}

/// An engine in a session.
pub(crate) fn engine() -> Engine {
    let mut engine = Engine::new();
    engine.handle_message(CoordinatorMessage::Welcome(Box::new(welcome())), now());
    while engine.poll_event().is_some() {}
    engine
}
