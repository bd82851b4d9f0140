//! `NO_PROXY`: who is reached without the proxy. Pure.
//!
//! Separated by commas: `*` (everybody), `example.com` (that and all below it), `.example.com` (all below it), an address,
//! or a range like `10.0.0.0/8`; each perhaps with `:port`. Names are not resolved, so ranges are for targets that are addresses.
//! What can't be read is passed over, as other programs do.

use std::net::IpAddr;

use postern_model::token::{Host, HostPort};

/// All of them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Exceptions(Vec<Exception>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Exception {
    who: Who,
    port: Option<u16>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Who {
    Everybody,
    /// In lower case, without the dot in front.
    Name {
        name: String,
        only_below: bool,
    },
    Range {
        first: IpAddr,
        len: u8,
    },
}

impl Exceptions {
    /// Reads the variable.
    pub(super) fn parse(text: &str) -> Self {
        Self(text.split(',').filter_map(|entry| Exception::parse(entry.trim())).collect())
    }

    /// Whether the target is one.
    pub(super) fn has(&self, target: &HostPort) -> bool {
        self.0.iter().any(|exception| exception.is(target))
    }
}

impl Exception {
    fn parse(entry: &str) -> Option<Self> {
        if let Some(who) = Who::parse(entry) {
            return Some(Self { who, port: None });
        }
        let (who, port) = entry.rsplit_once(':')?;
        let who = who.strip_prefix('[').and_then(|who| who.strip_suffix(']')).unwrap_or(who);
        Some(Self { who: Who::parse(who)?, port: Some(port.parse().ok()?) })
    }

    fn is(&self, target: &HostPort) -> bool {
        self.port.is_none_or(|port| port == target.port)
            && match (&self.who, &target.host) {
                (Who::Everybody, _) => true,
                (Who::Name { name, only_below }, Host::Name(target)) => {
                    let target = target.as_str().to_ascii_lowercase();
                    match target.strip_suffix(name.as_str()) {
                        Some("") => !only_below,
                        Some(before) => before.ends_with('.'),
                        None => false,
                    }
                }
                (Who::Range { first, len }, Host::Ip(ip)) => is_within(ip.to_canonical(), *first, *len),
                _ => false,
            }
    }
}

impl Who {
    fn parse(text: &str) -> Option<Self> {
        if text == "*" {
            return Some(Self::Everybody);
        }
        let (first, len) = match text.split_once('/') {
            Some((first, len)) => (first, Some(len)),
            None => (text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text), None),
        };
        if let Ok(first) = first.parse::<IpAddr>() {
            let most = if first.is_ipv4() { 32 } else { 128 };
            let len = len.map_or(Some(most), |len| len.parse().ok().filter(|len| *len <= most))?;
            return Some(Self::Range { first, len });
        }
        let text = text.strip_prefix('*').unwrap_or(text);
        let name = text.strip_prefix('.').unwrap_or(text);
        let is_of_one = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
        if name.is_empty() || !name.chars().all(is_of_one) {
            return None;
        }
        Some(Self::Name { name: name.to_ascii_lowercase(), only_below: name.len() < text.len() })
    }
}

fn is_within(ip: IpAddr, first: IpAddr, len: u8) -> bool {
    let same = |ip: u128, first: u128, bits: u32| {
        let rest = bits.saturating_sub(u32::from(len));
        rest >= bits || ip >> rest == first >> rest
    };
    match (ip, first) {
        (IpAddr::V4(ip), IpAddr::V4(first)) => same(ip.to_bits().into(), first.to_bits().into(), 32),
        (IpAddr::V6(ip), IpAddr::V6(first)) => same(ip.to_bits(), first.to_bits(), 128),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holds(text: &str, target: &str) -> bool {
        Exceptions::parse(text).has(&target.parse().unwrap())
    }

    #[test]
    fn names_with_all_below_them_and_nothing_beside() {
        for text in
            ["example.com", "Example.COM", "x, example.com ,y", "coordinator.example.com", "*", "example.com:8443"]
        {
            assert!(holds(text, "coordinator.example.com:8443"), "{text}");
        }
        for text in [".example.com", "*.example.com"] {
            assert!(holds(text, "coordinator.example.com:8443") && !holds(text, "example.com:8443"), "{text}");
        }
        for text in ["", ",", "ample.com", "example.org", "com.example", "example.com:443", "example.com/8", "a b"] {
            assert!(!holds(text, "coordinator.example.com:8443"), "{text}");
        }
    }

    #[test]
    fn addresses_and_ranges() {
        for text in ["10.1.2.3", "10.0.0.0/8", "0.0.0.0/0", "10.1.2.3:8443", "10.1.2.2/31"] {
            assert!(holds(text, "10.1.2.3:8443") && holds(text, "[::ffff:10.1.2.3]:8443"), "{text}");
        }
        for text in ["10.1.2.4", "11.0.0.0/8", "::/0", "10.1.2.3:443", "10.0.0.0/33", "10.0.0.0/", "1.2.3"] {
            assert!(!holds(text, "10.1.2.3:8443"), "{text}");
        }
        for text in ["2001:db8::1", "[2001:db8::1]", "[2001:db8::1]:8443", "2001:db8::/32", "::/0"] {
            assert!(holds(text, "[2001:db8::1]:8443"), "{text}");
        }
        for text in ["2001:db8::2", "2001:db9::/32", "0.0.0.0/0", "[2001:db8::1]:443"] {
            assert!(!holds(text, "[2001:db8::1]:8443"), "{text}");
        }
        assert!(!holds("10.0.0.0/8", "ten.example.com:8443"), "names are not resolved for it");
    }
}
