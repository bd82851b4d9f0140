//! Routers that translate addresses, each kind as found in homes, offices and phone networks.
//!
//! A [`Router`] joins a private segment to another one by nftables rules. What the kinds are called here, and in RFC 4787:
//!
//! | kind | mapping | filtering |
//! | --- | --- | --- |
//! | [`NatKind::None`] | no translation, public addresses inside | none |
//! | [`NatKind::FullCone`] | endpoint-independent | endpoint-independent |
//! | [`NatKind::AddressRestricted`] | endpoint-independent | address-dependent |
//! | [`NatKind::PortRestricted`] | endpoint-independent | address- and port-dependent |
//! | [`NatKind::Symmetric`] | address- and port-dependent: a random port for each destination | address- and port-dependent |
//!
//! A router whose outside segment is another one's inside makes double NAT. What else a network does to its guests is in
//! [`Rules`]: hairpin, a [`Firewall`], addresses that UDP no longer gets through to. They can be changed while traffic
//! flows: [`Router::change`], [`Router::rebind`] and [`Router::renumber`].
//!
//! - `rules`: what is wanted, as text for `nft`
//! - `conntrack`: forgetting the kernel's mappings

mod conntrack;
mod rules;

use std::{fs, net::IpAddr};

use anyhow::{Context as _, Result, ensure};

pub use self::rules::{Firewall, Rules, Tcp};
use crate::{
    process::run,
    topology::{Host, Lab, Segment},
};

/// How a router translates UDP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum NatKind {
    /// It only routes.
    #[default]
    None,
    /// Whoever knows the outside port gets in.
    FullCone,
    /// Who was sent something gets in, from any port.
    AddressRestricted,
    /// Who was sent something gets in, from the port that it was sent to.
    PortRestricted,
    /// The same, and each destination sees another port.
    Symmetric,
}

impl NatKind {
    /// All of them, the most open first.
    pub const ALL: [Self; 5] =
        [Self::None, Self::FullCone, Self::AddressRestricted, Self::PortRestricted, Self::Symmetric];

    /// Its name in tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::FullCone => "full cone",
            Self::AddressRestricted => "address-restricted",
            Self::PortRestricted => "port-restricted",
            Self::Symmetric => "symmetric",
        }
    }

    /// Whether two nodes behind such routers can have a direct path: unless neither can know, or let in, the port that the
    /// other one will come from.
    pub fn can_meet(self, other: Self) -> bool {
        !matches!(
            (self, other),
            (Self::Symmetric, Self::Symmetric | Self::PortRestricted) | (Self::PortRestricted, Self::Symmetric)
        )
    }
}

/// Where a router's interface is, and its address there with the prefix's length.
#[derive(Debug, Clone, Copy)]
pub struct Side<'a> {
    /// The segment.
    pub segment: &'a Segment,
    /// `203.0.113.2/24`
    pub address: &'a str,
}

/// A router between a private segment and another one.
#[derive(Debug)]
pub struct Router {
    host: Host,
    inside: Segment,
    inside_address: String,
    outside_address: String,
    /// Destinations outside, and the routers that lead to them.
    routes: Vec<(String, String)>,
    rules: Rules,
}

/// The interface towards the internet.
const OUTSIDE: &str = "wan";
/// The interface towards the private segment.
const INSIDE: &str = "lan";

impl Router {
    /// Builds one. `via` is the outside's own router, if it has one.
    ///
    /// # Errors
    /// When `ip` or `nft` refuse.
    pub fn new(
        lab: &mut Lab,
        name: &str,
        outside: Side<'_>,
        via: Option<&str>,
        inside: Side<'_>,
        rules: Rules,
    ) -> Result<Self> {
        let host = lab.host(name)?;
        host.link(OUTSIDE, outside.segment, &[outside.address])?;
        host.link(INSIDE, inside.segment, &[inside.address])?;
        host.set("net/ipv4/ip_forward", "1")?;
        host.set("net/ipv4/conf/all/send_redirects", "0")?;
        host.set(&format!("net/ipv4/conf/{INSIDE}/send_redirects"), "0")?;
        let router = Self {
            host,
            inside: inside.segment.clone(),
            inside_address: inside.address.into(),
            outside_address: outside.address.into(),
            routes: via.map(|via| ("default".into(), via.into())).into_iter().collect(),
            rules,
        };
        router.set_routes()?;
        router.apply()?;
        Ok(router)
    }

    /// The machine.
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// The private segment.
    pub fn inside(&self) -> &Segment {
        &self.inside
    }

    /// The address that the inside knows it by.
    pub fn inside_address(&self) -> Result<IpAddr> {
        without_prefix(&self.inside_address)
    }

    /// The address that the outside knows it by.
    pub fn outside_address(&self) -> Result<IpAddr> {
        without_prefix(&self.outside_address)
    }

    /// What holds now.
    pub fn rules(&self) -> &Rules {
        &self.rules
    }

    /// Adds a route on the outside, for good.
    pub fn add_route(&mut self, to: &str, via: &str) -> Result<()> {
        self.routes.push((to.into(), via.into()));
        self.set_routes()
    }

    /// Connects a host to the private segment as interface `name`, with its default route through this router, and
    /// without IPv6, which would lead around the translation.
    pub fn connect(&self, host: &Host, name: &str, address: &str) -> Result<()> {
        host.link(name, &self.inside, &[address])?;
        host.set(&format!("net/ipv6/conf/{name}/disable_ipv6"), "1")?;
        self.route(host)
    }

    /// Sets a connected host's default route, which is gone after its interface was down.
    pub fn route(&self, host: &Host) -> Result<()> {
        host.ip(&["route", "replace", "default", "via", &self.inside_address()?.to_string()])?;
        Ok(())
    }

    /// Changes the rules. Mappings stay; what a firewall now drops, it drops of open flows too.
    ///
    /// # Errors
    /// When `nft` refuses; the old rules hold on then.
    pub fn change(&mut self, change: impl FnOnce(&mut Rules)) -> Result<()> {
        let before = self.rules.clone();
        change(&mut self.rules);
        self.apply().inspect_err(|_| self.rules = before)
    }

    /// Forgets all mappings and gives out others, as a router that was started anew: the next packet of each flow has
    /// another port outside.
    ///
    /// # Errors
    /// For kinds that preserve ports, which would give out the same: see [`Self::renumber`].
    pub fn rebind(&mut self) -> Result<()> {
        ensure!(
            matches!(self.rules.kind, NatKind::PortRestricted | NatKind::Symmetric),
            "a {} router of this lab preserves ports; renumber it instead",
            self.rules.kind.name()
        );
        self.change(Rules::shift_ports)?;
        self.forget()
    }

    /// Gives the router another outside address (with the prefix's length), and forgets all mappings.
    pub fn renumber(&mut self, address: &str) -> Result<()> {
        self.host.ip(&["addr", "del", &self.outside_address, "dev", OUTSIDE])?;
        self.host.ip(&["addr", "add", address, "dev", OUTSIDE])?;
        self.outside_address = address.into();
        self.set_routes()?;
        self.apply()?;
        self.forget()
    }

    /// Connects the outside to another segment, with the address that it has.
    pub fn move_outside(&self, segment: &Segment) -> Result<()> {
        self.host.unlink(OUTSIDE)?;
        self.host.link(OUTSIDE, segment, &[&self.outside_address])?;
        self.set_routes()
    }

    /// Takes the line away, or brings it back.
    pub fn set_up(&self, up: bool) -> Result<()> {
        self.host.ip(&["link", "set", OUTSIDE, if up { "up" } else { "down" }])?;
        if up { self.set_routes() } else { Ok(()) }
    }

    /// They are gone whenever the outside address or interface was.
    fn set_routes(&self) -> Result<()> {
        for (to, via) in &self.routes {
            self.host.ip(&["route", "replace", to, "via", via])?;
        }
        Ok(())
    }

    fn forget(&self) -> Result<()> {
        self.host.within(conntrack::flush)
    }

    fn apply(&self) -> Result<()> {
        let seconds = self.rules.mapping_seconds.to_string();
        for timeout in ["nf_conntrack_udp_timeout", "nf_conntrack_udp_timeout_stream"] {
            self.host.set(&format!("net/netfilter/{timeout}"), &seconds)?;
        }
        let text = rules::text(&self.rules, &self.outside_address, &self.inside_address)?;
        let file = self.host.dir().join("rules.nft");
        fs::write(&file, &text)?;
        let output = run(self.host.command("nft").arg("-f").arg(&file))?;
        output.success().with_context(|| format!("nft refuses\n{text}"))?;
        Ok(())
    }
}

fn without_prefix(address: &str) -> Result<IpAddr> {
    let (address, _) = address.split_once('/').with_context(|| format!("{address}: no prefix's length"))?;
    address.parse().with_context(|| format!("{address}: not an address"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn meeting_is_symmetric_and_fails_only_where_no_port_can_be_known() {
        let mut apart = 0;
        for a in NatKind::ALL {
            for b in NatKind::ALL {
                assert_eq!(a.can_meet(b), b.can_meet(a), "{a:?} {b:?}");
                apart += usize::from(!a.can_meet(b));
            }
        }
        assert_eq!(apart, 3);
        assert!(NatKind::Symmetric.can_meet(NatKind::AddressRestricted));
    }
}
