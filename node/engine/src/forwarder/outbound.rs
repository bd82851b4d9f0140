//! The way out, in two steps: [`Forwarder::depart`] decides about a packet or a super-packet, and reserves the counters it
//! needs; cutting and sealing it is then nobody's business but the caller's, who may do it while others decide.

use postern_model::{Moment, PublicKey};
use postern_packet::{Ecn, HEADROOM, Offload, PacketBuf, Parsed, Split, Transport, clamp_mss};
use postern_wireguard::{HEADER, OVERHEAD, Sealer};

use super::{Forwarder, ForwarderSink, Miss, answer::Refusal};
use crate::{DropReason, Endpoint};

/// IPv4's flag of that name, in the header's byte 6.
const DONT_FRAGMENT: u8 = 0x40;

/// What may go to a peer.
#[derive(Debug)]
pub struct Departure<'a> {
    /// Each of these is to be sealed, in this order,
    pub packets: Split<'a>,
    /// with this,
    pub sealer: Sealer,
    /// and sent there,
    pub to: Endpoint,
    /// with this in the outer header (RFC 6040 section 4.1).
    pub ecn: Ecn,
}

/// Where a packet goes that may pass.
pub(super) struct Onward {
    pub(super) peer: PublicKey,
    /// Where everything is in it by now.
    pub(super) parsed: Parsed,
}

/// How much a packet, or a super-packet, is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Extent {
    /// Packets that it is cut into.
    pub(super) packets: u64,
    /// Bytes of them all.
    pub(super) bytes: u64,
    /// Bytes of the longest.
    pub(super) longest: usize,
}

impl Extent {
    /// Of a packet of which at least the headers are there.
    pub(super) fn of(packet: &[u8], parsed: &Parsed, offload: Offload) -> Self {
        let header = parsed.offset
            + match parsed.transport {
                Transport::Tcp => parsed.tcp(packet).map_or(0, |segment| segment.header),
                Transport::Udp => 8,
                _ => 0,
            };
        let payload = parsed.len.saturating_sub(header);
        match offload.segment.map(|segment| usize::from(segment.get())) {
            Some(segment) if payload > segment => {
                let packets = payload.div_ceil(segment);
                let bytes = (packets * header + payload) as u64;
                Self { packets: packets as u64, bytes, longest: header + segment }
            }
            _ => Self { packets: 1, bytes: parsed.len as u64, longest: parsed.len },
        }
    }
}

impl Forwarder {
    /// Whether a packet of the local side fits into the tunnel of a peer, up to `mtu` bytes of it for that peer's path and
    /// `most` for any. What is longer than the path is, but may be fragmented, goes on: outside, it will be.
    pub(super) fn fit(packet: &[u8], parsed: &Parsed, offload: Offload, mtu: u16, most: u16) -> Result<(), Refusal> {
        let longest = Extent::of(packet, parsed, offload).longest;
        let mtu = mtu.min(most);
        let may_be_fragmented = !parsed.is_v6() && packet.get(6).is_some_and(|byte| byte & DONT_FRAGMENT == 0);
        let limit = if may_be_fragmented { most } else { mtu };
        if longest > usize::from(limit) { Err(Refusal::TooBig(mtu)) } else { Ok(()) }
    }

    /// A packet read from TUN, perhaps a super-packet. With [`HEADROOM`] in front of it.
    pub fn depart<'a>(
        &mut self,
        mut packet: PacketBuf<'a>,
        offload: Offload,
        sink: &mut impl ForwarderSink,
        now: Moment,
    ) -> Option<Departure<'a>> {
        self.settle(sink, now);
        let parsed = self.parse(packet.bytes())?;
        let to_device = self.table.as_ref().is_some_and(|table| table.ranges.is_device(parsed.dst));
        let passed = if to_device {
            self.gateway_outbound(&mut packet, &parsed, offload, sink, now)
        } else {
            let passed = self.client_outbound(packet.bytes(), &parsed, offload, sink, now);
            if let Ok(Some(onward)) = &passed {
                clamp_mss(packet.bytes_mut(), &parsed, self.peers.mtu(&onward.peer));
            }
            passed
        };
        let Onward { peer, parsed } = match passed {
            Ok(onward) => onward?,
            Err(refusal) => {
                self.refuse_to_tun(packet.bytes(), &parsed, refusal, sink, now);
                return None;
            }
        };
        let packet: &'a [u8] = packet.into_bytes();
        let ecn = Ecn::of(packet, &parsed);
        let Ok(packets) = Split::new(&packet[..parsed.len], &parsed, offload) else {
            self.counters.count(DropReason::Malformed);
            return None;
        };
        let (packets, sealer, to) = self.peers.depart(&peer, packets, sink, &mut self.counters, now)?;
        Some(Departure { packets, sealer, to, ecn })
    }

    /// A packet read from TUN, or one replayed after its grant came: all steps at once.
    pub fn handle_packet(&mut self, packet: &[u8], sink: &mut impl ForwarderSink, now: Moment) {
        let mut buffer = [&[0; HEADROOM], packet].concat();
        let Some(packet) = PacketBuf::new(&mut buffer, HEADROOM) else { return };
        let Some(mut departure) = self.depart(packet, Offload::default(), sink, now) else { return };
        let mut datagram = vec![0; departure.packets.longest() + OVERHEAD];
        while let Some(len) = departure.packets.next(&mut datagram[HEADER..]) {
            if let Some(len) = departure.sealer.seal(&mut datagram, len) {
                sink.send_datagram(departure.to, &datagram[..len]);
            }
        }
    }
}

/// Asks for a grant for what a super-packet stands for, packet by packet.
pub(super) fn ask(miss: impl Fn(Vec<u8>) -> Miss, packets: Split<'_>, sink: &mut impl ForwarderSink) {
    let mut packets = packets;
    let mut packet = vec![0; packets.longest()];
    while let Some(len) = packets.next(&mut packet) {
        sink.miss(miss(packet[..len].to_vec()));
    }
}
