//! That each router of the laboratory is what it is called: seen with plain sockets.
//!
//! ```text
//!        internet 203.0.113.0/24
//!     ┌──────────┬──────────┐
//!  router .2   one .11    two .12
//!     │ 192.168.1.1
//!  inside .10, beside .11
//! ```

use std::{
    net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream, UdpSocket},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use postern_lab::{
    Host, Lab, NatKind, Proxy, Router, Segment,
    nat::{Firewall, Rules, Side, Tcp},
    servers,
};

const PORT: u16 = 5000;
const OUTSIDE: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 2);
const ONE: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 11);
const TWO: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 12);

/// What is to come is waited for so long.
const PATIENCE: Duration = Duration::from_secs(10);
/// What is never to come is waited for so long.
const IN_VAIN: Duration = Duration::from_millis(300);

struct Scene {
    lab: Lab,
    internet: Segment,
    router: Router,
    inside: Host,
    beside: Host,
    one: Host,
    two: Host,
}

fn scene(rules: impl Into<Rules>) -> Result<Scene> {
    let mut lab = Lab::new()?;
    let internet = lab.segment("internet")?;
    let home = lab.segment("home")?;
    let outside = Side { segment: &internet, address: "203.0.113.2/24" };
    let inside = Side { segment: &home, address: "192.168.1.1/24" };
    let router = Router::new(&mut lab, "router", outside, None, inside, rules.into())?;
    let public = |lab: &mut Lab, name: &str, address: Ipv4Addr| {
        let host = lab.host(name)?;
        host.link("eth0", &internet, &[&format!("{address}/24")])?;
        anyhow::Ok(host)
    };
    let (one, two) = (public(&mut lab, "one", ONE)?, public(&mut lab, "two", TWO)?);
    let (inside, beside) = (lab.host("inside")?, lab.host("beside")?);
    router.connect(&inside, "eth0", "192.168.1.10/24")?;
    router.connect(&beside, "eth0", "192.168.1.11/24")?;
    Ok(Scene { lab, internet, router, inside, beside, one, two })
}

fn udp(host: &Host, port: u16) -> Result<UdpSocket> {
    host.within(|| {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port))?;
        socket.set_read_timeout(Some(PATIENCE))?;
        Ok(socket)
    })
}

fn at(address: Ipv4Addr, port: u16) -> SocketAddr {
    SocketAddrV4::new(address, port).into()
}

/// Sends a datagram and returns the address that its receiver sees.
fn seen(from: &UdpSocket, to: SocketAddr, by: &UdpSocket) -> Result<SocketAddr> {
    from.send_to(b"who am I?", to)?;
    let (len, source) = by.recv_from(&mut [0; 64]).with_context(|| format!("nothing came to {to}"))?;
    ensure!(len == 9);
    Ok(source)
}

/// Whether a datagram gets from one to the other. What is expected says only how long it is waited for.
fn passes(from: &UdpSocket, to: SocketAddr, receiver: &UdpSocket, expected: bool) -> Result<bool> {
    if !expected {
        receiver.set_read_timeout(Some(IN_VAIN))?;
    }
    from.send_to(b"may I?", to)?;
    let arrived = receiver.recv_from(&mut [0; 64]).is_ok();
    receiver.set_read_timeout(Some(PATIENCE))?;
    Ok(arrived)
}

/// Holds that a datagram gets there.
fn gets_in(from: &UdpSocket, to: SocketAddr, receiver: &UdpSocket) -> Result<()> {
    ensure!(passes(from, to, receiver, true)?, "nothing came to {to}");
    Ok(())
}

/// Holds that none does.
fn is_kept_out(from: &UdpSocket, to: SocketAddr, receiver: &UdpSocket) -> Result<()> {
    ensure!(!passes(from, to, receiver, false)?, "it came through to {to}");
    Ok(())
}

/// What RFC 4787 asks about: the ports that two destinations see, and who gets back in through the first of them.
#[derive(Debug, PartialEq, Eq)]
struct Behaviour {
    /// Both destinations, and a second port of one of them, see the same address and port.
    one_mapping: bool,
    /// Back in: from where the datagram went; from another port of that address; from another address.
    lets_in: [bool; 3],
}

fn behaviour(kind: NatKind, expected: &Behaviour) -> Result<Behaviour> {
    let scene = scene(kind)?;
    let inside = udp(&scene.inside, PORT)?;
    let (one, other_port, two) = (udp(&scene.one, 7000)?, udp(&scene.one, 7001)?, udp(&scene.two, 7000)?);

    // Nothing gets in before anything went out, but where nothing is translated.
    let own: SocketAddr = at(Ipv4Addr::new(192, 168, 1, 10), PORT);
    if kind == NatKind::None {
        for host in [&scene.one, &scene.two] {
            host.ip(&["route", "add", "192.168.1.0/24", "via", "203.0.113.2"])?;
        }
        gets_in(&two, own, &inside)?;
    } else {
        is_kept_out(&one, at(OUTSIDE, PORT), &inside)?;
    }

    let mapped = seen(&inside, at(ONE, 7000), &one)?;
    ensure!(mapped.ip() == if kind == NatKind::None { own.ip() } else { OUTSIDE.into() }, "seen as {mapped}");
    let mut lets_in = [false; 3];
    for (found, (from, expected)) in lets_in.iter_mut().zip([&one, &other_port, &two].into_iter().zip(expected.lets_in))
    {
        *found = passes(from, mapped, &inside, expected)?;
    }
    let mappings = [seen(&inside, at(ONE, 7001), &other_port)?, seen(&inside, at(TWO, 7000), &two)?];
    Ok(Behaviour { one_mapping: mappings.iter().all(|other| *other == mapped), lets_in })
}

#[test]
fn each_kind_maps_and_filters_as_its_name_says() -> Result<()> {
    for (kind, one_mapping, lets_in) in [
        (NatKind::None, true, [true, true, true]),
        (NatKind::FullCone, true, [true, true, true]),
        (NatKind::AddressRestricted, true, [true, true, false]),
        (NatKind::PortRestricted, true, [true, false, false]),
        (NatKind::Symmetric, false, [true, false, false]),
    ] {
        let expected = Behaviour { one_mapping, lets_in };
        let found = behaviour(kind, &expected).with_context(|| format!("{kind:?}"))?;
        ensure!(found == expected, "{kind:?}: {found:?}");
    }
    Ok(())
}

#[test]
fn what_was_refused_unasked_does_not_cost_the_host_its_port() -> Result<()> {
    // Both punch: the other one's datagram arrives, and is dropped, before the own one is sent.
    for kind in [NatKind::AddressRestricted, NatKind::PortRestricted] {
        let scene = scene(kind)?;
        let (inside, one) = (udp(&scene.inside, PORT)?, udp(&scene.one, 7000)?);
        is_kept_out(&one, at(OUTSIDE, PORT), &inside)?;
        ensure!(seen(&inside, at(ONE, 7000), &one)? == at(OUTSIDE, PORT), "{kind:?}");
        gets_in(&one, at(OUTSIDE, PORT), &inside)?;
    }
    Ok(())
}

#[test]
fn two_routers_with_a_hole_punched_in_each_let_both_through_where_theory_says_so() -> Result<()> {
    for kind in [NatKind::FullCone, NatKind::AddressRestricted, NatKind::PortRestricted, NatKind::Symmetric] {
        for other in [NatKind::AddressRestricted, NatKind::PortRestricted, NatKind::Symmetric] {
            let mut scene = scene(kind)?;
            let office = scene.lab.segment("office")?;
            let outside = Side { segment: &scene.internet, address: "203.0.113.3/24" };
            let inside = Side { segment: &office, address: "172.16.0.1/24" };
            let router = Router::new(&mut scene.lab, "second", outside, None, inside, other.into())?;
            let host = scene.lab.host("peer")?;
            router.connect(&host, "eth0", "172.16.0.2/24")?;
            let (here, there, server) = (udp(&scene.inside, PORT)?, udp(&host, PORT)?, udp(&scene.one, 3478)?);
            // Each learns its outside address from a server, as with STUN, and sends to the other's.
            let here_is = seen(&here, at(ONE, 3478), &server)?;
            let there_is = seen(&there, at(ONE, 3478), &server)?;
            here.send_to(b"hole", there_is)?;
            there.send_to(b"hole", here_is)?;
            for socket in [&here, &there] {
                socket.set_read_timeout(Some(IN_VAIN))?;
            }
            // Each answers where it hears the other from, or else tries the address that it was told.
            let mut met = false;
            let rounds = if kind.can_meet(other) { 20 } else { 2 };
            for _ in 0..rounds {
                for (socket, told) in [(&here, there_is), (&there, here_is)] {
                    match socket.recv_from(&mut [0; 64]) {
                        Ok((_, from)) => {
                            socket.send_to(b"answer", from)?;
                            met = true;
                        }
                        Err(_) => drop(socket.send_to(b"hole", told)?),
                    }
                }
                if met {
                    break;
                }
            }
            ensure!(met == kind.can_meet(other), "{kind:?} and {other:?}: met: {met}");
        }
    }
    Ok(())
}

#[test]
fn hairpin_reaches_a_neighbour_by_its_outside_address() -> Result<()> {
    for kind in [NatKind::FullCone, NatKind::AddressRestricted, NatKind::PortRestricted] {
        for hairpin in [false, true] {
            let rules = Rules::from(kind);
            let scene = scene(if hairpin { rules.with_hairpin() } else { rules })?;
            let (inside, beside) = (udp(&scene.inside, PORT)?, udp(&scene.beside, PORT + 1)?);
            let one = udp(&scene.one, 7000)?;
            let (inside_is, beside_is) = (seen(&inside, at(ONE, 7000), &one)?, seen(&beside, at(ONE, 7000), &one)?);
            if hairpin {
                ensure!(seen(&inside, beside_is, &beside)? == inside_is, "{kind:?}: seen from outside");
                gets_in(&beside, inside_is, &inside)?;
            } else {
                is_kept_out(&inside, beside_is, &beside)?;
            }
        }
    }
    Ok(())
}

#[test]
fn a_router_behind_a_router_translates_twice() -> Result<()> {
    let mut scene = scene(NatKind::Symmetric)?;
    let flat = scene.lab.segment("flat")?;
    let outside = Side { segment: scene.router.inside(), address: "192.168.1.20/24" };
    let inside = Side { segment: &flat, address: "10.7.0.1/24" };
    let inner =
        Router::new(&mut scene.lab, "inner", outside, Some("192.168.1.1"), inside, NatKind::PortRestricted.into())?;
    let host = scene.lab.host("phone")?;
    inner.connect(&host, "eth0", "10.7.0.2/24")?;
    let (phone, one, two) = (udp(&host, PORT)?, udp(&scene.one, 7000)?, udp(&scene.two, 7000)?);
    let mapped = seen(&phone, at(ONE, 7000), &one)?;
    ensure!(mapped.ip() == OUTSIDE, "{mapped}");
    gets_in(&one, mapped, &phone)?;
    is_kept_out(&two, mapped, &phone).context("the stricter of both decides")?;
    ensure!(seen(&phone, at(TWO, 7000), &two)? != mapped, "so for mapping");
    Ok(())
}

#[test]
fn a_rebound_router_gives_other_ports_and_a_renumbered_one_another_address() -> Result<()> {
    for kind in [NatKind::PortRestricted, NatKind::Symmetric] {
        let mut scene = scene(kind)?;
        let (inside, one, two) = (udp(&scene.inside, PORT)?, udp(&scene.one, 7000)?, udp(&scene.two, 7000)?);
        let mut known = vec![seen(&inside, at(ONE, 7000), &one)?];
        for _ in 0..2 {
            scene.router.rebind()?;
            let old = known[known.len() - 1];
            is_kept_out(&one, old, &inside).context("the old mapping is forgotten")?;
            let new = seen(&inside, at(ONE, 7000), &one)?;
            ensure!(new.ip() == OUTSIDE && !known.contains(&new), "{kind:?}: {new} after {known:?}");
            gets_in(&one, new, &inside)?;
            let same = seen(&inside, at(TWO, 7000), &two)? == new;
            ensure!(same == (kind == NatKind::PortRestricted), "{kind:?} is as before");
            known.push(new);
        }
    }
    for kind in [NatKind::FullCone, NatKind::AddressRestricted, NatKind::Symmetric] {
        let mut scene = scene(kind)?;
        let (inside, one) = (udp(&scene.inside, PORT)?, udp(&scene.one, 7000)?);
        let old = seen(&inside, at(ONE, 7000), &one)?;
        scene.router.renumber("203.0.113.99/24")?;
        let new = seen(&inside, at(ONE, 7000), &one)?;
        ensure!(new.ip() == Ipv4Addr::new(203, 0, 113, 99), "{kind:?}: {new}");
        gets_in(&one, new, &inside)?;
        is_kept_out(&one, old, &inside)?;
    }
    Ok(())
}

fn connects(from: &Host, to: SocketAddr) -> Result<()> {
    from.within(|| TcpStream::connect_timeout(&to, PATIENCE).map(drop).with_context(|| format!("no way to {to}")))
}

fn does_not_connect(from: &Host, to: SocketAddr) -> Result<()> {
    let reached = from.within(|| Ok(TcpStream::connect_timeout(&to, IN_VAIN).is_ok()))?;
    ensure!(!reached, "{to} was reached");
    Ok(())
}

#[test]
fn a_firewall_drops_what_it_is_to_drop_of_open_flows_too() -> Result<()> {
    let mut scene = scene(NatKind::PortRestricted)?;
    let (inside, one, two) = (udp(&scene.inside, PORT)?, udp(&scene.one, 7000)?, udp(&scene.two, 7000)?);
    let dns = udp(&scene.one, 53)?;
    let listen = |port| scene.one.within(move || Ok(TcpListener::bind((ONE, port))?));
    let _listeners = [listen(443)?, listen(80)?];
    let other = scene.two.within(|| Ok(TcpListener::bind((TWO, 443))?))?;

    let mapped = seen(&inside, at(ONE, 7000), &one)?;
    ensure!(seen(&inside, at(TWO, 7000), &two)?.ip() == OUTSIDE);
    scene.router.change(|rules| rules.firewall.cut = vec![ONE.into()])?;
    is_kept_out(&inside, at(ONE, 7000), &one)?;
    is_kept_out(&one, mapped, &inside)?;
    gets_in(&inside, at(TWO, 7000), &two)?;
    scene.router.change(|rules| rules.firewall.cut.clear())?;
    gets_in(&inside, at(ONE, 7000), &one)?;
    gets_in(&one, mapped, &inside)?;

    scene.router.change(|rules| rules.firewall.blocks_udp = true)?;
    is_kept_out(&inside, at(ONE, 7000), &one)?;
    is_kept_out(&one, mapped, &inside)?;
    seen(&inside, at(ONE, 53), &dns).context("names go on")?;
    connects(&scene.inside, at(ONE, 443)).context("and TCP")?;
    connects(&scene.inside, at(ONE, 80)).context("and TCP")?;

    let tcp = |tcp| Firewall { blocks_udp: true, tcp, ..Firewall::default() };
    scene.router.change(|rules| rules.firewall = tcp(Tcp::Ports(vec![443, 8443])))?;
    connects(&scene.inside, at(ONE, 443))?;
    does_not_connect(&scene.inside, at(ONE, 80))?;
    scene.router.change(|rules| rules.firewall = tcp(Tcp::To(TWO.into())))?;
    connects(&scene.inside, at(TWO, 443))?;
    does_not_connect(&scene.inside, at(ONE, 443))?;
    drop(other);
    Ok(())
}

#[test]
fn a_proxy_leads_out_of_a_network_that_lets_out_nothing_else() -> Result<()> {
    let mut scene = scene(NatKind::PortRestricted)?;
    let https = servers::nginx(&scene.one, 443, "by way of the proxy")?;
    let http = servers::nginx(&scene.one, 80, "forbidden")?;
    let proxy = Proxy::start(&scene.two, TWO.into(), 3128, &[443])?;
    let firewall = Firewall { blocks_udp: true, tcp: Tcp::To(TWO.into()), ..Firewall::default() };
    scene.router.change(|rules| rules.firewall = firewall)?;
    let curl =
        |words: &[&str]| scene.inside.run(&[&["curl", "-sS", "--max-time", "5", "--proxytunnel"], words].concat());

    let page = curl(&["-x", &proxy.url(), "http://203.0.113.11:443/"])?.success()?;
    ensure!(page.contains("by way of the proxy"), "{page}");
    ensure!(proxy.requests() == ["CONNECT 203.0.113.11:443 HTTP/1.1"], "{:?}", proxy.requests());
    let refused = curl(&["-x", &proxy.url(), "http://203.0.113.11:80/"])?;
    ensure!(!refused.ok() && refused.stderr.contains("403"), "{refused:?}");
    does_not_connect(&scene.inside, at(ONE, 443)).context("not without it")?;
    drop((https, http));
    Ok(())
}
