//! A packet with room in front of it: it gets a longer header in place, and what follows the header is never moved.

/// Room that is always enough: what an IPv6 header is longer than an IPv4 header.
pub const HEADROOM: usize = 20;

/// A packet that lies in a larger buffer.
#[derive(Debug)]
pub struct PacketBuf<'a> {
    buffer: &'a mut [u8],
    at: usize,
}

impl<'a> PacketBuf<'a> {
    /// The packet that begins at `at` of `buffer`, with [`HEADROOM`] in front of it if its family may change, and ends with
    /// it; `None` when the buffer is not that long.
    pub fn new(buffer: &'a mut [u8], at: usize) -> Option<Self> {
        (at <= buffer.len()).then_some(Self { buffer, at })
    }

    /// Where in the buffer the packet begins now.
    pub fn at(&self) -> usize {
        self.at
    }

    /// The packet.
    pub fn bytes(&self) -> &[u8] {
        &self.buffer[self.at..]
    }

    /// The packet, to be changed.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.buffer[self.at..]
    }

    /// The packet, for as long as the buffer lives.
    pub fn into_bytes(self) -> &'a mut [u8] {
        &mut self.buffer[self.at..]
    }

    /// Puts `header` in place of the first `old` bytes; `false`, with nothing changed, when there is no room for it.
    pub(crate) fn replace_header(&mut self, old: usize, header: &[u8]) -> bool {
        let body = self.at + old;
        let Some(at) = body.checked_sub(header.len()).filter(|_| body <= self.buffer.len()) else { return false };
        self.buffer[at..body].copy_from_slice(header);
        self.at = at;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_grow_into_the_room_and_shrink_out_of_it() {
        let mut buffer = *b"..headbody";
        let mut packet = PacketBuf::new(&mut buffer, 2).unwrap();
        assert!(!packet.replace_header(4, b"too-long"), "no room");
        assert_eq!(packet.bytes(), b"headbody");
        assert!(packet.replace_header(4, b"longer"));
        assert_eq!((packet.bytes(), packet.at()), (&b"longerbody"[..], 0));
        assert!(packet.replace_header(6, b"ok"));
        assert_eq!((packet.bytes(), packet.at()), (&b"okbody"[..], 4));
        assert!(PacketBuf::new(&mut buffer, 11).is_none());
    }
}
