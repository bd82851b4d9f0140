//! Sealers, openers, and what they do to the tunnel.

use super::*;
use crate::{
    HEADER, Opener, Plain, Sealer, TAG,
    classify::receiver,
    constants::{REJECT_AFTER_MESSAGES, REKEY_AFTER_MESSAGES},
    receiver_index,
    session::Session,
};

fn connected() -> Pair {
    let mut pair = Pair::new();
    pair.handshake().unwrap();
    pair
}

/// Seals a packet with a number.
fn sealed(sealer: &mut Sealer, number: u32) -> Vec<u8> {
    let packet = packet(number, 100);
    let mut buffer = vec![0; packet.len() + OVERHEAD];
    buffer[HEADER..HEADER + packet.len()].copy_from_slice(&packet);
    let len = sealer.seal(&mut buffer, packet.len()).expect("a counter");
    buffer.truncate(len);
    buffer
}

/// Opens a datagram as the data plane does.
fn open(tunnel: &Tunnel, datagram: &[u8], now: u64) -> Result<(u32, Plain), TunnelError> {
    let index = receiver_index(datagram).unwrap();
    Ok((index, tunnel.opener(index, at(now))?.open(&mut datagram.to_vec())?))
}

fn take(tunnel: &mut Tunnel, datagram: &[u8], now: u64) -> Result<(), TunnelError> {
    let (index, plain) = open(tunnel, datagram, now)?;
    tunnel.accept(index, plain.counter, datagram.len(), plain.len > 0, at(now))
}

fn skip_to(tunnel: &mut Tunnel, counter: u64) {
    tunnel.sessions.current_mut().unwrap().skip_to(counter);
}

#[test]
fn no_session_no_sealer() {
    let mut pair = Pair::new();
    assert!(pair.client.sealer(1, 100, at(0)).is_none());
    pair.handshake().unwrap();
    assert_eq!(pair.client.sealer(7, 700, at(0)).unwrap().left(), 7);
    assert!(pair.client.sealer(7, 700, at(174_999)).is_some());
    assert!(pair.client.sealer(7, 700, at(175_000)).is_none(), "too old to arrive in time");
}

/// Invariant: REJECT_AFTER_MESSAGES holds for reserved counters too.
#[test]
fn no_range_goes_past_the_last_counter() {
    let mut pair = connected();
    skip_to(&mut pair.client, REJECT_AFTER_MESSAGES - 5);
    assert!(pair.client.sealer(6, 600, at(0)).is_none());
    assert!(pair.client.sealer(u64::MAX, u64::MAX, at(0)).is_none());
    let mut last = pair.client.sealer(5, 500, at(0)).unwrap();
    for n in 0..5 {
        assert_eq!(take(&mut pair.server, &sealed(&mut last, n), 0), Ok(()));
    }
    assert!(!pair.client.has_session(at(0)));
    assert!(pair.client.sealer(1, 100, at(0)).is_none());
    assert_eq!(seal(&mut pair.client, &packet(1, 100), 0), None);
}

#[test]
fn a_worn_key_is_renewed_by_whoever_has_worn_it() {
    let mut pair = connected();
    skip_to(&mut pair.client, REKEY_AFTER_MESSAGES - 11);
    pair.client.sealer(10, 1000, at(1_000)).unwrap();
    assert_eq!(timeout(&mut pair.client, 1_000), None);
    pair.client.sealer(10, 1000, at(1_000)).unwrap();
    let initiation = timeout(&mut pair.client, 1_000).expect("a rekey");
    pair.answer(&initiation).unwrap();
    assert_eq!(pair.up(1), Some(1));
    skip_to(&mut pair.server, REKEY_AFTER_MESSAGES);
    assert_eq!(pair.down(1), Some(1));
    assert!(timeout(&mut pair.server, 0).is_some(), "the responder as well");
}

#[test]
fn an_old_key_is_renewed_by_the_initiator_only() {
    let mut pair = connected();
    for end in [&mut pair.client, &mut pair.server] {
        end.sealer(3, 300, at(119_999)).unwrap();
        assert_eq!(timeout(end, 119_999), None);
        end.sealer(3, 300, at(120_000)).unwrap();
    }
    assert_eq!(timeout(&mut pair.server, 120_000), None);
    let initiation = timeout(&mut pair.client, 120_000).unwrap();
    assert_eq!(classify(&initiation), Some(Kind::Initiation));
}

#[test]
fn what_is_out_outlives_a_new_key_and_the_tunnel() {
    let mut pair = connected();
    let mut old = pair.client.sealer(3, 300, at(0)).unwrap();
    let datagram = seal(&mut pair.server, &packet(1, 100), 0).unwrap();
    let opener: Opener = pair.client.opener(receiver_index(&datagram).unwrap(), at(0)).unwrap();
    pair.handshake().unwrap();
    let mut new = pair.client.sealer(1, 100, at(0)).unwrap();
    assert_eq!(take(&mut pair.server, &sealed(&mut new, 1), 0), Ok(()));
    assert_eq!(take(&mut pair.server, &sealed(&mut old, 2), 0), Ok(()), "the receiver has kept the key");
    assert_eq!(opener.open(&mut datagram.clone()).unwrap().len, 112);
    pair.client = Tunnel::new(&key(1), key(2).public(), None, 1, at(0));
    assert_eq!(take(&mut pair.server, &sealed(&mut old, 3), 0), Ok(()));
    assert!(opener.open(&mut datagram.clone()).is_ok());
    assert!(open(&pair.client, &datagram, 0).is_err(), "the new tunnel knows nothing of it");
}

#[test]
fn an_opener_is_there_as_long_as_its_session() {
    let mut pair = connected();
    let datagram = seal(&mut pair.client, &packet(1, 100), 0).unwrap();
    let index = receiver_index(&datagram).unwrap();
    for other in [index ^ 1, index ^ 0x80, index ^ 0x100, index ^ 0x8000_0000] {
        assert_eq!(pair.server.opener(other, at(0)).err(), Some(TunnelError::UnknownSession));
        assert_eq!(pair.server.accept(other, 9, 100, true, at(0)), Err(TunnelError::UnknownSession));
    }
    assert_eq!(pair.server.opener(index, at(179_999)).unwrap().index(), index);
    assert_eq!(pair.server.opener(index, at(180_000)).err(), Some(TunnelError::Expired));
    assert_eq!(
        pair.server.accept(index, 9, 100, true, at(180_000)),
        Err(TunnelError::Expired),
        "opened before, but late"
    );
}

#[test]
fn packets_are_taken_once_within_the_window() {
    const WIDTH: u32 = 8192;
    let mut pair = connected();
    let mut sealer = pair.client.sealer(2 * u64::from(WIDTH), 0, at(0)).unwrap();
    let datagrams: Vec<_> = (0..=WIDTH).map(|n| sealed(&mut sealer, n)).collect();
    for datagram in datagrams[2..].iter().rev() {
        assert_eq!(take(&mut pair.server, datagram, 0), Ok(()));
    }
    assert_eq!(take(&mut pair.server, &datagrams[1], 0), Ok(()), "8,191 before the highest");
    assert_eq!(take(&mut pair.server, &datagrams[0], 0), Err(TunnelError::Replayed), "one more");
    for datagram in &datagrams[1..] {
        assert_eq!(take(&mut pair.server, datagram, 0), Err(TunnelError::Replayed));
    }
}

/// What all this is for: one peer is sealed for and opened from on several threads at once.
#[test]
fn one_peer_may_be_served_by_several_threads() {
    const EACH: u32 = 500;
    let mut pair = connected();
    let sealers = [0, EACH].map(|first| (first, pair.client.sealer(u64::from(EACH), 0, at(0)).unwrap()));
    let sealed: Vec<Vec<u8>> = std::thread::scope(|scope| {
        let seal =
            |(first, mut sealer)| move || (first..first + EACH).map(|n| sealed(&mut sealer, n)).collect::<Vec<_>>();
        let threads = sealers.map(|sealer| scope.spawn(seal(sealer)));
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    let index = receiver_index(&sealed[0]).unwrap();
    let opener = pair.server.opener(index, at(0)).unwrap();
    let opened: Vec<(u32, Plain)> = std::thread::scope(|scope| {
        let open = |mut datagram: Vec<u8>, opener: &Opener| {
            let plain = opener.open(&mut datagram).unwrap();
            (number(&datagram[HEADER..]), plain)
        };
        let threads = sealed.chunks(EACH as usize).map(|part| {
            let opener = opener.clone();
            scope.spawn(move || part.iter().map(|datagram| open(datagram.clone(), &opener)).collect::<Vec<_>>())
        });
        let threads: Vec<_> = threads.collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    let mut numbers = BTreeSet::new();
    for (number, plain) in opened {
        assert_eq!(pair.server.accept(index, plain.counter, 144, true, at(0)), Ok(()));
        assert!(numbers.insert(number));
    }
    assert_eq!(numbers.len(), 2 * EACH as usize);
}

#[test]
fn an_accepted_packet_confirms_the_keys() {
    let mut pair = Pair::new();
    let initiation = start(&mut pair.client, 0).unwrap();
    let response = reply(&mut pair.server, &initiation, 0).unwrap();
    let keepalive = reply(&mut pair.client, &response, 0).unwrap();
    let (index, plain) = open(&pair.server, &keepalive, 0).unwrap();
    assert!(!pair.server.has_session(at(0)), "opening changes nothing");
    pair.server.accept(index, plain.counter, keepalive.len(), false, at(0)).unwrap();
    assert!(pair.server.has_session(at(0)));
}

#[test]
fn the_timers_go_as_they_do_packet_by_packet() {
    let mut pair = connected();
    assert!(pair.client.sealer(0, 0, at(1_000)).is_some_and(|sealer| sealer.left() == 0));
    assert_eq!(pair.client.poll_timeout(), Some(at(540_000)), "nothing is sent, nothing is due");
    let mut sealer = pair.client.sealer(2, 288, at(1_000)).unwrap();
    assert_eq!(pair.client.poll_timeout(), Some(at(16_000)), "an answer is due");
    let sent = pair.client.stats().sent_bytes;
    pair.client.sealer(1, 144, at(1_000)).unwrap();
    assert_eq!(pair.client.stats().sent_bytes, sent + 144);

    let received = pair.server.stats().received_bytes;
    take(&mut pair.server, &sealed(&mut sealer, 1), 2_000).unwrap();
    assert_eq!(pair.server.stats().received_bytes, received + 144);
    assert_eq!(pair.server.poll_timeout(), Some(at(12_000)), "a sign of life is owed");
    let keepalive = timeout(&mut pair.server, 12_000).unwrap();
    take(&mut pair.client, &keepalive, 12_000).unwrap();
    assert_eq!(pair.client.poll_timeout(), Some(at(540_000)), "and was enough; none is owed for it");

    take(&mut pair.server, &sealed(&mut sealer, 2), 13_000).unwrap();
    pair.server.sealer(1, 144, at(14_000)).unwrap();
    assert_eq!(pair.server.poll_timeout(), Some(at(29_000)), "data is a sign of life too");
    assert_eq!(timeout(&mut pair.server, 23_000), None);
}

/// The peer's answer may be lost many times; the session that carries is not given up for those that never will, nor is its
/// index given to one of them.
#[test]
fn handshakes_that_nobody_completes_leave_the_session_alone() {
    let mut pair = connected();
    let index = receiver_index(&seal(&mut pair.client, &packet(1, 100), 0).unwrap());
    for round in 1..600 {
        let initiation = start(&mut pair.client, round * 6_000).unwrap();
        let response = reply(&mut pair.server, &initiation, 0).unwrap();
        assert_ne!(receiver(&response, 4), index);
    }
    assert_eq!((pair.up(1), pair.down(2)), (Some(1), Some(2)));
}

#[test]
fn an_answer_is_refused_once_there_is_nothing_to_be_reached_by_it() {
    let mut pair = Pair::new();
    let ours = start(&mut pair.client, 0).unwrap();
    let delayed = reply(&mut pair.server, &ours, 0).unwrap();
    let theirs = start(&mut pair.server, 0).unwrap();
    let response = reply(&mut pair.client, &theirs, 0).unwrap();
    let keepalive = reply(&mut pair.server, &response, 0).unwrap();
    assert_eq!(give(&mut pair.client, &keepalive, 0), Ok(None));
    assert_eq!(give(&mut pair.client, &delayed, 0), Err(TunnelError::Invalid), "the peer's own is in use");

    let mut pair = Pair::new();
    let ours = start(&mut pair.client, 0).unwrap();
    let delayed = reply(&mut pair.server, &ours, 0).unwrap();
    pair.client.give_up(at(6_000));
    assert_eq!(give(&mut pair.client, &delayed, 6_000), Err(TunnelError::Invalid), "given up");
}

/// The initiator took the first answer, and the responder has another initiation by then.
#[test]
fn a_session_is_not_lost_to_an_initiation_that_was_on_its_way() {
    let mut pair = Pair::new();
    let first = start(&mut pair.client, 0).unwrap();
    let second = start(&mut pair.client, 6_000).unwrap();
    let answers = [&first, &second].map(|initiation| reply(&mut pair.server, initiation, 6_000).unwrap());
    let keepalive = reply(&mut pair.client, &answers[0], 6_000).unwrap();
    assert_eq!(give(&mut pair.server, &keepalive, 6_000), Ok(None));
    pair.now = 6_000;
    assert_eq!((pair.up(1), pair.down(2)), (Some(1), Some(2)));
    let keepalive = reply(&mut pair.client, &answers[1], 6_000).unwrap();
    assert_eq!(pair.down(3), Some(3), "not confirmed yet, so still with the first");
    assert_eq!(give(&mut pair.server, &keepalive, 6_000), Ok(None));
    assert_eq!((pair.up(4), pair.down(5)), (Some(4), Some(5)));
}

#[test]
fn padding_goes_up_to_the_mtu() {
    let mut pair = connected();
    pair.client.set_mtu(1420);
    let sealer = pair.client.sealer(0, 0, at(0)).unwrap();
    for (len, sealed_len) in [(40, 48 + 32), (1409, 1452), (1420, 1452)] {
        assert_eq!(sealer.sealed_len(len), sealed_len);
        let datagram = seal(&mut pair.client, &packet(1, len), 0).unwrap();
        assert_eq!(datagram.len(), sealed_len);
        assert_eq!(give(&mut pair.server, &datagram, 0).unwrap().unwrap().len(), len);
    }
}

#[test]
fn what_is_no_ip_packet_is_authentic_and_goes_no_further() {
    let mut pair = connected();
    let mut longer = packet(1, 64);
    longer[3] += 1;
    let mut shorter = packet(1, 64);
    shorter[2..4].copy_from_slice(&[0, 19]);
    let mut v6 = vec![0x60; 64];
    v6[4..6].copy_from_slice(&[0, 25]);
    for inner in [&longer, &shorter, &v6, &vec![0; 64], &vec![0x45; 1]] {
        let datagram = seal(&mut pair.client, inner, 0).unwrap();
        assert_eq!(give(&mut pair.server, &datagram, 0), Err(TunnelError::NotIp));
        assert_eq!(give(&mut pair.server, &datagram, 0), Err(TunnelError::Replayed));
    }
    v6[4..6].copy_from_slice(&[0, 20]);
    let datagram = seal(&mut pair.client, &v6, 0).unwrap();
    assert_eq!(give(&mut pair.server, &datagram, 0).unwrap().unwrap(), v6[..60], "cut to its length");
}

#[test]
fn too_short_a_buffer_uses_up_nothing() {
    let mut pair = connected();
    let sent = pair.client.stats().sent_bytes;
    assert_eq!(pair.client.seal(&packet(1, 100), &mut [0; 100 + HEADER + TAG], at(0)), Sealed::NoSession);
    assert_eq!(pair.client.stats().sent_bytes, sent);
    let datagram = seal(&mut pair.client, &packet(1, 100), 0).unwrap();
    assert!(pair.server.handle_datagram(&datagram, &mut [0; 100], at(0)).is_err());
    assert!(give(&mut pair.server, &datagram, 0).is_ok());
}

/// A gateway has thousands of these.
#[test]
fn a_tunnel_is_small() {
    let key = size_of::<ring::aead::LessSafeKey>() + 2 * size_of::<usize>();
    let most = size_of::<Tunnel>() + 3 * (size_of::<Session>() + 2 * key);
    assert!(most < 10 * 1024, "{most} bytes");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Invariant: however counters are reserved and used, none seals twice.
    #[test]
    fn each_counter_seals_once(script in prop::collection::vec((0u64..6, 0usize..4), 1..100)) {
        let mut pair = connected();
        let mut sealers: Vec<Sealer> = Vec::new();
        let mut sent = 0;
        for (packets, which) in script {
            sent += 1;
            let datagram = match sealers.get_mut(which) {
                Some(sealer) if sealer.left() > 0 => sealed(sealer, sent),
                Some(_) => {
                    sealers.swap_remove(which);
                    continue;
                }
                None if which == 3 => seal(&mut pair.client, &packet(sent, 100), 0).unwrap(),
                None => {
                    sealers.push(pair.client.sealer(packets, packets * 144, at(0)).unwrap());
                    continue;
                }
            };
            prop_assert_eq!(take(&mut pair.server, &datagram, 0), Ok(()), "a counter came twice");
        }
    }
}
