//! The way in, in steps, of which only those that decide need the forwarder: [`admit`](Forwarder::admit) says who can open a
//! datagram, [`accept`](Forwarder::accept) takes its counter, and [`arrive`](Forwarder::arrive) decides about what was inside,
//! which may by then have been joined to a super-packet.

use postern_model::{Moment, PublicKey};
use postern_packet::{Ecn, HEADROOM, Offload, PacketBuf, Parsed, clamp_mss, ecn};
use postern_wireguard::{HEADER, Opener, Plain, TunnelError};

use super::{
    Forwarder, ForwarderSink, path_mtu,
    paths::{self, Heard},
};
use crate::{DropReason, Endpoint};

/// A sealed packet, and who can open it. Nothing of it is authentic yet.
#[derive(Debug, Clone)]
pub struct Arrival {
    /// The peer that will turn out to have sent it.
    pub peer: PublicKey,
    /// Opens it, and others of the same session.
    pub opener: Opener,
}

/// What a datagram turned out to hold.
#[derive(Debug, Clone, Copy)]
pub struct Opened {
    /// Where it came from.
    pub from: Endpoint,
    /// Its length.
    pub bytes: usize,
    /// What was inside.
    pub plain: Plain,
    /// Its first byte, if there is any: messages of the nodes themselves say less of a path than packets do.
    first: Option<u8>,
}

impl Opened {
    /// A datagram that was opened in place.
    pub fn new(from: Endpoint, datagram: &[u8], plain: Plain) -> Self {
        let first = datagram.get(HEADER).filter(|_| plain.len > 0).copied();
        Self { from, bytes: datagram.len(), plain, first }
    }

    /// What it says of the path that it came on, in the session with this index.
    pub(super) fn heard(&self, session: u32) -> Heard {
        match self.first {
            Some(first) if paths::is_message(first) => Heard::Probe,
            Some(first) if path_mtu::is_message(first) => Heard::Length(session, self.plain.counter),
            _ => Heard::Data(session, self.plain.counter),
        }
    }
}

/// What became of a datagram that was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accepted {
    /// It was seen before, or its session has ended: as if it had not come.
    No,
    /// It is the peer's, and has nothing inside.
    Empty,
    /// It is the peer's, with a packet inside.
    Packet,
}

impl Forwarder {
    /// A datagram read from the WireGuard socket, or from a relay. Sealed packets are for the caller to open; all else is dealt
    /// with.
    pub fn admit(
        &mut self,
        from: Endpoint,
        datagram: &[u8],
        sink: &mut impl ForwarderSink,
        now: Moment,
    ) -> Option<Arrival> {
        self.settle(sink, now);
        self.peers.admit(from, datagram, sink, &mut self.counters, now)
    }

    /// A datagram could not be opened.
    pub fn reject(&mut self, error: TunnelError) {
        self.counters.count(super::peers::reason(error));
    }

    /// A datagram was opened. To be called in the order in which the datagrams came.
    pub fn accept(
        &mut self,
        arrival: &Arrival,
        opened: &Opened,
        sink: &mut impl ForwarderSink,
        now: Moment,
    ) -> Accepted {
        if !self.peers.accept(arrival, opened, sink, &mut self.counters, now) {
            Accepted::No
        } else if opened.plain.len == 0 {
            Accepted::Empty
        } else {
            Accepted::Packet
        }
    }

    /// Where everything is in a packet that was inside a datagram, and what became of congestion on its way (RFC 6040
    /// section 4.2); `None` when it is dropped, or was about the path and is dealt with. `from` is where the datagram came from.
    pub fn unwrap_packet(
        &mut self,
        peer: &PublicKey,
        from: Endpoint,
        packet: &mut [u8],
        outer: Ecn,
        sink: &mut impl ForwarderSink,
        now: Moment,
    ) -> Option<Parsed> {
        if let Some(message) = path_mtu::Message::decode(packet) {
            match message {
                Some(message) => self.peers.handle_mtu_message(peer, message, sink, &mut self.counters, now),
                None => self.counters.count(DropReason::Malformed),
            }
            return None;
        }
        if packet.first().is_some_and(|first| paths::is_message(*first)) {
            match paths::Message::decode(packet) {
                Some(message) => self.peers.handle_path_message(peer, from, message, sink, &mut self.counters, now),
                None => self.counters.count(DropReason::Malformed),
            }
            return None;
        }
        let parsed = self.parse(packet)?;
        if ecn::decapsulate(packet, &parsed, outer) {
            return Some(parsed);
        }
        self.counters.count(DropReason::Congested);
        None
    }

    /// A packet from a peer, perhaps joined of several; of a super-packet, `packet` begins with all headers, and `parsed.len`
    /// is the length of the whole. Where everything is in it when it may be written to TUN.
    pub fn arrive(
        &mut self,
        peer: &PublicKey,
        packet: &mut PacketBuf<'_>,
        parsed: &Parsed,
        offload: Offload,
        sink: &mut impl ForwarderSink,
        now: Moment,
    ) -> Option<Parsed> {
        self.settle(sink, now);
        let to_own = self.table.as_ref().is_some_and(|table| table.own.contains(parsed.dst));
        let passed = if to_own {
            // What this machine sends from now on is as long as this lets it be.
            clamp_mss(packet.bytes_mut(), parsed, self.peers.mtu(peer));
            self.client_inbound(peer, packet.bytes(), parsed, offload, now)
        } else {
            self.gateway_inbound(peer, packet, parsed, offload, sink, now)
        };
        passed.unwrap_or_else(|refusal| {
            self.refuse_to_peer(peer, packet.bytes(), parsed, refusal, sink, now);
            None
        })
    }

    /// A datagram read from the WireGuard socket, or from a relay: all steps at once.
    pub fn handle_datagram(&mut self, from: Endpoint, datagram: &[u8], sink: &mut impl ForwarderSink, now: Moment) {
        let Some(arrival) = self.admit(from, datagram, sink, now) else { return };
        let mut buffer = [&[0; HEADROOM], datagram].concat();
        let plain = match arrival.opener.open(&mut buffer[HEADROOM..]) {
            Ok(plain) => plain,
            Err(error) => return self.reject(error),
        };
        let opened = Opened::new(from, &buffer[HEADROOM..], plain);
        if self.accept(&arrival, &opened, sink, now) != Accepted::Packet {
            return;
        }
        let start = HEADROOM + HEADER;
        let inner = &mut buffer[..start + plain.len];
        let parsed = self.unwrap_packet(&arrival.peer, from, &mut inner[start..], Ecn::NotCapable, sink, now);
        let Some(parsed) = parsed else { return };
        let Some(mut packet) = PacketBuf::new(inner, start) else { return };
        if let Some(parsed) = self.arrive(&arrival.peer, &mut packet, &parsed, Offload::default(), sink, now) {
            sink.send_packet(&packet.bytes()[..parsed.len]);
        }
    }
}
