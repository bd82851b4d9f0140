//! What a router does to traffic, and how that is said to `nft`.
//!
//! Linux maps endpoint-independently by itself as long as a port is free, and lets in only what answers: that is the
//! port-restricted kind. `fully-random` takes a port for each flow: the symmetric kind. The two open kinds do not exist in
//! nftables. They are made of the former and of a map that outgoing packets fill (`open`), by which what comes in unasked is led
//! to its host. Since the map knows inside ports only, such a router's hosts must not use the same port at the same time.

use std::{fmt::Write as _, net::IpAddr};

use anyhow::{Context as _, Result, ensure};

use super::{INSIDE, NatKind, OUTSIDE};

/// What a router does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rules {
    /// How it translates.
    pub kind: NatKind,
    /// Whether inside hosts reach each other by the outside address; filtered like a full cone. Not for [`NatKind::Symmetric`].
    pub hairpin: bool,
    /// What it drops.
    pub firewall: Firewall,
    /// How long a mapping lives without traffic.
    pub mapping_seconds: u32,
    /// The outside ports to take, if not the inside ones.
    ports: Option<(u16, u16)>,
}

/// What a network keeps from its guests. It drops silently.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Firewall {
    /// No UDP in either direction, except for DNS (port 53).
    pub blocks_udp: bool,
    /// No UDP from and to these addresses.
    pub cut: Vec<IpAddr>,
    /// The TCP that is let out.
    pub tcp: Tcp,
}

/// The TCP that a firewall lets out.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Tcp {
    /// All of it.
    #[default]
    All,
    /// What goes to these ports.
    Ports(Vec<u16>),
    /// What goes to this address: a proxy's.
    To(IpAddr),
}

impl From<NatKind> for Rules {
    fn from(kind: NatKind) -> Self {
        Self { kind, hairpin: false, firewall: Firewall::default(), mapping_seconds: 120, ports: None }
    }
}

impl Rules {
    /// The same with hairpin.
    pub fn with_hairpin(self) -> Self {
        Self { hairpin: true, ..self }
    }

    /// The same with a firewall.
    pub fn with_firewall(self, firewall: Firewall) -> Self {
        Self { firewall, ..self }
    }

    /// Takes other outside ports than so far.
    pub(super) fn shift_ports(&mut self) {
        const WIDTH: u16 = 2000;
        let first = self.ports.map_or(20_000, |(_, last)| if last < 58_000 { last + 1 } else { 20_000 });
        self.ports = Some((first, first + WIDTH - 1));
    }
}

/// The whole ruleset, which replaces the one before. Addresses are given with their prefix's length.
pub(super) fn text(rules: &Rules, outside: &str, inside: &str) -> Result<String> {
    ensure!(!(rules.hairpin && rules.kind == NatKind::Symmetric), "a symmetric router has no port to hairpin to");
    let address = |text: &str| Ok::<_, anyhow::Error>(text.split_once('/').context("no prefix's length")?.0.to_owned());
    let (outside_address, inside_address) = (address(outside)?, address(inside)?);
    let mut out = String::from("table inet lab\ndelete table inet lab\ntable inet lab {\n");
    let mut line = |text: &str| {
        let _ = writeln!(out, "  {text}");
    };
    let seconds = rules.mapping_seconds;
    let udp4 = "meta nfproto ipv4 meta l4proto udp";

    // For each outside port its host; for the address-restricted kind, for each remote address and outside port.
    let is_cone = rules.kind == NatKind::FullCone || rules.hairpin;
    if is_cone {
        line(&format!(
            "map open {{ type inet_service : ipv4_addr; flags dynamic,timeout; timeout {seconds}s; size 4096; }}"
        ));
    }
    if rules.kind == NatKind::AddressRestricted {
        line(&format!(
            "map open_to {{ type ipv4_addr . inet_service : ipv4_addr; flags dynamic,timeout; timeout {seconds}s; size 4096; }}"
        ));
    }

    // One rule with both ports would do, were it not that nft 1.0 makes one comparison of two neighbouring fields, and a wrong
    // one where they are to differ.
    line("chain udp_but_dns {");
    line("  udp dport 53 return");
    line("  udp sport 53 return");
    line("  drop");
    line("}");
    line("chain forward {");
    line("  type filter hook forward priority filter; policy accept;");
    for rule in firewall(&rules.firewall) {
        line(&format!("  {rule}"));
    }
    if is_cone {
        line(&format!("  iifname {INSIDE} oifname {OUTSIDE} {udp4} update @open {{ udp sport : ip saddr }}"));
    }
    if rules.kind == NatKind::AddressRestricted {
        let sent = "update @open_to { ip daddr . udp sport : ip saddr }";
        line(&format!("  iifname {INSIDE} oifname {OUTSIDE} {udp4} {sent}"));
    }
    if rules.kind != NatKind::None {
        line(&format!("  iifname {OUTSIDE} ct status dnat accept"));
        line(&format!("  iifname {OUTSIDE} ct state new drop"));
    }
    line("}");
    if rules.kind == NatKind::None {
        out.push_str("}\n");
        return Ok(out);
    }

    // What comes unasked is dropped before the kernel remembers it as a flow of the router itself, which would keep the host
    // inside from its own port when it sends to the same place.
    line("chain input {");
    line("  type filter hook input priority filter; policy accept;");
    line(&format!("  iifname {OUTSIDE} meta l4proto udp ct state new drop"));
    line("}");
    line("chain prerouting {");
    line("  type nat hook prerouting priority dstnat;");
    let to_outside = format!("ip daddr {outside_address} {udp4}");
    match rules.kind {
        NatKind::FullCone => line(&format!("  iifname {OUTSIDE} {to_outside} dnat ip to udp dport map @open")),
        NatKind::AddressRestricted => {
            line(&format!("  iifname {OUTSIDE} {to_outside} dnat ip to ip saddr . udp dport map @open_to"));
        }
        NatKind::None | NatKind::PortRestricted | NatKind::Symmetric => {}
    }
    if rules.hairpin {
        line(&format!("  iifname {INSIDE} {to_outside} dnat ip to udp dport map @open"));
    }
    line("}");
    line("chain postrouting {");
    line("  type nat hook postrouting priority srcnat;");
    if rules.hairpin {
        // Whoever is reached so sees the other one's outside address too.
        let net = format!("ip saddr {inside} ip saddr != {inside_address}");
        line(&format!("  oifname {INSIDE} {net} ct status dnat snat ip to {outside_address}"));
    }
    let random = if rules.kind == NatKind::Symmetric { " fully-random" } else { "" };
    let leaves = format!("oifname {OUTSIDE} meta nfproto ipv4");
    if let Some((first, last)) = rules.ports {
        line(&format!("  {leaves} meta l4proto {{ tcp, udp }} masquerade to :{first}-{last}{random}"));
    }
    line(&format!("  {leaves} masquerade{random}"));
    line("}");
    out.push_str("}\n");
    Ok(out)
}

fn firewall(firewall: &Firewall) -> Vec<String> {
    let mut rules = Vec::new();
    if firewall.blocks_udp {
        rules.push("meta l4proto udp jump udp_but_dns".into());
    }
    for address in &firewall.cut {
        let family = if address.is_ipv4() { "ip" } else { "ip6" };
        for direction in ["saddr", "daddr"] {
            rules.push(format!("{family} {direction} {address} meta l4proto udp drop"));
        }
    }
    match &firewall.tcp {
        Tcp::All => {}
        Tcp::Ports(ports) => {
            let ports: Vec<_> = ports.iter().map(ToString::to_string).collect();
            // No set is empty in nftables.
            let but =
                if ports.is_empty() { String::new() } else { format!("tcp dport != {{ {} }} ", ports.join(", ")) };
            rules.push(format!("iifname {INSIDE} meta l4proto tcp {but}drop"));
        }
        Tcp::To(address) => {
            let family = if address.is_ipv4() { "ip" } else { "ip6" };
            rules.push(format!("iifname {INSIDE} meta l4proto tcp {family} daddr {address} accept"));
            rules.push(format!("iifname {INSIDE} meta l4proto tcp drop"));
        }
    }
    rules
}
