//! Six bytes (the address, or the beginning of one, from where a datagram comes), and a datagram.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use postern_wire::stun::{self, Transaction};

use crate::packets::Bytes;

/// Only requests are answered, by what says from where they came, and by little.
pub fn check(data: &[u8]) {
    let mut bytes = Bytes(data);
    let (ip, port) = (bytes.take(4).to_vec(), bytes.word());
    let datagram = bytes.0;
    let Ok(ip) = <[u8; 4]>::try_from(ip) else { return };
    let v4 = SocketAddr::from((Ipv4Addr::from(ip), port));
    let inside = SocketAddr::from((Ipv4Addr::from(ip).to_ipv6_mapped(), port));
    let v6 = SocketAddr::from((Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, ip[0].into(), ip[1].into()), port));
    let ours = Transaction::new([7; 12]);
    // Told apart from what else comes to the same port.
    if let [first, ..] = datagram
        && (first & 0xc0 != 0 || matches!(datagram, [1..=4, 0, 0, 0, ..]))
    {
        assert!(!stun::is_stun(datagram));
    }
    for (from, seen) in [(v4, v4), (inside, v4), (v6, v6)] {
        let Some(answer) = stun::answer(datagram, from) else { continue };
        assert!(stun::is_stun(datagram) && stun::is_stun(&answer) && answer.len() <= 44);
        assert_eq!(stun::answer(&answer, from), None);
        let Some(Ok(asked)) = datagram.get(8..20).map(<[u8; 12]>::try_from) else { panic!("no request is that short") };
        assert_eq!(stun::mapped_address(&answer, Transaction::new(asked)), Some(seen));
        assert_eq!(stun::mapped_address(&answer, ours).is_some(), asked == [7; 12]);
    }
    // As an answer it counts only for what was asked.
    if stun::mapped_address(datagram, ours).is_some() {
        assert_eq!(&datagram[8..20], &[7; 12]);
    }
}
