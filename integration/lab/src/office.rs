//! The standard scene.
//!
//! ```text
//!                     internet 203.0.113.0/24, 2001:db8:1::/64
//!        ┌──────────────┬──────────────┬───────────────┐
//!   coordinator .10  gateway .20    laptop .30      resolver .53
//!                       │ 10.0.0.1, fd00:10::1
//!           ┌───────────┴───────────┐   office 10.0.0.0/24, fd00:10::/64
//!        wiki .5                orders-db .6
//! ```
//!
//! The servers have no route to the internet or to the overlay: what reaches them comes through the gateway.

use anyhow::{Context as _, Result, ensure};

use crate::{
    postern::{Coordinator, Node},
    process::{Background, Output},
    servers,
    topology::{Host, Lab, Segment},
    wait::eventually,
};

/// The coordinator's address.
pub const COORDINATOR: &str = "203.0.113.10";
/// The resolver's address.
pub const RESOLVER: &str = "203.0.113.53";
/// The wiki's private address.
pub const WIKI: &str = "10.0.0.5";
/// The database's private address.
pub const DB: &str = "10.0.0.6";

/// The scene, with the coordinator running, the site `office` and the user `alice`.
#[derive(Debug)]
pub struct Office {
    /// What holds it all; the handles before it end first.
    pub servers: Vec<Background>,
    /// The coordinator.
    pub coordinator: Coordinator,
    /// The gateway's machine.
    pub gateway: Host,
    /// The laptop.
    pub laptop: Host,
    /// The first private server.
    pub wiki: Host,
    /// The second private server.
    pub db: Host,
    /// Where coordinator, gateway and laptop meet.
    pub internet: Segment,
    /// Where gateway and servers meet.
    pub office: Segment,
    /// Last, so that it is dropped last.
    pub lab: Lab,
}

/// The machines of a scene, joined to each other, before anything runs on them.
#[derive(Debug)]
pub(crate) struct Machines {
    pub(crate) lab: Lab,
    pub(crate) internet: Segment,
    pub(crate) office: Segment,
    pub(crate) coordinator: Host,
    pub(crate) resolver: Host,
    pub(crate) gateway: Host,
    pub(crate) laptop: Host,
}

/// Adds a host with a public address to the internet.
pub(crate) fn on_internet(lab: &mut Lab, internet: &Segment, name: &str, last: u8) -> Result<Host> {
    let host = lab.host(name)?;
    host.link("eth0", internet, &[&format!("203.0.113.{last}/24"), &format!("2001:db8:1::{last}/64")])?;
    Ok(host)
}

impl Office {
    /// Builds the scene; `options` go to `postern-coordinator serve`.
    pub fn new(options: &[&str]) -> Result<Self> {
        let mut lab = Lab::new()?;
        let internet = lab.segment("internet")?;
        let office = lab.segment("office")?;
        let coordinator = on_internet(&mut lab, &internet, "coordinator", 10)?;
        let gateway = on_internet(&mut lab, &internet, "gateway", 20)?;
        let laptop = on_internet(&mut lab, &internet, "laptop", 30)?;
        let resolver = on_internet(&mut lab, &internet, "resolver", 53)?;
        Self::start(Machines { lab, internet, office, coordinator, resolver, gateway, laptop }, options)
    }

    /// Adds the private servers, and starts what has to run.
    pub(crate) fn start(machines: Machines, options: &[&str]) -> Result<Self> {
        let Machines { mut lab, internet, office, coordinator, resolver, gateway, laptop } = machines;
        gateway.link("eth1", &office, &["10.0.0.1/24", "fd00:10::1/64"])?;
        let mut in_office = |name: &str, last: u8| {
            let host = lab.host(name)?;
            host.link("eth0", &office, &[&format!("10.0.0.{last}/24"), &format!("fd00:10::{last}/64")])?;
            anyhow::Ok(host)
        };
        let wiki = in_office("wiki", 5)?;
        let db = in_office("orders-db", 6)?;

        let names = [
            ("public.example.com", "198.51.100.7"),
            ("below.wiki.example.com", "198.51.100.7"),
            ("db.office.example.com", DB),
        ];
        let servers = vec![servers::dnsmasq(&resolver, RESOLVER, &names)?];
        for host in [&gateway, &laptop] {
            std::fs::write(host.resolv_conf(), format!("nameserver {RESOLVER}\n"))?;
        }
        let coordinator = Coordinator::start(&coordinator, COORDINATOR, options)?;
        coordinator.ctl(&["site", "add", "office"])?;
        coordinator.ctl(&["user", "add", "alice"])?;
        Ok(Self { servers, coordinator, gateway, laptop, wiki, db, internet, office, lab })
    }

    /// Keeps a server running as long as the scene.
    pub fn serve(&mut self, server: Background) {
        self.servers.push(server);
    }

    /// Enrols the gateway for the site.
    pub fn join_gateway(&self) -> Result<Node> {
        Node::join(&self.gateway, &self.coordinator.token(&["--site", "office"])?)
    }

    /// Enrols the laptop for alice.
    pub fn join_laptop(&self) -> Result<Node> {
        Node::join(&self.laptop, &self.coordinator.token(&["--user", "alice"])?)
    }

    /// Serves the wiki on port 80, adds it as a resource, and lets alice reach it.
    pub fn open_wiki(&mut self) -> Result<()> {
        let server = servers::nginx(&self.wiki, 80, "hello from the wiki")?;
        self.serve(server);
        let words = ["resource", "add", "wiki", "--site", "office", "--target", WIKI, "--tcp", "80", "--icmp"];
        self.coordinator.ctl(&words)?;
        self.coordinator.ctl(&["policy", "allow", "user:alice", "wiki"])?;
        Ok(())
    }

    /// What curl on the laptop comes to.
    pub fn get(&self, url: &str) -> Result<Output> {
        self.laptop.run(&["curl", "-sS", "--max-time", "15", url])
    }

    /// Holds that a new connection gets through, as soon as the nodes have heard what lets it.
    pub fn is_open(&self, url: &str) -> Result<()> {
        eventually(&format!("{url} is reached"), || self.get(url)?.success().map(drop))
    }

    /// Holds that a new connection is refused, or the name unknown: the user sees an error at once, and nothing hangs.
    pub fn is_closed(&self, url: &str) -> Result<()> {
        let output = self.get(url)?;
        ensure!(matches!(output.code, Some(6 | 7)), "{url}: refused or unknown, not hanging: {output:?}");
        Ok(())
    }

    /// On the laptop, a download from the wiki that would take two minutes, once it runs.
    pub fn download(&self) -> Result<Background> {
        self.download_of("big", "http://wiki.postern.internal/big")
    }

    /// The same of something else, into the laptop's file `name`.
    pub fn download_of(&self, name: &str, url: &str) -> Result<Background> {
        let file = self.laptop.dir().join(name);
        let _ = std::fs::remove_file(&file);
        let mut curl = self.laptop.command("curl");
        curl.args(["-sS", "-o", name, url]);
        let download = self.laptop.spawn(&format!("download-{name}"), &mut curl)?;
        self.grows(name).with_context(|| download.log())?;
        Ok(download)
    }

    /// Waits until a download's file has 1 MiB more than now: it runs.
    pub fn grows(&self, name: &str) -> Result<()> {
        let size = || std::fs::metadata(self.laptop.dir().join(name)).map_or(0, |file| file.len());
        let before = size();
        eventually(&format!("the download {name} goes on"), || {
            ensure!(size() > before + (1 << 20), "{} bytes, as before", size());
            Ok(())
        })
    }

    /// Waits for a download to be cut: its app must be told by a reset.
    pub fn is_cut(&self, download: &mut Background) -> Result<()> {
        let code = download.wait()?;
        // 56: the connection was reset while receiving. A download that had run to its end would say 0.
        ensure!(code == 56 && download.log().contains("reset"), "curl ended with {code}: {}", download.log());
        Ok(())
    }
}
