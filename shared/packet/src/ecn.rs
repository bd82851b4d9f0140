//! Explicit congestion notification across a tunnel (RFC 6040).

use crate::{
    Parsed,
    checksum::{Sum, update},
};

/// The two bits of a header.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum Ecn {
    /// The ends don't speak it.
    #[default]
    NotCapable,
    /// They do: ECT(1).
    Capable1,
    /// They do: ECT(0).
    Capable0,
    /// And the packet met congestion.
    Congested,
}

impl Ecn {
    /// From the two lowest bits.
    pub fn from_bits(bits: u8) -> Self {
        match bits & 3 {
            0 => Self::NotCapable,
            1 => Self::Capable1,
            2 => Self::Capable0,
            _ => Self::Congested,
        }
    }

    /// The two bits.
    pub fn bits(self) -> u8 {
        self as u8
    }

    /// Of a packet that was parsed.
    pub fn of(packet: &[u8], parsed: &Parsed) -> Self {
        Self::from_bits(if parsed.is_v6() { packet[1] >> 4 } else { packet[1] })
    }
}

/// What the packet inside is to say, having come in a datagram that says `outer` (RFC 6040 section 4.2); `false` when it must
/// be dropped: congestion can't be told to ends that don't listen.
pub fn decapsulate(packet: &mut [u8], parsed: &Parsed, outer: Ecn) -> bool {
    let inner = Ecn::of(packet, parsed);
    let new = match (inner, outer) {
        (Ecn::NotCapable, Ecn::Congested) => return false,
        (Ecn::NotCapable, _) => Ecn::NotCapable,
        (_, Ecn::Congested) => Ecn::Congested,
        (Ecn::Capable0, Ecn::Capable1) => Ecn::Capable1,
        (inner, _) => inner,
    };
    if new == inner {
        return true;
    }
    if parsed.is_v6() {
        packet[1] = packet[1] & 0xcf | new.bits() << 4;
    } else {
        let word = |packet: &[u8]| Sum::default().bytes(&packet[..2]);
        let old = word(packet);
        packet[1] = packet[1] & 0xfc | new.bits();
        let sum = update(u16::from_be_bytes([packet[10], packet[11]]), old, word(packet));
        packet[10..12].copy_from_slice(&sum.to_be_bytes());
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{checksum::checksum, parse};
    use etherparse::PacketBuilder;

    fn packet(six: bool, ecn: Ecn) -> Vec<u8> {
        let mut packet = Vec::new();
        if six {
            PacketBuilder::ipv6([1; 16], [2; 16], 9).udp(1, 2).write(&mut packet, b"x").unwrap();
            packet[1] |= ecn.bits() << 4;
        } else {
            PacketBuilder::ipv4([1; 4], [2; 4], 9).udp(1, 2).write(&mut packet, b"x").unwrap();
            packet[1] = 0xb8 | ecn.bits();
            packet[10..12].fill(0);
            let sum = checksum(&packet[..20]);
            packet[10..12].copy_from_slice(&sum.to_be_bytes());
        }
        packet
    }

    /// The table of RFC 6040, figure 4.
    #[test]
    fn what_comes_out_is_what_the_rfc_says() {
        use Ecn::{Capable0, Capable1, Congested, NotCapable};
        let table = [
            (NotCapable, [Some(NotCapable), Some(NotCapable), Some(NotCapable), None]),
            (Capable0, [Some(Capable0), Some(Capable1), Some(Capable0), Some(Congested)]),
            (Capable1, [Some(Capable1), Some(Capable1), Some(Capable1), Some(Congested)]),
            (Congested, [Some(Congested); 4]),
        ];
        for six in [false, true] {
            for (inner, expected) in table {
                for (outer, expected) in [NotCapable, Capable1, Capable0, Congested].into_iter().zip(expected) {
                    let mut packet = packet(six, inner);
                    let parsed = parse(&packet).unwrap();
                    let before = packet.clone();
                    let passed = decapsulate(&mut packet, &parsed, outer);
                    assert_eq!(passed.then(|| Ecn::of(&packet, &parsed)), expected, "{inner:?} in {outer:?}");
                    assert!(six || checksum(&packet[..20]) == 0, "the header's checksum holds");
                    let rest = |packet: &[u8]| [packet[1] & if six { 0xcf } else { 0xfc }, packet[packet.len() - 1]];
                    assert_eq!(rest(&packet), rest(&before));
                }
            }
        }
    }
}
