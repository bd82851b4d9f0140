//! Policies in Cedar: what is read, what is refused and where.

use postern_model::{
    Condition, Decision, DenyReason, DeviceId, Effect, GroupId, ResourceId, Scope, UserId,
    record::{Policy, Principal},
};

use super::world::{CALM, allowing, denying, device, group, ports, resource, small_with, tag, user};
use crate::{
    decide,
    expert::{CedarError, Expert, Names, read},
    until,
};

/// alice is user 1, eng group 1, laptop device 1, wiki resource 1.
struct Known;

impl Names for Known {
    fn user(&self, name: &str) -> Option<UserId> {
        (name == "alice").then(|| user(1))
    }
    fn group(&self, name: &str) -> Option<GroupId> {
        (name == "eng").then(|| group(1))
    }
    fn device(&self, name: &str) -> Option<DeviceId> {
        (name == "laptop").then(|| device(1))
    }
    fn resource(&self, name: &str) -> Option<ResourceId> {
        (name == "wiki").then(|| resource(1))
    }
}

fn one(source: &str) -> Expert {
    let mut read = read(source, &Known).unwrap_or_else(|error| panic!("{source}: {error}"));
    assert_eq!(read.len(), 1);
    read.remove(0)
}

fn refused(source: &str) -> CedarError {
    match read(source, &Known) {
        Ok(read) => panic!("{source} was read as {read:?}"),
        Err(error) => error,
    }
}

#[test]
fn scopes_and_annotations_are_read() {
    let all = "permit (principal, action, resource);";
    let expected = Expert {
        effect: Effect::Allow,
        principal: Principal::Everyone,
        scope: Scope::Everything,
        ports: None,
        until: None,
        shadow: false,
        condition: None,
    };
    assert_eq!(one(all), expected);
    assert_eq!(one("permit (principal is Device, action, resource is Resource);"), expected);
    let full = r#"@id("db") @description("for the engineers") @ports("tcp/5432") @until("2026-12-31") @shadow
        forbid (principal in Group::"eng", action == Action::"connect", resource in Tag::"prod");"#;
    let expected = Expert {
        effect: Effect::Deny,
        principal: Principal::Group(group(1)),
        scope: Scope::Tag("prod".parse().unwrap()),
        ports: Some(ports("tcp/5432")),
        until: Some(until::parse("2027-01-01T00:00:00Z").unwrap()),
        shadow: true,
        condition: None,
    };
    assert_eq!(one(full), expected);
    let exact = one(r#"permit (principal == Device::"laptop", action, resource == Resource::"wiki");"#);
    assert_eq!((exact.principal, exact.scope), (Principal::Device(device(1)), Scope::Resource(resource(1))));
    let owned = one(r#"permit (principal is Device in User::"alice", action, resource is Resource in Tag::"t1");"#);
    assert_eq!((owned.principal, owned.scope), (Principal::User(user(1)), Scope::Tag(tag(1))));
}

#[test]
fn several_policies_keep_their_order() {
    let source: String =
        (1..13).map(|n| format!("@ports(\"tcp/{n}\") permit (principal, action, resource);\n")).collect();
    let read = read(&source, &Known).unwrap();
    let ports: Vec<_> = read.into_iter().map(|policy| policy.ports.unwrap().to_string()).collect();
    assert_eq!(ports, (1..13).map(|n| format!("tcp/{n}")).collect::<Vec<_>>());
}

#[test]
fn what_is_wrong_is_told_with_its_place() {
    let when = |clause: &str| format!("permit (principal, action, resource)\nwhen {{ {clause} }};");
    let cases = [
        ("permit (principal, action, resource)\nwhen { 1 + };".to_owned(), (2, 12), "unexpected"),
        (when("context.unheard"), (2, 8), "unheard"),
        (when("context.posture.disk_encrypted"), (2, 8), "disk_encrypted"),
        (when("context.time.hour == \"noon\""), (2, 8), "String"),
        (when("context.time.hour"), (2, 8), "Bool"),
        (when("principal in Group::\"ops\""), (2, 21), "there is no group 'ops'"),
        (when("principal in Team::\"eng\""), (2, 21), "Team"),
        ("\n  permit (principal in Group::\"ops\", action, resource);".to_owned(), (2, 24), "there is no group 'ops'"),
        ("permit (principal, action, resource == Resource::\"x\");".to_owned(), (1, 40), "there is no resource 'x'"),
        ("permit (principal, action, resource in Tag::\"A b\");".to_owned(), (1, 40), "tag"),
        ("permit (principal == ?principal, action, resource);".to_owned(), (1, 22), "templates"),
        ("@port(\"tcp/1\")\npermit (principal, action, resource);".to_owned(), (1, 1), "@port has no meaning"),
        ("@ports(\"1\")\npermit (principal, action, resource);".to_owned(), (1, 1), "'1' is not a list of ports"),
        ("@until(\"soon\")\npermit (principal, action, resource);".to_owned(), (1, 1), "'soon' is not a time"),
        ("@shadow(\"false\")\npermit (principal, action, resource);".to_owned(), (1, 1), "without a value"),
        ("permit (principal, action == Action::\"read\", resource);".to_owned(), (1, 30), "read"),
    ];
    for (source, place, what) in cases {
        let error = refused(&source);
        assert_eq!(error.place, Some(place), "{source}: {error}");
        assert!(error.what.contains(what), "{source}: {error}");
        assert!(error.to_string().starts_with(&format!("line {}, column {}: ", place.0, place.1)));
    }
}

#[test]
fn what_could_never_be_met_or_is_no_policy_is_refused() {
    let never = [
        "permit (principal == User::\"alice\", action, resource);",
        "permit (principal == Group::\"eng\", action, resource);",
        "permit (principal is User in Group::\"eng\", action, resource);",
        "permit (principal, action, resource == Tag::\"t1\");",
        "permit (principal, action, resource is Tag);",
        "permit (principal in Resource::\"wiki\", action, resource);",
        "",
        "// nothing",
        "permit",
    ];
    for source in never {
        refused(source);
    }
    assert!(refused(&" ".repeat(20_000)).what.contains("at most"));
}

#[test]
fn deep_nesting_is_refused_and_harms_nobody() {
    for (open, close) in [
        ("(", ")"),
        ("!", ""),
        ("[", "] == []"),
        ("if true then ", " else true"),
        ("(true && ", ")"),
        ("true == (", ")"),
    ] {
        for count in [10, 23, 27, 51, 100, 1000, 5000] {
            let text = format!("{}true{}", open.repeat(count), close.repeat(count));
            let text: String = text.chars().take(16_000).collect();
            // Whatever is read can be compiled.
            if let Ok(read) = read(&format!("permit (principal, action, resource) when {{ {text} }};"), &Known) {
                let condition = read[0].condition.clone();
                assert!(small_with([Policy { condition, ..allowing(1) }]).set.iter().all(|it| it.fault().is_none()));
            }
        }
    }
    let chain = |count| {
        let chain = vec!["context.time.hour == 1"; count].join(" || ");
        read(&format!("permit (principal, action, resource) when {{ {chain} }};"), &Known)
    };
    assert!(chain(52).is_ok());
    for count in [100, 600] {
        let error = chain(count).unwrap_err();
        assert!(error.what.contains("deep"), "{error}");
    }
    let access = format!("permit (principal, action, resource) when {{ context{} }};", ".time".repeat(3000));
    refused(&access);
}

fn decided(policies: impl IntoIterator<Item = Policy>) -> Option<DenyReason> {
    let mut world = small_with(policies);
    world.members.insert((group(1), user(1)));
    world.posture().disk_encrypted = Some(true);
    match decide(&world, device(1), resource(1), CALM) {
        Decision::Allowed { .. } => None,
        Decision::Denied { reason } => Some(reason),
    }
}

#[test]
fn names_in_clauses_are_those_of_then() {
    let expert = one(
        r#"permit (principal, action, resource) when { principal in Group::"eng" } unless { resource == Resource::"wiki" };"#,
    );
    let Some(Condition::Cedar { source, clauses }) = &expert.condition else { panic!("it has clauses") };
    assert!(source.contains("Group::\"eng\""), "{source}");
    assert!(clauses.contains(&group(1).to_string()) && clauses.contains(&resource(1).to_string()), "{clauses}");
    assert!(!clauses.contains("eng") && !clauses.contains("wiki"), "{clauses}");
    assert_eq!(decided([Policy { condition: expert.condition, ..allowing(1) }]), Some(DenyReason::ConditionNotMet));
    let expert = one(r#"permit (principal, action, resource) when { principal in Group::"eng" };"#);
    assert_eq!(decided([Policy { condition: expert.condition, ..allowing(1) }]), None);
    let expert = one(r#"permit (principal, action, resource) when { resource in Tag::"prod" };"#);
    assert_eq!(decided([Policy { condition: expert.condition, ..allowing(1) }]), Some(DenyReason::ConditionNotMet));
    let looks_like =
        one(r#"permit (principal, action, resource) when { {"__entity": "eng"} == {"__entity": "eng"} };"#);
    assert_eq!(decided([Policy { condition: looks_like.condition, ..allowing(1) }]), None);
}

#[test]
fn checks_are_answered_by_name() {
    let expert = one(r#"permit (principal, action, resource)
        when { context.checks.passed.contains("package:openssl>=3.0.11") && context.checks.failed.contains("file:/a<b") };"#);
    let mut world = small_with([Policy { condition: expert.condition, ..allowing(1) }]);
    let checks: Vec<_> = world.set.checks().map(ToString::to_string).collect();
    assert_eq!(checks, ["file:/a<b", "package:openssl"]);
    let denied = Decision::Denied { reason: DenyReason::ConditionNotMet };
    assert_eq!(decide(&world, device(1), resource(1), CALM), denied);
    let found = r#"{"file:/a<b": {"found":"absent"}, "package:openssl": {"found":"version","version":"3.0.11-1"}}"#;
    world.posture().checks = serde_json::from_str(found).unwrap();
    assert!(matches!(decide(&world, device(1), resource(1), CALM), Decision::Allowed { .. }));
}

#[test]
fn a_condition_that_fails_when_it_is_asked_fails_closed_both_ways() {
    let failing = one(
        "permit (principal, action, resource) when { context.time.hour + 9223372036854775807 - context.auth.strength > 0 \
         && 9223372036854775807 * (context.time.hour + 2) > 0 };",
    );
    let condition = failing.condition;
    assert_eq!(decided([Policy { condition: condition.clone(), ..allowing(1) }]), Some(DenyReason::ConditionNotMet));
    assert_eq!(decided([allowing(1), Policy { condition, ..denying(2) }]), Some(DenyReason::Forbidden));
    // And one that is just not met denies nothing.
    let unmet = one("permit (principal, action, resource) when { context.time.hour > 30 };").condition;
    assert_eq!(decided([allowing(1), Policy { condition: unmet, ..denying(2) }]), None);
}
