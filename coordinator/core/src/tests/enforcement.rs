//! What a change has come to: who has acknowledged it, how soon, and until when the others can go on at most.

use std::time::Duration;

use postern_model::Revision;
use postern_wire::{CoordinatorMessage, NodeMessage};

use super::{
    office::{Office, office_with_grant, ports},
    shell::{LEASE, Shell},
};
use crate::{ChangeReport, Command, NewPolicy};

fn last(shell: &Shell) -> &ChangeReport {
    shell.core.change_reports().next().expect("there is a change")
}

fn revoke(office: &mut Office) -> Revision {
    office.shell.run(&Command::RemovePolicy { id: office.policy }).unwrap();
    office.shell.core.state().revision
}

fn acknowledge_revocation(office: &mut Office, cut: u64) {
    let told = office.shell.told_to(office.gateway);
    let Some(CoordinatorMessage::RevokeGrant { grant, .. }) = told.last() else { panic!("{told:?}") };
    let grant = *grant;
    office.shell.message(office.gateway, NodeMessage::GrantRevoked { grant, cut });
}

#[test]
fn a_revocation_is_proven_by_its_gateway() {
    let mut office = office_with_grant();
    let revision = revoke(&mut office);
    let report = office.shell.core.change_report(revision).expect("it took something away");
    assert_eq!((report.redecided, report.ended, report.changed, report.cut), (1, 1, 0, 0));
    assert_eq!(report.what[0].0, "policy.remove");
    assert!(!report.is_enforced(office.shell.now) && !report.nodes[&office.gateway].is_offline);
    assert_eq!(report.latency(), None);
    office.shell.pass(Duration::from_millis(7));
    acknowledge_revocation(&mut office, 3);
    let report = last(&office.shell);
    assert!(report.is_enforced(office.shell.now));
    let took = Duration::from_millis(7);
    assert_eq!((report.cut, report.latency()), (3, Some((took, took))));
    // And that goes into the chain.
    office.shell.forget();
    office.shell.wait(Duration::ZERO);
    assert_eq!(office.shell.actions(), ["change.enforced"]);
    assert_eq!(last(&office.shell).latency(), Some((took, took)), "it is remembered");
    let details = &office.shell.audit[0].details;
    assert!(details.contains(&("enforced".into(), "1 of 1".into())), "{details:?}");
    office.shell.wait(LEASE);
    assert_eq!(office.shell.actions(), ["change.enforced"], "once");
}

#[test]
fn a_gateway_that_is_away_is_bounded_by_its_lease() {
    let mut office = office_with_grant();
    let ends = office.shell.now.plus(LEASE);
    office.shell.disconnect(office.gateway);
    revoke(&mut office);
    let node = &last(&office.shell).nodes[&office.gateway];
    assert!(node.is_offline);
    assert_eq!(node.bound(office.shell.now), Some(ends));
    office.shell.wait(LEASE);
    assert!(last(&office.shell).is_enforced(office.shell.now), "no gateway outlives a lease");
}

#[test]
fn a_gateway_that_comes_back_settles_what_it_has_missed() {
    let mut office = office_with_grant();
    office.shell.disconnect(office.gateway);
    let revision = revoke(&mut office);
    office.shell.connect(office.gateway);
    assert!(!last(&office.shell).nodes[&office.gateway].is_offline);
    let old = Revision(revision.0 - 1);
    office.shell.message(office.gateway, NodeMessage::Settled { revision: old });
    assert!(!last(&office.shell).is_enforced(office.shell.now), "an older snapshot proves nothing");
    office.shell.message(office.gateway, NodeMessage::Settled { revision });
    assert!(last(&office.shell).is_enforced(office.shell.now));
}

#[test]
fn a_narrowed_grant_is_enforced_once_it_is_installed() {
    let mut office = office_with_grant();
    office.shell.edit("wiki", ports("80"));
    let report = last(&office.shell);
    assert_eq!((report.ended, report.changed), (0, 1));
    assert!(!report.is_enforced(office.shell.now));
    office.shell.acknowledge(office.gateway);
    assert!(last(&office.shell).is_enforced(office.shell.now));
}

#[test]
fn others_prove_nothing() {
    let mut office = office_with_grant();
    let grant = *office.shell.core.state().grants.keys().next().unwrap();
    revoke(&mut office);
    office.shell.message(office.laptop, NodeMessage::GrantRevoked { grant, cut: 9 });
    let revision = office.shell.core.state().revision;
    office.shell.message(office.laptop, NodeMessage::Settled { revision });
    let report = last(&office.shell);
    assert!(!report.is_enforced(office.shell.now) && report.cut == 0);
}

#[test]
fn what_takes_nothing_away_is_enforced_at_once() {
    let mut office = office_with_grant();
    office.shell.user("bob");
    let report = last(&office.shell);
    assert!(report.nodes.is_empty() && report.is_enforced(office.shell.now));
    // A device's own requests are no changes.
    office.access();
    assert_eq!(last(&office.shell).what[0].0, "user.add");
}

#[test]
fn a_deaf_gateway_is_bounded_by_the_end_that_it_knows() {
    let mut office = office_with_grant();
    let known = office.shell.now.plus(LEASE);
    office.shell.disconnect(office.gateway);
    // Shortened, which it does not hear, and then revoked.
    let until = Some(office.shell.now.plus(LEASE / 2));
    let subject = "user:alice".parse().unwrap();
    let shorter = NewPolicy { until, ..NewPolicy::allow(subject, "wiki".parse().unwrap()) };
    office.shell.run(&shorter.into()).unwrap();
    revoke(&mut office);
    office.shell.suspend("alice");
    assert!(office.shell.core.state().grants.is_empty());
    let node = &last(&office.shell).nodes[&office.gateway];
    assert_eq!(node.bound(office.shell.now), Some(known), "and not the end that it was never told of");
}

#[test]
fn a_late_acknowledgement_is_recorded_as_well() {
    let mut office = office_with_grant();
    office.shell.disconnect(office.gateway);
    let revision = revoke(&mut office);
    office.shell.forget();
    office.shell.wait(Duration::from_secs(60));
    assert_eq!(office.shell.actions(), ["change.enforced"]);
    let details = &office.shell.audit[0].details;
    assert!(details.iter().any(|(name, _)| name == "missing"), "{details:?}");
    office.shell.connect(office.gateway);
    office.shell.forget();
    office.shell.message(office.gateway, NodeMessage::Settled { revision });
    office.shell.wait(LEASE);
    assert_eq!(office.shell.actions(), ["change.enforced"], "once more, and whole");
    assert!(office.shell.audit[0].details.contains(&("enforced".into(), "1 of 1".into())));
}
