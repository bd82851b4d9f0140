//! What would help where a test is not met. Hints speak of the device and the time, and name nobody.

use postern_model::{Check, Timestamp};
use time::OffsetDateTime;

use crate::{
    asking::{Asking, DAY, HOUR, MINUTE},
    condition::{Atom, Attribute, Comparison, Test, Versioned, What},
    explain::{Answer, answer},
};

/// What would help, for a test whose answer this is.
pub(crate) fn hint(asking: &Asking<'_>, test: &Test, answer: Answer) -> String {
    // Atoms are, all of them.
    let is_of_posture = test.what.attribute().map_or(true, |attribute| attribute.record == "posture");
    if is_of_posture && asking.posture().is_none() {
        return "the posture is too old, or was never sent: is the device connected?".to_owned();
    }
    match (&test.what, answer) {
        (what, Answer::Unknown) => unknown(what),
        (What::Atom(atom), _) => of_atom(atom, test.negated),
        (What::Network(_, networks), _) => {
            let from = if test.negated { "from elsewhere than" } else { "from" };
            format!("connect {from} {}", networks.join(" or "))
        }
        (What::Flag(attribute), _) => of_flag(attribute, !test.negated).to_owned(),
        (What::Text(..) | What::Like(..), _) => {
            format!("use a device with {} operating system", if test.negated { "another" } else { "such an" })
        }
        (What::Number(attribute, ..) | What::Range(attribute, ..) | What::OneOf(attribute, _), _) => {
            of_number(asking, attribute, test)
        }
    }
}

fn unknown(what: &What) -> String {
    match what {
        What::Atom(Atom::Version(what, ..)) => {
            let what = match what {
                Versioned::Kernel => "the kernel",
                Versioned::Postern => "Postern",
                Versioned::Package(name) => return format!("the device can't tell yet which version of {name} it has"),
            };
            format!("the device does not say which version of {what} runs")
        }
        What::Atom(Atom::Check(check)) => format!("the device can't tell yet whether there is {check}"),
        What::Network(..) => "it is not known from where the device connects".to_owned(),
        other => format!("the device does not say {}", other.attribute().map_or("it", |attribute| attribute.about)),
    }
}

fn of_flag(attribute: &Attribute, is_wanted: bool) -> &'static str {
    match (attribute.field, is_wanted) {
        ("disk_encrypted", true) => "encrypt the disk",
        ("disk_encrypted", false) => "use a device whose disk is not encrypted",
        ("firewall", true) => "turn the firewall on",
        ("firewall", false) => "turn the firewall off",
        ("screen_lock", true) => "let the screen lock by itself",
        _ => "don't let the screen lock by itself",
    }
}

fn of_atom(atom: &Atom, is_negated: bool) -> String {
    match atom {
        Atom::Check(check) => match (check, is_negated) {
            (Check::File(path), false) => format!("put the file {path} in its place"),
            (Check::File(path), true) => format!("remove the file {path}"),
            (Check::Process(name), false) => format!("start {name}"),
            (Check::Process(name), true) => format!("stop {name}"),
            (Check::Package(name), false) => format!("install {name}"),
            (Check::Package(name), true) => format!("remove {name}"),
        },
        Atom::Version(what, comparison, version) => {
            use Comparison::{AtLeast, AtMost, Equal, Less, More, NotEqual};
            let which = match (comparison, is_negated) {
                (AtLeast, false) | (Less, true) => format!("{version} or later"),
                (More, false) | (AtMost, true) => format!("later than {version}"),
                (AtMost, false) | (More, true) => format!("{version} or earlier"),
                (Less, false) | (AtLeast, true) => format!("earlier than {version}"),
                (Equal, false) | (NotEqual, true) => format!("{version} exactly"),
                (NotEqual, false) | (Equal, true) => format!("other than {version}"),
            };
            match what {
                Versioned::Kernel => format!("run a kernel {which}"),
                Versioned::Postern => format!("install Postern {which}"),
                Versioned::Package(name) => format!("install {name} {which}"),
            }
        }
    }
}

fn of_number(asking: &Asking<'_>, attribute: &Attribute, test: &Test) -> String {
    let is_less_wanted = would_hold(test, 0);
    match (attribute.record, attribute.field) {
        ("time", field) => match (next(asking, field, test), field) {
            (Some(at), "weekday") => format!("comes into force on {} at 00:00 UTC", at.weekday()),
            (Some(at), _) => format!("comes into force at {:02}:{:02} UTC", at.hour(), at.minute()),
            (None, _) => "no time satisfies it".to_owned(),
        },
        ("posture", _) if is_less_wanted => "install the security updates".to_owned(),
        ("auth", "age_hours") if is_less_wanted => "enrol the device again: it was too long ago".to_owned(),
        ("auth", "age_hours") => "it depends on how long ago the device was enrolled".to_owned(),
        ("auth", _) => "a proof of identity of another strength is asked for".to_owned(),
        _ => format!("it depends on {}", attribute.about),
    }
}

/// Whether it would be met by this number.
fn would_hold(test: &Test, value: i64) -> bool {
    let holds = match &test.what {
        What::Number(_, comparison, number) => comparison.holds(value.cmp(number)),
        What::Range(_, from, to) if from < to => (*from..*to).contains(&value),
        What::Range(_, from, to) => value >= *from || value < *to,
        What::OneOf(_, numbers) => numbers.contains(&value),
        _ => return false,
    };
    holds != test.negated
}

/// When a test of the time will next be met, if it will: each field comes around.
fn next(asking: &Asking<'_>, field: &str, test: &Test) -> Option<OffsetDateTime> {
    let (step, count) = match field {
        "minute" => (MINUTE, 60),
        "hour" => (HOUR, 24),
        _ => (DAY, 7),
    };
    let first = asking.circumstances.now.unix_millis().div_euclid(step);
    let at = (1..=count).map(|n| Timestamp::from_unix_millis((first + n).saturating_mul(step)));
    let is_met = |at: &Timestamp| {
        let later = asking.at(*at);
        later.request(&[]).is_ok_and(|request| answer(&request, test) == Answer::Met)
    };
    let at = at.into_iter().find(is_met)?;
    OffsetDateTime::from_unix_timestamp(at.unix_millis() / 1000).ok()
}
