//! Applications on clients, and the hosts behind gateways: they write packets, and get what is judged to be theirs.

use std::{fmt, net::SocketAddr, time::Duration};

use postern_model::Protocol;
use postern_packet::{Transport, answer};

use crate::{
    World,
    oracle::{Flow, Judged},
    packets::{self, Header},
    permits::Use,
    setting::{self, At, RESOURCES},
    tcp::End,
};

/// What an application sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A datagram.
    Udp,
    /// An echo request.
    Echo,
    /// A SYN, of a new connection from these ports.
    TcpOpen,
    /// A segment of the connection from these ports, whether or not there is one.
    TcpData,
    /// A FIN.
    TcpClose,
}

impl Kind {
    pub(crate) fn protocol(self) -> Protocol {
        match self {
            Self::Udp => Protocol::Udp,
            Self::Echo => Protocol::IcmpEcho,
            Self::TcpOpen | Self::TcpData | Self::TcpClose => Protocol::Tcp,
        }
    }
}

/// A packet that an application is to send.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Sending {
    /// Which client's.
    pub client: At,
    /// To which resource.
    pub resource: usize,
    /// Whether between the IPv6 addresses.
    pub is_v6: bool,
    /// What.
    pub kind: Kind,
    /// To which port, if the kind has ports.
    pub port: u16,
    /// From which port, or with which echo identifier.
    pub own_port: u16,
    /// Bytes of payload.
    pub len: usize,
}

impl fmt::Debug for Sending {
    /// On one line, also in long lists of steps.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { client, resource, is_v6, kind, port, own_port, len } = self;
        let family = if *is_v6 { 6 } else { 4 };
        write!(f, "Sending({kind:?}/{family}, client {client}:{own_port}, resource {resource}:{port}, {len} bytes)")
    }
}

impl Sending {
    /// The first segment of a connection to a port that is open of the resource at the start.
    pub fn connection(client: At, resource: usize, is_v6: bool, own_port: u16) -> Self {
        let port = if RESOURCES[resource].name == "db" { 5432 } else { 80 };
        Self { client, resource, is_v6, kind: Kind::TcpOpen, port, own_port, len: 8 }
    }

    /// A datagram to a port that is open of every resource at the start.
    pub fn probe(client: At, resource: usize, is_v6: bool, own_port: u16) -> Self {
        Self { client, resource, is_v6, kind: Kind::Udp, port: 53, own_port, len: 64 }
    }

    pub(crate) fn what(&self) -> Use {
        let port = if self.kind == Kind::Echo { 0 } else { self.port };
        Use { client: self.client, resource: self.resource, protocol: self.kind.protocol(), port }
    }

    pub(crate) fn flow(&self) -> Flow {
        let port = if self.kind == Kind::Echo { self.own_port } else { self.port };
        let own = setting::of_family(setting::device_addr(self.client), self.is_v6);
        let service = setting::of_family(setting::resource_addr(self.resource), self.is_v6);
        Flow { what: self.what(), own: (own, self.own_port).into(), service: (service, port).into() }
    }
}

/// A packet that came to a host behind a gateway.
#[derive(Debug, Clone)]
pub(crate) struct Arrival {
    pub(crate) gateway: At,
    pub(crate) protocol: Protocol,
    /// Who it came from, and to.
    pub(crate) opener: SocketAddr,
    pub(crate) target: SocketAddr,
    /// Which one it is.
    pub(crate) id: u64,
    packet: Vec<u8>,
}

impl World {
    /// An application sends a packet; returns which it is.
    pub(crate) fn send_as(&mut self, sending: &Sending, poses_as: Option<At>) -> u64 {
        let client = sending.client;
        let mut flow = sending.flow();
        let poses_as = poses_as.filter(|other| *other != client);
        if let Some(other) = poses_as {
            flow.own.set_ip(setting::of_family(setting::device_addr(other), sending.is_v6));
        }
        let id = self.oracle.client_writes(flow, poses_as.is_some(), sending.len, self.now);
        let header = match sending.kind {
            Kind::Udp => Header::Udp,
            Kind::Echo => Header::Echo { is_reply: false },
            Kind::TcpOpen | Kind::TcpData | Kind::TcpClose => {
                let first = u32::from_le_bytes(*self.random.next().to_le_bytes().first_chunk().expect("8 bytes"));
                let key = (client, flow.own, flow.service);
                let is_opening = sending.kind == Kind::TcpOpen;
                if is_opening {
                    self.opener_ends.insert(key, End::new(first));
                }
                let end = self.opener_ends.entry(key).or_insert_with(|| End::new(first));
                end.send(is_opening, sending.kind == Kind::TcpClose, sending.len)
            }
        };
        let packet = packets::build(flow.own, flow.service, header, &packets::payload(id, sending.len));
        if let Some(rogue) = &mut self.nodes[client].rogue {
            rogue.poses_as = poses_as.unwrap_or(client);
            self.twist_again(client);
        }
        self.lane(client, None, |forwarder, out, now| forwarder.handle_packet(&packet, out, now));
        id
    }

    /// An application sends a packet; returns which it is.
    pub fn send_packet(&mut self, sending: &Sending) -> u64 {
        self.send_as(sending, None)
    }

    /// A rogue's next table at once, since it poses as someone else now.
    fn twist_again(&mut self, client: At) {
        let node = &mut self.nodes[client];
        if let Some(table) = node.table.clone() {
            let table = node.twisted(table);
            self.lane(client, None, |forwarder, out, now| forwarder.handle_table(table, out, now));
        }
    }

    /// The host answers a packet that came to it, if there is one; returns which packet that is.
    pub(crate) fn reply_to(&mut self, arrival: usize, len: usize) -> Option<u64> {
        let Arrival { gateway, protocol, opener, target, .. } = *self.arrivals.get(arrival)?;
        let id = self.oracle.target_writes(gateway, protocol, (target, opener), len, self.now);
        let header = match protocol {
            Protocol::Tcp => self.target_ends.entry((gateway, target, opener)).or_default().reply(len),
            Protocol::IcmpEcho => Header::Echo { is_reply: true },
            _ => Header::Udp,
        };
        self.pass_to_gateway(gateway, &packets::build(target, opener, header, &packets::payload(id, len)));
        Some(id)
    }

    /// The host answers a packet that came to it with an ICMP error.
    pub(crate) fn complain_about(&mut self, arrival: usize) {
        let Some(arrival) = self.arrivals.get(arrival) else { return };
        let Arrival { gateway, protocol, opener, target, id, packet } = arrival;
        if !self.oracle.is_latest(*id, (*gateway, *protocol, *opener, *target)) {
            // Another flow has this place by now, and would get an error that is not its own.
            return;
        }
        let mut error = Vec::new();
        if let Ok(parsed) = postern_packet::parse(packet)
            && answer::prohibited(packet, &parsed, &mut error)
        {
            self.pass_to_gateway(*gateway, &error);
        }
    }

    /// Somebody behind a gateway sends a packet to a client on their own account.
    pub(crate) fn knock(&mut self, gateway: At, (src, dst): (SocketAddr, SocketAddr), protocol: Protocol) {
        let len = 40;
        let id = self.oracle.target_writes(gateway, protocol, (src, dst), len, self.now);
        let header = match protocol {
            Protocol::Tcp => End::new(1).send(true, false, len),
            Protocol::IcmpEcho => Header::Echo { is_reply: id.is_multiple_of(2) },
            _ => Header::Udp,
        };
        self.pass_to_gateway(gateway, &packets::build(src, dst, header, &packets::payload(id, len)));
    }

    fn pass_to_gateway(&mut self, gateway: At, packet: &[u8]) {
        self.lane(gateway, None, |forwarder, out, now| forwarder.handle_packet(packet, out, now));
    }

    /// A packet leaves a gateway for a host behind it.
    pub(crate) fn pass_to_target(&mut self, gateway: At, packet: &[u8], cause: Option<Duration>) {
        let Some((judged, seen)) = self.oracle.reaches_target(gateway, packet, cause, self.now) else { return };
        let (opener, target) = (seen.src, seen.dst);
        if let Some(segment) = &seen.segment {
            let key = (gateway, target, opener);
            if segment.flags.syn {
                self.target_ends.insert(key, End::new(segment.seq ^ 0x5555_5555));
            }
            if let Some(end) = self.target_ends.get_mut(&key) {
                end.receive(segment);
            }
        }
        if let (Judged::Letter, Some(id)) = (judged, seen.id()) {
            let protocol = seen.protocol();
            self.arrivals.push(Arrival { gateway, protocol, opener, target, id, packet: packet.to_vec() });
        }
    }

    /// A packet leaves a client's node for its application.
    pub(crate) fn pass_to_application(&mut self, client: At, packet: &[u8], cause: Option<Duration>) {
        let Some((_, seen)) = self.oracle.reaches_client(client, packet, cause, self.now) else { return };
        if let (Transport::Tcp, Some(segment)) = (seen.transport, &seen.segment)
            && let Some(end) = self.opener_ends.get_mut(&(client, seen.dst, seen.src))
        {
            end.receive(segment);
        }
    }
}
