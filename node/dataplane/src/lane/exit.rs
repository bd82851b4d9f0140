//! Where a lane's output goes: packets to TUN and datagrams to relays, at once; other datagrams into a batch.

use std::{
    io::{self, IoSlice},
    sync::Arc,
};

use arrayvec::ArrayVec;
use postern_engine::DropReason;
use postern_model::{PublicKey, RelayId};
use postern_packet::Split;
use postern_wireguard::Sealer;

use crate::{
    RelayOut,
    tun::{Queue, is_gone, vnet},
    udp::{Pair, Unsent, batch::Batch},
};

/// A head, its header, and what the coalescer joins to it at most.
const PIECES: usize = 2 + postern_packet::MAX_JOINED;

/// One lane's way out.
pub(crate) struct Exit {
    /// What is written here comes back, if it is answered, through this queue.
    queue: Queue,
    pub(crate) batch: Batch,
    relay: Arc<dyn RelayOut>,
    /// Packets lost because TUN was full, or did not take them; to be counted.
    full: usize,
    refused: usize,
    /// Datagrams that a relay did not take.
    relay_full: usize,
    /// Why TUN can't be written to any more.
    failed: Option<io::Error>,
}

impl Exit {
    pub(crate) fn new(queue: Queue, sockets: Pair, relay: Arc<dyn RelayOut>) -> Self {
        Self { queue, batch: Batch::new(sockets), relay, full: 0, refused: 0, relay_full: 0, failed: None }
    }

    /// Sends a datagram through a relay.
    pub(crate) fn relay(&mut self, relay: RelayId, peer: &PublicKey, datagram: &[u8], may_split: bool) {
        self.relay_full += usize::from(!self.relay.send(relay, peer, datagram, may_split));
    }

    /// Cuts and seals packets, and sends each through a relay.
    pub(crate) fn seal_relayed(
        &mut self,
        (relay, peer): (RelayId, &PublicKey),
        packets: &mut Split<'_>,
        sealer: &mut Sealer,
    ) {
        let Self { batch, relay: out, relay_full, .. } = self;
        batch.seal_each(packets, sealer, |datagram| {
            *relay_full += usize::from(!out.send(relay, peer, datagram, true));
        });
    }

    /// Writes a packet that needs nothing done to it.
    pub(crate) fn write_plain(&mut self, packet: &[u8]) {
        self.write(&[IoSlice::new(&[0; vnet::LEN]), IoSlice::new(packet)], 1);
    }

    /// Writes a packet, perhaps a super-packet: its head, what the kernel is to be told of it, and the payloads that follow.
    pub(crate) fn write_joined<'a>(
        &mut self,
        head: &'a [u8],
        header: &'a [u8; vnet::LEN],
        rest: impl Iterator<Item = &'a [u8]>,
    ) {
        let mut pieces: ArrayVec<IoSlice<'_>, PIECES> = ArrayVec::new();
        pieces.push(IoSlice::new(header));
        pieces.push(IoSlice::new(head));
        pieces.extend(rest.map(IoSlice::new).take(PIECES - 2));
        let packets = pieces.len() - 1;
        self.write(&pieces, packets);
    }

    /// Writes what lies in pieces and stands for so many packets.
    fn write(&mut self, pieces: &[IoSlice<'_>], packets: usize) {
        let Err(error) = self.queue.write(pieces) else { return };
        match error.raw_os_error() {
            Some(libc::EAGAIN | libc::ENOBUFS | libc::ENOMEM) => self.full += packets,
            _ if is_gone(&error) => self.failed = Some(error),
            // The device is down (EIO), or the kernel does not like the packet (EINVAL).
            _ => {
                tracing::trace!(%error, "not written to TUN");
                self.refused += packets;
            }
        }
    }

    /// How many packets and datagrams were lost since the last time, by why.
    pub(crate) fn take_lost(&mut self) -> [(DropReason, usize); 5] {
        let Unsent { full, unreachable } = self.batch.take_unsent();
        [
            (DropReason::TunFull, std::mem::take(&mut self.full)),
            (DropReason::TunRefused, std::mem::take(&mut self.refused)),
            (DropReason::RelayFull, std::mem::take(&mut self.relay_full)),
            (DropReason::SocketFull, full),
            (DropReason::Unreachable, unreachable),
        ]
    }

    /// Why TUN can't be written to any more, if so.
    pub(crate) fn take_failure(&mut self) -> Option<io::Error> {
        self.failed.take()
    }
}
