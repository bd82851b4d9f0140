//! What the first bytes of a datagram say (section 5.4 of the WireGuard paper). Nothing is authenticated yet.

/// The kind of a WireGuard message, and for which tunnel it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A handshake initiation: only [`Gate`](crate::Gate) can tell whose.
    Initiation,
    /// The answer to an initiation of this tunnel.
    Response {
        /// Its index.
        tunnel: u32,
    },
    /// A cookie for an initiation of this tunnel.
    CookieReply {
        /// Its index.
        tunnel: u32,
    },
    /// A sealed packet.
    Data {
        /// Its index.
        tunnel: u32,
    },
}

/// Reads a datagram's header; `None` when it is not WireGuard.
///
/// The low 8 bits of a receiver index number the sessions of one tunnel; the 24 above are the tunnel's.
pub fn classify(datagram: &[u8]) -> Option<Kind> {
    let tunnel = |at: usize| receiver(datagram, at).map(|index| index >> 8);
    match (datagram.first_chunk::<4>()?, datagram.len()) {
        ([1, 0, 0, 0], 148) => Some(Kind::Initiation),
        ([2, 0, 0, 0], 92) => Some(Kind::Response { tunnel: tunnel(8)? }),
        ([3, 0, 0, 0], 64) => Some(Kind::CookieReply { tunnel: tunnel(4)? }),
        ([4, 0, 0, 0], 32..) => Some(Kind::Data { tunnel: tunnel(4)? }),
        _ => None,
    }
}

/// The little-endian index at an offset of a message.
pub(crate) fn receiver(datagram: &[u8], at: usize) -> Option<u32> {
    datagram.get(at..).and_then(|rest| rest.first_chunk()).map(|bytes| u32::from_le_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn kinds_have_their_lengths() {
        let mut data = [0; 32];
        data[0] = 4;
        data[4..8].copy_from_slice(&0x0001_0203_u32.to_le_bytes());
        assert_eq!(classify(&data), Some(Kind::Data { tunnel: 0x102 }));
        assert_eq!(classify(&data[..31]), None);
        data[0] = 1;
        assert_eq!(classify(&data), None);
        data[1] = 1;
        assert_eq!(classify(&data), None);
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = classify(&bytes);
        }
    }
}
