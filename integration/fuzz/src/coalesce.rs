//! Packets, each after its length and a byte of flags (1: repair its checksums).

use std::collections::HashMap;

use postern_packet::{Coalescer, Split, parse, set_partial_checksum};

use crate::packets::{Bytes, repair};

/// More packets only take time.
const MOST: usize = 200;

/// What was joined is cut into the same packets, in the same order for each flow.
pub fn check(data: &[u8]) {
    let mut bytes = Bytes(data);
    let mut buffer = Vec::new();
    let mut before = Vec::new();
    let mut coalescer = Coalescer::default();
    coalescer.set_joins(true, true);
    while !bytes.is_empty() && before.len() < MOST {
        let len = usize::from(bytes.word());
        let flags = bytes.byte();
        let mut packet = bytes.take(len).to_vec();
        let Ok(parsed) = parse(&packet) else { continue };
        if flags & 1 != 0 {
            repair(&mut packet, &parsed);
        }
        let start = buffer.len();
        buffer.extend_from_slice(&packet);
        coalescer.push(&buffer, start..buffer.len(), parsed);
        packet.truncate(parsed.len);
        before.push(packet);
    }
    coalescer.finish(&mut buffer);
    let mut after = Vec::new();
    for (i, run) in coalescer.runs().iter().enumerate() {
        if run.offload.is_partial {
            set_partial_checksum(&mut buffer[run.head.clone()], &run.parsed);
        }
        let mut whole = buffer[run.head.clone()].to_vec();
        whole.extend(coalescer.rest(i).flat_map(|piece| buffer[piece].to_vec()));
        assert_eq!(parse(&whole), Ok(run.parsed));
        assert!(run.packets <= 128 && (run.packets == 1 || whole.len() <= 65_535));
        let mut split = Split::new(&whole, &run.parsed, run.offload).expect("what was joined can be cut");
        assert_eq!(split.count(), run.packets);
        let mut out = vec![0; split.longest()];
        while let Some(len) = split.next(&mut out) {
            after.push(out[..len].to_vec());
        }
    }
    assert_eq!(by_flow(&before), by_flow(&after));
}

fn by_flow(packets: &[Vec<u8>]) -> HashMap<impl Eq + std::hash::Hash + std::fmt::Debug, Vec<&[u8]>> {
    let mut flows = HashMap::<_, Vec<&[u8]>>::new();
    for packet in packets {
        let parsed = parse(packet).expect("parsed before");
        let flow = (parsed.src, parsed.dst, parsed.transport, parsed.src_port, parsed.dst_port);
        flows.entry(flow).or_default().push(packet);
    }
    flows
}
