//! Split packets against packets that were each built by another implementation.

use std::num::NonZeroU16;

use proptest::prelude::*;

use super::*;
use crate::{
    ParseError, parse,
    sample::{ACK, CWR, FIN, PSH, Sample, sample},
    set_partial_checksum,
};

/// Splits, and holds that the totals were foretold.
fn split(packet: &[u8], offload: Offload) -> Result<Vec<Vec<u8>>, SplitError> {
    let parsed = parse(packet).unwrap();
    let mut split = Split::new(packet, &parsed, offload)?;
    let (count, bytes, longest) = (split.count(), split.bytes(), split.longest());
    let (mut out, mut packets) = (vec![0xa5; longest], Vec::new());
    while let Some(len) = split.next(&mut out) {
        packets.push(out[..len].to_vec());
        assert_eq!(split.count(), count - packets.len());
        assert_eq!(split.bytes(), bytes - packets.iter().map(Vec::len).sum::<usize>());
    }
    assert_eq!((packets.len(), packets.iter().map(Vec::len).max()), (count, Some(longest)));
    Ok(packets)
}

fn segmented(segment: usize) -> Offload {
    Offload { is_partial: true, segment: NonZeroU16::new(segment.try_into().unwrap()) }
}

/// As the kernel hands it over: the transport checksum is of the pseudo-header alone.
fn partial(sample: &Sample) -> Vec<u8> {
    let mut packet = sample.build();
    let parsed = parse(&packet).unwrap();
    set_partial_checksum(&mut packet, &parsed);
    packet
}

fn plain() -> Sample {
    let payload = (0..=255).cycle().take(3_000).collect();
    let (seq, flags) = (u32::MAX - 700, ACK | FIN | PSH | CWR);
    Sample { seq, flags, options: vec![], payload, ..crate::sample::plain(false, true) }
}

proptest! {
    /// Every packet is byte for byte what another implementation builds.
    #[test]
    fn a_super_packet_is_cut_into_packets_as_if_each_had_been_built(
        sample in sample(prop_oneof![
            4 => prop::collection::vec(any::<u8>(), 0..9_000),
            1 => prop::collection::vec(any::<u8>(), 60_000..65_300),
        ]),
        segment in 1_usize..3_000,
    ) {
        let segment = segment.max(sample.payload.len() / 200);
        let packets = split(&partial(&sample), segmented(segment)).unwrap();
        let expected: Vec<_> = sample.cut(segment).iter().map(Sample::build).collect();
        prop_assert_eq!(packets, expected);
    }

    #[test]
    fn a_checksum_is_finished(sample in sample(prop::collection::vec(any::<u8>(), 0..2_000))) {
        let packets = split(&partial(&sample), Offload { is_partial: true, segment: None }).unwrap();
        prop_assert_eq!(packets, [sample.build()]);
    }

    #[test]
    fn a_finished_packet_is_left_as_it_is(
        sample in sample(prop::collection::vec(any::<u8>(), 0..2_000)), at in 0_usize..60, bits in any::<u8>(),
    ) {
        let mut packet = sample.build();
        if let Some(byte) = packet.get_mut(at) {
            *byte ^= bits;
        }
        prop_assume!(parse(&packet).is_ok());
        let len = parse(&packet).unwrap().len;
        prop_assert_eq!(split(&packet, Offload::default()).unwrap(), [packet[..len].to_vec()]);
    }

    /// Also not when what was parsed is not what is cut.
    #[test]
    fn no_bytes_panic(
        sample in sample(prop::collection::vec(any::<u8>(), 0..200)),
        changes in prop::collection::vec((0_usize..100, any::<u8>()), 0..8),
        is_partial in any::<bool>(), segment in any::<u16>(), cut in 0_usize..100, longer in 0_usize..70_000,
    ) {
        let mut packet = sample.build();
        let original = parse(&packet).unwrap();
        for (at, byte) in changes {
            if let Some(old) = packet.get_mut(at) {
                *old = byte;
            }
        }
        packet.truncate(packet.len().saturating_sub(cut));
        packet.resize(packet.len() + longer, 0);
        let offload = Offload { is_partial, segment: NonZeroU16::new(segment) };
        let whole = Parsed { len: packet.len(), ..original };
        for parsed in [Some(original), Some(whole), parse(&packet).ok()].into_iter().flatten() {
            let Ok(mut split) = Split::new(&packet, &parsed, offload) else { continue };
            let mut out = vec![0; split.longest()];
            let (mut bytes, foretold) = (0, split.bytes());
            while let Some(len) = split.next(&mut out) {
                bytes += len;
            }
            prop_assert_eq!(bytes, foretold);
        }
    }
}

#[test]
fn flags_and_counters_at_their_edges() {
    let packets = split(&partial(&plain()), segmented(1_000)).unwrap();
    let field = |packet: &[u8], at| u32::from_be_bytes(*packet[at..].first_chunk().unwrap());
    let ids: Vec<_> = packets.iter().map(|packet| field(packet, 4) >> 16).collect();
    assert_eq!(ids, [0xffff, 0, 1]);
    assert_eq!(packets.iter().map(|packet| packet[33]).collect::<Vec<_>>(), [ACK | CWR, ACK, ACK | FIN | PSH]);
    assert_eq!(packets.iter().map(|packet| field(packet, 24)).collect::<Vec<_>>(), [u32::MAX - 700, 299, 1_299]);
}

#[test]
fn a_datagram_whose_sum_is_zero_says_so_with_ones() {
    let mut sample = Sample { tcp: false, payload: vec![0; 4], ..plain() };
    let sum = u16::from_be_bytes(*sample.build()[26..].first_chunk().unwrap());
    sample.payload[..2].copy_from_slice(&sum.to_be_bytes());
    assert_eq!(sample.build()[26..28], [0xff, 0xff]);
    assert_eq!(split(&partial(&sample), Offload { is_partial: true, segment: None }).unwrap(), [sample.build()]);
    // Each of several alike.
    let packet = partial(&Sample { payload: sample.payload.repeat(3), ..sample.clone() });
    let expected = sample.cut(4)[0].build();
    let first = &split(&packet, segmented(4)).unwrap()[0];
    assert_eq!((first, &first[26..28]), (&expected, &[0xff, 0xff][..]));
}

#[test]
fn what_has_no_known_checksum_is_refused() {
    let mut echo = Vec::new();
    let builder = etherparse::PacketBuilder::ipv4([1; 4], [2; 4], 9).icmpv4_echo_request(77, 1);
    builder.write(&mut echo, &[0; 100]).unwrap();
    assert_eq!(split(&echo, segmented(10)), Err(SplitError::Transport));
    assert_eq!(split(&echo, Offload { is_partial: true, segment: None }), Err(SplitError::Transport));
    assert_eq!(split(&echo, Offload::default()).unwrap(), [echo]);
}

#[test]
fn what_is_cut_or_too_long_or_contradicts_itself_is_refused() {
    let packet = partial(&plain());
    let parsed = parse(&packet).unwrap();
    let refused = |packet: &[u8], parsed: &Parsed| Split::new(packet, parsed, segmented(100)).map(|_| ()).unwrap_err();
    assert_eq!(refused(&packet[..packet.len() - 1], &parsed), SplitError::Malformed);
    let long = vec![0x45; 65_536];
    assert_eq!(refused(&long, &Parsed { len: 65_536, ..parsed }), SplitError::TooLong(65_536));
    // A datagram that ends before its packet does.
    let mut packet = partial(&Sample { tcp: false, ..plain() });
    packet[25] -= 1;
    assert_eq!(refused(&packet, &parse(&packet).unwrap()), SplitError::Malformed);
    packet[25] += 2;
    assert_eq!(parse(&packet), Err(ParseError::Malformed));
}

/// The largest that IPv4 can say, translated.
#[test]
fn a_large_super_packet_survives_translation_to_ipv6() {
    let sample = Sample { payload: vec![7; 65_535 - 40], ..plain() };
    let packet = partial(&sample);
    let parsed = parse(&packet).unwrap();
    let mut buffer = [&[0; crate::HEADROOM], &packet[..]].concat();
    let mut packet = crate::PacketBuf::new(&mut buffer, crate::HEADROOM).unwrap();
    let addr = |host| std::net::Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, host).into();
    let to = crate::Endpoints { src: addr(1), dst: addr(2), src_port: 3, dst_port: 4 };
    crate::rewrite(&mut packet, &parsed, &to).unwrap();
    let packets = split(packet.bytes(), segmented(1_400)).unwrap();
    assert_eq!(packets.len(), sample.payload.len().div_ceil(1_400));
    for packet in packets {
        let parsed = parse(&packet).unwrap();
        let finished = split(&packet, Offload { is_partial: true, segment: None }).unwrap();
        assert_eq!((finished, parsed.src_port), (vec![packet], 3), "its checksum was right");
    }
}
