//! A network without IPv4, and the router that leads out of it: stateful NAT64 (RFC 6146) in user space, since the kernel has
//! none, with DNS64 beside it (RFC 6147).
//!
//! ```text
//!  internet 203.0.113.0/24        router                     hosts, IPv6 only
//!  ────────────────────── wan ── TUN `nat64` ── lan ─────────────────────────
//!            203.0.113.64 ◄─────── translated ───────► 64:ff9b::/96
//! ```
//!
//! Hosts reach an IPv4 address as the last 32 bits of `64:ff9b::/96`; outside they all are one address, the pool. Mappings do
//! not depend on the destination, and let in whoever was sent something (address-dependent filtering). IPv6 destinations outside
//! are not reached: this network's provider has none. Fragments are dropped; what is too big is answered, as everywhere.
//!
//! - `translator`: mappings and packets, without devices or clocks

mod translator;

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
};

use anyhow::{Context as _, Result};

use self::translator::Translator;
pub use self::translator::through_nat64;
use crate::{
    device::{Device, Layer, Wake},
    nat::Side,
    process::Background,
    servers,
    topology::{Host, Lab, Segment},
    wait::now,
};

/// The longest packet.
const PACKET: usize = 1 << 16;

/// The router of a network without IPv4. Dropping it ends the translation.
#[derive(Debug)]
pub struct Nat64 {
    host: Host,
    inside: Segment,
    inside_address: Ipv6Addr,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    translator: Mutex<Translator>,
    ended: AtomicBool,
    wake: Wake,
}

impl Nat64 {
    /// Builds one between `outside` (IPv4) and `inside` (IPv6). `pool` is the outside address that hosts inside have in common: a
    /// free one of the outside segment.
    ///
    /// # Errors
    /// When `ip` refuses, or the TUN device can't be made.
    pub fn new(lab: &mut Lab, name: &str, outside: Side<'_>, pool: Ipv4Addr, inside: Side<'_>) -> Result<Self> {
        let (address, _) = inside.address.split_once('/').context("no prefix's length")?;
        let inside_address = address.parse().with_context(|| format!("{address}: not an IPv6 address"))?;
        let host = lab.host(name)?;
        host.link("wan", outside.segment, &[outside.address])?;
        host.link("lan", inside.segment, &[inside.address])?;
        host.set("net/ipv4/ip_forward", "1")?;
        host.set("net/ipv6/conf/all/forwarding", "1")?;

        let device = host.within(|| Device::open("nat64", Layer::Packets))?;
        host.ip(&["link", "set", "nat64", "txqueuelen", "1000", "up"])?;
        host.ip(&["route", "add", &pool.to_string(), "dev", "nat64"])?;
        host.ip(&["route", "add", &format!("{}/96", translator::PREFIX), "dev", "nat64"])?;
        // The router answers for the pool's address, and at once.
        host.set("net/ipv4/neigh/wan/proxy_delay", "0")?;
        host.ip(&["neigh", "add", "proxy", &pool.to_string(), "dev", "wan"])?;

        let translator = Mutex::new(Translator::new(pool));
        let shared = Arc::new(Shared { translator, ended: AtomicBool::new(false), wake: Wake::new()? });
        let thread = thread::Builder::new().name("nat64".into()).spawn({
            let shared = shared.clone();
            move || shared.carry(&[device])
        })?;
        Ok(Self { host, inside: inside.segment.clone(), inside_address, shared, thread: Some(thread) })
    }

    /// The machine.
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// Connects a host to the network as interface `name`, with its default route.
    pub fn connect(&self, host: &Host, name: &str, address: &str) -> Result<()> {
        host.link(name, &self.inside, &[address])?;
        host.ip(&["-6", "route", "replace", "default", "via", &self.inside_address.to_string()])?;
        Ok(())
    }

    /// Makes the network's resolver the host's, as DHCP would; a node that has its own there notices.
    pub fn set_resolver(&self, host: &Host) -> Result<()> {
        std::fs::write(host.resolv_conf(), format!("nameserver {}\n", self.inside_address))?;
        Ok(())
    }

    /// Starts the network's resolver, which answers these names' IPv4 addresses as they are, and their IPv6 addresses with what leads
    /// through the translation. `ipv4only.arpa` is among them, by which hosts learn the prefix (RFC 7050).
    pub fn dns64(&self, names: &[(&str, Ipv4Addr)]) -> Result<Background> {
        let well_known = [170, 171].map(|last| ("ipv4only.arpa", Ipv4Addr::new(192, 0, 0, last)));
        let mut answers = Vec::new();
        for (name, address) in names.iter().chain(&well_known) {
            answers.push((*name, IpAddr::from(*address).to_string()));
            answers.push((*name, through_nat64(*address).to_string()));
        }
        let answers: Vec<_> = answers.iter().map(|(name, address)| (*name, address.as_str())).collect();
        servers::dnsmasq(&self.host, &self.inside_address.to_string(), &answers)
    }

    /// Forgets all mappings.
    pub fn forget(&self) {
        self.shared.translator.lock().unwrap_or_else(PoisonError::into_inner).forget();
    }
}

impl Drop for Nat64 {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::Relaxed);
        self.shared.wake.wake();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Shared {
    /// The thread: ends with the handle, or when the device is gone with its host.
    fn carry(&self, device: &[Device; 1]) {
        let mut buffer = vec![0; PACKET];
        while !self.ended.load(Ordering::Relaxed) {
            loop {
                match device[0].read(&mut buffer) {
                    Ok(Some(len)) => {
                        let mut translator = self.translator.lock().unwrap_or_else(PoisonError::into_inner);
                        if let Some(packet) = translator.translate(now(), &buffer[..len]) {
                            device[0].write(&packet);
                        }
                    }
                    Ok(None) => break,
                    Err(_) => return,
                }
            }
            if self.wake.wait(device, None).is_err() {
                return;
            }
        }
    }
}
