//! What is said of a decision: that it is the decision, and that what would help does.

use postern_model::{Condition, Decision, DenyReason, Effect, Posture, Timestamp, record::Policy};
use proptest::prelude::*;

use super::{
    circumstances::{MINUTE, START, circumstances},
    world::{
        CALM, COUNT, World, allowing, allowing_when, denying, device, policy, ports, resource, short, small_with,
        worlds,
    },
};
use crate::{
    Answer, Asks, Case, Circumstances, Explanation, Outcome,
    condition::{Expr, parse},
    decide, explain, visible,
};

fn explained(world: &World, circumstances: Circumstances) -> Explanation {
    explain(world, device(1), resource(1), circumstances)
}

/// The hint for a condition of one test that is not met.
fn hint(text: &str, posture: Posture, circumstances: Circumstances) -> String {
    let mut world = small_with([allowing_when(1, text)]);
    *world.posture() = posture;
    let explained = explained(&world, circumstances);
    let [fix] = explained.fix.as_slice() else { panic!("{text}: {explained:?}") };
    assert_eq!(fix.text, text);
    assert_ne!(fix.answer, Answer::Met);
    fix.hint.clone().unwrap()
}

#[test]
fn each_test_has_its_answer_and_a_hint() {
    let found = r#"{"package:openssl": {"found":"version","version":"3.0.2"}, "process:telnetd": {"found":"present"},
        "file:/etc/edr.conf": {"found":"absent"}, "package:vague": {"found":"present"}}"#;
    let posture = Posture {
        disk_encrypted: Some(false),
        firewall: Some(true),
        update_age_days: Some(40),
        kernel: "5.10".into(),
        os: "Debian".into(),
        checks: serde_json::from_str(found).unwrap(),
        ..Posture::default()
    };
    let at = Circumstances { source: Some("192.0.2.1".parse().unwrap()), ..CALM };
    let cases = [
        ("posture.disk_encrypted", "encrypt the disk"),
        ("!posture.firewall", "turn the firewall off"),
        ("posture.screen_lock", "the device does not say whether the screen locks by itself"),
        ("posture.update_age_days < 30", "install the security updates"),
        ("posture.kernel >= \"6.1\"", "run a kernel 6.1 or later"),
        ("!posture.kernel < \"6.1\"", "run a kernel 6.1 or later"),
        ("posture.version >= \"0.2\"", "the device does not say which version of Postern runs"),
        ("posture.os like \"Ubuntu*\"", "use a device with such an operating system"),
        ("package(\"openssl\") >= \"3.0.11\"", "install openssl 3.0.11 or later"),
        ("package(\"vague\") > \"1\"", "the device can't tell yet which version of vague it has"),
        ("!process(\"telnetd\")", "stop telnetd"),
        ("file(\"/etc/edr.conf\")", "put the file /etc/edr.conf in its place"),
        ("file(\"/etc/other\")", "the device can't tell yet whether there is file:/etc/other"),
        ("time.hour in 8..18", "comes into force at 08:00 UTC"),
        ("time.minute == 17", "comes into force at 00:17 UTC"),
        ("time.weekday in sat..=sun", "comes into force on Saturday at 00:00 UTC"),
        ("!time.hour in 0..24", "no time satisfies it"),
        ("source.ip in [\"10.0.0.0/8\", \"::1\"]", "connect from 10.0.0.0/8 or ::1"),
        ("!source.ip in \"192.0.2.0/24\"", "connect from elsewhere than 192.0.2.0/24"),
        ("auth.strength >= 2", "a proof of identity of another strength is asked for"),
        ("auth.age_hours > 3", "it depends on how long ago the device was enrolled"),
    ];
    for (text, expected) in cases {
        assert_eq!(hint(text, posture.clone(), at), expected, "{text}");
    }
    let late = CALM.at(Timestamp::from_unix_millis(START.unix_millis() + 13 * 60 * MINUTE));
    assert_eq!(hint("auth.age_hours < 12", posture.clone(), late), "enrol the device again: it was too long ago");
    let nowhere = "it is not known from where the device connects";
    assert_eq!(hint("source.ip in \"10.0.0.0/8\"", posture.clone(), CALM), nowhere);
    for text in ["posture.firewall", "process(\"telnetd\")", "posture.kernel > \"1\""] {
        let old = Circumstances { posture_until: Some(START), ..at };
        let expected = "the posture is too old, or was never sent: is the device connected?";
        assert_eq!(hint(text, posture.clone(), old), expected, "{text}");
    }
}

#[test]
fn the_fix_is_the_shortest_and_doing_it_helps() {
    let long = "posture.disk_encrypted && posture.firewall && package(\"edr\")";
    let short = "time.hour < 12 && (posture.disk_encrypted && posture.firewall || posture.screen_lock)";
    let mut world = small_with([
        allowing_when(1, long),
        allowing_when(2, short),
        Policy { ports: Some(ports("tcp/22")), ..allowing_when(3, "posture.firewall") },
        Policy { shadow: true, ..allowing(4) },
        Policy { until: Some(START), ..allowing(5) },
    ]);
    *world.posture() = Posture { disk_encrypted: Some(false), screen_lock: Some(false), ..Posture::default() };
    let before = explained(&world, CALM);
    assert_eq!(before.decision, Decision::Denied { reason: DenyReason::ConditionNotMet });
    let fix: Vec<_> = before.fix.iter().map(|fix| (fix.text.as_str(), fix.hint.as_deref().unwrap())).collect();
    assert_eq!(fix, [("posture.screen_lock", "let the screen lock by itself")]);
    let states: Vec<_> = before.policies.iter().map(|it| (it.id, it.is_current, it.is_shadow, &it.outcome)).collect();
    let expected = [
        (policy(1), true, false, &Outcome::NotMet),
        (policy(2), true, false, &Outcome::NotMet),
        (policy(3), true, false, &Outcome::NotMet),
        (policy(4), true, true, &Outcome::Met),
        (policy(5), false, false, &Outcome::Met),
    ];
    assert_eq!(states, expected);
    world.posture().screen_lock = Some(true);
    let after = explained(&world, CALM);
    assert_eq!(after.decision, Decision::Allowed { filter: ports("tcp/443"), policy: policy(2) });
    assert!(after.fix.is_empty());
}

#[test]
fn what_helps_against_a_denial_is_the_opposite() {
    let denial = |text: &str| Policy { condition: Some(short(text)), ..denying(2) };
    let mut world = small_with([allowing(1), denial("!posture.disk_encrypted && time.hour < 20")]);
    world.posture().disk_encrypted = Some(false);
    let before = explained(&world, CALM);
    assert_eq!(before.decision, Decision::Denied { reason: DenyReason::Forbidden });
    let fix: Vec<_> = before.fix.iter().map(|fix| (fix.text.as_str(), fix.hint.as_deref().unwrap())).collect();
    assert_eq!(fix, [("!posture.disk_encrypted", "encrypt the disk")]);
    let told = before.for_device();
    let ways: Vec<Vec<_>> = told.ways.iter().map(|way| way.iter().map(|it| it.text.as_str()).collect()).collect();
    assert_eq!(ways, [["posture.disk_encrypted"]], "what is wanted, and not what denies");
    world.posture().disk_encrypted = Some(true);
    assert!(matches!(explained(&world, CALM).decision, Decision::Allowed { .. }));
    world.add_policy(denying(3));
    assert!(explained(&world, CALM).fix.is_empty(), "nothing helps against that one");
    assert!(explained(&world, CALM).for_device().ways.is_empty());
}

#[test]
fn experts_clauses_are_shown_to_admins_only() {
    let clauses = |body: &str| format!(r#"[{{"kind":"when","body":{body}}}]"#);
    let cedar = |source: &str, body: &str| Condition::Cedar { source: source.to_owned(), clauses: clauses(body) };
    let never = cedar("permit (...) when { principal in Group::\"board\" };", r#"{"Value":false}"#);
    let failing = cedar(
        "overflow",
        r#"{"<":{"left":{"*":{"left":{"Value":9223372036854775807},"right":{"+":{"left":{"Value":2},"right":{".":{"left":{".":{"left":{"Var":"context"},"attr":"time"}},"attr":"hour"}}}}}},"right":{"Value":0}}}"#,
    );
    let world = small_with([
        Policy { condition: Some(never), ..allowing(1) },
        Policy { condition: Some(failing), ..allowing(2) },
        Policy { condition: Some(short("posture.unheard_of")), ..allowing(3) },
        allowing_when(4, "posture.firewall"),
    ]);
    let explained = explained(&world, CALM);
    let [never, failing, broken, _] = explained.policies.as_slice() else { panic!("{explained:?}") };
    assert_eq!(never.outcome, Outcome::NotMet);
    assert_eq!(never.asks, Asks::Clauses("permit (...) when { principal in Group::\"board\" };".into()));
    assert!(matches!(&failing.outcome, Outcome::Fault(fault) if fault.contains("overflow")), "{failing:?}");
    assert!(matches!(&broken.outcome, Outcome::Fault(fault) if fault.contains("posture.unheard_of")), "{broken:?}");
    let told = explained.for_device();
    assert!(told.has_untold);
    assert_eq!(told.ways.len(), 1);
    assert!(!format!("{told:?}").contains("board"));
}

#[test]
fn users_are_told_of_themselves_and_of_nothing_else() {
    let denial = Policy { condition: Some(short("posture.os like \"*\"")), ..denying(9) };
    let mut world = small_with([allowing_when(1, "posture.firewall && posture.screen_lock"), allowing(2), denial]);
    world.posture().os = "any".into();
    world.posture().firewall = Some(true);
    let told = explained(&world, CALM).for_device();
    assert_eq!(told.decision, Err(DenyReason::Forbidden));
    let ways: Vec<Vec<_>> = told.ways.iter().map(|way| way.iter().map(|it| it.text.as_str()).collect()).collect();
    assert_eq!(ways, [["!(posture.os like \"*\")"]], "as long as that denies, nothing else helps");
    let shown = format!("{told:?}");
    assert!(!shown.contains("screen_lock") && !shown.contains(&policy(9).to_string()), "{shown}");
    assert!(!shown.contains(&policy(1).to_string()), "{shown}");

    // What may not be known of is as if it were not there.
    world.add_policy(denying(3));
    let hidden = explained(&world, CALM).for_device();
    let missing = explain(&world, device(1), resource(2), CALM).for_device();
    assert_eq!(hidden, missing);
    assert_eq!(hidden.decision, Err(DenyReason::UnknownResource));
    assert!(hidden.ways.is_empty() && !hidden.has_untold);
    world.devices.get_mut(&device(1)).unwrap().revoked = true;
    assert_eq!(explained(&world, CALM).for_device().decision, Err(DenyReason::DeviceRevoked));
}

/// Whether it is met when these tests are as well.
fn with_met(expr: &Expr, is_met: &impl Fn(&str) -> bool) -> bool {
    match expr {
        Expr::All(parts) => parts.iter().all(|part| with_met(part, is_met)),
        Expr::Any(parts) => parts.iter().any(|part| with_met(part, is_met)),
        Expr::Test(test) => is_met(&format!("{}{}", if test.negated { "!" } else { "" }, test.text)),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 48, ..ProptestConfig::default() })]

    /// Invariant: an explanation is of the decision that is made, and its tests make the outcome that counts.
    #[test]
    fn what_is_explained_is_what_is_decided(world in worlds(), circumstances in circumstances()) {
        for from in (0..COUNT).map(device) {
            let visible = visible(&world, from);
            for to in (0..COUNT).map(resource) {
                let decision = decide(&world, from, to, circumstances);
                let explained = explain(&world, from, to, circumstances);
                prop_assert_eq!(&explained.decision, &decision);
                let Ok(case) = Case::new(&world, from, to) else { continue };
                prop_assert_eq!(explained.policies.len(), case.slice.len());
                for (it, compiled) in explained.policies.iter().zip(&case.slice) {
                    let Some(Condition::Short { text }) = &compiled.policy().condition else { continue };
                    let Asks::Tests(tests) = &it.asks else { panic!("{text} is the short form") };
                    let expr = parse(text).unwrap();
                    let met = |text: &str| tests.iter().any(|test| test.text == text && test.answer == Answer::Met);
                    prop_assert_eq!(with_met(&expr, &met), it.outcome == Outcome::Met, "{}", text);
                    // What it lacks makes it allow, or makes it not deny.
                    let allows = it.effect == Effect::Allow;
                    let is_lacking = |text: &str| it.lacks.iter().any(|test| test.text == text);
                    let changed = |text: &str| if allows { met(text) || is_lacking(text) } else { met(text) && !is_lacking(text) };
                    prop_assert_eq!(with_met(&expr, &changed), allows);
                    prop_assert_eq!(it.lacks.is_empty(), allows == (it.outcome == Outcome::Met));
                    prop_assert!(tests.iter().all(|test| test.hint.is_some() == (allows != (test.answer == Answer::Met))));
                }
                let told = explained.for_device();
                match &decision {
                    Decision::Allowed { filter, .. } => prop_assert_eq!(told.decision, Ok(filter.clone())),
                    Decision::Denied { .. } if !visible.contains(&to) => {
                        prop_assert_eq!(told.decision, Err(DenyReason::UnknownResource));
                        prop_assert!(told.ways.is_empty() && !told.has_untold);
                    }
                    Decision::Denied { reason } => {
                        prop_assert_eq!(told.decision, Err(*reason));
                        // All conditions are of the short form: whatever is missing is told.
                        prop_assert!(*reason != DenyReason::ConditionNotMet || !told.ways.is_empty());
                        prop_assert!(*reason != DenyReason::ConditionNotMet || explained.fix.is_empty() || told.ways.contains(&explained.fix));
                    }
                }
            }
        }
    }
}
