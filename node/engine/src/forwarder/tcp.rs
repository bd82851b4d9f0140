//! What a forwarder remembers of a TCP connection that passes through it: enough to reset it so that both ends
//! believe it, and to tell how long it may stay silent.
//!
//! Nothing is dropped by this: a segment out of window is for the ends to judge. The numbers are only ever used to
//! make resets, and a wrong one costs a challenge ACK (RFC 5961), which the answer to a packet without a flow settles.

use std::time::Duration;

use postern_packet::TcpSegment;

/// An open connection may be silent for this long (RFC 5382 REQ-5: at least 2 hours 4 minutes).
pub(super) const ESTABLISHED_TIMEOUT: Duration = Duration::from_secs(2 * 3600 + 4 * 60);
/// A connection that is opening, or that one end has finished, may be silent for this long (RFC 5382 REQ-5).
pub(super) const TRANSITORY_TIMEOUT: Duration = Duration::from_secs(4 * 60);
/// A closed connection stays for retransmissions of its last segments.
pub(super) const CLOSED_LINGER: Duration = Duration::from_secs(10);

/// An end of a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// The client, who opened it.
    Opener,
    /// The resource.
    Resource,
}

impl End {
    fn other(self) -> Self {
        match self {
            Self::Opener => Self::Resource,
            Self::Resource => Self::Opener,
        }
    }
}

/// Whether a segment asks for a new connection.
fn opens(segment: &TcpSegment) -> bool {
    segment.flags.syn && !segment.flags.ack && !segment.flags.rst
}

/// Whether a flow may begin with it: a SYN, or a segment of a connection from before this node started. An answer to a
/// SYN, or a reset, is never a beginning.
pub(super) fn may_begin(segment: &TcpSegment) -> bool {
    let is_answer = segment.flags.syn && segment.flags.ack;
    !segment.flags.rst && !is_answer
}

#[derive(Debug, Clone, Copy, Default)]
struct Sent {
    /// The highest sequence number that it has used up.
    next: Option<u32>,
    /// What it last acknowledged.
    acked: Option<u32>,
    fin: bool,
}

/// One connection.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Connection {
    opener: Sent,
    resource: Sent,
    reset: bool,
}

/// The numbers of a reset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ResetNumbers {
    pub(super) seq: u32,
    pub(super) ack: u32,
}

impl Connection {
    /// A segment passed.
    pub(super) fn note(&mut self, from: End, segment: &TcpSegment) {
        if self.is_restarted_by(from, segment) {
            // The same ports again, for a new connection.
            *self = Self::default();
        }
        self.reset |= segment.flags.rst;
        if segment.flags.rst {
            return;
        }
        let sent = self.sent_mut(from);
        sent.fin |= segment.flags.fin;
        if segment.flags.syn {
            sent.next = Some(segment.end());
        } else {
            advance(&mut sent.next, segment.end());
        }
        if segment.flags.ack {
            advance(&mut sent.acked, segment.ack);
        }
    }

    /// Whether a segment uses the ports of this connection, which is closed, for a new one.
    pub(super) fn is_restarted_by(&self, from: End, segment: &TcpSegment) -> bool {
        from == End::Opener && opens(segment) && self.is_closed()
    }

    /// How long it may be silent from now.
    pub(super) fn idle_timeout(&self) -> Duration {
        if self.is_closed() {
            CLOSED_LINGER
        } else if self.opener.fin || self.resource.fin || self.opener.acked.is_none() || self.resource.acked.is_none() {
            TRANSITORY_TIMEOUT
        } else {
            ESTABLISHED_TIMEOUT
        }
    }

    /// Whether both ends have finished, or one has given up.
    pub(super) fn is_closed(&self) -> bool {
        self.reset || (self.opener.fin && self.resource.fin)
    }

    /// Whether both ends have finished and each knows it of the other, or one has given up.
    pub(super) fn is_over(&self) -> bool {
        let is_heard = |sent: &Sent, other: &Sent| sent.fin && sent.next.is_some() && sent.next == other.acked;
        self.reset || (is_heard(&self.opener, &self.resource) && is_heard(&self.resource, &self.opener))
    }

    /// The resets, as if from the other end, that make `end` give up: it takes the one whose sequence number is what it
    /// expects next. That is what it last acknowledged, or, if its acknowledgement is still to come, all that was sent
    /// to it.
    pub(super) fn resets_to(&self, end: End) -> impl Iterator<Item = ResetNumbers> + use<> {
        let (told, heard) = (self.sent(end), self.sent(end.other()));
        let ack = told.next.unwrap_or(0);
        let sure = told.acked.or(heard.next).unwrap_or(0);
        let perhaps = heard.next.filter(|next| *next != sure);
        std::iter::once(sure).chain(perhaps).map(move |seq| ResetNumbers { seq, ack })
    }

    fn sent(&self, end: End) -> &Sent {
        match end {
            End::Opener => &self.opener,
            End::Resource => &self.resource,
        }
    }

    fn sent_mut(&mut self, end: End) -> &mut Sent {
        match end {
            End::Opener => &mut self.opener,
            End::Resource => &mut self.resource,
        }
    }
}

/// Moves `to` forward, never back, in the arithmetic of sequence numbers (RFC 9293 section 3.4).
fn advance(to: &mut Option<u32>, value: u32) {
    if to.is_none_or(|old| value.wrapping_sub(old) < 1 << 31) {
        *to = Some(value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use postern_packet::TcpFlags;
    use proptest::prelude::*;

    fn segment(seq: u32, ack: Option<u32>, payload: u32) -> TcpSegment {
        let flags = TcpFlags { ack: ack.is_some(), ..TcpFlags::default() };
        TcpSegment { seq, ack: ack.unwrap_or(0), flags, payload, window: 1000, header: 20 }
    }

    fn ack(seq: u32, ack: u32, payload: u32) -> TcpSegment {
        segment(seq, Some(ack), payload)
    }

    fn syn(seq: u32) -> TcpSegment {
        with_syn(segment(seq, None, 0))
    }

    fn with_syn(mut segment: TcpSegment) -> TcpSegment {
        segment.flags.syn = true;
        segment
    }

    fn with_fin(mut segment: TcpSegment) -> TcpSegment {
        segment.flags.fin = true;
        segment
    }

    fn established() -> Connection {
        let mut connection = Connection::default();
        connection.note(End::Opener, &syn(100));
        connection.note(End::Resource, &with_syn(ack(900, 101, 0)));
        connection.note(End::Opener, &ack(101, 901, 0));
        connection
    }

    #[test]
    fn a_reset_of_a_quiet_connection_is_one_segment_that_both_ends_expect() {
        let connection = established();
        let to_resource: Vec<_> = connection.resets_to(End::Resource).collect();
        assert_eq!(to_resource, [ResetNumbers { seq: 101, ack: 901 }]);
        let to_opener: Vec<_> = connection.resets_to(End::Opener).collect();
        assert_eq!(to_opener, [ResetNumbers { seq: 901, ack: 101 }]);
    }

    #[test]
    fn data_not_yet_acknowledged_is_covered_by_a_second_reset() {
        let mut connection = established();
        connection.note(End::Opener, &ack(101, 901, 50));
        let seqs: Vec<_> = connection.resets_to(End::Resource).map(|numbers| numbers.seq).collect();
        assert_eq!(seqs, [101, 151]);
    }

    #[test]
    fn a_reset_to_an_opener_without_an_answer_acknowledges_its_syn() {
        let mut connection = Connection::default();
        connection.note(End::Opener, &syn(u32::MAX));
        let resets: Vec<_> = connection.resets_to(End::Opener).collect();
        assert_eq!(resets, [ResetNumbers { seq: 0, ack: 0 }], "the SYN's number wraps");
    }

    #[test]
    fn silence_is_bounded_by_the_state() {
        let mut connection = Connection::default();
        connection.note(End::Opener, &syn(1));
        assert_eq!(connection.idle_timeout(), TRANSITORY_TIMEOUT);
        let mut connection = established();
        assert_eq!(connection.idle_timeout(), ESTABLISHED_TIMEOUT);
        connection.note(End::Resource, &with_fin(ack(901, 101, 0)));
        assert_eq!(connection.idle_timeout(), TRANSITORY_TIMEOUT);
        connection.note(End::Opener, &with_fin(ack(101, 902, 0)));
        assert_eq!(connection.idle_timeout(), CLOSED_LINGER);
        connection.note(End::Opener, &syn(5000));
        assert_eq!(connection.idle_timeout(), TRANSITORY_TIMEOUT, "the ports are used again");
    }

    #[test]
    fn a_connection_is_over_once_both_ends_know_it() {
        let mut connection = established();
        connection.note(End::Resource, &with_fin(ack(901, 101, 10)));
        connection.note(End::Opener, &with_fin(ack(101, 912, 0)));
        assert!(connection.is_closed() && !connection.is_over(), "the opener's end is not acknowledged");
        connection.note(End::Resource, &ack(912, 102, 0));
        assert!(connection.is_over());
        let mut reset = ack(101, 901, 0);
        reset.flags.rst = true;
        let mut connection = established();
        connection.note(End::Opener, &reset);
        assert!(connection.is_over() && connection.is_restarted_by(End::Opener, &syn(7)));
        assert!(!connection.is_restarted_by(End::Resource, &syn(7)));
    }

    #[test]
    fn neither_an_answer_nor_a_reset_begins_a_flow() {
        assert!(may_begin(&syn(1)) && may_begin(&ack(1, 2, 3)));
        assert!(!may_begin(&with_syn(ack(1, 2, 0))));
        let mut reset = ack(1, 2, 0);
        reset.flags.rst = true;
        assert!(!may_begin(&reset));
    }

    proptest! {
        /// Whatever order segments arrive in, one of the resets is what the receiver expects: it has received all up
        /// to its last acknowledgement at least, and at most all that was sent.
        #[test]
        fn one_reset_matches_when_all_or_only_the_acknowledged_arrived(
            start in any::<u32>(),
            lengths in prop::collection::vec(1u32..1400, 1..20),
            acked in 0usize..20,
            swap in any::<bool>(),
        ) {
            let mut connection = Connection::default();
            connection.note(End::Opener, &syn(start));
            connection.note(End::Resource, &with_syn(ack(7, start.wrapping_add(1), 0)));
            let mut seq = start.wrapping_add(1);
            let mut segments = vec![];
            for length in lengths {
                segments.push(ack(seq, 8, length));
                seq = seq.wrapping_add(length);
            }
            let acked_to = segments.get(acked).map_or(seq, |segment| segment.seq);
            if swap {
                segments.reverse();
            }
            for segment in &segments {
                connection.note(End::Opener, segment);
            }
            connection.note(End::Resource, &ack(8, acked_to, 0));
            let seqs: Vec<_> = connection.resets_to(End::Resource).map(|numbers| numbers.seq).collect();
            prop_assert!(seqs.contains(&acked_to) && seqs.contains(&seq));
        }
    }
}
