//! Back-pressure: what can't be sent is dropped and counted, and nothing piles up. Needs root.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

#[allow(dead_code, reason = "other tests use all of it")]
mod scene;

use std::net::{IpAddr, UdpSocket};

use postern_engine::DropReason;

use scene::{PORT, Pair, resource};

/// How much this process may grow while hundreds of megabytes are dropped.
const GROWTH: u64 = 8 << 20;

/// Bytes of memory of this process.
fn resident() -> u64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.split_whitespace().next().unwrap().parse::<u64>().unwrap() << 10
}

#[test]
fn a_full_socket_drops_and_counts_and_nothing_grows() {
    let pair = Pair::granted();
    let to = resource().v4.into();
    pair.client.ping(to).unwrap();
    let dropped = || pair.client.lane.status().unwrap().counters.dropped(DropReason::SocketFull);
    assert_eq!(dropped(), 0);
    // The gateway's link address is forgotten, and asked for in vain: until it is known, the kernel keeps what is sent there,
    // which takes up the socket's room. So long, and so much, that nothing of it gives up before the socket does.
    let set = |name: &str, value: &str| {
        let name = format!("net.ipv4.neigh.eth0.{name}={value}");
        assert!(pair.client.netns.run(&["sysctl", "-qw", &name]).status.success());
    };
    set("unres_qlen_bytes", "1000000000");
    set("mcast_solicit", "10000");
    pair.gateway.netns.ip(&["link", "set", "eth0", "arp", "off"]);
    pair.client.netns.ip(&["neigh", "flush", "dev", "eth0"]);

    let app = pair.client.netns.enter(|| UdpSocket::bind("0.0.0.0:0").unwrap());
    app.connect((IpAddr::from(resource().v4), PORT)).unwrap();
    let mut before = None;
    let mut sent = 0;
    // At first the socket fills; from then on all of it is dropped.
    while before.is_none_or(|(_, count)| dropped() < count + 50_000) {
        for _ in 0..1000 {
            // TUN's queue may be full too.
            sent += u64::from(app.send(&[7; 1300]).is_ok());
        }
        if before.is_none() && dropped() > 0 {
            before = Some((resident(), dropped()));
        }
        assert!(sent < 2_000_000, "{sent} datagrams, and {} are dropped", dropped());
    }
    let (bytes, _) = before.unwrap();
    let growth = resident().saturating_sub(bytes);
    println!("{sent} sent, {} dropped, {growth} bytes more", dropped());
    assert!(growth < GROWTH, "{growth} bytes more");
    let counters = pair.client.lane.status().unwrap().counters;
    for (reason, count) in counters.drops() {
        // The system itself sends something to multicast addresses now and then.
        let known = [DropReason::SocketFull, DropReason::TunFull, DropReason::UnknownDestination];
        assert!(known.contains(&reason), "{reason:?} {count}");
    }

    // And once it is known, all is well again.
    pair.gateway.netns.ip(&["link", "set", "eth0", "arp", "on"]);
    for node in [&pair.client, &pair.gateway] {
        node.netns.ip(&["neigh", "flush", "dev", "eth0", "nud", "all"]);
    }
    pair.client.ping(to).unwrap();
}
