//! Revocation: flows that the table no longer allows are reset at both ends and forgotten.
//!
//! A flow goes on under a grant that another one was replaced with, as renewals do, if it could have been opened under
//! the new one and still goes the same way.

use std::sync::Arc;

use postern_model::Moment;
use postern_packet::{answer, parse};

use super::{
    Forwarder, ForwarderSink,
    flows::{ClientFlow, GatewayFlow, State, Tuple},
    tcp::End,
};
use crate::{CarriedGrant, ForwardingTable, HeldGrant, table::Outbound};

impl Forwarder {
    /// Makes the flow tables hold only what is allowed at `now`. Called before anything else is looked at.
    pub(super) fn settle(&mut self, sink: &mut impl ForwarderSink, now: Moment) {
        if self.next_lease_end.is_some_and(|end| end <= now)
            && let Some(table) = self.table.clone()
        {
            self.sweep(&table, sink, now);
            self.next_lease_end = table.next_lease_end(now);
        }
    }

    /// Resets and forgets every flow that `table` does not allow at `now`.
    pub(super) fn sweep(&mut self, table: &ForwardingTable, sink: &mut impl ForwarderSink, now: Moment) {
        let Self { client, gateway, activity, peers, counters, scratch, .. } = self;
        let mut any = false;
        client.sweep(
            |flow| still_held(table, flow, now),
            |flow| {
                any = true;
                let State::Tcp(connection) = &flow.state else { return };
                for reset in connection.resets_to(End::Opener) {
                    answer::reset(&flow.tuple.to_opener(), reset.seq, Some(reset.ack), scratch);
                    sink.send_packet(scratch);
                }
            },
        );
        gateway.sweep(
            |flow| still_carried(table, flow, now),
            |flow| {
                any = true;
                activity.cut(flow, now);
                let State::Tcp(connection) = &flow.state else { return };
                for reset in connection.resets_to(End::Resource) {
                    answer::reset(&flow.outside.to_service(), reset.seq, Some(reset.ack), scratch);
                    sink.send_packet(scratch);
                }
                for reset in connection.resets_to(End::Opener) {
                    answer::reset(&flow.inside.to_opener(), reset.seq, Some(reset.ack), scratch);
                    peers.send_now(&flow.peer, scratch, sink, now);
                }
            },
        );
        if any {
            // What waits for a session was allowed when it came, not when it would go.
            self.peers.retain_queued(counters, |packet| {
                parse(packet).is_ok_and(|parsed| {
                    Tuple::from_client(&parsed).is_some_and(|tuple| self.client.contains(&tuple))
                        || Tuple::to_client(&parsed).is_some_and(|tuple| self.gateway.contains_inside(&tuple))
                })
            });
        }
    }
}

/// The grant under which a flow of this client may go on.
fn still_held(table: &ForwardingTable, flow: &ClientFlow, now: Moment) -> Option<Arc<HeldGrant>> {
    let tuple = &flow.tuple;
    let Outbound::Granted(grant) = table.outbound(tuple.service, tuple.protocol, tuple.service_port, now) else {
        return None;
    };
    // Another gateway does not know the connection.
    let same_way = grant.peer == flow.grant.peer && table.own.contains(tuple.client);
    (same_way && table.peers.contains_key(&grant.peer)).then(|| Arc::clone(grant))
}

/// The grant under which a client's flow may go on.
fn still_carried(table: &ForwardingTable, flow: &GatewayFlow, now: Moment) -> Option<Arc<CarriedGrant>> {
    let Tuple { protocol, client, service, service_port, .. } = flow.inside;
    let grant = table.inbound(&flow.peer, (client, service), protocol, service_port, now).ok()?;
    // Under the same grant, a target that is no longer listed only means that its name resolves anew.
    let same_target = grant.grant == flow.grant.grant || grant.targets.contains(&flow.outside.service);
    let same_way = grant.client_addr == flow.grant.client_addr && table.peers.contains_key(&grant.peer);
    (same_target && same_way).then(|| Arc::clone(grant))
}
