//! Values of a declaration that are written as text, so that what is wrong with one is said where it stands.

use std::fmt;

use postern_model::{Filter, Found, Timestamp};
use postern_policy::{check_condition, until};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

/// Ports: `tcp/80,443 udp/53 icmp`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Ports(pub(crate) Filter);

/// A condition in the short form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct When(pub(crate) String);

/// A day, up to whose end it is, or a time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Until(pub(crate) Timestamp);

/// What a check has shown: `absent`, `present`, or a version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Shown(pub(crate) Found);

fn read<'de, D: Deserializer<'de>, T, E: fmt::Display>(
    deserializer: D,
    parse: impl FnOnce(&str) -> Result<T, E>,
) -> Result<T, D::Error> {
    parse(&String::deserialize(deserializer)?).map_err(D::Error::custom)
}

impl<'de> Deserialize<'de> for Ports {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        read(deserializer, str::parse).map(Self)
    }
}

impl Serialize for Ports {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for When {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        read(deserializer, |text| check_condition(text).map(|()| Self(text.to_owned())))
    }
}

impl Serialize for When {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Until {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        read(deserializer, until::parse).map(Self)
    }
}

impl Serialize for Until {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&until::display(self.0))
    }
}

impl<'de> Deserialize<'de> for Shown {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Self(match String::deserialize(deserializer)?.as_str() {
            "absent" => Found::Absent,
            "present" => Found::Present,
            version => Found::Version(version.to_owned()),
        }))
    }
}

impl Serialize for Shown {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(match &self.0 {
            Found::Absent | Found::Unknown => "absent",
            Found::Present => "present",
            Found::Version(version) => version,
        })
    }
}
