//! The two MACs at the end of each handshake message (sections 5.4.4 and 5.4.7 of the WireGuard paper).
//!
//! MAC1 proves that its maker knows the receiver's public key. MAC2 is made with a cookie that the receiver has sent to the
//! maker's address when it had much to do, and is zero without one. Asking for cookies is the [`Gate`](crate::Gate)'s;
//! here is what a tunnel does with one that it gets.

use std::time::Duration;

use blake2::{
    Blake2sMac,
    digest::{Mac as _, consts::U16},
};
use chacha20poly1305::{AeadInPlace as _, KeyInit, XChaCha20Poly1305};
use postern_model::Moment;
use subtle::ConstantTimeEq as _;
use zeroize::Zeroizing;

use super::{messages::CookieReply, noise::hash};

/// Length of both MACs together.
pub(super) const MACS: usize = 2 * MAC;
const MAC: usize = 16;

/// A cookie is good for two minutes; this leaves time for its way.
const COOKIE_LIFETIME: Duration = Duration::from_secs(120 - 5);

/// Makes and checks the MACs between this node and one peer.
pub(super) struct Macs {
    /// What messages to this node are checked with, and what those to the peer get.
    check_key: [u8; 32],
    mac1_key: [u8; 32],
    cookie_key: [u8; 32],
    cookie: Option<(Zeroizing<[u8; MAC]>, Moment)>,
    /// Our index in the last message, and its MAC1: a cookie reply refers to both. One reply for each message.
    last: Option<(u32, [u8; MAC])>,
}

impl Macs {
    pub(super) fn new(ours: &[u8; 32], theirs: &[u8; 32]) -> Self {
        Self {
            check_key: hash(&[b"mac1----", ours]),
            mac1_key: hash(&[b"mac1----", theirs]),
            cookie_key: hash(&[b"cookie--", theirs]),
            cookie: None,
            last: None,
        }
    }

    /// Whether a message's MAC1 fits. Its MAC2 is for the gate.
    pub(super) fn verify(&self, message: &[u8]) -> bool {
        let Some((covered, macs)) = message.split_last_chunk::<MACS>() else { return false };
        mac(&self.check_key, covered).ct_eq(&macs[..MAC]).into()
    }

    /// Writes the MACs of a message that is complete but for them. `index` is ours in it.
    pub(super) fn append(&mut self, message: &mut [u8], index: u32, now: Moment) -> Option<()> {
        let (message, mac2) = message.split_last_chunk_mut::<MAC>()?;
        let (covered, mac1) = message.split_last_chunk_mut::<MAC>()?;
        *mac1 = mac(&self.mac1_key, covered);
        self.last = Some((index, *mac1));
        self.cookie = self.cookie.take().filter(|(_, since)| now.since(*since) < COOKIE_LIFETIME);
        *mac2 = self.cookie.as_ref().map_or([0; MAC], |(cookie, _)| mac(&**cookie, message));
        Some(())
    }

    /// Takes the cookie that answers the last message; `false`, and nothing changes, when it is something else.
    pub(super) fn take_cookie(&mut self, datagram: &[u8], now: Moment) -> bool {
        let Some(reply) = CookieReply::read(datagram) else { return false };
        let Some((_, mac1)) = self.last.filter(|(index, _)| *index == reply.receiver) else { return false };
        let mut cookie = Zeroizing::new(*reply.sealed_cookie);
        let cipher = XChaCha20Poly1305::new(&self.cookie_key.into());
        let nonce = reply.nonce.into();
        if cipher.decrypt_in_place_detached(nonce, &mac1, &mut *cookie, reply.tag.into()).is_err() {
            return false;
        }
        self.cookie = Some((cookie, now));
        self.last = None;
        true
    }
}

/// The paper's MAC(): BLAKE2s with a key, 16 bytes.
fn mac(key: &[u8], message: &[u8]) -> [u8; MAC] {
    let mac: Result<Blake2sMac<U16>, _> = KeyInit::new_from_slice(key);
    let mut mac = mac.expect("BLAKE2s takes keys of up to 32 bytes");
    mac.update(message);
    mac.finalize().into_bytes().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALICE: [u8; 32] = [1; 32];
    const BOB: [u8; 32] = [2; 32];

    fn at(second: u64) -> Moment {
        Moment::from_boot(Duration::from_secs(second))
    }

    /// What bob, having much to do, answers to a message of alice's.
    fn reply(index: u32, mac1: &[u8], cookie: [u8; MAC]) -> Vec<u8> {
        let mut sealed = cookie;
        let cipher = XChaCha20Poly1305::new(&hash(&[b"cookie--", &BOB]).into());
        let tag = cipher.encrypt_in_place_detached(&[7; 24].into(), mac1, &mut sealed).unwrap();
        [&[3, 0, 0, 0], &index.to_le_bytes()[..], &[7; 24], &sealed, &tag[..]].concat()
    }

    #[test]
    fn mac1_fits_the_receiver_and_every_byte() {
        let (mut alice, bob) = (Macs::new(&ALICE, &BOB), Macs::new(&BOB, &ALICE));
        let mut message = [5; 60];
        alice.append(&mut message, 1, at(0)).unwrap();
        assert!(bob.verify(&message));
        assert!(!alice.verify(&message), "not for its maker");
        assert_eq!(message[44..], [0; MAC], "without a cookie");
        for at in 0..44 {
            let mut altered = message;
            altered[at] ^= 1;
            assert!(!bob.verify(&altered), "byte {at}");
        }
        assert!(!bob.verify(&message[..31]));
    }

    #[test]
    fn a_cookie_is_used_while_it_is_good() {
        let mut alice = Macs::new(&ALICE, &BOB);
        let mut message = [5; 60];
        alice.append(&mut message, 1, at(0)).unwrap();
        let cookie = reply(1, &message[28..44], [9; MAC]);
        for (index, mac1) in [(2, &message[28..44]), (1, &[0; MAC][..])] {
            assert!(!alice.take_cookie(&reply(index, mac1, [8; MAC]), at(1)), "for another message");
        }
        for at_byte in 0..cookie.len() {
            let mut altered = cookie.clone();
            altered[at_byte] ^= 1;
            assert!(!alice.take_cookie(&altered, at(1)), "byte {at_byte}");
        }
        assert!(alice.take_cookie(&cookie, at(1)));
        assert!(!alice.take_cookie(&cookie, at(1)), "one for each message");
        for (second, expected) in [(2, mac(&[9; MAC], &message[..44])), (116, [0; MAC])] {
            alice.append(&mut message, 1, at(second)).unwrap();
            assert_eq!(message[44..], expected, "at {second}");
        }
    }
}
