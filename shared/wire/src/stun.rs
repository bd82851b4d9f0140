//! STUN (RFC 8489): "from which address do I come?", and the answer. One kind of request, one attribute. Pure.
//!
//! The coordinator and every relay answer on the UDP port on which they speak QUIC; nodes ask from the sockets whose address they want to
//! know, and to find out whether a network lets UDP through at all. What arrives is told apart by its first bytes: QUIC
//! sets bit 0x40, WireGuard's types are 1 to 4 and then three zeros, STUN begins with two zero bits and has a cookie (RFC 9443).
//! Nothing in an answer is authentic; it is a hint, which whoever uses it has to prove by other means.

use std::net::SocketAddr;

use stun_types::{
    attribute::XorMappedAddress,
    message::{BINDING, Message, MessageClass, MessageType, MessageWriteVec, TransactionId},
    prelude::*,
};

/// What bytes 4 to 7 of every message are.
const COOKIE: [u8; 4] = [0x21, 0x12, 0xa4, 0x42];
/// Bytes of a message without attributes.
const HEADER: usize = 20;
/// Requests longer than this are no business of ours, in bytes.
const LONGEST_REQUEST: usize = 548;

/// Tells one request's answer from another's, and from what strangers make up: 12 random bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Transaction([u8; 12]);

impl Transaction {
    /// From random bytes.
    pub fn new(random: [u8; 12]) -> Self {
        Self(random)
    }

    fn id(self) -> TransactionId {
        let mut bytes = [0; 16];
        bytes[4..].copy_from_slice(&self.0);
        u128::from_be_bytes(bytes).into()
    }
}

/// Whether a datagram is STUN, and neither QUIC nor WireGuard.
pub fn is_stun(datagram: &[u8]) -> bool {
    // The cookie's place in WireGuard's messages is an index that a peer may choose.
    let is_wireguard = matches!(datagram, [1..=4, 0, 0, 0, ..]);
    datagram.len() >= HEADER && datagram[0] & 0xc0 == 0 && datagram[4..8] == COOKIE && !is_wireguard
}

/// A Binding request.
pub fn request(transaction: Transaction) -> Vec<u8> {
    let kind = MessageType::from_class_method(MessageClass::Request, BINDING);
    Message::builder(kind, transaction.id(), MessageWriteVec::new()).finish()
}

/// The answer to a Binding request that came from this address; `None` when it is no such request. It has 44 bytes at most, and a
/// request at least 20, so that nobody is flooded much by what others ask in their name.
pub fn answer(request: &[u8], from: SocketAddr) -> Option<Vec<u8>> {
    if !is_stun(request) || request.len() > LONGEST_REQUEST {
        return None;
    }
    let request = Message::from_bytes(request).ok()?;
    if !request.has_class(MessageClass::Request) || !request.has_method(BINDING) {
        return None;
    }
    // A socket for both families shows IPv4 addresses inside IPv6 ones; the asker knows itself by the former.
    let from = SocketAddr::new(from.ip().to_canonical(), from.port());
    let mut answer = Message::builder_success(&request, MessageWriteVec::new());
    answer.add_attribute(&XorMappedAddress::new(from, request.transaction_id())).ok()?;
    Some(answer.finish())
}

/// From where a request was seen to come, if this is the answer to it.
pub fn mapped_address(answer: &[u8], transaction: Transaction) -> Option<SocketAddr> {
    if !is_stun(answer) {
        return None;
    }
    let answer = Message::from_bytes(answer).ok()?;
    let is_ours = answer.has_class(MessageClass::Success)
        && answer.has_method(BINDING)
        && answer.transaction_id() == transaction.id();
    if !is_ours {
        return None;
    }
    Some(answer.attribute::<XorMappedAddress>().ok()?.addr(transaction.id()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const OURS: Transaction = Transaction([7; 12]);

    #[test]
    fn whoever_asks_learns_its_address() {
        for from in ["192.0.2.7:4000", "[2001:db8::7]:65535"] {
            let from: SocketAddr = from.parse().unwrap();
            let request = request(OURS);
            let answer = answer(&request, from).unwrap();
            assert!(is_stun(&request) && is_stun(&answer) && answer.len() <= 44);
            assert_eq!(mapped_address(&answer, OURS), Some(from));
        }
        let inside = "[::ffff:192.0.2.7]:4000".parse().unwrap();
        let answer = answer(&request(OURS), inside).unwrap();
        assert_eq!(mapped_address(&answer, OURS), Some("192.0.2.7:4000".parse().unwrap()));
    }

    #[test]
    fn a_request_reads_as_the_rfc_has_it() {
        let mut expected = vec![0, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42];
        expected.extend([7; 12]);
        assert_eq!(request(OURS), expected);
    }

    #[test]
    fn the_example_of_rfc_5769_is_read() {
        // Its IPv4 answer without the integrity and fingerprint attributes, which nobody here uses.
        let transaction = Transaction([0xb7, 0xe7, 0xa7, 0x01, 0xbc, 0x34, 0xd6, 0x86, 0xfa, 0x87, 0xdf, 0xae]);
        let mut answer = vec![0x01, 0x01, 0x00, 0x0c, 0x21, 0x12, 0xa4, 0x42];
        answer.extend(transaction.0);
        answer.extend([0x00, 0x20, 0x00, 0x08, 0x00, 0x01, 0xa1, 0x47, 0xe1, 0x12, 0xa6, 0x43]);
        assert_eq!(mapped_address(&answer, transaction), Some("192.0.2.1:32853".parse().unwrap()));
    }

    #[test]
    fn what_answers_something_else_is_not_believed_and_an_answer_not_answered() {
        let from = "192.0.2.7:4000".parse().unwrap();
        let answered = answer(&request(OURS), from).unwrap();
        assert_eq!(mapped_address(&answered, Transaction([8; 12])), None);
        assert_eq!(mapped_address(&request(OURS), OURS), None);
        assert_eq!(answer(&answered, from), None, "two servers would go on for ever");
        let mut long = request(OURS);
        long.resize(LONGEST_REQUEST + 4, 0);
        assert_eq!(answer(&long, from), None);
    }

    #[test]
    fn quic_and_wireguard_are_not_taken_for_stun() {
        let mut datagram = request(OURS);
        for first in 0x40..=0xff {
            datagram[0] = first;
            assert!(!is_stun(&datagram), "{first:#x}");
        }
        for kind in 1..=4 {
            assert!(!is_stun(&[[kind, 0, 0, 0].as_slice(), &COOKIE, &[9; 24]].concat()), "{kind}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_panic_and_answers_are_short(mut bytes in prop::collection::vec(any::<u8>(), 0..600), cookie: bool) {
            if cookie && bytes.len() >= HEADER {
                bytes[0] &= 0x3f;
                bytes[4..8].copy_from_slice(&COOKIE);
            }
            if let Some(answer) = answer(&bytes, "[2001:db8::7]:4000".parse().unwrap()) {
                prop_assert!(answer.len() <= 44 && bytes.len() >= HEADER);
            }
            let _ = mapped_address(&bytes, OURS);
        }

        #[test]
        fn no_altered_answer_panics(at in 0usize..44, to: u8) {
            let mut answer = answer(&request(OURS), "[2001:db8::7]:4000".parse().unwrap()).unwrap();
            answer[at] = to;
            let _ = mapped_address(&answer, OURS);
        }
    }
}
