//! The engine alone, on one core, without a system call: `make bench BENCH=engine`.
//!
//! What a gateway does for packets from its clients (admit, open, check, join, decide, translate) and to them (decide,
//! translate, cut, seal), as a share of what the cipher alone would do on the same core in the same minute; and what many
//! flows and grants cost.

mod scene;

use std::{
    net::{Ipv4Addr, SocketAddr},
    num::NonZeroU16,
    ops::Range,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use etherparse::{PacketBuilder, TcpHeader};
use postern_engine::{Accepted, Arrival, Endpoint, Opened};
use postern_model::PublicKey;
use postern_packet::{Coalescer, Ecn, HEADROOM, Offload, PacketBuf, Parsed, Split, parse, set_partial_checksum};
use postern_wireguard::{HEADER, OVERHEAD, Plain, receiver_index};
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use serde_json::json;

use self::scene::{MTU, PORT, Scene, Sink, TARGET, resource};
use crate::{
    figures::{now, table},
    network::pick,
};

/// Payload of a full TCP segment: of the MTU, less IPv4, TCP and its timestamps.
const MSS: usize = MTU as usize - 20 - 32;
/// What the kernel joins of one flow at a time.
const BATCH: usize = 44;
/// How long each thing is measured, five times, of which the best counts: what else the machine does only makes it slower.
const ROUND: Duration = Duration::from_millis(300);
const ROUNDS: u32 = 5;

/// Many flows, as a large gateway has them.
const CLIENTS: u32 = 10;
const GRANTS: u32 = 10_000;
const FLOWS: u32 = 100_000;
/// The few that they are compared with.
const FEW: u32 = 64;

pub(crate) fn run(print_json: bool) -> Result<()> {
    let aead = Aead { seal: cipher(true)?, open: cipher(false)? };
    let bulk_in = bulk_in()?;
    let bulk_out = bulk_out()?;
    let few = scattered(1, FEW, FEW)?;
    let live = scattered(GRANTS / CLIENTS, FLOWS, FEW)?;
    let many = scattered(GRANTS / CLIENTS, FLOWS, FLOWS)?;
    let of = |cipher: Duration, engine: Duration| cipher.as_secs_f64() / engine.as_secs_f64() * 100.0;
    let gbits = |time: Duration| f64::from(MTU) * 8.0 / time.as_secs_f64() / 1e9;
    let row = |what: &str, time: Duration, share: Option<f64>| {
        vec![
            what.to_owned(),
            format!("{:.0} ns", time.as_secs_f64() * 1e9),
            format!("{:.1} Gbit/s", gbits(time)),
            share.map_or_else(String::new, |share| format!("{share:.0} %")),
        ]
    };
    println!("ChaCha20-Poly1305 and the engine, one core, {MTU} bytes a packet:");
    table(
        &["", "a packet", "", "of the cipher"],
        &[
            row("cipher: seal", aead.seal, None),
            row("cipher: open", aead.open, None),
            row("engine: to TUN, super-packets", bulk_in, Some(of(aead.open, bulk_in))),
            row("engine: from TUN, super-packets", bulk_out, Some(of(aead.seal, bulk_out))),
            row("engine: to TUN, each of another flow", few, Some(of(aead.open, few))),
            row("the same, with 100,000 others live", live, Some(of(aead.open, live))),
            row("the same, with 100,000 in use", many, Some(of(aead.open, many))),
        ],
    );
    let slower = |time: Duration| (time.as_secs_f64() / few.as_secs_f64() - 1.0) * 100.0;
    println!(
        "100,000 live flows under 10,000 grants: {:+.1} % time a packet when {FEW} are in use, {:+.1} % when all are",
        slower(live),
        slower(many),
    );
    if print_json {
        let ns = |time: Duration| time.as_nanos();
        println!(
            "{}",
            json!({
                "packet_bytes": MTU,
                "cipher_ns": { "seal": ns(aead.seal), "open": ns(aead.open) },
                "engine_ns": { "in": ns(bulk_in), "out": ns(bulk_out), "few_flows": ns(few), "live_flows": ns(live), "many_flows": ns(many) },
                "share_of_cipher": { "in": of(aead.open, bulk_in) / 100.0, "out": of(aead.seal, bulk_out) / 100.0 },
                "live_flows_slower": slower(live) / 100.0,
                "many_flows_slower": slower(many) / 100.0,
            })
        );
    }
    Ok(())
}

struct Aead {
    seal: Duration,
    open: Duration,
}

/// The cipher alone, for one packet.
fn cipher(seals: bool) -> Result<Duration> {
    let key = UnboundKey::new(&CHACHA20_POLY1305, &[7; 32]).ok().context("it is a key")?;
    let key = LessSafeKey::new(key);
    let nonce = || Nonce::assume_unique_for_key([0; 12]);
    let mut buffers = vec![vec![1_u8; MTU.into()]; BATCH];
    for buffer in &mut buffers {
        key.seal_in_place_append_tag(nonce(), Aad::empty(), buffer).ok().context("it seals")?;
    }
    let sealed = buffers.clone();
    best(BATCH, || {
        buffers.clone_from(&sealed);
        let start = now();
        for buffer in &mut buffers {
            let done = if seals {
                key.seal_in_place_separate_tag(nonce(), Aad::empty(), &mut buffer[..MTU.into()]).is_ok()
            } else {
                key.open_in_place(nonce(), Aad::empty(), buffer).is_ok()
            };
            std::hint::black_box(done);
        }
        Ok(start.elapsed())
    })
}

/// The time for one of `count` things, which `measure` does at once.
fn best(count: usize, mut measure: impl FnMut() -> Result<Duration>) -> Result<Duration> {
    let mut best = Duration::MAX;
    for _ in 0..ROUNDS {
        let (begun, mut total, mut turns) = (now(), Duration::ZERO, 0_u32);
        while begun.elapsed() < ROUND {
            total += measure()?;
            turns += 1;
        }
        best = best.min(total / turns / u32::try_from(count)?);
    }
    Ok(best)
}

/// A TCP super-packet.
fn super_packet(src: Ipv4Addr, dst: Ipv4Addr, ports: (u16, u16)) -> Result<(Vec<u8>, Offload)> {
    let mut tcp = TcpHeader::new(ports.0, ports.1, 1000, 1000);
    (tcp.ack, tcp.acknowledgment_number) = (true, 1);
    tcp.set_options_raw(&[1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2])?;
    let mut packet = Vec::new();
    let builder = PacketBuilder::ipv4(src.octets(), dst.octets(), 64).tcp_header(tcp);
    builder.write(&mut packet, &vec![0x5a; BATCH * MSS])?;
    let segment = NonZeroU16::new(u16::try_from(MSS)?);
    Ok((packet, Offload { is_partial: true, segment }))
}

/// The packets that a super-packet stands for.
fn cut(packet: &[u8], offload: Offload) -> Result<Vec<Vec<u8>>> {
    let mut split = Split::new(packet, &parse(packet)?, offload)?;
    let mut out = vec![0; split.longest()];
    let mut packets = Vec::new();
    while let Some(len) = split.next(&mut out) {
        packets.push(out[..len].to_vec());
    }
    Ok(packets)
}

/// A client's TCP stream through the gateway.
fn bulk_in() -> Result<Duration> {
    let mut scene = Scene::new(1, 1);
    let (packet, offload) = super_packet(scene.clients[0].own.v4, resource(0).v4, (4000, PORT))?;
    let packets = cut(&packet, offload)?;
    let mut work = Work::default();
    best(BATCH, || {
        work.fill(&mut scene, packets.iter().map(|packet| (0, packet.as_slice())));
        let start = now();
        let passed = work.take(&mut scene);
        let elapsed = start.elapsed();
        ensure!(passed == BATCH, "{passed} of {BATCH} packets passed");
        Ok(elapsed)
    })
}

/// A TCP stream to a client.
fn bulk_out() -> Result<Duration> {
    let mut scene = Scene::new(1, 1);
    let own = scene.clients[0].own.v4;
    let (opening, _) = super_packet(own, resource(0).v4, (4000, PORT))?;
    let (packet, offload) = super_packet(TARGET, own, (PORT, 4000))?;
    let mut work = Work::default();
    let first = cut(&opening, offload)?.remove(0);
    work.fill(&mut scene, [(0, first.as_slice())].into_iter());
    ensure!(work.take(&mut scene) == 1, "the flow opens");
    let mut buffer = vec![0; HEADROOM + packet.len()];
    let mut datagram = vec![0; BATCH * (usize::from(MTU) + OVERHEAD)];
    best(BATCH, || {
        buffer[HEADROOM..].copy_from_slice(&packet);
        let mut sealed = 0;
        let start = now();
        let packet = PacketBuf::new(&mut buffer, HEADROOM).context("there is room")?;
        let departure = scene.gateway.depart(packet, offload, &mut Sink::default(), scene.now);
        let mut departure = departure.context("it may pass")?;
        let mut at = 0;
        while let Some(len) = departure.packets.next(&mut datagram[at + HEADER..]) {
            at += departure.sealer.seal(&mut datagram[at..], len).context("it is sealed")?;
            sealed += 1;
        }
        let elapsed = start.elapsed();
        ensure!(sealed == BATCH, "{sealed} of {BATCH} packets passed");
        Ok(elapsed)
    })
}

/// Datagrams of ten clients, each of another flow than the one before: of so many that are in use, of all that are live.
fn scattered(grants_each: u32, flows: u32, in_use: u32) -> Result<Duration> {
    let mut scene = Scene::new(CLIENTS, grants_each);
    let flow = |scene: &Scene, nth: u32| -> Result<(usize, Vec<u8>)> {
        let grants = CLIENTS * grants_each;
        let (grant, port) = (nth % grants, 10_000 + u16::try_from(nth / grants)?);
        let client = usize::try_from(grant / grants_each)?;
        let mut packet = Vec::new();
        let builder = PacketBuilder::ipv4(scene.clients[client].own.v4.octets(), resource(grant).v4.octets(), 64);
        builder.udp(port, PORT).write(&mut packet, &[0x5a; MTU as usize - 28])?;
        Ok((client, packet))
    };
    let mut work = Work::default();
    for nth in 0..flows {
        let (client, packet) = flow(&scene, nth)?;
        work.fill(&mut scene, [(client, packet.as_slice())].into_iter());
        ensure!(work.take(&mut scene) == 1, "flow {nth} of {flows} opens");
    }
    let mut turn = 0;
    best(BATCH, || {
        let packets = (0..BATCH as u64).map(|_| {
            turn += 1;
            flow(&scene, pick(turn, in_use))
        });
        let packets = packets.collect::<Result<Vec<_>>>()?;
        work.fill(&mut scene, packets.iter().map(|(client, packet)| (*client, packet.as_slice())));
        let start = now();
        let passed = work.take(&mut scene);
        let elapsed = start.elapsed();
        ensure!(passed == BATCH, "{passed} of {BATCH} packets passed");
        Ok(elapsed)
    })
}

/// A batch of datagrams, and what a lane does with one.
#[derive(Default)]
struct Work {
    buffer: Vec<u8>,
    datagrams: Vec<(SocketAddr, Range<usize>)>,
    arrivals: Vec<Arrival>,
    /// Which datagram, who opens it, and what was inside.
    opened: Vec<(usize, usize, Option<Plain>)>,
    inner: Vec<(Range<usize>, Parsed, PublicKey)>,
    coalescer: Coalescer,
    senders: Vec<PublicKey>,
}

impl Work {
    /// Seals packets, each by the client of that number.
    fn fill<'a>(&mut self, scene: &mut Scene, packets: impl Iterator<Item = (usize, &'a [u8])>) {
        self.buffer.clear();
        self.datagrams.clear();
        for (client, packet) in packets {
            let client = &mut scene.clients[client];
            let start = self.buffer.len() + HEADROOM;
            self.buffer.extend(client.seal(packet, scene.now));
            self.datagrams.push((client.at, start..self.buffer.len()));
        }
    }

    /// Passes the batch on, in the steps of a lane; how many packets passed.
    fn take(&mut self, scene: &mut Scene) -> usize {
        let Self { buffer, datagrams, arrivals, opened, inner, coalescer, senders } = self;
        let (gateway, now, sink) = (&mut scene.gateway, scene.now, &mut Sink::default());
        arrivals.clear();
        opened.clear();
        inner.clear();
        for (nth, (from, place)) in datagrams.iter().enumerate() {
            let datagram = &buffer[place.clone()];
            let is_known = |arrival: &&Arrival| Some(arrival.opener.index()) == receiver_index(datagram);
            if arrivals.last().filter(is_known).is_none() {
                arrivals.extend(gateway.admit((*from).into(), datagram, sink, now));
            }
            opened.push((nth, arrivals.len() - 1, None));
        }
        for (nth, arrival, plain) in opened.iter_mut() {
            *plain = arrivals[*arrival].opener.open(&mut buffer[datagrams[*nth].1.clone()]).ok();
        }
        for (nth, arrival, plain) in opened.iter() {
            let ((from, place), arrival, Some(plain)) = (&datagrams[*nth], &arrivals[*arrival], *plain) else {
                continue;
            };
            let from = Endpoint::Direct(*from);
            let opened = Opened::new(from, &buffer[place.clone()], plain);
            if gateway.accept(arrival, &opened, sink, now) == Accepted::Packet {
                let place = place.start + HEADER..place.start + HEADER + plain.len;
                let packet = &mut buffer[place.clone()];
                let parsed = gateway.unwrap_packet(&arrival.peer, from, packet, Ecn::NotCapable, sink, now);
                inner.extend(parsed.map(|parsed| (place, parsed, arrival.peer)));
            }
        }
        coalescer.set_joins(true, true);
        coalescer.clear();
        senders.clear();
        let mut last = None;
        for (place, parsed, peer) in &*inner {
            if last.replace(peer) != Some(peer) {
                coalescer.divide();
            }
            coalescer.push(buffer, place.clone(), *parsed);
            senders.resize(coalescer.runs().len(), *peer);
        }
        coalescer.finish(buffer);
        let mut passed = 0;
        for (run, peer) in coalescer.runs().iter().zip(&*senders) {
            let Some(mut packet) = PacketBuf::new(&mut buffer[..run.head.end], run.head.start) else { continue };
            let parsed = gateway.arrive(peer, &mut packet, &run.parsed, run.offload, sink, now);
            if let Some(parsed) = parsed {
                if run.offload.is_partial {
                    set_partial_checksum(packet.bytes_mut(), &parsed);
                }
                passed += run.packets;
            }
        }
        passed
    }
}
