//! [`Outlet`]: how lanes send through relays, from their own threads: a look into a table, and the datagram is quinn's.

use std::{
    collections::HashMap,
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicU16, AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use postern_dataplane::clock;
use postern_model::{PublicKey, RelayId};
use quinn::Connection;
use tokio::sync::Notify;

use super::parts;

/// While something is sent, that is told this often at most, in milliseconds.
const TOLD_EVERY: u64 = 500;

/// The channels that there are, over all relays. Clones are the same one.
#[derive(Debug, Clone, Default)]
pub(crate) struct Outlet(Arc<RwLock<HashMap<(RelayId, PublicKey), Route>>>);

#[derive(Debug, Clone)]
struct Route {
    connection: Connection,
    channel: u32,
    /// Numbers packets that go in two parts.
    number: Arc<AtomicU16>,
    /// Told that something is sent, and when it was last, in milliseconds since the machine's start.
    busy: Arc<Notify>,
    told: Arc<AtomicU64>,
}

impl Route {
    /// Whoever looks after the connection is to see whether anything comes back.
    fn tell(&self) {
        let now = u64::try_from(clock::now().since_boot().as_millis()).unwrap_or(u64::MAX);
        if now.saturating_sub(self.told.load(Ordering::Relaxed)) >= TOLD_EVERY {
            self.told.store(now, Ordering::Relaxed);
            self.busy.notify_one();
        }
    }
}

impl Outlet {
    /// From now on, what is for this peer at this relay goes through this channel of the connection, and `busy` is told while
    /// anything does.
    pub(super) fn open(&self, peer: (RelayId, PublicKey), connection: &Connection, channel: u32, busy: &Arc<Notify>) {
        let (connection, busy) = (connection.clone(), Arc::clone(busy));
        let route = Route { connection, channel, number: Arc::default(), busy, told: Arc::default() };
        self.0.write().unwrap_or_else(PoisonError::into_inner).insert(peer, route);
    }

    /// There is no channel for this peer at this relay any more.
    pub(super) fn close(&self, relay: RelayId, peer: PublicKey) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).remove(&(relay, peer));
    }

    /// Sends a sealed packet to a peer through a relay; whether it went. Never waits: what finds no room is dropped, as on any
    /// other path.
    pub(crate) fn send(&self, relay: RelayId, peer: &PublicKey, packet: &[u8], may_split: bool) -> bool {
        let route = self.0.read().unwrap_or_else(PoisonError::into_inner).get(&(relay, *peer)).cloned();
        let Some(route) = route else { return false };
        route.tell();
        let Route { connection, channel, number, .. } = route;
        let Some(max) = connection.max_datagram_size() else { return false };
        let datagrams = parts::cut(packet, channel, number.fetch_add(1, Ordering::Relaxed), max, may_split);
        let len: usize = datagrams.iter().map(Vec::len).sum();
        // quinn would make room by dropping the oldest, of other peers too.
        if datagrams.is_empty() || connection.datagram_send_buffer_space() < len {
            return false;
        }
        datagrams.into_iter().all(|datagram| connection.send_datagram(Bytes::from(datagram)).is_ok())
    }
}
