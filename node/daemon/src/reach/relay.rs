//! One relay's connection: kept until its [`Attendance`] is dropped, and made again whenever it breaks.
//!
//! Three things go on in a connection: passes are shown as they come, the relay's news is heard, and datagrams are handed to
//! the lanes in batches. Sending is not among them: lanes do that themselves, by [`Outlet`].

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use anyhow::Result;
use futures_util::FutureExt as _;
use postern_dataplane::clock;
use postern_model::{Moment, PublicKey, RelayId};
use postern_wire::{
    Limit, RelayEntry, RelayNews, SignedPass,
    relay::{Header, RelayRefusal},
};
use quinn::Connection;
use tokio::{
    sync::{Notify, mpsc, watch},
    task::JoinHandle,
};

use super::{
    Shared,
    channels::{Change, Channels},
    connect,
    parts::Parts,
};
use crate::control::{
    Transport,
    attend::{self, Anew},
    connect::{Connected, Goodbye},
    session::{Pause, jittered},
    stream,
};

/// So many datagrams are handed over at once at most.
const BATCH: usize = 64;

/// What of a relay's connection is told.
#[derive(Debug, Clone)]
pub(super) enum RelayEvent {
    /// It is there, by this transport, this long after it was begun.
    Connected(RelayId, Transport, Duration),
    /// It is not, or not any more, and is tried again.
    Disconnected(RelayId),
}

/// The passes to show at one relay: this node's own, and those of peers.
pub(super) type Passes = Arc<Vec<SignedPass>>;

/// Keeps a relay's connection. Dropped, it says goodbye.
#[derive(Debug)]
pub(super) struct Attendance {
    pub(super) entry: RelayEntry,
    passes: watch::Sender<Passes>,
    task: JoinHandle<()>,
    /// Since when no peer needs it, of one that is not this node's home.
    pub(super) idle_since: Option<Moment>,
}

impl Drop for Attendance {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Attendance {
    pub(super) fn start(entry: RelayEntry, shared: &Arc<Shared>, events: mpsc::Sender<RelayEvent>) -> Self {
        let (passes, latest) = watch::channel(Passes::default());
        let task = tokio::spawn(keep(entry.clone(), Arc::clone(shared), latest, events));
        Self { entry, passes, task, idle_since: None }
    }

    /// From now on these are the passes to show.
    pub(super) fn show(&self, passes: Vec<SignedPass>) {
        self.passes.send_if_modified(|shown| {
            let is_new = **shown != passes;
            if is_new {
                *shown = Arc::new(passes);
            }
            is_new
        });
    }
}

async fn keep(
    entry: RelayEntry,
    shared: Arc<Shared>,
    mut passes: watch::Receiver<Passes>,
    events: mpsc::Sender<RelayEvent>,
) {
    let mut keeping = Keeping {
        entry,
        changes: shared.network_changes.subscribe(),
        shared,
        events,
        better: None,
        tcp_at_once: false,
        connected_at: None,
    };
    let mut pause = Pause::default();
    loop {
        // Without a pass the relay would send this node away.
        if passes.wait_for(|passes| !passes.is_empty()).await.is_err() {
            return;
        }
        let error = match keeping.attend(&mut passes).await {
            Ok(End::Exchanged) => continue,
            Ok(End::Needless) => return,
            Err(error) => error,
        };
        let Keeping { entry, shared, .. } = &keeping;
        if let Some(unsaid) = shared.log.lock().unwrap_or_else(PoisonError::into_inner).admit(clock::now()) {
            let error = format!("{error:#}");
            tracing::warn!(relay = entry.name, error, unsaid, "not connected to a relay; trying again");
        }
        if keeping.events.send(RelayEvent::Disconnected(keeping.entry.id)).await.is_err() {
            return;
        }
        let lived = keeping.connected_at.take().map(|at| clock::now().since(at));
        tokio::select! {
            () = tokio::time::sleep(jittered(pause.after(lived))) => {}
            // Where there was no way there may be one now.
            () = attend::changed(&mut keeping.changes) => {
                pause = Pause::default();
                keeping.tcp_at_once = false;
            }
        }
    }
}

/// How a connection ended that did not break.
enum End {
    /// There is a better one.
    Exchanged,
    /// Nobody needs it any more.
    Needless,
}

/// What goes on from one connection to the next.
struct Keeping {
    entry: RelayEntry,
    shared: Arc<Shared>,
    events: mpsc::Sender<RelayEvent>,
    changes: watch::Receiver<()>,
    /// Connected already, while the last connection was still there.
    better: Option<Box<Connected>>,
    /// Whether UDP did not work in this network.
    tcp_at_once: bool,
    connected_at: Option<Moment>,
}

impl Keeping {
    /// One connection, from its beginning to its end.
    async fn attend(&mut self, passes: &mut watch::Receiver<Passes>) -> Result<End> {
        let begun = clock::now();
        let identity = Arc::clone(&self.shared.identity.borrow());
        let way = connect::way(&self.entry, &identity)?;
        let connected = match self.better.take() {
            Some(better) => *better,
            None => way.connect(self.tcp_at_once).await?,
        };
        let transport = connected.transport;
        self.tcp_at_once = transport != Transport::Udp;
        let connected = Goodbye(Some(connected));
        let connection = connected.get().connection.clone();
        let (mut send, receive) = connection.open_bi().await?;
        let now = clock::now();
        self.connected_at = Some(now);
        tracing::debug!(relay = self.entry.name, %transport, "connected to a relay");
        self.events.send(RelayEvent::Connected(self.entry.id, transport, now.since(begun))).await?;
        let ends = Ends {
            relay: self.entry.id,
            shared: Arc::clone(&self.shared),
            connection: connection.clone(),
            channels: Mutex::default(),
            parts: Mutex::default(),
            busy: Arc::default(),
        };
        let speak = async {
            loop {
                let latest = Arc::clone(&passes.borrow_and_update());
                let (requests, changes) = ends.channels().show(latest.iter());
                changes.into_iter().for_each(|change| ends.follow(change));
                for request in requests {
                    stream::send(&mut send, &request, Limit::Node).await?;
                }
                if passes.changed().await.is_err() {
                    return anyhow::Ok(End::Needless);
                }
            }
        };
        let listen = async {
            let mut reader = stream::Reader::new(receive);
            while let Some(news) = reader.next::<RelayNews>().await? {
                let change = ends.channels().hear(&news);
                if let Some(change) = change {
                    ends.follow(change);
                }
            }
            // The reason for which it ended says more than the end of the stream does.
            Err(anyhow::Error::from(connection.closed().await))
        };
        let receive = async {
            loop {
                let first = connection.read_datagram().await?;
                let more = || connection.read_datagram().now_or_never().and_then(Result::ok);
                ends.receive(std::iter::once(first).chain(std::iter::from_fn(more).take(BATCH - 1)));
            }
        };
        let prove = attend::attend(connected.get(), &way, &mut self.changes, &ends.busy);
        tokio::select! {
            ended = speak => ended,
            ended = listen => ended,
            ended = receive => ended,
            anew = prove => match anew {
                Anew::Better(better) => {
                    self.better = Some(better);
                    Ok(End::Exchanged)
                }
                Anew::Lost(why) => {
                    self.tcp_at_once = false;
                    anyhow::bail!(why)
                }
            },
        }
    }
}

/// What the parts of a connection have in common. Dropped with it, and then no peer is reached through it.
struct Ends {
    relay: RelayId,
    shared: Arc<Shared>,
    connection: Connection,
    channels: Mutex<Channels>,
    parts: Mutex<Parts>,
    /// Told now and then while lanes send.
    busy: Arc<Notify>,
}

impl Drop for Ends {
    fn drop(&mut self) {
        let peers: Vec<_> = self.channels().peers().collect();
        for peer in peers {
            self.shared.outlet.close(self.relay, peer);
            self.shared.lanes.presence(self.relay, peer, false);
        }
    }
}

impl Ends {
    fn channels(&self) -> MutexGuard<'_, Channels> {
        self.channels.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn follow(&self, change: Change) {
        let Self { relay, shared, connection, busy, .. } = self;
        match change {
            Change::Opened(peer, channel) => shared.outlet.open((*relay, peer), connection, channel, busy),
            Change::Presence(peer, is_there) => shared.lanes.presence(*relay, peer, is_there),
            Change::Closed(peer, channel) => {
                shared.outlet.close(*relay, peer);
                shared.lanes.presence(*relay, peer, false);
                self.parts.lock().unwrap_or_else(PoisonError::into_inner).forget(channel);
            }
            // It comes with the last seconds of a lease, and then says nothing.
            Change::Refused(peer, RelayRefusal::Expired) => tracing::debug!(%relay, %peer, "a pass had run out"),
            Change::Refused(peer, reason) => tracing::warn!(%relay, %peer, %reason, "a relay does not take a pass"),
        }
    }

    /// Hands packets to the lanes, those of one peer together and in order.
    fn receive(&self, datagrams: impl Iterator<Item = bytes::Bytes>) {
        let mut packets: HashMap<PublicKey, Vec<Vec<u8>>> = HashMap::new();
        {
            let (channels, mut parts) = (self.channels(), self.parts.lock().unwrap_or_else(PoisonError::into_inner));
            for datagram in datagrams {
                // Of a channel that there is not: nothing that this node has asked for.
                let Some((header, bytes)) = Header::decode(&datagram) else { continue };
                let Some(peer) = channels.peer(header.channel) else { continue };
                if let Some(packet) = parts.join(header, bytes) {
                    packets.entry(peer).or_default().push(packet);
                }
            }
        }
        for (peer, packets) in packets {
            self.shared.lanes.relayed(self.relay, peer, packets);
        }
    }
}
