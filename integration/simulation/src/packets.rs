//! Packets of applications: made, and read again with every checksum checked. A payload says which packet it is of.

use std::net::{IpAddr, SocketAddr};

use postern_model::Protocol;
use postern_packet::{
    Parsed, TcpSegment, Transport,
    checksum::{Sum, checksum},
    parse,
};

const ICMP: u8 = 1;
const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMPV6: u8 = 58;
/// Bytes of a payload that name its packet.
const ID: usize = 8;

/// The transport of a packet to be made. An echo's identifier is the port of the end that asks.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Header {
    Udp,
    Echo { is_reply: bool },
    Tcp { flags: u8, seq: u32, ack: u32 },
}

pub(crate) const FIN: u8 = 1;
pub(crate) const SYN: u8 = 2;
pub(crate) const ACK: u8 = 16;

/// The payload of packet `id`, at least [`ID`] bytes long.
pub(crate) fn payload(id: u64, len: usize) -> Vec<u8> {
    let mut bytes = id.to_be_bytes().to_vec();
    let pattern = (ID..len.max(ID)).map(|at| (at as u64 ^ id).to_le_bytes()[0]);
    bytes.extend(pattern);
    bytes
}

/// A packet with right checksums.
pub(crate) fn build(src: SocketAddr, dst: SocketAddr, header: Header, payload: &[u8]) -> Vec<u8> {
    let is_v6 = src.is_ipv6();
    let (protocol, sum_at, mut body) = match header {
        Header::Udp => {
            let len = u16::try_from(8 + payload.len()).expect("a payload fits");
            (UDP, 6, [src.port().to_be_bytes(), dst.port().to_be_bytes(), len.to_be_bytes(), [0, 0]].concat())
        }
        Header::Echo { is_reply } => {
            let kind = match (is_v6, is_reply) {
                (false, false) => 8,
                (false, true) => 0,
                (true, false) => 128,
                (true, true) => 129,
            };
            let id = if is_reply { dst.port() } else { src.port() }.to_be_bytes();
            (if is_v6 { ICMPV6 } else { ICMP }, 2, vec![kind, 0, 0, 0, id[0], id[1], 0, 1])
        }
        Header::Tcp { flags, seq, ack } => {
            let mut body = [src.port().to_be_bytes(), dst.port().to_be_bytes()].concat();
            body.extend(seq.to_be_bytes().into_iter().chain(ack.to_be_bytes()));
            body.extend([0x50, flags, 0x10, 0, 0, 0, 0, 0]);
            (TCP, 16, body)
        }
    };
    body.extend(payload);
    let sum = match transport_sum(src.ip(), dst.ip(), protocol, &body) {
        // A UDP checksum of 0 says that there is none (RFC 768).
        0 if protocol == UDP => u16::MAX,
        sum => sum,
    };
    body[sum_at..sum_at + 2].copy_from_slice(&sum.to_be_bytes());
    let mut packet = ip_header(src.ip(), dst.ip(), protocol, body.len());
    packet.extend(body);
    packet
}

fn ip_header(src: IpAddr, dst: IpAddr, protocol: u8, body: usize) -> Vec<u8> {
    match (src, dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            let len = u16::try_from(20 + body).expect("a packet fits").to_be_bytes();
            let mut header = vec![0x45, 0, len[0], len[1], 0, 0, 0, 0, 64, protocol, 0, 0];
            header.extend(src.octets().into_iter().chain(dst.octets()));
            let sum = checksum(&header).to_be_bytes();
            header[10..12].copy_from_slice(&sum);
            header
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            let len = u16::try_from(body).expect("a packet fits").to_be_bytes();
            let mut header = vec![0x60, 0, 0, 0, len[0], len[1], protocol, 64];
            header.extend(src.octets().into_iter().chain(dst.octets()));
            header
        }
        _ => panic!("a packet has one family: {src} {dst}"),
    }
}

fn transport_sum(src: IpAddr, dst: IpAddr, protocol: u8, body: &[u8]) -> u16 {
    match protocol {
        ICMP => checksum(body),
        _ => Sum::pseudo(src, dst, protocol, body.len()).bytes(body).finish(),
    }
}

/// A packet as an application sees it.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    pub(crate) transport: Transport,
    pub(crate) src: SocketAddr,
    pub(crate) dst: SocketAddr,
    pub(crate) segment: Option<TcpSegment>,
    /// What the transport carries.
    pub(crate) payload: Vec<u8>,
    /// Of an ICMP error: what it is about, as far as it is quoted.
    pub(crate) quoted: Option<Box<Seen>>,
}

impl Seen {
    /// Which packet it says it is.
    pub(crate) fn id(&self) -> Option<u64> {
        self.payload.first_chunk().map(|bytes| u64::from_be_bytes(*bytes))
    }

    pub(crate) fn is_reset(&self) -> bool {
        self.segment.is_some_and(|segment| segment.flags.rst)
    }

    /// What a filter calls it.
    pub(crate) fn protocol(&self) -> Protocol {
        match self.transport {
            Transport::Tcp => Protocol::Tcp,
            Transport::Udp => Protocol::Udp,
            Transport::EchoRequest | Transport::EchoReply => Protocol::IcmpEcho,
            Transport::IcmpError => Protocol::Other(ICMP),
            Transport::Other(number) => Protocol::Other(number),
        }
    }
}

/// Reads a packet, or says what is wrong with it.
pub(crate) fn read(packet: &[u8]) -> Result<Seen, String> {
    let parsed = parse(packet).map_err(|error| error.to_string())?;
    let body = &packet[parsed.offset..parsed.len];
    let number = match (parsed.transport, parsed.is_v6()) {
        (Transport::Tcp, _) => TCP,
        (Transport::Udp, _) => UDP,
        (Transport::Other(number), _) => return Err(format!("protocol {number}")),
        (_, true) => ICMPV6,
        (_, false) => ICMP,
    };
    if !matches!(transport_sum(parsed.src, parsed.dst, number, body), 0 | 0xffff) {
        return Err(format!("a wrong checksum in {parsed:?}"));
    }
    if !parsed.is_v6() && checksum(&packet[..20]) != 0 {
        return Err(format!("a wrong header checksum in {parsed:?}"));
    }
    let mut seen = view(packet, &parsed);
    seen.quoted = parsed.quoted(packet).map(|quoted| Box::new(view(&packet[quoted.at..], &quoted.packet)));
    Ok(seen)
}

fn view(packet: &[u8], parsed: &Parsed) -> Seen {
    let header = match parsed.transport {
        Transport::Tcp => 20,
        _ => 8,
    };
    Seen {
        transport: parsed.transport,
        src: (parsed.src, parsed.src_port).into(),
        dst: (parsed.dst, parsed.dst_port).into(),
        segment: parsed.tcp(packet),
        payload: packet[..parsed.len].get(parsed.offset + header..).unwrap_or_default().to_vec(),
        quoted: None,
    }
}
