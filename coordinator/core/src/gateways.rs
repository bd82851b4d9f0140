//! Which gateway of a site carries a grant: of those that are in service the one that has it already, then the nearest, then the
//! one that carries least.
//!
//! In service is a gateway that is connected and neither drained nor revoked. What becomes of grants whose gateway is not, is
//! `failover`'s business.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
};

use postern_model::{
    DeviceId, ResourceId, SiteId,
    grant::Grant,
    record::{Device, Owner},
};

use crate::{Core, presence::Session};

/// Where a node is in the network, as far as that is known. `R` is what relays are known by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place<R> {
    /// The relay that it is nearest to.
    pub(crate) relay: Option<R>,
    /// From where it reaches the coordinator.
    pub(crate) source: Option<IpAddr>,
}

/// How far two nodes are from each other; less is nearer. What is not known of either is not the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Distance {
    has_other_relay: bool,
    has_other_network: bool,
}

impl Distance {
    pub(crate) fn between<R: PartialEq>(one: &Place<R>, other: &Place<R>) -> Self {
        let is_same_relay = one.relay.is_some() && one.relay == other.relay;
        let networks = (one.source.map(network), other.source.map(network));
        let is_same_network = networks.0.is_some() && networks.0 == networks.1;
        Self { has_other_relay: !is_same_relay, has_other_network: !is_same_network }
    }
}

/// What is one network to the rest of the world: an IPv4 address, behind which there may be a whole office, or an IPv6 /64.
fn network(addr: IpAddr) -> IpAddr {
    match addr.to_canonical() {
        IpAddr::V6(addr) => Ipv6Addr::from_bits(addr.to_bits() & !u128::from(u64::MAX)).into(),
        addr => addr,
    }
}

/// What speaks for a gateway, in the order in which it counts. The least is preferred.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Preference {
    /// It does not have the grant yet.
    pub(crate) is_other: bool,
    /// From whoever asks.
    pub(crate) distance: Distance,
    /// How many grants it carries.
    pub(crate) load: usize,
    /// So that it is the same one each time.
    pub(crate) id: DeviceId,
}

/// Grants that are about to be given, by gateway, and not yet in the state.
pub(crate) type Given = HashMap<DeviceId, usize>;

impl Core {
    /// The gateways of a site that take grants.
    pub(crate) fn in_service(&self, site: SiteId) -> impl Iterator<Item = &Device> {
        let gateways = self.state.devices_of(Owner::Site(site));
        gateways.filter(|it| !it.revoked && !it.drained && self.sessions.contains_key(&it.id))
    }

    /// Whether a site has a gateway in service that is none of these two.
    pub(crate) fn has_other_gateway(&self, site: SiteId, but: [DeviceId; 2]) -> bool {
        self.in_service(site).any(|gateway| !but.contains(&gateway.id))
    }

    /// The gateway for a device's grant, if one is in service. No device is its own gateway.
    pub(crate) fn gateway_for(
        &self,
        device: DeviceId,
        resource: ResourceId,
        held: Option<&Grant>,
        given: &Given,
    ) -> Option<DeviceId> {
        let site = self.state.resources.get(&resource)?.site;
        let from = self.place(device);
        let preference = |gateway: &Device| Preference {
            is_other: held.is_none_or(|held| held.gateway != gateway.id),
            distance: Distance::between(&from, &self.place(gateway.id)),
            load: self.state.load_of_gateway(gateway.id) + given.get(&gateway.id).copied().unwrap_or_default(),
            id: gateway.id,
        };
        let others = self.in_service(site).filter(|gateway| gateway.id != device);
        others.map(preference).min().map(|preferred| preferred.id)
    }

    /// Nodes don't say yet which relay is near.
    fn place(&self, device: DeviceId) -> Place<()> {
        let source = self.sessions.get(&device).map(Session::source);
        Place { relay: None, source }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(relay: Option<u8>, source: &str) -> Place<u8> {
        Place { relay, source: source.parse().ok() }
    }

    fn preference(is_other: bool, at: &Place<u8>, load: usize, id: u8) -> Preference {
        let client = place(Some(1), "192.0.2.1");
        Preference { is_other, distance: Distance::between(&client, at), load, id: DeviceId::from_bytes([id; 16]) }
    }

    #[test]
    fn what_counts_more_decides_before_what_counts_less() {
        let (same, other) = (place(Some(1), "192.0.2.1"), place(Some(2), "198.51.100.1"));
        let in_order = [
            preference(false, &other, 9, 9),
            preference(true, &same, 8, 8),
            preference(true, &place(Some(1), "198.51.100.1"), 7, 7),
            preference(true, &place(Some(2), "192.0.2.1"), 6, 6),
            preference(true, &other, 4, 5),
            preference(true, &other, 5, 3),
            preference(true, &other, 5, 4),
        ];
        assert!(in_order.is_sorted());
    }

    #[test]
    fn what_is_not_known_is_not_near() {
        let unknown = Place { relay: None::<u8>, source: None };
        let far = Distance::between(&place(Some(1), "192.0.2.1"), &place(Some(2), "198.51.100.1"));
        assert_eq!(Distance::between(&unknown, &unknown), far);
        assert_eq!(Distance::between(&unknown, &place(Some(1), "192.0.2.1")), far);
    }

    #[test]
    fn a_network_is_an_address_or_a_64() {
        let distance = |one, other| Distance::between(&place(None, one), &place(None, other));
        let near = distance("192.0.2.1", "192.0.2.1");
        assert_eq!(distance("2001:db8:1:2::3", "2001:db8:1:2:ffff::1"), near);
        assert_eq!(distance("192.0.2.1", "::ffff:192.0.2.1"), near, "an address is the same however it is written");
        for (one, other) in [("192.0.2.1", "192.0.2.2"), ("2001:db8:1:2::3", "2001:db8:1:3::3")] {
            assert!(distance(one, other) > near, "{one} and {other}");
        }
    }
}
