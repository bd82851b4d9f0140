//! What ends when a table says so, and what goes on.

use std::net::{IpAddr, SocketAddr};

use postern_model::{GrantId, PortRange, PortSet};

use super::{
    packets::{syn, tcp, udp},
    world::{CLIENT, GATEWAY, TARGET_V4, TARGET_V6, World, device, resource, to},
};
use crate::DropReason;

fn ends() -> (SocketAddr, SocketAddr) {
    (to(device(CLIENT).v4, 4000), to(resource(0).v4, 80))
}

fn target(port: u16) -> SocketAddr {
    to(TARGET_V4.parse::<IpAddr>().unwrap(), port)
}

/// The reset's numbers.
fn numbers(packet: &[u8]) -> (u32, u32) {
    let segment = postern_packet::parse(packet).unwrap().tcp(packet).unwrap();
    (segment.seq, segment.ack)
}

#[test]
fn a_client_resets_its_own_connections_exactly_where_they_stand() {
    let mut world = World::granted();
    let (client, service) = ends();
    world.connect((client, service));
    world.client(&[]);
    let resets = world.tun_packets(CLIENT);
    assert_eq!(resets.len(), 1, "a quiet connection is reset once");
    assert_eq!(super::packets::seen(&resets[0]), format!("tcp {service} > {client} RA"));
    assert_eq!(numbers(&resets[0]), (9011, 1011));
    assert!(world.nodes[CLIENT].forwarder.peers().is_empty());
    // The next packet is a miss, and not one of a flow.
    world.send(CLIENT, tcp(client, service, "A", (1011, 9011), b"more"));
    assert_eq!(world.misses(CLIENT).len(), 1);
    assert!(world.tun(GATEWAY).is_empty());
}

#[test]
fn a_gateway_resets_both_ends_before_the_peer_is_gone() {
    let mut world = World::granted();
    let (client, service) = ends();
    world.connect((client, service));
    world.gateway(&[]);
    let to_target = world.tun_packets(GATEWAY);
    assert_eq!(super::packets::seen(&to_target[0]), format!("tcp {client} > {} RA", target(80)));
    assert_eq!(numbers(&to_target[0]), (1011, 9011));
    let to_client = world.tun_packets(CLIENT);
    assert_eq!(super::packets::seen(&to_client[0]), format!("tcp {service} > {client} RA"));
    assert_eq!(numbers(&to_client[0]), (9011, 1011));
    // The session is gone with the peer.
    world.send(CLIENT, syn(to(client.ip(), 4001), service));
    assert!(world.tun(GATEWAY).is_empty());
    world.assert_drops(GATEWAY, &[(DropReason::NoSession, 1)]);
    world.send(GATEWAY, tcp(target(80), client, "A", (9011, 1011), b"more"));
    assert_eq!(world.dropped(GATEWAY, DropReason::NoFlow), 1);
}

#[test]
fn other_grants_of_the_same_peer_go_on() {
    let mut world = World::new();
    let (kept, ended) = (world.carry(CLIENT, 0, TARGET_V4), world.carry(CLIENT, 1, "10.0.0.6"));
    let held = [world.hold(0), world.hold(1)];
    world.gateway(&[kept.clone(), ended]);
    world.client(&held);
    let (client, service) = ends();
    world.connect((client, service));
    world.connect((client, to(resource(1).v4, 80)));
    world.gateway(&[kept]);
    assert_eq!(world.tun(GATEWAY), [format!("tcp {client} > 10.0.0.6:80 RA")]);
    assert_eq!(world.tun(CLIENT), [format!("tcp {}:80 > {client} RA", resource(1).v4)]);
    world.send(CLIENT, tcp(client, service, "A", (1011, 9011), b"more"));
    assert_eq!(world.tun(GATEWAY).len(), 1);
}

#[test]
fn a_renewed_grant_keeps_its_flows() {
    let mut world = World::granted();
    let (client, service) = ends();
    world.connect((client, service));
    let (mut carried, mut held) = (world.carry(CLIENT, 0, TARGET_V4), world.hold(0));
    carried.grant = GrantId::from_bytes([77; 16]);
    held.grant = carried.grant;
    world.gateway(&[carried]);
    world.client(&[held]);
    world.send(CLIENT, tcp(client, service, "A", (1011, 9011), b"more"));
    assert_eq!(world.tun(GATEWAY), [format!("tcp {client} > {} A", target(80))]);
    assert!(world.tun(CLIENT).is_empty(), "no reset");
    world.assert_drops(GATEWAY, &[]);
}

#[test]
fn a_renewed_grant_with_fewer_ports_ends_the_flows_of_the_others() {
    let mut world = World::granted();
    let (client, service) = ends();
    world.connect((client, service));
    world.send(CLIENT, udp(client, to(service.ip(), 53), b"?"));
    world.tun(GATEWAY);
    let mut carried = world.carry(CLIENT, 0, TARGET_V4);
    carried.filter.tcp = PortSet::from_ranges(vec![PortRange::new(443, 443).unwrap()]);
    world.gateway(&[carried]);
    assert_eq!(world.tun(GATEWAY), [format!("tcp {client} > {} RA", target(80))]);
    assert_eq!(world.tun(CLIENT), [format!("tcp {service} > {client} RA")]);
    world.send(GATEWAY, udp(target(53), client, b"!"));
    assert_eq!(world.tun(CLIENT).len(), 1, "UDP goes on");
}

#[test]
fn a_name_that_resolves_anew_moves_new_flows_only() {
    let mut world = World::granted();
    let (client, service) = ends();
    world.connect((client, service));
    let carried = world.carry(CLIENT, 0, "10.0.0.6");
    world.gateway(&[carried]);
    world.send(CLIENT, tcp(client, service, "A", (1011, 9011), b"more"));
    world.send(CLIENT, syn(to(client.ip(), 4001), service));
    let own = client.ip();
    let seen = [format!("tcp {client} > {TARGET_V4}:80 A"), format!("tcp {own}:4001 > 10.0.0.6:80 S")];
    assert_eq!(world.tun(GATEWAY), seen);
}

#[test]
fn another_grant_to_another_target_resets() {
    let mut world = World::granted();
    let (client, service) = ends();
    world.connect((client, service));
    let mut carried = world.carry(CLIENT, 0, TARGET_V6);
    carried.grant = GrantId::from_bytes([77; 16]);
    world.gateway(&[carried]);
    assert_eq!(world.tun(GATEWAY), [format!("tcp {client} > {} RA", target(80))]);
    assert_eq!(world.tun(CLIENT), [format!("tcp {service} > {client} RA")]);
}

#[test]
fn a_grant_through_another_gateway_resets() {
    let mut world = World::granted();
    let (client, service) = ends();
    world.connect((client, service));
    let mut held = world.hold(0);
    held.peer = world.nodes[super::world::OTHER].key;
    world.client(&[held]);
    assert_eq!(world.tun(CLIENT), [format!("tcp {service} > {client} RA")]);
}

#[test]
fn what_waits_for_a_session_does_not_outlive_its_grant() {
    let mut world = World::new();
    let held = [world.hold(0), world.hold(1)];
    world.client(&held);
    for number in [0, 1] {
        world.send(CLIENT, udp(to(device(CLIENT).v4, 4000), to(resource(number).v4, 53), b"?"));
    }
    world.client(&held[1..]);
    world.assert_drops(CLIENT, &[(DropReason::NoGrant, 1)]);
    let carried = [world.carry(CLIENT, 0, TARGET_V4), world.carry(CLIENT, 1, "10.0.0.6")];
    world.gateway(&carried);
    world.pass(std::time::Duration::from_secs(6));
    assert_eq!(world.tun(GATEWAY), [format!("udp {}:4000 > 10.0.0.6:53", device(CLIENT).v4)]);
}

#[test]
fn another_preshared_key_is_another_session() {
    let mut world = World::granted();
    let (client, service) = ends();
    world.connect((client, service));
    let held = world.hold(0);
    let mut table = world.client_table(CLIENT, &[held]);
    let gateway = world.nodes[GATEWAY].key;
    let mut other = crate::Peer::clone(&table.peers[&gateway]);
    other.preshared_key = postern_model::PresharedKey::new([1; 32]);
    table.peers.insert(gateway, other.into());
    world.publish(CLIENT, table);
    world.send(CLIENT, tcp(client, service, "A", (1011, 9011), b"more"));
    assert!(world.tun(GATEWAY).is_empty(), "nothing is sealed under the old key, and no session comes of the new one");
}
