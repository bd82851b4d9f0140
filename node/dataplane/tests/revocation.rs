//! Once a table is said to be in force, nothing moves any more by the one before: not on the lane that took it, and not on
//! those that were in the middle of something. Needs root.
//!
//! What counts is what the kernel of the gateway's namespace saw the lanes do, while datagrams flood through them both ways:
//!
//! - to the target: its socket is full and nobody reads from it, so that each datagram which a lane writes to TUN is a
//!   loss that the kernel counts before the write returns; nothing else there is UDP over IPv6 and received
//! - to the client: each batch that a lane sends is counted before the system call returns; nothing else there is UDP over
//!   IPv4 and sent
#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

#[allow(dead_code, reason = "other tests use all of it")]
mod scene;

use std::{
    fs::File,
    net::{IpAddr, Ipv6Addr, SocketAddr, UdpSocket},
    os::unix::fs::FileExt as _,
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use postern_dataplane::Offloads;
use postern_engine::DropReason;

use scene::{Over, PORT, Pair, eventually, netns::Netns, resource};

const LANES: usize = 3;
/// How often a grant ends for each pair. Which lanes have the work depends on the ports, which each pair has anew.
const ROUNDS: u64 = 18;
/// Flows of each round.
const FLOWS: usize = 4;
/// How many datagrams pass before a grant ends, and are refused after it.
const UNDER_WAY: u64 = 500;
/// And how many batches of datagrams pass to the client.
const BATCHES: u64 = 50;

/// What the lanes of a namespace have made so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Made {
    to_target: u64,
    to_client: u64,
}

/// Where the kernel tells it.
struct Kernel {
    v4: File,
    v6: File,
}

impl Kernel {
    fn of(netns: &Netns) -> Self {
        let open = |name| File::open(format!("/proc/thread-self/net/{name}")).unwrap();
        netns.enter(|| Self { v4: open("snmp"), v6: open("snmp6") })
    }

    fn made(&self) -> Made {
        let (v4, v6) = (text(&self.v4), text(&self.v6));
        // A line of names, and one of values.
        let [names, values] =
            <[_; 2]>::try_from(v4.lines().filter(|line| line.starts_with("Udp:")).collect::<Vec<_>>())
                .expect("two lines about UDP");
        let mut both = names.split_whitespace().zip(values.split_whitespace());
        let (_, sent) = both.find(|(name, _)| *name == "OutDatagrams").unwrap();
        let lost = v6.lines().find_map(|line| line.strip_prefix("Udp6RcvbufErrors")).unwrap();
        Made { to_target: lost.trim().parse().unwrap(), to_client: sent.parse().unwrap() }
    }
}

fn text(file: &File) -> String {
    let mut bytes = vec![0; 1 << 16];
    let len = file.read_at(&mut bytes, 0).unwrap();
    bytes.truncate(len);
    String::from_utf8(bytes).unwrap()
}

/// How many packets the gateway has refused, from its target and from its client.
fn refused(pair: &Pair) -> (u64, u64) {
    let Some(status) = pair.gateway.lane.status() else { return (0, 0) };
    let dropped = |reason| status.counters.dropped(reason);
    (dropped(DropReason::NoFlow), dropped(DropReason::NoSession))
}

fn flood(from: &UdpSocket, to: SocketAddr, is_over: &AtomicBool) {
    while !is_over.load(Ordering::Relaxed) {
        // What does not fit is lost, and what is refused may be told.
        let _ = from.send_to(&[7; 1000], to);
    }
}

/// Grants, floods, ends the grant in the midst of it, and looks.
fn grant_and_revoke(pair: &Pair, target: &UdpSocket, kernel: &Kernel, round: u64) {
    let (without, with, without_again) = (3 * round + 1, 3 * round + 2, 3 * round + 3);
    // Without a peer first, so that the tunnel begins anew at both ends.
    pair.client.apply(pair.catalogue(without));
    pair.gateway.apply(pair.gateway_table(with));
    pair.client.apply(pair.client_table(with));
    // A handshake that a flood pushes out is tried again only after seconds.
    pair.client.ping_once(resource().v6.into());
    let bind = || UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0)).unwrap();
    let clients = pair.client.netns.enter(|| [(); FLOWS].map(|()| bind()));
    let ports = clients.each_ref().map(|client| client.local_addr().unwrap().port());
    let flows = ports.map(|port| SocketAddr::new(pair.client.own.v6.into(), port));
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        let _over = Over(&is_over);
        // Many, so that lanes are interrupted in the middle of something by one of them.
        for (client, flow) in clients.iter().zip(&flows) {
            scope.spawn(|| flood(client, (IpAddr::from(resource().v6), PORT).into(), &is_over));
            scope.spawn(|| flood(target, *flow, &is_over));
        }
        let before = kernel.made();
        eventually("datagrams pass both ways", || {
            let made = kernel.made();
            made.to_target >= before.to_target + UNDER_WAY && made.to_client >= before.to_client + BATCHES
        });
        pair.gateway.apply(pair.nothing_carried(without_again));
        let at_the_end = kernel.made();
        let before = refused(pair);
        eventually("more has come both ways", || {
            let now = refused(pair);
            now.0 >= before.0 + UNDER_WAY && now.1 >= before.1 + UNDER_WAY
        });
        assert_eq!(kernel.made(), at_the_end, "round {round}: something passed after the grant had ended");
    });
}

#[test]
fn nothing_passes_on_any_lane_once_a_revocation_is_said_to_be_in_force() {
    let off = Offloads { tcp: false, udp: false, send: false, receive: false };
    for offloads in [Offloads::ALL, off, Offloads::ALL] {
        let mut pair = Pair::with(LANES, offloads);
        pair.target = "fd00:10::5".parse().unwrap();
        let target = pair.gateway.netns.enter(|| UdpSocket::bind((pair.target, PORT)).unwrap());
        let kernel = Kernel::of(&pair.gateway.netns);
        for round in 0..ROUNDS {
            grant_and_revoke(&pair, &target, &kernel, round);
        }
    }
}
