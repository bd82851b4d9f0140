//! Postures and moments at random, out of few enough values that conditions are often met and often not.

use std::net::IpAddr;

use postern_model::{Check, Found, Posture, Timestamp};
use proptest::prelude::*;

use crate::Circumstances;

/// Milliseconds.
pub(crate) const MINUTE: i64 = 60_000;

/// Monday, 2 November 2026, 00:00 UTC.
pub(crate) const START: Timestamp = Timestamp::from_unix_millis(1_793_577_600_000);

pub(crate) const CHECKS: [&str; 4] = ["file:/etc/edr=on.conf", "process:edr", "package:openssl", "package:telnetd"];
pub(crate) const VERSIONS: [&str; 5] = ["3.0.2", "3.0.11", "3.1", "6.1.0", "10.0"];
pub(crate) const SYSTEMS: [&str; 3] = ["Debian GNU/Linux 12 (bookworm)", "Ubuntu 24.04 LTS", "Debian \"sid\" \\ *"];

fn texts(of: &'static [&'static str]) -> impl Strategy<Value = String> {
    prop::option::weighted(0.8, prop::sample::select(of)).prop_map(|text| text.unwrap_or_default().to_owned())
}

fn flags() -> impl Strategy<Value = Option<bool>> {
    prop::option::weighted(0.8, any::<bool>())
}

fn found() -> impl Strategy<Value = Option<Found>> {
    prop_oneof![
        1 => Just(None),
        1 => Just(Some(Found::Absent)),
        1 => Just(Some(Found::Present)),
        1 => Just(Some(Found::Unknown)),
        3 => prop::sample::select(&VERSIONS[..]).prop_map(|version| Some(Found::Version(version.to_owned()))),
    ]
}

pub(crate) fn postures() -> impl Strategy<Value = Posture> {
    let checks = prop::collection::vec(found(), CHECKS.len());
    let flags = (flags(), flags(), flags());
    (texts(&SYSTEMS), texts(&VERSIONS), texts(&VERSIONS), flags, prop::option::weighted(0.8, 0u32..8), checks).prop_map(
        |(os, kernel, version, (disk_encrypted, firewall, screen_lock), update_age_days, checks)| Posture {
            hostname: String::new(),
            os,
            kernel,
            version,
            disk_encrypted,
            firewall,
            screen_lock,
            update_age_days,
            checks: CHECKS
                .into_iter()
                .zip(checks)
                .filter_map(|(check, found)| Some((check.parse::<Check>().unwrap(), found?)))
                .collect(),
        },
    )
}

/// On the minute, up to three days before the start.
pub(crate) fn enrolments() -> impl Strategy<Value = Timestamp> {
    (0..3 * 24 * 60i64).prop_map(|n| Timestamp::from_unix_millis(START.unix_millis() - n * MINUTE))
}

/// Some minute of eight days.
pub(crate) fn moments() -> impl Strategy<Value = Timestamp> {
    (0..8 * 24 * 60i64).prop_map(|n| Timestamp::from_unix_millis(START.unix_millis() + n * MINUTE))
}

pub(crate) fn circumstances() -> impl Strategy<Value = Circumstances> {
    let posture = prop::option::weighted(0.9, -100i64..2000);
    let sources = ["10.1.2.3", "192.0.2.7", "2001:db8::7", "::ffff:10.1.2.3", "fe80::1"];
    let source = prop::option::weighted(0.9, prop::sample::select(sources.to_vec()));
    (moments(), posture, source.prop_map(|source| source.map(|source| source.parse::<IpAddr>().unwrap()))).prop_map(
        |(now, posture, source)| Circumstances {
            now,
            posture_until: posture.map(|n| Timestamp::from_unix_millis(now.unix_millis() + n * MINUTE)),
            source,
        },
    )
}
