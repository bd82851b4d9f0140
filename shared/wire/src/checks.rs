//! How a list of posture checks is read: bounded, and without those that only a newer version knows.
//!
//! A check that can't be read is one that this device does not know how to make. It says nothing of it, which satisfies no
//! condition; the session goes on.

use std::fmt;

use postern_model::{Check, check::MAX_CHECKS};
use serde::de::{Deserializer, SeqAccess, Visitor};

/// At most [`MAX_CHECKS`]; what comes after them is skipped.
pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Check>, D::Error> {
    struct Known;

    impl<'de> Visitor<'de> for Known {
        type Value = Vec<Check>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a list of posture checks")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Vec<Check>, A::Error> {
            let mut checks = Vec::new();
            while let Some(text) = items.next_element::<String>()? {
                if checks.len() < MAX_CHECKS
                    && let Ok(check) = text.parse()
                {
                    checks.push(check);
                }
            }
            Ok(checks)
        }
    }

    deserializer.deserialize_seq(Known)
}
