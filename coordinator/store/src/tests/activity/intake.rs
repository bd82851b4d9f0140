//! Each entry once, gaps told, and nothing about what a gateway never carried.

use postern_model::{DeviceId, GrantId, ResourceId, activity::SpoolId};
use proptest::prelude::*;

use super::*;

#[test]
fn an_entry_becomes_a_row_with_the_names_of_its_grant() {
    let place = Place::new();
    let mut log = place.granted();
    let written = log.write(&told([entry(1)])).unwrap();
    assert_eq!((written.up_to.as_slice(), written.rows, written.last), (&[1][..], 1, 1));
    let [ActivityRow { id: 1, record }] = &all(&log)[..] else { panic!("one row") };
    let expected = ActivityRecord {
        user: Some("alice".into()),
        device_id: Some(LAPTOP),
        device: Some("laptop".into()),
        resource_id: Some(WIKI),
        resource: Some("wiki".into()),
        grant: Some(GRANT),
        gateway_id: Some(GATEWAY),
        gateway: Some("gate".into()),
        policy: Some(PolicyId::from_bytes([7; 16])),
        flow: Some(u64::MAX - 1),
        protocol: Some("tcp".into()),
        port: Some(443),
        queried: Some("wiki.postern.internal".into()),
        opened_at: Some(NOW),
        up: Some(1),
        down: Some(2),
        reason: Some("finished".into()),
        ..ActivityRecord::new(ActivityKind::FlowClose, later(1), NOW)
    };
    assert_eq!(record, &expected);
    let opened = FlowEntry { event: FlowEvent::Opened, ..entry(2) };
    log.write(&told([opened])).unwrap();
    let record = &all(&log)[1].record;
    assert_eq!((record.kind, record.opened_at, record.up), (ActivityKind::FlowOpen, None, None));
}

#[test]
fn what_is_told_again_changes_nothing() {
    let place = Place::new();
    let mut log = place.granted();
    log.write(&told((1..=5).map(entry))).unwrap();
    let before = all(&log);
    let again = log.write(&told((1..=5).map(entry))).unwrap();
    assert_eq!(
        (again.up_to.as_slice(), again.rows, again.repeated),
        (&[5][..], 0, 5),
        "it is acknowledged all the same"
    );
    assert_eq!(all(&log), before);
    drop(log);
    let mut log = place.log();
    log.write(&told((4..=6).map(entry))).unwrap();
    assert_eq!(numbers(&log), [1, 2, 3, 4, 5, 6], "after a restart too");
}

#[test]
fn what_is_missing_is_said() {
    let place = Place::new();
    let mut log = place.granted();
    log.write(&told([entry(3), entry(4), entry(9)])).unwrap();
    assert_eq!(numbers(&log), [-2, 3, 4, -4, 9]);
    let gap = &all(&log)[0].record;
    assert_eq!((gap.kind, gap.gateway_id, gap.device_id), (ActivityKind::Gap, Some(GATEWAY), None));
}

#[test]
fn each_spool_counts_for_itself() {
    let place = Place::new();
    let mut log = place.granted();
    log.write(&told([entry(1), entry(2)])).unwrap();
    let fresh = Flows { spool: SpoolId([9; 16]), ..flows([entry(1)]) };
    assert_eq!(log.write(&[Arrival::Flows(fresh)]).unwrap().rows, 1);
    assert_eq!(numbers(&log), [1, 2, 1]);
}

#[test]
fn a_gateway_that_makes_up_spools_fills_no_table() {
    let place = Place::new();
    let mut log = place.granted();
    for n in 0..1000_u32 {
        let mut spool = SpoolId([0; 16]);
        spool.0[..4].copy_from_slice(&n.to_be_bytes());
        let received_at = later(n.into());
        log.write(&[Arrival::Flows(Flows { spool, received_at, ..flows([entry(1)]) })]).unwrap();
    }
    let spools: u32 = place.sqlite().query_row("SELECT COUNT(*) FROM spools", [], |row| row.get(0)).unwrap();
    assert_eq!(spools, 16);
}

/// Security: a gateway writes into the log of what it carried, and of nothing else.
#[test]
fn a_gateway_is_not_believed_about_what_it_never_carried() {
    let place = Place::new();
    let mut log = place.granted();
    let (of_another, unknown) = (GrantId::from_bytes([20; 16]), GrantId::from_bytes([21; 16]));
    let grants = vec![facts(of_another, OTHER_GATEWAY)];
    log.write(&[Arrival::Decisions(Decisions { records: vec![], grants })]).unwrap();
    let wrong = [
        FlowEntry { grant: of_another, ..entry(1) },
        FlowEntry { grant: unknown, ..entry(2) },
        FlowEntry { device: DeviceId::from_bytes([22; 16]), ..entry(3) },
        FlowEntry { resource: ResourceId::from_bytes([23; 16]), ..entry(4) },
        FlowEntry { device: OTHER_GATEWAY, ..entry(5) },
    ];
    let written = log.write(&told(wrong.clone())).unwrap();
    assert_eq!((written.rows, written.refused), (0, 5));
    assert_eq!(written.up_to, [5], "it need not tell it again");
    assert_eq!(all(&log), []);

    // The same with what the coordinator has in force: it is another's.
    let again = wrong.map(|entry| FlowEntry { number: entry.number + 5, ..entry });
    let written = log.write(&told_in_force(again, facts(of_another, OTHER_GATEWAY))).unwrap();
    assert_eq!((written.rows, written.refused), (0, 5));
    // And its own it may still tell.
    assert_eq!(log.write(&told([entry(11)])).unwrap().rows, 1);
}

#[test]
fn a_grant_in_force_is_known_afterwards() {
    let place = Place::new();
    let mut log = place.log();
    assert_eq!(log.write(&told([entry(1)])).unwrap().refused, 1, "nothing is known of it");
    assert_eq!(log.write(&told_in_force([entry(2)], facts(GRANT, GATEWAY))).unwrap().rows, 1);
    assert_eq!(log.write(&told([entry(3)])).unwrap().rows, 1, "it has ended since");
}

#[test]
fn numbers_without_measure_do_no_harm() {
    let place = Place::new();
    let mut log = place.granted();
    let event = FlowEvent::Closed {
        opened_at: Timestamp::from_unix_millis(i64::MIN),
        up: u64::MAX,
        down: u64::MAX,
        end: FlowEnd::Unknown,
    };
    let strange = FlowEntry { number: 1, at: Timestamp::from_unix_millis(i64::MAX), event, ..entry(1) };
    let written = log.write(&told([entry(u64::MAX), entry(0), strange])).unwrap();
    assert_eq!((written.rows, written.refused, written.repeated), (1, 1, 1));
    let record = &all(&log)[0].record;
    assert_eq!((record.up, record.reason.as_deref()), (Some(i64::MAX.cast_unsigned()), Some("unknown")));
    log.write(&told([entry(i64::MAX.cast_unsigned())])).unwrap();
    assert_eq!(log.write(&told([entry(2)])).unwrap().repeated, 1, "it has shut itself out of this spool");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Invariant: at least once on the wire is exactly once in the table, in order, whatever is repeated or cut off where.
    #[test]
    fn however_often_it_is_told_it_is_there_once(
        batches in prop::collection::vec((0_u64..30, 1_u64..12), 1..12), reopen in 0_usize..12,
    ) {
        let place = Place::new();
        let mut log = place.granted();
        let mut acknowledged = 0_u64;
        for (i, (back, len)) in batches.into_iter().enumerate() {
            if i == reopen {
                drop(log);
                log = place.log();
            }
            // From something that was told before, without a hole.
            let first = (acknowledged + 1).saturating_sub(back).max(1);
            let written = log.write(&told((first..first + len).map(entry))).unwrap();
            prop_assert!(written.up_to[0] >= acknowledged && written.up_to[0] >= first + len - 1);
            acknowledged = written.up_to[0];
        }
        prop_assert_eq!(numbers(&log), (1..=acknowledged.cast_signed()).collect::<Vec<_>>());
    }
}
