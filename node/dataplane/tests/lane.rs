//! Two lanes in network namespaces of their own, with real TUN devices, sockets and connections. Needs root.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod scene;

use std::{
    io::{self, ErrorKind},
    net::{IpAddr, SocketAddr, UdpSocket},
    num::NonZeroUsize,
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use postern_dataplane::{LaneEvent, Offloads, Sockets, Tun};
use postern_engine::{DropReason, Generation};

use scene::{
    GATEWAY_TOO, GATEWAY_V6, Over, PATIENCE, PORT, Pair, eventually,
    netns::Netns,
    resource,
    routed::{Excess, Routed},
    streams::{assert_reset, connect, connected, listen, transfer},
};

#[test]
fn pings_and_connections_pass_under_a_grant_and_nothing_after_it() {
    let pair = Pair::granted();
    let to = resource().v4.into();
    pair.client.ping(to).unwrap();
    let (client, server) = connected(&pair, to);
    transfer(&client, &server);
    transfer(&server, &client);
    assert_eq!(server.peer_addr().unwrap().ip(), IpAddr::from(pair.client.own.v4), "the target sees the device");
    let status = pair.gateway.lane.status().unwrap();
    assert_eq!(status.generation, Some(Generation(1)));
    assert!(status.peers[0].stats.last_handshake.is_some() && status.peers[0].flows > 0);
    assert!(status.counters.in_packets > 0 && status.counters.out_packets > 0);

    pair.gateway.apply(pair.nothing_carried(2));
    pair.client.apply(pair.catalogue(2));
    assert_reset(&client);
    assert_reset(&server);
    // The next packet stays on the client, which would ask for it.
    pair.client.ping_once(to);
    pair.client.miss();
    assert!(pair.client.lane.status().unwrap().peers.is_empty());
}

#[test]
fn a_gateway_that_alone_knows_of_the_end_resets_both_ends() {
    let pair = Pair::granted();
    let (client, server) = connected(&pair, resource().v4.into());
    transfer(&client, &server);
    pair.gateway.apply(pair.nothing_carried(2));
    assert_reset(&server);
    assert_reset(&client);
}

#[test]
fn a_client_that_alone_knows_of_the_end_resets_its_own() {
    let pair = Pair::granted();
    let (client, server) = connected(&pair, resource().v4.into());
    transfer(&server, &client);
    pair.client.apply(pair.catalogue(2));
    assert_reset(&client);
    pair.client.ping_once(resource().v4.into());
    pair.client.miss();
}

#[test]
fn other_ports_are_refused_at_once() {
    let pair = Pair::granted();
    let error = connect(&pair, resource().v4.into(), PORT + 1).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
    let status = pair.client.lane.status().unwrap();
    assert_eq!(status.counters.dropped(DropReason::PortClosed), 1);
    assert_eq!(pair.gateway.lane.status().unwrap().counters.in_packets, 0, "it never left the client");
}

#[test]
fn everything_works_over_ipv6_inside_and_outside_and_across() {
    let mut pair = Pair::new();
    pair.candidate = GATEWAY_V6.parse().unwrap();
    pair.target = "fd00:10::5".parse().unwrap();
    pair.grant();
    for to in [IpAddr::from(resource().v6), resource().v4.into()] {
        pair.client.ping(to).unwrap();
        let (client, server) = connected(&pair, to);
        transfer(&client, &server);
        transfer(&server, &client);
        assert_eq!(server.peer_addr().unwrap().ip(), IpAddr::from(pair.client.own.v6));
    }
    assert!(pair.gateway.endpoint().unwrap().is_ipv6());
}

/// Datagrams of some lengths both ways, each of which arrives whole.
fn exchange_datagrams(pair: &Pair, to: IpAddr) {
    let server = pair.gateway.netns.enter(|| UdpSocket::bind((pair.target, PORT)).unwrap());
    let unspecified: IpAddr = if to.is_ipv6() { [0; 16].into() } else { [0; 4].into() };
    let client = pair.client.netns.enter(|| UdpSocket::bind((unspecified, 0)).unwrap());
    client.connect((to, PORT)).unwrap();
    for socket in [&client, &server] {
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
    }
    let mut buffer = [0; 2000];
    for (nth, len) in (0_u8..).zip([1000, 1000, 1000, 999, 1001, 1, 1300, 1300]) {
        client.send(&vec![nth; len]).unwrap();
        let (received, from) = server.recv_from(&mut buffer).unwrap();
        assert!(received == len && buffer[..len].iter().all(|byte| *byte == nth));
        server.send_to(&buffer[..len], from).unwrap();
        assert_eq!(client.recv(&mut buffer).unwrap(), len);
        assert!(buffer[..len].iter().all(|byte| *byte == nth));
    }
}

#[test]
fn everything_works_with_each_offload_off_and_over_several_lanes() {
    let all = Offloads::ALL;
    let off = Offloads { tcp: false, udp: false, send: false, receive: false };
    let one_off = [
        Offloads { tcp: false, ..all },
        Offloads { udp: false, ..all },
        Offloads { send: false, ..all },
        Offloads { receive: false, ..all },
    ];
    for (lanes, offloads) in one_off.map(|offloads| (1, offloads)).into_iter().chain([(1, off), (2, all), (3, off)]) {
        let mut pair = Pair::with(lanes, offloads);
        pair.target = "fd00:10::5".parse().unwrap();
        pair.grant();
        for to in [IpAddr::from(resource().v6), resource().v4.into()] {
            pair.client.ping(to).unwrap();
            exchange_datagrams(&pair, to);
            let (client, server) = connected(&pair, to);
            thread::scope(|scope| {
                scope.spawn(|| transfer(&client, &server));
                scope.spawn(|| transfer(&server, &client));
            });
            assert_eq!(server.peer_addr().unwrap().ip(), IpAddr::from(pair.client.own.v6));
        }
        let (client, server) = connected(&pair, resource().v4.into());
        pair.gateway.apply(pair.nothing_carried(2));
        assert_reset(&client);
        assert_reset(&server);
    }
}

#[test]
fn a_held_packet_goes_on_its_way_once_its_grant_is_published() {
    let pair = Pair::new();
    pair.client.apply(pair.catalogue(1));
    let listener = listen(&pair);
    thread::scope(|scope| {
        let connecting = scope.spawn(|| connect(&pair, resource().v4.into(), PORT));
        let miss = pair.client.miss();
        pair.gateway.apply(pair.gateway_table(2));
        // Without waiting in between: commands keep their order.
        pair.client.lane.publish(pair.client_table(2).into());
        pair.client.lane.replay(vec![miss.packet]);
        connecting.join().unwrap().unwrap();
    });
    listener.accept().unwrap();
}

#[test]
fn a_held_packet_that_is_refused_is_seen_as_refused() {
    let pair = Pair::new();
    pair.client.apply(pair.catalogue(1));
    thread::scope(|scope| {
        let connecting = scope.spawn(|| connect(&pair, resource().v4.into(), PORT));
        let miss = pair.client.miss();
        pair.client.lane.refuse(vec![miss.packet], DropReason::AccessDenied);
        assert_eq!(connecting.join().unwrap().unwrap_err().kind(), ErrorKind::ConnectionRefused);
    });
    let counters = pair.client.lane.status().unwrap().counters;
    assert_eq!(counters.dropped(DropReason::AccessDenied), 1);
}

#[test]
fn answers_come_from_the_address_that_was_written_to() {
    let mut pair = Pair::new();
    // Not the address that the gateway's kernel would choose.
    pair.candidate = GATEWAY_TOO.parse().unwrap();
    pair.grant();
    pair.client.ping(resource().v4.into()).unwrap();
    let (client, server) = connected(&pair, resource().v4.into());
    transfer(&server, &client);
    assert_eq!(pair.client.endpoint().unwrap().ip(), pair.candidate);
}

#[test]
fn a_narrow_path_does_not_change_the_address_that_answers_come_from() {
    let mut pair = Pair::new();
    pair.candidate = GATEWAY_TOO.parse().unwrap();
    // The kernel refuses batches whose datagrams it would have to fragment (EMSGSIZE): it is not about the address.
    pair.gateway.netns.ip(&["link", "set", "eth0", "mtu", "1300"]);
    pair.grant();
    let (client, server) = connected(&pair, resource().v4.into());
    transfer(&server, &client);
    transfer(&client, &server);
    assert_eq!(pair.client.endpoint().unwrap().ip(), pair.candidate);
}

#[test]
fn a_client_that_moves_keeps_its_connection() {
    let pair = Pair::granted();
    let (client, server) = connected(&pair, resource().v4.into());
    transfer(&client, &server);
    pair.client.netns.ip(&["addr", "del", "192.0.2.30/24", "dev", "eth0"]);
    pair.client.netns.address("eth0", &["192.0.2.31/24"]);
    transfer(&client, &server);
    transfer(&server, &client);
    let endpoint = pair.gateway.endpoint().unwrap();
    assert_eq!(endpoint.ip(), "192.0.2.31".parse::<IpAddr>().unwrap());
}

#[test]
fn a_narrow_path_fragments_datagrams_and_still_carries_them() {
    let pair = Pair::granted();
    for node in [&pair.client, &pair.gateway] {
        node.netns.ip(&["link", "set", "eth0", "mtu", "1300"]);
    }
    let (client, server) = connected(&pair, resource().v4.into());
    transfer(&client, &server);
    transfer(&server, &client);
}

#[test]
fn a_path_that_drops_what_is_too_long_and_says_nothing_carries_connections() {
    let scene = Routed::granted(false);
    scene.narrow(1400, Excess::Lost);
    let (client, server) = connected(&scene.pair, resource().v4.into());
    transfer(&server, &client);
    transfer(&client, &server);
    // Less the outer headers and WireGuard's.
    scene.wait_for_mtu(&(1337..=1340));
    let (client, server) = connected(&scene.pair, resource().v6.into());
    transfer(&client, &server);
    transfer(&server, &client);
}

#[test]
fn a_path_that_becomes_narrower_without_a_word_stops_a_connection_for_seconds_only() {
    let scene = Routed::granted(false);
    let (client, server) = connected(&scene.pair, resource().v4.into());
    transfer(&server, &client);
    transfer(&client, &server);
    scene.wait_for_mtu(&(1420..=1420));
    scene.narrow(1360, Excess::Lost);
    transfer(&server, &client);
    transfer(&client, &server);
    scene.wait_for_mtu(&(1297..=1300));
}

#[test]
fn an_ordinary_narrow_path_is_found_out_in_either_family() {
    for (is_v6, overhead) in [(false, 60), (true, 80)] {
        let scene = Routed::granted(is_v6);
        scene.narrow(1400, Excess::Told);
        let (client, server) = connected(&scene.pair, resource().v4.into());
        transfer(&server, &client);
        transfer(&client, &server);
        let most = 1400 - overhead;
        scene.wait_for_mtu(&(most - 3..=most));
    }
}

#[test]
fn a_path_that_is_narrower_than_ipv6_allows_inside_carries_fragments() {
    let scene = Routed::granted(false);
    scene.narrow(1300, Excess::Told);
    scene.wait_for_mtu(&(1280..=1280));
    for to in [IpAddr::from(resource().v6), resource().v4.into()] {
        let (client, server) = connected(&scene.pair, to);
        transfer(&server, &client);
        transfer(&client, &server);
    }
}

#[test]
fn what_is_too_long_for_the_path_is_told_to_whoever_sends_it() {
    let scene = Routed::granted(false);
    scene.narrow(1400, Excess::Lost);
    scene.wait_for_mtu(&(1337..=1340));
    let to = resource().v4.to_string();
    let ping = |payload: &str| {
        let words = ["ping", "-n", "-M", "do", "-c", "2", "-i", "0.2", "-W", "5", "-s", payload, &to];
        let output = scene.pair.client.netns.run(&words);
        let said = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8_lossy(&said).into_owned())
    };
    // With 28 bytes of headers.
    let (passed, said) = ping("1300");
    assert!(passed, "{said}");
    let (passed, said) = ping("1320");
    let (mtu, said) = (scene.pair.client.mtu().to_string(), said.to_lowercase());
    assert!(!passed && said.contains("message too long") && said.contains(&mtu), "{said}");
}

#[test]
fn a_table_is_in_force_while_datagrams_flood_in() {
    let pair = Pair::granted();
    let (client, server) = connected(&pair, resource().v4.into());
    let to: SocketAddr = (pair.candidate, pair.gateway.port).into();
    let flooder = pair.client.netns.enter(|| UdpSocket::bind("0.0.0.0:0").unwrap());
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        let _over = Over(&is_over);
        scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                let _ = flooder.send_to(&[4; 1000], to);
            }
        });
        eventually("the flood is under way", || {
            let status = pair.gateway.lane.status();
            status.is_some_and(|status| status.counters.dropped(DropReason::NotWireGuard) >= 1000)
        });
        pair.gateway.apply(pair.nothing_carried(2));
        assert_reset(&server);
    });
    assert_reset(&client);
}

#[test]
fn the_end_of_the_device_is_told() {
    let pair = Pair::new();
    pair.client.netns.ip(&["link", "delete", "postern0"]);
    let reason = pair.client.wait("the lane fails", |event| match event {
        LaneEvent::Failed(reason) => Some(reason),
        _ => None,
    });
    assert!(reason.contains("postern0"), "{reason}");
    assert_eq!(pair.client.lane.status(), None);
}

#[test]
fn stopping_takes_the_device_along_and_only_once() {
    let pair = Pair::new();
    assert!(pair.client.netns.run(&["ip", "link", "show", "postern0"]).status.success());
    pair.client.lane.stop();
    assert!(!pair.client.netns.run(&["ip", "link", "show", "postern0"]).status.success());
    pair.client.lane.stop();
    pair.client.lane.publish(pair.catalogue(1).into());
    assert_eq!(pair.client.lane.status(), None);
}

fn create(name: &str) -> io::Result<Tun> {
    Tun::create(name, 1300, NonZeroUsize::MIN, Offloads::ALL)
}

#[test]
fn a_device_is_down_with_its_mtu_and_its_name_is_its_own() {
    let netns = Netns::new("tun");
    let tun = netns.enter(|| create("postern%d").unwrap());
    assert_eq!((tun.name(), tun.mtu()), ("postern0", 1300));
    let shown = netns.run(&["ip", "-o", "link", "show", "postern0"]);
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    assert!(shown.contains("mtu 1300") && shown.contains("state DOWN"), "{shown}");
    let error = netns.enter(|| create("postern0").unwrap_err());
    assert_eq!(error.kind(), ErrorKind::ResourceBusy);
    assert!(error.to_string().contains("postern0"), "{error}");
    drop(tun);
    // A program that another test starts at this moment has all descriptors until it runs.
    let mut tries = (0..10_000).map(|_| netns.enter(|| create("postern0")));
    assert!(tries.any(|made| made.is_ok()), "the name is free again");
}

#[test]
fn without_ipv6_there_is_ipv4_alone() {
    let netns = Netns::new("v4");
    netns.run(&["sysctl", "-qw", "net.ipv6.conf.all.disable_ipv6=1"]);
    netns.enter(|| {
        let sockets = Sockets::bind(0, NonZeroUsize::MIN, Offloads::ALL).unwrap();
        assert_ne!(sockets.port(), 0);
    });
}
