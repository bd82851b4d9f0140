//! This node, or a peer at a relay, is not where it was: what follows at once, without waiting for a timer.

use std::time::Duration;

use postern_model::{Moment, PublicKey, RelayId};

use super::{PeerState, Peers, deliver, note_due};
use crate::{Counters, forwarder::ForwarderSink};

/// A peer that was heard within this time may be about to send: after it, no key receives any more.
const IN_USE: Duration = postern_wireguard::constants::REJECT_AFTER_TIME;

/// However often something changes, handshakes are not tried again sooner than after so long.
const REST: Duration = Duration::from_millis(100);

impl Peers {
    /// This machine's addresses or routes are others. Whoever has a session in use is told where this node is now, and handshakes
    /// that wait for an answer are tried again.
    pub(in crate::forwarder) fn handle_network_changed(
        &mut self,
        sink: &mut impl ForwarderSink,
        counters: &mut Counters,
        now: Moment,
    ) {
        for state in self.by_key.values_mut() {
            let is_in_use = state.tunnel.persistent_keepalive().is_some()
                || state.heard.is_some_and(|heard| now.since(heard) < IN_USE);
            if is_in_use && state.tunnel.has_session(now) {
                state.paths.handle_network_changed(now);
                state.speak(&mut self.out, sink, now);
            }
            state.retry_handshake(&mut self.out, sink, now);
            state.flush(&mut self.out, sink, counters, now);
            note_due(&mut self.timers, state);
        }
    }

    /// A relay says whether a peer is there.
    pub(in crate::forwarder) fn handle_relay_presence(
        &mut self,
        relay: RelayId,
        key: &PublicKey,
        is_there: bool,
        sink: &mut impl ForwarderSink,
        now: Moment,
    ) {
        let Some(state) = self.by_key.get_mut(key) else { return };
        state.paths.set_presence(relay, is_there, now);
        if is_there && !state.tunnel.has_session(now) {
            // What was sent before went nowhere.
            state.retry_handshake(&mut self.out, sink, now);
        }
        state.speak(&mut self.out, sink, now);
        note_due(&mut self.timers, state);
    }
}

impl PeerState {
    /// Sends the initiation that is waited for anew, wherever the peer may be; nothing when none is.
    pub(super) fn retry_handshake(&mut self, out: &mut [u8], sink: &mut impl ForwarderSink, now: Moment) {
        let rested = self.retried.map_or(now, |retried| retried + REST);
        self.retry_at = Some(rested).filter(|rested| *rested > now);
        if self.retry_at.is_some() {
            return;
        }
        if let Some(initiation) = self.tunnel.retry_handshake(out, now) {
            self.calls += 1;
            self.retried = Some(now);
            deliver(&self.peer, &self.paths, true, initiation, sink);
        }
    }
}
