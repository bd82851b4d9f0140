//! What peers and this node tell each other of the paths between them; [`path_mtu`](crate::forwarder::path_mtu) and
//! [`paths`](crate::forwarder::paths) make sense of it.

use postern_model::{Moment, PublicKey};
use postern_wireguard::{HEADER, MIN_BUFFER, OVERHEAD, Sealed, TAG};

use super::{PeerState, Peers, note_due, reserve};
use crate::{
    Counters, DropReason, Endpoint,
    forwarder::{ForwarderSink, path_mtu, paths},
};

impl Peers {
    /// The longest inner packet that is to be sent to a peer.
    pub(in crate::forwarder) fn mtu(&self, key: &PublicKey) -> u16 {
        self.by_key.get(key).map_or(self.mtu, |state| state.path.mtu())
    }

    /// A message about the length of packets came from a peer: answers it, or learns from it.
    pub(in crate::forwarder) fn handle_mtu_message(
        &mut self,
        key: &PublicKey,
        message: path_mtu::Message,
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
            let len = path_mtu::Message { is_reply: true, ..message }.encode(&mut reply);
            if let (Some(len), Some(to)) = (len, state.paths.destination())
                && let Sealed::Datagram(datagram) = state.tunnel.seal(&reply[..len], &mut self.out, now)
            {
                sink.send_datagram(to, datagram);
            }
        } else {
            counters.count(DropReason::ReplyLimit);
        }
        note_due(&mut self.timers, state);
    }

    /// A message about a path came from a peer, on that path: answers it the same way, or learns from it.
    pub(in crate::forwarder) fn handle_path_message(
        &mut self,
        key: &PublicKey,
        from: Endpoint,
        message: paths::Message,
        sink: &mut impl ForwarderSink,
        counters: &mut Counters,
        now: Moment,
    ) {
        let Some(state) = self.by_key.get_mut(key) else { return };
        match message {
            paths::Message::Probe { number, calls } => match state.paths.handle_probe(from, number, calls, now) {
                Some(answer) => state.tell(from, answer, &mut self.out, sink, now),
                None => counters.count(DropReason::ReplyLimit),
            },
            paths::Message::Answer { .. } => state.paths.handle_answer(from, message, now),
        }
        state.speak(&mut self.out, sink, now);
        note_due(&mut self.timers, state);
    }
}

impl PeerState {
    /// Says all that is due about the paths: probes of them, and where this node is.
    pub(super) fn speak(&mut self, out: &mut [u8], sink: &mut impl ForwarderSink, now: Moment) {
        while let Some((endpoint, message)) = self.paths.poll(&self.peer, now) {
            self.tell(endpoint, message, out, sink, now);
        }
        if self.paths.take_moved() {
            self.path.note_moved(now);
        }
        if self.paths.take_keepalive()
            && let Some(to) = self.paths.destination()
            && let Sealed::Datagram(datagram) = self.tunnel.seal(&[], out, now)
        {
            sink.send_datagram(to, datagram);
        }
    }

    /// Sends a message on a path, if there is a session.
    fn tell(
        &mut self,
        to: Endpoint,
        message: paths::Message,
        out: &mut [u8],
        sink: &mut impl ForwarderSink,
        now: Moment,
    ) {
        if let Sealed::Datagram(datagram) = self.tunnel.seal(&message.encode(), out, now) {
            sink.send_datagram(to, datagram);
        }
    }

    /// Sends the probes of lengths that are due.
    pub(super) fn probe_mtu(&mut self, out: &mut Vec<u8>, sink: &mut impl ForwarderSink, now: Moment) {
        while let Some(probe) = self.path.poll(now) {
            let len = usize::from(probe.size);
            reserve(out, len + OVERHEAD);
            // Exactly as long as a packet of this length is when it is the longest.
            self.tunnel.set_mtu(probe.size);
            let sealer = self.tunnel.sealer(1, (HEADER + len + TAG) as u64, now);
            let (Some(mut sealer), Some(to)) = (sealer, self.paths.destination()) else { continue };
            let len = probe.encode(&mut out[HEADER..]).and_then(|len| sealer.seal(out, len));
            if let Some(len) = len {
                sink.send_probe(to, &out[..len]);
            }
        }
        self.tunnel.set_mtu(self.path.mtu());
    }
}
