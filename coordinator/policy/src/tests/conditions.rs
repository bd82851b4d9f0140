//! Conditions of the short form at random, and what they mean: an interpreter, written directly from the rules, that knows
//! neither the parser nor Cedar.

use std::{fmt, net::IpAddr};

use postern_model::{Check, Found, Posture, Timestamp, record::Device};
use proptest::prelude::*;

use super::circumstances::{CHECKS, MINUTE, SYSTEMS, VERSIONS};
use crate::Circumstances;

/// A condition, with its negations where they were written.
#[derive(Debug, Clone)]
pub(crate) enum Tree {
    All(Vec<Tree>),
    Any(Vec<Tree>),
    Not(Box<Tree>),
    Test(Leaf),
}

#[derive(Debug, Clone)]
pub(crate) enum Leaf {
    Flag(&'static str),
    Number(&'static str, &'static str, i64),
    /// As many values from the first on, written with the last one or with the one after it.
    Range(&'static str, i64, i64, bool),
    OneOf(&'static str, Vec<i64>),
    Os(Vec<&'static str>),
    OsLike(&'static str),
    Networks(Vec<&'static str>),
    Version(&'static str, &'static str, &'static str),
    Check(&'static str),
}

const WEEKDAYS: [&str; 7] = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];
const COMPARISONS: [&str; 6] = ["==", "!=", "<", "<=", ">", ">="];

/// The first value, and how many there are where they are a cycle.
fn cycle(attribute: &str) -> (i64, Option<i64>) {
    match attribute {
        "time.hour" => (0, Some(24)),
        "time.minute" => (0, Some(60)),
        "time.weekday" => (1, Some(7)),
        _ => (0, None),
    }
}

fn number(attribute: &str, number: i64) -> String {
    match attribute {
        "time.weekday" => WEEKDAYS[usize::try_from(number - 1).unwrap()].to_owned(),
        _ => number.to_string(),
    }
}

fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

fn list(texts: impl IntoIterator<Item = String>) -> String {
    format!("[{}]", texts.into_iter().collect::<Vec<_>>().join(", "))
}

impl fmt::Display for Tree {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let part = |tree: &Self| match tree {
            Self::Test(_) | Self::Not(_) => tree.to_string(),
            _ => format!("({tree})"),
        };
        let joined = |trees: &[Self], with| trees.iter().map(part).collect::<Vec<_>>().join(with);
        match self {
            Self::All(trees) => f.write_str(&joined(trees, " && ")),
            Self::Any(trees) => f.write_str(&joined(trees, " || ")),
            Self::Not(tree) => write!(f, "!{}", part(tree)),
            Self::Test(leaf) => leaf.fmt(f),
        }
    }
}

impl fmt::Display for Leaf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag(attribute) => f.write_str(attribute),
            Self::Number(attribute, comparison, value) => {
                write!(f, "{attribute} {comparison} {}", number(attribute, *value))
            }
            Self::Range(attribute, from, length, is_closed) => {
                let (first, period) = cycle(attribute);
                let mut after = from + length;
                if let Some(period) = period
                    && after > first + period
                {
                    after -= period;
                }
                // There is no day after Sunday.
                let has_after = *attribute != "time.weekday" || after != 8;
                let (symbol, to) = if *is_closed || !has_after { ("..=", after - 1) } else { ("..", after) };
                write!(f, "{attribute} in {}{symbol}{}", number(attribute, *from), number(attribute, to))
            }
            Self::OneOf(attribute, values) => {
                write!(f, "{attribute} in {}", list(values.iter().map(|value| number(attribute, *value))))
            }
            Self::Os(texts) => match texts.as_slice() {
                [text] => write!(f, "posture.os == {}", quoted(text)),
                texts => write!(f, "posture.os in {}", list(texts.iter().map(|text| quoted(text)))),
            },
            Self::OsLike(pattern) => write!(f, "posture.os like {}", quoted(pattern)),
            Self::Networks(networks) => match networks.as_slice() {
                [network] => write!(f, "source.ip in {}", quoted(network)),
                networks => write!(f, "source.ip in {}", list(networks.iter().map(|network| quoted(network)))),
            },
            Self::Version(what, comparison, version) => match what.strip_prefix("package:") {
                Some(name) => write!(f, "package({}) {comparison} {}", quoted(name), quoted(version)),
                None => write!(f, "posture.{what} {comparison} {}", quoted(version)),
            },
            Self::Check(check) => {
                let (kind, name) = check.split_once(':').unwrap();
                write!(f, "{kind}({})", quoted(name))
            }
        }
    }
}

/// What is known when a condition is asked.
#[derive(Clone, Copy)]
pub(crate) struct Known<'a> {
    posture: Option<&'a Posture>,
    enrolled_at: Timestamp,
    circumstances: Circumstances,
}

impl<'a> Known<'a> {
    pub(crate) fn new(device: &'a Device, circumstances: Circumstances) -> Self {
        let is_fresh = circumstances.posture_until.is_some_and(|until| circumstances.now < until);
        Self { posture: is_fresh.then_some(&device.posture), enrolled_at: device.enrolled_at, circumstances }
    }

    fn number(&self, attribute: &str) -> Option<i64> {
        let minutes = self.circumstances.now.unix_millis() / MINUTE;
        match attribute {
            "time.minute" => Some(minutes % 60),
            "time.hour" => Some(minutes / 60 % 24),
            // The epoch was a Thursday.
            "time.weekday" => Some((minutes / (24 * 60) + 3) % 7 + 1),
            "auth.age_hours" => {
                Some((self.circumstances.now.unix_millis() - self.enrolled_at.unix_millis()) / (60 * MINUTE))
            }
            "auth.strength" => Some(1),
            "posture.update_age_days" => self.posture?.update_age_days.map(i64::from),
            other => panic!("{other}"),
        }
    }

    fn text(text: &str) -> Option<&str> {
        if text.is_empty() { None } else { Some(text) }
    }
}

fn compared<T: Ord>(a: &T, comparison: &str, b: &T) -> bool {
    match comparison {
        "==" => a == b,
        "!=" => a != b,
        "<" => a < b,
        "<=" => a <= b,
        ">" => a > b,
        ">=" => a >= b,
        other => panic!("{other}"),
    }
}

impl Tree {
    /// Met, not met, or unknown: Kleene's logic.
    pub(crate) fn ask(&self, known: Known<'_>) -> Option<bool> {
        match self {
            Self::Not(tree) => tree.ask(known).map(|is_met| !is_met),
            Self::Test(leaf) => leaf.ask(known),
            Self::All(trees) => {
                let answers: Vec<_> = trees.iter().map(|tree| tree.ask(known)).collect();
                let is_known = !answers.contains(&None);
                if answers.contains(&Some(false)) { Some(false) } else { is_known.then_some(true) }
            }
            Self::Any(trees) => {
                let answers: Vec<_> = trees.iter().map(|tree| tree.ask(known)).collect();
                let is_known = !answers.contains(&None);
                if answers.contains(&Some(true)) { Some(true) } else { is_known.then_some(false) }
            }
        }
    }
}

impl Leaf {
    pub(crate) fn ask(&self, known: Known<'_>) -> Option<bool> {
        match self {
            Self::Flag(attribute) => match *attribute {
                "posture.disk_encrypted" => known.posture?.disk_encrypted,
                "posture.firewall" => known.posture?.firewall,
                "posture.screen_lock" => known.posture?.screen_lock,
                other => panic!("{other}"),
            },
            Self::Number(attribute, comparison, value) => Some(compared(&known.number(attribute)?, comparison, value)),
            Self::Range(attribute, from, length, _) => {
                let value = known.number(attribute)?;
                Some(match cycle(attribute).1 {
                    Some(period) => (value - from).rem_euclid(period) < *length,
                    None => (*from..from + length).contains(&value),
                })
            }
            Self::OneOf(attribute, values) => Some(values.contains(&known.number(attribute)?)),
            Self::Os(texts) => Some(texts.contains(&Known::text(&known.posture?.os)?)),
            Self::OsLike(pattern) => {
                let os = Known::text(&known.posture?.os)?;
                let middle = pattern.trim_matches('*');
                Some(if pattern.starts_with('*') { os.contains(middle) } else { os.starts_with(middle) })
            }
            Self::Networks(networks) => {
                let ip = known.circumstances.source?;
                Some(networks.iter().any(|network| is_in_network(ip, network)))
            }
            Self::Version(what, comparison, asked) => {
                let posture = known.posture?;
                let found = match *what {
                    "kernel" => Known::text(&posture.kernel)?,
                    "version" => Known::text(&posture.version)?,
                    package => match posture.checks.get(&package.parse::<Check>().unwrap())? {
                        Found::Version(version) => version,
                        Found::Absent => return Some(false),
                        Found::Present | Found::Unknown => return None,
                    },
                };
                // Plain numbers with dots, for which longer is later.
                let numbers = |text: &str| text.split('.').map(|part| part.parse().unwrap()).collect::<Vec<u32>>();
                Some(compared(&numbers(found), comparison, &numbers(asked)))
            }
            Self::Check(check) => match known.posture?.checks.get(&check.parse::<Check>().unwrap())? {
                Found::Absent => Some(false),
                Found::Present | Found::Version(_) => Some(true),
                Found::Unknown => None,
            },
        }
    }
}

fn is_in_network(ip: IpAddr, network: &str) -> bool {
    let (address, prefix) = network.split_once('/').unwrap_or((network, ""));
    let bits = |ip: IpAddr| match ip.to_canonical() {
        IpAddr::V4(ip) => (4, u128::from(u32::from(ip)) << 96),
        IpAddr::V6(ip) => (6, u128::from(ip)),
    };
    let ((family, ip), (network_family, network)) = (bits(ip), bits(address.parse().unwrap()));
    let prefix: u32 = prefix.parse().unwrap_or(128);
    let mask = if prefix == 0 { 0 } else { u128::MAX << (128 - prefix.min(128)) };
    family == network_family && ip & mask == network & mask
}

fn comparisons() -> impl Strategy<Value = &'static str> {
    prop::sample::select(&COMPARISONS[..])
}

pub(crate) fn leaves() -> impl Strategy<Value = Leaf> {
    let flags = prop::sample::select(&["posture.disk_encrypted", "posture.firewall", "posture.screen_lock"][..]);
    // The attribute, and what its values are asked about.
    let counted = || {
        prop_oneof![
            (Just("time.hour"), 0..24i64),
            (Just("time.minute"), 0..60i64),
            (Just("time.weekday"), 1..8i64),
            (Just("auth.age_hours"), 0..100i64),
            (Just("auth.strength"), 0..3i64),
            (Just("posture.update_age_days"), 0..8i64),
        ]
    };
    let ranges = (counted(), 1..60i64, any::<bool>()).prop_map(|((attribute, from), length, is_closed)| {
        let length = cycle(attribute).1.map_or(length, |period| (length - 1) % (period - 1) + 1);
        // There are not so many strengths.
        let length = if attribute == "auth.strength" { length.min(6) } else { length };
        Leaf::Range(attribute, from, length, is_closed)
    });
    let one_of = (counted(), 1..4i64).prop_map(|((attribute, from), count)| {
        let (first, period) = cycle(attribute);
        let values = (0..count).map(|n| first + (from - first + 2 * n) % period.unwrap_or(i64::MAX));
        Leaf::OneOf(attribute, values.collect())
    });
    let networks = ["10.0.0.0/8", "10.1.2.3", "192.0.2.0/25", "2001:db8::/32", "::/0", "0.0.0.0/0", "fe80::1"];
    let versioned = ["kernel", "version", "package:openssl", "package:telnetd"];
    prop_oneof![
        flags.prop_map(Leaf::Flag),
        (counted(), comparisons())
            .prop_map(|((attribute, value), comparison)| Leaf::Number(attribute, comparison, value)),
        ranges,
        one_of,
        prop::collection::vec(prop::sample::select(&SYSTEMS[..]), 1..3).prop_map(Leaf::Os),
        prop::sample::select(&["Debian*", "*12*", "*\"sid\" \\*", "Ubuntu*"][..]).prop_map(Leaf::OsLike),
        prop::collection::vec(prop::sample::select(networks.to_vec()), 1..4).prop_map(Leaf::Networks),
        (prop::sample::select(versioned.to_vec()), comparisons(), prop::sample::select(&VERSIONS[..]))
            .prop_map(|(what, comparison, version)| Leaf::Version(what, comparison, version)),
        prop::sample::select(&CHECKS[..]).prop_map(Leaf::Check),
    ]
}

pub(crate) fn trees() -> impl Strategy<Value = Tree> {
    leaves().prop_map(Tree::Test).prop_recursive(4, 10, 3, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 2..4).prop_map(Tree::All),
            prop::collection::vec(inner.clone(), 2..4).prop_map(Tree::Any),
            inner.prop_map(|tree| Tree::Not(Box::new(tree))),
        ]
    })
}
