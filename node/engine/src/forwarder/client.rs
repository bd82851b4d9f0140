//! The client side: packets of this machine to resources, and the replies.
//!
//! Out: the source is this node's own, the resource is visible, its port open, a grant held and its lease running. In: only
//! what answers a flow that this machine opened, from the gateway that the flow goes through.

use postern_model::{Moment, PublicKey};
use postern_packet::{Offload, Parsed, Split, Transport};

use super::{
    Forwarder, ForwarderSink, Miss,
    answer::Refusal,
    flows::Tuple,
    outbound::{Extent, Onward, ask},
    tcp::End,
};
use crate::{DropReason, table::Outbound};

impl Forwarder {
    /// A packet from TUN to anything that is not a device.
    pub(super) fn client_outbound(
        &mut self,
        packet: &[u8],
        parsed: &Parsed,
        offload: Offload,
        sink: &mut impl ForwarderSink,
        now: Moment,
    ) -> Result<Option<Onward>, Refusal> {
        let table = self.table.as_ref().ok_or(Refusal::Answered(DropReason::UnknownDestination))?;
        if !table.own.contains(parsed.src) {
            return Err(Refusal::Silent(DropReason::ForeignSource));
        }
        let packet = &packet[..parsed.len];
        let peer = if parsed.transport == Transport::IcmpError {
            // An error about a reply: it goes where the reply came from.
            let tuple = parsed.quoted(packet).and_then(|quoted| Tuple::to_client(&quoted.packet));
            let tuple = tuple.filter(|tuple| (tuple.client, tuple.service) == (parsed.src, parsed.dst));
            let flow = tuple.and_then(|tuple| self.client.get_mut(&tuple));
            flow.ok_or(Refusal::Silent(DropReason::NoFlow))?.grant.peer
        } else {
            let Some(tuple) = Tuple::from_client(parsed) else {
                let known = table.catalogue.contains_key(&parsed.dst);
                return Err(Refusal::Answered(match parsed.transport {
                    Transport::EchoReply => DropReason::NoFlow,
                    _ if known => DropReason::UnsupportedProtocol,
                    _ => DropReason::UnknownDestination,
                }));
            };
            let segment = parsed.tcp(packet);
            if let Some(flow) = self.client.get_mut(&tuple) {
                flow.note(End::Opener, segment.as_ref(), now);
                flow.grant.peer
            } else {
                let grant = match table.outbound(tuple.service, tuple.protocol, tuple.service_port, now) {
                    Outbound::Granted(grant) => grant,
                    Outbound::Ask(resource) => {
                        let packets = Split::new(packet, parsed, offload);
                        let packets = packets.map_err(|_| Refusal::Silent(DropReason::Malformed))?;
                        ask(|packet| Miss { resource, packet }, packets, sink);
                        return Ok(None);
                    }
                    Outbound::Refused(reason) => return Err(Refusal::Answered(reason)),
                };
                let flow = self.client.open(tuple, grant, segment.as_ref(), now).map_err(Refusal::Answered)?;
                flow.note(End::Opener, segment.as_ref(), now);
                flow.grant.peer
            }
        };
        Self::fit(packet, parsed, offload, self.peers.mtu(&peer), self.mtu)?;
        Ok(Some(Onward { peer, parsed: *parsed }))
    }

    /// A packet from a peer to this node's own address. Nothing that is refused is answered: a gateway has no business
    /// in sending it.
    pub(super) fn client_inbound(
        &mut self,
        peer: &PublicKey,
        packet: &[u8],
        parsed: &Parsed,
        offload: Offload,
        now: Moment,
    ) -> Result<Option<Parsed>, Refusal> {
        let is_error = parsed.transport == Transport::IcmpError;
        let tuple = if is_error {
            // Also from a router on the way: the gateway gives all of them the resource's address.
            let tuple = parsed.quoted(packet).and_then(|quoted| Tuple::from_client(&quoted.packet));
            tuple.filter(|tuple| (tuple.client, tuple.service) == (parsed.dst, parsed.src))
        } else {
            Tuple::to_client(parsed)
        };
        let flow = tuple.and_then(|tuple| self.client.get_mut(&tuple)).filter(|flow| flow.grant.peer == *peer);
        let Some(flow) = flow else {
            let held = self.table.as_ref().and_then(|table| table.held.get(&parsed.src));
            let is_its_own = held.is_some_and(|grant| grant.peer == *peer);
            return Err(Refusal::Silent(if is_its_own { DropReason::NoFlow } else { DropReason::ForeignSource }));
        };
        if !is_error {
            flow.note(End::Resource, parsed.tcp(packet).as_ref(), now);
        }
        self.counters.in_packets += Extent::of(packet, parsed, offload).packets;
        Ok(Some(*parsed))
    }
}
