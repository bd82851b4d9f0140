//! What policies are made of: effect, scope, condition.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::{ResourceId, ResourceName, TagName, text::serde_as_text};

/// What a policy does where it applies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, Default)]
#[serde(rename_all = "snake_case")]
pub enum Effect {
    /// It allows.
    #[default]
    Allow,
    /// It denies, whatever allows: denials win.
    Deny,
}

impl fmt::Display for Effect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
        })
    }
}

/// A text that is neither `allow` nor `deny`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is no effect: a policy is to allow or to deny")]
pub struct EffectError(String);

impl FromStr for Effect {
    type Err = EffectError;
    fn from_str(text: &str) -> Result<Self, EffectError> {
        match text {
            "allow" => Ok(Self::Allow),
            "deny" => Ok(Self::Deny),
            _ => Err(EffectError(text.to_owned())),
        }
    }
}

/// Which resources a policy is about, by id.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(tag = "kind", content = "id", rename_all = "snake_case")]
pub enum Scope {
    /// One resource.
    Resource(ResourceId),
    /// All resources with this tag, also those that get it later.
    Tag(TagName),
    /// All resources.
    Everything,
}

/// Which resources a policy is about, as admins write it: `wiki`, `tag:prod`, `everything`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ScopeName {
    /// One resource.
    Resource(ResourceName),
    /// All resources with this tag.
    Tag(TagName),
    /// All resources.
    Everything,
}

impl ScopeName {
    /// The word for all resources, which therefore can't be one's name.
    pub const EVERYTHING: &'static str = "everything";
}

/// Why a scope was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{given}' names no resources: {why}; write a resource's name, tag:NAME or everything")]
pub struct ScopeError {
    given: String,
    why: String,
}

impl fmt::Display for ScopeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Resource(name) => name.fmt(f),
            Self::Tag(name) => write!(f, "tag:{name}"),
            Self::Everything => f.write_str(Self::EVERYTHING),
        }
    }
}

impl FromStr for ScopeName {
    type Err = ScopeError;
    fn from_str(text: &str) -> Result<Self, ScopeError> {
        let error = |why: String| ScopeError { given: text.to_owned(), why };
        if text == Self::EVERYTHING {
            return Ok(Self::Everything);
        }
        match text.strip_prefix("tag:") {
            Some(name) => name.parse().map(Self::Tag).map_err(|e| error(e.to_string())),
            None => text.parse().map(Self::Resource).map_err(|e| error(e.to_string())),
        }
    }
}

serde_as_text!(ScopeName);

/// Under which circumstances a policy applies.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(tag = "language", rename_all = "snake_case")]
pub enum Condition {
    /// The short form, as the admin wrote it.
    Short {
        /// Like `posture.disk_encrypted && time.hour in 8..18`.
        text: String,
    },
    /// Cedar, as an expert wrote it.
    Cedar {
        /// The whole policy, as written.
        source: String,
        /// Its clauses as Cedar's JSON, with ids in place of names: what it said when it was added is what it goes on saying,
        /// whoever gets those names later.
        clauses: String,
    },
}

impl Condition {
    /// What the admin wrote.
    pub fn source(&self) -> &str {
        match self {
            Self::Short { text } => text,
            Self::Cedar { source, .. } => source,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scopes_read_back() {
        for text in ["wiki", "tag:prod", "everything"] {
            assert_eq!(text.parse::<ScopeName>().unwrap().to_string(), text);
        }
        for bad in ["", "tag:", "tag:Prod", "group:eng", "Wiki"] {
            assert!(bad.parse::<ScopeName>().is_err(), "{bad}");
        }
    }
}
