//! The Internet checksum (RFC 1071) and its incremental update (RFC 1624).

use std::net::IpAddr;

/// A sum in ones' complement that is still to be folded.
///
/// Words are added in this machine's byte order and turned round in the end, which comes to the same (RFC 1071 section 2B).
/// What one call adds is below 2^34, so no packet overflows it.
#[derive(Debug, Clone, Copy, Default)]
pub struct Sum(u64);

/// Bytes that [`Sum::bytes`] takes at once: enough for the compiler to make vectors of them.
const BLOCK: usize = 64;

impl Sum {
    /// Adds bytes, which begin at an even offset of what is summed; an odd one at the end counts as if a zero followed.
    #[must_use]
    pub fn bytes(self, bytes: &[u8]) -> Self {
        let (blocks, rest) = bytes.as_chunks::<BLOCK>();
        // Without a carry to look after: each lane sums whole words, which may wrap, and their upper halves, which can't. What
        // the lower halves come to is the difference.
        let (mut whole, mut upper) = ([0_u64; BLOCK / 8], [0_u64; BLOCK / 8]);
        for block in blocks {
            let (words, _) = block.as_chunks::<8>();
            for (lane, word) in words.iter().enumerate() {
                let word = u64::from_ne_bytes(*word);
                whole[lane] = whole[lane].wrapping_add(word);
                upper[lane] = upper[lane].wrapping_add(word >> 32);
            }
        }
        let mut sum = 0_u64;
        for (whole, upper) in whole.into_iter().zip(upper) {
            sum = sum.wrapping_add(whole.wrapping_sub(upper << 32)).wrapping_add(upper);
        }
        let (words, rest) = rest.as_chunks::<4>();
        for word in words {
            sum += u64::from(u32::from_ne_bytes(*word));
        }
        let mut last = [0; 4];
        last[..rest.len()].copy_from_slice(rest);
        sum += u64::from(u32::from_ne_bytes(last));
        Self(self.0 + (sum & 0xffff_ffff) + (sum >> 32))
    }

    /// Adds one word.
    #[must_use]
    pub fn word(self, word: u16) -> Self {
        Self(self.0 + u64::from(word.to_be()))
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

    /// The folded sum. It is 0 only if all that was added was 0.
    pub fn fold(self) -> u16 {
        let mut sum = self.0;
        while sum >> 16 != 0 {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        u16::from_be(u16::try_from(sum).expect("folded"))
    }

    /// The checksum: the complement of the folded sum.
    pub fn finish(self) -> u16 {
        !self.fold()
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

    #[test]
    fn the_largest_words_do_not_overflow() {
        for len in [0, 1, 2, 63, 64, 65, 65_535, 1 << 20] {
            assert_eq!(checksum(&vec![0xff; len]), naive(&vec![0xff; len]), "{len}");
        }
    }

    proptest! {
        #[test]
        fn it_is_the_naive_sum(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
            prop_assert_eq!(checksum(&bytes), naive(&bytes));
        }

        #[test]
        fn pieces_add_up(bytes in prop::collection::vec(any::<u8>(), 0..2000), at in 0_usize..2000) {
            let (first, second) = bytes.split_at((at & !1).min(bytes.len() & !1));
            prop_assert_eq!(Sum::default().bytes(first).bytes(second).finish(), naive(&bytes));
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
