//! Assertions: what holds, what is said where one does not, and that nothing is done then.

use std::{collections::BTreeMap, time::Duration};

use postern_model::Effect;

use super::{
    declarations::{declared, resource, short, whole},
    office::{Office, office, tcp},
    shell::{START, Shell},
};
use crate::{
    Command, Declaration, Env, NewPolicy, Refusal, Touched,
    declaration::{Asserted, Assertion, DeclaredGroup, DeclaredPolicy, Given, assertion::Verdict},
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

fn check_offline(declaration: &Declaration) -> Result<Vec<Verdict>, Refusal> {
    let mut env = Env { now: START, moment: Default::default(), random: &mut fresh() };
    let checked = crate::declaration::check_offline(declaration, &mut env)?;
    Ok(checked.into_iter().map(|checked| checked.verdict).collect())
}

/// `wiki`, open on 443, and these policies.
fn wiki(policies: Vec<DeclaredPolicy>, assertions: Vec<Assertion>) -> Declaration {
    let resources = Some(BTreeMap::from([("wiki".parse().unwrap(), resource("hq", "10.0.0.5"))]));
    Declaration { resources, policies: Some(policies), assertions, ..Declaration::default() }
}

#[test]
fn without_a_coordinator_whoever_is_named_is_made_up() {
    let cedar = r#"
        permit (principal in User::"carol", action, resource == Resource::"wiki");
        forbid (principal, action, resource) when { principal in Group::"guests" && principal == Device::"kiosk" };
        permit (principal in Group::"ops", action, resource in Tag::"elsewhere");
    "#;
    let declaration = wiki(
        vec![declared(short(Effect::Allow, "user:alice", "wiki")), DeclaredPolicy::Cedar(cedar.into())],
        vec![
            assertion(Effect::Allow, "alice", "wiki"),
            assertion(Effect::Deny, "bob", "wiki"),
            assertion(Effect::Allow, "bob", "wiki"),
            assertion(Effect::Deny, "carol", "wiki"),
            Assertion { who: Asserted::Device("laptop".into()), ..assertion(Effect::Allow, "x", "wiki") },
        ],
    );
    let checked = check_offline(&declaration).unwrap();
    // A denial that may be everyone's stands against what is to hold under all circumstances.
    assert!(matches!(&checked[0], Verdict::Fails(why) if why.contains("deny everyone everything")), "{checked:?}");
    assert_eq!(checked[1], Verdict::Holds);
    assert!(matches!(&checked[2], Verdict::Fails(_)), "{checked:?}");
    assert!(matches!(&checked[3], Verdict::Fails(why) if why.contains("allow user:carol wiki")), "{checked:?}");
    assert!(matches!(&checked[4], Verdict::Skipped(why) if why.contains("'laptop'")), "{checked:?}");
    let without = Declaration { resources: None, ..declaration };
    assert!(check_offline(&without).unwrap_err().to_string().contains("no resource 'wiki'"));
    let unread = wiki(vec![DeclaredPolicy::Cedar("permit (principal in User::\"carol\"".into())], vec![]);
    assert!(check_offline(&unread).unwrap_err().to_string().contains("line 1"));
    // A section that is there is complete.
    let mut complete = wiki(vec![declared(short(Effect::Allow, "group:eng", "wiki"))], vec![]);
    complete.groups = Some(BTreeMap::new());
    assert!(check_offline(&complete).unwrap_err().to_string().contains("no group 'eng'"));
}

#[test]
fn without_a_coordinator_nothing_is_said_of_what_is_not_declared() {
    let assertions = vec![assertion(Effect::Deny, "bob", "wiki"), assertion(Effect::Allow, "bob", "wiki")];
    let whole = wiki(vec![], assertions);
    assert!(matches!(check_offline(&whole).unwrap()[..], [Verdict::Holds, Verdict::Fails(_)]));
    let without = [
        ("policies", Declaration { policies: None, ..whole.clone() }),
        ("resources", Declaration { resources: None, ..whole }),
    ];
    for (section, declaration) in without {
        for verdict in check_offline(&declaration).unwrap() {
            let Verdict::Skipped(why) = verdict else { panic!("{verdict:?}") };
            assert!(why.contains(&format!("no {section} are declared")), "{why}");
        }
    }
}

#[test]
fn without_a_coordinator_who_is_in_a_group_may_not_be_known() {
    let device = "0192d3c8-1f6e-7c44-b2a0-5d1c9a7e4f10";
    let (allow, deny) = (Effect::Allow, Effect::Deny);
    let one = |effect, subject: &str| vec![declared(short(effect, subject, "wiki"))];
    let besides = |effect, subject: &str| [one(allow, "user:bob"), one(effect, subject)].concat();
    let cedar = |text: &str| vec![DeclaredPolicy::Cedar(text.to_owned())];
    let in_eng = "permit (principal, action, resource) when { principal in Group::\"eng\" };";
    let on_80 = NewPolicy { ports: Some(tcp("80")), ..short(allow, "group:eng", "everything") };
    let shadow = NewPolicy { shadow: true, ..short(allow, "group:eng", "wiki") };
    let told = "given";
    // What is expected of bob and whether circumstances are given, and whether it holds; `None` where nobody can tell.
    for (policies, expect, circumstances, outcome) in [
        (one(allow, "group:eng"), deny, "", None),
        (one(allow, "group:eng"), allow, "", None),
        (one(allow, "group:eng"), deny, told, None),
        // Whoever is in it, nobody is let in, or all the same is.
        (one(deny, "group:eng"), deny, "", Some(true)),
        (one(deny, "group:eng"), allow, "", Some(false)),
        (besides(allow, "group:eng"), allow, "", Some(true)),
        (besides(allow, "group:eng"), deny, "", Some(false)),
        (besides(deny, "group:eng"), allow, "", None),
        (besides(deny, "group:eng"), deny, "", None),
        // The same of a device that may be bob's.
        (one(allow, &format!("device:{device}")), deny, "", None),
        (one(deny, &format!("device:{device}")), deny, "", Some(true)),
        (besides(deny, &format!("device:{device}")), allow, "", None),
        (cedar("permit (principal == Device::\"kiosk\", action, resource);"), deny, told, None),
        // In Cedar.
        (cedar("permit (principal in Group::\"eng\", action, resource);"), deny, "", None),
        (cedar(in_eng), deny, told, None),
        (cedar(in_eng), deny, "", Some(false)),
        (cedar(in_eng), allow, "", Some(false)),
        (
            cedar("permit (principal in User::\"al\", action, resource) when { principal in Group::\"eng\" };"),
            deny,
            told,
            Some(true),
        ),
        // What is about other things, or decides nothing.
        (vec![declared(short(allow, "group:eng", "tag:db"))], deny, "", Some(true)),
        (vec![declared(on_80)], deny, "", Some(true)),
        (vec![declared(shadow)], deny, "", Some(true)),
    ] {
        let given = (circumstances == told).then(Given::default);
        let it = Assertion { given, ..assertion(expect, "bob", "wiki") };
        let mut declaration = wiki(policies, vec![it]);
        let is_as_told = |declaration: &Declaration, outcome: Option<bool>| {
            let verdict = check_offline(declaration).unwrap().remove(0);
            let found = match &verdict {
                Verdict::Holds => Some(true),
                Verdict::Fails(_) => Some(false),
                Verdict::Skipped(why) => {
                    assert!(why.contains("only the coordinator knows") && why.contains("'policy plan'"), "{why}");
                    None
                }
            };
            assert_eq!(found, outcome, "{declaration:?}: {verdict:?}");
        };
        is_as_told(&declaration, outcome);
        // A group that is declared and keeps whom it has is no better known.
        declaration.groups = Some(BTreeMap::from([("eng".parse().unwrap(), DeclaredGroup::default())]));
        is_as_told(&declaration, outcome);
    }
    // Once its members are declared, it is told.
    for (members, verdict) in [(&["alice"][..], true), (&["alice", "bob"], false)] {
        let mut declaration = wiki(one(allow, "group:eng"), vec![assertion(deny, "bob", "wiki")]);
        let members = Some(members.iter().map(|name| name.parse().unwrap()).collect());
        declaration.groups = Some(BTreeMap::from([("eng".parse().unwrap(), DeclaredGroup { members })]));
        assert_eq!(check_offline(&declaration).unwrap()[0] == Verdict::Holds, verdict);
    }
}

/// Random enough for ids.
fn fresh() -> impl FnMut(&mut [u8]) {
    let mut counter = 0u8;
    move |bytes: &mut [u8]| {
        counter += 1;
        bytes.fill(counter);
    }
}
