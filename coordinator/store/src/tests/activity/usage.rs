//! Sums over a period: what was granted and used, what shadows would have decided, and since when all of that is recorded.

use std::{collections::BTreeMap, time::Duration};

use postern_model::usage::{FlowUse, ShadowUse, Usage};
use proptest::prelude::*;

use super::*;
use crate::activity::Retention;

const DAY: u64 = 24 * 3600;
const POLICY: PolicyId = PolicyId::from_bytes([7; 16]);

fn usage(log: &ActivityLog, since: Timestamp) -> Usage {
    log.reader().unwrap().usage(since).unwrap()
}

/// A decision of some kind about the laptop and the wiki.
fn decision(kind: ActivityKind, at: Timestamp) -> ActivityRecord {
    ActivityRecord {
        user: Some("alice".into()),
        device_id: Some(LAPTOP),
        device: Some("laptop".into()),
        resource_id: Some(WIKI),
        resource: Some("wiki".into()),
        policy: Some(POLICY),
        ..ActivityRecord::new(kind, at, at)
    }
}

/// What the gateway tells at some time, from a spool of its own.
fn told_at(at: Timestamp, spool: u8, entries: impl IntoIterator<Item = FlowEntry>) -> [Arrival; 1] {
    let mut flows = flows(entries);
    (flows.received_at, flows.spool) = (at, SpoolId([spool; 16]));
    [Arrival::Flows(flows)]
}

fn opened(number: u64, flow: u64, port: u16) -> FlowEntry {
    FlowEntry { flow, port, event: FlowEvent::Opened, ..entry(number) }
}

fn closed(number: u64, flow: u64, port: u16) -> FlowEntry {
    FlowEntry { flow, port, ..entry(number) }
}

fn ports(flows: &[FlowUse]) -> Vec<(u16, u64)> {
    flows.iter().map(|flow| (flow.port, flow.flows)).collect()
}

#[test]
fn decisions_and_flows_are_added_up_and_each_flow_counts_once() {
    let place = Place::new();
    let mut log = place.granted();
    let kinds = [ActivityKind::Allow, ActivityKind::Renew, ActivityKind::Renew, ActivityKind::Deny, ActivityKind::End];
    log.write(&decided(kinds.map(|kind| decision(kind, later(10))))).unwrap();
    // Two flows to one port, of which one is over, and the end of one whose beginning was lost.
    let told = [opened(1, 1, 443), opened(2, 2, 443), closed(3, 1, 443), closed(4, 9, 22)];
    log.write(&told_at(later(20), 1, told)).unwrap();
    let usage = usage(&log, NOW);
    let [granted] = usage.granted.as_slice() else { panic!("{usage:?}") };
    assert_eq!((granted.policy, granted.allowed, granted.renewed, granted.last), (POLICY, 1, 2, later(10)));
    assert_eq!((granted.client.device, granted.client.user.as_deref()), (LAPTOP, Some("alice")));
    assert_eq!(ports(&usage.flows), [(22, 1), (443, 2)]);
    assert!(usage.flows.iter().all(|flow| flow.policy == Some(POLICY) && flow.last == later(20)));
    assert_eq!((usage.gaps, usage.is_cut), (vec![], false));
}

#[test]
fn what_was_before_the_period_counts_only_while_it_lasts() {
    let place = Place::new();
    let mut log = place.granted();
    log.write(&told_at(later(0), 1, [opened(1, 1, 22), closed(2, 1, 22), opened(3, 2, 443)])).unwrap();
    log.write(&decided([decision(ActivityKind::Allow, later(0))])).unwrap();
    let since = later(3 * DAY);
    assert_eq!(ports(&usage(&log, since).flows), [(443, 1)], "it is still open");
    assert_eq!(usage(&log, since).granted, []);
    log.write(&told_at(since, 1, [closed(4, 2, 443)])).unwrap();
    assert_eq!(ports(&usage(&log, since).flows), [(443, 1)], "it ended in the period");
    assert_eq!(usage(&log, since.plus(Duration::from_millis(1))).flows, []);
}

#[test]
fn it_is_said_since_when_all_is_recorded_and_what_is_missing() {
    let place = Place::new();
    let mut log = place.granted();
    let reader = log.reader().unwrap();
    assert_eq!(reader.recorded_since().unwrap(), None, "nobody has said when it began");
    let keep = Retention { keep: Duration::from_secs(100), max_size: u64::MAX };
    log.tidy(later(5), keep).unwrap();
    log.write(&decided([denial("alice", 10), denial("alice", 20), denial("alice", 150)])).unwrap();
    log.tidy(later(100), keep).unwrap();
    assert_eq!(reader.recorded_since().unwrap(), Some(later(5)), "nothing is gone");
    log.tidy(later(119), keep).unwrap();
    assert_eq!(reader.recorded_since().unwrap(), Some(later(10).plus(Duration::from_millis(1))));
    // The ones from 2 to 4 were lost.
    log.write(&told_at(later(160), 3, [opened(1, 1, 22), opened(5, 2, 22)])).unwrap();
    let usage = usage(&log, later(20));
    let [gap] = usage.gaps.as_slice() else { panic!("{usage:?}") };
    assert_eq!((gap.gateway, gap.name.as_deref(), gap.times, gap.last), (Some(GATEWAY), Some("gate"), 3, later(160)));
    assert_eq!(usage.recorded_since, Some(later(10).plus(Duration::from_millis(1))));
    assert_eq!(self::usage(&log, later(161)).gaps, []);
}

#[test]
fn shadows_are_added_up_with_all_their_policies() {
    let place = Place::new();
    let mut log = place.granted();
    let (one, other) = (PolicyId::from_bytes([1; 16]), PolicyId::from_bytes([2; 16]));
    let shadow = |policies: &[PolicyId], times, seconds| {
        let record = decision(ActivityKind::Shadow, later(seconds));
        let reason = Some("would_deny".to_owned());
        ActivityRecord { policies: policies.to_vec(), policy: None, times, reason, ..record }
    };
    log.write(&decided([shadow(&[one, other], 1, 10), shadow(&[one, other], 5, 30), shadow(&[other], 1, 20)])).unwrap();
    assert_eq!(all(&log)[1].record.policies, [one, other], "a row keeps them");
    let (sums, is_cut) = log.reader().unwrap().shadows(NOW).unwrap();
    let said = |it: &ShadowUse| (it.policies.clone(), it.times, it.first, it.last);
    let expected = [(vec![one, other], 6, later(10), later(30)), (vec![other], 1, later(20), later(20))];
    assert_eq!((sums.iter().map(said).collect::<Vec<_>>(), is_cut), (expected.to_vec(), false));
    assert_eq!((sums[0].device, sums[0].resource_name.as_deref()), (Some(LAPTOP), Some("wiki")));
    assert_eq!(log.reader().unwrap().shadows(later(25)).unwrap().0[0].times, 5);
}

#[test]
fn flows_are_counted_for_each_pair_since_its_own_time() {
    let place = Place::new();
    let mut log = place.granted();
    log.write(&told_at(later(10), 1, [opened(1, 1, 22), opened(2, 2, 443), closed(3, 2, 443)])).unwrap();
    log.write(&told_at(later(50), 1, [opened(4, 3, 443)])).unwrap();
    let (laptop, other) = ((LAPTOP, WIKI), (OTHER_GATEWAY, WIKI));
    let pairs = [(laptop.0, laptop.1, later(20)), (other.0, other.1, NOW), (laptop.0, laptop.1, NOW)];
    assert_eq!(log.reader().unwrap().flows_of(&pairs).unwrap(), [1, 0, 3]);
    assert_eq!(log.reader().unwrap().flows_of(&[]).unwrap(), Vec::<u64>::new());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// The sums are those of all rows, one by one, of that time.
    #[test]
    fn sums_are_as_if_each_row_was_looked_at(
        told in prop::collection::vec((0u64..3 * DAY, 0u64..4, 1u16..4, any::<bool>()), 1..60),
        since in 0u64..3 * DAY,
    ) {
        let place = Place::new();
        let mut log = place.granted();
        let mut told = told;
        told.sort_unstable();
        for (n, (at, flow, port, is_end)) in told.iter().enumerate() {
            let number = n as u64 + 1;
            // Of one flow, all rows are about one port.
            let flow = flow * 4 + u64::from(*port);
            let entry = if *is_end { closed(number, flow, *port) } else { opened(number, flow, *port) };
            log.write(&told_at(later(*at), 1, [entry])).unwrap();
        }
        let mut expected = BTreeMap::<u16, (u64, u64, u64)>::new();
        let rows = all(&log);
        let mut unended = BTreeMap::new();
        for row in rows.iter().map(|row| &row.record) {
            let (flow, port) = (row.flow.unwrap(), row.port.unwrap());
            let is_open = row.kind == ActivityKind::FlowOpen;
            let seen = unended.entry((flow, port)).or_insert((row.received_at, false));
            *seen = (seen.0.max(row.received_at), seen.1 || !is_open);
            if row.received_at >= later(since) {
                let sums = expected.entry(port).or_default();
                *if is_open { &mut sums.0 } else { &mut sums.1 } += 1;
            }
        }
        for ((_, port), (last, is_over)) in unended {
            if !is_over && last < later(since) {
                expected.entry(port).or_default().2 += 1;
            }
        }
        let mut found = BTreeMap::<u16, u64>::new();
        for flow in usage(&log, later(since)).flows {
            *found.entry(flow.port).or_default() += flow.flows;
        }
        let expected: BTreeMap<_, _> =
            expected.into_iter().map(|(port, (opened, closed, lasting))| (port, opened.max(closed) + lasting)).collect();
        prop_assert_eq!(found, expected);
    }
}
