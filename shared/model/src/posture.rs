//! What a device says of itself. Claims, not proofs: they can only narrow access.

use serde::{Deserialize, Serialize};

/// A device's own account of itself, sent when it enrols and when it connects.
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
}

impl Posture {
    /// The longest text kept of any field, in characters; a device can't fill the database.
    pub const MAX_FIELD: usize = 128;

    /// Cuts every field to [`Self::MAX_FIELD`] and drops control characters.
    #[must_use]
    pub fn bounded(self) -> Self {
        let bound = |text: String| text.chars().filter(|c| !c.is_control()).take(Self::MAX_FIELD).collect();
        Self {
            hostname: bound(self.hostname),
            os: bound(self.os),
            kernel: bound(self.kernel),
            version: bound(self.version),
        }
    }
}
