//! Conditional access: it begins and ends with what it depends on, and never lasts longer.

use std::time::Duration;

use postern_model::{DenyReason, DeviceId, Effect, Found, PolicyId, Posture};
use postern_wire::CoordinatorMessage;

use super::{
    office::{Office, office, tcp},
    shell::{LEASE, START, Shell, posture},
};
use crate::{Command, NewPolicy, Refusal, ResourceEdit, Touched};

const MINUTE: Duration = Duration::from_secs(60);

/// A policy by its words: `allow user:alice wiki`.
fn policy(words: &str) -> NewPolicy {
    let [effect, subject, scope] = words.split(' ').collect::<Vec<_>>()[..] else { panic!("{words}") };
    let (effect, subject, scope) = (effect.parse().unwrap(), subject.parse().unwrap(), scope.parse().unwrap());
    NewPolicy { effect, subject, scope, ports: None, when: None, until: None, shadow: false }
}

fn when(words: &str, condition: &str) -> NewPolicy {
    NewPolicy { when: Some(condition.to_owned()), ..policy(words) }
}

impl Shell {
    fn add(&mut self, policy: NewPolicy) -> PolicyId {
        match self.run(&policy.into()).unwrap() {
            Touched::Policy(id) => id,
            other => panic!("{other:?}"),
        }
    }

    fn tell(&mut self, device: DeviceId, posture: &Posture) {
        self.transact(|core, env| core.propose_posture(device, posture, env));
    }
}

/// The office, with nothing but this to let alice in.
fn office_with(policies: impl IntoIterator<Item = NewPolicy>) -> Office {
    let mut office = office();
    office.shell.run(&Command::RemovePolicy { id: office.policy }).unwrap();
    for policy in policies {
        office.policy = office.shell.add(policy);
    }
    office.shell.forget();
    office
}

fn firewall(on: bool) -> Posture {
    Posture { firewall: Some(on), ..posture() }
}

#[test]
fn posture_opens_and_closes_while_connections_live() {
    let mut office = office_with([when("allow user:alice wiki", "posture.firewall")]);
    let (laptop, wiki, gateway) = (office.laptop, office.wiki, office.gateway);
    assert_eq!(office.shell.ask_in_vain(laptop, wiki), DenyReason::ConditionNotMet, "it is not known");
    office.shell.tell(laptop, &firewall(false));
    assert_eq!(office.shell.ask_in_vain(laptop, wiki), DenyReason::ConditionNotMet);
    office.shell.tell(laptop, &firewall(true));
    office.access();
    office.shell.forget();
    office.shell.tell(laptop, &firewall(false));
    for device in [gateway, laptop] {
        let told = office.shell.told_to(device);
        let [CoordinatorMessage::RevokeGrant { reason: DenyReason::ConditionNotMet, .. }] = told[..] else {
            panic!("{told:?}")
        };
    }
    assert!(office.shell.core.state().grants.is_empty());
}

#[test]
fn the_resource_stays_in_sight_of_whom_only_a_condition_keeps_out() {
    let office = office_with([when("allow user:alice wiki", "posture.firewall")]);
    let node = &office.shell.nodes[&office.laptop];
    assert!(node.catalogue.contains_key(&office.wiki));
}

#[test]
fn no_lease_outlives_the_posture_that_it_was_given_for() {
    let mut office = office_with([when("allow user:alice wiki", "posture.firewall")]);
    office.shell.tell(office.laptop, &firewall(true));
    office.shell.wait(10 * MINUTE);
    let granted = office.access();
    assert_eq!(granted.lease, 5 * MINUTE, "what was said 10 minutes ago counts for 15");
    office.shell.tell(office.laptop, &firewall(true));
    assert_eq!(office.access().lease, LEASE, "it was said again");
    // Away, and silent: what it has said counts no more.
    office.shell.disconnect(office.laptop);
    office.shell.wait(15 * MINUTE);
    assert!(office.shell.core.state().grants.is_empty());
    office.shell.connect(office.laptop);
    assert_eq!(office.shell.ask_in_vain(office.laptop, office.wiki), DenyReason::ConditionNotMet);
}

#[test]
fn a_window_closes_on_time_without_anyone() {
    // It is 22:13:20 UTC.
    let mut office = office_with([when("allow user:alice wiki", "time.minute in 10..15")]);
    assert_eq!(office.access().lease, Duration::from_secs(100), "up to 22:15");
    office.shell.wait(Duration::from_secs(99));
    assert_eq!(office.access().lease, Duration::from_secs(1), "no renewal reaches beyond it");
    office.shell.wait(Duration::from_secs(1));
    assert!(office.shell.core.state().grants.is_empty());
    assert_eq!(office.shell.ask_in_vain(office.laptop, office.wiki), DenyReason::ConditionNotMet);
    office.shell.wait(55 * MINUTE);
    assert_eq!(office.access().lease, 5 * MINUTE, "it opens again");
}

#[test]
fn a_policy_ends_on_time_and_is_gone() {
    let until = START.plus(3 * MINUTE);
    let mut office = office_with([NewPolicy { until: Some(until), ..policy("allow user:alice wiki") }]);
    assert_eq!(office.access().lease, 3 * MINUTE);
    office.shell.forget();
    office.shell.wait(3 * MINUTE);
    let state = office.shell.core.state();
    assert!(state.grants.is_empty() && state.policies.is_empty());
    assert!(office.shell.actions().contains(&"policy.expire"), "{:?}", office.shell.actions());
    assert!(office.shell.nodes[&office.laptop].catalogue.is_empty(), "it is out of sight");
    assert_eq!(office.shell.ask_in_vain(office.laptop, office.wiki), DenyReason::UnknownResource);
}

#[test]
fn an_end_that_comes_sooner_is_told_to_both_ends() {
    let mut office = office_with([policy("allow user:alice wiki")]);
    office.access();
    office.shell.forget();
    let until = Some(office.shell.now.plus(MINUTE));
    office.shell.add(NewPolicy { until, ..policy("allow user:alice wiki") });
    assert!(office.shell.told_to(office.gateway).is_empty(), "the other policy holds for longer");
    office.shell.run(&Command::RemovePolicy { id: office.policy }).unwrap();
    let told = office.shell.told_to(office.gateway);
    let [CoordinatorMessage::InstallGrant(install)] = told[..] else { panic!("{told:?}") };
    assert_eq!(install.lease, MINUTE);
    office.shell.acknowledge(office.gateway);
    let told = office.shell.told_to(office.laptop);
    let [CoordinatorMessage::Granted(granted)] = told[..] else { panic!("{told:?}") };
    assert_eq!(granted.lease, MINUTE);
}

#[test]
fn denials_win_and_narrow() {
    let mut office = office_with([policy("allow user:alice wiki")]);
    let edit = ResourceEdit { tcp: Some("80,443".parse().unwrap()), ..ResourceEdit::default() };
    office.shell.edit("wiki", edit);
    assert_eq!(office.access().filter, tcp("80,443"));
    office.shell.forget();
    let narrow = office.shell.add(NewPolicy { ports: Some(tcp("80")), ..policy("deny everyone everything") });
    let told = office.shell.told_to(office.gateway);
    let [CoordinatorMessage::InstallGrant(install)] = told[..] else { panic!("{told:?}") };
    assert_eq!(install.filter, tcp("443"));
    office.shell.acknowledge(office.gateway);
    office.shell.run(&Command::RemovePolicy { id: narrow }).unwrap();
    office.shell.acknowledge(office.gateway);
    office.shell.forget();
    office.shell.add(policy("deny user:alice wiki"));
    assert!(office.shell.core.state().grants.is_empty());
    assert!(office.shell.nodes[&office.laptop].catalogue.is_empty(), "what is always denied is out of sight");
    assert_eq!(office.shell.ask_in_vain(office.laptop, office.wiki), DenyReason::UnknownResource);
}

#[test]
fn a_denial_that_depends_is_said_to_be_one() {
    let mut office = office_with([policy("allow user:alice wiki"), when("deny everyone wiki", "!posture.firewall")]);
    office.access();
    office.shell.tell(office.laptop, &firewall(false));
    assert!(office.shell.core.state().grants.is_empty());
    assert_eq!(office.shell.ask_in_vain(office.laptop, office.wiki), DenyReason::Forbidden);
    office.shell.tell(office.laptop, &firewall(true));
    office.access();
}

#[test]
fn tags_let_in_and_shut_out_as_resources_take_them_on() {
    let mut office = office_with([policy("allow user:alice tag:prod")]);
    assert!(office.shell.nodes[&office.laptop].catalogue.is_empty());
    let tags = |tags: &[&str]| {
        let tags = tags.iter().map(|tag| tag.parse().unwrap()).collect();
        ResourceEdit { tags: Some(tags), ..ResourceEdit::default() }
    };
    office.shell.edit("wiki", tags(&["prod"]));
    assert!(office.shell.nodes[&office.laptop].catalogue.contains_key(&office.wiki));
    office.access();
    office.shell.edit("wiki", tags(&["test"]));
    assert!(office.shell.core.state().grants.is_empty());
    assert!(office.shell.nodes[&office.laptop].catalogue.is_empty());
}

#[test]
fn ports_add_up_over_policies() {
    let mut office = office_with([
        NewPolicy { ports: Some(tcp("443")), ..policy("allow user:alice wiki") },
        NewPolicy { ports: Some(tcp("1-1000")), ..when("allow everyone wiki", "posture.firewall") },
    ]);
    let edit = ResourceEdit { tcp: Some("80,443,8080".parse().unwrap()), ..ResourceEdit::default() };
    office.shell.edit("wiki", edit);
    assert_eq!(office.access().filter, tcp("443"));
    office.shell.tell(office.laptop, &firewall(true));
    office.shell.acknowledge(office.gateway);
    assert_eq!(office.access().filter, tcp("80,443"), "and never what the resource does not open");
}

#[test]
fn shadows_decide_nothing_and_say_what_they_would() {
    let shadow = |words| NewPolicy { shadow: true, ..policy(words) };
    let mut office = office_with([shadow("allow user:alice wiki")]);
    assert!(office.shell.nodes[&office.laptop].catalogue.is_empty());
    assert_eq!(office.shell.ask_in_vain(office.laptop, office.wiki), DenyReason::UnknownResource);
    assert_eq!(office.shell.actions(), ["access.deny", "shadow.would_allow"]);
    office.shell.add(policy("allow user:alice wiki"));
    office.access();
    office.shell.forget();
    let id = office.shell.add(shadow("deny everyone wiki"));
    assert_eq!(office.shell.actions(), ["policy.add", "shadow.would_deny"]);
    let details = &office.shell.audit[1].details;
    assert_eq!(details[0], ("policies".into(), id.to_string()), "{details:?}");
    assert!(office.shell.told.is_empty(), "nobody notices");
    office.shell.forget();
    office.shell.add(NewPolicy { when: Some("posture.os == \"Plan 9\"".to_owned()), ..shadow("deny user:alice wiki") });
    assert_eq!(office.shell.actions(), ["policy.add"], "it is not said again because of another");
    assert_eq!(office.shell.core.state().grants.len(), 1);
}

/// Taken out of shadow, a policy decides as if it were new: what it closes is cut, and the rest stays.
#[test]
fn a_shadow_that_is_enforced_cuts_what_it_said_it_would() {
    let mut office = office_with([policy("allow user:alice wiki")]);
    office.access();
    let shell = &mut office.shell;
    let id = shell.add(NewPolicy { shadow: true, ..when("deny everyone wiki", "time.minute in 0..60") });
    let idle = shell.add(NewPolicy { shadow: true, ..when("deny everyone wiki", "posture.os == \"Plan 9\"") });
    let foreseen = |shell: &mut Shell, id| {
        let (now, moment) = (shell.now, shell.moment);
        let mut random = |bytes: &mut [u8]| bytes.fill(9);
        let cuts =
            shell.core.cuts(&Command::EnforcePolicy { id }, &mut crate::Env { now, moment, random: &mut random });
        cuts.map(|cuts| (cuts.ended, cuts.narrowed)).map_err(|refusal| refusal.to_string())
    };
    assert_eq!((foreseen(shell, id), foreseen(shell, idle)), (Ok((1, 0)), Ok((0, 0))));
    assert_eq!(shell.core.state().grants.len(), 1, "looking changes nothing");
    shell.forget();
    shell.wait(Duration::from_secs(1));
    assert_eq!(shell.run(&Command::EnforcePolicy { id: idle }), Ok(Touched::Policy(idle)));
    assert_eq!((shell.actions(), shell.core.state().grants.len()), (vec!["policy.enforce"], 1));
    assert_eq!(shell.run(&Command::EnforcePolicy { id }), Ok(Touched::Policy(id)));
    assert_eq!(shell.actions(), ["policy.enforce", "policy.enforce", "grant.end"]);
    assert!(shell.core.state().grants.is_empty());
    let enforced = &shell.core.state().policies[&id];
    assert_eq!((enforced.shadow, enforced.created_at), (false, shell.now), "it counts from now");
    assert_eq!(shell.core.change_reports().next().map(|report| report.ended), Some(1));
    assert!(foreseen(shell, id).unwrap_err().contains("decides already"));
    let twin = shell.add(NewPolicy { shadow: true, ..when("deny everyone wiki", "time.minute in 0..60") });
    let refusal = shell.run(&Command::EnforcePolicy { id: twin }).unwrap_err().to_string();
    assert!(refusal.contains(&format!("policy {id} says just that")), "{refusal}");
    assert_eq!(office.shell.ask_in_vain(office.laptop, office.wiki), DenyReason::Forbidden);
}

#[test]
fn a_source_is_where_the_connection_comes_from() {
    let mut office = office_with([when("allow user:alice wiki", "source.ip in \"192.0.2.0/24\"")]);
    office.access();
    // The same device from elsewhere.
    let hello = super::shell::hello([9; 16]);
    let from = "198.51.100.7:5000".parse().unwrap();
    let laptop = office.laptop;
    office.shell.transact(|core, env| core.propose_connect(laptop, &hello, from, env));
    assert!(office.shell.core.state().grants.is_empty());
    office.shell.carry_out_connect(laptop, 77, &hello, from);
    assert_eq!(office.shell.ask_in_vain(laptop, office.wiki), DenyReason::ConditionNotMet);
}

#[test]
fn what_a_restart_forgets_costs_no_grant_and_gives_none() {
    let mut office = office_with([when("allow user:alice wiki", "posture.firewall")]);
    office.shell.tell(office.laptop, &firewall(true));
    office.access();
    office.shell.core = crate::Core::new(office.shell.core.state().world(), super::shell::config());
    // Decided anew while the device is away.
    office.shell.run(&when("deny everyone everything", "posture.os == \"Plan 9\"").into()).unwrap();
    assert_eq!(office.shell.core.state().grants.len(), 1);
    office.shell.wait(LEASE);
    assert!(office.shell.core.state().grants.is_empty());
}

#[test]
fn experts_write_cedar() {
    let mut office = office_with([]);
    office.shell.group("eng");
    let source = r#"
        @ports("tcp/443")
        permit (principal in User::"alice", action, resource == Resource::"wiki")
        when { principal in Group::"eng" && context.posture has os && context.posture.os like "Debian*" };
        @until("2023-11-15")
        forbid (principal, action, resource) when { context.time.hour == 23 };
    "#;
    office.shell.run(&Command::AddCedar { source: source.into() }).unwrap();
    let policies: Vec<_> = office.shell.core.state().policies.values().collect();
    assert_eq!(policies.iter().filter(|policy| policy.effect == Effect::Deny).count(), 1);
    assert_eq!(office.shell.ask_in_vain(office.laptop, office.wiki), DenyReason::ConditionNotMet);
    office.shell.add_member("eng", "alice");
    assert_eq!(office.access().filter, tcp("443"));
    office.shell.remove_member("eng", "alice");
    assert!(office.shell.core.state().grants.is_empty());
    // A group of that name is not the group that was meant.
    office.shell.add_member("eng", "alice");
    office.access();
    office.shell.remove_group("eng");
    office.shell.group("eng");
    office.shell.add_member("eng", "alice");
    assert!(office.shell.core.state().grants.is_empty());
    assert_eq!(office.shell.ask_in_vain(office.laptop, office.wiki), DenyReason::ConditionNotMet);
}

#[test]
fn bad_policies_are_refused_with_their_place() {
    let mut office = office_with([policy("allow user:alice wiki")]);
    let past = office.shell.now;
    let cases: [(Command, &str); 7] = [
        (when("allow user:alice wiki", "posture.disk").into(), "column 1: 'posture.disk' is not known"),
        (NewPolicy { until: Some(past), ..policy("allow user:alice tag:x") }.into(), "ended already"),
        (policy("allow user:alice wiki").into(), "says just that already"),
        (Command::AddCedar { source: "permit (principal, action, resource".into() }, "line 1"),
        (Command::AddCedar { source: "permit (principal, action, resource)\nwhen { context.x };".into() }, "line 2"),
        (
            Command::AddCedar { source: "permit (principal in Group::\"no\", action, resource);".into() },
            "no group 'no'",
        ),
        (Command::AddCedar { source: "@x(\"y\") permit (principal, action, resource);".into() }, "@x has no meaning"),
    ];
    for (command, mentions) in cases {
        let refusal = office.shell.run(&command).expect_err("it should be refused");
        assert!(refusal.to_string().contains(mentions), "{command:?}: {refusal}");
        assert!(!matches!(refusal, Refusal::NotFound { .. }));
    }
    assert!(office.shell.audit.is_empty(), "nothing was changed");
}

/// A policy in Cedar for each range of checks, all of which have to pass.
fn asking_for(lists: &[(usize, usize)]) -> Command {
    let policy = |(first, end): &(usize, usize)| {
        let checks: Vec<_> = (*first..*end).map(|number| format!("\"file:/{number}\"")).collect();
        let checks = checks.join(", ");
        format!("permit (principal, action, resource) when {{ context.checks.passed.containsAll([{checks}]) }};\n")
    };
    Command::AddCedar { source: lists.iter().map(policy).collect() }
}

#[test]
fn the_policies_of_one_text_count_together() {
    let mut office = office_with([]);
    let shell = &mut office.shell;
    let mut refused = |command: Command, why: &str| {
        let before = shell.core.state().clone();
        let refusal = shell.run(&command).unwrap_err().to_string();
        assert!(refusal.contains(why), "'{why}' is not in: {refusal}");
        assert_eq!(*shell.core.state(), before, "a refusal changes nothing");
    };
    refused(asking_for(&[(0, 140), (140, 280)]), "at most 256 different");
    refused(asking_for(&[(0, 1), (1, 2), (0, 1)]), "is there twice");
    // As many as there may be: what asks for no others is welcome still.
    shell.run(&asking_for(&[(0, 140), (139, 256)])).unwrap();
    assert_eq!(shell.core.state().policy_set().checks().count(), 256);
    shell.run(&asking_for(&[(7, 9)])).unwrap();
    shell.run(&policy("allow user:alice wiki").into()).unwrap();
    let refusal = shell.run(&asking_for(&[(256, 257)])).unwrap_err().to_string();
    assert!(refusal.contains("at most 256 different"), "{refusal}");
}

#[test]
fn devices_hear_what_policies_ask_for_and_answer_it() {
    let mut office =
        office_with([when("allow user:alice wiki", "process(\"edr\") && package(\"openssl\") >= \"3.0.11\"")]);
    let checks = |shell: &Shell, device| {
        let told = shell.told_to(device).into_iter().filter_map(|message| match message {
            CoordinatorMessage::Checks { checks } => Some(checks.iter().map(ToString::to_string).collect::<Vec<_>>()),
            _ => None,
        });
        told.collect::<Vec<_>>()
    };
    let (laptop, wiki) = (office.laptop, office.wiki);
    assert_eq!(office.shell.ask_in_vain(laptop, wiki), DenyReason::ConditionNotMet);
    let says = |edr, openssl: &str| {
        let found = [("process:edr", edr), ("package:openssl", Found::Version(openssl.into()))];
        let checks = found.map(|(check, found)| (check.parse().unwrap(), found)).into();
        Posture { checks, ..posture() }
    };
    office.shell.tell(laptop, &says(Found::Present, "3.0.9-1"));
    assert_eq!(office.shell.ask_in_vain(laptop, wiki), DenyReason::ConditionNotMet);
    office.shell.tell(laptop, &says(Found::Present, "3.0.15-1~deb12u1"));
    office.access();
    office.shell.tell(laptop, &says(Found::Absent, "3.0.15-1~deb12u1"));
    assert!(office.shell.core.state().grants.is_empty());
    // Told when it changes, and only then.
    office.shell.forget();
    let file = office.shell.add(when("deny everyone wiki", "file(\"/etc/bad\")"));
    assert_eq!(checks(&office.shell, laptop), [["file:/etc/bad", "process:edr", "package:openssl"]]);
    office.shell.forget();
    office.shell.add(when("deny user:alice tag:x", "file(\"/etc/bad\")"));
    assert!(checks(&office.shell, laptop).is_empty());
    office.shell.run(&Command::RemovePolicy { id: file }).unwrap();
    assert!(checks(&office.shell, laptop).is_empty());
}

#[test]
fn what_is_said_again_counts_again() {
    let mut office = office_with([when("allow user:alice wiki", "posture.firewall")]);
    office.shell.tell(office.laptop, &firewall(true));
    office.shell.wait(14 * MINUTE);
    let connection = office.shell.nodes[&office.laptop].connection.unwrap();
    office.shell.core.handle_posture_again(office.laptop, connection - 1, office.shell.now);
    assert_eq!(office.access().lease, MINUTE, "an older connection says nothing");
    office.shell.core.handle_posture_again(office.laptop, connection, office.shell.now);
    assert_eq!(office.access().lease, LEASE);
}

#[test]
fn a_connection_that_moves_takes_its_grants_along_only_where_they_hold() {
    let mut office = office_with([when("allow user:alice wiki", "source.ip in \"192.0.2.0/24\"")]);
    office.access();
    let connection = office.shell.nodes[&office.laptop].connection.unwrap();
    let (laptop, elsewhere) = (office.laptop, "198.51.100.7:5000".parse().unwrap());
    office.shell.transact(|core, env| core.propose_move(laptop, connection - 1, elsewhere, env));
    assert_eq!(office.shell.core.state().grants.len(), 1, "an older connection moves nothing");
    office.shell.transact(|core, env| core.propose_move(laptop, connection, elsewhere, env));
    assert!(office.shell.core.state().grants.is_empty());
    assert_eq!(office.shell.ask_in_vain(laptop, office.wiki), DenyReason::ConditionNotMet);
    let home = "192.0.2.9:5000".parse().unwrap();
    office.shell.transact(|core, env| core.propose_move(laptop, connection, home, env));
    office.access();
}

#[test]
fn what_no_policy_asks_for_is_not_kept() {
    let mut office = office_with([when("allow user:alice wiki", "process(\"edr\")")]);
    let checks = ["process:edr", "process:other", "file:/etc/x"].map(|check| (check.parse().unwrap(), Found::Present));
    office.shell.tell(office.laptop, &Posture { checks: checks.into(), ..posture() });
    let kept = &office.shell.core.state().devices[&office.laptop].posture.checks;
    assert_eq!(kept.keys().map(ToString::to_string).collect::<Vec<_>>(), ["process:edr"]);
    office.access();
}
