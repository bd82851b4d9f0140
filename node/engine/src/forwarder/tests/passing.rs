//! What must pass, and how it looks on the other side.

use std::{net::IpAddr, time::Duration};

use super::{
    packets::{echo, mss, seen, syn, syn_with_mss, tcp, udp},
    world::{CLIENT, GATEWAY, TARGET_V4, TARGET_V6, World, device, resource, to},
};
use crate::DropReason;

#[test]
fn a_connection_passes_both_ways_between_the_device_and_the_target() {
    let mut world = World::granted();
    let (client, service) = (to(device(CLIENT).v4, 4000), to(resource(0).v4, 80));
    let target = to(TARGET_V4.parse::<IpAddr>().unwrap(), 80);
    world.send(CLIENT, syn(client, service));
    assert_eq!(world.tun(GATEWAY), [format!("tcp {client} > {target} S")]);
    world.send(GATEWAY, tcp(target, client, "SA", (1, 1001), b""));
    assert_eq!(world.tun(CLIENT), [format!("tcp {service} > {client} SA")]);
    world.send(CLIENT, tcp(client, service, "A", (1001, 2), b"GET /"));
    assert_eq!(world.tun(GATEWAY), [format!("tcp {client} > {target} A")]);
    world.assert_drops(CLIENT, &[]);
    world.assert_drops(GATEWAY, &[]);
    let counters = world.nodes[GATEWAY].forwarder.counters();
    assert_eq!((counters.in_packets, counters.out_packets), (2, 1));
    assert_eq!(world.nodes[GATEWAY].forwarder.peers()[0].flows, 1);
}

#[test]
fn datagrams_and_echoes_pass_both_ways() {
    let mut world = World::granted();
    let (own, service) = (IpAddr::from(device(CLIENT).v4), IpAddr::from(resource(0).v4));
    let target: IpAddr = TARGET_V4.parse().unwrap();
    world.send(CLIENT, udp(to(own, 4000), to(service, 53), b"?"));
    world.send(CLIENT, echo(own, service, 7, false));
    assert_eq!(world.tun(GATEWAY), [format!("udp {own}:4000 > {target}:53"), format!("echo {own} > {target}")]);
    world.send(GATEWAY, udp(to(target, 53), to(own, 4000), b"!"));
    world.send(GATEWAY, echo(target, own, 7, true));
    assert_eq!(world.tun(CLIENT), [format!("udp {service}:53 > {own}:4000"), format!("reply {service} > {own}")]);
}

#[test]
fn any_family_inside_reaches_any_family_outside() {
    for target in [TARGET_V4, TARGET_V6] {
        let target: IpAddr = target.parse().unwrap();
        let outside: IpAddr = if target.is_ipv4() { device(CLIENT).v4.into() } else { device(CLIENT).v6.into() };
        let mut world = World::new();
        let (carried, held) = (world.carry(CLIENT, 0, &target.to_string()), world.hold(0));
        world.gateway(&[carried]);
        world.client(&[held]);
        let families: [(IpAddr, IpAddr); 2] =
            [(device(CLIENT).v4.into(), resource(0).v4.into()), (device(CLIENT).v6.into(), resource(0).v6.into())];
        for (nth, (own, service)) in (0_u16..).zip(families) {
            let port = 4000 + nth;
            world.send(CLIENT, udp(to(own, port), to(service, 53), b"question"));
            assert_eq!(world.tun(GATEWAY), [format!("udp {} > {}", to(outside, port), to(target, 53))]);
            world.send(GATEWAY, udp(to(target, 53), to(outside, port), b"answer"));
            assert_eq!(world.tun(CLIENT), [format!("udp {} > {}", to(service, 53), to(own, port))]);
            world.send(CLIENT, echo(own, service, 70 + nth, false));
            assert_eq!(world.tun(GATEWAY), [format!("echo {outside} > {target}")]);
            world.send(GATEWAY, echo(target, outside, 70 + nth, true));
            assert_eq!(world.tun(CLIENT), [format!("reply {service} > {own}")]);
            world.connect((to(own, port), to(service, 80)));
        }
        world.assert_drops(CLIENT, &[]);
        world.assert_drops(GATEWAY, &[]);
    }
}

/// Invariant: two resources on one target and port stay apart, also when the client uses one port for both.
#[test]
fn two_resources_on_one_target_stay_apart() {
    let mut world = World::new();
    let carried = [world.carry(CLIENT, 0, TARGET_V4), world.carry(CLIENT, 1, TARGET_V4)];
    let held = [world.hold(0), world.hold(1)];
    world.gateway(&carried);
    world.client(&held);
    let client = to(device(CLIENT).v4, 4000);
    let services = [to(resource(0).v4, 80), to(resource(1).v4, 80)];
    let openers = services.map(|service| world.connect((client, service)).0);
    assert_eq!(openers[0], client, "the client's own port, as long as it is free");
    assert_ne!(openers[1], client);
    let target = to(TARGET_V4.parse::<IpAddr>().unwrap(), 80);
    for (opener, service) in openers.into_iter().zip(services) {
        world.send(GATEWAY, tcp(target, opener, "A", (9011, 1011), b"more"));
        assert_eq!(world.tun(CLIENT), [format!("tcp {service} > {client} A")]);
    }
}

#[test]
fn packets_wait_for_the_session_and_go_out_in_order() {
    let mut world = World::new();
    let held = world.hold(0);
    let away = world.nodes[GATEWAY].outside;
    // The gateway is not there yet.
    world.nodes[GATEWAY].outside = ([198, 51, 100, 1], 1).into();
    let mut table = world.client_table(CLIENT, &[held]);
    let key = world.nodes[GATEWAY].key;
    table.peers.insert(key, super::world::peer(key, vec![away], true));
    world.publish(CLIENT, table);
    let ports = [4000, 4001, 4002];
    for port in ports {
        world.send(CLIENT, udp(to(device(CLIENT).v4, port), to(resource(0).v4, 53), b"?"));
    }
    let carried = world.carry(CLIENT, 0, TARGET_V4);
    world.gateway(&[carried]);
    world.nodes[GATEWAY].outside = away;
    world.pass(Duration::from_secs(6));
    let own = device(CLIENT).v4;
    assert_eq!(world.tun(GATEWAY), ports.map(|port| format!("udp {own}:{port} > {TARGET_V4}:53")));
    world.assert_drops(CLIENT, &[]);
}

#[test]
fn a_client_that_moves_is_answered_where_it_is() {
    let mut world = World::granted();
    let target = to(TARGET_V4.parse::<IpAddr>().unwrap(), 53);
    let (client, service) = (to(device(CLIENT).v4, 4000), to(resource(0).v4, 53));
    world.send(CLIENT, udp(client, service, b"?"));
    world.nodes[CLIENT].outside = ([198, 51, 100, 7], 4242).into();
    world.send(CLIENT, udp(client, service, b"?"));
    world.tun(GATEWAY);
    world.send(GATEWAY, udp(target, client, b"!"));
    assert_eq!(world.tun(CLIENT), [format!("udp {service} > {client}")]);
    assert_eq!(world.nodes[GATEWAY].forwarder.peers()[0].endpoint, Some(world.nodes[CLIENT].outside.into()));
}

/// Lengths of datagrams: a handshake's first message, and a probe of a path.
const INITIATION: usize = 148;
const PROBE: usize = 64;

#[test]
fn the_candidate_that_answers_is_used_from_then_on() {
    let mut world = World::new();
    let (carried, held) = (world.carry(CLIENT, 0, TARGET_V4), world.hold(0));
    world.gateway(&[carried]);
    let key = world.nodes[GATEWAY].key;
    let nowhere = ([203, 0, 113, 1], 1).into();
    let mut table = world.client_table(CLIENT, &[held]);
    table.peers.insert(key, super::world::peer(key, vec![nowhere, world.nodes[GATEWAY].outside], true));
    world.publish(CLIENT, table);
    let sent_nowhere = |world: &World| {
        let there = world.wire.iter().filter(|(_, to, _)| *to == nowhere);
        there.map(|(.., datagram)| datagram.len()).collect::<Vec<_>>()
    };
    assert_eq!(sent_nowhere(&world), [INITIATION, PROBE], "asked once");
    world.send(CLIENT, syn(to(device(CLIENT).v4, 4000), to(resource(0).v4, 80)));
    assert_eq!(world.tun(GATEWAY).len(), 1);
    assert_eq!(sent_nowhere(&world), [INITIATION, PROBE], "and no data ever");
    assert_eq!(world.nodes[CLIENT].forwarder.peers()[0].endpoint, Some(world.nodes[GATEWAY].outside.into()));
}

#[test]
fn errors_about_a_flow_come_from_the_resource() {
    let mut world = World::granted();
    let (client, service) = (to(device(CLIENT).v4, 4000), to(resource(0).v4, 53));
    world.send(CLIENT, udp(client, service, b"?"));
    let question = world.tun_packets(GATEWAY).pop().unwrap();
    let mut error = Vec::new();
    assert!(postern_packet::answer::prohibited(&question, &postern_packet::parse(&question).unwrap(), &mut error));
    world.send(GATEWAY, error);
    let errors = world.tun_packets(CLIENT);
    assert_eq!(seen(&errors[0]), format!("icmp-error {} > {}", service.ip(), client.ip()));
    let quoted = postern_packet::parse(&errors[0]).unwrap().quoted(&errors[0]).unwrap().packet;
    assert_eq!((to(quoted.src, quoted.src_port), to(quoted.dst, quoted.dst_port)), (client, service));
}

#[test]
fn silent_flows_are_forgotten_and_their_late_replies_refused() {
    let mut world = World::granted();
    let target = to(TARGET_V4.parse::<IpAddr>().unwrap(), 53);
    let (client, service) = (to(device(CLIENT).v4, 4000), to(resource(0).v4, 53));
    world.send(CLIENT, udp(client, service, b"?"));
    world.pass(Duration::from_secs(115));
    world.send(GATEWAY, udp(target, client, b"!"));
    assert_eq!(world.tun(CLIENT).len(), 1, "within two minutes");
    world.pass(Duration::from_secs(130));
    world.tun(GATEWAY);
    world.send(GATEWAY, udp(target, client, b"!"));
    assert_eq!(world.tun(CLIENT).len(), 0);
    assert_eq!(world.dropped(GATEWAY, DropReason::NoFlow), 1);
}

/// Invariant: neither end is told that it may send what does not fit, on either side of a translation.
#[test]
fn segments_fit_into_the_tunnel_and_into_the_gateways_device() {
    for (target, most_v4, most_v6) in [(TARGET_V4, 1420 - 40, 1420 - 60), (TARGET_V6, 1420 - 60, 1420 - 60)] {
        let mut world = World::new();
        let (carried, held) = (world.carry(CLIENT, 0, target), world.hold(0));
        world.gateway(&[carried]);
        world.client(&[held]);
        let families: [(IpAddr, IpAddr, u16); 2] = [
            (device(CLIENT).v4.into(), resource(0).v4.into(), most_v4),
            (device(CLIENT).v6.into(), resource(0).v6.into(), most_v6),
        ];
        for (own, service, most) in families {
            world.send(CLIENT, syn_with_mss(to(own, 4000), to(service, 80), 9000));
            let arrived = world.tun_packets(GATEWAY).pop().expect("the SYN passes");
            assert_eq!(mss(&arrived), most, "from {own} to {target}");
            seen(&arrived);
        }
    }
}
