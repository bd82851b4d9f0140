//! Datagrams that come: whose each is, and what it says of the peer.
//!
//! Two signs say that a peer and this node no longer share what they did: a sealed packet for a session that is not known
//! (this node was restarted), and an initiation that is older than one before (the peer was, and its clock set back).
//! Neither is authentic, so all that follows is a handshake of this node's own to where it came from, if the peer may be
//! there: the peer would find out by itself, but only after many seconds.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use postern_model::{Moment, PublicKey};
use postern_wireguard::{
    Admission, Kind, MIN_BUFFER, Opened, TunnelError, classify, constants::REKEY_TIMEOUT, receiver_index,
};

use super::{Answered, Peers, note_due};
use crate::{
    Counters, DropReason, Endpoint,
    forwarder::{self, ForwarderSink, inbound::Arrival, paths::Heard},
};

impl Peers {
    /// Takes a datagram: says who can open it, or deals with it.
    pub(in crate::forwarder) fn admit(
        &mut self,
        from: Endpoint,
        datagram: &[u8],
        sink: &mut impl ForwarderSink,
        counters: &mut Counters,
        now: Moment,
    ) -> Option<Arrival> {
        let (key, roams) = match self.addressee(from, datagram, sink, now) {
            Ok(addressee) => addressee?,
            Err(reason) => {
                if let (DropReason::NotWireGuard, Endpoint::Direct(from)) = (reason, from)
                    && is_stun(datagram)
                {
                    sink.stun(from, datagram);
                    return None;
                }
                counters.count(reason);
                if reason == DropReason::NoSession {
                    self.call_back(from, sink, now);
                }
                return None;
            }
        };
        let Some(state) = self.by_key.get_mut(&key).filter(|_| may_be_from(from, &key)) else {
            counters.count(DropReason::UnknownPeer);
            return None;
        };
        let error = if let Some(index) = receiver_index(datagram) {
            match state.tunnel.opener(index, now) {
                Ok(opener) => return Some(Arrival { peer: key, opener }),
                Err(error) => error,
            }
        } else {
            let mut reply = [0; MIN_BUFFER];
            let opened = state.tunnel.handle_datagram(datagram, &mut reply, now);
            if opened.is_ok() && roams {
                state.note_heard(from, Heard::Handshake, now);
            }
            if let Ok(Opened::Reply { datagram: reply, .. }) = &opened {
                sink.send_datagram(from, reply);
                state.answered = Answered::new(datagram, reply, now);
            }
            state.flush(&mut self.out, sink, counters, now);
            state.speak(&mut self.out, sink, now);
            note_due(&mut self.timers, state);
            match opened {
                Ok(_) => return None,
                Err(error) => error,
            }
        };
        if error == TunnelError::Replayed
            && let Some(response) = state.answered.as_ref().and_then(|answered| answered.again(datagram, now))
        {
            sink.send_datagram(from, response);
            return None;
        }
        counters.count(reason(error));
        if error == TunnelError::UnknownSession {
            self.call_back(from, sink, now);
        } else if error == TunnelError::Replayed && classify(datagram) == Some(Kind::Initiation) {
            self.call(&key, from, sink, now);
        }
        None
    }

    /// Takes the counter of a datagram that was opened; whether it was not seen before.
    pub(in crate::forwarder) fn accept(
        &mut self,
        arrival: &Arrival,
        opened: &forwarder::Opened,
        sink: &mut impl ForwarderSink,
        counters: &mut Counters,
        now: Moment,
    ) -> bool {
        let key = &arrival.peer;
        let Some(state) = self.by_key.get_mut(key).filter(|_| may_be_from(opened.from, key)) else {
            counters.count(DropReason::UnknownPeer);
            return false;
        };
        let forwarder::Opened { from, bytes, plain, .. } = *opened;
        let index = arrival.opener.index();
        let taken = state.tunnel.accept(index, plain.counter, bytes, plain.len > 0, now);
        match taken {
            Ok(()) => {
                state.note_heard(from, opened.heard(index), now);
                state.flush(&mut self.out, sink, counters, now);
                note_due(&mut self.timers, state);
            }
            Err(error) => counters.count(reason(error)),
        }
        taken.is_ok()
    }

    /// For which peer a datagram is, and whether it tells where the peer is. Nothing is authenticated yet. `Ok(None)`
    /// when it was dealt with.
    fn addressee(
        &mut self,
        from: Endpoint,
        datagram: &[u8],
        sink: &mut impl ForwarderSink,
        now: Moment,
    ) -> Result<Option<(PublicKey, bool)>, DropReason> {
        if from.direct().is_some_and(|from| from.port() == 0) {
            // Nothing can be sent there, and the kernel refuses a whole batch for it.
            return Err(DropReason::Malformed);
        }
        let kind = classify(datagram).ok_or(DropReason::NotWireGuard)?;
        let (index, roams) = match kind {
            Kind::Initiation => {
                return match self.gate.admit(datagram, source(from), &mut self.out, now) {
                    Admission::Peer(key) => Ok(Some((key, true))),
                    Admission::Cookie(reply) => {
                        sink.send_datagram(from, reply);
                        Ok(None)
                    }
                    Admission::Invalid => Err(DropReason::NotAuthentic),
                    Admission::Limited => Err(DropReason::HandshakeLimit),
                };
            }
            Kind::Response { tunnel } | Kind::Data { tunnel } => (tunnel, true),
            // Whoever is asked for a handshake may send one: it is no sign of who answers there.
            Kind::CookieReply { tunnel } => (tunnel, false),
        };
        self.by_index.get(&index).map(|key| Some((*key, roams))).ok_or(DropReason::NoSession)
    }

    /// Something came from there for a session that is not known: calls who may be there and has none.
    fn call_back(&mut self, from: Endpoint, sink: &mut impl ForwarderSink, now: Moment) {
        let there = match from {
            Endpoint::Direct(from) => self.by_place.get(&from.ip().to_canonical()).cloned().unwrap_or_default(),
            Endpoint::Relayed { peer, .. } => vec![peer],
        };
        for key in there {
            if self.by_key.get(&key).is_some_and(|state| !state.tunnel.has_session(now)) {
                self.call(&key, from, sink, now);
            }
        }
    }

    /// Starts a handshake with a peer that may be there, unless there was one just now.
    fn call(&mut self, key: &PublicKey, at: Endpoint, sink: &mut impl ForwarderSink, now: Moment) {
        let Some(state) = self.by_key.get_mut(key) else { return };
        let may_be_there = state.peer.told().chain(state.paths.destination()).any(|known| is_same_place(known, at));
        let is_fresh = state.tunnel.stats().last_handshake.is_some_and(|last| now.since(last) < REKEY_TIMEOUT);
        if is_fresh || !may_be_there {
            return;
        }
        if let Some(initiation) = state.tunnel.start_handshake(&mut self.out, now) {
            state.calls += 1;
            sink.send_datagram(at, initiation);
        }
        note_due(&mut self.timers, state);
    }
}

/// Whether what came from there may be this peer's. A relay knows whose it forwards: what is another's by its seal was carried
/// off, and must not lead the answers there.
fn may_be_from(from: Endpoint, key: &PublicKey) -> bool {
    match from {
        Endpoint::Direct(_) => true,
        Endpoint::Relayed { peer, .. } => peer == *key,
    }
}

/// Whether a peer that is at one of the two may be at the other: behind a translator, ports change.
fn is_same_place(one: Endpoint, other: Endpoint) -> bool {
    match (one, other) {
        (Endpoint::Direct(one), Endpoint::Direct(other)) => one.ip().to_canonical() == other.ip().to_canonical(),
        _ => one == other,
    }
}

/// What initiations are counted by, and cookies are made for. A relay knows whose key it is: each has its own address here,
/// among those that no datagram comes from (ff00::/8).
fn source(from: Endpoint) -> SocketAddr {
    match from {
        Endpoint::Direct(addr) => addr,
        Endpoint::Relayed { peer, .. } => {
            let mut octets = [0; 16];
            octets.copy_from_slice(&peer.0[..16]);
            octets[0] = 0xff;
            SocketAddr::new(IpAddr::V6(Ipv6Addr::from(octets)), 0)
        }
    }
}

/// Whether a datagram is STUN (RFC 8489 section 5), as no message of WireGuard is.
fn is_stun(datagram: &[u8]) -> bool {
    const COOKIE: [u8; 4] = 0x2112_a442_u32.to_be_bytes();
    let [first, .., a, b, c, d] = datagram.first_chunk::<8>().copied().unwrap_or([0xff; 8]);
    first & 0xc0 == 0 && datagram.len() >= 20 && [a, b, c, d] == COOKIE
}

impl Answered {
    /// `None` when these are other messages of a handshake.
    fn new(initiation: &[u8], response: &[u8], at: Moment) -> Option<Box<Self>> {
        let (initiation, response) = (initiation.try_into().ok()?, response.try_into().ok()?);
        Some(Box::new(Self { initiation, response, at }))
    }

    /// The answer once more, if this is the same initiation and it is no older than the next one would be.
    fn again(&self, initiation: &[u8], now: Moment) -> Option<&[u8]> {
        let is_same = self.initiation == initiation && now.since(self.at) < REKEY_TIMEOUT;
        is_same.then_some(&self.response)
    }
}

/// Why a datagram that a tunnel did not take is dropped.
pub(in crate::forwarder) fn reason(error: TunnelError) -> DropReason {
    match error {
        TunnelError::Invalid => DropReason::NotAuthentic,
        TunnelError::Replayed => DropReason::Replayed,
        TunnelError::UnknownSession | TunnelError::Expired => DropReason::NoSession,
        TunnelError::NotIp => DropReason::Malformed,
    }
}
