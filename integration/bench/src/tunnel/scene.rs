//! The hosts of one contender, and the two processes whose time and memory are counted.

use std::{any::Any, time::Duration};

use anyhow::{Context as _, Result, ensure};
use postern_lab::{Host, Lab, eventually, office::WIKI};

/// The gateway's address that the laptop's end of a tunnel sends to.
pub(super) const GATEWAY: &str = "203.0.113.20";
/// What lies behind the gateway.
pub(super) const BEHIND: &str = "10.0.0.0/24";
/// The longest packet inside each tunnel, in bytes.
pub(super) const MTU: &str = "1420";

/// A contender that runs.
#[derive(Debug)]
pub(super) struct Scene {
    pub(super) laptop: Host,
    pub(super) server: Host,
    /// The server's address as the laptop knows it.
    pub(super) target: String,
    /// Process ids of the tunnel's ends, the laptop's first; none where there is no tunnel.
    pub(super) ends: Vec<u32>,
    /// TCP's congestion control, if not the machine's own.
    pub(super) congestion: Option<String>,
    /// All that ends and is removed with the scene.
    pub(super) _held: Box<dyn Any + Send + Sync>,
}

/// The hosts where the others run, as the lab's office has them for Postern.
#[derive(Debug)]
pub(super) struct Hosts {
    pub(super) laptop: Host,
    pub(super) gateway: Host,
    pub(super) server: Host,
    /// Last, so that it is dropped last.
    pub(super) lab: Lab,
}

impl Hosts {
    /// A gateway that forwards by the kernel's routes.
    pub(super) fn new() -> Result<Self> {
        let mut lab = Lab::new()?;
        let (internet, office) = (lab.segment("internet")?, lab.segment("office")?);
        let (laptop, gateway, server) = (lab.host("laptop")?, lab.host("gateway")?, lab.host("server")?);
        laptop.link("eth0", &internet, &["203.0.113.30/24"])?;
        gateway.link("eth0", &internet, &[&format!("{GATEWAY}/24")])?;
        gateway.link("eth1", &office, &["10.0.0.1/24"])?;
        server.link("eth0", &office, &[&format!("{WIKI}/24")])?;
        gateway.run(&["sysctl", "-qw", "net.ipv4.ip_forward=1"])?.success()?;
        server.ip(&["route", "add", "default", "via", "10.0.0.1"])?;
        Ok(Self { laptop, gateway, server, lab })
    }

    /// The scene on these hosts, with what else is to live as long.
    pub(super) fn scene(self, ends: Vec<u32>, running: impl Any + Send + Sync) -> Scene {
        let (laptop, server) = (self.laptop.clone(), self.server.clone());
        Scene { laptop, server, target: WIKI.into(), ends, congestion: None, _held: Box::new((running, self)) }
    }
}

impl Scene {
    /// Waits until a ping gets through: a session that ended while idle is there again.
    pub(super) fn answers(&self) -> Result<()> {
        eventually("the server answers", || {
            self.laptop.run(&["ping", "-qnc1", "-W1", &self.target])?.success().map(drop)
        })
    }

    /// The processor time that both ends have taken since they began.
    pub(super) fn processor_time(&self) -> Result<Duration> {
        self.ends.iter().map(|pid| processor_time(*pid)).sum()
    }

    /// The memory that each end has in use, in bytes.
    pub(super) fn resident(&self) -> Result<Vec<u64>> {
        self.ends.iter().map(|pid| resident(*pid)).collect()
    }
}

/// What all threads of a process have taken, those that ended too (proc(5)).
pub(crate) fn processor_time(pid: u32) -> Result<Duration> {
    /// How often a second has what `/proc` calls a clock tick: USER_HZ, on whatever Rust's standard library runs on.
    const TICKS: u64 = 100;
    let file = format!("/proc/{pid}/stat");
    let stat = std::fs::read_to_string(&file).with_context(|| format!("{file}: has the tunnel's process ended?"))?;
    // The name, in parentheses, may have anything in it.
    let (_, fields) = stat.rsplit_once(')').with_context(|| format!("{file}: no name"))?;
    let mut fields = fields.split_whitespace();
    // One that is dead stays there until it is waited for.
    ensure!(!matches!(fields.next(), Some("Z" | "X")), "the tunnel's process {pid} has ended");
    let ticks = fields.skip(10).take(2).map(str::parse::<u64>).sum::<Result<u64, _>>()?;
    Ok(Duration::from_millis(ticks * 1000 / TICKS))
}

fn resident(pid: u32) -> Result<u64> {
    let file = format!("/proc/{pid}/status");
    let status = std::fs::read_to_string(&file).with_context(|| format!("{file}: has the tunnel's process ended?"))?;
    let line =
        status.lines().find_map(|line| line.strip_prefix("VmRSS:")).with_context(|| format!("{file}: no VmRSS"))?;
    Ok(line.trim().trim_end_matches("kB").trim().parse::<u64>()? * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processor_time_is_that_of_all_threads() {
        let own = std::process::id();
        let before = processor_time(own).unwrap();
        let worker = std::thread::spawn(move || {
            // Until it shows: what ends this is what is tested.
            while processor_time(own).unwrap() < before + Duration::from_millis(50) {}
        });
        worker.join().unwrap();
        assert!(resident(own).unwrap() > 100_000);
        assert!(processor_time(u32::MAX).is_err());
    }

    #[test]
    fn who_is_dead_but_not_buried_has_no_figures() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        assert!(processor_time(child.id()).is_ok());
        child.kill().unwrap();
        eventually("it is dead", || ensure_ended(child.id())).unwrap();
        child.wait().unwrap();
    }

    fn ensure_ended(pid: u32) -> Result<()> {
        ensure!(processor_time(pid).is_err() && resident(pid).is_err(), "it still runs");
        ensure!(std::path::Path::new(&format!("/proc/{pid}")).exists(), "it is gone altogether");
        Ok(())
    }
}
