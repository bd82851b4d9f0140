//! Sealing and opening by themselves, without a tunnel.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

const KEY: [u8; 32] = [7; 32];
const INDEX: u32 = 0x0102_0304;

fn sealer(counters: Range<u64>, mtu: usize) -> Sealer {
    Sealer::new(transport_key(&KEY), INDEX, counters, mtu)
}

fn opener() -> Opener {
    Opener::new(transport_key(&KEY), INDEX)
}

/// A buffer as the data plane has them, filled with what was in it before.
fn buffer(packet: &[u8]) -> Vec<u8> {
    let mut buffer = vec![0xee; HEADER + packet.len() + crate::OVERHEAD - HEADER];
    buffer[HEADER..HEADER + packet.len()].copy_from_slice(packet);
    buffer
}

#[test]
fn what_is_handed_out_may_go_to_other_threads() {
    fn is_send<T: Send + 'static>() {}
    fn is_shared<T: Send + Sync + Clone + 'static>() {}
    is_send::<Sealer>();
    is_shared::<Opener>();
}

#[test]
fn padding_ends_at_a_full_packet() {
    let lens = |mtu: usize, lens: &[usize]| lens.iter().map(|len| padded_len(*len, mtu)).collect::<Vec<_>>();
    assert_eq!(lens(1420, &[0, 1, 16, 17, 1408, 1409, 1420]), [0, 16, 16, 32, 1408, 1420, 1420]);
    assert_eq!(lens(1420, &[1421, 1500]), [1421, 1500], "what is longer than it should be is not cut");
    assert_eq!(lens(usize::MAX, &[1420, usize::MAX]), [1424, usize::MAX]);
}

#[test]
fn what_does_not_fit_uses_up_no_counter() {
    let mut sealer = sealer(5..6, 1420);
    assert_eq!(sealer.seal(&mut [0; 16 + 20 + 16], 20), None, "no room for the padding");
    assert_eq!(sealer.seal(&mut [0; 16], 20), None);
    assert_eq!(sealer.seal(&mut [0; 16], usize::MAX), None);
    assert_eq!(sealer.seal(&mut [], 0), None);
    assert_eq!(sealer.left(), 1);
    assert_eq!(sealer.seal(&mut [0; 16 + 32 + 16], 20), Some(64));
    assert_eq!((sealer.left(), sealer.seal(&mut [0; 64], 20)), (0, None), "used up");
}

/// The last counters of a key are for nobody, whoever sealed them.
#[test]
fn a_counter_past_the_last_is_not_opened() {
    let mut sealer = sealer(REJECT_AFTER_MESSAGES - 1..REJECT_AFTER_MESSAGES + 1, 1420);
    let mut datagram = [0; 32];
    sealer.seal(&mut datagram, 0).unwrap();
    assert_eq!(opener().open(&mut datagram), Ok(Plain { counter: REJECT_AFTER_MESSAGES - 1, len: 0 }));
    sealer.seal(&mut datagram, 0).unwrap();
    assert_eq!(opener().open(&mut datagram), Err(TunnelError::Expired));
}

#[test]
fn only_its_own_session_is_opened() {
    let mut datagram = buffer(&[1; 40]);
    let len = sealer(0..1, 1420).seal(&mut datagram, 40).unwrap();
    datagram.truncate(len);
    assert_eq!(receiver_index(&datagram), Some(INDEX));
    let other = Opener::new(transport_key(&KEY), INDEX + 1);
    assert_eq!(other.open(&mut datagram.clone()), Err(TunnelError::UnknownSession));
    let other = Opener::new(transport_key(&[8; 32]), INDEX);
    assert_eq!(other.open(&mut datagram.clone()), Err(TunnelError::Invalid), "another key");
    for at in 0..len {
        let mut altered = datagram.clone();
        altered[at] ^= 1;
        assert!(opener().open(&mut altered).is_err(), "byte {at}");
    }
    for cut in 0..len {
        assert!(opener().open(&mut datagram[..cut].to_vec()).is_err(), "cut to {cut}");
    }
    assert!(opener().open(&mut datagram).is_ok());
}

proptest! {
    #[test]
    fn what_was_sealed_is_opened(
        packet in prop::collection::vec(any::<u8>(), 0..1600),
        counter in 0..REJECT_AFTER_MESSAGES,
        mtu in 1280usize..1600,
    ) {
        let mut sealer = sealer(counter..counter + 1, mtu);
        let mut datagram = buffer(&packet);
        let expected = sealer.sealed_len(packet.len());
        let len = sealer.seal(&mut datagram, packet.len()).unwrap();
        prop_assert_eq!(len, expected);
        prop_assert!(len == packet.len().next_multiple_of(16) + 32 || len == packet.len().max(mtu) + 32);
        let plain = opener().open(&mut datagram[..len]).unwrap();
        prop_assert_eq!(plain.counter, counter);
        let inner = &datagram[HEADER..HEADER + plain.len];
        prop_assert_eq!(&inner[..packet.len()], &packet[..]);
        prop_assert!(inner[packet.len()..].iter().all(|byte| *byte == 0), "nothing of what was there before leaks");
    }

    /// Invariant: no counter of a key is used twice, and none out of the range.
    #[test]
    fn each_counter_once(start in 0u64..1 << 60, count in 0u64..50, tries in prop::collection::vec(any::<bool>(), 0..80)) {
        let mut sealer = sealer(start..start + count, 1420);
        let mut seen = BTreeSet::new();
        for has_room in tries {
            let mut datagram = [0; 64];
            let room = if has_room { &mut datagram[..] } else { &mut datagram[..40] };
            let left = sealer.left();
            match sealer.seal(room, 20) {
                Some(_) => {
                    let counter = opener().open(&mut datagram).unwrap().counter;
                    prop_assert!((start..start + count).contains(&counter) && seen.insert(counter));
                }
                None => prop_assert!(left == 0 || !has_room),
            }
            prop_assert_eq!(sealer.left() + seen.len() as u64, count);
        }
    }

    #[test]
    fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), is_data in any::<bool>()) {
        let mut bytes = bytes;
        if is_data && bytes.len() >= 8 {
            bytes[..4].copy_from_slice(&DATA);
            bytes[4..8].copy_from_slice(&INDEX.to_le_bytes());
        }
        prop_assert!(opener().open(&mut bytes).is_err());
    }
}
