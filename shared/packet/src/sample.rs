//! Packets of every kind that matters to segmentation, described field by field and built by another implementation.

use etherparse::{
    IpFragOffset, IpHeaders, Ipv4Header, Ipv4Options, Ipv6Extensions, Ipv6FlowLabel, Ipv6Header, Ipv6RawExtHeader,
    Ipv6RoutingExtensions, PacketBuilder, TcpHeader, ip_number,
};
use proptest::prelude::*;

/// One packet. What is of the other family or protocol is left out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Sample {
    pub(crate) six: bool,
    pub(crate) tcp: bool,
    /// 0: no IPv4 options or extension headers. 1, 2: some.
    pub(crate) extended: u8,
    pub(crate) host: u8,
    pub(crate) ports: (u16, u16),
    pub(crate) class: u8,
    pub(crate) hops: u8,
    pub(crate) label: u32,
    pub(crate) df: bool,
    pub(crate) id: u16,
    pub(crate) seq: u32,
    pub(crate) ack: u32,
    pub(crate) window: u16,
    pub(crate) urgent: u16,
    /// CWR, ECE, URG, ACK, PSH, RST, SYN, FIN, as in the header.
    pub(crate) flags: u8,
    /// TCP options, a multiple of four bytes.
    pub(crate) options: Vec<u8>,
    pub(crate) payload: Vec<u8>,
}

pub(crate) const FIN: u8 = 1;
pub(crate) const SYN: u8 = 2;
pub(crate) const RST: u8 = 4;
pub(crate) const PSH: u8 = 8;
pub(crate) const ACK: u8 = 16;
pub(crate) const URG: u8 = 32;
pub(crate) const ECE: u8 = 64;
pub(crate) const CWR: u8 = 128;

/// A packet of a flow, with nothing unusual to it.
pub(crate) fn plain(six: bool, tcp: bool) -> Sample {
    Sample {
        six,
        tcp,
        extended: 0,
        host: 1,
        ports: (1, 2),
        class: 0,
        hops: 64,
        label: 0,
        df: true,
        id: 0xffff,
        seq: u32::MAX - 50,
        ack: 5,
        window: 6,
        urgent: 0,
        flags: ACK,
        options: vec![1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2],
        payload: vec![7; 100],
    }
}

impl Sample {
    /// The packet's bytes, all checksums right.
    pub(crate) fn build(&self) -> Vec<u8> {
        let mut out = Vec::new();
        let builder = PacketBuilder::ip(if self.six { self.ipv6() } else { self.ipv4() });
        if self.tcp {
            builder.tcp_header(self.tcp_header()).write(&mut out, &self.payload).unwrap();
        } else {
            builder.udp(self.ports.0, self.ports.1).write(&mut out, &self.payload).unwrap();
        }
        out
    }

    fn ipv4(&self) -> IpHeaders {
        let options: &[u8] = match self.extended {
            0 => &[],
            1 => &[148, 4, 0, 0],
            _ => &[1, 7, 7, 4, 0, 0, 0, 0],
        };
        let header = Ipv4Header {
            dscp: (self.class >> 2).try_into().unwrap(),
            ecn: (self.class & 3).try_into().unwrap(),
            identification: self.id,
            dont_fragment: self.df,
            fragment_offset: IpFragOffset::ZERO,
            time_to_live: self.hops,
            source: [10, 0, 0, self.host],
            destination: [10, 0, 1, 1],
            options: Ipv4Options::try_from(options).unwrap(),
            ..Ipv4Header::default()
        };
        IpHeaders::Ipv4(header, etherparse::Ipv4Extensions::default())
    }

    fn ipv6(&self) -> IpHeaders {
        let addr = |net, host| std::net::Ipv6Addr::new(0xfd00, 0, 0, net, 0, 0, 0, host).octets();
        let header = Ipv6Header {
            traffic_class: self.class,
            flow_label: Ipv6FlowLabel::try_from(self.label).unwrap(),
            hop_limit: self.hops,
            source: addr(0, self.host.into()),
            destination: addr(1, 1),
            ..Ipv6Header::default()
        };
        let raw = |payload: &[u8]| Ipv6RawExtHeader::new_raw(ip_number::UDP, payload).unwrap();
        let mut extensions = Ipv6Extensions::default();
        if self.extended > 0 {
            extensions.hop_by_hop_options = Some(raw(&[1, 4, 0, 0, 0, 0]));
        }
        if self.extended > 1 {
            // A routing header with no segments left.
            let routing = raw(&[0, 0, 0, 0, 0, 0]);
            let last = Some(raw(&[1, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]));
            extensions.routing = Some(Ipv6RoutingExtensions { routing, final_destination_options: last });
        }
        IpHeaders::Ipv6(header, extensions)
    }

    fn tcp_header(&self) -> TcpHeader {
        let flag = |bit| self.flags & bit != 0;
        let mut header = TcpHeader::new(self.ports.0, self.ports.1, self.seq, self.window);
        (header.acknowledgment_number, header.urgent_pointer) = (self.ack, self.urgent);
        (header.fin, header.syn, header.rst, header.psh) = (flag(FIN), flag(SYN), flag(RST), flag(PSH));
        (header.ack, header.urg, header.ece, header.cwr) = (flag(ACK), flag(URG), flag(ECE), flag(CWR));
        header.set_options_raw(&self.options).unwrap();
        header
    }

    /// The packets that a kernel makes of this one, each built on its own.
    pub(crate) fn cut(&self, segment: usize) -> Vec<Self> {
        let count = self.payload.len().div_ceil(segment).max(1);
        let piece = |i: usize| {
            let from = i * segment;
            let to = self.payload.len().min(from + segment);
            let mut piece = Self { payload: self.payload[from..to].to_vec(), ..self.clone() };
            piece.id = self.id.wrapping_add(u16::try_from(i).unwrap());
            piece.seq = self.seq.wrapping_add(u32::try_from(from).unwrap());
            if i > 0 {
                piece.flags &= !CWR;
            }
            if i + 1 < count {
                piece.flags &= !(FIN | PSH);
            }
            piece
        };
        (0..count).map(piece).collect()
    }
}

/// Flags as they come in the middle of a connection, with all that makes an edge.
fn flags() -> impl Strategy<Value = u8> {
    prop_oneof![
        6 => Just(ACK),
        1 => Just(ACK | PSH),
        1 => Just(ACK | FIN | PSH),
        1 => Just(ACK | ECE),
        1 => Just(ACK | CWR),
        1 => any::<u8>(),
    ]
}

fn options() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        Just(vec![]),
        // Timestamps, as nearly every segment has them; a selective acknowledgement; as many as there can be.
        any::<[u8; 8]>().prop_map(|stamps| [&[1, 1, 8, 10], &stamps[..]].concat()),
        Just(vec![1, 1, 5, 10, 0, 0, 0, 1, 0, 0, 0, 9]),
        Just(vec![1; 40]),
    ]
}

/// Any packet with this payload.
pub(crate) fn sample(payload: impl Strategy<Value = Vec<u8>>) -> impl Strategy<Value = Sample> {
    let ip = (any::<bool>(), prop_oneof![4 => Just(0_u8), 1 => 1..3_u8], any::<u8>(), 1_u8.., 0..1_u32 << 20);
    let more = (any::<bool>(), any::<u16>(), any::<bool>(), 1..4_u8, 1..3_u16);
    let tcp = (any::<u32>(), any::<u32>(), any::<u16>(), any::<u16>(), flags(), options());
    (ip, more, tcp, payload).prop_map(
        |((six, extended, class, hops, label), (df, id, tcp, host, port), segment, payload)| {
            let (seq, ack, window, urgent, flags, options) = segment;
            let ports = (port, 443);
            Sample {
                six,
                tcp,
                extended,
                host,
                ports,
                class,
                hops,
                label,
                df,
                id,
                seq,
                ack,
                window,
                urgent,
                flags,
                options,
                payload,
            }
        },
    )
}
