//! Every connection of every device, whether or not it has the session: a device that is shut out loses them all.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use postern_model::DeviceId;
use postern_wire::close;
use quinn::Connection;

/// Connections that one device may have: its own, one that takes over, and what has not yet noticed that it is over.
const PER_DEVICE: usize = 4;
/// How long a connection that is told to end may take to hear of it.
const FAREWELL: Duration = Duration::from_secs(2);

/// All connections of enrolled devices.
#[derive(Debug, Default)]
pub(crate) struct Registry(Mutex<Connections>);

#[derive(Debug, Default)]
struct Connections {
    /// The oldest first.
    open: HashMap<DeviceId, Vec<Entry>>,
    /// To the relay; the oldest first.
    relayed: HashMap<DeviceId, Vec<(u64, Connection)>>,
    /// Which of its connections has a device's session.
    sessions: HashMap<DeviceId, u64>,
}

#[derive(Debug)]
struct Entry {
    number: u64,
    connection: Connection,
    /// Whether it has, or had, the session.
    has_begun: bool,
}

impl Registry {
    /// A device connected. Has it too many connections, the oldest without a session is closed.
    pub(crate) fn add(&self, device: DeviceId, number: u64, connection: Connection) {
        let mut all = self.lock();
        let session = all.sessions.get(&device).copied();
        let entries = all.open.entry(device).or_default();
        if entries.len() >= PER_DEVICE {
            let fresh = entries.iter().position(|entry| !entry.has_begun);
            let other = || entries.iter().position(|entry| Some(entry.number) != session);
            if let Some(excess) = fresh.or_else(other) {
                entries.remove(excess).connection.close(close::RETRY.into(), b"too many connections of this device");
            }
        }
        entries.push(Entry { number, connection, has_begun: false });
    }

    /// It is gone.
    pub(crate) fn remove(&self, device: DeviceId, number: u64) {
        let mut all = self.lock();
        if all.sessions.get(&device) == Some(&number) {
            all.sessions.remove(&device);
        }
        if let Some(entries) = all.open.get_mut(&device) {
            entries.retain(|entry| entry.number != number);
            if entries.is_empty() {
                all.open.remove(&device);
            }
        }
    }

    /// A device connected to the relay. Has it too many connections there, the oldest is closed.
    pub(crate) fn add_relayed(&self, device: DeviceId, number: u64, connection: Connection) {
        let mut all = self.lock();
        let entries = all.relayed.entry(device).or_default();
        if entries.len() >= PER_DEVICE {
            entries.remove(0).1.close(close::RETRY.into(), b"too many connections of this device");
        }
        entries.push((number, connection));
    }

    /// It is gone.
    pub(crate) fn remove_relayed(&self, device: DeviceId, number: u64) {
        let mut all = self.lock();
        if let Some(entries) = all.relayed.get_mut(&device) {
            entries.retain(|(other, _)| *other != number);
            if entries.is_empty() {
                all.relayed.remove(&device);
            }
        }
    }

    /// The device's session is this connection's from now on.
    pub(crate) fn begin_session(&self, device: DeviceId, number: u64) {
        let mut all = self.lock();
        all.sessions.insert(device, number);
        let mut entries = all.open.get_mut(&device).into_iter().flatten();
        if let Some(entry) = entries.find(|entry| entry.number == number) {
            entry.has_begun = true;
        }
    }

    /// Whether the device's session is this connection's.
    pub(crate) fn has_session(&self, device: DeviceId, number: u64) -> bool {
        self.lock().sessions.get(&device) == Some(&number)
    }

    /// Closes all connections of a device that is revoked or removed: at once, or where there was a session, after it
    /// could hear why.
    pub(crate) fn shut_out(&self, device: DeviceId) {
        let all = self.lock();
        for (_, connection) in all.relayed.get(&device).into_iter().flatten() {
            connection.close(close::UNAUTHORIZED.into(), b"this device is revoked or removed");
        }
        for entry in all.open.get(&device).into_iter().flatten() {
            if entry.has_begun {
                close_soon(&entry.connection, close::UNAUTHORIZED);
            } else {
                entry.connection.close(close::UNAUTHORIZED.into(), b"this device is revoked or removed");
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Connections> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Closes a connection in a moment, unless it ends by itself: the last words may still be on their way, but whether the
/// node reads them is not for the node to decide.
pub(crate) fn close_soon(connection: &Connection, code: u32) {
    let connection = connection.clone();
    tokio::spawn(async move {
        if tokio::time::timeout(FAREWELL, connection.closed()).await.is_err() {
            connection.close(code.into(), b"");
        }
    });
}
