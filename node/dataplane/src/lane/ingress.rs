//! From the peers to TUN: a batch of datagrams is received, opened where it lies, joined to super-packets, decided about,
//! and written.

use std::ops::Range;

use postern_engine::{Accepted, Arrival, Opened};
use postern_model::PublicKey;
use postern_packet::{Coalescer, PacketBuf, Parsed, set_partial_checksum};
use postern_wireguard::{HEADER, Plain, TunnelError, receiver_index};

use super::{exit::Exit, shared::Shared};
use crate::{
    Offloads, clock,
    tun::vnet,
    udp::inbox::{Inbox, Message},
};

/// Packets on their way in. All vectors keep their room from batch to batch.
pub(crate) struct Ingress {
    inbox: Inbox,
    /// From relays.
    relayed: Vec<Message>,
    arrivals: Vec<Arrival>,
    sealed: Vec<Sealed>,
    inner: Vec<Inner>,
    coalescer: Coalescer,
    /// Whose each of the coalescer's runs is.
    senders: Vec<PublicKey>,
    passed: Vec<Passed>,
}

/// A datagram that someone can open.
struct Sealed {
    place: Range<usize>,
    message: usize,
    arrival: usize,
    opened: Result<Plain, TunnelError>,
}

/// A packet that was inside.
struct Inner {
    place: Range<usize>,
    parsed: Parsed,
    peer: PublicKey,
}

/// A packet that may pass.
struct Passed {
    run: usize,
    at: usize,
    parsed: Parsed,
}

impl Ingress {
    pub(crate) fn new(offloads: Offloads) -> Self {
        let mut coalescer = Coalescer::default();
        coalescer.set_joins(offloads.tcp, offloads.udp);
        Self {
            inbox: Inbox::new(),
            relayed: Vec::new(),
            arrivals: Vec::new(),
            sealed: Vec::new(),
            inner: Vec::new(),
            coalescer,
            senders: Vec::new(),
            passed: Vec::new(),
        }
    }

    /// Takes one batch of datagrams from a socket, and passes on what was inside.
    pub(crate) fn turn(&mut self, is_v6: bool, shared: &Shared, exit: &mut Exit) {
        let sockets = exit.batch.sockets();
        let Some(socket) = (if is_v6 { sockets.v6.as_ref() } else { Some(&sockets.v4) }) else { return };
        match self.inbox.receive(socket) {
            Ok(true) => {}
            Ok(false) => return,
            Err(error) => {
                // Errors of the network are told once and are over.
                tracing::debug!(%error, "receive");
                return;
            }
        }
        let messages = self.inbox.messages();
        self.take_in(&messages, shared, exit);
    }

    /// Takes one batch of what came from relays, and passes on what was inside; whether there is more.
    pub(crate) fn relayed(&mut self, shared: &Shared, exit: &mut Exit) -> bool {
        let mut messages = std::mem::take(&mut self.relayed);
        let mut has_more = false;
        self.inbox.fill(&mut messages, |take| has_more = shared.relayed.take(take));
        if !messages.is_empty() {
            self.take_in(&messages, shared, exit);
        }
        self.relayed = messages;
        has_more
    }

    /// Passes on what is inside of datagrams that lie in the inbox.
    fn take_in(&mut self, messages: &[Message], shared: &Shared, exit: &mut Exit) {
        self.admit(messages, shared, exit);
        let buffer = self.inbox.buffer();
        for Sealed { place, arrival, opened, .. } in &mut self.sealed {
            *opened = self.arrivals[*arrival].opener.open(&mut buffer[place.clone()]);
        }
        self.accept(messages, shared, exit);
        self.join();
        self.pass(shared, exit);
        // They hold keys, which are to go when their sessions do.
        self.arrivals.clear();
        exit.batch.flush();
    }

    /// Finds out who can open what; all that is no sealed packet is dealt with.
    fn admit(&mut self, messages: &[Message], shared: &Shared, exit: &mut Exit) {
        let Self { inbox, arrivals, sealed, .. } = self;
        arrivals.clear();
        sealed.clear();
        let now = clock::now();
        let buffer = inbox.buffer();
        let mut core = shared.core();
        let (forwarder, mut sink) = core.parts(exit);
        for (nth, message) in messages.iter().enumerate() {
            sink.sources.set_asked(message.from.direct().zip(message.to));
            for place in message.datagrams() {
                let datagram = &buffer[place.clone()];
                let is_known = |arrival: &&Arrival| Some(arrival.opener.index()) == receiver_index(datagram);
                if arrivals.last().filter(is_known).is_none() {
                    match forwarder.admit(message.from, datagram, &mut sink, now) {
                        Some(arrival) => arrivals.push(arrival),
                        None => continue,
                    }
                }
                let opened = Err(TunnelError::Invalid);
                sealed.push(Sealed { place, message: nth, arrival: arrivals.len() - 1, opened });
            }
        }
        sink.sources.set_asked(None);
    }

    /// Takes what was opened and not seen before.
    fn accept(&mut self, messages: &[Message], shared: &Shared, exit: &mut Exit) {
        let Self { inbox, arrivals, sealed, inner, .. } = self;
        inner.clear();
        let now = clock::now();
        let buffer = inbox.buffer();
        let mut core = shared.core();
        let (forwarder, mut sink) = core.parts(exit);
        let mut last_heard = None;
        for Sealed { place, message, arrival, opened } in sealed.drain(..) {
            let plain = match opened {
                Ok(plain) => plain,
                Err(error) => {
                    forwarder.reject(error);
                    continue;
                }
            };
            let (arrival, message) = (&arrivals[arrival], &messages[message]);
            let opened = Opened::new(message.from, &buffer[place.clone()], plain);
            let accepted = forwarder.accept(arrival, &opened, &mut sink, now);
            let is_news = accepted != Accepted::No && last_heard != Some(message.from);
            if let Some((from, to)) = message.from.direct().zip(message.to).filter(|_| is_news) {
                sink.sources.note(from, to);
                last_heard = Some(message.from);
            }
            if accepted == Accepted::Packet {
                let start = place.start + HEADER;
                let place = start..start + plain.len;
                let packet = &mut buffer[place];
                let peer = &arrival.peer;
                let parsed = forwarder.unwrap_packet(peer, message.from, packet, message.ecn, &mut sink, now);
                if let Some(parsed) = parsed {
                    inner.push(Inner { place: start..start + parsed.len, parsed, peer: arrival.peer });
                }
            }
        }
    }

    /// Joins what continues each other, and came from the same peer.
    fn join(&mut self) {
        let Self { inbox, inner, coalescer, senders, .. } = self;
        let buffer = inbox.buffer();
        coalescer.clear();
        senders.clear();
        let mut last = None;
        for Inner { place, parsed, peer } in &*inner {
            if last.replace(peer) != Some(peer) {
                coalescer.divide();
            }
            coalescer.push(buffer, place.clone(), *parsed);
            senders.resize(coalescer.runs().len(), *peer);
        }
        coalescer.finish(buffer);
    }

    /// Passes on what may pass.
    fn pass(&mut self, shared: &Shared, exit: &mut Exit) {
        let Self { inbox, coalescer, senders, passed, .. } = self;
        let buffer = inbox.buffer();
        passed.clear();
        {
            let now = clock::now();
            let mut core = shared.core();
            let (forwarder, mut sink) = core.parts(exit);
            for (nth, (run, peer)) in coalescer.runs().iter().zip(&*senders).enumerate() {
                let Some(mut packet) = PacketBuf::new(&mut buffer[..run.head.end], run.head.start) else { continue };
                if let Some(parsed) = forwarder.arrive(peer, &mut packet, &run.parsed, run.offload, &mut sink, now) {
                    passed.push(Passed { run: nth, at: packet.at(), parsed });
                }
            }
        }
        for Passed { run: nth, at, parsed } in passed {
            let run = &coalescer.runs()[*nth];
            let head = *at..run.head.end;
            if run.offload.is_partial {
                set_partial_checksum(&mut buffer[head.clone()], parsed);
            }
            let buffer = &*buffer;
            let head = &buffer[head];
            let header = vnet::encode(head, parsed, run.offload);
            exit.write_joined(head, &header, coalescer.rest(*nth).map(|place| &buffer[place]));
        }
    }
}
