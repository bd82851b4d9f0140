//! TCP headers (RFC 9293).

use crate::{Parsed, checksum};

pub(crate) const FIN: u8 = 1;
pub(crate) const SYN: u8 = 2;
pub(crate) const RST: u8 = 4;
pub(crate) const PSH: u8 = 8;
pub(crate) const ACK: u8 = 16;
pub(crate) const URG: u8 = 32;
pub(crate) const CWR: u8 = 128;

/// The flags that matter to whoever follows a connection, or passes its segments on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TcpFlags {
    /// Opens.
    pub syn: bool,
    /// Acknowledges.
    pub ack: bool,
    /// Ends one direction.
    pub fin: bool,
    /// Ends all at once.
    pub rst: bool,
    /// Has reduced its congestion window (RFC 3168).
    pub cwr: bool,
}

/// One segment's header, and how long it is in sequence space.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TcpSegment {
    /// Sequence number of its first byte.
    pub seq: u32,
    /// What it acknowledges, if `flags.ack`.
    pub ack: u32,
    /// Its flags.
    pub flags: TcpFlags,
    /// Payload bytes.
    pub payload: u32,
    /// The advertised window, unscaled.
    pub window: u16,
    /// Bytes of header, with options.
    pub header: usize,
}

impl TcpSegment {
    /// Reads a segment, which is the IP packet's body; `None` when it is cut.
    pub(crate) fn read(body: &[u8]) -> Option<Self> {
        let fixed: &[u8; 20] = body.first_chunk()?;
        let header = usize::from(fixed[12] >> 4) * 4;
        if header < 20 || header > body.len() {
            return None;
        }
        let word = |at: usize| u32::from_be_bytes([fixed[at], fixed[at + 1], fixed[at + 2], fixed[at + 3]]);
        let flag = |bit: u8| fixed[13] & bit != 0;
        Some(Self {
            seq: word(4),
            ack: word(8),
            flags: TcpFlags { fin: flag(FIN), syn: flag(SYN), rst: flag(RST), ack: flag(ACK), cwr: flag(CWR) },
            payload: u32::try_from(body.len() - header).ok()?,
            window: u16::from_be_bytes([fixed[14], fixed[15]]),
            header,
        })
    }

    /// The sequence number after it: SYN and FIN count one each.
    pub fn end(&self) -> u32 {
        self.seq
            .wrapping_add(self.payload)
            .wrapping_add(u32::from(self.flags.syn))
            .wrapping_add(u32::from(self.flags.fin))
    }
}

const MSS: u8 = 2;
const NOP: u8 = 1;

/// Lowers a SYN's MSS option so that segments fit into packets of `mtu` bytes. Does nothing to other packets.
pub fn clamp_mss(packet: &mut [u8], parsed: &Parsed, mtu: u16) {
    let Some(segment) = parsed.tcp(packet).filter(|segment| segment.flags.syn) else { return };
    let most = mtu.saturating_sub(if parsed.is_v6() { 60 } else { 40 });
    let mut at = parsed.offset + 20;
    let end = parsed.offset + segment.header;
    while at < end {
        match packet[at] {
            0 => return,
            NOP => at += 1,
            kind => {
                let len = usize::from(*packet[..end].get(at + 1).unwrap_or(&0));
                if len < 2 || at + len > end {
                    return;
                }
                if kind == MSS && len == 4 {
                    let old = u16::from_be_bytes([packet[at + 2], packet[at + 3]]);
                    if old > most {
                        // The option may lie at an odd offset; then its bytes count swapped.
                        let place = |value: u16| {
                            if (at - parsed.offset).is_multiple_of(2) { value } else { value.swap_bytes() }
                        };
                        let sum = |value: u16| checksum::Sum::default().word(place(value));
                        let field = parsed.offset + 16;
                        let before = u16::from_be_bytes([packet[field], packet[field + 1]]);
                        let after = checksum::update(before, sum(old), sum(most));
                        packet[field..field + 2].copy_from_slice(&after.to_be_bytes());
                        packet[at + 2..at + 4].copy_from_slice(&most.to_be_bytes());
                    }
                    return;
                }
                at += len;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parse;
    use etherparse::{PacketBuilder, TcpHeaderSlice, TcpOptionElement as Opt};

    fn syn(options: &[Opt]) -> Vec<u8> {
        let mut packet = Vec::new();
        let builder =
            PacketBuilder::ipv4([10, 0, 0, 1], [10, 0, 0, 2], 9).tcp(4000, 80, 7, 9).syn().options(options).unwrap();
        builder.write(&mut packet, &[]).unwrap();
        packet
    }

    #[test]
    fn a_syns_mss_is_lowered_and_its_checksum_kept() {
        for options in
            [vec![Opt::MaximumSegmentSize(1460)], vec![Opt::Noop, Opt::MaximumSegmentSize(1460), Opt::WindowScale(7)]]
        {
            let mut packet = syn(&options);
            let parsed = parse(&packet).unwrap();
            clamp_mss(&mut packet, &parsed, 1280);
            let tcp = TcpHeaderSlice::from_slice(&packet[20..]).unwrap();
            assert!(tcp.options_iterator().any(|o| o == Ok(Opt::MaximumSegmentSize(1240))));
            assert_eq!(tcp.checksum(), tcp.calc_checksum_ipv4_raw([10, 0, 0, 1], [10, 0, 0, 2], &[]).unwrap());
        }
    }

    #[test]
    fn a_small_mss_and_odd_options_are_left_alone() {
        let mut packet = syn(&[Opt::MaximumSegmentSize(500)]);
        let before = packet.clone();
        let parsed = parse(&packet).unwrap();
        clamp_mss(&mut packet, &parsed, 1280);
        assert_eq!(packet, before);
        packet[41] = 0; // An option without a length.
        clamp_mss(&mut packet, &parsed, 1280);
    }

    #[test]
    fn syn_and_fin_count_in_sequence_space() {
        let packet = syn(&[]);
        let segment = parse(&packet).unwrap().tcp(&packet).unwrap();
        assert_eq!((segment.seq, segment.end()), (7, 8));
    }
}
