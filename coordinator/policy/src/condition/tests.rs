//! The short form: what is read and what is refused, and that Cedar makes of it what it means.

use cedar_policy::{PolicyId, PolicySet, ValidationMode, Validator};
use postern_model::{Decision, DenyReason, Posture, Timestamp};
use proptest::prelude::*;

use super::{Atom, Expr, expression, parse};
use crate::{
    Circumstances, CompiledPolicy, check_condition, decide,
    expert::schema,
    tests::{
        circumstances::{MINUTE, START, circumstances, enrolments, postures},
        conditions::{Known, trees},
        world::{CALM, allowing_when, device, resource, small_with},
    },
};

/// Whether it is met.
fn is_met(text: &str, posture: &Posture, circumstances: Circumstances) -> bool {
    check_condition(text).unwrap_or_else(|error| panic!("{text}: {error}"));
    let mut world = small_with([allowing_when(1, text)]);
    *world.posture() = posture.clone();
    match decide(&world, device(1), resource(1), circumstances) {
        Decision::Allowed { .. } => true,
        Decision::Denied { reason } => {
            assert_eq!(reason, DenyReason::ConditionNotMet);
            false
        }
    }
}

/// The days (from Monday, as 1) and hours in which it is met.
fn hours(text: &str) -> Vec<(i64, i64)> {
    let all = (0..7 * 24).map(|n| (n / 24 + 1, n % 24));
    let at = |(day, hour): (i64, i64)| {
        CALM.at(Timestamp::from_unix_millis(START.unix_millis() + ((day - 1) * 24 + hour) * 60 * MINUTE))
    };
    all.filter(|it| is_met(text, &Posture::default(), at(*it))).collect()
}

fn some_posture() -> Posture {
    let found = r#"{"file:/etc/edr.conf": {"found":"present"}, "process:telnetd": {"found":"absent"},
        "package:openssl": {"found":"version","version":"3.0.11-1~deb12u2"}, "package:vague": {"found":"present"},
        "process:odd": {"found":"from the future"}}"#;
    Posture {
        os: "Debian GNU/Linux 12 (bookworm)".into(),
        kernel: "6.1.0-28-amd64".into(),
        version: "0.2.0".into(),
        disk_encrypted: Some(true),
        firewall: Some(false),
        screen_lock: None,
        update_age_days: Some(7),
        checks: serde_json::from_str(found).unwrap(),
        ..Posture::default()
    }
}

#[test]
fn every_attribute_is_read_right() {
    let circumstances = Circumstances { source: Some("10.1.2.3".parse().unwrap()), ..CALM };
    // Each with its opposite: exactly one of them is met where it is known.
    let met = [
        "posture.disk_encrypted",
        "!posture.firewall",
        "posture.update_age_days == 7",
        "posture.update_age_days != 8",
        "posture.update_age_days < 8",
        "posture.update_age_days <= 7",
        "posture.update_age_days > 6",
        "posture.update_age_days >= 7",
        "posture.update_age_days in 0..8",
        "posture.update_age_days in [1, 7]",
        "posture.os == \"Debian GNU/Linux 12 (bookworm)\"",
        "posture.os in [\"x\", \"Debian GNU/Linux 12 (bookworm)\"]",
        "posture.os like \"Debian*\"",
        "posture.kernel >= \"6.1\"",
        "posture.kernel < \"6.10\"",
        "posture.version == \"0.2.0\"",
        "posture.version != \"0.10\"",
        "time.hour == 0",
        "time.minute <= 0",
        "time.weekday == mon",
        "time.weekday in [mon, sun]",
        "time.weekday < tue",
        "source.ip in \"10.0.0.0/8\"",
        "source.ip in [\"2001:db8::/32\", \"10.1.2.3\"]",
        "auth.age_hours < 1",
        "auth.strength >= 1",
        "file(\"/etc/edr.conf\")",
        "!process(\"telnetd\")",
        "package(\"openssl\")",
        "package(\"openssl\") >= \"3.0.11-1~deb12u1\"",
        "package(\"vague\")",
    ];
    for text in met {
        assert!(is_met(text, &some_posture(), circumstances), "{text}");
        assert!(!is_met(&format!("!({text})"), &some_posture(), circumstances), "{text}");
    }
    let unknown = [
        "posture.screen_lock",
        "file(\"/etc/other\")",
        "process(\"odd\")",
        "package(\"vague\") > \"1\"",
        "package(\"unseen\") > \"1\"",
    ];
    for text in unknown {
        assert!(!is_met(text, &some_posture(), circumstances), "{text}");
        assert!(!is_met(&format!("!{text}"), &some_posture(), circumstances), "!{text}");
    }
    for text in met.into_iter().filter(|text| !text.contains("time.") && !text.contains("auth.")) {
        let nothing_known = Circumstances { posture_until: Some(START), source: None, ..CALM };
        assert!(!is_met(text, &some_posture(), nothing_known), "{text}, but that was long ago");
        assert!(!is_met(&format!("!({text})"), &some_posture(), nothing_known), "the opposite of {text}");
    }
}

#[test]
fn an_address_of_version_4_is_one_however_it_came() {
    let from = |source: &str| Circumstances { source: Some(source.parse().unwrap()), ..CALM };
    for source in ["10.1.2.3", "::ffff:10.1.2.3"] {
        assert!(is_met("source.ip in \"10.0.0.0/8\"", &Posture::default(), from(source)), "{source}");
    }
    for source in ["11.1.2.3", "::10.1.2.3", "::ffff:11.1.2.3", "2001:db8::1"] {
        assert!(!is_met("source.ip in \"10.0.0.0/8\"", &Posture::default(), from(source)), "{source}");
        assert!(is_met("!source.ip in \"10.0.0.0/8\"", &Posture::default(), from(source)), "{source}");
    }
}

#[test]
fn ranges_end_where_they_say() {
    let daily = |hours: &[i64]| (1..=7).flat_map(|day| hours.iter().map(move |hour| (day, *hour))).collect::<Vec<_>>();
    let whole = |days: &[i64]| days.iter().flat_map(|day| (0..24).map(move |hour| (*day, hour))).collect::<Vec<_>>();
    assert_eq!(hours("time.hour in 8..11"), daily(&[8, 9, 10]));
    assert_eq!(hours("time.hour in 8..=10"), daily(&[8, 9, 10]));
    assert_eq!(hours("time.hour in 22..2"), daily(&[0, 1, 22, 23]));
    assert_eq!(hours("time.hour in 22..=1"), daily(&[0, 1, 22, 23]));
    assert_eq!(hours("time.hour in 18..24"), daily(&[18, 19, 20, 21, 22, 23]));
    assert_eq!(hours("time.hour in 23..0"), daily(&[23]));
    assert_eq!(hours("time.hour in 0..24").len(), 7 * 24);
    assert_eq!(hours("!time.hour in 2..=23"), daily(&[0, 1]));
    assert_eq!(hours("time.weekday in mon..=fri"), whole(&[1, 2, 3, 4, 5]));
    assert_eq!(hours("time.weekday in mon..fri"), whole(&[1, 2, 3, 4]));
    assert_eq!(hours("time.weekday in sat..=sun"), whole(&[6, 7]));
    assert_eq!(hours("time.weekday in sat..mon"), whole(&[6, 7]));
    assert_eq!(hours("time.weekday in sat..=mon"), whole(&[1, 6, 7]));
    assert_eq!(hours("time.weekday == sun"), whole(&[7]));
    assert_eq!(hours("time.weekday in fri..=sat && time.hour in [3, 22]"), [(5, 3), (5, 22), (6, 3), (6, 22)]);
}

#[test]
fn and_binds_closer_than_or_and_not_closer_than_both() {
    let (yes, no) = ("auth.strength == 1", "auth.strength == 2");
    let is_met = |text: &str| is_met(text, &Posture::default(), CALM);
    assert!(is_met(&format!("{yes} || {yes} && {no}")));
    assert!(!is_met(&format!("({yes} || {yes}) && {no}")));
    assert!(is_met(&format!("{no} && {no} || {yes}")));
    assert!(is_met(&format!("!{no} && {yes}")));
    assert!(!is_met(&format!("!({no} || {yes})")));
    assert!(is_met(&format!("!({no} && {yes})")));
    assert!(is_met(&format!("!!{yes}")));
    let Ok(Expr::Any(parts)) = parse("!(posture.firewall && (time.hour < 3 || !posture.screen_lock))") else {
        panic!("it is 'no firewall, or late and the screen locks'")
    };
    let texts: Vec<_> = parts.iter().flat_map(Expr::tests).map(|test| (test.text.as_str(), test.negated)).collect();
    assert_eq!(texts, [("posture.firewall", true), ("time.hour < 3", true), ("posture.screen_lock", false)]);
}

#[test]
fn what_is_wrong_is_told_with_its_column() {
    let cases = [
        ("", 1, "the condition ends here"),
        ("posture", 1, "'posture' is not known; there are posture.disk_encrypted"),
        ("posture.disk", 1, "process(\"NAME\")"),
        ("posture.firewall &&", 20, "an attribute like"),
        ("posture.firewall posture.os", 18, "'&&', '||' or the end"),
        ("posture.firewall & time.hour < 3", 18, "'&' has no meaning"),
        ("(posture.firewall", 18, "')' is expected"),
        ("posture.firewall)", 17, "'&&', '||' or the end"),
        ("posture.firewall == true", 18, "'&&', '||' or the end"),
        ("time.hour", 10, "a comparison (==, !=, <, <=, >, >=, in) after time.hour"),
        ("time.hour < 24", 13, "a number from 0 to 23"),
        ("time.hour < -1", 13, "a number from 0 to 23"),
        ("time.hour < 99999999999999999999", 13, "too large"),
        ("time.hour in 8", 15, "'..' is expected"),
        ("time.hour in 8..8", 17, "nothing is from 8"),
        ("time.hour in 8..=7", 18, "nothing is from 8"),
        ("time.hour in 8..25", 17, "a number from 0 to 23"),
        ("time.hour in []", 15, "a number from 0 to 23"),
        ("time.hour in [1 2]", 17, "']' is expected"),
        ("posture.update_age_days in 9..3", 31, "nothing is from 9"),
        ("time.weekday == 1", 17, "mon, tue, wed"),
        ("time.weekday == someday", 17, "mon, tue, wed"),
        ("posture.os == Debian", 15, "a text in quotes"),
        ("posture.os != \"x\"", 12, "'==', 'like' or 'in' after posture.os"),
        ("posture.os == \"x", 15, "no closing"),
        ("posture.os == \"a\\n\"", 17, "after a backslash"),
        ("posture.os == \"\"", 15, "a text in quotes"),
        ("posture.kernel >= 6", 19, "a version like"),
        ("posture.kernel >= \"6 1\"", 19, "a version like"),
        ("posture.kernel like \"6*\"", 16, "with a version in quotes"),
        ("source.ip == \"10.0.0.1\"", 11, "'in \"10.0.0.0/8\"' after source.ip"),
        ("source.ip in \"10.0.0.0/33\"", 14, "an address or network"),
        ("source.ip in \"10.0.0.0/+8\"", 14, "an address or network"),
        ("source.ip in \"10.0.0.0/08\"", 14, "an address or network"),
        ("source.ip in \"::ffff:10.0.0.0/104\"", 14, "an address or network"),
        ("source.ip in \"::ffff:a00:1\"", 14, "an address or network"),
        ("source.ip in \"example.com\"", 14, "an address or network"),
        ("file(\"etc\")", 6, "file:/ABSOLUTE/PATH"),
        ("file(\"/a/../b\")", 6, "file:/ABSOLUTE/PATH"),
        ("process(\"/bin/sh\")", 9, "process:NAME"),
        ("process(sh)", 9, "a name in quotes"),
        ("file(\"/a\") > \"1\"", 12, "'&&', '||' or the end"),
        ("ä", 1, "'ä' has no meaning"),
        ("posture.os == \"ä\" ü", 19, "'ü' has no meaning"),
    ];
    for (text, column, what) in cases {
        let error = check_condition(text).expect_err(text);
        assert_eq!(error.column, column, "{text}: {error}");
        assert!(error.what.contains(what), "{text}: {error}");
    }
}

#[test]
fn length_and_nesting_are_bounded() {
    let nested = |count| format!("{}posture.firewall{}", "(".repeat(count), ")".repeat(count));
    assert!(check_condition(&nested(31)).is_ok());
    assert!(check_condition(&nested(32)).unwrap_err().what.contains("nested too deeply"));
    assert!(check_condition(&format!("{}posture.firewall", "!".repeat(4000))).is_err());
    // The longest that there can be are fit for use, on the small stack of a thread.
    let longest = |part: &str, with: &str| {
        let count = (4096 - 100) / (part.len() + with.len());
        vec![part; count].join(with)
    };
    let long = [
        longest("time.hour<25", "||").replace("25", "23"),
        longest("time.hour<23", "&&"),
        longest("!posture.firewall", "&&"),
        format!("time.hour in [{}]", longest("0", ",")),
        format!("posture.os in [{}]", longest("\"a\"", ",")),
        format!("source.ip in [{}]", longest("\"1.2.3.4\"", ",")),
        format!("source.ip in [{}]", longest("\"::\"", ",")),
    ];
    for text in long {
        assert!(text.len() <= 4096);
        check_condition(&text).unwrap_or_else(|error| panic!("{text}: {error}"));
        let mut world = small_with([allowing_when(1, &text)]);
        world.posture().firewall = Some(false);
        world.posture().os = "a".into();
        let circumstances = Circumstances { source: Some("1.2.3.4".parse().unwrap()), ..CALM };
        let circumstances = if text.contains("::") {
            Circumstances { source: Some("::".parse().unwrap()), ..CALM }
        } else {
            circumstances
        };
        let decision = decide(&world, device(1), resource(1), circumstances);
        assert!(matches!(decision, Decision::Allowed { .. }), "{text}");
    }
    assert!(check_condition(&" ".repeat(4097)).unwrap_err().what.contains("longer than"));
}

#[test]
fn no_text_can_leave_its_quotes() {
    let evil = ["\" || true || \"", "\\", "\\\" || true //", "\u{2028}", "${x}", "*", "\\u{22}"];
    for text in evil {
        let quoted = text.replace('\\', "\\\\").replace('"', "\\\"");
        let posture = |os: &str| Posture { os: os.into(), ..Posture::default() };
        let condition = format!("posture.os == \"{quoted}\"");
        assert!(is_met(&condition, &posture(text), CALM), "{condition}");
        assert!(!is_met(&condition, &posture("other"), CALM), "{condition}");
        assert!(!is_met(&condition, &Posture::default(), CALM), "{condition}");
    }
}

#[test]
fn atoms_read_back() {
    let all = [
        "file:/a=b>c",
        "process:edr",
        "package:x",
        "package:x>=1",
        "package:x!=1:2~3",
        "kernel<6.1",
        "version<=0.1",
        "version==1",
        "kernel>5",
    ];
    for text in all {
        assert_eq!(text.parse::<Atom>().unwrap().to_string(), text);
    }
    for bad in ["", "x", "kernel", "kernel>=", "process:x>1", "file:a", "cpu>1", "package:>1"] {
        assert!(bad.parse::<Atom>().is_err(), "{bad}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 512, ..ProptestConfig::default() })]

    /// Invariant: any text is a condition or an error, and what is a condition compiles.
    #[test]
    fn any_text_is_a_condition_or_an_error(
        text in prop_oneof![
            ".{0,60}",
            "([!(]{0,2}(posture.firewall|time.hour|source.ip|file|posture.os|time.weekday)( |<|>=|==|in|like|\\(|\\)|\\[|&&|\\|\\||[0-9]{1,2}|\\.\\.|\"[a-z/.\\\\]{0,5}\"|mon|sun|,){0,8}){1,4}",
        ],
    ) {
        match check_condition(&text) {
            Ok(()) => prop_assert!(CompiledPolicy::new(allowing_when(1, &text)).fault().is_none()),
            Err(error) => prop_assert!(error.column >= 1 && error.column <= text.chars().count() + 1),
        }
    }

    /// Invariant: Cedar makes of a condition what it means, and each is valid by the schema.
    #[test]
    fn cedar_answers_as_the_rules_say(
        tree in trees(),
        posture in postures(),
        enrolled_at in enrolments(),
        circumstances in circumstances(),
    ) {
        let text = tree.to_string();
        let expr = parse(&text).map_err(|error| TestCaseError::fail(format!("{text}: {error}")))?;
        let source = format!("permit(principal, action, resource) when {{ {} }};", expression(&expr));
        let policy = cedar_policy::Policy::parse(Some(PolicyId::new("it")), source.clone());
        let set = PolicySet::from_policies([policy.unwrap()]).unwrap();
        let result = Validator::new(schema().clone()).validate(&set, ValidationMode::Strict);
        prop_assert!(result.validation_passed(), "{}: {}", source, result);

        let mut world = small_with([allowing_when(1, &text)]);
        let device_1 = world.devices.get_mut(&device(1)).unwrap();
        (device_1.posture, device_1.enrolled_at) = (posture, enrolled_at);
        let expected = tree.ask(Known::new(&world.devices[&device(1)], circumstances)) == Some(true);
        let decision = decide(&world, device(1), resource(1), circumstances);
        prop_assert_eq!(matches!(decision, Decision::Allowed { .. }), expected, "{}", text);
    }
}
