//! What a grant lets through: protocols and ports of one resource.

use serde::{Deserialize, Serialize};

use crate::PortSet;

/// The transport of a packet, as far as a filter can speak of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

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
