//! Datagrams as they are read: several with one system call, each perhaps many that the kernel has joined (GRO).

use std::{
    io::{self, IoSliceMut},
    net::{IpAddr, SocketAddr},
};

use quinn_udp::{RecvMeta, UdpSockRef};

use crate::sockets::Socket;

/// How many messages are read at once. A few only: each may hold 64 datagrams, and commands wait for all of them.
const MESSAGES: usize = 8;
/// The longest message: datagrams are joined up to the length of one IP packet.
const MESSAGE: usize = 65_536;

/// Holds one batch.
pub(crate) struct Inbox {
    buffer: Vec<u8>,
    meta: [RecvMeta; MESSAGES],
}

/// One message: datagrams from one place.
pub(crate) struct Message<'a> {
    /// Where it came from.
    pub(crate) from: SocketAddr,
    /// To which of this machine's addresses.
    pub(crate) to: Option<IpAddr>,
    bytes: &'a [u8],
    stride: usize,
}

impl<'a> Message<'a> {
    pub(crate) fn datagrams(&self) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        self.bytes.chunks(self.stride.max(1))
    }
}

impl Inbox {
    pub(crate) fn new() -> Self {
        Self { buffer: vec![0; MESSAGES * MESSAGE], meta: [RecvMeta::default(); MESSAGES] }
    }

    /// Reads one batch; none when there is nothing to read.
    pub(crate) fn receive(&mut self, socket: &Socket) -> io::Result<impl Iterator<Item = Message<'_>> + use<'_>> {
        let mut rest = self.buffer.chunks_exact_mut(MESSAGE);
        let mut slices: [IoSliceMut<'_>; MESSAGES] =
            std::array::from_fn(|_| IoSliceMut::new(rest.next().unwrap_or_default()));
        let count = match socket.state.recv(UdpSockRef::from(&socket.socket), &mut slices, &mut self.meta) {
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
            Err(error) => return Err(error),
        };
        let messages = self.meta[..count].iter().zip(self.buffer.chunks_exact(MESSAGE));
        Ok(messages.map(|(meta, bytes)| Message {
            from: meta.addr,
            to: meta.dst_ip,
            bytes: &bytes[..meta.len.min(MESSAGE)],
            stride: meta.stride,
        }))
    }
}
