//! What peers and this node tell each other of the paths between them; [`path_mtu`](crate::forwarder::path_mtu) makes sense
//! of it.

use postern_model::{Moment, PublicKey};
use postern_wireguard::{HEADER, MIN_BUFFER, OVERHEAD, Sealed, TAG};

use super::{PeerState, Peers, note_due, reserve};
use crate::{
    Counters, DropReason,
    forwarder::{ForwarderSink, path_mtu::Message},
};

impl Peers {
    /// The longest inner packet that is to be sent to a peer.
    pub(in crate::forwarder) fn mtu(&self, key: &PublicKey) -> u16 {
        self.by_key.get(key).map_or(self.mtu, |state| state.path.mtu())
    }

    /// A message about the path came from a peer: answers it, or learns from it.
    pub(in crate::forwarder) fn handle_path_message(
        &mut self,
        key: &PublicKey,
        message: Message,
        sink: &mut impl ForwarderSink,
        counters: &mut Counters,
        now: Moment,
    ) {
        let Some(state) = self.by_key.get_mut(key) else { return };
        if message.is_reply {
            state.path.handle_reply(message, now);
            state.tunnel.set_mtu(state.path.mtu());
        } else if state.path.may_answer(now) {
            state.path.note_asked(message.size, now);
            let mut reply = [0; MIN_BUFFER];
            let len = Message { is_reply: true, ..message }.encode(&mut reply);
            if let (Some(len), Some(to)) = (len, state.endpoint)
                && let Sealed::Datagram(datagram) = state.tunnel.seal(&reply[..len], &mut self.out, now)
            {
                sink.send_datagram(to, datagram);
            }
        } else {
            counters.count(DropReason::ReplyLimit);
        }
        note_due(&mut self.timers, state);
    }
}

impl PeerState {
    /// Sends the probes that are due.
    pub(super) fn probe(&mut self, out: &mut Vec<u8>, sink: &mut impl ForwarderSink, now: Moment) {
        while let Some(probe) = self.path.poll(now) {
            let len = usize::from(probe.size);
            reserve(out, len + OVERHEAD);
            // Exactly as long as a packet of this length is when it is the longest.
            self.tunnel.set_mtu(probe.size);
            let sealer = self.tunnel.sealer(1, (HEADER + len + TAG) as u64, now);
            let (Some(mut sealer), Some(to)) = (sealer, self.endpoint) else { continue };
            let len = probe.encode(&mut out[HEADER..]).and_then(|len| sealer.seal(out, len));
            if let Some(len) = len {
                sink.send_probe(to, &out[..len]);
            }
        }
        self.tunnel.set_mtu(self.path.mtu());
    }
}
