//! From TUN to the peers: a batch of packets is read, decided about, then cut, sealed and sent.

use std::{io, ops::Range};

use arrayvec::ArrayVec;
use postern_engine::{Departure, Endpoint};
use postern_packet::{HEADROOM, Offload, PacketBuf};

use super::{exit::Exit, shared::Shared};
use crate::{
    clock,
    tun::{Queue, is_gone, vnet},
    udp::batch::Destination,
};

/// How many packets are read from TUN before the other sources have their turn.
const PACKETS: usize = 64;
/// What one read may bring: a super-packet and its header.
const LONGEST: usize = vnet::LEN + 65_536;
/// A few super-packets, or many small packets.
const BUFFER: usize = 4 * (HEADROOM + LONGEST);

/// Packets on their way out.
pub(crate) struct Egress {
    queue: Queue,
    buffer: Box<[u8]>,
}

/// A packet as it was read.
struct Slot {
    /// With room in front.
    place: Range<usize>,
    offload: Offload,
}

impl Egress {
    pub(crate) fn new(queue: Queue) -> Self {
        Self { queue, buffer: vec![0; BUFFER].into_boxed_slice() }
    }

    /// Takes one batch of packets from TUN, and sends them.
    pub(crate) fn turn(&mut self, shared: &Shared, exit: &mut Exit) -> io::Result<()> {
        let slots = self.read()?;
        if slots.is_empty() {
            return Ok(());
        }
        let now = clock::now();
        let mut departures: ArrayVec<(Departure<'_>, Option<Destination>), PACKETS> = ArrayVec::new();
        {
            let mut core = shared.core();
            let (forwarder, mut sink) = core.parts(exit);
            let mut buffer = &mut self.buffer[..];
            let mut taken = 0;
            for Slot { place, offload } in slots {
                let (place_and_before, rest) = buffer.split_at_mut(place.end - taken);
                let slot = &mut place_and_before[place.start - taken..];
                (buffer, taken) = (rest, place.end);
                let Some(packet) = PacketBuf::new(slot, HEADROOM) else { continue };
                if let Some(departure) = forwarder.depart(packet, offload, &mut sink, now) {
                    let direct = departure.to.direct();
                    let destination = direct.map(|to| sink.sources.destination(to, departure.ecn));
                    departures.push((departure, destination));
                }
            }
        }
        for (mut departure, destination) in departures {
            let (packets, sealer) = (&mut departure.packets, &mut departure.sealer);
            match (departure.to, destination) {
                (Endpoint::Relayed { relay, peer }, _) => exit.seal_relayed((relay, &peer), packets, sealer),
                (Endpoint::Direct(_), Some(destination)) => exit.batch.seal(destination, packets, sealer),
                (Endpoint::Direct(_), None) => {}
            }
        }
        exit.batch.flush();
        Ok(())
    }

    fn read(&mut self) -> io::Result<ArrayVec<Slot, PACKETS>> {
        let mut slots = ArrayVec::new();
        let mut at = 0;
        while !slots.is_full() && self.buffer.len() - at >= HEADROOM + LONGEST {
            // The header that the kernel puts in front lies in the packet's room, and is of no use once it is read.
            let header_at = at + HEADROOM - vnet::LEN;
            let len = match self.queue.read(&mut self.buffer[header_at..header_at + LONGEST]) {
                Ok(len) => len,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) if is_gone(&error) => return Err(error),
                // One packet that the kernel could not hand over.
                Err(error) => {
                    tracing::debug!(%error, "not read from TUN");
                    break;
                }
            };
            let Some((header, packet)) = self.buffer[header_at..header_at + len].split_first_chunk_mut() else { break };
            let offload = vnet::decode(header, packet);
            let place = at..header_at + len;
            at = place.end;
            match offload {
                Some(offload) => slots.push(Slot { place, offload }),
                None => tracing::debug!("a packet from TUN with an offload that was not asked for"),
            }
        }
        Ok(slots)
    }
}
