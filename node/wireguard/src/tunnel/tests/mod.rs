//! Two tunnels against each other, in virtual time.
//!
//! - here: handshakes and timers, packet by packet
//! - [`data`]: counters that were reserved, and packets that were opened apart from the tunnel

mod data;

use std::collections::BTreeSet;

use postern_model::SecretBytes;
use proptest::prelude::*;

use super::*;
use crate::{MIN_BUFFER, OVERHEAD};

fn key(byte: u8) -> PrivateKey {
    PrivateKey::from_bytes(&SecretBytes::new([byte; 32]))
}

fn at(millis: u64) -> Moment {
    Moment::from_boot(Duration::from_millis(millis))
}

/// An IPv4 packet that carries a number.
fn packet(number: u32, len: usize) -> Vec<u8> {
    let mut packet = vec![0; len.max(24)];
    packet[0] = 0x45;
    let total = u16::try_from(packet.len()).unwrap().to_be_bytes();
    packet[2..4].copy_from_slice(&total);
    packet[20..24].copy_from_slice(&number.to_be_bytes());
    packet
}

fn number(packet: &[u8]) -> u32 {
    u32::from_be_bytes(*packet[20..].first_chunk().unwrap())
}

struct Pair {
    client: Tunnel,
    server: Tunnel,
    now: u64,
}

impl Pair {
    fn new() -> Self {
        Self::with_psk([9; 32], [9; 32])
    }

    fn with_psk(a: [u8; 32], b: [u8; 32]) -> Self {
        let (alice, bob) = (key(1), key(2));
        Self {
            client: Tunnel::new(&alice, bob.public(), Some(&PresharedKey::new(a)), 0xabc, at(0)),
            server: Tunnel::new(&bob, alice.public(), Some(&PresharedKey::new(b)), 0xdef, at(0)),
            now: 0,
        }
    }

    fn handshake(&mut self) -> Result<(), TunnelError> {
        let init = start(&mut self.client, self.now).expect("an initiation");
        self.answer(&init)
    }

    /// Takes an initiation of the client's through to the end.
    fn answer(&mut self, init: &[u8]) -> Result<(), TunnelError> {
        let response = reply(&mut self.server, init, self.now)?;
        let keepalive = reply(&mut self.client, &response, self.now)?;
        assert_eq!(give(&mut self.server, &keepalive, self.now), Ok(None));
        Ok(())
    }

    fn up(&mut self, number: u32) -> Option<u32> {
        let sealed = seal(&mut self.client, &packet(number, 100), self.now)?;
        give(&mut self.server, &sealed, self.now).ok()?.map(|p| self::number(&p))
    }

    fn down(&mut self, number: u32) -> Option<u32> {
        let sealed = seal(&mut self.server, &packet(number, 100), self.now)?;
        give(&mut self.client, &sealed, self.now).ok()?.map(|p| self::number(&p))
    }
}

fn start(tunnel: &mut Tunnel, now: u64) -> Option<Vec<u8>> {
    tunnel.start_handshake(&mut [0; MIN_BUFFER], at(now)).map(<[u8]>::to_vec)
}

fn timeout(tunnel: &mut Tunnel, now: u64) -> Option<Vec<u8>> {
    tunnel.handle_timeout(&mut [0; MIN_BUFFER], at(now)).map(<[u8]>::to_vec)
}

fn seal(tunnel: &mut Tunnel, packet: &[u8], now: u64) -> Option<Vec<u8>> {
    let mut out = vec![0; packet.len() + OVERHEAD + MIN_BUFFER];
    match tunnel.seal(packet, &mut out, at(now)) {
        Sealed::Datagram(datagram) => Some(datagram.to_vec()),
        Sealed::NoSession => None,
    }
}

fn give(tunnel: &mut Tunnel, datagram: &[u8], now: u64) -> Result<Option<Vec<u8>>, TunnelError> {
    let mut out = vec![0; datagram.len().max(MIN_BUFFER)];
    match tunnel.handle_datagram(datagram, &mut out, at(now))? {
        Opened::Packet(packet) => Ok(Some(packet.to_vec())),
        _ => Ok(None),
    }
}

fn reply(tunnel: &mut Tunnel, datagram: &[u8], now: u64) -> Result<Vec<u8>, TunnelError> {
    let mut out = vec![0; datagram.len().max(MIN_BUFFER)];
    match tunnel.handle_datagram(datagram, &mut out, at(now))? {
        Opened::Reply { datagram, .. } => Ok(datagram.to_vec()),
        other => panic!("no reply but {other:?}"),
    }
}

#[test]
fn packets_go_both_ways_once_a_handshake_is_done() {
    let mut pair = Pair::new();
    assert_eq!(pair.up(1), None, "no session, no packet");
    pair.handshake().unwrap();
    assert_eq!(pair.up(1), Some(1));
    assert_eq!(pair.down(2), Some(2));
    assert_eq!(pair.client.stats().last_handshake, Some(at(0)));
}

#[test]
fn the_responder_stays_silent_until_the_initiator_has_proven_the_keys() {
    let mut pair = Pair::new();
    let init = start(&mut pair.client, 0).unwrap();
    reply(&mut pair.server, &init, 0).unwrap();
    assert_eq!(seal(&mut pair.server, &packet(1, 100), 0), None);
}

#[test]
fn sealed_packets_are_padded_to_sixteen_bytes_and_cut_again() {
    let mut pair = Pair::new();
    pair.handshake().unwrap();
    for len in [24, 25, 31, 32, 33, 1420] {
        let sealed = seal(&mut pair.client, &packet(1, len), 0).unwrap();
        assert_eq!(sealed.len() % 16, 0);
        assert!(sealed.len() <= len + OVERHEAD);
        assert_eq!(give(&mut pair.server, &sealed, 0).unwrap().unwrap().len(), len);
    }
}

#[test]
fn wrong_keys_and_altered_bytes_are_not_authentic() {
    let mut pair = Pair::with_psk([9; 32], [8; 32]);
    assert_eq!(pair.handshake(), Err(TunnelError::Invalid), "another preshared key");

    let mut stranger = Tunnel::new(&key(3), key(2).public(), None, 1, at(0));
    let init = start(&mut stranger, 0).unwrap();
    let mut pair = Pair::new();
    assert_eq!(reply(&mut pair.server, &init, 0), Err(TunnelError::Invalid), "another private key");

    pair.handshake().unwrap();
    let sealed = seal(&mut pair.client, &packet(1, 100), 0).unwrap();
    for i in [4, 8, 16, 60, sealed.len() - 1] {
        let mut altered = sealed.clone();
        altered[i] ^= 1;
        assert!(give(&mut pair.server, &altered, 0).is_err(), "byte {i}");
    }
    assert!(give(&mut pair.server, &sealed, 0).is_ok(), "the attempts harmed nothing");
}

#[test]
fn a_replayed_initiation_or_packet_is_refused() {
    let mut pair = Pair::new();
    let init = start(&mut pair.client, 0).unwrap();
    pair.answer(&init).unwrap();
    assert_eq!(reply(&mut pair.server, &init, 0), Err(TunnelError::Replayed));
    let sealed = seal(&mut pair.client, &packet(1, 100), 0).unwrap();
    give(&mut pair.server, &sealed, 0).unwrap();
    assert_eq!(give(&mut pair.server, &sealed, 0), Err(TunnelError::Replayed));
}

#[test]
fn the_initiator_makes_a_new_key_after_two_minutes_of_use() {
    let mut pair = Pair::new();
    pair.handshake().unwrap();
    pair.now = 119_000;
    assert_eq!(pair.up(1), Some(1));
    assert_eq!(pair.down(2), Some(2));
    assert_eq!(timeout(&mut pair.client, pair.now), None);
    pair.now = 120_000;
    assert_eq!(pair.up(2), Some(2), "the old key still carries");
    assert_eq!(pair.client.poll_timeout(), Some(at(120_000)));
    let init = timeout(&mut pair.client, pair.now).expect("a rekey");
    assert_eq!(classify(&init), Some(Kind::Initiation));
    pair.answer(&init).unwrap();
    pair.now = 200_000;
    assert_eq!((pair.up(3), pair.down(4)), (Some(3), Some(4)), "the new key carries on");
}

#[test]
fn a_late_packet_on_the_old_key_does_not_bring_it_back() {
    let mut pair = Pair::new();
    pair.handshake().unwrap();
    let late = seal(&mut pair.server, &packet(1, 100), 0).unwrap();
    pair.now = 121_000;
    pair.up(2).unwrap();
    let init = timeout(&mut pair.client, pair.now).unwrap();
    pair.answer(&init).unwrap();
    assert!(give(&mut pair.client, &late, pair.now).unwrap().is_some(), "late, but in time");
    pair.now = 185_000;
    assert_eq!(pair.up(3), Some(3), "sealed with the new key, not the expired one");
}

/// Invariant: REJECT_AFTER_TIME holds for sending and for receiving.
#[test]
fn a_key_past_its_lifetime_neither_seals_nor_opens() {
    let mut pair = Pair::new();
    pair.handshake().unwrap();
    let sealed = seal(&mut pair.client, &packet(1, 100), 174_999).unwrap();
    assert_eq!(give(&mut pair.server, &sealed, 180_000), Err(TunnelError::Expired));
    // While the last packets are under way, nothing more is sealed that would come too late.
    assert_eq!(seal(&mut pair.client, &packet(2, 100), 175_000), None);
    assert!(!pair.client.has_session(at(175_000)));
}

#[test]
fn initiations_are_repeated_and_then_given_up() {
    let mut pair = Pair::new();
    assert!(start(&mut pair.client, 0).is_some());
    assert_eq!(start(&mut pair.client, 1_000), None, "one at a time");
    let (mut now, mut sent) = (0, 0);
    while let Some(next) = pair.client.poll_timeout() {
        let next = u64::try_from(next.since_boot().as_millis()).unwrap();
        assert!(next - now <= 5_334, "at {now}");
        now = next;
        if timeout(&mut pair.client, now).is_some() {
            sent += 1;
        }
    }
    assert!((16..=17).contains(&sent), "{sent}");
    assert!(pair.client.is_unreachable());
    assert!((90_000..90_400).contains(&now), "{now}");
    pair.now = now + 1;
    pair.handshake().unwrap();
    assert!(!pair.client.is_unreachable());
    assert_eq!(pair.up(1), Some(1));
}

/// Invariant: a session is as old as its keys. The peer counts from when it answered.
#[test]
fn an_answer_that_nobody_waits_for_any_more_is_refused() {
    let mut pair = Pair::new();
    let first = start(&mut pair.client, 0).unwrap();
    let delayed = reply(&mut pair.server, &first, 0).unwrap();
    pair.now = 6_000;
    let second = timeout(&mut pair.client, pair.now).expect("it is tried again");
    pair.answer(&second).unwrap();
    pair.now = 100_000;
    assert_eq!(give(&mut pair.client, &delayed, pair.now), Err(TunnelError::Invalid));
    pair.now = 180_500;
    assert_eq!(pair.up(1), Some(1), "the second session goes on");
}

/// With a round trip of more than the timeout, the answer to the initiation before the last one is as good.
#[test]
fn an_answer_may_come_after_the_next_initiation() {
    let mut pair = Pair::new();
    let first = start(&mut pair.client, 0).unwrap();
    let delayed = reply(&mut pair.server, &first, 0).unwrap();
    pair.now = 6_000;
    timeout(&mut pair.client, pair.now).expect("it is tried again");
    let keepalive = reply(&mut pair.client, &delayed, pair.now).unwrap();
    assert_eq!(give(&mut pair.server, &keepalive, pair.now), Ok(None));
    assert_eq!(pair.up(1), Some(1));
}

#[test]
fn whoever_only_receives_sends_a_keepalive() {
    let mut pair = Pair::new();
    pair.handshake().unwrap();
    pair.up(1).unwrap();
    assert_eq!(timeout(&mut pair.server, 9_999), None);
    let keepalive = timeout(&mut pair.server, 10_000).expect("a keepalive");
    assert_eq!(give(&mut pair.client, &keepalive, 10_000), Ok(None));
    assert_eq!(timeout(&mut pair.client, 15_000), None, "which is the sign of life that it waited for");
    assert_eq!(timeout(&mut pair.server, 60_000), None, "and one is enough: an idle tunnel is silent");
}

#[test]
fn silence_after_sending_makes_a_new_handshake() {
    let mut pair = Pair::new();
    pair.handshake().unwrap();
    seal(&mut pair.client, &packet(1, 100), 1_000).unwrap();
    assert_eq!(pair.client.poll_timeout(), Some(at(16_000)));
    let init = timeout(&mut pair.client, 16_000).unwrap();
    assert_eq!(classify(&init), Some(Kind::Initiation));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Invariant: each accepted packet is delivered at most once; without loss, every packet is.
    #[test]
    fn loss_reordering_and_duplication(script in prop::collection::vec((0u8..4, 0usize..64), 1..300)) {
        let mut pair = Pair::new();
        pair.handshake().unwrap();
        let (mut wire, mut seen, mut lost) = (Vec::new(), BTreeSet::new(), BTreeSet::new());
        let mut sent = 0;
        for (action, at) in script {
            match action {
                0 | 1 => {
                    sent += 1;
                    wire.push((sent, seal(&mut pair.client, &packet(sent, 40), 0).unwrap()));
                }
                2 if !wire.is_empty() => {
                    let copy = wire[at % wire.len()].clone();
                    wire.push(copy);
                }
                3 if !wire.is_empty() => {
                    let len = wire.len();
                    lost.insert(wire.swap_remove(at % len).0);
                }
                _ => {}
            }
        }
        wire.reverse();
        for (n, datagram) in &wire {
            match give(&mut pair.server, datagram, 0) {
                Ok(Some(packet)) => prop_assert!(number(&packet) == *n && seen.insert(*n), "{} came twice", n),
                Ok(None) => prop_assert!(false, "a packet became a keepalive"),
                Err(error) => prop_assert!(error == TunnelError::Replayed && seen.contains(n)),
            }
        }
        for n in 1..=sent {
            prop_assert!(seen.contains(&n) || lost.contains(&n));
        }
    }

    #[test]
    fn no_bytes_panic(kind in 1u8..5, bytes in prop::collection::vec(any::<u8>(), 4..200), index in any::<bool>()) {
        let mut pair = Pair::new();
        pair.handshake().unwrap();
        let mut bytes = bytes;
        bytes[..4].copy_from_slice(&[kind, 0, 0, 0]);
        if index && bytes.len() > 8 {
            bytes[4..8].copy_from_slice(&(0xdef_u32 << 8 | 1).to_le_bytes());
        }
        prop_assert!(give(&mut pair.server, &bytes, 0).is_err());
    }
}

#[test]
fn a_persistent_keepalive_comes_after_silence_and_keeps_the_session_alive() {
    let mut pair = Pair::new();
    pair.handshake().unwrap();
    assert_eq!(timeout(&mut pair.client, 60_000), None, "unless it is asked for, there is none");
    let mut pair = Pair::new();
    pair.handshake().unwrap();
    pair.client.set_persistent_keepalive(Some(Duration::from_secs(20)));
    for second in [20, 40, 60, 80, 100] {
        assert_eq!(pair.client.poll_timeout(), Some(at(second * 1000)));
        let keepalive = timeout(&mut pair.client, second * 1000).expect("a keepalive");
        assert_eq!(give(&mut pair.server, &keepalive, second * 1000), Ok(None));
        assert_eq!(timeout(&mut pair.client, second * 1000), None, "one");
    }
    let keepalive = timeout(&mut pair.client, 120_000).expect("a keepalive");
    assert_eq!(give(&mut pair.server, &keepalive, 120_000), Ok(None));
    pair.now = 120_000;
    let rekey = timeout(&mut pair.client, 120_000).expect("and a new key, since the old one was used after its time");
    pair.answer(&rekey).unwrap();
    pair.client.set_persistent_keepalive(None);
    assert_eq!(timeout(&mut pair.client, 200_000), None);
}

#[test]
fn a_persistent_keepalive_makes_a_session_where_there_is_none() {
    let mut pair = Pair::new();
    pair.client.set_persistent_keepalive(Some(Duration::from_secs(20)));
    let initiation = timeout(&mut pair.client, 20_000).expect("an initiation");
    pair.now = 20_000;
    pair.answer(&initiation).unwrap();
    assert_eq!(pair.client.poll_timeout(), Some(at(40_000)));
}

#[test]
fn a_handshake_of_the_peers_ends_the_own_attempt() {
    let mut pair = Pair::new();
    start(&mut pair.client, 0).expect("one that gets lost");
    let theirs = start(&mut pair.server, 1000).unwrap();
    let response = reply(&mut pair.client, &theirs, 1000).unwrap();
    let keepalive = reply(&mut pair.server, &response, 1000).unwrap();
    assert_eq!(give(&mut pair.client, &keepalive, 1000), Ok(None));
    assert!(pair.client.has_session(at(1000)));
    assert_eq!(timeout(&mut pair.client, 6000), None, "there is no need for another");
}
