//! [`Relay`]: connections, the one stream of each, and datagrams from one to the other.
//!
//! What is decided in [`State`] is copied to where it is needed for each datagram: every connection has the list of its
//! linked channels, which its own task reads and nobody else but when something changes. So connections forward on all
//! cores at once.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use postern_model::{Moment, Sha256};
use postern_wire::{
    Decoder, FrameError, Limit, RelayNews, RelayRequest, close, frame,
    relay::{Header, Part, RelayRefusal},
};
use quinn::{Connection, ConnectionError, RecvStream, SendDatagramError, SendStream};
use rustc_hash::FxHashMap;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::{
    clock,
    meter::Meter,
    state::{Limits, Output, State},
    stats::{Counts, Stats},
    trust::Trust,
};

/// A gigabit per second.
pub const DEFAULT_RATE: u64 = 125_000_000;
/// Requests that one node may make at once, and then per second: a gateway that comes back shows a pass for each client,
/// and each costs the checking of a signature.
const REQUESTS: (u64, u64) = (4_096, 1_000);
/// News that wait for one node.
const NEWS: usize = 1 << 16;
/// Datagrams that one connection may have forwarded before others have their turn.
const TURN: usize = 64;
/// How often what ends by itself is looked for.
const TICK: Duration = Duration::from_secs(1);
/// So many ticks pass between two lines in the log, if there is anything new.
const TICKS_PER_LINE: u32 = 60;

/// How a relay is to be.
#[derive(Debug, Clone)]
pub struct RelaySettings {
    /// Whose passes count.
    pub trust: Trust,
    /// Bytes per second that one node may send.
    pub rate: u64,
    /// How much it takes on.
    pub limits: Limits,
}

/// A relay; clones are the same one.
#[derive(Clone)]
pub struct Relay(Arc<Inner>);

struct Inner {
    settings: RelaySettings,
    everyone: Mutex<Everyone>,
    stats: Stats,
    next_number: AtomicU64,
}

/// Who is there; state and connections move together.
struct Everyone {
    state: State,
    nodes: HashMap<u64, Arc<Node>>,
}

struct Node {
    connection: Connection,
    links: RwLock<FxHashMap<u32, Link>>,
    news: mpsc::Sender<RelayNews>,
}

/// Where datagrams of a channel go.
struct Link {
    to: Connection,
    channel: u32,
}

/// Why a connection ends.
#[derive(Debug, thiserror::Error)]
enum Ending {
    #[error("the node is done")]
    Done,
    #[error(transparent)]
    Frame(#[from] FrameError),
    #[error("the stream ended in the middle of a message")]
    Truncated,
    #[error(transparent)]
    Read(#[from] quinn::ReadError),
    #[error(transparent)]
    Write(#[from] quinn::WriteError),
    #[error(transparent)]
    Connection(#[from] ConnectionError),
}

impl Relay {
    /// A relay that nobody is connected to.
    pub fn new(settings: RelaySettings) -> Self {
        let everyone = Everyone { state: State::new(settings.limits), nodes: HashMap::new() };
        Self(Arc::new(Inner {
            settings,
            everyone: Mutex::new(everyone),
            stats: Stats::default(),
            next_number: AtomicU64::new(1),
        }))
    }

    /// Serves a connection to its end. Its client has shown to hold the device key with this digest. `place` is held until
    /// it has shown a pass too: of places for those who have not, there may be few.
    pub async fn handle<P: Send>(&self, connection: Connection, key: Sha256, place: P) {
        let from = connection.remote_address();
        let number = self.0.next_number.fetch_add(1, Ordering::Relaxed);
        let (news, to_tell) = mpsc::channel(NEWS);
        let node = Arc::new(Node { connection: connection.clone(), links: RwLock::default(), news });
        if !self.0.join(number, key, &node) {
            connection.close(close::RETRY.into(), b"this relay is full");
            tracing::warn!(%from, "the relay is full: a connection was refused");
            return;
        }
        let _leaves = Leaves { inner: &self.0, number };
        let ended = tokio::select! {
            ended = self.0.converse(number, &node, to_tell, place) => ended,
            ended = self.0.forward(&node) => Err(ended.into()),
        };
        let code = match ended.as_ref().err() {
            None | Some(Ending::Done) => close::DONE,
            Some(Ending::Frame(_) | Ending::Truncated) => close::PROTOCOL,
            Some(Ending::Read(_) | Ending::Write(_) | Ending::Connection(_)) => close::RETRY,
        };
        connection.close(code.into(), b"");
        if let Err(why) = ended {
            tracing::debug!(%from, %why, "a connection to the relay ended");
        }
    }

    /// Ends what ends by itself, and says in the log what the relay has come to, until it stops.
    pub async fn run(self, stopping: CancellationToken) {
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let (mut passed, mut told) = (0, Counts::default());
        loop {
            tokio::select! {
                () = stopping.cancelled() => return,
                _ = ticks.tick() => {}
            }
            self.0.change(|state| state.handle_timeout(clock::now(), clock::moment()));
            passed += 1;
            if passed % TICKS_PER_LINE == 0 && self.counts() != told {
                told = self.counts();
                let Counts { connections, channels, datagrams, bytes, dropped } = told;
                tracing::info!(connections, channels, datagrams, bytes, ?dropped, "relayed since the start");
            }
        }
    }

    /// What it has come to.
    pub fn counts(&self) -> Counts {
        let (connections, channels) = self.0.lock().state.sizes();
        self.0.stats.counts(connections, channels)
    }
}

impl std::fmt::Debug for Relay {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Relay").field(&self.counts()).finish()
    }
}

/// However it ends, a connection leaves nothing behind.
struct Leaves<'a> {
    inner: &'a Inner,
    number: u64,
}

impl Drop for Leaves<'_> {
    fn drop(&mut self) {
        self.inner.change(|state| state.handle_left(self.number));
        self.inner.lock().nodes.remove(&self.number);
    }
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, Everyone> {
        self.everyone.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn join(&self, number: u64, key: Sha256, node: &Arc<Node>) -> bool {
        let mut everyone = self.lock();
        let is_in = everyone.state.handle_joined(number, key, clock::moment());
        if is_in {
            everyone.nodes.insert(number, Arc::clone(node));
        }
        is_in
    }

    /// Changes the state, and does what comes of it before anyone else does.
    fn change(&self, f: impl FnOnce(&mut State)) {
        let mut everyone = self.lock();
        f(&mut everyone.state);
        while let Some(output) = everyone.state.poll_output() {
            everyone.carry_out(output);
        }
    }

    /// Reads requests and writes news. Ends only with a reason.
    async fn converse<P>(
        &self,
        number: u64,
        node: &Node,
        to_tell: mpsc::Receiver<RelayNews>,
        place: P,
    ) -> Result<(), Ending> {
        let (send, receive) = node.connection.accept_bi().await?;
        tokio::select! {
            ended = self.listen(number, receive, place) => ended,
            ended = tell(send, to_tell) => ended,
        }
    }

    async fn listen<P>(&self, number: u64, mut receive: RecvStream, place: P) -> Result<(), Ending> {
        let (burst, rate) = REQUESTS;
        let mut meter = Meter::new(rate, burst, clock::moment());
        let mut place = Some(place);
        let mut decoder = Decoder::new(Limit::Anonymous);
        let mut buffer = [0; 4096];
        loop {
            let request = match decoder.poll_message() {
                Ok(Some(request)) => request,
                // A newer node's; it does without.
                Err(FrameError::UnknownKind(_)) => continue,
                Err(error) => return Err(error.into()),
                Ok(None) => match receive.read(&mut buffer).await? {
                    Some(len) => {
                        decoder.handle_bytes(&buffer[..len]);
                        continue;
                    }
                    None if decoder.is_empty() => return Err(Ending::Done),
                    None => return Err(Ending::Truncated),
                },
            };
            let wait = meter.wait(clock::moment());
            if !wait.is_zero() {
                tokio::time::sleep(wait).await;
            }
            match request {
                RelayRequest::Open { pass } => {
                    let peer = pass.pass.peer;
                    // Outside of the lock: it takes as long as a hundred datagrams.
                    match self.settings.trust.check(&pass) {
                        Some(checked) => self.change(|state| state.handle_pass(number, &checked, clock::now())),
                        None => self.change(|state| state.refuse(number, peer, RelayRefusal::Signature)),
                    }
                    if place.is_some() && self.lock().state.is_admitted(number) {
                        place = None;
                    }
                }
                RelayRequest::Close { peer } => self.change(|state| state.handle_close(number, &peer)),
            }
        }
    }

    /// Forwards what a connection's datagrams hold, until it ends.
    async fn forward(&self, node: &Node) -> ConnectionError {
        let rate = self.settings.rate;
        let mut meter = Meter::new(rate, (rate / 10).max(256 << 10), clock::moment());
        let mut cut = 0;
        loop {
            for _ in 0..TURN {
                match node.connection.read_datagram().await {
                    Ok(datagram) => self.pass_on(node, datagram, &mut meter, clock::moment(), &mut cut),
                    Err(error) => return error,
                }
            }
            tokio::task::yield_now().await;
        }
    }

    /// Forwards one datagram, or drops it. `cut` counts the packets that were cut in two.
    fn pass_on(&self, node: &Node, datagram: Bytes, meter: &mut Meter, now: Moment, cut: &mut u16) {
        let stats = &self.stats;
        let Some((header, packet)) = Header::decode(&datagram) else { return Stats::add(&stats.malformed, 1) };
        let (len, packet_len) = (datagram.len(), packet.len());
        if !meter.take(len as u64, now) {
            return Stats::add(&stats.rate, 1);
        }
        let links = node.links.read().unwrap_or_else(PoisonError::into_inner);
        let Some(Link { to, channel }) = links.get(&header.channel) else { return Stats::add(&stats.no_peer, 1) };
        // quinn would make room by dropping what has waited longest, and not say so.
        if to.datagram_send_buffer_space() < len + Header::LONGEST {
            return Stats::add(&stats.full, 1);
        }
        let mut changed = datagram.try_into_mut().unwrap_or_else(|shared| BytesMut::from(&shared[..]));
        Header::set_channel(&mut changed, *channel);
        let changed = changed.freeze();
        let sent = match to.send_datagram(changed.clone()) {
            Err(SendDatagramError::TooLarge) if header.part == Part::Whole => {
                *cut = cut.wrapping_add(1);
                send_halves(to, *channel, *cut, &changed[len - packet_len..])
            }
            sent => sent,
        };
        match sent {
            Ok(()) => {
                Stats::add(&stats.datagrams, 1);
                Stats::add(&stats.bytes, len as u64);
            }
            Err(SendDatagramError::ConnectionLost(_)) => Stats::add(&stats.no_peer, 1),
            Err(_) => Stats::add(&stats.full, 1),
        }
    }
}

/// The way to the peer carries less than the way from the node did.
fn send_halves(to: &Connection, channel: u32, number: u16, packet: &[u8]) -> Result<(), SendDatagramError> {
    let (first, last) = packet.split_at(packet.len().div_ceil(2));
    for (part, half) in [(Part::First(number), first), (Part::Last(number), last)] {
        let mut datagram = Vec::with_capacity(Header::LONGEST + half.len());
        Header { channel, part }.encode(&mut datagram);
        datagram.extend_from_slice(half);
        to.send_datagram(datagram.into())?;
    }
    Ok(())
}

/// Writes news, as many at once as there are.
async fn tell(mut send: SendStream, mut to_tell: mpsc::Receiver<RelayNews>) -> Result<(), Ending> {
    let mut news = Vec::new();
    while to_tell.recv_many(&mut news, 256).await > 0 {
        let mut frames = Vec::new();
        for one in news.drain(..) {
            frames.extend(frame::encode(&one, Limit::Anonymous)?);
        }
        send.write_all(&frames).await?;
    }
    // Whoever leaves is told so by the connection's end.
    std::future::pending().await
}

impl Everyone {
    fn carry_out(&mut self, output: Output) {
        match output {
            Output::Link(from, to) => {
                let Some(node) = self.nodes.get(&from.connection) else { return };
                let mut links = node.links.write().unwrap_or_else(PoisonError::into_inner);
                match to.and_then(|to| Some((to.channel, self.nodes.get(&to.connection)?))) {
                    Some((channel, other)) => {
                        links.insert(from.channel, Link { to: other.connection.clone(), channel });
                    }
                    None => drop(links.remove(&from.channel)),
                }
            }
            Output::News(number, news) => {
                let Some(node) = self.nodes.get(&number) else { return };
                if node.news.try_send(news).is_err() {
                    node.connection.close(close::RETRY.into(), b"news are not read");
                }
            }
            Output::Close(number, code, why) => {
                if let Some(node) = self.nodes.remove(&number) {
                    // Its task may still hold it for a moment, and must not forward any more.
                    node.links.write().unwrap_or_else(PoisonError::into_inner).clear();
                    node.connection.close(code.into(), why.as_bytes());
                }
            }
        }
    }
}
