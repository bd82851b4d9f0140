//! The gateway side: clients' packets to targets, and the replies.
//!
//! In: the source is exactly the peer's, a grant is carried for it and the resource, its ports and its lease hold; the
//! client's word counts for nothing. The packet then goes to the target from the client's overlay address of the target's
//! family. Out: only replies to such flows, which come from the resource's overlay address again.

use postern_model::{Moment, PublicKey};
use postern_packet::{Offload, PacketBuf, Parsed, RewriteError, Transport, clamp_mss, rewrite, rewrite_error};

use super::{
    Forwarder, ForwarderSink,
    answer::Refusal,
    flows::Tuple,
    outbound::{Extent, Onward},
    tcp::End,
};
use crate::DropReason;

/// By how much an IPv6 header is longer than an IPv4 header.
const FAMILY_DIFFERENCE: u16 = 20;

impl Forwarder {
    /// A packet from a peer to anything but this node's own address.
    pub(super) fn gateway_inbound(
        &mut self,
        peer: &PublicKey,
        packet: &mut PacketBuf<'_>,
        parsed: &Parsed,
        offload: Offload,
        sink: &mut impl ForwarderSink,
        now: Moment,
    ) -> Result<Option<Parsed>, Refusal> {
        // Identity is the tunnel's key. Nobody else is told anything, least of all whoever has that address.
        if !self.peers.client_addr(peer).is_some_and(|addr| addr.contains(parsed.src)) {
            return Err(Refusal::Silent(DropReason::ForeignSource));
        }
        let table = self.table.as_ref().ok_or(Refusal::Silent(DropReason::NoGrant))?;
        if parsed.transport == Transport::IcmpError {
            return self.gateway_inbound_error(peer, packet.bytes(), parsed, sink).map(|()| None);
        }
        let Some(inside) = Tuple::from_client(parsed) else {
            return Err(Refusal::Answered(match parsed.transport {
                Transport::EchoReply => DropReason::NoFlow,
                _ => DropReason::UnsupportedProtocol,
            }));
        };
        let segment = parsed.tcp(packet.bytes());
        let flow = if self.gateway.by_inside(&inside).is_some() {
            let flow = self.gateway.by_inside(&inside).filter(|flow| flow.peer == *peer);
            flow.ok_or(Refusal::Silent(DropReason::ForeignSource))?
        } else {
            let grant = table
                .inbound(peer, (inside.client, inside.service), inside.protocol, inside.service_port, now)
                .map_err(|reason| match reason {
                    DropReason::ForeignSource => Refusal::Silent(reason),
                    _ => Refusal::Answered(reason),
                })?;
            self.gateway.open(inside, grant, segment.as_ref(), &mut self.activity, now).map_err(Refusal::Answered)?
        };
        self.activity.note(flow, End::Opener, segment.as_ref(), now);
        // The answers are as long as this lets them be, and come through TUN before they are translated.
        let longer_by = if flow.outside.service.is_ipv6() && !parsed.is_v6() { FAMILY_DIFFERENCE } else { 0 };
        clamp_mss(packet.bytes_mut(), parsed, self.peers.mtu(peer).saturating_sub(longer_by));
        let extent = Extent::of(packet.bytes(), parsed, offload);
        let rewritten = rewrite(packet, parsed, &flow.outside.to_service()).map_err(untranslated)?;
        flow.account.up += extent.bytes;
        self.counters.in_packets += extent.packets;
        Ok(Some(rewritten))
    }

    /// A client's ICMP error about a reply that it got.
    fn gateway_inbound_error(
        &mut self,
        peer: &PublicKey,
        packet: &[u8],
        parsed: &Parsed,
        sink: &mut impl ForwarderSink,
    ) -> Result<(), Refusal> {
        let no_flow = Refusal::Silent(DropReason::NoFlow);
        let quoted = parsed.quoted(packet).ok_or(no_flow)?;
        let inside = Tuple::to_client(&quoted.packet).ok_or(no_flow)?;
        if (inside.client, inside.service) != (parsed.src, parsed.dst) {
            return Err(no_flow);
        }
        let flow = self.gateway.by_inside(&inside).filter(|flow| flow.peer == *peer).ok_or(no_flow)?;
        let outer = (flow.outside.client, flow.outside.service);
        let rewritten = rewrite_error(packet, parsed, &quoted, outer, &flow.outside.to_opener(), &mut self.scratch)
            .map_err(untranslated)?;
        flow.account.up += parsed.len as u64;
        self.counters.in_packets += 1;
        sink.send_packet(rewritten);
        Ok(())
    }

    /// A packet from TUN to a device's overlay address: from a target, from a router on the way, or from someone who has
    /// no business with the client.
    pub(super) fn gateway_outbound(
        &mut self,
        packet: &mut PacketBuf<'_>,
        parsed: &Parsed,
        offload: Offload,
        sink: &mut impl ForwarderSink,
        now: Moment,
    ) -> Result<Option<Onward>, Refusal> {
        if parsed.transport == Transport::IcmpError {
            return self.gateway_outbound_error(packet.bytes(), parsed, sink, now).map(|()| None);
        }
        let outside = Tuple::to_client(parsed);
        let flow = outside.and_then(|outside| self.gateway.by_outside(&outside));
        let flow = flow.ok_or(Refusal::Answered(DropReason::NoFlow))?;
        let outside = |mtu| mtu_outside(mtu, parsed.is_v6(), flow.inside.client.is_ipv6());
        let mtu = outside(self.peers.mtu(&flow.peer));
        Self::fit(packet.bytes(), parsed, offload, mtu, outside(self.mtu))?;
        self.activity.note(flow, End::Resource, parsed.tcp(packet.bytes()).as_ref(), now);
        clamp_mss(packet.bytes_mut(), parsed, mtu);
        let rewritten = rewrite(packet, parsed, &flow.inside.to_opener()).map_err(untranslated)?;
        flow.account.down += Extent::of(packet.bytes(), &rewritten, offload).bytes;
        Ok(Some(Onward { peer: flow.peer, parsed: rewritten }))
    }

    /// An ICMP error about a client's packet. Whoever sent it, to the client it comes from the resource: nothing else
    /// exists for it.
    fn gateway_outbound_error(
        &mut self,
        packet: &[u8],
        parsed: &Parsed,
        sink: &mut impl ForwarderSink,
        now: Moment,
    ) -> Result<(), Refusal> {
        let no_flow = Refusal::Silent(DropReason::NoFlow);
        let quoted = parsed.quoted(packet).ok_or(no_flow)?;
        let outside = Tuple::from_client(&quoted.packet).ok_or(no_flow)?;
        if outside.client != parsed.dst {
            return Err(no_flow);
        }
        let flow = self.gateway.by_outside(&outside).ok_or(no_flow)?;
        let outer = (flow.inside.service, flow.inside.client);
        let rewritten = rewrite_error(packet, parsed, &quoted, outer, &flow.inside.to_service(), &mut self.scratch)
            .map_err(untranslated)?;
        flow.account.down += rewritten.len() as u64;
        self.peers.send(&flow.peer, rewritten, sink, &mut self.counters, now);
        Ok(())
    }
}

/// The longest packet on the target's side that fits into the tunnel once it is translated.
fn mtu_outside(mtu: u16, outside_v6: bool, inside_v6: bool) -> u16 {
    match (outside_v6, inside_v6) {
        (false, true) => mtu.saturating_sub(FAMILY_DIFFERENCE),
        (true, false) => mtu.saturating_add(FAMILY_DIFFERENCE),
        _ => mtu,
    }
}

fn untranslated(error: RewriteError) -> Refusal {
    Refusal::Silent(match error {
        RewriteError::MixedFamilies | RewriteError::Untranslatable => DropReason::TargetFamily,
        RewriteError::NoFlow => DropReason::UnsupportedProtocol,
        RewriteError::NoRoom | RewriteError::Parse(_) => DropReason::Malformed,
    })
}
