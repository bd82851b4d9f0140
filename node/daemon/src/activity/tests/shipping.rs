//! At least once, in order, to a coordinator that comes and goes.

use postern_model::activity::{FlowEntry, MAX_ENTRIES, SpoolId};
use postern_wire::NodeMessage;
use proptest::prelude::*;

use super::{FIRST, append, open, seen};
use crate::activity::shipping::Shipping;

const LIMIT: u64 = 8 << 20;

fn setting(dir: &tempfile::TempDir, entries: u64) -> Shipping {
    let mut spool = open(dir.path(), 1, LIMIT);
    append(&mut spool, 0..entries);
    spool.sync().unwrap();
    Shipping::new(spool)
}

fn sent(shipping: &mut Shipping) -> Option<Vec<FlowEntry>> {
    let NodeMessage::Activity { spool, entries } = shipping.poll_message().unwrap()? else { panic!("activity") };
    assert_eq!(spool, FIRST);
    Some(entries)
}

#[test]
fn one_batch_is_under_way_at_a_time_and_none_without_a_session() {
    let dir = tempfile::tempdir().unwrap();
    let mut shipping = setting(&dir, 600);
    assert_eq!(sent(&mut shipping), None);
    shipping.set_connected(true);
    let first = sent(&mut shipping).unwrap();
    assert!(first.len() <= MAX_ENTRIES && first[0].number == 1);
    assert_eq!(sent(&mut shipping), None);
    // Another spool's, or what can't be.
    shipping.handle_recorded(SpoolId([7; 16]), 600).unwrap();
    shipping.handle_recorded(FIRST, 0).unwrap();
    assert_eq!(sent(&mut shipping), None);
    shipping.handle_recorded(FIRST, 100).unwrap();
    assert_eq!(sent(&mut shipping).unwrap()[0].number, 101, "the rest of it");
    shipping.set_connected(false);
    assert_eq!(sent(&mut shipping), None);
    shipping.set_connected(true);
    assert_eq!(sent(&mut shipping).unwrap()[0].number, 101, "again");
    shipping.handle_recorded(FIRST, u64::MAX).unwrap();
    assert_eq!((sent(&mut shipping), shipping.spool.waiting()), (None, 0));
}

/// What a coordinator does with a batch.
#[derive(Debug, Clone, Copy)]
enum Fate {
    /// It is recorded, and the answer arrives.
    Recorded,
    /// It is recorded, and the session breaks before the answer.
    Unanswered,
    /// The session breaks before it arrives.
    Lost,
    /// The gateway falls over once it is sent.
    Restarted,
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Invariant: everything arrives, in order; what arrives again is what has that number.
    #[test]
    fn everything_arrives_at_least_once_and_in_order(
        fates in prop::collection::vec(
            prop_oneof![Just(Fate::Recorded), Just(Fate::Unanswered), Just(Fate::Lost), Just(Fate::Restarted)], 0..20),
        entries in 1u64..1500,
    ) {
        let dir = tempfile::tempdir().unwrap();
        let mut shipping = setting(&dir, entries);
        let mut recorded: Vec<(u64, u64)> = Vec::new();
        let mut fates = fates.into_iter();
        shipping.set_connected(true);
        while let Some(batch) = sent(&mut shipping) {
            let fate = fates.next().unwrap_or(Fate::Recorded);
            if matches!(fate, Fate::Recorded | Fate::Unanswered) {
                for (number, flow) in seen(&batch) {
                    let known = recorded.len() as u64;
                    prop_assert!(number <= known + 1, "{} after {}", number, known);
                    if number > known {
                        recorded.push((number, flow));
                    }
                }
            }
            match fate {
                Fate::Recorded => shipping.handle_recorded(FIRST, recorded.len() as u64).unwrap(),
                Fate::Unanswered | Fate::Lost => shipping.set_connected(false),
                Fate::Restarted => shipping = Shipping::new(open(dir.path(), 2, LIMIT)),
            }
            shipping.set_connected(true);
        }
        prop_assert_eq!(recorded, (0..entries).map(|flow| (flow + 1, flow)).collect::<Vec<_>>());
    }
}
