//! Who takes part, and how each is started.

use std::{
    fmt,
    path::PathBuf,
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};
use clap::ValueEnum;
use postern_lab::{Office, office::WIKI, postern::binary};

use super::{
    iperf, nebula,
    scene::{Hosts, Scene},
    wireguard,
};

/// One of those that are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(super) enum Contender {
    /// No tunnel at all: what hosts and links can do.
    None,
    Postern,
    BoringtunCli,
    Gotatun,
    WireguardGo,
    Nebula,
}

impl fmt::Display for Contender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "none",
            Self::Postern => "postern",
            Self::BoringtunCli => "boringtun-cli",
            Self::Gotatun => "gotatun",
            Self::WireguardGo => "wireguard-go",
            Self::Nebula => "nebula",
        })
    }
}

impl Contender {
    /// Whether it is someone else's tunnel.
    pub(super) fn is_peer(self) -> bool {
        !matches!(self, Self::None | Self::Postern)
    }

    /// What it says its version is; empty where there is no program.
    ///
    /// # Errors
    /// When the program is not there.
    pub(super) fn version(self) -> Result<String> {
        let words = match self {
            Self::None => return Ok(String::new()),
            Self::Postern => [binary("postern")?, "--version".into()],
            Self::BoringtunCli | Self::Gotatun => [installed(self)?, "--version".into()],
            Self::WireguardGo => ["wireguard-go".into(), "--version".into()],
            Self::Nebula => ["nebula".into(), "-version".into()],
        };
        let mut command = Command::new(&words[0]);
        let output = command.arg(&words[1]).stdin(Stdio::null()).output();
        let output = output.with_context(|| format!("{self}: run {}", words[0].display()))?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let version = text.lines().next().unwrap_or_default().split_whitespace().last();
        Ok(version.with_context(|| format!("{self} says no version"))?.trim_start_matches('v').to_owned())
    }

    /// Starts it on hosts of its own.
    pub(super) fn start(self) -> Result<Scene> {
        match self {
            Self::None => {
                let hosts = Hosts::new()?;
                hosts.laptop.ip(&["route", "add", "default", "via", super::scene::GATEWAY])?;
                Ok(hosts.scene(vec![], ()))
            }
            Self::Postern => postern(),
            Self::BoringtunCli | Self::Gotatun => {
                let program = installed(self)?.to_string_lossy().into_owned();
                wireguard::start(&[&program, "--foreground", "--disable-drop-privileges"])
            }
            Self::WireguardGo => wireguard::start(&["wireguard-go", "--foreground"]),
            Self::Nebula => nebula::start(),
        }
    }
}

/// Where `make contenders` has put a program: beside the directory of this one.
fn installed(contender: Contender) -> Result<PathBuf> {
    let own = std::env::current_exe()?;
    let target = own.parent().and_then(|dir| dir.parent()).context("this program's directory")?;
    let path = target.join("contenders/bin").join(contender.to_string());
    ensure!(
        path.exists(),
        "{} is not there; run 'make contenders', or leave {contender} out by --only",
        path.display()
    );
    Ok(path)
}

/// The whole product: a coordinator, a gateway with a resource, and a laptop that has a grant for it.
fn postern() -> Result<Scene> {
    let office = Office::new(&[])?;
    let mut gateway = office.join_gateway()?;
    let mut laptop = office.join_laptop()?;
    let port = iperf::PORT.to_string();
    let words =
        ["resource", "add", "iperf", "--site", "office", "--target", WIKI, "--tcp", &port, "--udp", &port, "--icmp"];
    let resource = office.coordinator.ctl(&words)?;
    office.coordinator.ctl(&["policy", "allow", "user:alice", "iperf"])?;
    let target = resource["addr"]["v4"].as_str().context("a resource has an address")?.to_owned();
    let ends = vec![laptop.process()?.pid(), gateway.process()?.pid()];
    let (at_laptop, server) = (office.laptop.clone(), office.wiki.clone());
    Ok(Scene { laptop: at_laptop, server, target, ends, congestion: None, _held: Box::new((laptop, gateway, office)) })
}
