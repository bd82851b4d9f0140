//! NAT64: how IPv4 addresses are written on a network that has only IPv6 (RFC 6052), and how that is found out (RFC 7050). Pure.

use std::net::{Ipv4Addr, Ipv6Addr};

/// The prefix under which this network's NAT64 takes IPv4 addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Nat64 {
    /// The prefix, and nothing behind it.
    prefix: Ipv6Addr,
    /// How many of its bits count: 32, 40, 48, 56, 64 or 96.
    len: u8,
}

/// The lengths that there are, the longest first: an address that could be read with two of them is meant with the longer.
const LENGTHS: [u8; 6] = [96, 64, 56, 48, 40, 32];

impl Nat64 {
    /// The name that has these IPv4 addresses and no others; a network with NAT64 gives it IPv6 addresses, too.
    pub const NAME: &str = "ipv4only.arpa";
    /// See [`Self::NAME`].
    pub const KNOWN: [Ipv4Addr; 2] = [Ipv4Addr::new(192, 0, 0, 170), Ipv4Addr::new(192, 0, 0, 171)];

    /// What an IPv6 address of [`Self::NAME`] shows; `None` if none of the known addresses is in it.
    pub fn from_answer(answer: Ipv6Addr) -> Option<Self> {
        LENGTHS.into_iter().find_map(|len| {
            let mask = !(u128::MAX >> len);
            let nat64 = Self { prefix: (u128::from(answer) & mask).into(), len };
            let is_it = Self::KNOWN.into_iter().any(|known| nat64.synthesize(known) == answer);
            is_it.then_some(nat64)
        })
    }

    /// An IPv4 address as this network takes it. Bits 64 to 71 are zero, and the address goes around them.
    pub fn synthesize(&self, addr: Ipv4Addr) -> Ipv6Addr {
        let mut octets = self.prefix.octets();
        let mut at = usize::from(self.len / 8);
        for octet in addr.octets() {
            at += usize::from(at == 8);
            octets[at] = octet;
            at += 1;
        }
        octets.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn addresses_are_written_as_in_the_rfc() {
        // RFC 6052, section 2.4.
        let examples = [
            ("2001:db8::", 32, "2001:db8:c000:221::"),
            ("2001:db8:100::", 40, "2001:db8:1c0:2:21::"),
            ("2001:db8:122::", 48, "2001:db8:122:c000:2:2100::"),
            ("2001:db8:122:300::", 56, "2001:db8:122:3c0:0:221::"),
            ("2001:db8:122:344::", 64, "2001:db8:122:344:c0:2:2100::"),
            ("2001:db8:122:344::", 96, "2001:db8:122:344::192.0.2.33"),
            ("64:ff9b::", 96, "64:ff9b::192.0.2.33"),
        ];
        for (prefix, len, expected) in examples {
            let nat64 = Nat64 { prefix: prefix.parse().unwrap(), len };
            assert_eq!(
                nat64.synthesize([192, 0, 2, 33].into()),
                expected.parse::<Ipv6Addr>().unwrap(),
                "{prefix}/{len}"
            );
        }
    }

    #[test]
    fn an_answer_without_a_known_address_shows_nothing() {
        for answer in ["2001:db8::1", "64:ff9b::192.0.2.1", "::", "ff02::1"] {
            assert_eq!(Nat64::from_answer(answer.parse().unwrap()), None, "{answer}");
        }
        let known = Nat64::from_answer("64:ff9b::192.0.0.171".parse().unwrap()).unwrap();
        assert_eq!(known, Nat64 { prefix: "64:ff9b::".parse().unwrap(), len: 96 });
    }

    proptest! {
        #[test]
        fn whatever_prefix_a_network_has_its_answer_leads_to_the_same_addresses(
            bits: u128, which in 0..LENGTHS.len(), first: bool, addr: u32,
        ) {
            let len = LENGTHS[which];
            // Bits 64 to 71 are zero in every prefix that is that long.
            let prefix = bits & !(u128::MAX >> len) & !(0xff << 56);
            let nat64 = Nat64 { prefix: prefix.into(), len };
            let answer = nat64.synthesize(Nat64::KNOWN[usize::from(first)]);
            let found = Nat64::from_answer(answer);
            prop_assert!(found.is_some());
            // A prefix that itself ends like a known address may be read in two ways; otherwise it is found as it is.
            if let Some(found) = found.filter(|found| found.len == len) {
                prop_assert_eq!(found.synthesize(addr.into()), nat64.synthesize(addr.into()));
            }
        }
    }
}
