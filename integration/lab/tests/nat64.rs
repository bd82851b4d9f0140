//! A network without IPv4: what its hosts reach through NAT64 and DNS64, and what they don't.

use std::{
    io::{Read as _, Write as _},
    net::{Ipv4Addr, Ipv6Addr, TcpListener, TcpStream, UdpSocket},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use postern_lab::{Host, Lab, Nat64, nat::Side, nat64::through_nat64, random::Random};

const POOL: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 64);
const ONE: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 11);
const TWO: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 12);
/// What is never to come is waited for so long.
const IN_VAIN: Duration = Duration::from_millis(300);

/// Declared so that the translation ends before its device is taken away.
struct Scene {
    nat64: Nat64,
    host: Host,
    one: Host,
    two: Host,
    _lab: Lab,
}

fn scene() -> Result<Scene> {
    let mut lab = Lab::new()?;
    let (internet, flat) = (lab.segment("internet")?, lab.segment("flat")?);
    let outside = Side { segment: &internet, address: "203.0.113.4/24" };
    let inside = Side { segment: &flat, address: "2001:db8:64::1/64" };
    let nat64 = Nat64::new(&mut lab, "nat64", outside, POOL, inside)?;
    let (one, two, host) = (lab.host("one")?, lab.host("two")?, lab.host("phone")?);
    one.link("eth0", &internet, &[&format!("{ONE}/24")])?;
    two.link("eth0", &internet, &[&format!("{TWO}/24")])?;
    nat64.connect(&host, "eth0", "2001:db8:64::2/64")?;
    Ok(Scene { nat64, host, one, two, _lab: lab })
}

fn udp4(host: &Host, port: u16) -> Result<UdpSocket> {
    host.within(|| Ok(UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port))?))
}

#[test]
fn udp_goes_out_and_back_and_not_in() -> Result<()> {
    let scene = scene()?;
    let host = scene.host.within(|| Ok(UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 5000))?))?;
    let (one, two) = (udp4(&scene.one, 7000)?, udp4(&scene.two, 7000)?);
    for socket in [&host, &one, &two] {
        socket.set_read_timeout(Some(Duration::from_secs(10)))?;
    }
    let mut bytes = [0; 2000];

    let refused = scene.host.within(|| Ok(UdpSocket::bind("0.0.0.0:0")?.send_to(b"no", (ONE, 7000)).is_err()))?;
    ensure!(refused, "there is no IPv4 at all");
    let mut mappings = Vec::new();
    for (socket, address) in [(&one, ONE), (&two, TWO)] {
        // As long as a datagram of the tunnel may be.
        host.send_to(&[7; 1400], (through_nat64(address), 7000))?;
        let (len, source) = socket.recv_from(&mut bytes).context("nothing came out")?;
        ensure!(len == 1400 && source.ip() == POOL, "{len} bytes from {source}");
        socket.send_to(b"back", source)?;
        let (len, source) = host.recv_from(&mut bytes).context("nothing came back")?;
        ensure!(&bytes[..len] == b"back" && source.ip() == through_nat64(address), "{source}");
        mappings.push(source);
    }

    scene.nat64.forget();
    host.send_to(b"again", (through_nat64(ONE), 7000))?;
    let (_, source) = one.recv_from(&mut bytes)?;
    host.set_read_timeout(Some(IN_VAIN))?;
    two.send_to(b"unasked", source)?;
    ensure!(host.recv_from(&mut bytes).is_err(), "who was sent nothing does not get in");
    one.send_to(b"asked", source)?;
    ensure!(host.recv_from(&mut bytes).is_ok());
    Ok(())
}

#[test]
fn tcp_carries_megabytes_both_ways_past_the_longer_header() -> Result<()> {
    let scene = scene()?;
    let listener = scene.one.within(|| Ok(TcpListener::bind((ONE, 80))?))?;
    let mut content = vec![0; 4 << 20];
    Random::new(9).fill(&mut content);
    let echo = thread::spawn(move || {
        let (mut stream, from) = listener.accept()?;
        let mut received = vec![0; 4 << 20];
        stream.read_exact(&mut received)?;
        stream.write_all(&received)?;
        anyhow::Ok(from)
    });
    let mut stream = scene.host.within(|| Ok(TcpStream::connect((through_nat64(ONE), 80))?))?;
    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
    stream.write_all(&content)?;
    let mut back = vec![0; content.len()];
    stream.read_exact(&mut back)?;
    ensure!(back == content, "byte for byte");
    ensure!(echo.join().expect("the echo ends")?.ip() == POOL);
    let closed = scene.host.within(|| Ok(TcpStream::connect((through_nat64(ONE), 81))))?;
    ensure!(closed.is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionRefused), "a reset comes back too");
    Ok(())
}

#[test]
fn ping_and_names_work_and_tell_the_prefix() -> Result<()> {
    let scene = scene()?;
    let _dns = scene.nat64.dns64(&[("vpn.example.com", ONE)])?;
    scene.nat64.set_resolver(&scene.host)?;
    let dig = |name: &str| {
        let output = scene.host.run(&["dig", "+short", "+tries=1", "+time=5", name, "AAAA"])?.success()?;
        let mut answers: Vec<_> = output.lines().map(str::to_owned).collect();
        answers.sort();
        anyhow::Ok(answers)
    };
    ensure!(dig("vpn.example.com")? == [through_nat64(ONE).to_string()]);
    let prefix = dig("ipv4only.arpa")?;
    ensure!(prefix == ["64:ff9b::c000:aa", "64:ff9b::c000:ab"], "{prefix:?}");
    ensure!(dig("unknown.example.com")?.is_empty());
    let ping = scene.host.run(&["ping", "-c", "2", "-i", "0.2", "-W", "5", "vpn.example.com"])?.success()?;
    ensure!(ping.contains(" 0% packet loss"), "{ping}");
    Ok(())
}
