//! Where the forwarder's output goes. Packets are written to TUN at once; datagrams that follow each other to the same
//! place are collected, and go out with one system call (GSO).

use std::{
    collections::HashMap,
    io,
    net::{IpAddr, SocketAddr},
};

use postern_engine::{ForwarderSink, Miss};

use crate::{
    LaneEvent,
    sockets::{Sent, Sockets},
    tun::Tun,
};

/// The longest batch: the kernel builds it as one IP packet before it cuts it.
const BATCH_BYTES: usize = 65_000;
/// For how many places it is remembered where they wrote to. Beyond that the kernel's choice must do for a while.
const MAX_SOURCES: usize = 16_384;

/// Everything that the lane writes to.
pub(crate) struct Outbox<E> {
    pub(crate) tun: Tun,
    pub(crate) sockets: Sockets,
    pub(crate) events: E,
    batch: Batch,
    /// From which of this machine's addresses to write to a place: the one that it wrote to, or else what stands
    /// between may not know the answer for one. Not authenticated: the worst of it is an answer from another address
    /// of ours.
    sources: HashMap<SocketAddr, IpAddr>,
    /// Lost because a socket, or TUN, was full; to be counted.
    full: usize,
    /// Why TUN can't be written to any more.
    failed: Option<io::Error>,
}

impl<E: FnMut(LaneEvent)> Outbox<E> {
    pub(crate) fn new(tun: Tun, sockets: Sockets, events: E) -> Self {
        let batch = Batch { bytes: Vec::with_capacity(BATCH_BYTES), ..Batch::default() };
        Self { tun, sockets, events, batch, sources: HashMap::new(), full: 0, failed: None }
    }

    /// Remembers that `from` writes to this machine's address `to`.
    pub(crate) fn note_source(&mut self, from: SocketAddr, to: IpAddr) {
        if self.sources.get(&from) != Some(&to) {
            if self.sources.len() >= MAX_SOURCES {
                self.sources.clear();
            }
            self.sources.insert(from, to);
        }
    }

    /// Sends what was collected.
    pub(crate) fn flush(&mut self) {
        let Some(to) = self.batch.to.take() else { return };
        let (bytes, segment) = (&self.batch.bytes[..], self.batch.segment);
        if let Some(socket) = self.sockets.of(&to) {
            let mut sent = socket.send(to, self.sources.get(&to).copied(), bytes, segment);
            if sent == Sent::SourceGone {
                self.sources.remove(&to);
                sent = socket.send(to, None, bytes, segment);
            }
            if let Sent::Full(lost) = sent {
                self.full += lost;
            }
        }
        self.batch.bytes.clear();
    }

    /// How many packets and datagrams were lost to full sockets since the last time.
    pub(crate) fn take_full(&mut self) -> usize {
        std::mem::take(&mut self.full)
    }

    /// Why TUN can't be written to any more, if so.
    pub(crate) fn take_failure(&mut self) -> Option<io::Error> {
        self.failed.take()
    }
}

impl<E: FnMut(LaneEvent)> ForwarderSink for Outbox<E> {
    fn send_datagram(&mut self, to: SocketAddr, datagram: &[u8]) {
        let Some(socket) = self.sockets.of(&to) else { return };
        let most = socket.state.max_gso_segments();
        if !self.batch.push(to, datagram, most) {
            self.flush();
            self.batch.push(to, datagram, most);
        }
    }

    fn send_packet(&mut self, packet: &[u8]) {
        let Err(error) = self.tun.write(packet) else { return };
        match error.raw_os_error() {
            Some(libc::EAGAIN | libc::ENOBUFS | libc::ENOMEM) => self.full += 1,
            Some(libc::EBADFD | libc::EBADF | libc::ENODEV) => self.failed = Some(error),
            // The device is down (EIO), or the kernel does not like the packet (EINVAL).
            _ => tracing::trace!(%error, "not written to TUN"),
        }
    }

    fn miss(&mut self, miss: Miss) {
        (self.events)(LaneEvent::Miss(miss));
    }
}

/// Datagrams to one place, of one length, but for the last.
#[derive(Debug, Default)]
struct Batch {
    /// To where; `None` when there are none.
    to: Option<SocketAddr>,
    bytes: Vec<u8>,
    segment: usize,
}

impl Batch {
    /// Adds a datagram; `false` when it does not fit to the others. An empty batch takes any.
    fn push(&mut self, to: SocketAddr, datagram: &[u8], most: usize) -> bool {
        if self.to.is_none() {
            self.to = Some(to);
            self.bytes.clear();
            self.segment = datagram.len();
        } else {
            let len = self.bytes.len();
            // A shorter one was the last.
            let is_whole = len.is_multiple_of(self.segment.max(1)) && self.segment > 0;
            let fits = datagram.len() <= self.segment
                && len / self.segment.max(1) < most
                && len + datagram.len() <= BATCH_BYTES;
            if self.to != Some(to) || !is_whole || !fits {
                return false;
            }
        }
        self.bytes.extend_from_slice(datagram);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_has_one_place_one_length_and_ends_with_a_shorter_one() {
        let [here, there]: [SocketAddr; 2] = [([127, 0, 0, 1], 1).into(), ([127, 0, 0, 1], 2).into()];
        let mut batch = Batch::default();
        assert!(batch.push(here, &[1; 100], 64));
        assert!(batch.push(here, &[2; 100], 64));
        assert!(!batch.push(there, &[3; 100], 64), "another place");
        assert!(!batch.push(here, &[3; 101], 64), "longer");
        assert!(!batch.push(here, &[3; 100], 2), "more than the kernel cuts");
        assert!(batch.push(here, &[3; 99], 64));
        assert!(!batch.push(here, &[4; 99], 64), "after a shorter one");
        assert_eq!((batch.bytes.len(), batch.segment), (299, 100));

        let mut batch = Batch::default();
        assert!(batch.push(here, &[0; 40_000], 64));
        assert!(!batch.push(here, &[0; 40_000], 64), "more than an IP packet");
    }
}
