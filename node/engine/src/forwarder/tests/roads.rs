//! A client and its gateway with several roads between them, each with its delay, its losses and its translators, in simulated time.
//!
//! A direct road has an address at either end: what the client sends to the gateway's end comes from the client's end. A road may
//! be closed for whoever comes first, as behind a translator that lets in only what was written to before.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use postern_model::{Moment, PublicKey, RelayId};

use super::{
    packets::udp,
    world::{CLIENT, GATEWAY, LEASE, Out, TARGET_V4, World, device, private, ranges, resource, to},
};
use crate::{Endpoint, Forwarder, ForwardingTable, Generation, Peer, PeerStatus};

/// What a translator remembers, and for how long.
const HOLE: Duration = Duration::from_secs(30);

/// One way between the two.
#[derive(Debug, Clone)]
pub(super) struct Road {
    /// The relay, or the addresses at the client's and the gateway's end.
    pub(super) ends: Ends,
    /// Of each direction.
    pub(super) delay: Duration,
    /// So many of a hundred are lost.
    pub(super) loss: u8,
    pub(super) is_up: bool,
    /// Whether nothing that the gateway sends gets through.
    pub(super) is_one_way: bool,
    /// Whether the gateway's end lets in only what was written to, and the client's.
    pub(super) is_closed: [bool; 2],
    /// When the client, and the gateway, wrote last.
    pub(super) wrote: [Option<Moment>; 2],
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ends {
    Direct(SocketAddr, SocketAddr),
    Relay(RelayId),
}

/// A payload that no probe is as long as, with its number at the end.
fn numbered(number: u32) -> [u8; 36] {
    let mut payload = [0; 36];
    payload[32..].copy_from_slice(&number.to_be_bytes());
    payload
}

impl Road {
    /// The nth direct one.
    pub(super) fn direct(nth: u8, delay: Duration) -> Self {
        let ends = Ends::Direct(([198, 51, 100, nth], 4000).into(), ([203, 0, 113, nth], 5000).into());
        Self { ends, delay, loss: 0, is_up: true, is_one_way: false, is_closed: [false; 2], wrote: [None; 2] }
    }

    /// Through the nth relay.
    pub(super) fn relayed(nth: u8, delay: Duration) -> Self {
        Self { ends: Ends::Relay(RelayId::from_bytes([nth; 16])), ..Self::direct(nth, delay) }
    }

    pub(super) fn is_relayed(&self) -> bool {
        matches!(self.ends, Ends::Relay(_))
    }
}

/// Both, and what is between them.
pub(super) struct Roads {
    pub(super) nodes: [Forwarder; 2],
    outs: [Out; 2],
    keys: [PublicKey; 2],
    pub(super) roads: Vec<Road>,
    pub(super) now: Moment,
    queue: BTreeMap<(Moment, u64), (usize, Endpoint, Vec<u8>)>,
    queued: u64,
    random: u64,
    /// Where the client sent to, each time that this changed.
    pub(super) switches: Vec<(Moment, Option<Endpoint>)>,
    /// When each packet was answered, by its number.
    pub(super) answered: BTreeMap<u32, Moment>,
    pub(super) sent: u32,
    /// All that was sent by either: when, by whom, where, how long.
    pub(super) wire: Vec<(Moment, usize, Endpoint, usize)>,
    /// What either wrote, as bytes, to be sent again by others.
    pub(super) copies: Vec<(usize, Vec<u8>)>,
    pub(super) keeps_copies: bool,
    /// Whether the target answers nothing.
    pub(super) is_mute: bool,
    generation: u64,
}

impl Roads {
    /// Nobody has a table yet.
    pub(super) fn new(roads: Vec<Road>, seed: u64) -> Self {
        let now = Moment::from_boot(Duration::from_secs(1000));
        let node = |at: u8| Forwarder::new(private(at), now);
        Self {
            nodes: [node(0), node(1)],
            outs: [Out::default(), Out::default()],
            keys: [private(0).public(), private(1).public()],
            roads,
            now,
            queue: BTreeMap::new(),
            queued: 0,
            random: seed | 1,
            switches: Vec::new(),
            answered: BTreeMap::new(),
            sent: 0,
            wire: Vec::new(),
            copies: Vec::new(),
            keeps_copies: false,
            is_mute: false,
            generation: 0,
        }
    }

    /// With the grant at both ends, and every road told to both.
    pub(super) fn granted(roads: Vec<Road>, seed: u64) -> Self {
        let mut roads = Self::new(roads, seed);
        roads.grant(&[]);
        roads
    }

    /// The same, with other candidates of the client besides, as the gateway hears of them.
    pub(super) fn grant(&mut self, more: &[SocketAddr]) {
        let world = World::new();
        self.generation += 1;
        let relays: Vec<_> = self.relays();
        let (mut own, mut theirs) = (more.to_vec(), Vec::new());
        for road in &self.roads {
            if let Ends::Direct(client, gateway) = road.ends {
                own.push(client);
                theirs.push(gateway);
            }
        }
        let peer = |key, candidates, holds| {
            let peer = super::world::peer(key, candidates, holds);
            Arc::new(Peer { relays: relays.clone(), ..(*peer).clone() })
        };
        let mut table = ForwardingTable::empty(Generation(self.generation), device(GATEWAY), ranges());
        let mut carried = world.carry(CLIENT, 0, TARGET_V4);
        carried.expires = self.now + 10 * LEASE;
        let carried = Arc::new(carried);
        table.carried.insert((device(CLIENT).v4.into(), resource(0).v4.into()), carried);
        table.peers.insert(self.keys[0], peer(self.keys[0], own, false));
        self.nodes[GATEWAY].handle_table(Arc::new(table), &mut self.outs[GATEWAY], self.now);
        let mut held = world.hold(0);
        held.expires = self.now + 10 * LEASE;
        let mut table = World::new().client_table(CLIENT, &[held]);
        table.generation = Generation(self.generation);
        table.peers.insert(self.keys[1], peer(self.keys[1], theirs, true));
        self.nodes[CLIENT].handle_table(Arc::new(table), &mut self.outs[CLIENT], self.now);
        self.collect();
    }

    fn relays(&self) -> Vec<RelayId> {
        let relay = |road: &Road| match road.ends {
            Ends::Relay(relay) => Some(relay),
            Ends::Direct(..) => None,
        };
        self.roads.iter().filter_map(relay).collect()
    }

    /// Both ends are told that the other one is at all relays, or at none.
    pub(super) fn presence(&mut self, is_there: bool) {
        for relay in self.relays() {
            for at in [CLIENT, GATEWAY] {
                let other = self.keys[1 - at];
                self.nodes[at].handle_relay_presence(relay, &other, is_there, &mut self.outs[at], self.now);
            }
        }
        self.collect();
    }

    pub(super) fn network_changed(&mut self, at: usize) {
        self.nodes[at].handle_network_changed(&mut self.outs[at], self.now);
        self.collect();
    }

    /// A datagram from anywhere.
    pub(super) fn datagram(&mut self, at: usize, from: Endpoint, datagram: &[u8]) {
        self.nodes[at].handle_datagram(from, datagram, &mut self.outs[at], self.now);
        self.collect();
    }

    /// What a node says of the other.
    pub(super) fn status(&self, at: usize) -> PeerStatus {
        self.nodes[at].peers().remove(0)
    }

    /// The road that the client sends on.
    pub(super) fn in_use(&self) -> Option<usize> {
        let used = self.status(CLIENT).endpoint?;
        self.roads.iter().position(|road| self.endpoint(CLIENT, road) == used)
    }

    /// A road, as seen from one end.
    pub(super) fn endpoint(&self, at: usize, road: &Road) -> Endpoint {
        match road.ends {
            Ends::Direct(client, gateway) => Endpoint::Direct(if at == CLIENT { gateway } else { client }),
            Ends::Relay(relay) => Endpoint::Relayed { relay, peer: self.keys[1 - at] },
        }
    }

    /// Asks the target something, which it answers at once.
    pub(super) fn ask(&mut self) {
        self.sent += 1;
        let packet = udp(to(device(CLIENT).v4, 4000), to(resource(0).v4, 53), &numbered(self.sent));
        self.nodes[CLIENT].handle_packet(&packet, &mut self.outs[CLIENT], self.now);
        self.collect();
    }

    /// The target says something that nobody asked for.
    pub(super) fn push(&mut self) {
        let target: IpAddr = TARGET_V4.parse().unwrap();
        let packet = udp(to(target, 53), to(device(CLIENT).v4, 4000), &numbered(0));
        self.nodes[GATEWAY].handle_packet(&packet, &mut self.outs[GATEWAY], self.now);
        self.collect();
    }

    /// Lets time go by; with a question every so often, if at all.
    pub(super) fn pass(&mut self, duration: Duration, every: Option<Duration>) {
        let end = self.now + duration;
        let mut ask = every.map(|every| self.now + every);
        loop {
            let datagram = self.queue.first_key_value().map(|((due, _), _)| *due);
            let timers = self.nodes.iter().filter_map(Forwarder::poll_timeout).min();
            let Some(due) = [datagram, timers, ask].into_iter().flatten().min().filter(|due| *due <= end) else {
                break;
            };
            self.now = self.now.max(due);
            if ask.is_some_and(|at| at <= self.now) {
                ask = every.map(|every| self.now + every);
                self.ask();
            } else if datagram.is_some_and(|at| at <= self.now) {
                if let Some((_, (at, from, bytes))) = self.queue.pop_first() {
                    self.nodes[at].handle_datagram(from, &bytes, &mut self.outs[at], self.now);
                }
            } else {
                for at in [CLIENT, GATEWAY] {
                    self.nodes[at].handle_timeout(&mut self.outs[at], self.now);
                }
            }
            self.collect();
        }
        self.now = end;
    }

    /// Takes what came out of both, and carries it on its way.
    fn collect(&mut self) {
        loop {
            let mut is_idle = true;
            for at in [CLIENT, GATEWAY] {
                while let Some((to, bytes)) = self.outs[at].datagrams.pop_front() {
                    self.carry(at, to, bytes);
                }
                for packet in self.outs[at].take_packets() {
                    is_idle = false;
                    self.received(at, &packet);
                }
            }
            if is_idle {
                break;
            }
        }
        let used = self.nodes[CLIENT].peers().first().and_then(|peer| peer.endpoint);
        if self.switches.last().map(|(_, endpoint)| *endpoint) != Some(used) {
            self.switches.push((self.now, used));
        }
    }

    fn received(&mut self, at: usize, packet: &[u8]) {
        let parsed = postern_packet::parse(packet).unwrap();
        let payload = &packet[parsed.len - 4..parsed.len];
        if at == GATEWAY {
            if self.is_mute {
                return;
            }
            let number = u32::from_be_bytes(payload.try_into().unwrap());
            let answer = udp(to(parsed.dst, parsed.dst_port), to(parsed.src, parsed.src_port), &numbered(number));
            self.nodes[GATEWAY].handle_packet(&answer, &mut self.outs[GATEWAY], self.now);
        } else {
            let number = u32::from_be_bytes(payload.try_into().unwrap());
            assert!(self.answered.insert(number, self.now).is_none() || number == 0, "{number} came twice");
        }
    }

    fn carry(&mut self, at: usize, to: Endpoint, bytes: Vec<u8>) {
        self.wire.push((self.now, at, to, bytes.len()));
        if self.keeps_copies {
            self.copies.push((at, bytes.clone()));
        }
        let Some(nth) = self.roads.iter().position(|road| self.endpoint(at, road) == to) else { return };
        let (from, now) = (self.endpoint(1 - at, &self.roads[nth]), self.now);
        let chance = self.chance();
        let road = &mut self.roads[nth];
        road.wrote[at] = Some(now);
        let is_let_in = !road.is_closed[1 - at] || road.wrote[1 - at].is_some_and(|wrote| now.since(wrote) < HOLE);
        if road.is_up && !(road.is_one_way && at == GATEWAY) && is_let_in && chance >= road.loss {
            let due = now + road.delay;
            self.queued += 1;
            self.queue.insert((due, self.queued), (1 - at, from, bytes));
        }
    }

    /// 0 to 99, by the seed alone.
    fn chance(&mut self) -> u8 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        (self.random % 100) as u8
    }
}
