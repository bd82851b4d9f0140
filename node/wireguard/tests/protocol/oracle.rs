//! What both implementations have to agree on, with each of them in each role.

use boringtun::noise::TunnResult;
use postern_wireguard::{Admission, Gate, HEADER, MIN_BUFFER, OVERHEAD, receiver_index};

use crate::ends::{End, Got, at, key, limiter, number, packet};

const ALICE: u8 = 1;
const BOB: u8 = 2;

/// Ours with the oracle, and the reverse, the initiator first; `psks` are theirs in that order.
fn pairs(psks: [Option<u8>; 2]) -> [(End, End); 2] {
    let [a, b] = psks;
    [(End::ours(ALICE, BOB, a), End::theirs(BOB, ALICE, b)), (End::theirs(ALICE, BOB, a), End::ours(BOB, ALICE, b))]
}

fn handshake(initiator: &mut End, responder: &mut End, now: u64) {
    let initiation = initiator.start(now).expect("an initiation");
    let response = responder.give(&initiation, now).reply();
    let keepalive = initiator.give(&response, now).reply();
    assert_eq!(responder.give(&keepalive, now), Got::Nothing, "the keepalive that confirms the keys");
}

fn exchange(from: &mut End, to: &mut End, lens: impl IntoIterator<Item = usize>, now: u64) {
    for (i, len) in lens.into_iter().enumerate() {
        let packet = packet(i as u32, len);
        let sealed = from.seal(&packet, now).expect("a session");
        assert_eq!(to.give(&sealed, now).packet(), packet, "of {len} bytes, cut to its length");
        assert_eq!(to.give(&sealed, now), Got::Refused, "a second time");
    }
}

#[test]
fn handshakes_and_data_go_both_ways_with_and_without_a_preshared_key() {
    for psk in [None, Some(9)] {
        for (mut a, mut b) in pairs([psk, psk]) {
            handshake(&mut a, &mut b, 0);
            exchange(&mut a, &mut b, (24..60).chain([1399, 1400, 1419, 1420]), 1);
            exchange(&mut b, &mut a, (24..60).chain([1399, 1400, 1419, 1420]), 1);
        }
    }
}

#[test]
fn either_side_makes_new_keys_and_late_packets_still_open() {
    for (mut a, mut b) in pairs([Some(9), Some(9)]) {
        handshake(&mut a, &mut b, 0);
        for round in 1..600 {
            let now = round * 200;
            let late = (a.seal(&packet(7, 100), now).unwrap(), b.seal(&packet(8, 100), now).unwrap());
            if round % 3 == 0 {
                handshake(&mut b, &mut a, now);
            } else {
                handshake(&mut a, &mut b, now);
            }
            assert_eq!(number(&b.give(&late.0, now).packet()), 7);
            assert_eq!(number(&a.give(&late.1, now).packet()), 8);
            exchange(&mut a, &mut b, [100], now);
            exchange(&mut b, &mut a, [100], now);
        }
    }
}

#[test]
fn handshakes_that_cross_leave_both_with_a_session() {
    let (mut ours, mut theirs) = (End::ours(ALICE, BOB, Some(9)), End::theirs(BOB, ALICE, Some(9)));
    for now in [0, 20_000] {
        let (from_us, from_them) = (ours.start(now).unwrap(), theirs.start(now).unwrap());
        let (to_us, to_them) = (theirs.give(&from_us, now).reply(), ours.give(&from_them, now).reply());
        let (last_of_us, last_of_them) = (ours.give(&to_us, now).reply(), theirs.give(&to_them, now).reply());
        assert_eq!(theirs.give(&last_of_us, now), Got::Nothing);
        assert_eq!(ours.give(&last_of_them, now), Got::Nothing);
        exchange(&mut ours, &mut theirs, [100], now);
        exchange(&mut theirs, &mut ours, [100], now);
    }
}

#[test]
fn keys_that_do_not_fit_never_make_a_session() {
    for psks in [[Some(9), Some(8)], [Some(9), None], [None, Some(9)]] {
        for (mut a, mut b) in pairs(psks) {
            let initiation = a.start(0).unwrap();
            let response = b.give(&initiation, 0).reply();
            assert_eq!(a.give(&response, 0), Got::Refused, "{psks:?}");
            assert_eq!((a.seal(&packet(1, 100), 0), b.seal(&packet(1, 100), 0)), (None, None));
        }
    }
    let strangers = [
        (End::ours(3, BOB, None), End::theirs(BOB, ALICE, None)),
        (End::theirs(3, BOB, None), End::ours(BOB, ALICE, None)),
        (End::ours(ALICE, 3, None), End::theirs(BOB, ALICE, None)),
        (End::theirs(ALICE, 3, None), End::ours(BOB, ALICE, None)),
    ];
    for (mut a, mut b) in strangers {
        let initiation = a.start(0).unwrap();
        assert_eq!(b.give(&initiation, 0), Got::Refused);
    }
}

#[test]
fn initiations_count_once_and_responses_too() {
    for (mut a, mut b) in pairs([None, None]) {
        let (first, second) = (a.start(0).unwrap(), a.start(6_000).unwrap());
        let response = b.give(&second, 6_000).reply();
        assert_eq!(b.give(&second, 6_000), Got::Refused, "played again");
        assert_eq!(b.give(&first, 6_000), Got::Refused, "older than another");
        let keepalive = a.give(&response, 6_000).reply();
        assert_eq!(a.give(&response, 6_000), Got::Refused, "played again");
        assert_eq!(b.give(&keepalive, 6_000), Got::Nothing);
        exchange(&mut a, &mut b, [100], 6_000);
        exchange(&mut b, &mut a, [100], 6_000);
    }
}

#[test]
fn packets_out_of_order_are_taken_once() {
    for (mut a, mut b) in pairs([None, None]) {
        handshake(&mut a, &mut b, 0);
        let sealed: Vec<_> = (0..1000).map(|n| a.seal(&packet(n, 100), 0).unwrap()).collect();
        for (n, datagram) in sealed.iter().enumerate().rev() {
            assert_eq!(number(&b.give(datagram, 0).packet()), n as u32);
        }
        assert!(sealed.iter().all(|datagram| b.give(datagram, 0) == Got::Refused));
    }
}

/// What is sealed and opened apart from the tunnel is what it would seal and open itself.
#[test]
fn sealers_and_openers_speak_with_the_oracle() {
    let (mut ours, mut theirs) = (End::ours(ALICE, BOB, Some(9)), End::theirs(BOB, ALICE, Some(9)));
    handshake(&mut ours, &mut theirs, 0);
    let End::Ours(tunnel) = &mut ours else { unreachable!() };
    tunnel.set_mtu(1420);
    let mut sealer = tunnel.sealer(3, 3 * 1452, at(0)).unwrap();
    for (len, sealed_len) in [(100, 112 + 32), (1415, 1420 + 32), (1420, 1420 + 32)] {
        let inner = packet(1, len);
        let mut buffer = vec![0xee; len + OVERHEAD];
        buffer[HEADER..HEADER + len].copy_from_slice(&inner);
        assert_eq!(sealer.seal(&mut buffer, len), Some(sealed_len));
        assert_eq!(theirs.give(&buffer[..sealed_len], 0).packet(), inner);
    }
    for (n, len) in [(1, 24), (2, 1420)] {
        let inner = packet(n, len);
        let mut datagram = theirs.seal(&inner, 0).unwrap();
        let index = receiver_index(&datagram).unwrap();
        let plain = tunnel.opener(index, at(0)).unwrap().open(&mut datagram).unwrap();
        assert_eq!(datagram[HEADER..HEADER + plain.len], inner);
        assert_eq!(tunnel.accept(index, plain.counter, datagram.len(), true, at(0)), Ok(()));
        assert!(tunnel.accept(index, plain.counter, datagram.len(), true, at(0)).is_err());
    }
}

/// The gate, with more initiations than it takes without asking, wants a proof of the address, and both implementations
/// bring it.
#[test]
fn a_cookie_of_the_gates_is_understood() {
    let from = "192.0.2.1:51820".parse().unwrap();
    for mut initiator in [End::ours(ALICE, BOB, None), End::theirs(ALICE, BOB, None)] {
        let mut gate = Gate::new(&key(BOB), at(0));
        let mut out = [0; MIN_BUFFER];
        let first = initiator.start(0).unwrap();
        let mut admitted = 0;
        let cookie = loop {
            match gate.admit(&first, from, &mut out, at(0)) {
                Admission::Peer(_) => admitted += 1,
                Admission::Cookie(cookie) => break cookie.to_vec(),
                other => panic!("{other:?}"),
            }
            assert!(admitted < 1000, "it takes everything");
        };
        let mut altered = cookie.clone();
        altered[40] ^= 1;
        assert_eq!(initiator.give(&altered, 0), Got::Refused);
        assert_eq!(initiator.give(&cookie, 0), Got::Nothing);
        let second = initiator.start(200).unwrap();
        assert_eq!(gate.admit(&second, from, &mut out, at(200)), Admission::Peer(key(ALICE).public()));
        let elsewhere = "198.51.100.7:51820".parse().unwrap();
        for _ in 0..admitted {
            gate.admit(&first, elsewhere, &mut out, at(200));
        }
        assert!(
            matches!(gate.admit(&second, elsewhere, &mut out, at(200)), Admission::Cookie(_)),
            "of no use elsewhere"
        );
    }
}

#[test]
fn a_cookie_of_the_oracles_is_understood() {
    let mut ours = End::ours(ALICE, BOB, None);
    let mut busy = End::theirs_limited(BOB, ALICE, None, limiter(BOB, 0));
    let first = ours.start(0).unwrap();
    let cookie = busy.give(&first, 0).reply();
    assert_eq!((cookie[0], cookie.len()), (3, 64));
    assert_eq!(ours.give(&cookie, 0), Got::Nothing);
    assert_eq!(ours.give(&cookie, 0), Got::Refused, "one for each message");
    assert_eq!(ours.start(99), None, "not at once");
    let second = ours.start(100).unwrap();
    let response = busy.give(&second, 100).reply();
    assert_eq!(response[0], 2);
    let keepalive = ours.give(&response, 100).reply();
    assert_eq!(busy.give(&keepalive, 100), Got::Nothing);
    exchange(&mut ours, &mut busy, [100], 100);
}

/// An initiator may be busy too, and ask for a proof of who answers.
#[test]
fn a_cookie_for_a_response_is_understood() {
    let busy = limiter(ALICE, 0);
    let (mut theirs, mut ours) = (End::theirs(ALICE, BOB, None), End::ours(BOB, ALICE, None));
    let from = Some("192.0.2.1".parse().unwrap());
    let response = ours.give(&theirs.start(0).unwrap(), 0).reply();
    let mut out = [0; MIN_BUFFER];
    let Err(TunnResult::WriteToNetwork(cookie)) = busy.verify_packet(from, &response, &mut out) else {
        panic!("a cookie is asked for")
    };
    assert_eq!(ours.give(cookie, 0), Got::Nothing);
    let response = ours.give(&theirs.start(1_000).unwrap(), 1_000).reply();
    assert!(busy.verify_packet(from, &response, &mut [0; MIN_BUFFER]).is_ok());
    assert_eq!(ours.give(&theirs.give(&response, 1_000).reply(), 1_000), Got::Nothing);
}
