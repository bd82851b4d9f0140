//! The Internet checksum (RFC 1071) and its incremental update (RFC 1624).

use std::net::IpAddr;

/// A sum in ones' complement that is still to be folded. 32 bits hold more words than a packet has.
#[derive(Debug, Clone, Copy, Default)]
pub struct Sum(u32);

impl Sum {
    /// Adds bytes, which begin at an even offset of what is summed.
    #[must_use]
    pub fn bytes(mut self, bytes: &[u8]) -> Self {
        let mut words = bytes.chunks_exact(2);
        for word in &mut words {
            self.0 += u32::from(u16::from_be_bytes([word[0], word[1]]));
        }
        if let [last] = words.remainder() {
            self.0 += u32::from(*last) << 8;
        }
        Self((self.0 & 0xffff) + (self.0 >> 16))
    }

    /// Adds one word.
    #[must_use]
    pub fn word(self, word: u16) -> Self {
        self.bytes(&word.to_be_bytes())
    }

    /// Adds an address.
    #[must_use]
    pub fn addr(self, addr: IpAddr) -> Self {
        match addr {
            IpAddr::V4(v4) => self.bytes(&v4.octets()),
            IpAddr::V6(v6) => self.bytes(&v6.octets()),
        }
    }

    /// The pseudo-header of TCP, UDP and ICMPv6 (RFC 9293 section 3.1, RFC 8200 section 8.1).
    pub fn pseudo(src: IpAddr, dst: IpAddr, protocol: u8, len: usize) -> Self {
        let len = u32::try_from(len).unwrap_or(u32::MAX).to_be_bytes();
        Self::default().addr(src).addr(dst).word(u16::from(protocol)).bytes(&len)
    }

    /// The checksum: the complement of the folded sum.
    pub fn finish(self) -> u16 {
        let mut sum = self.0;
        while sum >> 16 != 0 {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        !u16::try_from(sum).expect("folded")
    }
}

/// The checksum of `bytes`.
pub fn checksum(bytes: &[u8]) -> u16 {
    Sum::default().bytes(bytes).finish()
}

/// The checksum after `old` bytes became `new` bytes (RFC 1624, equation 3). Lengths are even, but may differ.
#[must_use]
pub fn update(checksum: u16, old: Sum, new: Sum) -> u16 {
    // ~(~HC + ~m + m'): `finish` is the complement of a sum.
    Sum::default().word(!checksum).word(old.finish()).word(!new.finish()).finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Straight from RFC 1071, with arithmetic wide enough to need no thought.
    fn naive(bytes: &[u8]) -> u16 {
        let mut sum: u64 = 0;
        for (i, byte) in bytes.iter().enumerate() {
            sum += u64::from(*byte) << if i % 2 == 0 { 8 } else { 0 };
        }
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        !u16::try_from(sum).unwrap()
    }

    #[test]
    fn the_example_of_rfc_1071() {
        assert_eq!(checksum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]), !0xddf2);
    }

    proptest! {
        #[test]
        fn it_is_the_naive_sum(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
            prop_assert_eq!(checksum(&bytes), naive(&bytes));
        }

        #[test]
        fn an_update_equals_a_recount(
            mut bytes in prop::collection::vec(any::<u8>(), 8..200),
            new in prop::collection::vec(any::<u8>(), 4),
        ) {
            bytes[0] |= 1; // All zeros has two representations; no packet header is all zeros.
            let before = checksum(&bytes);
            let old = Sum::default().bytes(&bytes[4..8]);
            bytes[4..8].copy_from_slice(&new);
            prop_assert_eq!(update(before, old, Sum::default().bytes(&new)), checksum(&bytes));
        }
    }
}
