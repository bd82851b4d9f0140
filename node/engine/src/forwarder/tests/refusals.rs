//! What must not pass. Each with the reason that is counted, and with the answer or the silence that it gets.

use std::{net::IpAddr, sync::Arc, time::Duration};

use postern_model::{Filter, NetworkRanges, PortSet, ResourceId};
use proptest::prelude::*;

use super::{
    packets::{echo, fragment, gre, syn, tcp, udp},
    world::{CLIENT, GATEWAY, OTHER, STRANGER, TARGET_V4, World, device, filter, peer, resource, to},
};
use crate::{
    DropReason, Visible,
    forwarder::{
        flows::MAX_FLOWS_PER_CLIENT,
        queue::{MAX_AGE, MAX_PACKETS},
    },
};

fn target(port: u16) -> std::net::SocketAddr {
    to(TARGET_V4.parse::<IpAddr>().unwrap(), port)
}

/// A world whose client lets everything out: it holds grants for the resources 0 to 3 with all ports, for ever, and
/// believes that its address is `own`'s.
fn with_malicious_client(own: usize) -> World {
    let mut world = World::granted();
    let any = Filter { tcp: PortSet::Any, udp: PortSet::Any, icmp: true };
    let held: Vec<_> = (0..4)
        .map(|number| {
            let mut grant = world.hold(number);
            grant.filter = any.clone();
            grant.expires = world.now + Duration::from_secs(1_000_000);
            grant
        })
        .collect();
    let mut table = world.client_table(CLIENT, &held);
    table.own = device(own);
    for visible in table.catalogue.values_mut() {
        *visible = Arc::new(Visible { filter: any.clone(), ..Visible::clone(visible) });
    }
    world.publish(CLIENT, table);
    world
}

#[test]
fn without_a_table_everything_is_dropped() {
    let mut world = World::new();
    world.send(CLIENT, syn(to(device(CLIENT).v4, 4000), to(resource(0).v4, 80)));
    world.send(CLIENT, syn(to(device(CLIENT).v4, 4000), to(device(OTHER).v4, 80)));
    assert!(world.wire.is_empty() && world.misses(CLIENT).is_empty());
    world.assert_drops(CLIENT, &[(DropReason::UnknownDestination, 2)]);
}

#[test]
fn a_source_that_is_not_this_node_does_not_leave_it() {
    let mut world = World::granted();
    world.send(CLIENT, syn(to(device(OTHER).v4, 4000), to(resource(0).v4, 80)));
    world.assert_drops(CLIENT, &[(DropReason::ForeignSource, 1)]);
    assert!(world.tun(CLIENT).is_empty(), "and is not answered");
}

/// Invariant: identity is the tunnel's key; no source address lends another's grants.
#[test]
fn a_client_with_anothers_address_gets_nothing_from_the_gateway() {
    let mut world = with_malicious_client(OTHER);
    let carried = [world.carry(CLIENT, 0, TARGET_V4), world.carry(OTHER, 0, TARGET_V4)];
    world.gateway(&carried);
    world.send(CLIENT, syn(to(device(OTHER).v4, 4000), to(resource(0).v4, 80)));
    assert!(world.tun(GATEWAY).is_empty());
    world.assert_drops(GATEWAY, &[(DropReason::ForeignSource, 1)]);
}

#[test]
fn a_port_that_is_not_open_is_refused_by_the_client_and_by_the_gateway() {
    let (client, service) = (to(device(CLIENT).v4, 4000), to(resource(0).v4, 81));
    let mut world = World::granted();
    world.send(CLIENT, syn(client, service));
    assert_eq!(world.tun(CLIENT), [format!("tcp {service} > {client} RA")]);
    world.assert_drops(CLIENT, &[(DropReason::PortClosed, 1)]);

    let mut world = with_malicious_client(CLIENT);
    world.send(CLIENT, syn(client, service));
    assert!(world.tun(GATEWAY).is_empty());
    world.assert_drops(GATEWAY, &[(DropReason::PortClosed, 1)]);
    assert_eq!(world.tun(CLIENT), [format!("tcp {service} > {client} RA")], "through the tunnel");
}

#[test]
fn without_a_grant_the_client_asks_and_the_gateway_refuses() {
    let (client, service) = (to(device(CLIENT).v4, 4000), to(resource(1).v4, 80));
    let mut world = World::granted();
    world.send(CLIENT, syn(client, service));
    let misses = world.misses(CLIENT);
    assert_eq!(misses.len(), 1);
    assert_eq!((misses[0].resource, &misses[0].packet), (ResourceId::from_bytes([1; 16]), &syn(client, service)));
    world.assert_drops(CLIENT, &[]);

    let mut world = with_malicious_client(CLIENT);
    world.send(CLIENT, syn(client, service));
    assert!(world.tun(GATEWAY).is_empty());
    world.assert_drops(GATEWAY, &[(DropReason::NoGrant, 1)]);
    assert_eq!(world.tun(CLIENT), [format!("tcp {service} > {client} RA")]);
    // Nor does the target's own address lead anywhere.
    let mut table = world.client_table(CLIENT, &[world.hold(0)]);
    let held = Arc::clone(&table.held[&IpAddr::from(resource(0).v4)]);
    let visible = Arc::clone(&table.catalogue[&IpAddr::from(resource(0).v4)]);
    table.held.insert(target(80).ip(), held);
    table.catalogue.insert(target(80).ip(), visible);
    world.publish(CLIENT, table);
    world.send(CLIENT, syn(client, target(80)));
    assert!(world.tun(GATEWAY).is_empty());
    world.assert_drops(GATEWAY, &[(DropReason::NoGrant, 2)]);
}

#[test]
fn a_lease_ends_on_its_own_at_either_end() {
    let (client, service) = (to(device(CLIENT).v4, 4000), to(resource(0).v4, 80));
    let mut world = World::granted();
    world.connect((client, service));
    world.pass(super::world::LEASE);
    assert_eq!(world.tun(CLIENT).first(), Some(&format!("tcp {service} > {client} RA")));
    assert_eq!(world.tun(GATEWAY).first(), Some(&format!("tcp {client} > {} RA", target(80))));
    world.send(CLIENT, syn(client, service));
    assert_eq!(world.misses(CLIENT).len(), 1);

    let mut world = with_malicious_client(CLIENT);
    world.pass(super::world::LEASE);
    world.send(CLIENT, syn(client, service));
    assert!(world.tun(GATEWAY).is_empty());
    world.assert_drops(GATEWAY, &[(DropReason::LeaseExpired, 1)]);
}

#[test]
fn fragments_and_what_is_no_packet_pass_nowhere() {
    let (client, service) = (to(device(CLIENT).v4, 4000), to(resource(0).v4, 53));
    let mut world = World::granted();
    world.send(CLIENT, fragment(client, service));
    world.send(CLIENT, vec![0x45, 1, 2, 3]);
    world.send(CLIENT, vec![]);
    world.send(GATEWAY, fragment(target(53), client));
    world.assert_drops(CLIENT, &[(DropReason::Malformed, 2), (DropReason::Fragment, 1)]);
    world.assert_drops(GATEWAY, &[(DropReason::Fragment, 1)]);
    assert!(world.tun(CLIENT).is_empty() && world.tun(GATEWAY).is_empty());
}

#[test]
fn other_protocols_have_no_ports_and_never_pass() {
    let mut world = with_malicious_client(CLIENT);
    world.send(CLIENT, gre(device(CLIENT).v4.into(), resource(0).v4.into()));
    world.assert_drops(CLIENT, &[(DropReason::UnsupportedProtocol, 1)]);
    assert_eq!(world.tun(CLIENT), [format!("icmp-error {} > {}", resource(0).v4, device(CLIENT).v4)]);
}

#[test]
fn nobody_behind_a_gateway_can_open_anything_to_a_client() {
    let client = to(device(CLIENT).v4, 22);
    let mut world = World::granted();
    world.connect((to(device(CLIENT).v4, 4000), to(resource(0).v4, 80)));
    let on_wire = world.wire.len();
    world.send(GATEWAY, syn(target(5000), client));
    assert_eq!(world.tun(GATEWAY), [format!("tcp {client} > {} RA", target(5000))]);
    world.send(GATEWAY, echo(target(0).ip(), client.ip(), 1, false));
    // Nor answer what nobody asked, even on the port of a flow.
    world.send(GATEWAY, tcp(target(443), to(client.ip(), 4000), "SA", (1, 2), b""));
    world.send(GATEWAY, udp(target(80), to(client.ip(), 4000), b""));
    world.assert_drops(GATEWAY, &[(DropReason::NoFlow, 4)]);
    assert_eq!(world.wire.len(), on_wire, "nothing left the gateway");
}

#[test]
fn a_malicious_gateway_can_open_nothing_to_a_client_either() {
    let mut world = World::granted();
    world.connect((to(device(CLIENT).v6, 4000), to(resource(0).v6, 80)));
    // It takes itself for a client of whom the client is a resource, in a network where that is one's address.
    let (own, held) = (resource(0), world.hold(0));
    let mut table = world.client_table(GATEWAY, &[]);
    table.own = own;
    table.ranges = NetworkRanges::from_random([9; 5]);
    let any = Filter { tcp: PortSet::Any, udp: PortSet::Any, icmp: true };
    let addr = device(CLIENT);
    let visible = Visible { resource: held.resource, addr, filter: any.clone() };
    table.catalogue.insert(addr.v6.into(), Arc::new(visible));
    let key = world.nodes[CLIENT].key;
    table.held.insert(addr.v6.into(), Arc::new(crate::HeldGrant { addr, peer: key, filter: any, ..held }));
    table.peers.insert(key, peer(key, vec![world.nodes[CLIENT].outside], true));
    world.publish(GATEWAY, table);
    // The end of what it carried resets the client's connection.
    assert_eq!(world.tun(CLIENT).len(), 1);
    world.send(GATEWAY, syn(to(own.v6, 80), to(addr.v6, 22)));
    world.send(GATEWAY, udp(to(own.v6, 53), to(addr.v6, 4000), b"!"));
    world.send(GATEWAY, echo(own.v6.into(), addr.v6.into(), 1, false));
    assert!(world.tun(CLIENT).is_empty(), "not even an answer");
    world.assert_drops(CLIENT, &[(DropReason::NoFlow, 3)]);
}

#[test]
fn strangers_get_no_answer() {
    let mut world = World::granted();
    let held = world.hold(0);
    let table = world.client_table(STRANGER, &[held]);
    world.publish(STRANGER, table);
    world.assert_drops(GATEWAY, &[(DropReason::UnknownPeer, 1)]);
    let stranger = world.nodes[STRANGER].outside;
    world.datagram(GATEWAY, stranger, b"who is there?");
    world.assert_drops(GATEWAY, &[(DropReason::UnknownPeer, 1), (DropReason::NotWireGuard, 1)]);
    assert!(world.wire.iter().all(|(_, to, _)| *to != stranger));
}

#[test]
fn a_datagram_counts_once_and_only_unchanged() {
    let mut world = World::granted();
    world.send(CLIENT, udp(to(device(CLIENT).v4, 4000), to(resource(0).v4, 53), b"?"));
    assert_eq!(world.tun(GATEWAY).len(), 1);
    let (_, _, sealed) = world.wire.iter().rfind(|(_, _, datagram)| datagram[0] == 4).unwrap().clone();
    let attacker = ([198, 51, 100, 66], 66).into();
    world.datagram(GATEWAY, attacker, &sealed);
    let mut changed = sealed;
    *changed.last_mut().unwrap() ^= 1;
    changed[8] = 99;
    world.datagram(GATEWAY, attacker, &changed);
    assert!(world.tun(GATEWAY).is_empty());
    world.assert_drops(GATEWAY, &[(DropReason::NotAuthentic, 1), (DropReason::Replayed, 1)]);
    let endpoint = world.nodes[GATEWAY].forwarder.peers()[0].endpoint;
    assert_eq!(endpoint, Some(world.nodes[CLIENT].outside.into()), "the peer has not moved");
}

#[test]
fn a_packet_that_is_too_long_is_answered_with_the_length_that_fits() {
    let mut world = World::granted();
    world.nodes[CLIENT].forwarder.set_mtu(1280);
    world.send(CLIENT, udp(to(device(CLIENT).v4, 4000), to(resource(0).v4, 53), &[0; 1300]));
    let answer = world.tun_packets(CLIENT).pop().unwrap();
    assert_eq!(&answer[20..22], [3, 4], "fragmentation needed");
    assert_eq!(&answer[26..28], 1280_u16.to_be_bytes());
    world.assert_drops(CLIENT, &[(DropReason::TooBig, 1)]);
}

#[test]
fn a_target_without_an_address_refuses() {
    let mut world = World::granted();
    let mut carried = world.carry(CLIENT, 0, TARGET_V4);
    carried.targets.clear();
    world.gateway(&[carried]);
    let (client, service) = (to(device(CLIENT).v4, 4000), to(resource(0).v4, 80));
    world.send(CLIENT, syn(client, service));
    assert_eq!(world.tun(CLIENT), [format!("tcp {service} > {client} RA")]);
    world.assert_drops(GATEWAY, &[(DropReason::TargetUnresolved, 1)]);
}

#[test]
fn a_held_packet_that_is_denied_is_answered() {
    let mut world = World::granted();
    let (client, service) = (to(device(CLIENT).v4, 4000), to(resource(1).v4, 53));
    let now = world.now;
    let node = &mut world.nodes[CLIENT];
    node.forwarder.handle_refused(&udp(client, service, b"?"), DropReason::AccessDenied, &mut node.out, now);
    assert_eq!(world.tun(CLIENT), [format!("icmp-error {} > {}", service.ip(), client.ip())]);
    world.assert_drops(CLIENT, &[(DropReason::AccessDenied, 1)]);
}

#[test]
fn few_packets_wait_for_a_gateway_that_does_not_answer_and_not_for_long() {
    let mut world = World::new();
    let held = world.hold(0);
    world.client(&[held]);
    for port in 0..=u16::try_from(MAX_PACKETS).unwrap() {
        world.send(CLIENT, udp(to(device(CLIENT).v4, 4000 + port), to(resource(0).v4, 53), b"?"));
    }
    world.assert_drops(CLIENT, &[(DropReason::PendingFull, 1)]);
    world.pass(MAX_AGE);
    world.assert_drops(
        CLIENT,
        &[(DropReason::PendingFull, 1), (DropReason::PendingTimeout, u64::try_from(MAX_PACKETS).unwrap())],
    );
}

#[test]
fn one_client_cannot_take_all_flows_of_a_gateway() {
    let mut world = World::granted();
    let (own, service) = (device(CLIENT).v4, resource(0).v4);
    let most = u16::try_from(MAX_FLOWS_PER_CLIENT).unwrap();
    for port in 1..=most {
        world.send(CLIENT, udp(to(own, port), to(service, 53), b""));
        world.wire.clear();
    }
    world.assert_drops(GATEWAY, &[]);
    assert_eq!(world.tun_packets(GATEWAY).len(), usize::from(most));
    world.send(CLIENT, udp(to(own, most + 1), to(service, 53), b""));
    world.assert_drops(GATEWAY, &[(DropReason::FlowTableFull, 1)]);
    assert_eq!(world.tun(CLIENT), [format!("icmp-error {service} > {own}")]);

    // Another client has room.
    let carried = [world.carry(CLIENT, 0, TARGET_V4), world.carry(OTHER, 0, TARGET_V4)];
    world.gateway(&carried);
    let held = world.hold(0);
    let table = world.client_table(OTHER, &[held]);
    world.publish(OTHER, table);
    world.send(OTHER, udp(to(device(OTHER).v4, 4000), to(service, 53), b""));
    assert_eq!(world.tun(GATEWAY).len(), 1);
    // And so has the first, once the others are over.
    world.pass(Duration::from_secs(130));
    world.tun(CLIENT);
    world.send(CLIENT, udp(to(own, most + 1), to(service, 53), b""));
    assert_eq!(world.tun(GATEWAY).len(), 1);
}

#[test]
fn answers_are_limited() {
    let mut world = World::granted();
    for port in 0..600 {
        world.send(CLIENT, syn(to(device(CLIENT).v4, 4000), to(resource(0).v4, 1000 + port)));
    }
    assert_eq!(world.tun(CLIENT).len(), 500);
    world.assert_drops(CLIENT, &[(DropReason::PortClosed, 600), (DropReason::ReplyLimit, 100)]);
}

proptest! {
    /// Whatever bytes come from TUN or from the network, nothing panics, and nothing is let through.
    #[test]
    fn no_bytes_pass_or_panic(
        bytes in prop::collection::vec(any::<u8>(), 0..200),
        first in prop::sample::select(vec![0x45_u8, 0x60, 1, 2, 3, 4]),
    ) {
        let mut world = World::granted();
        let mut bytes = bytes;
        if let Some(byte) = bytes.first_mut() {
            *byte = first;
        }
        for at in [CLIENT, GATEWAY] {
            world.tun(at);
            world.send(at, bytes.clone());
            world.datagram(at, ([198, 51, 100, 66], 66).into(), &bytes);
            world.tun_packets(at);
            let counters = world.nodes[at].forwarder.counters();
            prop_assert_eq!((counters.in_packets, counters.out_packets), (0, 0));
        }
    }

    /// Invariant: a client passes no port that its filter does not have, whatever it sends.
    #[test]
    fn only_open_ports_pass(port in any::<u16>(), is_tcp in any::<bool>()) {
        let mut world = with_malicious_client(CLIENT);
        let (client, service) = (to(device(CLIENT).v4, 4000), to(resource(0).v4, port));
        world.send(CLIENT, if is_tcp { syn(client, service) } else { udp(client, service, b"?") });
        let protocol = if is_tcp { postern_model::Protocol::Tcp } else { postern_model::Protocol::Udp };
        prop_assert_eq!(world.tun(GATEWAY).len() == 1, filter().allows(protocol, port));
    }
}

/// A burst of new connections is no port scan: those that found no room in it come again.
#[test]
fn what_found_no_room_to_wait_is_counted_and_not_answered() {
    let mut world = World::granted();
    let packet = syn(to(device(CLIENT).v4, 4000), to(resource(0).v4, 80));
    let (now, node) = (world.now, &mut world.nodes[CLIENT]);
    node.forwarder.handle_refused(&packet, DropReason::PendingFull, &mut node.out, now);
    assert!(world.tun(CLIENT).is_empty());
    world.assert_drops(CLIENT, &[(DropReason::PendingFull, 1)]);
}
