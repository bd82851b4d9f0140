//! ICMP (RFC 792) and ICMPv6 (RFC 4443): which is which, and what one is in the other (RFC 7915 sections 4.2 and 5.2).

use crate::{
    Transport,
    transport::{ICMP, ICMPV6},
};

/// Length of the header that all messages share; an error's quoted packet follows.
pub(crate) const HEADER: usize = 8;

/// What an ICMP message is; `None` when it is cut.
pub(crate) fn transport(protocol: u8, body: &[u8]) -> Option<Transport> {
    let [kind, code, ..] = *body.first_chunk::<HEADER>()?;
    Some(match (protocol, kind, code) {
        (ICMP, 8, 0) | (ICMPV6, 128, 0) => Transport::EchoRequest,
        (ICMP, 0, 0) | (ICMPV6, 129, 0) => Transport::EchoReply,
        // Unreachable, time exceeded, parameter problem; and packet too big. Redirects and the like are never passed on.
        (ICMP, 3 | 11 | 12, _) | (ICMPV6, 1..=4, _) => Transport::IcmpError,
        _ => Transport::Other(protocol),
    })
}

/// The first 8 bytes (checksum left 0) of an ICMPv4 message as ICMPv6; `None` for what has no counterpart.
pub(crate) fn header_to_v6(v4: [u8; HEADER]) -> Option<[u8; HEADER]> {
    let [kind, code, _, _, rest @ ..] = v4;
    let mtu = u32::from(u16::from_be_bytes([v4[6], v4[7]]));
    let (kind, code, rest) = match (kind, code) {
        (8, _) => (128, 0, rest),
        (0, _) => (129, 0, rest),
        // An old router may leave the MTU out; 1280 always works.
        (3, 4) => (2, 0, (if mtu == 0 { 1280 } else { mtu + 20 }).max(1280).to_be_bytes()),
        (3, 2) => (4, 1, 6_u32.to_be_bytes()),
        (3, 3) => (1, 4, [0; 4]),
        (3, 9 | 10 | 13 | 15) => (1, 1, [0; 4]),
        (3, 0 | 1 | 5..=8 | 11 | 12) => (1, 0, [0; 4]),
        (11, code) => (3, code, [0; 4]),
        _ => return None,
    };
    Some([kind, code, 0, 0, rest[0], rest[1], rest[2], rest[3]])
}

/// The first 8 bytes (checksum left 0) of an ICMPv6 message as ICMPv4; `None` for what has no counterpart.
pub(crate) fn header_to_v4(v6: [u8; HEADER]) -> Option<[u8; HEADER]> {
    let [kind, code, _, _, rest @ ..] = v6;
    let (kind, code, rest) = match (kind, code) {
        (128, _) => (8, 0, rest),
        (129, _) => (0, 0, rest),
        (2, _) => {
            let mtu = u16::try_from(u32::from_be_bytes(rest).saturating_sub(20)).unwrap_or(u16::MAX).to_be_bytes();
            (3, 4, [0, 0, mtu[0], mtu[1]])
        }
        (1, 0 | 2 | 3) => (3, 1, [0; 4]),
        (1, 1) => (3, 10, [0; 4]),
        (1, 4) => (3, 3, [0; 4]),
        (3, code) => (11, code, [0; 4]),
        (4, 1) => (3, 2, [0; 4]),
        _ => return None,
    };
    Some([kind, code, 0, 0, rest[0], rest[1], rest[2], rest[3]])
}
