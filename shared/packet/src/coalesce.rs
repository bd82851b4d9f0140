//! Joins packets that continue each other into super-packets, without copying them: the inverse of [`Split`](crate::Split).
//!
//! What is joined is cut into the very same bytes again, whoever cuts it; so the rules are those of Linux's GRO, and a packet
//! whose checksum is wrong, or not the one that a sender computes, stays alone and comes out as it came. Within a flow
//! packets keep their order: one that can't be joined ends what its flow had begun. Nothing is allocated once the vectors
//! have grown to a batch.
//!
//! - [`Coalescer::push`] each packet of a batch, then [`Coalescer::finish`], then read [`Coalescer::runs`]
//! - [`Continuation`] reads what of one packet matters here, and says whether it can follow another

use std::{num::NonZeroU16, ops::Range};

use crate::{
    Offload, Parsed,
    offload::{Kind, is_v6, pseudo, set_length},
};
use continuation::{Continuation, ENDINGS};

mod continuation;

/// Packets of one run at most.
pub const MAX_JOINED: usize = 128;
/// Datagrams of one run at most: some kernels take no more in one super-packet (`UDP_MAX_SEGMENTS`).
const MAX_DATAGRAMS: usize = 64;

/// Bytes of one run at most. An IPv4 packet of that size still has room when it is translated to IPv6.
const MOST_BYTES: usize = 65_535 - 20;

/// Flows that may have an unfinished run at the same time. A batch has few, and each packet of a new one looks at all.
const FLOWS: usize = 8;

/// One packet, or several that were joined.
#[derive(Debug, Clone)]
pub struct Run {
    /// The first packet in the buffer, with its headers and its payload.
    pub head: Range<usize>,
    /// Where everything is in the head; `len` is that of the whole.
    pub parsed: Parsed,
    /// What is left to be done to the whole: nothing, if it is one packet. Before it is handed over, the head's transport
    /// checksum wants [`set_partial_checksum`](crate::set_partial_checksum).
    pub offload: Offload,
    /// Packets that it stands for.
    pub packets: usize,
    /// Flags that only the last one has.
    ending: u8,
    /// The payload after the head's.
    next: Option<usize>,
}

impl Run {
    /// Bytes of all its packets, each with its headers: what they were before they were joined.
    pub fn bytes(&self) -> usize {
        let headers = self.offload.segment.map_or(0, |segment| self.head.len() - usize::from(segment.get()));
        self.parsed.len + (self.packets - 1) * headers
    }
}

/// A payload that was joined to a head, and which follows it.
#[derive(Debug)]
struct Piece {
    payload: Range<usize>,
    next: Option<usize>,
}

/// The run that a flow's next packet may continue.
#[derive(Debug)]
struct Open {
    run: usize,
    /// What the next packet has to be.
    expected: Continuation,
    /// Whether the head's checksums were found right; of a packet that nothing continues they don't matter.
    is_head_right: bool,
    last: Option<usize>,
}

/// Joins the packets of a batch. Reused for each.
///
/// All of them have to be of one sender, as far as that is known: joined, they are asked by their head alone whether their
/// source is that sender's.
#[derive(Debug, Default)]
pub struct Coalescer {
    tcp: bool,
    udp: bool,
    runs: Vec<Run>,
    pieces: Vec<Piece>,
    open: [Option<Open>; FLOWS],
    /// The flow that had the last packet; and the one to be given up when another needs its place.
    recent: usize,
    oldest: usize,
}

impl Coalescer {
    /// Forgets the last batch.
    pub fn clear(&mut self) {
        self.runs.clear();
        self.pieces.clear();
        self.open = Default::default();
    }

    /// What comes from now on continues nothing that came before: it is from someone else.
    pub fn divide(&mut self) {
        self.open = Default::default();
    }

    /// Which packets may be joined from now on; at first none. For whoever knows what the kernel takes.
    pub fn set_joins(&mut self, tcp: bool, udp: bool) {
        (self.tcp, self.udp) = (tcp, udp);
    }

    /// Adds a packet that lies at `packet` in `buffer`, and was parsed there without error. In the order of arrival.
    pub fn push(&mut self, buffer: &[u8], packet: Range<usize>, parsed: Parsed) {
        let packet = packet.start..packet.start + parsed.len;
        let kind = Kind::of(&parsed).filter(|kind| match kind {
            Kind::Tcp => self.tcp,
            Kind::Udp => self.udp,
        });
        let run = self.runs.len();
        if let Some(kind) = kind {
            let slot = self.slot_of(&parsed);
            let continuation = Continuation::read(&buffer[packet.clone()], &parsed, kind);
            if let (Some(slot), Some(continuation)) = (slot, &continuation)
                && self.join(buffer, &packet, &parsed, slot, continuation)
            {
                return;
            }
            let open = continuation.filter(|continuation| !continuation.is_last()).map(|mut expected| {
                expected.advance();
                Open { run, expected, is_head_right: false, last: None }
            });
            self.set_slot(slot, open);
        }
        let offload = Offload::default();
        self.runs.push(Run { head: packet, parsed, offload, packets: 1, ending: 0, next: None });
    }

    /// Makes heads of several packets those of the whole: lengths, and the flags of the last. To be called once, in the end.
    pub fn finish(&mut self, buffer: &mut [u8]) {
        for run in self.runs.iter().filter(|run| run.packets > 1) {
            let (head, at, len) = (&mut buffer[run.head.clone()], run.parsed.offset, run.parsed.len);
            set_length(head, at, len);
            match Kind::of(&run.parsed) {
                Some(Kind::Tcp) => head[at + 13] |= run.ending,
                Some(Kind::Udp) => {
                    let len = u16::try_from(len - at).unwrap_or(u16::MAX);
                    head[at + 4..at + 6].copy_from_slice(&len.to_be_bytes());
                }
                None => {}
            }
        }
        self.open = Default::default();
    }

    /// The packets and super-packets, in the order in which their first packets came.
    pub fn runs(&self) -> &[Run] {
        &self.runs
    }

    /// The payloads in the buffer that follow this run's head, in order.
    pub fn rest(&self, run: usize) -> impl Iterator<Item = Range<usize>> {
        let piece = |at: Option<usize>| at.map(|at| &self.pieces[at]);
        std::iter::successors(piece(self.runs[run].next), move |last| piece(last.next))
            .map(|piece| piece.payload.clone())
    }

    /// Where this packet's flow has a run that may be continued.
    fn slot_of(&mut self, parsed: &Parsed) -> Option<usize> {
        let is_of = |open: &Option<Open>| {
            open.as_ref().map(|open| &self.runs[open.run].parsed).is_some_and(|of| {
                (of.src_port, of.dst_port) == (parsed.src_port, parsed.dst_port)
                    && (of.src, of.dst, of.transport) == (parsed.src, parsed.dst, parsed.transport)
            })
        };
        if !is_of(&self.open[self.recent]) {
            self.recent = self.open.iter().position(is_of)?;
        }
        Some(self.recent)
    }

    /// Has the flow's next packets continue `open`, or nothing. `slot` is what it had until now.
    fn set_slot(&mut self, slot: Option<usize>, open: Option<Open>) {
        if slot.is_none() && open.is_none() {
            return;
        }
        let slot = slot.or_else(|| self.open.iter().position(Option::is_none)).unwrap_or_else(|| {
            self.oldest = (self.oldest + 1) % FLOWS;
            self.oldest
        });
        self.open[slot] = open;
        self.recent = slot;
    }

    /// Joins a packet to its flow's run, if it may be.
    fn join(
        &mut self,
        buffer: &[u8],
        packet: &Range<usize>,
        parsed: &Parsed,
        slot: usize,
        continuation: &Continuation,
    ) -> bool {
        let Some(open) = &mut self.open[slot] else { return false };
        let run = &mut self.runs[open.run];
        let (head, bytes) = (&buffer[run.head.clone()], &buffer[packet.clone()]);
        let of_head = Parsed { len: head.len(), ..run.parsed };
        let most = match continuation.kind() {
            Kind::Tcp => MAX_JOINED,
            Kind::Udp => MAX_DATAGRAMS,
        };
        if run.packets >= most
            || run.parsed.len + continuation.payload() > MOST_BYTES
            || !continuation.follows(&open.expected, head, bytes)
            || !(open.is_head_right || is_right(head, &of_head, continuation.kind()))
            || !is_right(bytes, parsed, continuation.kind())
        {
            return false;
        }
        open.is_head_right = true;
        let piece = Some(self.pieces.len());
        self.pieces.push(Piece { payload: packet.start + continuation.head()..packet.end, next: None });
        match open.last {
            Some(last) => self.pieces[last].next = piece,
            None => run.next = piece,
        }
        open.last = piece;
        run.packets += 1;
        run.parsed.len += continuation.payload();
        run.ending = continuation.flags() & ENDINGS;
        let segment = head.len() - continuation.head();
        run.offload = Offload { is_partial: true, segment: u16::try_from(segment).ok().and_then(NonZeroU16::new) };
        if continuation.is_last() || continuation.payload() < segment {
            self.open[slot] = None;
        } else {
            open.expected.advance();
        }
        true
    }
}

/// Whether the checksums are those that a sender computes, so that they come out the same when they are made anew.
fn is_right(packet: &[u8], parsed: &Parsed, kind: Kind) -> bool {
    // Of the two ways to say zero a sum has only the ones, its complement the zeros; but UDP turns those into ones again.
    const NEVER: u16 = 0xffff;
    let word = |at: usize| u16::from_be_bytes([packet[at], packet[at + 1]]);
    let is_header_right = is_v6(packet)
        || (word(10) != NEVER && crate::checksum::Sum::default().bytes(&packet[..parsed.offset]).fold() == NEVER);
    let odd = match kind {
        Kind::Tcp => NEVER,
        // There is none.
        Kind::Udp => 0,
    };
    let sum = pseudo(packet, kind, packet.len() - parsed.offset).bytes(&packet[parsed.offset..]);
    is_header_right && word(parsed.offset + kind.checksum()) != odd && sum.fold() == NEVER
}

#[cfg(test)]
#[path = "coalesce_tests.rs"]
mod tests;
