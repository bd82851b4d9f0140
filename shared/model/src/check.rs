//! Custom posture checks: facts about a device that policies may ask for by name.
//!
//! A check names a thing to look at (a file, a process, a package) and nothing to run: whoever writes policies learns whether it
//! is there, and can make a device do nothing at all.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::text::serde_as_text;

/// What is looked at on a device.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Check {
    /// Whether there is a file (or folder) at this absolute path.
    File(String),
    /// Whether a process of this name runs: its command, as `/proc/PID/comm` and the program's file name have it.
    Process(String),
    /// Whether the system's package manager has a package of this name installed, and its version.
    Package(String),
}

/// The most checks that a device is asked to make.
pub const MAX_CHECKS: usize = 256;

/// The longest name of what is looked at, in bytes.
const MAX_NAME: usize = 255;

/// Why a check was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "'{0}' is not a posture check: write file:/ABSOLUTE/PATH, process:NAME or package:NAME, at most {MAX_NAME} printable characters"
)]
pub struct CheckError(String);

impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "file:{path}"),
            Self::Process(name) => write!(f, "process:{name}"),
            Self::Package(name) => write!(f, "package:{name}"),
        }
    }
}

impl FromStr for Check {
    type Err = CheckError;
    fn from_str(text: &str) -> Result<Self, CheckError> {
        let error = || CheckError(text.to_owned());
        let (kind, name) = text.split_once(':').ok_or_else(error)?;
        if name.is_empty() || name.len() > MAX_NAME || name.chars().any(char::is_control) {
            return Err(error());
        }
        // Comparisons follow a package's name where its version is asked for.
        let is_plain = !name.contains(['/', ' ', '<', '>', '=', '!']);
        let has_way_up = name.split('/').any(|part| part == "..");
        match kind {
            "file" if name.starts_with('/') && !has_way_up => Ok(Self::File(name.to_owned())),
            "process" if is_plain => Ok(Self::Process(name.to_owned())),
            "package" if is_plain => Ok(Self::Package(name.to_owned())),
            _ => Err(error()),
        }
    }
}

serde_as_text!(Check);

/// What a check has shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "found", content = "version", rename_all = "snake_case")]
pub enum Found {
    /// It is not there.
    Absent,
    /// It is there.
    Present,
    /// It is there, in this version.
    Version(String),
    /// What only newer versions can say counts as nothing said.
    #[serde(other)]
    Unknown,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checks_name_things_and_never_ways_around() {
        for good in ["file:/etc/edr.conf", "process:sshd", "package:libssl3"] {
            assert_eq!(good.parse::<Check>().unwrap().to_string(), good);
        }
        let bad = [
            "",
            "file:",
            "file:etc/x",
            "file:/etc/../root/x",
            "process:/bin/sh",
            "process:sh -c",
            "run:id",
            "package:a\nb",
        ];
        for bad in bad {
            assert!(bad.parse::<Check>().is_err(), "{bad}");
        }
        assert!(format!("process:{}", "x".repeat(256)).parse::<Check>().is_err());
    }
}
