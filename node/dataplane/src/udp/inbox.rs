//! Datagrams as they are read: several with one system call, each perhaps many that the kernel has joined (GRO). They are
//! opened where they lie.

use std::{
    io::{self, IoSliceMut},
    net::IpAddr,
    ops::Range,
};

use arrayvec::ArrayVec;
use postern_engine::Endpoint;
use postern_packet::{Ecn, HEADROOM};
use quinn_udp::{RecvMeta, UdpSockRef};

use super::sockets::Socket;

/// How many messages are read at once. A few only: each may hold 64 datagrams, and commands wait for all of them.
pub(crate) const MESSAGES: usize = 8;
/// The longest message: datagrams are joined up to the length of one IP packet.
const MESSAGE: usize = 65_536;
/// The place of one, with room in front for a longer header of the first packet inside.
const PLACE: usize = HEADROOM + MESSAGE;

/// Holds one batch.
pub(crate) struct Inbox {
    buffer: Box<[u8]>,
    meta: [RecvMeta; MESSAGES],
    count: usize,
}

/// One message: datagrams from one place.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Message {
    /// Where it came from.
    pub(crate) from: Endpoint,
    /// To which of this machine's addresses.
    pub(crate) to: Option<IpAddr>,
    /// What the outer header says of congestion.
    pub(crate) ecn: Ecn,
    at: usize,
    len: usize,
    stride: usize,
}

impl Message {
    /// Where each datagram lies in the buffer.
    pub(crate) fn datagrams(self) -> impl Iterator<Item = Range<usize>> {
        let stride = self.stride.max(1);
        (0..self.len).step_by(stride).map(move |at| self.at + at..self.at + (at + stride).min(self.len))
    }
}

impl Inbox {
    pub(crate) fn new() -> Self {
        Self { buffer: vec![0; MESSAGES * PLACE].into_boxed_slice(), meta: [RecvMeta::default(); MESSAGES], count: 0 }
    }

    /// Reads one batch; whether there is any.
    pub(crate) fn receive(&mut self, socket: &Socket) -> io::Result<bool> {
        let mut rest = self.buffer.chunks_exact_mut(PLACE);
        let mut slices: [IoSliceMut<'_>; MESSAGES] =
            std::array::from_fn(|_| IoSliceMut::new(rest.next().map_or(&mut [], |place| &mut place[HEADROOM..])));
        self.count = match socket.state.recv(UdpSockRef::from(&socket.socket), &mut slices, &mut self.meta) {
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
            Err(error) => {
                self.count = 0;
                return Err(error);
            }
        };
        Ok(self.count > 0)
    }

    /// Puts in datagrams that were not read from a socket, in place of what there is; `next` hands out one after the other to
    /// whoever takes it, which is nobody when there is no room left.
    pub(crate) fn fill(
        &mut self,
        messages: &mut Vec<Message>,
        next: impl FnOnce(&mut dyn FnMut(Endpoint, &[u8]) -> bool),
    ) {
        messages.clear();
        self.count = 0;
        let mut at = 0;
        next(&mut |from, datagram| {
            let start = at + HEADROOM;
            let Some(place) = self.buffer.get_mut(start..start + datagram.len()) else { return false };
            place.copy_from_slice(datagram);
            let (len, ecn) = (datagram.len(), Ecn::NotCapable);
            messages.push(Message { from, to: None, ecn, at: start, len, stride: len });
            at = start + len;
            true
        });
    }

    /// What was read last.
    pub(crate) fn messages(&self) -> ArrayVec<Message, MESSAGES> {
        let messages = self.meta[..self.count].iter().enumerate().map(|(nth, meta)| Message {
            from: meta.addr.into(),
            to: meta.dst_ip,
            ecn: meta.ecn.map_or(Ecn::NotCapable, |ecn| Ecn::from_bits(ecn as u8)),
            at: nth * PLACE + HEADROOM,
            len: meta.len.min(MESSAGE),
            stride: meta.stride,
        });
        messages.collect()
    }

    /// Where it lies.
    pub(crate) fn buffer(&mut self) -> &mut [u8] {
        &mut self.buffer
    }
}
