//! What a grant lets through: protocols and ports of one resource.

use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::PortSet;

/// Why a filter was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{given}' is not a list of ports: {why}write it like 'tcp/443', 'tcp/80,443 udp/53' or 'icmp'")]
pub struct FilterError {
    given: String,
    why: String,
}

/// The transport of a packet, as far as a filter can speak of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Protocol {
    /// TCP (6).
    Tcp,
    /// UDP (17).
    Udp,
    /// An ICMP or ICMPv6 echo; the "port" of a flow is its identifier.
    IcmpEcho,
    /// Anything else, by protocol number. Never has ports and never passes a filter.
    Other(u8),
}

/// The protocols and ports that are open. The default, empty filter denies everything.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub struct Filter {
    /// Open TCP ports.
    #[serde(default)]
    pub tcp: PortSet,
    /// Open UDP ports.
    #[serde(default)]
    pub udp: PortSet,
    /// Whether echo requests pass.
    #[serde(default)]
    pub icmp: bool,
}

impl Filter {
    /// Whether a packet to `port` (the destination port; ignored for echo) may pass.
    pub fn allows(&self, protocol: Protocol, port: u16) -> bool {
        match protocol {
            Protocol::Tcp => self.tcp.contains(port),
            Protocol::Udp => self.udp.contains(port),
            Protocol::IcmpEcho => self.icmp,
            Protocol::Other(_) => false,
        }
    }

    /// What passes either.
    #[must_use]
    pub fn union(&self, other: &Self) -> Self {
        Self { tcp: self.tcp.union(&other.tcp), udp: self.udp.union(&other.udp), icmp: self.icmp || other.icmp }
    }

    /// What passes both.
    #[must_use]
    pub fn intersection(&self, other: &Self) -> Self {
        Self {
            tcp: self.tcp.intersection(&other.tcp),
            udp: self.udp.intersection(&other.udp),
            icmp: self.icmp && other.icmp,
        }
    }

    /// What passes this and not the other.
    #[must_use]
    pub fn minus(&self, other: &Self) -> Self {
        Self { tcp: self.tcp.minus(&other.tcp), udp: self.udp.minus(&other.udp), icmp: self.icmp && !other.icmp }
    }

    /// Whether nothing passes.
    pub fn is_empty(&self) -> bool {
        self.tcp.is_none() && self.udp.is_none() && !self.icmp
    }
}

impl std::fmt::Display for Filter {
    /// `tcp/80,443 udp/53 icmp`, or `nothing`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut parts = Vec::with_capacity(3);
        if !self.tcp.is_none() {
            parts.push(format!("tcp/{}", self.tcp));
        }
        if !self.udp.is_none() {
            parts.push(format!("udp/{}", self.udp));
        }
        if self.icmp {
            parts.push("icmp".to_owned());
        }
        f.write_str(if parts.is_empty() { "nothing" } else { "" })?;
        f.write_str(&parts.join(" "))
    }
}

impl FromStr for Filter {
    type Err = FilterError;
    /// Reads what [`Display`](std::fmt::Display) writes, but for `nothing`.
    fn from_str(text: &str) -> Result<Self, FilterError> {
        let error = |why: String| FilterError { given: text.to_owned(), why };
        let mut filter = Self::default();
        for part in text.split_whitespace() {
            match part.split_once('/') {
                Some(("tcp", ports)) => {
                    filter.tcp = filter.tcp.union(&ports.parse().map_err(|e| error(format!("{e}; ")))?);
                }
                Some(("udp", ports)) => {
                    filter.udp = filter.udp.union(&ports.parse().map_err(|e| error(format!("{e}; ")))?);
                }
                None if part == "icmp" => filter.icmp = true,
                _ => return Err(error(String::new())),
            }
        }
        if filter.is_empty() { Err(error("nothing would pass; ".into())) } else { Ok(filter) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn filters_read_back() {
        for text in ["tcp/443", "tcp/80,443 udp/53 icmp", "udp/any", "icmp"] {
            assert_eq!(text.parse::<Filter>().unwrap().to_string(), text);
        }
        for bad in ["", "nothing", "443", "tcp/", "tcp/none", "sctp/5", "tcp/0"] {
            assert!(bad.parse::<Filter>().is_err(), "{bad}");
        }
    }

    proptest! {
        /// Invariant: an empty filter denies; an unparsed protocol never has ports.
        #[test]
        fn an_empty_filter_denies_and_other_protocols_never_pass(port in 0u16.., number in 0u8..) {
            for protocol in [Protocol::Tcp, Protocol::Udp, Protocol::IcmpEcho, Protocol::Other(number)] {
                prop_assert!(!Filter::default().allows(protocol, port));
            }
            let any = Filter { tcp: PortSet::Any, udp: PortSet::Any, icmp: true };
            prop_assert!(!any.allows(Protocol::Other(number), port));
        }
    }
}
