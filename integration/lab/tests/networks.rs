//! Networks as people meet them that are not just one router: two routers, the same network for both, and those that let out
//! next to nothing.

use std::net::IpAddr;

use anyhow::{Context as _, Result, ensure};
use postern_lab::{
    NatKind, NatOffice, Node, Proxy, Router, eventually,
    nat::{Firewall, Rules, Side, Tcp},
    nat_office::{has_path, peer},
    postern::PORT,
};

const WIKI: &str = "http://wiki.postern.internal/";
const CLOSED: &str = "http://wiki.postern.internal:22/";

/// What is open is, and what is closed stays so.
fn works(scene: &NatOffice, laptop: &Node) -> Result<()> {
    scene.office.is_open(WIKI).with_context(|| format!("the laptop: {}", laptop.log()))?;
    scene.office.is_closed(CLOSED)
}

#[test]
fn a_client_behind_two_routers() -> Result<()> {
    for (outer, inner) in [(NatKind::Symmetric, NatKind::PortRestricted), (NatKind::PortRestricted, NatKind::FullCone)]
    {
        let mut scene = NatOffice::new(outer, NatKind::None, &[])?;
        scene.office.open_wiki()?;
        let _gateway = scene.office.join_gateway()?;
        let flat = scene.office.lab.segment("flat")?;
        let outside = Side { segment: scene.client.inside(), address: "192.168.1.77/24" };
        let inside = Side { segment: &flat, address: "10.7.0.1/24" };
        let router =
            Router::new(&mut scene.office.lab, "inner-edge", outside, Some("192.168.1.1"), inside, inner.into())?;
        scene.office.laptop.unlink("eth0")?;
        router.connect(&scene.office.laptop, "eth0", "10.7.0.2/24")?;
        let laptop = scene.office.join_laptop()?;
        works(&scene, &laptop)?;
    }
    Ok(())
}

#[test]
fn client_and_gateway_in_one_private_network_meet_there() -> Result<()> {
    let mut scene = NatOffice::new(NatKind::PortRestricted, NatKind::PortRestricted, &[])?;
    scene.office.open_wiki()?;
    let _gateway = scene.office.join_gateway()?;
    scene.office.laptop.unlink("eth0")?;
    scene.site.connect(&scene.office.laptop, "eth0", "172.16.0.30/24")?;
    let laptop = scene.office.join_laptop()?;
    works(&scene, &laptop)?;
    eventually("the path is the private one", || {
        let peer = peer(&laptop)?;
        ensure!(peer["endpoint"].as_str().is_some_and(|at| at.starts_with("172.16.0.20:")), "{peer}");
        Ok(())
    })
}

#[test]
fn a_network_that_blocks_udp_and_all_ports_but_the_webs() -> Result<()> {
    let firewall = Firewall { blocks_udp: true, tcp: Tcp::Ports(vec![443, PORT]), ..Firewall::default() };
    let client = Rules::from(NatKind::PortRestricted).with_firewall(firewall);
    let mut scene = NatOffice::new(client, NatKind::PortRestricted, &[])?;
    scene.office.open_wiki()?;
    let _gateway = scene.office.join_gateway()?;
    let laptop = scene.office.join_laptop()?;
    works(&scene, &laptop)?;
    has_path(&laptop, "relayed")?;
    // It is left again when UDP works.
    scene.client.change(|rules| rules.firewall = Firewall::default())?;
    has_path(&laptop, "direct")?;
    works(&scene, &laptop)
}

#[test]
fn a_network_that_lets_out_nothing_but_through_its_proxy() -> Result<()> {
    let address: IpAddr = "203.0.113.60".parse()?;
    let firewall = Firewall { blocks_udp: true, tcp: Tcp::To(address), ..Firewall::default() };
    let client = Rules::from(NatKind::PortRestricted).with_firewall(firewall);
    let mut scene = NatOffice::new(client, NatKind::FullCone, &[])?;
    let host = scene.on_internet("proxy", 60)?;
    let proxy = Proxy::start(&host, address, 3128, &[443, PORT])?;
    scene.office.open_wiki()?;
    let _gateway = scene.office.join_gateway()?;

    let laptop = &scene.office.laptop;
    let token = scene.office.coordinator.token(&["--user", "alice"])?;
    let url = proxy.url();
    let environment = [("https_proxy", url.as_str()), ("HTTPS_PROXY", url.as_str())];
    let laptop = Node::start_with(laptop, laptop.dir().join("node"), &environment)?;
    laptop.up(Some(&token))?;
    works(&scene, &laptop)?;
    has_path(&laptop, "relayed")?;
    ensure!(!proxy.requests().is_empty(), "by way of the proxy");
    Ok(())
}

#[test]
fn a_network_without_ipv4() -> Result<()> {
    let mut scene = NatOffice::new(NatKind::PortRestricted, NatKind::FullCone, &[])?;
    scene.office.open_wiki()?;
    let _gateway = scene.office.join_gateway()?;
    let nat64 = scene.network_without_ipv4()?;
    scene.office.laptop.unlink("eth0")?;
    nat64.connect(&scene.office.laptop, "eth0", "2001:db8:64::2/64")?;
    nat64.set_resolver(&scene.office.laptop)?;
    let laptop = scene.office.join_laptop()?;
    works(&scene, &laptop)?;
    has_path(&laptop, "direct")?;
    drop(laptop);
    Ok(())
}
