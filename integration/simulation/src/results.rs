//! What came of it: what tests ask when steps were carried out.

use std::time::Duration;

use postern_model::{DenyReason, Filter, record::Owner};

use crate::{
    World,
    apps::{Arrival, Sending},
    setting::{self, At},
};

impl World {
    /// Which packet came `back` before the last one.
    pub fn arrival(&self, back: usize) -> Option<u64> {
        Some(self.arrivals[self.arrivals.len().checked_sub(1 + back)?].id)
    }

    /// What an admin would say that a client may use of a resource now: nothing, or this.
    pub fn allowed(&self, client: At, resource: usize) -> Result<Filter, DenyReason> {
        let state = self.coordinator.state();
        let device = state.devices.get(&setting::device_id(client)).ok_or(DenyReason::UserRemoved)?;
        let Owner::User(user) = device.owner else { return Err(DenyReason::NoPolicy) };
        if device.revoked {
            return Err(DenyReason::DeviceRevoked);
        }
        if state.users.get(&user).is_none_or(|user| user.suspended) {
            return Err(DenyReason::UserSuspended);
        }
        self.policy(client, resource).ok_or(DenyReason::NoPolicy)?;
        let resource = state.resources.get(&setting::resource_id(resource)).ok_or(DenyReason::UnknownResource)?;
        Ok(resource.filter.clone())
    }

    /// Whether an admin would say that this may be sent now.
    pub fn may_send(&self, sending: &Sending) -> bool {
        let what = sending.what();
        self.allowed(sending.client, sending.resource).is_ok_and(|filter| filter.allows(what.protocol, what.port))
    }

    /// When packet `id` was delivered.
    pub fn delivered_at(&self, id: u64) -> Option<Duration> {
        self.oracle.delivered_at(id)
    }

    /// When the writer of packet `id` was told that it was refused.
    pub fn refused_at(&self, id: u64) -> Option<Duration> {
        self.oracle.refused_at(id)
    }

    /// When packet `id` was written.
    pub fn written_at(&self, id: u64) -> Duration {
        self.oracle.written(id).0
    }

    /// Whether both ends had a live grant for the flow of packet `id`, for the whole of a time.
    pub fn was_granted(&self, id: u64, from: Duration, to: Duration) -> bool {
        let Some(flow) = self.oracle.written(id).1 else { return false };
        let what = flow.what;
        let lasts = |at: At| self.oracle.permits.lasts(at, what, from, to);
        lasts(what.client) && setting::gateways_of(what.resource).any(lasts)
    }

    /// Whether a client held a live grant for what is sent, at a time.
    pub fn was_held(&self, sending: &Sending, at: Duration) -> bool {
        self.oracle.permits.is_live(sending.client, sending.what(), at)
    }

    /// Whether a gateway carried a live grant for what is sent, at a time.
    pub fn was_carried(&self, sending: &Sending, at: Duration) -> bool {
        setting::gateways_of(sending.resource).any(|gateway| self.oracle.permits.is_live(gateway, sending.what(), at))
    }

    /// Whether the client's end and the target's end of a connection have taken a reset.
    pub fn were_reset(&self, opening: &Sending) -> (bool, bool) {
        let flow = opening.flow();
        let opener = self.opener_ends.get(&(opening.client, flow.own, flow.service));
        let id = |arrival: &&Arrival| self.oracle.written(arrival.id).1 == Some(flow);
        let target = self
            .arrivals
            .iter()
            .rev()
            .find(id)
            .and_then(|arrival| self.target_ends.get(&(arrival.gateway, arrival.target, arrival.opener)));
        (opener.is_some_and(|end| end.was_reset), target.is_some_and(|end| end.was_reset))
    }

    /// How many of the packets that were written so far were delivered.
    pub fn delivered(&self) -> (usize, usize) {
        self.oracle.delivered()
    }

    /// How many packets have come to hosts behind gateways.
    pub fn arrived(&self) -> usize {
        self.arrivals.len()
    }

    /// Whether the coordinator does not want a node any more.
    pub fn is_evicted(&self, at: At) -> bool {
        self.nodes[at].is_evicted
    }
}
