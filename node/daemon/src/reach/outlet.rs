//! [`Outlet`]: how lanes send through relays, from their own threads: a look into a table, and the datagram is quinn's.

use std::{
    collections::HashMap,
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicU16, Ordering},
    },
};

use bytes::Bytes;
use postern_model::{PublicKey, RelayId};
use quinn::Connection;

use super::parts;

/// The channels that there are, over all relays. Clones are the same one.
#[derive(Debug, Clone, Default)]
pub(crate) struct Outlet(Arc<RwLock<HashMap<(RelayId, PublicKey), Route>>>);

#[derive(Debug, Clone)]
struct Route {
    connection: Connection,
    channel: u32,
    /// Numbers packets that go in two parts.
    number: Arc<AtomicU16>,
}

impl Outlet {
    /// From now on, what is for this peer at this relay goes through this channel of the connection.
    pub(super) fn open(&self, relay: RelayId, peer: PublicKey, connection: &Connection, channel: u32) {
        let route = Route { connection: connection.clone(), channel, number: Arc::default() };
        self.0.write().unwrap_or_else(PoisonError::into_inner).insert((relay, peer), route);
    }

    /// There is no channel for this peer at this relay any more.
    pub(super) fn close(&self, relay: RelayId, peer: PublicKey) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).remove(&(relay, peer));
    }

    /// Sends a sealed packet to a peer through a relay; whether it went. Never waits: what finds no room is dropped, as on any
    /// other path.
    pub(crate) fn send(&self, relay: RelayId, peer: &PublicKey, packet: &[u8], may_split: bool) -> bool {
        let route = self.0.read().unwrap_or_else(PoisonError::into_inner).get(&(relay, *peer)).cloned();
        let Some(Route { connection, channel, number }) = route else { return false };
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
