//! What becomes of open connections when the network changes under them: a download and an ssh session live through it, with not
//! a byte wrong. How soon they go on is printed (`--nocapture`) and decides nothing.

use std::{net::IpAddr, time::Duration};

use anyhow::{Context as _, Result, ensure};
use postern_lab::{
    Coordinator, LiveTraffic, NatKind, NatOffice, Node, Shape, eventually,
    nat::Rules,
    nat_office::{has_path, peer},
    wait::now,
};
use rustix::process::Signal;

const WIKI: &str = "http://wiki.postern.internal/";

/// The scene with both nodes in it and traffic underway. Fields are dropped in this order.
struct Scene {
    traffic: LiveTraffic,
    laptop: Node,
    gateway: Node,
    nat: NatOffice,
}

impl Scene {
    fn new(client: impl Into<Rules>, site: impl Into<Rules>) -> Result<Self> {
        let mut nat = NatOffice::new(client, site, &[])?;
        nat.office.open_wiki()?;
        let key = LiveTraffic::prepare(&mut nat.office)?;
        let gateway = nat.office.join_gateway()?;
        let laptop = nat.office.join_laptop()?;
        nat.office.is_open(WIKI)?;
        let traffic = LiveTraffic::start(&nat.office, &key)?;
        Ok(Self { traffic, laptop, gateway, nat })
    }

    /// The traffic goes on after `what`.
    fn goes_on(&mut self, what: &str) -> Result<()> {
        let took = self.traffic.goes_on().with_context(|| {
            format!("after {what}\n-- laptop\n{}\n-- gateway\n{}", self.laptop.log(), self.gateway.log())
        })?;
        println!("{what}: went on within {took:?}");
        Ok(())
    }

    /// At the end: every byte is right, new connections work, and what is closed stays closed.
    fn finish(self) -> Result<()> {
        self.traffic.finish()?;
        self.nat.office.is_open(WIKI)?;
        self.nat.office.is_closed("http://wiki.postern.internal:8080/")
    }
}

#[test]
fn the_clients_address_changes() -> Result<()> {
    for client in [NatKind::None, NatKind::PortRestricted] {
        let mut scene = Scene::new(client, NatKind::None)?;
        scene.nat.change_address()?;
        scene.goes_on(&format!("another address ({})", client.name()))?;
        scene.finish()?;
    }
    Ok(())
}

#[test]
fn the_clients_interface_goes_down_and_comes_up_again() -> Result<()> {
    let mut scene = Scene::new(NatKind::PortRestricted, NatKind::None)?;
    let laptop = scene.nat.office.laptop.clone();
    for _ in 0..2 {
        laptop.ip(&["link", "set", "eth0", "down"])?;
        scene.traffic.is_stuck()?;
        laptop.ip(&["link", "set", "eth0", "up"])?;
        scene.nat.client.route(&laptop)?;
        scene.goes_on("interface down and up")?;
    }
    scene.finish()
}

#[test]
fn the_clients_router_forgets_its_mappings() -> Result<()> {
    for kind in [NatKind::PortRestricted, NatKind::Symmetric] {
        let mut scene = Scene::new(kind, NatKind::None)?;
        let endpoint = |scene: &Scene| anyhow::Ok(peer(&scene.gateway)?["endpoint"].clone());
        for _ in 0..2 {
            let before = endpoint(&scene)?;
            scene.nat.client.rebind()?;
            scene.goes_on(&format!("NAT rebinding ({})", kind.name()))?;
            let after = endpoint(&scene)?;
            ensure!(before != after, "the gateway follows: {before} {after}");
        }
        scene.nat.client.renumber("203.0.113.99/24")?;
        scene.goes_on(&format!("router renumbered ({})", kind.name()))?;
        scene.finish()?;
    }
    Ok(())
}

#[test]
fn the_client_moves_to_the_phones_network_and_back() -> Result<()> {
    let mut scene = Scene::new(NatKind::PortRestricted, NatKind::None)?;
    let phone = scene.nat.phone_network(NatKind::Symmetric)?;
    scene.nat.roam("eth0", &phone)?;
    scene.goes_on("to the phone's network")?;
    scene.nat.office.laptop.unlink("eth2")?;
    scene.traffic.is_stuck()?;
    scene.nat.client.connect(&scene.nat.office.laptop, "eth0", "192.168.1.40/24")?;
    scene.goes_on("back, after a time without any")?;
    scene.finish()
}

#[test]
fn the_client_sleeps_until_its_router_has_forgotten_it() -> Result<()> {
    let mut scene = Scene::new(NatKind::PortRestricted, NatKind::None)?;
    scene.laptop.process()?.signal(Signal::STOP)?;
    scene.traffic.is_stuck()?;
    scene.nat.client.rebind()?;
    scene.laptop.process()?.signal(Signal::CONT)?;
    scene.goes_on("sleep")?;
    scene.finish()
}

#[test]
fn the_coordinator_restarts() -> Result<()> {
    let mut scene = Scene::new(NatKind::PortRestricted, NatKind::None)?;
    scene.nat.office.coordinator.kill()?;
    scene.goes_on("the coordinator's death")?;
    scene.nat.office.coordinator.resume()?;
    for node in [&scene.laptop, &scene.gateway] {
        eventually("the node is connected again", || {
            ensure!(node.json(&["status"])?["connected"] == true);
            Ok(())
        })?;
    }
    scene.goes_on("the coordinator's return")?;
    scene.finish()
}

#[test]
fn the_clients_line_becomes_bad_and_is_cut_and_mended() -> Result<()> {
    let mut scene = Scene::new(NatKind::PortRestricted, NatKind::None)?;
    let ms = Duration::from_millis;
    let bad = Shape { jitter: ms(10), loss: 0.01, reorder: 0.02, rate: Some(20_000_000), ..Shape::latency(ms(30)) };
    let line = scene.nat.shape_client_line(bad.clone())?;
    scene.goes_on("a bad line")?;
    line.set(&Shape { loss: 1.0, ..Shape::default() });
    scene.traffic.is_stuck()?;
    line.set(&bad);
    scene.goes_on("a line that was cut")?;
    let [there, back] = line.counts();
    ensure!(there.lost > 0 && there.held_back > 0 && back.held_back > 0, "it was bad: {there:?} {back:?}");
    scene.finish()
}

#[test]
fn the_client_moves_to_a_network_without_ipv4() -> Result<()> {
    let mut scene = Scene::new(NatKind::PortRestricted, NatKind::FullCone)?;
    let nat64 = scene.nat.network_without_ipv4()?;
    scene.nat.office.laptop.unlink("eth0")?;
    nat64.connect(&scene.nat.office.laptop, "eth2", "2001:db8:64::2/64")?;
    nat64.set_resolver(&scene.nat.office.laptop)?;
    scene.goes_on("to a network without IPv4")?;
    scene.finish()
}

#[test]
fn what_ends_open_connections_is_noticed() -> Result<()> {
    // The other tests are worth something only if this one fails to go on.
    let mut scene = Scene::new(NatKind::PortRestricted, NatKind::None)?;
    for resource in ["wiki", "shell"] {
        scene.nat.office.coordinator.ctl(&["resource", "remove", resource])?;
    }
    let error = scene.traffic.goes_on().expect_err("nothing is allowed any more");
    ensure!(error.to_string().contains("ended"), "{error}");
    ensure!(scene.traffic.finish().is_err());
    Ok(())
}

#[test]
fn the_direct_path_dies_and_comes_back() -> Result<()> {
    let mut scene = Scene::new(NatKind::PortRestricted, NatKind::FullCone)?;
    has_path(&scene.laptop, "direct")?;
    let site: IpAddr = scene.nat.site.outside_address()?;
    for _ in 0..2 {
        scene.nat.client.change(|rules| rules.firewall.cut = vec![site])?;
        scene.goes_on("the direct path's death")?;
        has_path(&scene.laptop, "relayed")?;
        scene.nat.client.change(|rules| rules.firewall.cut.clear())?;
        has_path(&scene.laptop, "direct")?;
        scene.goes_on("its return")?;
    }
    scene.finish()
}

#[test]
fn the_coordinator_restarts_while_it_relays() -> Result<()> {
    let mut scene = Scene::new(NatKind::Symmetric, NatKind::Symmetric)?;
    has_path(&scene.laptop, "relayed")?;
    scene.nat.office.coordinator.kill()?;
    scene.traffic.is_stuck()?;
    scene.nat.office.coordinator.resume()?;
    scene.goes_on("the return of the relay")?;
    has_path(&scene.laptop, "relayed")?;
    scene.finish()
}

#[test]
fn the_gateways_router_is_renumbered() -> Result<()> {
    let mut scene = Scene::new(NatKind::AddressRestricted, NatKind::AddressRestricted)?;
    has_path(&scene.laptop, "direct")?;
    scene.nat.site.renumber("203.0.113.98/24")?;
    scene.goes_on("the gateway's other address")?;
    let peer = has_path(&scene.laptop, "direct")?;
    ensure!(peer["endpoint"].as_str().is_some_and(|at| at.starts_with("203.0.113.98:")), "{peer}");
    scene.finish()
}

#[test]
fn the_clients_network_begins_to_block_udp() -> Result<()> {
    let mut scene = Scene::new(NatKind::PortRestricted, NatKind::FullCone)?;
    has_path(&scene.laptop, "direct")?;
    scene.nat.client.change(|rules| rules.firewall.blocks_udp = true)?;
    scene.goes_on("no UDP any more")?;
    has_path(&scene.laptop, "relayed")?;
    eventually("the session with the coordinator is there without UDP", || {
        ensure!(scene.laptop.json(&["status"])?["connected"] == true);
        Ok(())
    })?;
    scene.nat.client.change(|rules| rules.firewall.blocks_udp = false)?;
    has_path(&scene.laptop, "direct")?;
    scene.goes_on("UDP again")?;
    scene.finish()
}

/// Which gateway carries a live grant of the resource.
fn carrier(coordinator: &Coordinator, resource: &str) -> Result<String> {
    let grants = coordinator.ctl(&["grant", "list"])?;
    let grants = grants.as_array().context("a list")?;
    let of_resource = grants.iter().find(|grant| grant["resource"] == resource);
    let gateway = of_resource.and_then(|grant| grant["gateway"].as_str());
    Ok(gateway.with_context(|| format!("no grant for {resource}: {grants:?}"))?.to_owned())
}

#[test]
fn a_second_gateway_takes_over_for_new_connections() -> Result<()> {
    let mut nat = NatOffice::new(NatKind::PortRestricted, NatKind::PortRestricted, &[])?;
    nat.office.open_wiki()?;
    let mut gateways = [nat.office.join_gateway()?, nat.join_second_gateway()?];
    let laptop = nat.office.join_laptop()?;
    nat.office.is_open(WIKI)?;
    let first = carrier(&nat.office.coordinator, "wiki")?;
    let at = gateways.iter().position(|node| node.host().namespace().ends_with(&first)).context("one of both")?;
    gateways[at].process()?.kill()?;

    let begin = now();
    nat.office.is_open(WIKI).with_context(|| format!("the laptop: {}", laptop.log()))?;
    let took: Duration = now() - begin;
    println!("a new connection after the gateway's death: {took:?}");
    ensure!(carrier(&nat.office.coordinator, "wiki")? != first, "it is the other one's now");
    // What was not allowed is not with another gateway either.
    nat.office.is_closed("http://wiki.postern.internal:22/")
}
