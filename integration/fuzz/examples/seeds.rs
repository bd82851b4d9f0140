//! Makes `seeds/`: where the fuzzer begins. Run it in this directory; what it does not make (findings) it leaves alone.

use std::{fs, path::Path, time::Duration};

use etherparse::{
    IpHeaders, Ipv4Header, Ipv6Extensions, Ipv6Header, Ipv6RawExtHeader, PacketBuilder, TcpHeader, ip_number,
};
use hickory_proto::{
    op::{Message, MessageType, OpCode, Query},
    rr::{Name, RecordType},
};
use postern_model::{
    Candidate, DenyReason, DeviceId, Filter, GrantId, JoinToken, NetworkRanges, PortSet, Posture, PresharedKey,
    PublicKey, ResourceId, Revision, SecretBytes, Sha256, TokenId, candidate::CandidateKind, token::HostPort,
};
use postern_packet::{answer, parse};
use postern_wire::{
    AccessReply, AccessRequest, CatalogueEntry, CoordinatorMessage, Enrol, EnrolRefusal, EnrolReply, ExplainReply,
    ExplainRequest, Granted, Hello, InstallGrant, Lack, Limit, NodeMessage, Opening, PeerDevice, Welcome, frame,
    stun::{self, Transaction},
};
use serde::Serialize;

type Seeds = Vec<(&'static str, Vec<u8>)>;

fn main() {
    let targets: [(&str, Seeds); 9] = [
        ("split", split()),
        ("coalesce", coalesce()),
        ("parse", packets()),
        ("rewrite", rewrite()),
        ("wireguard", wireguard()),
        ("dns", dns()),
        ("control", control()),
        ("token", token()),
        ("stun", stun()),
    ];
    for (target, seeds) in targets {
        let dir = Path::new("seeds").join(target);
        fs::create_dir_all(&dir).expect("a directory for the seeds");
        for (name, bytes) in seeds {
            fs::write(dir.join(name), bytes).expect("a seed");
        }
    }
}

fn ip(six: bool, extended: bool) -> IpHeaders {
    if six {
        let header = Ipv6Header { source: [1; 16], destination: [2; 16], hop_limit: 61, ..Ipv6Header::default() };
        let options = Ipv6RawExtHeader::new_raw(ip_number::UDP, &[1, 4, 0, 0, 0, 0]).expect("an extension header");
        let hop_by_hop_options = extended.then_some(options);
        return IpHeaders::Ipv6(header, Ipv6Extensions { hop_by_hop_options, ..Ipv6Extensions::default() });
    }
    let mut header =
        Ipv4Header { source: [10, 0, 0, 1], destination: [10, 0, 0, 2], time_to_live: 61, ..Default::default() };
    header.identification = 7;
    if extended {
        header.options = [148, 4, 0, 0].into();
    }
    IpHeaders::Ipv4(header, etherparse::Ipv4Extensions::default())
}

/// FIN, PSH, CWR and the sequence number vary; all else is the same.
fn tcp(ip: IpHeaders, id: u16, seq: u32, ends: bool, payload: &[u8]) -> Vec<u8> {
    let mut header = TcpHeader::new(4_000, 80, seq, 512);
    (header.ack, header.acknowledgment_number) = (true, 9);
    (header.psh, header.fin, header.cwr) = (ends, ends, seq == 0);
    header.set_options_raw(&[1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2]).expect("options");
    let mut out = Vec::new();
    PacketBuilder::ip(numbered(ip, id)).tcp_header(header).write(&mut out, payload).expect("a packet");
    out
}

fn udp(ip: IpHeaders, id: u16, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    PacketBuilder::ip(numbered(ip, id)).udp(4_000, 53).write(&mut out, payload).expect("a packet");
    out
}

fn numbered(mut ip: IpHeaders, id: u16) -> IpHeaders {
    if let IpHeaders::Ipv4(header, _) = &mut ip {
        header.identification = id;
    }
    ip
}

/// One packet of each kind.
fn packets() -> Seeds {
    let mut seeds = vec![
        ("tcp4", tcp(ip(false, false), 1, 7, false, &[7; 50])),
        ("tcp4_options", tcp(ip(false, true), 1, 7, true, b"x")),
        ("tcp6", tcp(ip(true, false), 1, 0, true, &[7; 51])),
        ("tcp6_extended", tcp(ip(true, true), 1, 7, false, &[])),
        ("udp4", udp(ip(false, false), 1, &[7; 50])),
        ("udp6_extended", udp(ip(true, true), 1, &[7; 51])),
    ];
    let mut syn = Vec::new();
    let options =
        [etherparse::TcpOptionElement::MaximumSegmentSize(1_460), etherparse::TcpOptionElement::WindowScale(7)];
    let builder = PacketBuilder::ip(ip(false, false)).tcp(4_000, 80, 7, 9).syn().options(&options).expect("options");
    builder.write(&mut syn, &[]).expect("a packet");
    seeds.push(("syn", syn));
    let mut echo = Vec::new();
    PacketBuilder::ip(ip(false, false)).icmpv4_echo_request(77, 1).write(&mut echo, b"hello").expect("a packet");
    seeds.push(("echo4", echo.clone()));
    let mut echo6 = Vec::new();
    PacketBuilder::ip(ip(true, false)).icmpv6_echo_reply(77, 1).write(&mut echo6, b"hello").expect("a packet");
    seeds.push(("echo6", echo6.clone()));
    let tcp6 = tcp(ip(true, false), 1, 7, false, &[7; 51]);
    for (name, about) in [("error4", echo), ("error6", echo6), ("error6_tcp", tcp6)] {
        let mut error = Vec::new();
        assert!(answer::too_big(&about, &parse(&about).expect("a packet"), 1_280, &mut error));
        seeds.push((name, error));
    }
    seeds
}

fn split() -> Seeds {
    let seed = |segment: u16, packet: Vec<u8>| [&[1][..], &segment.to_be_bytes(), &packet].concat();
    vec![
        ("tcp4", seed(100, tcp(ip(false, false), 0xffff, 0, true, &[7; 350]))),
        ("tcp4_options", seed(7, tcp(ip(false, true), 1, 0, true, &[7; 50]))),
        ("tcp6_extended", seed(99, tcp(ip(true, true), 1, u32::MAX - 50, true, &[7; 200]))),
        ("udp4", seed(100, udp(ip(false, false), 1, &[7; 300]))),
        ("udp6", seed(33, udp(ip(true, false), 1, &[7; 100]))),
        // As long as the kernel makes them.
        ("tcp4_longest", seed(1_448, tcp(ip(false, false), 0xfff0, u32::MAX - 10_000, true, &[7; 65_535 - 52]))),
        ("partial", seed(0, udp(ip(false, false), 1, &[7; 33]))),
        ("finished", [&[0, 0, 0][..], &tcp(ip(false, false), 1, 7, true, b"x")].concat()),
    ]
}

fn coalesce() -> Seeds {
    let batch = |packets: &[Vec<u8>]| {
        let seed =
            |packet: &Vec<u8>| [&u16::try_from(packet.len()).expect("short").to_be_bytes()[..], &[1], packet].concat();
        packets.iter().flat_map(seed).collect::<Vec<u8>>()
    };
    let stream = |six: bool, extended: bool| -> Vec<_> {
        let packet =
            |i: u16| tcp(ip(six, extended), i, u32::from(i) * 40, i == 3, &vec![7; if i == 3 { 20 } else { 40 }]);
        (0..4).map(packet).collect()
    };
    // One more than fit into a super-packet.
    let longest: Vec<_> =
        (1..=46).map(|i| tcp(ip(false, false), i, u32::from(i) * 1_448, false, &[7; 1_448])).collect();
    let datagrams = |six: bool| -> Vec<_> { (0..4).map(|i| udp(ip(six, false), i, &[7; 30])).collect() };
    let interleaved: Vec<_> =
        stream(false, false).into_iter().zip(datagrams(false)).flat_map(|(a, b)| [a, b]).collect();
    vec![
        ("tcp4", batch(&stream(false, false))),
        ("tcp4_options", batch(&stream(false, true))),
        ("tcp6_extended", batch(&stream(true, true))),
        ("tcp4_longest", batch(&longest)),
        ("udp4", batch(&datagrams(false))),
        ("udp6", batch(&datagrams(true))),
        ("interleaved", batch(&interleaved)),
    ]
}

fn rewrite() -> Seeds {
    let seed = |flags: u8, packet: &[u8]| [&[flags, 0x11, 0x22, 0x33, 0x44], packet].concat();
    packets().into_iter().map(|(name, packet)| (name, seed(if name.contains('6') { 2 } else { 3 }, &packet))).collect()
}

fn wireguard() -> Seeds {
    vec![
        ("in_order", vec![0, 0, 100, 0, 1, 0, 0, 0, 7, 1, 2, 6, 3, 1, 4]),
        ("again_and_altered", vec![0, 0, 100, 1, 2, 6, 2, 2, 2, 0, 5, 1, 2, 2, 0, 17, 8, 2, 0, 0, 40, 1]),
        ("rekeyed", vec![0, 0, 9, 4, 130, 0, 0, 9, 5, 0, 0, 9, 1, 2, 1, 4, 4, 200, 1, 3, 4, 255, 0, 0, 9]),
        ("forged", [&[3, 32, 4, 0, 0, 0, 0, 2, 0, 0, 0][..], &[0; 24]].concat()),
    ]
}

fn dns() -> Seeds {
    let query = |name: &str, kind| {
        let mut query = Message::new(0x1234, MessageType::Query, OpCode::Query);
        query.metadata.recursion_desired = true;
        query.add_query(Query::query(Name::from_ascii(name).expect("a name"), kind));
        query
    };
    let bytes = |query: &Message| query.to_vec().expect("a message");
    let mut extended = query("nothing.postern.internal.", RecordType::AAAA);
    extended.edns = Some(hickory_proto::op::Edns::new());
    // A space in a name, as printers have them.
    let unspeakable = bytes(&query("a-b.postern.internal.", RecordType::A));
    let unspeakable = unspeakable.into_iter().map(|byte| if byte == b'-' { b' ' } else { byte }).collect();
    vec![
        ("resource", bytes(&query("wiki.postern.internal.", RecordType::A))),
        ("alias", bytes(&query("wiki.example.com.", RecordType::AAAA))),
        ("other_type", bytes(&query("wiki.postern.internal.", RecordType::MX))),
        ("zone", bytes(&query("postern.internal.", RecordType::SOA))),
        ("missing", bytes(&extended)),
        ("elsewhere", bytes(&query("www.example.com.", RecordType::A))),
        ("unspeakable", unspeakable),
    ]
}

fn control() -> Seeds {
    // Without the length, which the target puts before it.
    fn seed<M: Serialize>(what: u8, message: &M) -> Vec<u8> {
        let frame = frame::encode(message, Limit::Coordinator).expect("short");
        [&[what, 0], &frame[4..]].concat()
    }
    let ranges = NetworkRanges::from_random([1, 2, 3, 4, 5]);
    let (device, resource, grant) =
        (DeviceId::from_bytes([2; 16]), ResourceId::from_bytes([1; 16]), GrantId::from_bytes([3; 16]));
    let candidates = vec![Candidate { addr: ([192, 0, 2, 1], 51_820).into(), kind: CandidateKind::Host }];
    let filter = Filter { tcp: PortSet::Any, udp: "53,1000-2000".parse().expect("ports"), icmp: true };
    let lease = Duration::from_secs(600);
    let (device_addr, resource_addr) = (ranges.device(300).expect("inside"), ranges.resource(300).expect("inside"));
    let granted = Granted {
        grant,
        resource,
        filter: filter.clone(),
        lease,
        gateway: PublicKey([7; 32]),
        preshared_key: PresharedKey::new([9; 32]),
        candidates: candidates.clone(),
        relayed: None,
    };
    let install = InstallGrant {
        grant,
        client: PeerDevice {
            id: device,
            name: "laptop".to_owned(),
            user: Some("alice".to_owned()),
            addr: device_addr,
            wireguard: PublicKey([8; 32]),
        },
        preshared_key: PresharedKey::new([9; 32]),
        candidates: candidates.clone(),
        relayed: None,
        resource,
        resource_name: "wiki".parse().expect("a name"),
        resource_addr,
        target: "wiki.example.com".parse().expect("a target"),
        filter: filter.clone(),
        lease,
        queried: Some("wiki.postern.internal".parse().expect("a name")),
    };
    let entry = CatalogueEntry {
        id: resource,
        name: "wiki".parse().expect("a name"),
        aliases: vec!["wiki.example.com".parse().expect("a name")],
        addr: resource_addr,
        filter: filter.clone(),
    };
    let welcome = Welcome {
        revision: Revision(1),
        device,
        name: "laptop".to_owned(),
        user: Some("alice".to_owned()),
        site: None,
        addr: device_addr,
        ranges,
        zone: "postern.internal".parse().expect("a name"),
        catalogue: vec![entry.clone()],
        granted: vec![granted.clone()],
        installed: vec![install.clone()],
        renew_certificate_in: lease,
        checks: vec![],
        relays: vec![],
        relay_pass: None,
    };
    let hello = Hello {
        instance: [1; 16],
        wireguard_port: 51_820,
        candidates: candidates.clone(),
        relay: None,
        posture: Posture::default(),
    };
    let enrol = Enrol {
        token: TokenId::from_bytes([4; 16]),
        secret: SecretBytes::new([5; 32]),
        csr: vec![0x30, 0],
        wireguard: PublicKey([8; 32]),
        posture: Posture::default(),
    };
    let explained = ExplainReply {
        open: filter,
        reason: Some(DenyReason::NoPolicy),
        ways: vec![vec![Lack { test: "posture.disk_encrypted".to_owned(), is_known: true, hint: "x".to_owned() }]],
        has_untold: false,
    };
    let installed = NodeMessage::GrantInstalled { grant, cut: 1 };
    // Two whole frames, which arrive in pieces.
    let stream: Vec<u8> = [&installed, &NodeMessage::Settled { revision: Revision(7) }]
        .into_iter()
        .flat_map(|message| frame::encode(message, Limit::Node).expect("short"))
        .collect();
    vec![
        ("hello", seed(0, &Opening::Hello(hello))),
        ("enrol", seed(0, &Opening::Enrol(enrol))),
        ("access", seed(0, &Opening::AccessRequest(AccessRequest { resource, queried: None }))),
        ("explain", seed(0, &Opening::Explain(ExplainRequest { resource }))),
        ("installed", seed(1, &installed)),
        ("candidates", seed(1, &NodeMessage::Candidates { candidates })),
        ("stream", [&[1, 3][..], &stream].concat()),
        ("welcome", seed(2, &CoordinatorMessage::Welcome(Box::new(welcome)))),
        (
            "catalogue",
            seed(2, &CoordinatorMessage::Catalogue { revision: Revision(2), put: vec![entry], removed: vec![] }),
        ),
        ("install", seed(2, &CoordinatorMessage::InstallGrant(Box::new(install)))),
        ("revoke", seed(2, &CoordinatorMessage::RevokeGrant { grant, reason: DenyReason::NoPolicy })),
        ("refused", seed(3, &EnrolReply::Refused(EnrolRefusal::Expired))),
        ("granted", seed(4, &AccessReply::Granted(granted))),
        ("explained", seed(5, &explained)),
    ]
}

fn token() -> Seeds {
    let token = JoinToken {
        coordinator: "coordinator.example.com:8443".parse::<HostPort>().expect("a place"),
        pin: Sha256([1; 32]),
        id: TokenId::from_bytes([2; 16]),
        secret: SecretBytes::new([3; 32]),
    };
    vec![
        ("token", token.expose().as_bytes().to_vec()),
        ("cut", token.expose().as_bytes()[..100].to_vec()),
        ("key", b"postern-key-AQEBAQ".to_vec()),
        ("name", b"coordinator.example.com:8443".to_vec()),
        ("addr4", b"203.0.113.5:8443".to_vec()),
        ("addr6", b"[2001:db8::5]:8443".to_vec()),
        ("target", b"10.0.0.5".to_vec()),
    ]
}

fn stun() -> Seeds {
    let seed = |datagram: &[u8]| [&[192, 0, 2, 1, 0x0f, 0xa0][..], datagram].concat();
    let request = stun::request(Transaction::new([7; 12]));
    let answer = |from: &str| stun::answer(&request, from.parse().expect("an address")).expect("an answer");
    // SOFTWARE, as others send it.
    let mut longer = [&request[..], &[0x80, 0x22, 0, 4, b't', b'e', b's', b't']].concat();
    longer[3] = 8;
    vec![
        ("request", seed(&request)),
        ("longer", seed(&longer)),
        ("answer4", seed(&answer("192.0.2.1:4000"))),
        ("answer6", seed(&answer("[2001:db8::1]:4000"))),
        ("wireguard", seed(&[&[4, 0, 0, 0][..], &request[4..], &[0; 12]].concat())),
    ]
}
