//! What a device says of itself. Claims, not proofs: they can only narrow access.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{Check, Found, check::MAX_CHECKS};

/// A device's own account of itself, sent when it enrols, when it connects, when it changes, and every few minutes. What it
/// does not know is `None`, and satisfies no condition.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Posture {
    /// The machine's host name, shown to admins.
    #[serde(default)]
    pub hostname: String,
    /// The operating system, such as `Debian GNU/Linux 12 (bookworm)`.
    #[serde(default)]
    pub os: String,
    /// The kernel's release.
    #[serde(default)]
    pub kernel: String,
    /// The version of Postern that runs.
    #[serde(default)]
    pub version: String,
    /// Whether the root file system lies on an encrypted disk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk_encrypted: Option<bool>,
    /// Whether a firewall keeps out what nobody asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub firewall: Option<bool>,
    /// Whether the screen locks by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub screen_lock: Option<bool>,
    /// Days since the system was last brought up to date.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub update_age_days: Option<u32>,
    /// What the checks that policies name have shown.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub checks: BTreeMap<Check, Found>,
}

impl Posture {
    /// The longest text kept of any field, in characters; a device can't fill the database.
    pub const MAX_FIELD: usize = 128;

    /// Cuts every field to [`Self::MAX_FIELD`], drops control characters, and keeps as many checks as may be asked for.
    #[must_use]
    pub fn bounded(self) -> Self {
        let bound =
            |text: String| -> String { text.chars().filter(|c| !c.is_control()).take(Self::MAX_FIELD).collect() };
        let checks = self.checks.into_iter().take(MAX_CHECKS).map(|(check, found)| match found {
            Found::Version(version) => (check, Found::Version(bound(version))),
            found => (check, found),
        });
        Self {
            hostname: bound(self.hostname),
            os: bound(self.os),
            kernel: bound(self.kernel),
            version: bound(self.version),
            checks: checks.collect(),
            ..self
        }
    }
}
