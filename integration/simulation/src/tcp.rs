//! The two ends of a TCP connection, as far as they count: enough to send segments in their places, and to tell whether a
//! reset would be believed (RFC 9293 section 3.10.7). Nothing is retransmitted.

use postern_packet::TcpSegment;

use crate::packets::{ACK, FIN, Header, SYN};

/// One end.
#[derive(Debug, Clone, Default)]
pub(crate) struct End {
    /// The sequence number of what is sent next.
    next: u32,
    /// What is expected next from the other end, once it has spoken.
    expected: Option<u32>,
    has_spoken: bool,
    /// A reset came that this end believes.
    pub(crate) was_reset: bool,
}

impl End {
    /// An end that has sent nothing.
    pub(crate) fn new(first: u32) -> Self {
        Self { next: first, ..Self::default() }
    }

    /// The next segment of whoever did not open: the first one answers the opening.
    pub(crate) fn reply(&mut self, len: usize) -> Header {
        let is_first = !self.has_spoken;
        self.send(is_first, false, len)
    }

    /// The next segment, with `len` bytes of payload.
    pub(crate) fn send(&mut self, is_opening: bool, is_closing: bool, len: usize) -> Header {
        let flags = if is_opening { SYN } else { 0 }
            | if is_closing { FIN } else { 0 }
            | if self.expected.is_some() || !is_opening { ACK } else { 0 };
        let header = Header::Tcp { flags, seq: self.next, ack: self.expected.unwrap_or(0) };
        self.has_spoken = true;
        let len = u32::try_from(len).expect("segments are short") + u32::from(is_opening) + u32::from(is_closing);
        self.next = self.next.wrapping_add(len);
        header
    }

    /// A segment came.
    pub(crate) fn receive(&mut self, segment: &TcpSegment) {
        if segment.flags.rst {
            self.was_reset |= match self.expected {
                Some(expected) => segment.seq == expected,
                None => segment.flags.ack && segment.ack == self.next,
            };
        } else if segment.flags.syn || self.expected.is_none_or(|expected| expected == segment.seq) {
            self.expected = Some(segment.end());
        }
    }
}
