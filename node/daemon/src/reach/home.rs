//! At which relay this node waits for peers: the nearest one, and another only if that is nearer by more than chance. Pure.

use std::{collections::BTreeMap, time::Duration};

use postern_model::RelayId;

/// Another relay has to be nearer by so much of the time, and by so much time, to become the home in place of one that answers.
const NEARER: (f64, Duration) = (0.8, Duration::from_millis(5));

/// The home to have, by the round-trip times of the relays that answered, and the one before. `None` when nothing is known of
/// any: then whatever home there was stays.
pub(super) fn choose(current: Option<RelayId>, times: &BTreeMap<RelayId, Duration>) -> Option<RelayId> {
    let (nearest, best) = times.iter().min_by_key(|(id, time)| (**time, **id))?;
    let Some((current, time)) = current.and_then(|current| times.get_key_value(&current)) else {
        // It did not answer though another did.
        return Some(*nearest);
    };
    let (share, least) = NEARER;
    let is_nearer = *best < time.mul_f64(share) && *best + least < *time;
    Some(if is_nearer { *nearest } else { *current })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn times(times: &[(u8, u64)]) -> BTreeMap<RelayId, Duration> {
        times.iter().map(|(id, millis)| (relay(*id), Duration::from_millis(*millis))).collect()
    }

    fn relay(number: u8) -> RelayId {
        RelayId::from_bytes([number; 16])
    }

    #[test]
    fn the_nearest_is_the_first_home_and_stays_until_another_is_clearly_nearer() {
        let choose = |current: u8, of: &[(u8, u64)]| choose(Some(relay(current)), &times(of)).unwrap();
        assert_eq!(super::choose(None, &times(&[(1, 30), (2, 20)])), Some(relay(2)));
        assert_eq!(choose(1, &[(1, 100), (2, 90)]), relay(1), "10 %");
        assert_eq!(choose(1, &[(1, 100), (2, 70)]), relay(2));
        assert_eq!(choose(1, &[(1, 6), (2, 2)]), relay(1), "4 ms");
        assert_eq!(choose(1, &[(1, 12), (2, 2)]), relay(2));
        assert_eq!(choose(1, &[(2, 500)]), relay(2), "the home does not answer");
        assert_eq!(super::choose(Some(relay(1)), &times(&[])), None);
    }

    /// Two relays whose times waver around each other's don't take turns.
    #[test]
    fn small_differences_change_nothing_however_often_they_turn() {
        let mut home = None;
        let mut moves = 0;
        for round in 0..1000_u64 {
            let (one, two) = (40 + round % 7, 40 + (round * 3) % 7);
            let next = choose(home, &times(&[(1, one), (2, two)]));
            moves += u32::from(next != home);
            home = next;
        }
        assert_eq!(moves, 1);
    }
}
