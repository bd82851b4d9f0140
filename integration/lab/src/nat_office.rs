//! The standard scene with networks in between: the laptop in a private network behind one router, the gateway in another behind
//! a second one, each of a kind that the test chooses.
//!
//! ```text
//!                          internet 203.0.113.0/24
//!      ┌──────────────┬──────────────┬──────────────┐
//!  client-edge .2  site-edge .3   coordinator .10  resolver .53
//!      │ .1           │ .1
//!      │ home         │ site 172.16.0.0/24
//!      │ 192.168.1.0  ├───────────────┐
//!   laptop .30     gateway .20      (a second gateway .21)
//!                     │ 10.0.0.1       │ 10.0.0.2
//!               ┌─────┴────────────────┴──┐  office 10.0.0.0/24
//!            wiki .5                 orders-db .6
//! ```
//!
//! Where nothing is translated ([`NatKind::None`]) the private networks have public addresses instead: 198.51.100.0/25 for the laptop,
//! 198.51.100.128/25 for the gateway. Neither network has IPv6. The laptop can [`move`](NatOffice::roam) to another network.

use std::net::Ipv4Addr;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::{
    nat::{NatKind, Router, Rules, Side},
    nat64::Nat64,
    office::{Machines, Office, RESOLVER, on_internet},
    postern::Node,
    shaper::{Shape, ShapedLink},
    topology::{Host, Lab, Segment},
    wait::eventually,
};

/// The outside address of the laptop's router.
pub const CLIENT_EDGE: &str = "203.0.113.2";
/// The outside address of the gateway's router.
pub const SITE_EDGE: &str = "203.0.113.3";

/// The scene.
#[derive(Debug)]
pub struct NatOffice {
    /// The router in front of the laptop.
    pub client: Router,
    /// The router in front of the gateway.
    pub site: Router,
    /// Everything else, driven as ever. Last, so that it is dropped last.
    pub office: Office,
}

/// A private network's addresses: up to the last byte, the router's and the host's last byte, and the prefix's length.
struct Net {
    prefix: &'static str,
    router: u8,
    host: u8,
    length: u8,
}

impl Net {
    fn of_client(kind: NatKind) -> Self {
        match kind {
            NatKind::None => Self { prefix: "198.51.100", router: 1, host: 30, length: 25 },
            _ => Self { prefix: "192.168.1", router: 1, host: 30, length: 24 },
        }
    }

    fn of_site(kind: NatKind) -> Self {
        match kind {
            NatKind::None => Self { prefix: "198.51.100", router: 129, host: 148, length: 25 },
            _ => Self { prefix: "172.16.0", router: 1, host: 20, length: 24 },
        }
    }

    fn address(&self, last: u8) -> String {
        format!("{}.{last}/{}", self.prefix, self.length)
    }

    /// The network as a route's destination.
    fn route(&self) -> String {
        self.address(self.router - 1)
    }
}

/// The networks without translation, and the routers that lead to them.
fn public_nets(client: &Router, site: &Router) -> Vec<(Net, &'static str)> {
    let is_public = |router: &Router| router.rules().kind == NatKind::None;
    let mut nets = Vec::new();
    nets.extend(is_public(client).then(|| (Net::of_client(NatKind::None), CLIENT_EDGE)));
    nets.extend(is_public(site).then(|| (Net::of_site(NatKind::None), SITE_EDGE)));
    nets
}

impl NatOffice {
    /// Builds it; `options` go to `postern-coordinator serve`.
    ///
    /// # Errors
    /// As [`Office::new`].
    pub fn new(client: impl Into<Rules>, site: impl Into<Rules>, options: &[&str]) -> Result<Self> {
        let (client, site) = (client.into(), site.into());
        let (home_net, site_net) = (Net::of_client(client.kind), Net::of_site(site.kind));

        let mut lab = Lab::new()?;
        let internet = lab.segment("internet")?;
        let office = lab.segment("office")?;
        let coordinator = on_internet(&mut lab, &internet, "coordinator", 10)?;
        let resolver = on_internet(&mut lab, &internet, "resolver", 53)?;
        let mut edge = |name: &str, last: u8, net: &Net, rules: &Rules| {
            let inside = lab.segment(name)?;
            let (outside_address, inside_address) = (format!("203.0.113.{last}/24"), net.address(net.router));
            let outside = Side { segment: &internet, address: &outside_address };
            let inside = Side { segment: &inside, address: &inside_address };
            Router::new(&mut lab, &format!("{name}-edge"), outside, None, inside, rules.clone())
        };
        let mut client = edge("client", 2, &home_net, &client)?;
        let mut site = edge("site", 3, &site_net, &site)?;
        let (laptop, gateway) = (lab.host("laptop")?, lab.host("gateway")?);
        client.connect(&laptop, "eth0", &home_net.address(home_net.host))?;
        site.connect(&gateway, "eth0", &site_net.address(site_net.host))?;
        // What has public addresses has to be known to all.
        if client.rules().kind == NatKind::None {
            site.add_route(&home_net.route(), CLIENT_EDGE)?;
        }
        if site.rules().kind == NatKind::None {
            client.add_route(&site_net.route(), SITE_EDGE)?;
        }
        for host in [&coordinator, &resolver] {
            for (net, edge) in public_nets(&client, &site) {
                host.ip(&["route", "add", &net.route(), "via", edge])?;
            }
        }
        let machines = Machines { lab, internet, office, coordinator, resolver, gateway, laptop };
        Ok(Self { client, site, office: Office::start(machines, options)? })
    }

    /// A host with the public address 203.0.113.`last`, for relays and the like. It reaches what has public addresses.
    pub fn on_internet(&mut self, name: &str, last: u8) -> Result<Host> {
        let host = on_internet(&mut self.office.lab, &self.office.internet, name, last)?;
        for (net, edge) in public_nets(&self.client, &self.site) {
            host.ip(&["route", "add", &net.route(), "via", edge])?;
        }
        Ok(host)
    }

    /// A second gateway of the site, beside the first one, enrolled.
    pub fn join_second_gateway(&mut self) -> Result<Node> {
        let host = self.office.lab.host("gateway2")?;
        let net = Net::of_site(self.site.rules().kind);
        self.site.connect(&host, "eth0", &net.address(net.host + 1))?;
        host.link("eth1", &self.office.office, &["10.0.0.2/24", "fd00:10::2/64"])?;
        std::fs::write(host.resolv_conf(), format!("nameserver {RESOLVER}\n"))?;
        Node::join(&host, &self.office.coordinator.token(&["--site", "office"])?)
    }

    /// Another network that the laptop can move to, 10.8.0.0/24 behind 203.0.113.4: a phone's, say.
    pub fn phone_network(&mut self, rules: impl Into<Rules>) -> Result<Router> {
        let rules = rules.into();
        ensure!(rules.kind != NatKind::None, "the phone's network has private addresses");
        let inside: Segment = self.office.lab.segment("phone")?;
        let outside = Side { segment: &self.office.internet, address: "203.0.113.4/24" };
        let inside = Side { segment: &inside, address: "10.8.0.1/24" };
        let mut router = Router::new(&mut self.office.lab, "phone-edge", outside, None, inside, rules)?;
        for (net, edge) in public_nets(&self.client, &self.site) {
            router.add_route(&net.route(), edge)?;
        }
        Ok(router)
    }

    /// Another network that the laptop can move to: without IPv4, 2001:db8:64::/64 behind 203.0.113.64.
    pub fn network_without_ipv4(&mut self) -> Result<Nat64> {
        let inside: Segment = self.office.lab.segment("v6only")?;
        let outside = Side { segment: &self.office.internet, address: "203.0.113.5/24" };
        let inside = Side { segment: &inside, address: "2001:db8:64::1/64" };
        let pool = Ipv4Addr::new(203, 0, 113, 64);
        let nat64 = Nat64::new(&mut self.office.lab, "v6-edge", outside, pool, inside)?;
        for (net, edge) in public_nets(&self.client, &self.site) {
            nat64.host().ip(&["route", "add", &net.route(), "via", edge])?;
        }
        let dns = nat64.dns64(&[("public.example.com", Ipv4Addr::new(198, 51, 100, 7))])?;
        self.office.serve(dns);
        Ok(nat64)
    }

    /// The line between the laptop's router and the internet gets this shape, until the handle is dropped; then it is cut.
    pub fn shape_client_line(&mut self, shape: Shape) -> Result<ShapedLink> {
        let access = self.office.lab.segment("access")?;
        let link = self.office.lab.shaped(&access, &self.office.internet, shape)?;
        self.client.move_outside(&access)?;
        Ok(link)
    }

    /// The laptop leaves its network (interface `from`) and enters the phone's as `eth2`.
    pub fn roam(&self, from: &str, phone: &Router) -> Result<()> {
        self.office.laptop.unlink(from)?;
        phone.connect(&self.office.laptop, "eth2", "10.8.0.30/24")
    }

    /// The laptop's address in its network becomes another one (`.31`).
    pub fn change_address(&self) -> Result<()> {
        let net = Net::of_client(self.client.rules().kind);
        let laptop = &self.office.laptop;
        laptop.ip(&["addr", "del", &net.address(net.host), "dev", "eth0"])?;
        laptop.ip(&["addr", "add", &net.address(net.host + 1), "dev", "eth0"])?;
        self.client.route(laptop)
    }
}

/// The first peer of a node: `path` ("direct" or "relayed"), `endpoint`, `relay`.
///
/// # Errors
/// When it has none.
pub fn peer(node: &Node) -> Result<Value> {
    let status = node.json(&["status"])?;
    let peer = status["peers"].get(0).with_context(|| format!("no peer: {status}"))?;
    Ok(peer.clone())
}

/// Waits until the first peer of a node has such a path.
///
/// # Errors
/// When it does not get one.
pub fn has_path(node: &Node, path: &str) -> Result<Value> {
    eventually(&format!("the path is {path}"), || {
        let peer = peer(node)?;
        ensure!(peer["path"] == path, "{peer}");
        Ok(peer)
    })
}
