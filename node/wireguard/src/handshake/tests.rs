//! The handshake by itself. That it is WireGuard's is shown against another implementation, in `tests/protocol`.

use postern_model::SecretBytes;

use super::*;

fn key(byte: u8) -> PrivateKey {
    PrivateKey::from_bytes(&SecretBytes::new([byte; 32]))
}

fn at(second: u64) -> Moment {
    Moment::from_boot(Duration::from_secs(second))
}

fn pair() -> (Handshake, Handshake) {
    let psk = PresharedKey::new([9; 32]);
    let (alice, bob) = (key(1), key(2));
    (Handshake::new(&alice, bob.public(), Some(&psk)), Handshake::new(&bob, alice.public(), Some(&psk)))
}

fn initiate(from: &mut Handshake, index: u32, second: u64) -> Vec<u8> {
    let mut out = [0; INITIATION];
    assert_eq!(from.initiate(index, &mut out, at(second)), Some(INITIATION));
    out.to_vec()
}

fn respond(to: &mut Handshake, initiation: &[u8], index: u32) -> Result<(Keys, Vec<u8>), TunnelError> {
    let mut out = [0; RESPONSE];
    let (keys, len) = to.respond(initiation, index, &mut out, at(0))?;
    Ok((keys, out[..len].to_vec()))
}

#[test]
fn both_sides_get_the_same_keys() {
    let (mut alice, mut bob) = pair();
    let initiation = initiate(&mut alice, 1, 0);
    let (bobs, response) = respond(&mut bob, &initiation, 2).unwrap();
    let alices = alice.complete(&response, at(3)).unwrap();
    assert_eq!((&alices.seal, &alices.open), (&bobs.open, &bobs.seal));
    assert_ne!(alices.seal, alices.open);
    assert_eq!((alices.index, alices.peer_index, bobs.index, bobs.peer_index), (1, 2, 2, 1));
    assert_eq!(alices.since, at(0), "as old as the initiation");
    assert!(alice.complete(&response, at(3)).is_err(), "once");
}

/// The last 16 bytes are MAC2, which counts only for who asks for cookies: the gate.
const UNCOVERED: usize = 16;

#[test]
fn a_message_with_any_byte_altered_is_refused_and_changes_nothing() {
    let (mut alice, mut bob) = pair();
    let initiation = initiate(&mut alice, 1, 0);
    for byte in 0..INITIATION - UNCOVERED {
        for bit in [1, 0x80] {
            let mut altered = initiation.clone();
            altered[byte] ^= bit;
            assert_eq!(respond(&mut bob, &altered, 2).err(), Some(TunnelError::Invalid), "byte {byte}");
        }
    }
    let (keys, response) = respond(&mut bob, &initiation, 2).unwrap();
    for byte in 0..RESPONSE - UNCOVERED {
        for bit in [1, 0x80] {
            let mut altered = response.clone();
            altered[byte] ^= bit;
            assert_eq!(alice.complete(&altered, at(0)).err(), Some(TunnelError::Invalid), "byte {byte}");
        }
    }
    assert_eq!(alice.complete(&response, at(0)).unwrap().seal, keys.open);
}

/// MAC1 can be made by anyone who knows the public key; so each byte also has to be covered by what comes after it.
#[test]
fn altered_bytes_under_a_fitting_mac_are_refused_too() {
    let (mut alice, mut bob) = pair();
    let initiation = initiate(&mut alice, 1, 0);
    // A stranger's index, at 4..8, is carried along: a response to it would be for nobody.
    for byte in 8..INITIATION - mac::MACS {
        let mut altered = initiation.clone();
        altered[byte] ^= 1;
        alice.macs.append(&mut altered, 1, at(0)).unwrap();
        assert_eq!(respond(&mut bob, &altered, 2).err(), Some(TunnelError::Invalid), "byte {byte}");
    }
    let (_, response) = respond(&mut bob, &initiation, 2).unwrap();
    for byte in 8..RESPONSE - mac::MACS {
        let mut altered = response.clone();
        altered[byte] ^= 1;
        bob.macs.append(&mut altered, 2, at(0)).unwrap();
        assert_eq!(alice.complete(&altered, at(0)).err(), Some(TunnelError::Invalid), "byte {byte}");
    }
    assert!(alice.complete(&response, at(0)).is_ok());
}

#[test]
fn an_initiation_counts_once_and_only_if_it_is_the_newest() {
    let (mut alice, mut bob) = pair();
    let (first, second) = (initiate(&mut alice, 1, 0), initiate(&mut alice, 2, 0));
    assert!(respond(&mut bob, &second, 1).is_ok());
    assert_eq!(respond(&mut bob, &second, 2).err(), Some(TunnelError::Replayed));
    assert_eq!(respond(&mut bob, &first, 2).err(), Some(TunnelError::Replayed));
    let third = initiate(&mut alice, 3, 0);
    assert!(respond(&mut bob, &third, 2).is_ok());
}

#[test]
fn another_key_never_gets_through() {
    let (mut alice, mut bob) = pair();
    let (stranger, psk) = (key(3), PresharedKey::new([9; 32]));
    let mut carol = Handshake::new(&stranger, key(2).public(), Some(&psk));
    let initiation = initiate(&mut carol, 1, 0);
    assert_eq!(respond(&mut bob, &initiation, 2).err(), Some(TunnelError::Invalid), "another static key");
    let mut carol = Handshake::new(&stranger, key(1).public(), Some(&psk));
    let initiation = initiate(&mut alice, 1, 0);
    assert_eq!(respond(&mut carol, &initiation, 2).err(), Some(TunnelError::Invalid), "not for her");
    for other in [None, Some(PresharedKey::new([8; 32]))] {
        let mut bob = Handshake::new(&key(2), key(1).public(), other.as_ref());
        let initiation = initiate(&mut alice, 1, 0);
        let (_, response) = respond(&mut bob, &initiation, 2).unwrap();
        assert_eq!(alice.complete(&response, at(0)).err(), Some(TunnelError::Invalid), "another preshared key");
    }
}

/// A key of low order makes the same secret with every other: with it, anyone could read along.
#[test]
fn keys_of_low_order_are_no_keys() {
    let (mut alice, mut bob) = pair();
    let mut to_nobody = Handshake::new(&key(1), PublicKey([0; 32]), None);
    assert_eq!(to_nobody.initiate(1, &mut [0; INITIATION], at(0)), None);

    let mut forged = [0; INITIATION];
    NewInitiation::begin(&mut forged, 1).unwrap();
    alice.macs.append(&mut forged, 1, at(0)).unwrap();
    assert_eq!(respond(&mut bob, &forged, 2).err(), Some(TunnelError::Invalid));
}

#[test]
fn the_last_two_initiations_may_be_answered_for_a_while() {
    let (mut alice, mut bob) = pair();
    let answer = |bob: &mut Handshake, initiation: &[u8], index| respond(bob, initiation, index).unwrap().1;
    let initiations = [1, 2, 3].map(|index| initiate(&mut alice, index, 5));
    let answers = [0, 1, 2].map(|i| answer(&mut bob, &initiations[i], i as u32));
    assert!(alice.complete(&answers[0], at(5)).is_err(), "the third last");
    assert!(alice.awaits(2) && alice.awaits(3) && !alice.awaits(1));
    assert_eq!(alice.complete(&answers[1], at(5)).unwrap().index, 2);
    assert_eq!(alice.complete(&answers[2], at(5)).unwrap().index, 3, "the newer one still counts");
    assert!(alice.complete(&answers[1], at(5)).is_err());

    let last_two = [4, 5].map(|index| initiate(&mut alice, index, 5));
    let answers = [0, 1].map(|i| answer(&mut bob, &last_two[i], i as u32));
    assert_eq!(alice.complete(&answers[1], at(5)).unwrap().index, 5);
    assert!(alice.complete(&answers[0], at(5)).is_err(), "the older one no more");

    let late = initiate(&mut alice, 6, 20);
    let answer = answer(&mut bob, &late, 6);
    assert!(alice.complete(&answer, at(31)).is_err());
    alice.forget_stale(at(31));
    assert!(!alice.awaits(6));
}

#[test]
fn nothing_is_written_where_there_is_no_room() {
    let (mut alice, mut bob) = pair();
    assert_eq!(alice.initiate(1, &mut [0; INITIATION - 1], at(0)), None);
    let initiation = initiate(&mut alice, 1, 0);
    assert!(bob.respond(&initiation, 1, &mut [0; RESPONSE - 1], at(0)).is_err());
    assert!(respond(&mut bob, &initiation, 1).is_ok(), "which has not used up the initiation");
}
