//! Whom a policy speaks of, as admins write it: `user:alice`, `group:eng`, `device:ID`, `everyone`.

use std::{fmt, str::FromStr};

use crate::{DeviceId, GroupName, UserName, text::serde_as_text};

/// The subject of a policy, by the name that an admin typed.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Subject {
    /// One user, on any of their devices.
    User(UserName),
    /// All members of a group.
    Group(GroupName),
    /// One device, such as a server that belongs to no person.
    Device(DeviceId),
    /// Every device, of whomever.
    Everyone,
}

/// Why a subject was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{given}' is not a subject: {why}write user:NAME, group:NAME, device:ID or everyone")]
pub struct SubjectError {
    given: String,
    why: String,
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::User(name) => write!(f, "user:{name}"),
            Self::Group(name) => write!(f, "group:{name}"),
            Self::Device(id) => write!(f, "device:{id}"),
            Self::Everyone => f.write_str("everyone"),
        }
    }
}

impl FromStr for Subject {
    type Err = SubjectError;
    fn from_str(text: &str) -> Result<Self, SubjectError> {
        let error = |why: String| SubjectError { given: text.to_owned(), why };
        match text.split_once(':') {
            Some(("user", name)) => name.parse().map(Self::User).map_err(|e| error(format!("{e}; "))),
            Some(("group", name)) => name.parse().map(Self::Group).map_err(|e| error(format!("{e}; "))),
            Some(("device", id)) => id.parse().map(Self::Device).map_err(|e| error(format!("{e}; "))),
            None if text == "everyone" => Ok(Self::Everyone),
            _ => Err(error(String::new())),
        }
    }
}

serde_as_text!(Subject);
