//! Starting the lanes, and telling them things from other threads.

use std::{
    collections::VecDeque,
    fmt, io,
    net::SocketAddr,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{Sender, channel, sync_channel},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use postern_engine::{
    Counters, DropReason, Endpoint, FlowNews, Forwarder, ForwardingTable, Generation, Miss, PeerStatus,
};
use postern_model::{GrantId, PublicKey, RelayId, ResourceId};
use postern_wireguard::PrivateKey;

use crate::{
    RelayOut, Sockets, Tun, clock,
    lane::{
        Command, End, Lane, egress::Egress, exit::Exit, ingress::Ingress, losses::Losses, poll::Poll, shared::Shared,
    },
    tun::Queue,
};

/// How long an answer is waited for.
const PATIENCE: Duration = Duration::from_secs(1);

/// What a lane is made of.
pub struct LaneConfig {
    /// Where applications' packets come from.
    pub tun: Tun,
    /// Where peers are reached.
    pub sockets: Sockets,
    /// This node's key.
    pub private: PrivateKey,
    /// Where datagrams for peers behind relays go.
    pub relay: Arc<dyn RelayOut>,
}

impl fmt::Debug for LaneConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LaneConfig").field("tun", &self.tun).field("sockets", &self.sockets).finish_non_exhaustive()
    }
}

/// What the lane has to say. Told from its own thread, which waits meanwhile: be quick.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LaneEvent {
    /// A permitted packet for a resource without a grant.
    Miss(Miss),
    /// This table is in force, and the resets of flows that it ended are sent.
    Applied {
        /// Which.
        generation: Generation,
        /// How many clients' flows through this gateway were cut since the last time, by grant.
        cut: Vec<(GrantId, u64)>,
    },
    /// Something happened to clients' flows through this gateway: [`LaneHandle::take_flow_news`] has it. Not said again
    /// before all of it is taken.
    FlowNews,
    /// A STUN message came to the WireGuard socket from there; anyone may have sent it. Of many in a second, most are left out.
    Stun(SocketAddr, Vec<u8>),
    /// The lane has ended and says why. Its TUN device is gone.
    Failed(String),
}

/// What the lane can tell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LaneStatus {
    /// Its peers, by key.
    pub peers: Vec<PeerStatus>,
    /// What passed, and what did not and why.
    pub counters: Counters,
    /// The table in force.
    pub generation: Option<Generation>,
    /// The resources with open flows of this machine's own.
    pub in_use: Vec<ResourceId>,
}

/// What happened to clients' flows through this gateway.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FlowReport {
    /// What, in order; at most [`FlowReport::MAX`] at once.
    pub news: Vec<FlowNews>,
    /// Whether there is more to take.
    pub has_more: bool,
    /// How much was given up so far because it was not taken in time.
    pub lost: u64,
}

impl FlowReport {
    /// The most that is taken at once.
    pub const MAX: usize = 4096;
}

/// The running lanes. They stop when this is dropped.
pub struct LaneHandle {
    commands: Sender<Command>,
    shared: Arc<Shared>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

/// Starts the lanes, each in a thread of its own. They drop everything until a table is published.
///
/// # Errors
/// When the system is out of descriptors or threads.
pub fn spawn(config: LaneConfig, events: impl FnMut(LaneEvent) + Send + 'static) -> io::Result<LaneHandle> {
    let LaneConfig { tun, sockets, private, relay } = config;
    let mut forwarder = Forwarder::new(private, clock::now());
    forwarder.set_mtu(tun.mtu());
    let (interface, offloads) = (tun.name().to_owned(), tun.offloads());
    let statistics = tun.statistics();
    let (queues, pairs) = (tun.into_queues(), sockets.into_pairs());
    let mut losses = Some(Losses::new(&pairs, statistics, &interface)?);
    let count = queues.len().min(pairs.len());
    let shared = Arc::new(Shared::new(forwarder, Box::new(events), count)?);
    // What comes back through a queue is what answers that which was written to it: from the next lane's, so that a flow's
    // two directions may run at once.
    let mut ways_out = queues.iter().map(Queue::try_clone).collect::<io::Result<VecDeque<_>>>()?;
    ways_out.rotate_left(1);
    let (commands, received) = channel();
    let mut received = Some(received);
    let mut handle = LaneHandle { commands, shared: Arc::clone(&shared), threads: Mutex::default() };
    for (number, ((queue, way_out), pair)) in queues.into_iter().zip(ways_out).zip(pairs).enumerate() {
        let mut lane = Lane {
            number,
            shared: Arc::clone(&shared),
            poll: Poll::new(number, &shared, &queue, &pair)?,
            egress: Egress::new(queue),
            ingress: Ingress::new(offloads),
            exit: Exit::new(way_out, pair, Arc::clone(&relay)),
            commands: received.take(),
            losses: losses.take(),
            interface: interface.clone(),
        };
        let thread = thread::Builder::new().name(format!("postern-lane-{number}")).spawn(move || {
            // A lane that fell over must not look like one that has nothing to do.
            let end = catch_unwind(AssertUnwindSafe(|| lane.run()))
                .unwrap_or_else(|_| End::Failed("a lane came upon a bug and ended; see the log above".into()));
            let shared = Arc::clone(&lane.shared);
            drop(lane);
            shared.end();
            if let End::Failed(reason) = end {
                shared.tell_failure(reason);
            }
        })?;
        handle.threads.get_mut().unwrap_or_else(PoisonError::into_inner).push(thread);
    }
    Ok(handle)
}

impl LaneHandle {
    /// Puts a table in force, unless a newer one comes first. [`LaneEvent::Applied`] follows, for it or the newer one.
    pub fn publish(&self, table: Arc<ForwardingTable>) {
        self.command(Command::Publish(table));
    }

    /// Handles packets that were held, now that their grant is in the table published before.
    pub fn replay(&self, packets: Vec<Vec<u8>>) {
        self.command(Command::Replay(packets));
    }

    /// Answers packets that were held, and that no grant came for.
    pub fn refuse(&self, packets: Vec<Vec<u8>>, reason: DropReason) {
        self.command(Command::Refuse(packets, reason));
    }

    /// Asks the lane and waits for at most a second; `None` when it is too busy, or has ended.
    pub fn status(&self) -> Option<LaneStatus> {
        let (answer, answered) = sync_channel(1);
        self.command(Command::Status(answer));
        answered.recv_timeout(PATIENCE).ok()
    }

    /// Takes what happened to clients' flows, and waits until the lane has a moment; `None` when it has ended.
    pub fn take_flow_news(&self) -> Option<FlowReport> {
        let (answer, answered) = sync_channel(1);
        self.command(Command::FlowNews(answer));
        answered.recv().ok()
    }

    /// Hands over datagrams that came from a peer through a relay, in order. They wait until the first lane has a moment, but no
    /// more than a few megabytes of them: the rest is dropped, and counted as
    /// [`RelayFull`](DropReason::RelayFull).
    pub fn relayed(&self, relay: RelayId, peer: PublicKey, datagrams: Vec<Vec<u8>>) {
        if self.shared.relayed.push(Endpoint::Relayed { relay, peer }, datagrams) {
            self.shared.wake();
        }
    }

    /// Says whether a peer is at a relay, and so can be reached through it.
    pub fn relay_presence(&self, relay: RelayId, peer: PublicKey, is_there: bool) {
        self.command(Command::RelayPresence(relay, peer, is_there));
    }

    /// Sends datagrams from the WireGuard socket as they are: STUN requests. What comes back is told as
    /// [`LaneEvent::Stun`].
    pub fn send_datagrams(&self, datagrams: Vec<(SocketAddr, Vec<u8>)>) {
        self.command(Command::SendDatagrams(datagrams));
    }

    /// Says that this machine's addresses or routes are others than before.
    pub fn network_changed(&self) {
        self.command(Command::NetworkChanged);
    }

    /// Says that the node stops: the tables from now on take grants away for no other reason.
    pub fn announce_stop(&self) {
        self.command(Command::AnnounceStop);
    }

    /// Ends the lanes, once they have done what they were told before; the TUN device is gone when this returns. Nothing
    /// happens when they have ended already.
    pub fn stop(&self) {
        self.command(Command::Stop);
        let threads = std::mem::take(&mut *self.threads.lock().unwrap_or_else(PoisonError::into_inner));
        // A lane itself, in its `events`, can't wait for its own end, nor for the others', who wait for it.
        if threads.iter().any(|thread| thread.thread().id() == thread::current().id()) {
            return;
        }
        for thread in threads {
            let _ = thread.join();
        }
    }

    fn command(&self, command: Command) {
        // A lane that has ended has said so.
        if self.commands.send(command).is_ok() {
            self.shared.wake();
        }
    }
}

impl Drop for LaneHandle {
    fn drop(&mut self) {
        self.stop();
    }
}

impl fmt::Debug for LaneHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LaneHandle").finish_non_exhaustive()
    }
}
