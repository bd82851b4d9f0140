//! The kernel as the judge of what is joined: it forwards super-packets to an interface that takes none, and has to cut them
//! into the very packets that they were made of; so does `Split`.
#![allow(unsafe_code)]

use std::{
    fs::{File, OpenOptions},
    io::{self, Read as _, Write as _},
    os::{fd::AsRawFd as _, unix::fs::OpenOptionsExt as _},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};
use etherparse::{
    IpHeaders, Ipv4Header, Ipv6Extensions, Ipv6Header, Ipv6RawExtHeader, PacketBuilder, TcpHeader, ip_number,
};
use postern_lab::{Lab, eventually, process::run, topology::ip};
use postern_packet::{Coalescer, Run, Split, Transport, parse, set_partial_checksum};

/// Set in the process that runs within the namespace.
const INSIDE: &str = "POSTERN_LAB_INSIDE";

#[test]
fn the_kernel_cuts_what_was_joined_into_the_same_packets() -> Result<()> {
    if std::env::var_os(INSIDE).is_some() {
        return check_all();
    }
    let mut lab = Lab::new()?;
    let router = lab.host("router")?;
    let program = std::env::current_exe()?;
    let mut command = router.command(program.to_str().context("the path of this test")?);
    command.env(INSIDE, "1");
    command.args(["--exact", "the_kernel_cuts_what_was_joined_into_the_same_packets", "--nocapture"]);
    let output = run(&mut command)?.success()?;
    ensure!(output.contains("1 passed"), "it ran: {output}");
    Ok(())
}

/// Packets of one flow, each of which continues the one before it.
#[derive(Debug, Clone, Copy)]
struct Flow {
    six: bool,
    tcp: bool,
    /// With an IPv6 extension header.
    extended: bool,
    segment: usize,
    count: usize,
    /// What the last one is shorter by.
    short: usize,
    fin: bool,
    psh: bool,
    cwr: bool,
}

const HOPS: u8 = 61;

impl Flow {
    /// One of its packets, built on its own.
    fn packet(&self, number: usize, hops: u8) -> Vec<u8> {
        let is_last = number + 1 == self.count;
        let len = self.segment - if is_last { self.short } else { 0 };
        let payload: Vec<u8> = (0..len).map(|at| (at * 7 + number * 13) as u8).collect();
        let builder = PacketBuilder::ip(self.ip(number, hops));
        let mut out = Vec::new();
        if self.tcp {
            // Sequence numbers wrap on the way.
            let seq = (u32::MAX - 1_000).wrapping_add((number * self.segment) as u32);
            let mut header = TcpHeader::new(4_000, 80, seq, 512);
            (header.ack, header.acknowledgment_number) = (true, 9);
            (header.fin, header.psh) = (is_last && self.fin, is_last && self.psh);
            (header.cwr, header.ece) = (number == 0 && self.cwr, self.cwr);
            header.set_options_raw(&[1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2]).expect("timestamps");
            builder.tcp_header(header).write(&mut out, &payload).expect("a packet");
        } else {
            builder.udp(4_000, 53).write(&mut out, &payload).expect("a packet");
        }
        out
    }

    fn ip(&self, number: usize, hops: u8) -> IpHeaders {
        if !self.six {
            let mut header = Ipv4Header { source: [10, 0, 0, 1], destination: [10, 0, 1, 1], ..Ipv4Header::default() };
            // The identification wraps too.
            (header.identification, header.time_to_live) = (0xfff0_u16.wrapping_add(number as u16), hops);
            header.dont_fragment = self.psh;
            header.ecn = 2.try_into().expect("two bits");
            return IpHeaders::Ipv4(header, etherparse::Ipv4Extensions::default());
        }
        let header = Ipv6Header {
            source: "fd00::1".parse::<std::net::Ipv6Addr>().expect("an address").octets(),
            destination: "fd00:0:0:1::1".parse::<std::net::Ipv6Addr>().expect("an address").octets(),
            hop_limit: hops,
            traffic_class: 2,
            ..Ipv6Header::default()
        };
        let options = Ipv6RawExtHeader::new_raw(ip_number::UDP, &[1, 4, 0, 0, 0, 0]).expect("an extension header");
        let hop_by_hop_options = self.extended.then_some(options);
        IpHeaders::Ipv6(header, Ipv6Extensions { hop_by_hop_options, ..Ipv6Extensions::default() })
    }
}

fn flows() -> Vec<Flow> {
    let mut flows = Vec::new();
    for (six, tcp, extended) in [
        (false, false, false),
        (false, true, false),
        (true, false, false),
        (true, true, false),
        (true, false, true),
        (true, true, true),
    ] {
        for (segment, count) in [(1, 100), (7, 3), (536, 128), (1_000, 2), (1_399, 40), (8_000, 9)] {
            for bits in 0..16 {
                let short = if bits & 1 == 0 { 0 } else { segment / 2 };
                let (fin, psh, cwr) = (bits & 2 != 0, bits & 4 != 0, bits & 8 != 0);
                flows.push(Flow { six, tcp, extended, segment, count, short, fin, psh, cwr });
            }
        }
    }
    flows
}

fn check_all() -> Result<()> {
    let (mut taking, mut giving) = (tun("joined", true)?, tun("single", false)?);
    let settings = ["net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1", "net.ipv4.conf.all.rp_filter=0"];
    run(Command::new("sysctl").arg("-qw").args(settings).arg("net.ipv4.conf.joined.rp_filter=0"))?.success()?;
    for device in ["joined", "single"] {
        ip(&["link", "set", device, "mtu", "9000", "up"])?;
    }
    ip(&["addr", "add", "10.0.0.254/24", "dev", "joined"])?;
    ip(&["addr", "add", "fd00::fe/64", "dev", "joined", "nodad"])?;
    ip(&["route", "add", "10.0.1.0/24", "dev", "single"])?;
    ip(&["route", "add", "fd00:0:0:1::/64", "dev", "single"])?;
    let mut coalescer = Coalescer::default();
    coalescer.set_joins(true, true);
    for flow in flows() {
        check(flow, &mut coalescer, &mut taking, &mut giving).with_context(|| format!("{flow:?}"))?;
    }
    Ok(())
}

fn check(flow: Flow, coalescer: &mut Coalescer, taking: &mut File, giving: &mut File) -> Result<()> {
    let packets: Vec<_> = (0..flow.count).map(|number| flow.packet(number, HOPS)).collect();
    let mut buffer = Vec::new();
    coalescer.clear();
    for packet in &packets {
        let at = buffer.len();
        buffer.extend_from_slice(packet);
        coalescer.push(&buffer, at..buffer.len(), parse(packet)?);
    }
    coalescer.finish(&mut buffer);
    let (mut cut, mut joined) = (Vec::new(), 0);
    for (number, run) in coalescer.runs().iter().enumerate() {
        if run.offload.is_partial {
            set_partial_checksum(&mut buffer[run.head.clone()], &run.parsed);
        }
        let mut whole = buffer[run.head.clone()].to_vec();
        whole.extend(coalescer.rest(number).flat_map(|piece| buffer[piece].to_vec()));
        taking.write_all(&[&vnet_header(run, &whole)[..], &whole].concat()).context("write a super-packet")?;
        let mut split = Split::new(&whole, &run.parsed, run.offload)?;
        let mut out = vec![0; split.longest()];
        while let Some(len) = split.next(&mut out) {
            cut.push(out[..len].to_vec());
        }
        joined += usize::from(run.packets > 1);
    }
    ensure!(joined > 0, "nothing was joined");
    ensure!(cut == packets, "what Split makes is something else");
    let expected: Vec<_> = (0..flow.count).map(|number| flow.packet(number, HOPS - 1)).collect();
    let mut forwarded = Vec::new();
    eventually("all packets come out", || {
        read_all(giving, flow.six, &mut forwarded)?;
        ensure!(forwarded.len() >= expected.len(), "{} of {}", forwarded.len(), expected.len());
        Ok(())
    })?;
    ensure!(forwarded == expected, "what the kernel makes is something else");
    Ok(())
}

/// The packets that have come of a test's; the kernel also says hello to the network.
fn read_all(device: &mut File, six: bool, packets: &mut Vec<Vec<u8>>) -> Result<()> {
    let mut buffer = vec![0; 65_536];
    loop {
        match device.read(&mut buffer) {
            Ok(len) => {
                let packet = &buffer[..len];
                if parse(packet).is_ok_and(|parsed| {
                    parsed.is_v6() == six && matches!(parsed.transport, Transport::Tcp | Transport::Udp)
                }) {
                    packets.push(packet.to_vec());
                }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error).context("read a packet"),
        }
    }
}

/// A `struct virtio_net_hdr`.
fn vnet_header(run: &Run, whole: &[u8]) -> [u8; 10] {
    const NEEDS_CSUM: u8 = 1;
    let Some(segment) = run.offload.segment else { return [0; 10] };
    let tcp = run.parsed.tcp(whole);
    let kind = match (&tcp, run.parsed.is_v6()) {
        (Some(_), false) => 1,
        (Some(_), true) => 4,
        (None, _) => 5,
    };
    let is_cwr = tcp.is_some() && whole[run.parsed.offset + 13] & 0x80 != 0;
    let head = run.parsed.offset + tcp.map_or(8, |segment| segment.header);
    let mut header = [NEEDS_CSUM, kind | if is_cwr { 0x80 } else { 0 }, 0, 0, 0, 0, 0, 0, 0, 0];
    let fields = [head as u16, segment.get(), run.parsed.offset as u16, if tcp.is_some() { 16 } else { 6 }];
    for (field, value) in header[2..].chunks_exact_mut(2).zip(fields) {
        field.copy_from_slice(&value.to_ne_bytes());
    }
    header
}

/// A TUN device, with a `virtio_net_hdr` in front of each packet and all offloads, or without any.
fn tun(name: &str, offloads: bool) -> Result<File> {
    let file = OpenOptions::new().read(true).write(true).custom_flags(libc::O_NONBLOCK).open("/dev/net/tun")?;
    // SAFETY: an ifreq is plain bytes; all zeros is one.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = libc::c_char::from_ne_bytes([from]);
    }
    let vnet = if offloads { libc::IFF_VNET_HDR } else { 0 };
    request.ifr_ifru.ifru_flags = (libc::IFF_TUN | libc::IFF_NO_PI | vnet) as libc::c_short;
    // SAFETY: the request is a whole ifreq, as TUNSETIFF wants it, and outlives the call.
    ensure!(unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &mut request) } == 0, "make {name}");
    Ok(file)
}
