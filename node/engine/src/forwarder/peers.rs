//! The forwarder's peers: their tunnels, where they are, and what waits for their sessions.
//!
//! A handshake goes to every candidate of a peer, and through every relay that may have it; the first authentic answer says
//! where the peer is, and [`paths`](super::paths) goes on from there. Nobody outside the table is answered.
//!
//! - [`arrivals`]: datagrams that come; [`path`]: what is asked and told of the paths; [`moves`]: when they may be others

mod arrivals;
mod moves;
mod path;

use std::{net::IpAddr, sync::Arc, time::Duration};

use postern_model::{Moment, OverlayAddr, PublicKey};
use postern_packet::Split;
use postern_wireguard::{Gate, HEADER, Kind, MIN_BUFFER, OVERHEAD, PrivateKey, Sealed, Sealer, TAG, Tunnel, classify};
use rustc_hash::FxHashMap;

pub(super) use self::arrivals::reason;
use super::{
    ForwarderSink, PeerStatus,
    calls::Calls,
    path_mtu::PathMtu,
    paths::{Heard, Paths},
    queue::Queue,
    timers::Timers,
};
use crate::{Counters, DropReason, Endpoint, ForwardingTable, Peer};

/// The lengths of a handshake's messages (section 5.4 of the paper).
const INITIATION: usize = 148;
const RESPONSE: usize = 92;
/// Not heard of for so long, a peer may be elsewhere: a handshake goes wherever it may be.
const SILENCE: Duration = Duration::from_secs(3);
/// Of so many peers that may be behind one address, each is called when something for nobody comes from there.
const CALLED_AT_ONCE: usize = 32;
/// A peer that was never heard is called so often, unless something waits for it. Whoever is there has answered by then.
const CALLS_IN_VAIN: u32 = 3;

/// One peer.
struct PeerState {
    peer: Arc<Peer>,
    tunnel: Tunnel,
    /// When the last authentic datagram came.
    heard: Option<Moment>,
    /// How many initiations went to it before it was heard, or before something came to wait for it.
    calls: u32,
    /// When a handshake was tried again before its time.
    retried: Option<Moment>,
    /// When one is to be.
    retry_at: Option<Moment>,
    /// The last of its initiations that was answered, and the answer.
    answered: Option<Box<Answered>>,
    queue: Queue,
    paths: Paths,
    path: PathMtu,
    /// When its timers are looked at next.
    armed: Option<Moment>,
    /// The overlay addresses that the peer may send from as a client of this gateway.
    client_addr: Option<OverlayAddr>,
}

/// An initiation comes by several ways, each a copy of the same. The first is answered where it came from; whether anything gets
/// through in that direction nobody knows, so later ones get the same answer where they came from.
struct Answered {
    initiation: [u8; INITIATION],
    response: [u8; RESPONSE],
    at: Moment,
}

/// All peers of the table in force.
pub(super) struct Peers {
    private: PrivateKey,
    own: PublicKey,
    gate: Gate,
    by_key: FxHashMap<PublicKey, PeerState>,
    by_index: FxHashMap<u32, PublicKey>,
    /// Who may be reached at an address, by any port.
    by_place: FxHashMap<IpAddr, Vec<PublicKey>>,
    next_index: u32,
    /// The longest inner packet.
    mtu: u16,
    calls: Calls,
    timers: Timers,
    /// Times that have come, and whose they were.
    ready: Vec<(Moment, PublicKey)>,
    /// Datagrams are made here.
    out: Vec<u8>,
}

impl Peers {
    pub(super) fn new(private: PrivateKey, now: Moment) -> Self {
        Self {
            gate: Gate::new(&private, now),
            // Somewhere else on each node, so that a mixed up capture still tells nodes apart, and at each start, so that
            // packets for a session from before it are not taken for another peer's.
            next_index: u32::from_le_bytes(*private.public().0.first_chunk().unwrap_or(&[0; 4]))
                ^ now.since_boot().subsec_nanos(),
            own: private.public(),
            private,
            by_key: FxHashMap::default(),
            by_index: FxHashMap::default(),
            by_place: FxHashMap::default(),
            mtu: super::DEFAULT_MTU,
            calls: Calls::default(),
            timers: Timers::default(),
            ready: Vec::new(),
            out: vec![0; MIN_BUFFER],
        }
    }

    /// The longest inner packet, for peers that are added from now on.
    pub(super) fn set_mtu(&mut self, mtu: u16) {
        self.mtu = mtu;
    }

    /// Adds and drops peers as the table says. A tunnel with the same keys stays, with its sessions.
    pub(super) fn apply(&mut self, table: &ForwardingTable, sink: &mut impl ForwarderSink, now: Moment) {
        let kept = |state: &PeerState, new: &Peer| state.peer.preshared_key == new.preshared_key;
        self.by_key.retain(|key, state| table.peers.get(key).is_some_and(|new| kept(state, new)));
        self.by_index.retain(|_, key| self.by_key.contains_key(key));
        for (key, peer) in &table.peers {
            match self.by_key.get_mut(key) {
                Some(state) => {
                    state.peer = Arc::clone(peer);
                    state.client_addr = None;
                    state.paths.apply(peer, &self.own, state.tunnel.has_session(now), now);
                    state.speak(&mut self.out, sink, now);
                    note_due(&mut self.timers, state);
                }
                None => self.add(Arc::clone(peer), now),
            }
        }
        self.by_place.clear();
        for (key, peer) in &table.peers {
            for candidate in &peer.candidates {
                let there = self.by_place.entry(candidate.ip().to_canonical()).or_default();
                if !there.contains(key) && there.len() < CALLED_AT_ONCE {
                    there.push(*key);
                }
            }
        }
        for grant in table.carried.values() {
            if let Some(state) = self.by_key.get_mut(&grant.peer) {
                state.client_addr = Some(grant.client_addr);
            }
        }
        self.call_next(sink, now);
    }

    fn add(&mut self, peer: Arc<Peer>, now: Moment) {
        let index = self.free_index();
        let mut tunnel = Tunnel::new(&self.private, peer.key, Some(&peer.preshared_key), index, now);
        tunnel.set_mtu(self.mtu);
        let (key, initiate) = (peer.key, peer.initiate);
        let (paths, path) = (Paths::new(&peer, &self.own, now), PathMtu::new(self.mtu, now));
        let state = PeerState {
            peer,
            tunnel,
            heard: None,
            calls: 0,
            retried: None,
            retry_at: None,
            answered: None,
            queue: Queue::default(),
            paths,
            path,
            armed: None,
            client_addr: None,
        };
        self.by_index.insert(index, key);
        self.by_key.insert(key, state);
        if initiate {
            // The grant was asked for because something waits to be sent: have the session ready when it comes. Or the
            // client still seals with a session that this node has lost.
            self.calls.add(key);
        }
    }

    /// Calls those whose turn it is, but for who has called meanwhile.
    fn call_next(&mut self, sink: &mut impl ForwarderSink, now: Moment) {
        for key in self.calls.take(now) {
            if let Some(state) = self.by_key.get_mut(&key).filter(|state| state.heard.is_none()) {
                state.start_handshake(&mut self.out, sink, now);
                note_due(&mut self.timers, state);
            }
        }
    }

    /// An index of 24 bits that no tunnel has, far from the last one.
    fn free_index(&mut self) -> u32 {
        loop {
            self.next_index = self.next_index.wrapping_add(0x9e37_79b9) & 0x00ff_ffff;
            if !self.by_index.contains_key(&self.next_index) {
                return self.next_index;
            }
        }
    }

    /// The overlay addresses that `key` may send from as a client.
    pub(super) fn client_addr(&self, key: &PublicKey) -> Option<OverlayAddr> {
        self.by_key.get(key).and_then(|state| state.client_addr)
    }

    /// Sends an inner packet to a peer, now or as soon as there is a session.
    pub(super) fn send(
        &mut self,
        key: &PublicKey,
        packet: &[u8],
        sink: &mut impl ForwarderSink,
        counters: &mut Counters,
        now: Moment,
    ) {
        let Some(state) = self.by_key.get_mut(key) else {
            counters.count(DropReason::UnknownPeer);
            return;
        };
        reserve(&mut self.out, packet.len() + OVERHEAD);
        if state.queue.is_empty() && state.seal(packet, &mut self.out, sink, now) {
            counters.out_packets += 1;
        } else if state.queue.push(packet, now) {
            state.calls = 0;
            state.start_handshake(&mut self.out, sink, now);
        } else {
            counters.count(DropReason::PendingFull);
        }
        note_due(&mut self.timers, state);
    }

    /// Sends an inner packet to a peer if there is a session, and drops it if not.
    pub(super) fn send_now(&mut self, key: &PublicKey, packet: &[u8], sink: &mut impl ForwarderSink, now: Moment) {
        if let Some(state) = self.by_key.get_mut(key) {
            reserve(&mut self.out, packet.len() + OVERHEAD);
            state.seal(packet, &mut self.out, sink, now);
            note_due(&mut self.timers, state);
        }
    }

    /// Reserves what a packet or super-packet needs to go to a peer; what can't go yet waits for a session.
    pub(super) fn depart<'a>(
        &mut self,
        key: &PublicKey,
        mut packets: Split<'a>,
        sink: &mut impl ForwarderSink,
        counters: &mut Counters,
        now: Moment,
    ) -> Option<(Split<'a>, Sealer, Endpoint)> {
        let Some(state) = self.by_key.get_mut(key) else {
            counters.count(DropReason::UnknownPeer);
            return None;
        };
        let count = packets.count() as u64;
        let bytes = packets.bytes() as u64 + count * (HEADER + TAG) as u64;
        let sealer = if state.queue.is_empty() && state.paths.destination().is_some() {
            state.tunnel.sealer(count, bytes, now)
        } else {
            None
        };
        if let Some(sealer) = sealer {
            counters.out_packets += count;
            state.path.note_sent(now);
            state.paths.note_sent(now);
            note_due(&mut self.timers, state);
            if let Some(to) = state.paths.destination() {
                return Some((packets, sealer, to));
            }
        }
        reserve(&mut self.out, packets.longest() + OVERHEAD);
        while let Some(len) = packets.next(&mut self.out) {
            if state.queue.push(&self.out[..len], now) {
                state.calls = 0;
            } else {
                counters.count(DropReason::PendingFull);
            }
        }
        state.start_handshake(&mut self.out, sink, now);
        note_due(&mut self.timers, state);
        None
    }

    /// Sees to it that those peers which `is_in_use` says are sent something at least this often.
    pub(super) fn keep_awake(&mut self, interval: Duration, is_in_use: impl Fn(&PublicKey) -> bool) {
        for (key, state) in &mut self.by_key {
            state.tunnel.set_persistent_keepalive(is_in_use(key).then_some(interval));
            note_due(&mut self.timers, state);
        }
    }

    /// Drops packets that wait for a session and no longer pass `keep`.
    pub(super) fn retain_queued(&mut self, counters: &mut Counters, mut keep: impl FnMut(&[u8]) -> bool) {
        for state in self.by_key.values_mut() {
            for _ in 0..state.queue.retain(&mut keep) {
                counters.count(DropReason::NoGrant);
            }
        }
    }

    /// The tunnels' timers, and packets that have waited too long.
    pub(super) fn handle_timeout(&mut self, sink: &mut impl ForwarderSink, counters: &mut Counters, now: Moment) {
        self.call_next(sink, now);
        let mut ready = std::mem::take(&mut self.ready);
        ready.extend(std::iter::from_fn(|| self.timers.pop(now)));
        for (at, key) in ready.drain(..) {
            let Some(state) = self.by_key.get_mut(&key).filter(|state| state.armed == Some(at)) else { continue };
            state.armed = None;
            for _ in 0..state.queue.expire(now) {
                counters.count(DropReason::PendingTimeout);
            }
            if state.heard.is_none() && state.queue.is_empty() && state.calls >= CALLS_IN_VAIN {
                state.tunnel.give_up(now);
            }
            if state.retry_at.is_some_and(|at| at <= now) {
                state.retry_handshake(&mut self.out, sink, now);
            }
            while let Some(datagram) = state.tunnel.handle_timeout(&mut self.out, now) {
                state.calls += u32::from(classify(datagram) == Some(Kind::Initiation));
                deliver(&state.peer, &state.paths, state.is_silent(now), datagram, sink);
            }
            state.speak(&mut self.out, sink, now);
            state.probe_mtu(&mut self.out, sink, now);
            note_due(&mut self.timers, state);
        }
        self.ready = ready;
    }

    /// When [`Self::handle_timeout`] is due; sometimes too early, never too late.
    pub(super) fn poll_timeout(&self) -> Option<Moment> {
        self.timers.poll_timeout().into_iter().chain(self.calls.poll_timeout()).min()
    }

    pub(super) fn statuses(&self) -> impl Iterator<Item = PeerStatus> + '_ {
        self.by_key.values().map(|state| PeerStatus {
            key: state.peer.key,
            endpoint: state.paths.destination(),
            chooses: state.paths.chooses(),
            round_trip: state.paths.round_trip(),
            paths: state.paths.statuses(),
            stats: state.tunnel.stats(),
            mtu: state.path.mtu(),
            flows: 0,
            persistent_keepalive: state.tunnel.persistent_keepalive(),
        })
    }
}

impl PeerState {
    /// An authentic datagram came from there.
    fn note_heard(&mut self, from: Endpoint, what: Heard, now: Moment) {
        self.paths.note_heard(from, what, now);
        if self.paths.awaits_session() && self.tunnel.has_session(now) {
            self.paths.note_session(now);
        }
        if self.paths.take_moved() {
            self.path.note_moved(now);
        }
        self.path.note_heard();
        (self.heard, self.calls) = (Some(now), 0);
    }

    /// Seals and sends; `false` without a session.
    fn seal(&mut self, packet: &[u8], out: &mut [u8], sink: &mut impl ForwarderSink, now: Moment) -> bool {
        match self.tunnel.seal(packet, out, now) {
            Sealed::Datagram(datagram) => {
                self.paths.note_sent(now);
                deliver(&self.peer, &self.paths, false, datagram, sink);
                self.path.note_sent(now);
                true
            }
            Sealed::NoSession => false,
        }
    }

    /// Sends what waited, in order, as far as there is a session.
    fn flush(&mut self, out: &mut Vec<u8>, sink: &mut impl ForwarderSink, counters: &mut Counters, now: Moment) {
        if self.queue.is_empty() || !self.tunnel.has_session(now) {
            return;
        }
        for _ in 0..self.queue.expire(now) {
            counters.count(DropReason::PendingTimeout);
        }
        while let Some(packet) = self.queue.pop() {
            reserve(out, packet.len() + OVERHEAD);
            if self.seal(&packet, out, sink, now) {
                counters.out_packets += 1;
            } else {
                counters.count(DropReason::NoSession);
            }
        }
    }

    /// Starts a handshake, unless one is under way, or nothing says where.
    fn start_handshake(&mut self, out: &mut [u8], sink: &mut impl ForwarderSink, now: Moment) {
        // Who does not start handshakes by the table still makes a new session for an answer that comes late, where the
        // peer was last.
        if (self.peer.initiate || self.paths.destination().is_some())
            && let Some(initiation) = self.tunnel.start_handshake(out, now)
        {
            self.calls += 1;
            deliver(&self.peer, &self.paths, self.is_silent(now), initiation, sink);
        }
    }

    /// Whether its endpoint may be out of date.
    fn is_silent(&self, now: Moment) -> bool {
        self.heard.is_none_or(|heard| now.since(heard) >= SILENCE)
    }
}

/// Sends a datagram on the path in use; an initiation to a silent peer also to every candidate, and through every relay that may
/// have it.
fn deliver(peer: &Peer, paths: &Paths, silent: bool, datagram: &[u8], sink: &mut impl ForwarderSink) {
    let used = paths.destination();
    if let Some(used) = used {
        sink.send_datagram(used, datagram);
    }
    if peer.initiate && silent && classify(datagram) == Some(Kind::Initiation) {
        for endpoint in peer.told().filter(|told| Some(*told) != used && !paths.is_absent(*told)) {
            sink.send_datagram(endpoint, datagram);
        }
    }
}

/// Takes a peer's timers into account.
fn note_due(timers: &mut Timers, state: &mut PeerState) {
    let paths = [state.path.poll_timeout(), state.paths.poll_timeout(), state.retry_at];
    let times = [state.tunnel.poll_timeout(), state.queue.expires_at()].into_iter().chain(paths);
    timers.arm(&mut state.armed, times.flatten().min(), state.peer.key);
}

/// Makes a buffer at least `len` long; it never shrinks, so that this costs nothing after the first packets.
fn reserve(buffer: &mut Vec<u8>, len: usize) {
    let len = len.max(MIN_BUFFER);
    if buffer.len() < len {
        buffer.resize(len, 0);
    }
}
