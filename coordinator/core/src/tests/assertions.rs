//! Assertions: what holds, what is said where one does not, and that nothing is done then.

use std::{collections::BTreeMap, time::Duration};

use postern_model::Effect;

use super::{
    declarations::{declared, resource, short, whole},
    office::{Office, office, tcp},
    shell::{START, Shell},
};
use crate::{
    Command, Declaration, NewPolicy, Touched,
    declaration::{Asserted, Assertion, Given, assertion::Verdict},
};

fn assertion(expect: Effect, user: &str, resource: &str) -> Assertion {
    Assertion {
        name: format!("{expect} {user} {resource}"),
        expect,
        who: Asserted::User(user.parse().unwrap()),
        resource: resource.parse().unwrap(),
        ports: None,
        given: None,
    }
}

#[test]
fn an_assertion_that_would_not_hold_stops_it_all() {
    let mut shell = Shell::new();
    let stays_out = Declaration { assertions: vec![assertion(Effect::Deny, "alice", "wiki")], ..whole() };
    let plan = shell.plan(&stays_out).unwrap();
    let Verdict::Fails(why) = &plan.checks[0].verdict else { panic!("{plan:?}") };
    assert!(why.contains("under some circumstances") && why.contains("allow group:eng tag:prod on tcp/443"), "{why}");
    shell.refuses(&stays_out, "'deny alice wiki'");

    let posture = |disk_encrypted| postern_model::Posture { disk_encrypted, ..Default::default() };
    let given = |disk| Some(Given { posture: Some(posture(disk)), ..Given::default() });
    let ports = Some(tcp("443"));
    let allow = |given, ports| Assertion { given, ports, ..assertion(Effect::Allow, "alice", "wiki") };
    let deny = |given, ports| Assertion { given, ports, ..assertion(Effect::Deny, "alice", "wiki") };
    for (assertion, holds) in [
        (allow(given(Some(true)), None), true),
        (allow(given(Some(true)), ports.clone()), true),
        (allow(given(Some(false)), None), false),
        (allow(given(None), None), false),
        (allow(None, None), false),
        (allow(given(Some(true)), Some(tcp("443,444"))), false),
        (deny(given(Some(true)), None), false),
        (deny(given(Some(true)), Some(tcp("80"))), true),
        (deny(given(Some(true)), Some(tcp("80,443"))), false),
        (deny(given(Some(false)), None), true),
        (deny(None, Some(tcp("80"))), true),
        (assertion(Effect::Deny, "mallory", "wiki"), false),
        (assertion(Effect::Deny, "alice", "moon"), false),
    ] {
        let plan = shell.plan(&Declaration { assertions: vec![assertion.clone()], ..whole() }).unwrap();
        assert_eq!(plan.checks[0].verdict == Verdict::Holds, holds, "{assertion:?}: {:?}", plan.checks);
    }
    // A denial in force takes it away, under whatever circumstances.
    let mut denied = stays_out.clone();
    denied.policies.as_mut().unwrap().push(declared(short(Effect::Deny, "user:alice", "wiki")));
    shell.apply(&denied).unwrap();
}

#[test]
fn assertions_about_devices_are_about_those_there_are() {
    let Office { mut shell, laptop, .. } = office();
    let name = shell.core.state().devices[&laptop].name.clone();
    let of =
        |who: &str, expect| Assertion { who: Asserted::Device(who.to_owned()), ..assertion(expect, "alice", "wiki") };
    let holds = |shell: &mut Shell, assertion| {
        let plan = shell.plan(&Declaration { assertions: vec![assertion], ..Declaration::default() }).unwrap();
        plan.checks[0].verdict == Verdict::Holds
    };
    assert!(holds(&mut shell, of(&name, Effect::Allow)) && holds(&mut shell, of(&laptop.to_string(), Effect::Allow)));
    assert!(!holds(&mut shell, of("moon", Effect::Allow)) && !holds(&mut shell, of("moon", Effect::Deny)));
    shell.run(&Command::RevokeDevice { id: laptop }).unwrap();
    assert!(!holds(&mut shell, of(&name, Effect::Allow)) && holds(&mut shell, of(&name, Effect::Deny)));
}

/// What is said of assertions of this state: `None` where it holds.
fn failures(shell: &mut Shell, assertions: Vec<Assertion>) -> Vec<Option<String>> {
    let plan = shell.plan(&Declaration { assertions, ..Declaration::default() }).unwrap();
    plan.checks.iter().map(|checked| checked.failure().map(str::to_owned)).collect()
}

#[test]
fn an_assertion_about_a_user_is_about_each_device_of_theirs() {
    let Office { mut shell, .. } = office();
    shell.user("bob");
    let (old, laptop) = (shell.laptop("bob"), shell.laptop("bob"));
    let name = shell.core.state().devices[&laptop].name.clone();
    assert_ne!(name, shell.core.state().devices[&old].name);
    let given = Some(Given::default());
    let both = || {
        let of = |who, expect| [None, given.clone()].map(|given| Assertion { given, ..assertion(expect, who, "wiki") });
        [of("bob", Effect::Deny), of("alice", Effect::Allow)].concat()
    };
    assert_eq!(failures(&mut shell, both()), [None, None, None, None]);
    let says_the_device = |said: &[Option<String>]| {
        let says = |why: &Option<String>| why.as_ref().is_some_and(|why| why.contains(&format!("device '{name}'")));
        assert!(said.iter().all(says), "'{name}' in {said:?}");
    };

    // By its id, and by what a condition says of it: that may be met by any device, as long as no circumstances are given.
    for (source, all_say_it) in [
        (format!("permit (principal == Device::\"{laptop}\", action, resource == Resource::\"wiki\");"), true),
        (format!("permit (principal, action, resource) when {{ principal == Device::\"{laptop}\" }};"), false),
    ] {
        let Touched::Policies(ids) = shell.run(&Command::AddCedar { source }).unwrap() else { panic!() };
        let said = failures(&mut shell, both());
        says_the_device(&said[usize::from(!all_say_it)..2]);
        assert!(said[0].as_ref().unwrap().starts_with("bob ") && said[1].as_ref().unwrap().starts_with("bob on"));
        assert_eq!(said[2..], [None, None], "alice has it not");
        shell.run(&Command::RemovePolicy { id: ids[0] }).unwrap();
    }

    // What one device is denied is not allowed to its user.
    shell.allow("user:bob", "wiki");
    let allowed = || vec![assertion(Effect::Allow, "bob", "wiki")];
    assert_eq!(failures(&mut shell, allowed()), [None]);
    shell.run(&short(Effect::Deny, &format!("device:{laptop}"), "wiki").into()).unwrap();
    says_the_device(&failures(&mut shell, allowed()));
    // A revoked device counts no more.
    shell.run(&Command::RevokeDevice { id: laptop }).unwrap();
    assert_eq!(failures(&mut shell, allowed()), [None]);
}

#[test]
fn who_is_made_up_enrols_at_the_time_that_is_given() {
    let mut shell = Shell::new();
    let fresh = NewPolicy { when: Some("auth.age_hours < 8".into()), ..short(Effect::Allow, "user:alice", "wiki") };
    let mut declaration = whole();
    declaration.policies = Some(vec![declared(fresh)]);
    let days = |days: u64| START.plus(Duration::from_secs(days * 24 * 3600));
    let at = |time| Assertion {
        given: Some(Given { time, ..Given::default() }),
        ..assertion(Effect::Allow, "alice", "wiki")
    };
    declaration.assertions = [None, Some(days(100)), Some(days(1))].map(at).into();
    for _ in 0..2 {
        let plan = shell.plan(&declaration).unwrap();
        assert!(plan.checks.iter().all(|checked| checked.verdict == Verdict::Holds), "{:?}", plan.checks);
        shell.pass(Duration::from_secs(10 * 24 * 3600));
    }
    // Who is there already has not enrolled anew.
    shell.apply(&declaration).unwrap();
    shell.laptop("alice");
    let plan = shell.plan(&Declaration { policies: None, ..declaration }).unwrap();
    let fails: Vec<_> = plan.checks.iter().map(|checked| checked.failure().is_some()).collect();
    assert_eq!(fails, [false, true, false], "{:?}", plan.checks);
}

#[test]
fn without_a_coordinator_whoever_is_named_is_made_up() {
    let check = |declaration: &Declaration| {
        let mut env = crate::Env { now: super::shell::START, moment: Default::default(), random: &mut fresh() };
        crate::declaration::check_offline(declaration, &mut env)
    };
    let device: postern_model::DeviceId = "0192d3c8-1f6e-7c44-b2a0-5d1c9a7e4f10".parse().unwrap();
    let declaration = Declaration {
        resources: Some(BTreeMap::from([("wiki".parse().unwrap(), resource("hq", "10.0.0.5"))])),
        policies: Some(vec![
            declared(short(Effect::Allow, "user:alice", "wiki")),
            declared(short(Effect::Allow, "group:eng", "wiki")),
            declared(short(Effect::Deny, &format!("device:{device}"), "wiki")),
        ]),
        assertions: vec![
            assertion(Effect::Allow, "alice", "wiki"),
            assertion(Effect::Deny, "bob", "wiki"),
            assertion(Effect::Allow, "bob", "wiki"),
            Assertion { who: Asserted::Device("laptop".into()), ..assertion(Effect::Allow, "x", "wiki") },
        ],
        ..Declaration::default()
    };
    let checked: Vec<_> = check(&declaration).unwrap().into_iter().map(|checked| checked.verdict).collect();
    assert_eq!(checked[..2], [Verdict::Holds, Verdict::Holds]);
    assert!(matches!(&checked[2], Verdict::Fails(why) if why.contains("no policy allows it")), "{checked:?}");
    assert!(matches!(&checked[3], Verdict::Skipped(why) if why.contains("'laptop'")), "{checked:?}");
    let without = Declaration { resources: None, ..declaration };
    assert!(check(&without).unwrap_err().to_string().contains("no resource 'wiki'"));
}

/// Random enough for ids.
fn fresh() -> impl FnMut(&mut [u8]) {
    let mut counter = 0u8;
    move |bytes: &mut [u8]| {
        counter += 1;
        bytes.fill(counter);
    }
}
