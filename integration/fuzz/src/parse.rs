//! One packet.

use postern_packet::{Parsed, Transport, answer, clamp_mss, parse};

use crate::packets::{is_right, repair};

/// Everything lies within the packet, and answers to it are sound.
pub fn check(data: &[u8]) {
    let Ok(parsed) = parse(data) else { return };
    assert!(parsed.offset >= 20 && parsed.offset <= parsed.len && parsed.len <= data.len());
    assert_eq!(parse(&data[..parsed.len]), Ok(parsed), "what lies behind it doesn't matter");
    assert_eq!(parsed.src.is_ipv6(), parsed.dst.is_ipv6());
    let has_ports = !matches!(parsed.transport, Transport::IcmpError | Transport::Other(_));
    assert!(has_ports || (parsed.src_port, parsed.dst_port) == (0, 0));
    assert_eq!(parsed.tcp(data).is_some(), parsed.transport == Transport::Tcp);
    if let Some(segment) = parsed.tcp(data) {
        assert_eq!(parsed.offset + segment.header + segment.payload as usize, parsed.len);
    }
    if let Some(quoted) = parsed.quoted(data) {
        assert!(quoted.packet.offset <= quoted.packet.len && quoted.at + quoted.packet.len <= parsed.len);
        assert_eq!(quoted.packet.is_v6(), parsed.is_v6());
    }
    check_answers(data, &parsed);
    check_clamping(data, &parsed);
}

type Answer = fn(&[u8], &Parsed, &mut Vec<u8>) -> bool;

fn check_answers(data: &[u8], parsed: &Parsed) {
    let mut out = Vec::new();
    let mut again = Vec::new();
    let answers: [Answer; 3] =
        [answer::reject, answer::prohibited, |packet, parsed, out| answer::too_big(packet, parsed, 1_280, out)];
    for answer in answers {
        if !answer(data, parsed, &mut out) {
            continue;
        }
        let back = parse(&out).expect("an answer is a packet");
        assert!(out.len() <= if parsed.is_v6() { 1_280 } else { 576 } && back.len == out.len());
        assert_eq!((back.src, back.dst), (parsed.dst, parsed.src));
        assert!(is_right(&out, &back));
        assert!(!answer::reject(&out, &back, &mut again), "an answer is never answered");
    }
}

fn check_clamping(data: &[u8], parsed: &Parsed) {
    let mut packet = data[..parsed.len].to_vec();
    repair(&mut packet, parsed);
    let before = packet.clone();
    clamp_mss(&mut packet, parsed, 1_280);
    assert_eq!(is_right(&packet, parsed), is_right(&before, parsed));
    assert!(packet == before || parsed.tcp(&before).is_some_and(|segment| segment.flags.syn));
    // Twice is once.
    let once = packet.clone();
    clamp_mss(&mut packet, parsed, 1_280);
    assert_eq!(packet, once);
}
