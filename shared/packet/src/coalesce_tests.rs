//! What was joined is cut into the same packets again; and what may not be joined is not.

use std::collections::HashMap;

use proptest::prelude::*;

use super::*;
use crate::{
    Split, parse,
    sample::{ACK, CWR, ECE, FIN, PSH, RST, SYN, Sample, URG, plain, sample},
    set_partial_checksum,
};

/// Lays packets into a buffer, with space between them, and joins what may be.
fn coalesce(packets: &[Vec<u8>], coalescer: &mut Coalescer) -> Vec<u8> {
    let mut buffer = Vec::new();
    let ranges: Vec<_> = packets
        .iter()
        .map(|packet| {
            buffer.extend([0xa5; 32]);
            let start = buffer.len();
            buffer.extend(packet);
            start..buffer.len()
        })
        .collect();
    coalescer.clear();
    for range in ranges {
        let parsed = parse(&buffer[range.clone()]).unwrap();
        coalescer.push(&buffer, range, parsed);
    }
    coalescer.finish(&mut buffer);
    buffer
}

fn joining() -> Coalescer {
    let mut coalescer = Coalescer::default();
    coalescer.set_joins(true, true);
    coalescer
}

/// How many packets each run of these stands for.
fn counts(packets: &[Vec<u8>]) -> Vec<usize> {
    let mut coalescer = joining();
    coalesce(packets, &mut coalescer);
    coalescer.runs().iter().map(|run| run.packets).collect()
}

/// Cuts every run, after checking that it is what it says.
fn split_all(buffer: &mut [u8], coalescer: &Coalescer) -> Vec<Vec<u8>> {
    let mut packets = Vec::new();
    for (i, run) in coalescer.runs().iter().enumerate() {
        if run.offload.is_partial {
            set_partial_checksum(&mut buffer[run.head.clone()], &run.parsed);
        }
        let mut whole = buffer[run.head.clone()].to_vec();
        assert_eq!(run.parsed.tcp(&whole).is_some(), run.parsed.transport == crate::Transport::Tcp);
        whole.extend(coalescer.rest(i).flat_map(|piece| buffer[piece].to_vec()));
        assert_eq!(parse(&whole).as_ref(), Ok(&run.parsed));
        assert_eq!(run.parsed.tcp(&buffer[run.head.clone()]), run.parsed.tcp(&whole));
        assert_eq!((run.packets > 1, run.packets > 1), (run.offload.is_partial, run.offload.segment.is_some()));
        let mut split = Split::new(&whole, &run.parsed, run.offload).unwrap();
        assert_eq!((split.count(), split.bytes()), (run.packets, run.bytes()));
        let mut out = vec![0; split.longest()];
        while let Some(len) = split.next(&mut out) {
            packets.push(out[..len].to_vec());
        }
    }
    packets
}

/// The packets of each flow, in order.
fn by_flow(packets: &[Vec<u8>]) -> HashMap<impl Eq + std::hash::Hash + std::fmt::Debug, Vec<&[u8]>> {
    let mut flows = HashMap::<_, Vec<&[u8]>>::new();
    for packet in packets {
        let parsed = parse(packet).unwrap();
        let flow = (parsed.src, parsed.dst, parsed.transport, parsed.src_port, parsed.dst_port);
        flows.entry(flow).or_default().push(&packet[..parsed.len]);
    }
    flows
}

/// What a packet of a flow has that the one before it had not.
#[derive(Debug, Clone)]
enum Change {
    Nothing,
    Shorter(usize),
    Longer,
    Empty,
    Flags(u8),
    Field(u8),
    /// After it was built: a bit of its headers or payload is another, or bytes follow it.
    Bit(usize, u8),
    NoChecksum,
    Trailing,
}

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        12 => Just(Change::Nothing),
        1 => (1_usize..100).prop_map(Change::Shorter),
        1 => Just(Change::Longer),
        1 => Just(Change::Empty),
        2 => prop::sample::select(vec![PSH, FIN, CWR, ECE, URG, SYN, RST, ACK, FIN | PSH | CWR]).prop_map(Change::Flags),
        1 => (0_u8..12).prop_map(Change::Field),
        1 => (0_usize..90, 0_u8..8).prop_map(|(at, bit)| Change::Bit(at, bit)),
        1 => Just(Change::NoChecksum),
        1 => Just(Change::Trailing),
    ]
}

/// Changes a field that all packets of a run have in common, or that counts.
fn change_field(sample: &mut Sample, field: u8) {
    match field {
        0 => sample.class ^= 4,
        1 => sample.class ^= 1,
        2 => sample.hops ^= 1,
        3 => sample.df = !sample.df,
        4 => sample.id = sample.id.wrapping_add(1),
        5 => sample.id = sample.id.wrapping_sub(1),
        6 => sample.seq = sample.seq.wrapping_add(1),
        7 => sample.ack ^= 1,
        8 => sample.window ^= 1,
        9 => sample.urgent ^= 1,
        10 => sample.label ^= 1,
        _ => match sample.options.last_mut() {
            Some(last) => *last ^= 1,
            None => sample.options = vec![1; 4],
        },
    }
}

/// The packets of one flow.
fn packets_of(first: &Sample, changes: &[Change]) -> Vec<Vec<u8>> {
    let mut next = Sample { flags: first.flags & !(SYN | RST | URG | FIN | PSH | CWR), ..first.clone() };
    let mut packets = Vec::new();
    for change in changes {
        let (flags, full) = (next.flags, first.payload.clone());
        next.payload.clone_from(&full);
        match change {
            Change::Shorter(by) => next.payload.truncate(full.len().saturating_sub(*by).max(1)),
            Change::Longer => next.payload.push(9),
            Change::Empty => next.payload.clear(),
            Change::Flags(flags) => next.flags ^= flags,
            Change::Field(field) => change_field(&mut next, *field),
            Change::Nothing | Change::Bit(..) | Change::NoChecksum | Change::Trailing => {}
        }
        let mut packet = next.build();
        let parsed = parse(&packet).unwrap();
        match change {
            Change::Bit(at, bit) => {
                let at = at % packet.len();
                packet[at] ^= 1 << bit;
                if parse(&packet).is_err() {
                    packet[at] ^= 1 << bit;
                }
            }
            Change::NoChecksum => {
                let at = parsed.offset + Kind::of(&parsed).unwrap().checksum();
                // Both are zero, and one of the two is never computed.
                let zero = if packet[at..at + 2] == [0, 0] { 0xff } else { 0 };
                packet[at..at + 2].fill(zero);
            }
            Change::Trailing => packet.extend([1, 2, 3]),
            _ => {}
        }
        packets.push(packet);
        next.id = next.id.wrapping_add(1);
        next.seq = next.seq.wrapping_add(u32::try_from(next.payload.len()).unwrap());
        next.flags = flags;
    }
    packets
}

fn flow() -> impl Strategy<Value = Vec<Vec<u8>>> {
    let payload = prop_oneof![
        4 => prop::collection::vec(any::<u8>(), 1..300),
        1 => prop::collection::vec(any::<u8>(), 1_300..1_401),
    ];
    (sample(payload), prop::collection::vec(change(), 1..40)).prop_map(|(first, changes)| packets_of(&first, &changes))
}

proptest! {
    /// Invariant: for every flow, what comes out is what came in: the same bytes in the same order.
    #[test]
    fn what_was_joined_is_cut_into_the_same_packets(
        flows in prop::collection::vec(flow(), 1..4), turns in prop::collection::vec(0_usize..4, 0..160),
    ) {
        let mut flows: Vec<_> = flows.into_iter().map(std::collections::VecDeque::from).collect();
        let count = flows.len();
        let mut packets = Vec::new();
        for turn in turns {
            packets.extend(flows[turn % count].pop_front());
        }
        packets.extend(flows.into_iter().flatten());
        let mut coalescer = joining();
        let mut buffer = coalesce(&packets, &mut coalescer);
        let after = split_all(&mut buffer, &coalescer);
        prop_assert_eq!(by_flow(&after), by_flow(&packets));
    }

    #[test]
    fn a_run_of_equal_packets_becomes_one(
        sample in sample(prop::collection::vec(any::<u8>(), 1..300)), count in 2_usize..60,
    ) {
        prop_assume!(sample.six || sample.extended == 0);
        let packets = packets_of(&sample, &vec![Change::Nothing; count]);
        prop_assert_eq!(counts(&packets), [count]);
    }

    #[test]
    fn no_bytes_panic(
        sample in sample(prop::collection::vec(any::<u8>(), 1..100)),
        changes in prop::collection::vec((0_usize..10, 0_usize..100, any::<u8>()), 0..12),
    ) {
        let mut packets = packets_of(&sample, &vec![Change::Nothing; 10]);
        for (packet, at, byte) in changes {
            if let Some(old) = packets[packet].get_mut(at) {
                *old = byte;
            }
        }
        packets.retain(|packet| parse(packet).is_ok());
        let mut coalescer = joining();
        let mut buffer = coalesce(&packets, &mut coalescer);
        let after = split_all(&mut buffer, &coalescer);
        prop_assert_eq!(by_flow(&after), by_flow(&packets));
    }
}

const KINDS: [(bool, bool); 4] = [(false, false), (false, true), (true, false), (true, true)];

#[test]
fn only_a_packet_that_continues_exactly_is_joined() {
    use Change::{Bit, Empty, Field, Flags, Longer, NoChecksum, Nothing, Shorter, Trailing};
    for (six, tcp) in KINDS {
        let sample = plain(six, tcp);
        let of = |changes: &[Change]| counts(&packets_of(&sample, changes));
        let alone =
            |change: Change| assert_eq!(of(&[Nothing, change.clone(), Nothing])[0], 1, "{six} {tcp} {change:?}");
        assert_eq!(of(&[Nothing, Nothing, Nothing]), [3]);
        assert_eq!(of(&[Nothing, Shorter(1), Nothing, Nothing]), [2, 2], "a shorter one is the last");
        assert_eq!(of(&[Nothing, Longer, Nothing]), [1, 2], "a longer one begins another");
        assert_eq!(of(&[Nothing, Nothing, Empty, Nothing, Nothing]), [2, 1, 2], "without payload");
        assert_eq!(of(&[Nothing, Trailing, Nothing]), [3], "what lies behind a packet is not part of it");
        alone(NoChecksum);
        (0..3).for_each(|field| alone(Field(field)));
        if six {
            alone(Field(10));
        } else {
            (3..6).for_each(|field| alone(Field(field)));
            alone(Bit(10, 3)); // The header's checksum.
        }
        alone(Bit(if six { 60 } else { 40 } + if tcp { 40 } else { 8 }, 3)); // A payload that is damaged.
        if tcp {
            (6..10).for_each(|field| alone(Field(field)));
            alone(Field(11));
            [SYN, RST, URG, ACK, ECE, CWR].into_iter().for_each(|flags| alone(Flags(flags)));
            assert_eq!(of(&[Nothing, Flags(PSH), Nothing, Nothing]), [2, 2], "pushed ones are the last");
            assert_eq!(of(&[Nothing, Nothing, Flags(FIN)]), [3]);
            assert_eq!(of(&[Flags(PSH), Nothing]), [1, 1]);
            assert_eq!(of(&[Nothing, Flags(CWR), Nothing]), [1, 2], "CWR comes first");
        }
    }
}

#[test]
fn a_damaged_head_stays_alone() {
    for (six, tcp) in KINDS {
        let packets = packets_of(&plain(six, tcp), &[Change::Bit(99, 0), Change::Nothing, Change::Nothing]);
        assert_eq!(counts(&packets), [1, 2]);
    }
}

#[test]
fn packets_that_open_end_or_are_urgent_stay_alone() {
    for flag in [SYN, RST, URG] {
        let of = |id, seq| Sample { flags: ACK | flag, id, seq, ..plain(false, true) }.build();
        assert_eq!(counts(&[of(1, 0), of(2, 100), of(3, 200)]), [1, 1, 1]);
    }
}

/// Anew, it would be made as the other of the two zeros, or made where there was none.
#[test]
fn a_right_checksum_that_no_sender_computes_is_kept() {
    for (six, tcp) in KINDS {
        let mut sample = Sample { id: 1, seq: 0, ..plain(six, tcp) };
        let checksum_at = |packet: &[u8]| parse(packet).unwrap().offset + if tcp { 16 } else { 6 };
        let field = |packet: &[u8]| packet[checksum_at(packet)..][..2].to_vec();
        // Adding the checksum to the data brings it to zero.
        sample.payload[..2].fill(0);
        let sum = field(&sample.build());
        sample.payload[..2].copy_from_slice(&sum);
        let mut head = sample.build();
        let zero = if tcp { [0, 0] } else { [0xff, 0xff] };
        assert_eq!(field(&head), zero);
        let next = Sample { id: 2, seq: 100, ..sample.clone() }.build();
        assert_eq!(counts(&[head.clone(), next.clone()]), [2]);
        let at = checksum_at(&head);
        head[at..at + 2].copy_from_slice(&zero.map(|byte: u8| !byte));
        assert_eq!(counts(&[head, next]), [1, 1], "{six} {tcp}");
    }
    let find = |id: u16| Sample { id, seq: 0, ..plain(false, true) };
    let id = (0..=u16::MAX).find(|id| find(*id).build()[10..12] == [0, 0]).unwrap();
    let next = Sample { seq: 100, ..find(id.wrapping_add(1)) }.build();
    let mut head = find(id).build();
    assert_eq!(counts(&[head.clone(), next.clone()]), [2]);
    head[10..12].fill(0xff);
    assert_eq!(counts(&[head, next]), [1, 1]);
}

#[test]
fn a_datagram_shorter_than_its_packet_stays_alone() {
    let mut packets = packets_of(&plain(true, false), &[Change::Nothing, Change::Nothing]);
    for packet in &mut packets {
        // Six bytes behind it, which the length of the packet includes, and that make up for it in the checksum.
        packet.extend([0xff, 0xf9, 0, 0, 0, 0]);
        packet[5] += 6;
        assert_eq!(parse(packet).unwrap().len, packet.len());
    }
    assert_eq!(counts(&packets), [1, 1]);
}

#[test]
fn options_and_extension_headers() {
    for (six, tcp) in KINDS {
        let sample = Sample { extended: 2, ..plain(six, tcp) };
        let expected = if six { vec![3] } else { vec![1, 1, 1] };
        assert_eq!(counts(&packets_of(&sample, &vec![Change::Nothing; 3])), expected);
    }
}

#[test]
fn only_what_is_asked_for_is_joined() {
    let packets: Vec<_> = KINDS
        .iter()
        .flat_map(|(six, tcp)| packets_of(&plain(*six, *tcp), &[Change::Nothing, Change::Nothing]))
        .collect();
    for (tcp, udp, expected) in [
        (false, false, vec![1; 8]),
        (true, false, vec![1, 1, 2, 1, 1, 2]),
        (false, true, vec![2, 1, 1, 2, 1, 1]),
        (true, true, vec![2; 4]),
    ] {
        let mut coalescer = Coalescer::default();
        coalescer.set_joins(tcp, udp);
        let mut buffer = coalesce(&packets, &mut coalescer);
        assert_eq!(coalescer.runs().iter().map(|run| run.packets).collect::<Vec<_>>(), expected);
        assert_eq!(split_all(&mut buffer, &coalescer), packets);
    }
}

#[test]
fn a_run_is_bounded_in_packets_and_bytes() {
    for (six, tcp) in KINDS {
        let sample = Sample { payload: vec![7; 10], ..plain(six, tcp) };
        let expected = if tcp { vec![128, 128, 44] } else { vec![64, 64, 64, 64, 44] };
        assert_eq!(counts(&packets_of(&sample, &vec![Change::Nothing; 300])), expected);
        let sample = Sample { payload: vec![7; 1_400], ..plain(six, tcp) };
        let packets = packets_of(&sample, &vec![Change::Nothing; 100]);
        let mut coalescer = joining();
        let mut buffer = coalesce(&packets, &mut coalescer);
        assert_eq!(coalescer.runs().len(), 3);
        assert!(coalescer.runs().iter().all(|run| run.parsed.len <= 65_535));
        assert_eq!(split_all(&mut buffer, &coalescer), packets);
    }
}

#[test]
fn interleaved_flows_are_joined_apart_as_long_as_there_are_not_too_many() {
    for flows in [2_usize, 8, 9, 20] {
        let of = |host| Sample { host: u8::try_from(host).unwrap(), ..plain(false, true) };
        let flows: Vec<_> = (0..flows).map(|host| packets_of(&of(host), &vec![Change::Nothing; 5])).collect();
        let packets: Vec<_> = (0..5).flat_map(|i| flows.iter().map(move |flow| flow[i].clone())).collect();
        let mut coalescer = joining();
        let mut buffer = coalesce(&packets, &mut coalescer);
        if flows.len() <= FLOWS {
            assert!(coalescer.runs().iter().all(|run| run.packets == 5));
        }
        assert_eq!(by_flow(&split_all(&mut buffer, &coalescer)), by_flow(&packets));
    }
}

/// A whole batch of them is one system call: so the head has to be what the kernel wants to see.
#[test]
fn a_head_has_the_lengths_and_the_partial_checksum_of_the_whole() {
    for (six, tcp) in KINDS {
        let packets = packets_of(&plain(six, tcp), &[Change::Nothing, Change::Nothing, Change::Flags(PSH)]);
        let mut coalescer = joining();
        let mut buffer = coalesce(&packets, &mut coalescer);
        let run = &coalescer.runs()[0];
        let head = &mut buffer[run.head.clone()];
        let whole = packets[0].len() + 200;
        assert_eq!(run.parsed.len, whole);
        let field = |head: &[u8], at: usize| usize::from(u16::from_be_bytes([head[at], head[at + 1]]));
        assert_eq!(if six { field(head, 4) + 40 } else { field(head, 2) }, whole);
        let at = run.parsed.offset;
        set_partial_checksum(head, &run.parsed);
        let length = u32::try_from(whole - at).unwrap().to_be_bytes();
        let addresses = if six { &head[8..40] } else { &head[12..20] };
        let pseudo = [addresses, &[0, if tcp { 6 } else { 17 }], &length].concat();
        let expected = usize::from(!crate::checksum::checksum(&pseudo));
        assert_eq!(field(head, at + if tcp { 16 } else { 6 }), expected);
        if tcp {
            assert_eq!(head[at + 13], ACK | PSH);
        } else {
            assert_eq!(field(head, at + 4), whole - at);
        }
    }
}

/// Invariant: what another sends in a peer's name is not taken for the peer's.
#[test]
fn nothing_is_joined_across_senders() {
    for (six, tcp) in KINDS {
        let packets = packets_of(&plain(six, tcp), &[const { Change::Nothing }; 4]);
        let mut coalescer = joining();
        let buffer = packets.concat();
        let mut at = 0;
        for (nth, packet) in packets.iter().enumerate() {
            if nth == 2 {
                coalescer.divide();
            }
            coalescer.push(&buffer, at..at + packet.len(), parse(packet).unwrap());
            at += packet.len();
        }
        let counts: Vec<_> = coalescer.runs().iter().map(|run| run.packets).collect();
        assert_eq!(counts, [2, 2], "{six} {tcp}");
    }
}
