//! Where and how this node is reached: the addresses at which others see it, the relay at which it waits, and packets through relays.
//!
//! ```text
//!   Node ─ relays, peers, changes ─► Reach: one task ─ events ─► Node: candidates, home relay, NAT64
//!                                      │    ▲
//!                     STUN questions ──┘    └── answers          (through the lanes, from the WireGuard socket)
//!                                      │
//!                          relays ─► relay ─► relay connection ═ packets ═► lanes
//!   lanes ─ packets for a relay ─► Outlet ════════════▲
//! ```
//!
//! - `task`: what ties it together, and when servers are asked
//! - `questions`: STUN; `servers`: whom to ask; `observed`: what the answers show; `home`: the nearest relay
//! - `portmap`: asks the router for a mapping
//! - `relays`: which relays are attended; `relay`: one of them; `channels`: what was shown and said there; `connect`: how
//! - `outlet`: how lanes send through relays; `parts`: packets that are too long
//!
//! Nothing here is trusted for who somebody is: an address that a server or a router tells of is a place to try, and what comes
//! through a relay is a sealed packet like any other.

mod channels;
mod connect;
mod home;
mod observed;
mod outlet;
mod parts;
mod portmap;
mod questions;
mod relay;
mod relays;
mod servers;
mod task;

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use postern_engine::{Nat64, RelayPeer};
use postern_model::{Candidate, Moment, PublicKey, RelayId, token::HostPort};
use postern_wire::{RelayEntry, SignedPass};
use serde::{Deserialize, Serialize};
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::JoinHandle,
};

use crate::{control::Transport, log_limit::LogLimit, state_dir::Identity};

pub use observed::Nat;
pub(crate) use observed::{is_private, nat};
pub(crate) use outlet::Outlet;
pub use portmap::{MappingProtocol, PortMapping};
pub(crate) use questions::{Answer, Questions, Server};
pub(crate) use servers::addresses;

/// STUN answers that wait to be looked at; more are dropped, and asked for again.
const ANSWERS: usize = 256;

/// The data plane, as far as this is concerned with it. Its calls never wait.
pub(crate) trait Lanes: Send + Sync {
    /// Packets of a peer that came through a relay, in order.
    fn relayed(&self, relay: RelayId, peer: PublicKey, packets: Vec<Vec<u8>>);
    /// Whether a peer is at a relay now.
    fn presence(&self, relay: RelayId, peer: PublicKey, is_there: bool);
    /// Sends datagrams as they are from the WireGuard socket.
    fn send(&self, datagrams: Vec<(SocketAddr, Vec<u8>)>);
}

/// What relay connections have in common.
struct Shared {
    identity: watch::Receiver<Arc<Identity>>,
    outlet: Outlet,
    lanes: Arc<dyn Lanes>,
    /// Told each time that the machine's network has changed, or the machine has slept.
    network_changes: watch::Sender<()>,
    log: Mutex<LogLimit>,
}

/// What the node is told.
#[derive(Debug, PartialEq)]
pub(crate) enum ReachEvent {
    /// Peers may also try these, from now on; all of them.
    Candidates(Vec<Candidate>),
    /// This node waits for peers at this relay.
    Home(Option<RelayId>),
    /// How this network takes IPv4 addresses, if it is one that has only IPv6.
    Nat64(Option<Nat64>),
}

/// What the task is told.
enum News {
    Relays(Vec<RelayEntry>, Option<SignedPass>),
    Host(Vec<Candidate>),
    NetworkChanged,
    Connected(bool),
    Warm(bool),
    Status(oneshot::Sender<ReachStatus>),
}

/// What is needed from the beginning.
pub(crate) struct ReachConfig {
    /// Who this device is.
    pub(crate) identity: watch::Receiver<Arc<Identity>>,
    /// Where the coordinator answers STUN.
    pub(crate) coordinator: HostPort,
    /// The UDP port of the WireGuard socket.
    pub(crate) wireguard_port: u16,
    /// The data plane.
    pub(crate) lanes: Arc<dyn Lanes>,
    /// What it sends by to relays.
    pub(crate) outlet: Outlet,
}

/// A STUN answer, from where it came, and when.
type Heard = (SocketAddr, Vec<u8>, Moment);

/// Tells of STUN answers; for the lanes, which don't wait.
#[derive(Debug, Clone)]
pub(crate) struct Ear(mpsc::Sender<Heard>);

impl Ear {
    /// A datagram that is STUN came from there.
    pub(crate) fn hear(&self, from: SocketAddr, datagram: Vec<u8>, now: Moment) {
        let _ = self.0.try_send((from, datagram, now));
    }
}

/// An ear, and what it is connected to: the lanes need the one before there can be the other.
pub(crate) fn ear() -> (Ear, mpsc::Receiver<Heard>) {
    let (ear, heard) = mpsc::channel(ANSWERS);
    (Ear(ear), heard)
}

/// The running task. Dropped, it ends; [`Reach::stop`] also takes back what a router was asked for.
#[derive(Debug)]
pub(crate) struct Reach {
    news: mpsc::UnboundedSender<News>,
    peers: watch::Sender<Vec<RelayPeer>>,
    task: JoinHandle<()>,
}

impl Reach {
    /// Starts it. Nothing is asked before the first [`set_host`](Self::set_host).
    pub(crate) fn start(config: ReachConfig, heard: mpsc::Receiver<Heard>, events: mpsc::Sender<ReachEvent>) -> Self {
        // Each message answers one of the coordinator's, or one of the kernel's; they are not many, and none may be lost.
        let (news, latest_news) = mpsc::unbounded_channel();
        let (peers, latest_peers) = watch::channel(Vec::new());
        let task =
            tokio::spawn(task::run(config, task::Inputs { news: latest_news, peers: latest_peers, heard }, events));
        Self { news, peers, task }
    }

    /// The network's relays; the pass only if it is a fresh one.
    pub(crate) fn set_relays(&self, relays: Vec<RelayEntry>, own_pass: Option<SignedPass>) {
        self.tell(News::Relays(relays, own_pass));
    }

    /// The peers that may be reached through relays, all of them.
    pub(crate) fn set_peers(&self, peers: Vec<RelayPeer>) {
        self.peers.send_replace(peers);
    }

    /// The machine's own addresses, with the WireGuard port.
    pub(crate) fn set_host(&self, candidates: Vec<Candidate>) {
        self.tell(News::Host(candidates));
    }

    /// The network is another one, or the machine has slept: all that was found out is to be found out anew.
    pub(crate) fn handle_network_changed(&self) {
        self.tell(News::NetworkChanged);
    }

    /// Whether there is a session, in which what is found out can be told.
    pub(crate) fn set_connected(&self, is_connected: bool) {
        self.tell(News::Connected(is_connected));
    }

    /// Whether somebody may want to reach this node at any time: it is a gateway, or holds a grant.
    pub(crate) fn set_warm(&self, is_warm: bool) {
        self.tell(News::Warm(is_warm));
    }

    /// How it is; answered soon, or not at all when the node goes down.
    pub(crate) fn status(&self) -> oneshot::Receiver<ReachStatus> {
        let (answer, answered) = oneshot::channel();
        self.tell(News::Status(answer));
        answered
    }

    /// Ends it.
    pub(crate) async fn stop(self) {
        drop(self.news);
        let _ = self.task.await;
    }

    fn tell(&self, news: News) {
        let _ = self.news.send(news);
    }
}

/// How this node is reached.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct ReachStatus {
    /// The relay at which it waits for peers, once it is there.
    pub home: Option<RelayId>,
    /// The relays of the network.
    pub relays: Vec<RelayRow>,
    /// At which addresses servers see the WireGuard socket.
    pub observed: Vec<SocketAddr>,
    /// By which kind of NAT, for IPv4.
    pub nat: Nat,
    /// What became of asking the router for a port.
    pub port_mapping: PortMapping,
}

/// A relay of the network.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RelayRow {
    /// Its id.
    pub id: RelayId,
    /// Its name.
    pub name: String,
    /// Where it is.
    pub address: HostPort,
    /// How long a question to it takes, in milliseconds, if it answers by UDP.
    pub round_trip_ms: Option<f64>,
    /// What carries the connection to it, if there is one.
    pub transport: Option<Transport>,
    /// Whether this node waits for peers there.
    pub is_home: bool,
}
