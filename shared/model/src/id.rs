//! Typed identifiers. Each is a UUID; the type keeps a device's id from being used as a user's.
//!
//! Ids are made by whoever holds a source of randomness (the coordinator's shell) with `from_bytes`.

use std::{fmt, str::FromStr};

use crate::text::serde_as_text;

/// A text that is not an id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not an id; ids look like 0192d3c8-1f6e-7c44-b2a0-5d1c9a7e4f10")]
pub struct IdError(String);

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(uuid::Uuid);

        impl $name {
            /// Makes an id from 16 bytes, which the caller takes from a random source.
            pub const fn from_bytes(bytes: [u8; 16]) -> Self {
                Self(uuid::Builder::from_random_bytes(bytes).into_uuid())
            }

            /// The 16 bytes of the id.
            pub const fn as_bytes(&self) -> &[u8; 16] {
                self.0.as_bytes()
            }

            /// Takes 16 bytes that already are an id, such as those inside a join token.
            pub const fn from_raw(bytes: [u8; 16]) -> Self {
                Self(uuid::Uuid::from_bytes(bytes))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({})", stringify!($name), self.0)
            }
        }

        impl FromStr for $name {
            type Err = IdError;
            fn from_str(text: &str) -> Result<Self, IdError> {
                uuid::Uuid::try_parse(text).map(Self).map_err(|_| IdError(text.to_owned()))
            }
        }

        serde_as_text!($name);
    };
}

id!(
    /// A user.
    UserId
);
id!(
    /// A group of users.
    GroupId
);
id!(
    /// An enrolled device.
    DeviceId
);
id!(
    /// A site.
    SiteId
);
id!(
    /// A resource.
    ResourceId
);
id!(
    /// A policy.
    PolicyId
);
id!(
    /// A grant.
    GrantId
);
id!(
    /// A join token.
    TokenId
);
id!(
    /// An API key.
    ApiKeyId
);
id!(
    /// A relay.
    RelayId
);
