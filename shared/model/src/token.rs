//! Join tokens and API keys: one text that carries everything its holder needs.
//!
//! The text is a prefix and base64url over: 32 bytes pin, 16 bytes id, 32 bytes secret, the coordinator's address, and
//! the first 4 bytes of the SHA-256 of all that. The checksum only tells a mistyped token from a refused one; what
//! counts is the secret, of which the coordinator keeps nothing but a hash.

use std::{fmt, str::FromStr};

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use sha2::Digest as _;
use zeroize::Zeroizing;

use crate::{ApiKeyId, Fqdn, SecretBytes, Sha256, TokenId};

/// Why a join token or API key was refused before anyone was asked. Never repeats the text.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// It does not begin as it should.
    #[error("this is no {what}: it should begin with '{prefix}'")]
    Prefix {
        /// What was expected.
        what: &'static str,
        /// How that begins.
        prefix: &'static str,
    },
    /// It was cut, mistyped or altered.
    #[error("this {what} is damaged: a part is missing or altered; copy it again, whole")]
    Damaged {
        /// What was expected.
        what: &'static str,
    },
}

/// A host and port: where the coordinator is reached. Displays as `host:port`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct HostPort {
    /// A DNS name or an address.
    pub host: Host,
    /// The port, not 0.
    pub port: u16,
}

/// A DNS name or an IP address.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Host {
    /// A name to be resolved.
    Name(Fqdn),
    /// An address.
    Ip(std::net::IpAddr),
}

/// A text that is not `HOST:PORT`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "'{0}' is not HOST:PORT: write it like 'coordinator.example.com:8443', '203.0.113.5:8443' or '[2001:db8::5]:8443'"
)]
pub struct HostPortError(String);

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            Host::Name(name) => write!(f, "{name}:{}", self.port),
            Host::Ip(ip) => std::net::SocketAddr::new(*ip, self.port).fmt(f),
        }
    }
}

impl FromStr for HostPort {
    type Err = HostPortError;
    fn from_str(text: &str) -> Result<Self, HostPortError> {
        let error = || HostPortError(text.to_owned());
        if let Ok(addr) = text.parse::<std::net::SocketAddr>() {
            return if addr.port() == 0 {
                Err(error())
            } else {
                Ok(Self { host: Host::Ip(addr.ip()), port: addr.port() })
            };
        }
        let (name, port) = text.rsplit_once(':').ok_or_else(error)?;
        let port = port.parse().ok().filter(|port| *port != 0).ok_or_else(error)?;
        Ok(Self { host: Host::Name(name.parse().map_err(|_| error())?), port })
    }
}

crate::text::serde_as_text!(HostPort);

macro_rules! credential {
    ($(#[$doc:meta])* $name:ident, $id:ty, $what:literal, $prefix:literal) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq)]
        pub struct $name {
            /// Where the coordinator is.
            pub coordinator: HostPort,
            /// SHA-256 of the coordinator's public key (SubjectPublicKeyInfo, DER).
            pub pin: Sha256,
            /// Which record at the coordinator.
            pub id: $id,
            /// Proves that the holder was given it.
            pub secret: SecretBytes,
        }

        impl $name {
            /// How the text begins.
            pub const PREFIX: &'static str = $prefix;

            /// The whole text, for handing out once. Wiped when dropped.
            pub fn expose(&self) -> Zeroizing<String> {
                let mut bytes = Zeroizing::new(Vec::with_capacity(256));
                bytes.extend_from_slice(&self.pin.0);
                bytes.extend_from_slice(self.id.as_bytes());
                bytes.extend_from_slice(self.secret.expose());
                bytes.extend_from_slice(self.coordinator.to_string().as_bytes());
                let checksum = sha2::Sha256::digest(bytes.as_slice());
                bytes.extend_from_slice(&checksum[..CHECKSUM]);
                Zeroizing::new(format!("{}{}", $prefix, *Zeroizing::new(BASE64_URL_SAFE_NO_PAD.encode(&bytes))))
            }
        }

        impl FromStr for $name {
            type Err = TokenError;
            fn from_str(text: &str) -> Result<Self, TokenError> {
                let damaged = TokenError::Damaged { what: $what };
                let body = text.trim().strip_prefix($prefix).ok_or(TokenError::Prefix { what: $what, prefix: $prefix })?;
                let bytes = Zeroizing::new(BASE64_URL_SAFE_NO_PAD.decode(body).map_err(|_| damaged.clone())?);
                let end = bytes.len().checked_sub(CHECKSUM).filter(|end| *end > FIXED).ok_or(damaged.clone())?;
                if sha2::Sha256::digest(&bytes[..end])[..CHECKSUM] != bytes[end..] {
                    return Err(damaged);
                }
                let array = |from: usize| <[u8; 32]>::try_from(&bytes[from..from + 32]).expect("32 bytes");
                let coordinator = std::str::from_utf8(&bytes[FIXED..end]).ok().and_then(|text| text.parse().ok());
                Ok(Self {
                    coordinator: coordinator.ok_or(damaged)?,
                    pin: Sha256(array(0)),
                    id: <$id>::from_raw(<[u8; 16]>::try_from(&bytes[32..48]).expect("16 bytes")),
                    secret: SecretBytes::new(array(48)),
                })
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({} at {})", stringify!($name), self.id, self.coordinator)
            }
        }
    };
}

const FIXED: usize = 32 + 16 + 32;
const CHECKSUM: usize = 4;

credential!(
    /// What `postern up` needs to enrol a device.
    JoinToken, TokenId, "join token", "postern-join-"
);
credential!(
    /// What a program needs to speak to the admin API from afar.
    ApiKey, ApiKeyId, "API key", "postern-key-"
);

/// What the coordinator keeps of a secret. The secret has 256 random bits, so a plain digest is enough.
pub fn hash_secret(secret: &SecretBytes) -> Sha256 {
    Sha256(sha2::Sha256::digest(secret.expose()).into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn token() -> JoinToken {
        JoinToken {
            coordinator: "coordinator.example.com:8443".parse().unwrap(),
            pin: Sha256([1; 32]),
            id: TokenId::from_bytes([2; 16]),
            secret: SecretBytes::new([3; 32]),
        }
    }

    #[test]
    fn a_token_reads_back() {
        assert_eq!(token().expose().parse::<JoinToken>().unwrap(), token());
        assert!(token().expose().parse::<ApiKey>().is_err(), "a join token is no API key");
    }

    proptest! {
        #[test]
        fn an_altered_token_is_told_apart(at in 13usize..100, to in "[a-zA-Z0-9_-]") {
            let text = token().expose();
            let mut altered = text.to_string();
            altered.replace_range(at..=at, &to);
            prop_assume!(altered != *text);
            let error = altered.parse::<JoinToken>().unwrap_err();
            prop_assert_eq!(error, TokenError::Damaged { what: "join token" });
        }

        #[test]
        fn no_text_panics(text in ".*") {
            let _ = text.parse::<JoinToken>();
            let _ = format!("postern-join-{text}").parse::<JoinToken>();
        }
    }
}
