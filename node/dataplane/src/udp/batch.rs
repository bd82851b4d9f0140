//! Datagrams that follow each other to the same place are made one behind the other in one buffer, and go out with one
//! system call (GSO).

use std::net::{IpAddr, SocketAddr};

use postern_packet::{Ecn, Split};
use postern_wireguard::{HEADER, OVERHEAD, Sealer};

use super::{
    Pair, Sent, Unsent,
    sockets::{Shipment, Socket},
};

/// The longest batch: the kernel builds it as one IP packet before it cuts it.
const BATCH_BYTES: usize = 65_000;
/// Room for one more datagram of the greatest length behind the longest batch.
const BUFFER_BYTES: usize = BATCH_BYTES + 65_536 + OVERHEAD;

/// Where a batch goes, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Destination {
    pub(crate) to: SocketAddr,
    /// From which of this machine's addresses: the one that the peer wrote to, or else what stands between may not know the
    /// answer for one.
    pub(crate) from: Option<IpAddr>,
    pub(crate) ecn: Ecn,
}

/// Datagrams to one place, of one length, but for the last.
#[derive(Debug)]
pub(crate) struct Batch {
    sockets: Pair,
    /// `None` when there are none.
    destination: Option<Destination>,
    buffer: Box<[u8]>,
    len: usize,
    segment: usize,
    count: usize,
    /// Lost meanwhile; to be counted.
    unsent: Unsent,
    /// A place that can't be written to from the address that it wrote to.
    gone: Option<SocketAddr>,
}

impl Batch {
    pub(crate) fn new(sockets: Pair) -> Self {
        Self {
            sockets,
            destination: None,
            buffer: vec![0; BUFFER_BYTES].into_boxed_slice(),
            len: 0,
            segment: 0,
            count: 0,
            unsent: Unsent::default(),
            gone: None,
        }
    }

    pub(crate) fn sockets(&self) -> &Pair {
        &self.sockets
    }

    /// Adds a datagram that is made already.
    pub(crate) fn push(&mut self, destination: Destination, datagram: &[u8]) {
        if datagram.len() <= self.buffer.len() - self.len {
            self.buffer[self.len..self.len + datagram.len()].copy_from_slice(datagram);
            self.take(destination, datagram.len());
        }
    }

    /// Cuts and seals packets, and adds them.
    pub(crate) fn seal(&mut self, destination: Destination, packets: &mut Split<'_>, sealer: &mut Sealer) {
        loop {
            let room = &mut self.buffer[self.len..];
            let Some(len) = packets.next(&mut room[HEADER..]) else { return };
            let Some(len) = sealer.seal(room, len) else { return };
            self.take(destination, len);
        }
    }

    /// Cuts and seals packets, and gives each to `send` instead; the batch stays as it is.
    pub(crate) fn seal_each(&mut self, packets: &mut Split<'_>, sealer: &mut Sealer, mut send: impl FnMut(&[u8])) {
        let room = &mut self.buffer[self.len..];
        while let Some(len) = packets.next(&mut room[HEADER..]) {
            let Some(len) = sealer.seal(room, len) else { return };
            send(&room[..len]);
        }
    }

    /// Makes the `len` bytes behind the batch a part of it, or the first of the next one.
    fn take(&mut self, destination: Destination, len: usize) {
        if !self.fits(destination, len) {
            let at = self.len;
            self.flush();
            self.buffer.copy_within(at..at + len, 0);
        }
        if self.count == 0 {
            self.destination = Some(destination);
            self.segment = len;
        }
        self.len += len;
        self.count += 1;
        let is_ended = len < self.segment;
        let most = self.sockets.of(&destination.to).map_or(1, |socket| Socket::max_segments(socket));
        // Full, so that nothing needs to be moved.
        if is_ended || self.count >= most || self.len + self.segment > BATCH_BYTES {
            self.flush();
        }
    }

    fn fits(&self, destination: Destination, len: usize) -> bool {
        self.count == 0 || (self.destination == Some(destination) && len <= self.segment)
    }

    /// Sends what there is.
    pub(crate) fn flush(&mut self) {
        let Some(Destination { to, from, ecn }) = self.destination.take() else { return };
        let shipment = Shipment { to, from, ecn, bytes: &self.buffer[..self.len], segment: self.segment };
        if let Some(socket) = self.sockets.of(&to) {
            let mut sent = socket.send(shipment);
            if sent == Sent::SourceGone {
                self.gone = Some(to);
                sent = socket.send(Shipment { from: None, ..shipment });
            }
            if let Sent::Done(unsent) = sent {
                self.unsent.full += unsent.full;
                self.unsent.unreachable += unsent.unreachable;
            }
        }
        (self.len, self.count) = (0, 0);
    }

    /// Sends a datagram by itself, and now, that nobody may fragment. Nobody is told when it does not fit.
    pub(crate) fn send_whole(&mut self, Destination { to, from, ecn }: Destination, datagram: &[u8]) {
        self.flush();
        if let Some(socket) = self.sockets.of(&to) {
            socket.send_whole(Shipment { to, from, ecn, bytes: datagram, segment: datagram.len() });
        }
    }

    /// The datagrams that were not sent since the last time.
    pub(crate) fn take_unsent(&mut self) -> Unsent {
        std::mem::take(&mut self.unsent)
    }

    /// A place that can no longer be written to from the address that it wrote to.
    pub(crate) fn take_gone(&mut self) -> Option<SocketAddr> {
        self.gone.take()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Offloads, Sockets};
    use std::{net::UdpSocket, num::NonZeroUsize};

    fn batch() -> Batch {
        let sockets = Sockets::bind(0, NonZeroUsize::MIN, Offloads::ALL).unwrap();
        Batch::new(sockets.into_pairs().remove(0))
    }

    fn receiver() -> (UdpSocket, Destination) {
        let receiver = UdpSocket::bind("127.0.0.1:0").unwrap();
        let destination = Destination { to: receiver.local_addr().unwrap(), from: None, ecn: Ecn::NotCapable };
        (receiver, destination)
    }

    #[test]
    fn datagrams_arrive_as_they_were_whatever_their_place_and_length() {
        let ((here, to_here), (there, to_there)) = (receiver(), receiver());
        let mut batch = batch();
        let lengths = [100, 100, 99, 100, 101, 40_000, 40_000, 1];
        for (at, len) in (0_u8..).zip(lengths) {
            batch.push(to_here, &vec![at; len]);
            batch.push(if at == 1 { to_there } else { to_here }, &[at, 77]);
        }
        batch.flush();
        let mut buffer = vec![0; 65_536];
        for (at, len) in (0_u8..).zip(lengths) {
            assert_eq!(here.recv(&mut buffer).unwrap(), len);
            assert!(buffer[..len].iter().all(|byte| *byte == at));
            let receiver = if at == 1 { &there } else { &here };
            assert_eq!(receiver.recv(&mut buffer).unwrap(), 2);
            assert_eq!(buffer[..2], [at, 77]);
        }
        assert_eq!(batch.take_unsent(), Unsent::default());
    }

    #[test]
    fn equal_datagrams_wait_for_each_other_and_no_longer_than_the_kernel_takes() {
        let (receiver, to) = receiver();
        receiver.set_nonblocking(true).unwrap();
        let mut batch = batch();
        batch.push(to, &[1; 100]);
        assert!(receiver.recv(&mut [0; 200]).is_err(), "it waits for more");
        batch.push(to, &[2; 99]);
        assert_eq!([(); 2].map(|()| receiver.recv(&mut [0; 200]).unwrap()), [100, 99], "a shorter one is the last");
        let most = batch.sockets.v4.max_segments();
        for _ in 0..most {
            batch.push(to, &[3; 10]);
        }
        assert!((0..most).all(|_| receiver.recv(&mut [0; 200]).is_ok()), "as many as the kernel cuts");
    }
}
