//! Packets that are too long for one QUIC datagram: cut into two on one node, put together on the other. Pure.

use std::collections::HashMap;

use postern_wire::relay::{Header, Part};

/// How many packets may wait for their other part, over all channels of a connection.
const MAX_WAITING: usize = 1024;

/// A sealed packet as datagrams of at most `max` bytes for a channel; empty when it can't be. `number` tells its parts from
/// another packet's.
pub(super) fn cut(packet: &[u8], channel: u32, number: u16, max: usize, may_split: bool) -> Vec<Vec<u8>> {
    let datagram = |part, piece: &[u8]| {
        let mut datagram = Vec::with_capacity(Header::LONGEST + piece.len());
        Header { channel, part }.encode(&mut datagram);
        datagram.extend_from_slice(piece);
        datagram
    };
    if packet.is_empty() {
        return Vec::new();
    }
    let whole = Header::LONGEST - 2 + packet.len();
    if whole <= max {
        return vec![datagram(Part::Whole, packet)];
    }
    // Halves: one that is as long as this path allows may be too long for the peer's.
    let (first, last) = packet.split_at(packet.len().div_ceil(2));
    if !may_split || Header::LONGEST + first.len() > max || last.is_empty() {
        return Vec::new();
    }
    vec![datagram(Part::First(number), first), datagram(Part::Last(number), last)]
}

/// Parts that wait for their other one: one of each channel at most, since a packet's two come one behind the other.
#[derive(Debug, Default)]
pub(super) struct Parts(HashMap<u32, Waiting>);

#[derive(Debug)]
struct Waiting {
    number: u16,
    is_first: bool,
    bytes: Vec<u8>,
}

impl Parts {
    /// Takes what came on a channel that there is; a packet, once it is whole. The two parts may come in either order.
    pub(super) fn join(&mut self, header: Header, bytes: &[u8]) -> Option<Vec<u8>> {
        let (number, is_first) = match header.part {
            Part::Whole => return Some(bytes.to_vec()),
            Part::First(number) => (number, true),
            Part::Last(number) => (number, false),
        };
        if let Some(other) = self.0.remove(&header.channel)
            && other.number == number
            && other.is_first != is_first
        {
            let (first, last) = if is_first { (bytes, &other.bytes[..]) } else { (&other.bytes[..], bytes) };
            return Some([first, last].concat());
        }
        // Full of halves whose others were lost: none of them is worth much.
        if self.0.len() >= MAX_WAITING {
            self.0.clear();
        }
        self.0.insert(header.channel, Waiting { number, is_first, bytes: bytes.to_vec() });
        None
    }

    /// The channel is gone.
    pub(super) fn forget(&mut self, channel: u32) {
        self.0.remove(&channel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn join(parts: &mut Parts, datagram: &[u8]) -> Option<Vec<u8>> {
        let (header, bytes) = Header::decode(datagram).unwrap();
        parts.join(header, bytes)
    }

    #[test]
    fn a_part_never_joins_another_packets_nor_another_channels() {
        let mut parts = Parts::default();
        let [packet, other] = [[1; 100], [2; 100]];
        let one = cut(&packet, 5, 1, 60, true);
        let two = cut(&other, 5, 2, 60, true);
        let elsewhere = cut(&other, 6, 1, 60, true);
        assert_eq!(join(&mut parts, &one[0]), None);
        assert_eq!(join(&mut parts, &elsewhere[1]), None);
        assert_eq!(join(&mut parts, &two[1]), None, "the first packet's rest was lost");
        assert_eq!(join(&mut parts, &one[1]), None);
        assert_eq!(join(&mut parts, &one[1]), None, "the same part twice is no packet");
        assert_eq!(join(&mut parts, &one[0]).as_deref(), Some(&packet[..]));
        assert_eq!(join(&mut parts, &elsewhere[0]).as_deref(), Some(&other[..]));
        join(&mut parts, &one[0]);
        parts.forget(5);
        assert_eq!(join(&mut parts, &one[1]), None);
    }

    #[test]
    fn what_must_not_be_split_and_what_would_need_three_parts_is_not_sent() {
        assert_eq!(cut(&[1; 100], 5, 1, 60, false), Vec::<Vec<u8>>::new());
        assert_eq!(cut(&[1; 100], 5, 1, 55, true), Vec::<Vec<u8>>::new());
        assert_eq!(cut(&[1; 100], 5, 1, 104, false).len(), 1);
        assert_eq!(cut(&[], 5, 1, 104, false).len(), 0);
    }

    #[test]
    fn halves_that_wait_are_bounded() {
        let mut parts = Parts::default();
        for channel in 0..10_000 {
            parts.join(Header { channel, part: Part::First(1) }, &[0; 10]);
        }
        assert!(parts.0.len() <= MAX_WAITING);
    }

    proptest! {
        #[test]
        fn packets_arrive_as_they_were_cut(
            packet in prop::collection::vec(any::<u8>(), 1..3000), number: u16, max in 6usize..1500, swapped: bool,
        ) {
            let mut datagrams = cut(&packet, 7, number, max, true);
            prop_assert!(datagrams.iter().all(|datagram| datagram.len() <= max));
            prop_assert_eq!(datagrams.is_empty(), packet.len() + 4 > max && packet.len().div_ceil(2) + 6 > max || packet.len() + 4 > max && packet.len() == 1);
            if swapped {
                datagrams.reverse();
            }
            let mut parts = Parts::default();
            let arrived: Vec<_> = datagrams.iter().filter_map(|datagram| join(&mut parts, datagram)).collect();
            prop_assert!(datagrams.is_empty() || arrived == [packet]);
        }
    }
}
