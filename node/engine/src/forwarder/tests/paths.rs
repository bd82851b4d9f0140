//! Paths that carry less than the tunnel's MTU: who is told, and what goes on all the same.

use std::{net::IpAddr, time::Duration};

use postern_packet::checksum::checksum;
use postern_wireguard::{HEADER, TAG};

use super::{
    packets::{mss, syn_with_mss, udp},
    world::{CLIENT, GATEWAY, TARGET_V4, TARGET_V6, World, device, resource, to},
};
use crate::{DropReason, forwarder::path_mtu::EXACTNESS};

/// What the path carries in one piece, sealed.
const WIDTH: usize = 1332;
/// That is, inside.
const INSIDE: u16 = 1300;

/// Both know the path, over which data went both ways.
fn world(target: &str) -> World {
    let mut world = World::new();
    let (carried, held) = (world.carry(CLIENT, 0, target), world.hold(0));
    world.gateway(&[carried]);
    world.client(&[held]);
    for node in &mut world.nodes {
        node.out.width = Some(WIDTH);
    }
    let target: IpAddr = target.parse().unwrap();
    for (own, service) in [
        (IpAddr::from(device(CLIENT).v4), IpAddr::from(resource(0).v4)),
        (device(CLIENT).v6.into(), resource(0).v6.into()),
    ] {
        world.send(CLIENT, udp(to(own, 4000), to(service, 53), b"question"));
        let asked = world.tun_packets(GATEWAY).pop().unwrap();
        let opener = postern_packet::parse(&asked).unwrap();
        world.send(GATEWAY, udp(to(target, 53), to(opener.src, opener.src_port), b"answer"));
    }
    world.pass(Duration::from_secs(20));
    world.tun(CLIENT);
    world
}

fn mtu(world: &World, at: usize) -> u16 {
    world.nodes[at].forwarder.peers()[0].mtu
}

/// IPv4 that routers are not to fragment.
fn whole(mut packet: Vec<u8>) -> Vec<u8> {
    packet[6] |= 0x40;
    packet[10..12].fill(0);
    let sum = checksum(&packet[..20]).to_be_bytes();
    packet[10..12].copy_from_slice(&sum);
    packet
}

/// A datagram of so many bytes in all.
fn datagram(from: IpAddr, service: IpAddr, (from_port, port): (u16, u16), len: u16) -> Vec<u8> {
    let header = if from.is_ipv6() { 48 } else { 28 };
    let packet = udp(to(from, from_port), to(service, port), &vec![0; usize::from(len) - header]);
    if from.is_ipv6() { packet } else { whole(packet) }
}

/// The MTU that an ICMP error tells.
fn told(packet: &[u8]) -> u16 {
    let v6 = packet[0] >> 4 == 6;
    let at = if v6 { 40 } else { 20 };
    assert_eq!(&packet[at..at + 2], if v6 { &[2, 0] } else { &[3, 4] });
    u16::from_be_bytes([packet[at + 6], packet[at + 7]])
}

#[test]
fn both_ends_find_the_width_of_the_path_and_nobody_else_sees_how() {
    let mut world = world(TARGET_V4);
    for at in [CLIENT, GATEWAY] {
        assert!((INSIDE - EXACTNESS + 1..=INSIDE).contains(&mtu(&world, at)));
        world.assert_drops(at, &[]);
        assert!(world.tun(at).is_empty());
    }
    assert_eq!(HEADER + TAG, WIDTH - usize::from(INSIDE));
    // With its padding, what fits inside fits outside.
    world.wire.clear();
    let most = mtu(&world, CLIENT);
    for len in most - 20..=most {
        world.send(CLIENT, datagram(device(CLIENT).v4.into(), resource(0).v4.into(), (4000, 53), len));
    }
    assert_eq!(world.tun(GATEWAY).len(), 21);
    assert!(world.wire.iter().all(|(_, _, datagram)| datagram.len() <= WIDTH));
    world.pass(Duration::from_secs(5));
    world.wire.clear();
    world.pass(Duration::from_secs(1000));
    assert!(world.wire.iter().all(|(_, _, datagram)| datagram.len() < 200), "handshakes and keepalives at most");
}

#[test]
fn what_is_too_long_for_the_path_is_told_so_on_both_sides() {
    for target in [TARGET_V4, TARGET_V6] {
        let mut world = world(target);
        let there: IpAddr = target.parse().unwrap();
        let outside: IpAddr = if there.is_ipv6() { device(CLIENT).v6.into() } else { device(CLIENT).v4.into() };
        let (inner, back) = (mtu(&world, CLIENT), mtu(&world, GATEWAY));
        for (own, service) in [
            (IpAddr::from(device(CLIENT).v4), IpAddr::from(resource(0).v4)),
            (device(CLIENT).v6.into(), resource(0).v6.into()),
        ] {
            world.send(CLIENT, datagram(own, service, (4000, 53), inner));
            assert!(world.tun(CLIENT).is_empty());
            let arrived = world.tun_packets(GATEWAY).pop().expect("it fits");
            world.send(CLIENT, datagram(own, service, (4000, 53), inner + 1));
            assert_eq!(told(&world.tun_packets(CLIENT).pop().unwrap()), inner);
            assert!(world.tun(GATEWAY).is_empty(), "it went nowhere");

            // And the answers, which are translated when the families differ.
            let opener = postern_packet::parse(&arrived).unwrap().src_port;
            let most = match (there.is_ipv6(), own.is_ipv6()) {
                (false, true) => back - 20,
                (true, false) => back + 20,
                _ => back,
            };
            world.send(GATEWAY, datagram(there, outside, (53, opener), most));
            assert_eq!(world.tun(CLIENT).len(), 1, "it fits");
            world.send(GATEWAY, datagram(there, outside, (53, opener), most + 1));
            assert_eq!(told(&world.tun_packets(GATEWAY).pop().unwrap()), most);
            assert!(world.tun(CLIENT).is_empty(), "it went nowhere");
        }
        world.assert_drops(CLIENT, &[(DropReason::TooBig, 2)]);
        world.assert_drops(GATEWAY, &[(DropReason::TooBig, 2)]);
    }
}

#[test]
fn what_may_be_fragmented_goes_on_up_to_the_tunnels_mtu() {
    let mut world = world(TARGET_V4);
    let (client, service) = (to(device(CLIENT).v4, 4000), to(resource(0).v4, 53));
    world.send(CLIENT, udp(client, service, &[0; 1392]));
    assert_eq!(world.tun(GATEWAY).len(), 1);
    world.send(CLIENT, udp(client, service, &[0; 1393]));
    assert!(world.tun(GATEWAY).is_empty());
    assert_eq!(told(&world.tun_packets(CLIENT).pop().unwrap()), mtu(&world, CLIENT));
}

#[test]
fn connections_are_told_to_send_what_fits_in_both_directions() {
    let mut world = world(TARGET_V4);
    let (client, service) = (to(device(CLIENT).v4, 4000), to(resource(0).v4, 80));
    let target = to(TARGET_V4.parse::<IpAddr>().unwrap(), 80);
    world.send(CLIENT, syn_with_mss(client, service, 1380));
    let least = mtu(&world, CLIENT).min(mtu(&world, GATEWAY)) - 40;
    assert_eq!(mss(&world.tun_packets(GATEWAY).pop().unwrap()), least);
    let mut answer = syn_with_mss(target, client, 1380);
    // SYN and ACK, acknowledging the SYN.
    answer[33] = 0x12;
    answer[28..32].copy_from_slice(&1001_u32.to_be_bytes());
    world.send(GATEWAY, answer);
    assert_eq!(mss(&world.tun_packets(CLIENT).pop().unwrap()), least);
}

#[test]
fn a_wide_path_takes_what_the_tunnel_does() {
    let mut world = World::granted();
    world.send(CLIENT, udp(to(device(CLIENT).v4, 4000), to(resource(0).v4, 53), b"?"));
    assert_eq!(mtu(&world, CLIENT), 1420, "until more is known");
    world.pass(Duration::from_secs(5));
    assert_eq!(mtu(&world, CLIENT), 1420);
}
