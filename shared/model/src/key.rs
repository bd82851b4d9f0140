//! Keys and digests. Public ones print; secret ones never do, are wiped when dropped and compare in constant time.
//!
//! All have one text form, base64 (as `wg` prints keys), the same on the wire, in JSON and in the database.

use std::{fmt, str::FromStr};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use subtle::ConstantTimeEq as _;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use crate::text::serde_as_text;

/// A text that is not 32 bytes in base64. Never repeats the text, which may be a secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a key: expected 44 characters of base64 for 32 bytes")]
pub struct KeyError;

fn parse32(text: &str) -> Result<[u8; 32], KeyError> {
    let bytes = Zeroizing::new(BASE64_STANDARD.decode(text).map_err(|_| KeyError)?);
    bytes.as_slice().try_into().map_err(|_| KeyError)
}

macro_rules! public_bytes {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(pub [u8; 32]);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&BASE64_STANDARD.encode(self.0))
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({self})", stringify!($name))
            }
        }
        impl FromStr for $name {
            type Err = KeyError;
            fn from_str(text: &str) -> Result<Self, KeyError> {
                parse32(text).map(Self)
            }
        }
        serde_as_text!($name);
    };
}

public_bytes!(
    /// An X25519 public key: the identity of a WireGuard peer.
    PublicKey
);
public_bytes!(
    /// A SHA-256 digest: of a public key (a pin), of a secret (what the database keeps) or of an audit entry.
    Sha256
);
public_bytes!(
    /// An Ed25519 public key: what relays check a coordinator's passes with.
    TrustKey
);

impl Sha256 {
    /// Compares in constant time; for digests of secrets.
    pub fn ct_eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

macro_rules! secret_bytes {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Zeroize, ZeroizeOnDrop)]
        pub struct $name([u8; 32]);

        impl $name {
            /// Takes over 32 secret bytes.
            pub const fn new(bytes: [u8; 32]) -> Self {
                Self(bytes)
            }

            /// The secret itself. Whoever calls this keeps it from logs, argv and error messages.
            pub const fn expose(&self) -> &[u8; 32] {
                &self.0
            }
        }
        impl PartialEq for $name {
            fn eq(&self, other: &Self) -> bool {
                self.0.ct_eq(&other.0).into()
            }
        }
        impl Eq for $name {}
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}(…)", stringify!($name))
            }
        }
        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                s.serialize_str(&Zeroizing::new(BASE64_STANDARD.encode(self.0)))
            }
        }
        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                let text = Zeroizing::new(String::deserialize(d)?);
                parse32(&text).map(Self).map_err(serde::de::Error::custom)
            }
        }
    };
}

secret_bytes!(
    /// A WireGuard preshared key of one pair of peers.
    PresharedKey
);
secret_bytes!(
    /// 32 secret bytes: a private key, or the secret in a join token or API key.
    SecretBytes
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_print_as_wg_does_and_parse_back() {
        let key = PublicKey([7; 32]);
        assert_eq!(key.to_string().len(), 44);
        assert_eq!(key.to_string().parse::<PublicKey>().unwrap(), key);
        assert!("short".parse::<PublicKey>().is_err());
    }

    #[test]
    fn secrets_do_not_print() {
        assert_eq!(format!("{:?}", PresharedKey::new([7; 32])), "PresharedKey(…)");
    }
}
