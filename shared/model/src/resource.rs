//! What stands behind a resource.

use std::{fmt, net::IpAddr, str::FromStr};

use crate::{Fqdn, text::serde_as_text};

/// Where a resource's packets go: an address, or a host name that the gateway resolves itself.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Target {
    /// An address as seen from the site.
    Ip(IpAddr),
    /// A name as resolved at the site.
    Host(Fqdn),
}

/// Why a target was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TargetError {
    /// Neither an address nor a DNS name.
    #[error(
        "'{0}' is not a target: use an IP address (like 10.0.0.5) or a DNS name (like db.corp.example.com); ports go into --tcp and --udp"
    )]
    Malformed(String),
    /// Not the address of one host.
    #[error("'{0}' can't be a target: it is not the address of a single host")]
    NotAHost(IpAddr),
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(ip) => ip.fmt(f),
            Self::Host(host) => host.fmt(f),
        }
    }
}

impl FromStr for Target {
    type Err = TargetError;
    fn from_str(text: &str) -> Result<Self, TargetError> {
        if let Ok(ip) = text.parse::<IpAddr>() {
            let is_broadcast = matches!(ip, IpAddr::V4(v4) if v4.is_broadcast());
            if ip.is_multicast() || ip.is_unspecified() || is_broadcast {
                return Err(TargetError::NotAHost(ip));
            }
            return Ok(Self::Ip(ip));
        }
        text.parse().map(Self::Host).map_err(|_| TargetError::Malformed(text.to_owned()))
    }
}

serde_as_text!(Target);
