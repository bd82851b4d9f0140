//! Giving a packet other addresses and ports, in the same IP family or the other one (RFC 7915).
//!
//! Within a family the packet is changed in place and its checksums are updated by the difference (RFC 1624). Across families
//! a new packet is built: traffic class and hop limit are carried over, IPv6 extension headers dropped, don't-fragment is set.

use std::net::IpAddr;

use crate::{
    PacketBuf, ParseError, Parsed, Quoted, Transport,
    checksum::{Sum, checksum, update},
    icmp,
    transport::{ICMP, ICMPV6, TCP, UDP},
};

/// The addresses and ports that a packet is to have. An echo's identifier is `src_port` of a request and of a reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Endpoints {
    /// The source address.
    pub src: IpAddr,
    /// The destination address, of the same family.
    pub dst: IpAddr,
    /// The source port, or an echo's identifier.
    pub src_port: u16,
    /// The destination port; the same as `src_port` for an echo.
    pub dst_port: u16,
}

/// Why a packet can't be rewritten.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RewriteError {
    /// The two addresses are not of one family.
    #[error("source and destination are of different families")]
    MixedFamilies,
    /// It has no ports, so it can't be part of a flow.
    #[error("neither TCP, UDP nor ICMP echo")]
    NoFlow,
    /// It has no counterpart in the other family.
    #[error("no counterpart in the other IP family")]
    Untranslatable,
    /// There is too little room in front of it for a longer header.
    #[error("no room for a longer header")]
    NoRoom,
    /// It is damaged.
    #[error(transparent)]
    Parse(#[from] ParseError),
}

/// Gives a TCP, UDP or echo packet new endpoints, in place; returns where everything is then. Of a super-packet, only the
/// head needs to be there. A checksum that is still to be made is not: what its field holds changes, and is of no use.
///
/// # Errors
/// See [`RewriteError`]; the packet is unchanged then.
pub fn rewrite(packet: &mut PacketBuf<'_>, parsed: &Parsed, to: &Endpoints) -> Result<Parsed, RewriteError> {
    if to.src.is_ipv6() != to.dst.is_ipv6() {
        return Err(RewriteError::MixedFamilies);
    }
    let is_echo = match parsed.transport {
        Transport::Tcp | Transport::Udp => false,
        Transport::EchoRequest | Transport::EchoReply => true,
        Transport::IcmpError | Transport::Other(_) => return Err(RewriteError::NoFlow),
    };
    let (mut offset, mut len) = (parsed.offset, parsed.len);
    if parsed.is_v6() == to.dst.is_ipv6() {
        in_place(packet.bytes_mut(), parsed, to);
    } else {
        let end = parsed.len.min(packet.bytes().len());
        let body = parsed.len - parsed.offset;
        let (header, header_len) = header_of_other_family(packet.bytes(), parsed, to, body)?;
        if packet.at() + parsed.offset < header_len {
            return Err(RewriteError::NoRoom);
        }
        translate_body(&mut packet.bytes_mut()[parsed.offset..end], body, parsed, to)?;
        packet.replace_header(parsed.offset, &header[..header_len]);
        (offset, len) = (header_len, header_len + body);
    }
    let (src_port, dst_port) = (to.src_port, if is_echo { to.src_port } else { to.dst_port });
    Ok(Parsed { src: to.src, dst: to.dst, src_port, dst_port, offset, len, ..*parsed })
}

/// Gives an ICMP error new outer addresses, and the packet that it quotes new endpoints. The result lies in `scratch`.
///
/// # Errors
/// See [`RewriteError`].
pub fn rewrite_error<'a>(
    packet: &[u8],
    parsed: &Parsed,
    quoted: &Quoted,
    (src, dst): (IpAddr, IpAddr),
    inner: &Endpoints,
    scratch: &'a mut Vec<u8>,
) -> Result<&'a mut [u8], RewriteError> {
    if [dst, inner.src, inner.dst].iter().any(|addr| addr.is_ipv6() != src.is_ipv6()) {
        return Err(RewriteError::MixedFamilies);
    }
    let mut copy = packet[quoted.at..parsed.len].to_vec();
    let mut other = Vec::new();
    let quote = if quoted.packet.is_v6() == src.is_ipv6() {
        in_place(&mut copy, &quoted.packet, inner);
        &copy
    } else {
        let body = &copy[quoted.packet.offset..];
        let (header, header_len) = header_of_other_family(&copy, &quoted.packet, inner, body.len())?;
        other.extend_from_slice(&header[..header_len]);
        other.extend_from_slice(body);
        translate_body(&mut other[header_len..], body.len(), &quoted.packet, inner)?;
        // What the quoted packet's length was, not what is left of it.
        restore_length(&copy, &quoted.packet, &mut other);
        &other
    };
    let header = *packet[parsed.offset..].first_chunk::<{ icmp::HEADER }>().ok_or(ParseError::Malformed)?;
    let header = if parsed.is_v6() == src.is_ipv6() {
        Some(header)
    } else if src.is_ipv6() {
        icmp::header_to_v6(header)
    } else {
        icmp::header_to_v4(header)
    };
    let header = header.ok_or(RewriteError::Untranslatable)?;
    // An ICMP error is at most as long as the smallest MTU (RFC 4443 section 2.4; RFC 1812 section 4.3.2.3).
    let most = if src.is_ipv6() { 1280 - 40 } else { 576 - 20 } - header.len();
    let quote = &quote[..quote.len().min(most)];
    write_ip_header(scratch, (src, dst), ICMP, header.len() + quote.len(), traits_of(packet, parsed));
    let at = scratch.len();
    scratch.extend_from_slice(&header);
    scratch.extend_from_slice(quote);
    scratch[at + 2..at + 4].fill(0);
    finish_icmp(scratch, at, src, dst);
    Ok(scratch)
}

fn in_place(packet: &mut [u8], parsed: &Parsed, to: &Endpoints) {
    let old = Sum::default().addr(parsed.src).addr(parsed.dst);
    let new = Sum::default().addr(to.src).addr(to.dst);
    match (to.src, to.dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            packet[12..16].copy_from_slice(&src.octets());
            packet[16..20].copy_from_slice(&dst.octets());
            adjust(packet, 10, old, new);
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            packet[8..24].copy_from_slice(&src.octets());
            packet[24..40].copy_from_slice(&dst.octets());
        }
        _ => unreachable!("checked by the callers"),
    }
    set_ports(packet, parsed.offset, parsed, to, old, new);
}

/// Writes ports and updates the transport's checksum for them and for the addresses.
fn set_ports(packet: &mut [u8], at: usize, parsed: &Parsed, to: &Endpoints, old: Sum, new: Sum) {
    let ports = |a: u16, b: u16| Sum::default().word(a).word(b);
    let both = |sum: Sum, ports: Sum| sum.word(!ports.finish());
    let (old_ports, new_ports) = (ports(parsed.src_port, parsed.dst_port), ports(to.src_port, to.dst_port));
    match parsed.transport {
        Transport::Tcp | Transport::Udp => {
            packet[at..at + 2].copy_from_slice(&to.src_port.to_be_bytes());
            packet[at + 2..at + 4].copy_from_slice(&to.dst_port.to_be_bytes());
            let (old, new) = (both(old, old_ports), both(new, new_ports));
            if parsed.transport == Transport::Tcp {
                adjust(packet, at + 16, old, new);
            } else if packet.get(at + 6..at + 8).is_some_and(|sum| sum != [0, 0]) {
                adjust(packet, at + 6, old, new);
                // Zero would mean "none" (RFC 768).
                if packet[at + 6..at + 8] == [0, 0] {
                    packet[at + 6..at + 8].fill(0xff);
                }
            }
        }
        Transport::EchoRequest | Transport::EchoReply => {
            packet[at + 4..at + 6].copy_from_slice(&to.src_port.to_be_bytes());
            let id = |port: u16| Sum::default().word(port);
            // Only ICMPv6 sums the addresses too.
            let (old, new) = if parsed.is_v6() && to.src.is_ipv6() {
                (both(old, id(parsed.src_port)), both(new, id(to.src_port)))
            } else {
                (id(parsed.src_port), id(to.src_port))
            };
            adjust(packet, at + 2, old, new);
            // The one message whose sum is zero is all zeros, which no difference tells (RFC 1624 section 3).
            let end = packet.len().min(at + parsed.len - parsed.offset);
            if packet[at..end].iter().all(|byte| *byte == 0) {
                packet[at + 2..at + 4].fill(0xff);
            }
        }
        Transport::IcmpError | Transport::Other(_) => {}
    }
}

/// Updates the checksum at an offset, if the packet reaches that far.
fn adjust(packet: &mut [u8], at: usize, old: Sum, new: Sum) {
    if let Some(field) = packet.get_mut(at..at + 2) {
        let after = update(u16::from_be_bytes([field[0], field[1]]), old, new);
        field.copy_from_slice(&after.to_be_bytes());
    }
}

/// What the two headers have in common: traffic class and hop limit.
fn traits_of(packet: &[u8], parsed: &Parsed) -> (u8, u8) {
    if parsed.is_v6() { (packet[0] << 4 | packet[1] >> 4, packet[7]) } else { (packet[1], packet[8]) }
}

/// The longest header that [`ip_header`] makes.
const HEADER: usize = 40;

/// Clears `out` and writes a header of the addresses' family; `protocol` is given as IPv4 numbers it.
pub(crate) fn write_ip_header(
    out: &mut Vec<u8>,
    (src, dst): (IpAddr, IpAddr),
    protocol: u8,
    body: usize,
    traits: (u8, u8),
) {
    let (header, len) = ip_header((src, dst), protocol, body, traits);
    out.clear();
    out.extend_from_slice(&header[..len]);
}

/// A header of the addresses' family, and its length.
fn ip_header(
    (src, dst): (IpAddr, IpAddr),
    protocol: u8,
    body: usize,
    (class, hops): (u8, u8),
) -> ([u8; HEADER], usize) {
    let mut header = [0; HEADER];
    match (src, dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            let len = u16::try_from(20 + body).unwrap_or(u16::MAX).to_be_bytes();
            header[..12].copy_from_slice(&[0x45, class, len[0], len[1], 0, 0, 0x40, 0, hops, protocol, 0, 0]);
            header[12..16].copy_from_slice(&src.octets());
            header[16..20].copy_from_slice(&dst.octets());
            let sum = checksum(&header[..20]).to_be_bytes();
            header[10..12].copy_from_slice(&sum);
            (header, 20)
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            let len = u16::try_from(body).unwrap_or(u16::MAX).to_be_bytes();
            let next = if protocol == ICMP { ICMPV6 } else { protocol };
            header[..8].copy_from_slice(&[0x60 | class >> 4, class << 4, 0, 0, len[0], len[1], next, hops]);
            header[8..24].copy_from_slice(&src.octets());
            header[24..40].copy_from_slice(&dst.octets());
            (header, HEADER)
        }
        _ => unreachable!("callers give addresses of one family"),
    }
}

/// The header that a packet gets in the other family, and its length.
fn header_of_other_family(
    packet: &[u8],
    parsed: &Parsed,
    to: &Endpoints,
    body: usize,
) -> Result<([u8; HEADER], usize), RewriteError> {
    let protocol = match parsed.transport {
        Transport::Tcp => TCP,
        Transport::Udp => UDP,
        Transport::EchoRequest | Transport::EchoReply => ICMP,
        Transport::IcmpError | Transport::Other(_) => return Err(RewriteError::Untranslatable),
    };
    if to.src.is_ipv4() && body + 20 > usize::from(u16::MAX) {
        return Err(RewriteError::Untranslatable);
    }
    Ok(ip_header((to.src, to.dst), protocol, body, traits_of(packet, parsed)))
}

/// Translates what follows the IP header; `body` is as much as there is of its `len` bytes.
fn translate_body(body: &mut [u8], len: usize, parsed: &Parsed, to: &Endpoints) -> Result<(), RewriteError> {
    if matches!(parsed.transport, Transport::EchoRequest | Transport::EchoReply) {
        let header = *body.first_chunk::<{ icmp::HEADER }>().ok_or(ParseError::Malformed)?;
        let header = if to.src.is_ipv6() { icmp::header_to_v6(header) } else { icmp::header_to_v4(header) };
        body[..icmp::HEADER].copy_from_slice(&header.ok_or(RewriteError::Untranslatable)?);
        body[4..6].copy_from_slice(&to.src_port.to_be_bytes());
        finish_icmp(body, 0, to.src, to.dst);
        return Ok(());
    }
    // IPv6 has no UDP without a checksum (RFC 8200 section 8.1). It is of the whole datagram, which may end before its packet.
    let lacks_checksum = parsed.transport == Transport::Udp && body.get(6..8) == Some(&[0, 0]) && to.src.is_ipv6();
    if lacks_checksum && body.len() < len {
        return Err(RewriteError::Untranslatable);
    }
    let old = Sum::default().addr(parsed.src).addr(parsed.dst);
    let new = Sum::default().addr(to.src).addr(to.dst);
    set_ports(body, 0, parsed, to, old, new);
    if lacks_checksum {
        let datagram = usize::from(u16::from_be_bytes([body[4], body[5]]));
        // One that is quoted may be cut. Nobody can sum it then, or needs to.
        if let Some(bytes) = body.get(..datagram) {
            let sum = Sum::pseudo(to.src, to.dst, UDP, datagram).bytes(bytes).finish();
            body[6..8].copy_from_slice(&(if sum == 0 { 0xffff } else { sum }).to_be_bytes());
        }
    }
    Ok(())
}

/// Counts an ICMP message's checksum anew, its field being zero.
pub(crate) fn finish_icmp(packet: &mut [u8], at: usize, src: IpAddr, dst: IpAddr) {
    let body = &packet[at..];
    let pseudo = if src.is_ipv6() { Sum::pseudo(src, dst, ICMPV6, body.len()) } else { Sum::default() };
    let sum = pseudo.bytes(body).finish();
    packet[at + 2..at + 4].copy_from_slice(&sum.to_be_bytes());
}

/// Sets a translated quote's length field to what the original announced, less the difference of the headers.
fn restore_length(original: &[u8], parsed: &Parsed, quote: &mut [u8]) {
    let word = |at: usize| usize::from(u16::from_be_bytes([original[at], original[at + 1]]));
    let body = if parsed.is_v6() {
        (word(4) + 40).saturating_sub(parsed.offset)
    } else {
        word(2).saturating_sub(parsed.offset)
    };
    if quote[0] >> 4 == 6 {
        quote[4..6].copy_from_slice(&u16::try_from(body).unwrap_or(u16::MAX).to_be_bytes());
    } else {
        quote[2..4].copy_from_slice(&u16::try_from(body + 20).unwrap_or(u16::MAX).to_be_bytes());
        quote[10..12].fill(0);
        let sum = checksum(&quote[..20]).to_be_bytes();
        quote[10..12].copy_from_slice(&sum);
    }
}

#[cfg(test)]
#[path = "rewrite_tests.rs"]
mod tests;
