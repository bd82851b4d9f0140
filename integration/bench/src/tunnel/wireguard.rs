//! Other programs that speak WireGuard and are configured by `wg`: boringtun-cli, gotatun, wireguard-go. Each as it comes, without
//! further options.

use std::{fs, os::unix::fs::OpenOptionsExt as _};

use anyhow::{Context as _, Result};
use postern_lab::{Background, Host, eventually};

use super::scene::{BEHIND, GATEWAY, Hosts, MTU, Scene};

const DEVICE: &str = "wg0";
const PORT: u16 = 51820;
const AT_LAPTOP: &str = "10.90.0.2";
const AT_GATEWAY: &str = "10.90.0.1";

/// One end of the tunnel.
#[derive(Debug)]
struct End {
    host: Host,
    process: Background,
    private: String,
    public: String,
}

/// Starts both ends; `words` are the program and its options, to which the device's name is added.
pub(super) fn start(words: &[&str]) -> Result<Scene> {
    let hosts = Hosts::new()?;
    let (laptop, gateway) = (End::start(&hosts.laptop, words)?, End::start(&hosts.gateway, words)?);
    let to_gateway = format!("Endpoint = {GATEWAY}:{PORT}\nAllowedIPs = {AT_GATEWAY}/32, {BEHIND}\n");
    laptop.configure("", &gateway, &to_gateway, AT_LAPTOP)?;
    let to_laptop = format!("AllowedIPs = {AT_LAPTOP}/32\n");
    gateway.configure(&format!("ListenPort = {PORT}\n"), &laptop, &to_laptop, AT_GATEWAY)?;
    hosts.laptop.ip(&["route", "add", BEHIND, "dev", DEVICE])?;
    Ok(hosts.scene(vec![laptop.process.pid(), gateway.process.pid()], (laptop, gateway)))
}

impl End {
    fn start(host: &Host, words: &[&str]) -> Result<Self> {
        // Each end sees a directory of its own where `wg` looks for sockets, so that all devices can have the same name, and
        // none leaves a socket behind.
        let script = "mkdir -p /var/run/wireguard && mount -t tmpfs tmpfs /var/run/wireguard && exec \"$@\"";
        let mut command = host.command("sh");
        command.args(["-c", script, "sh"]).args(words).arg(DEVICE);
        let process = host.spawn("tunnel", &mut command)?;
        let private = host.run(&["wg", "genkey"])?.success()?.trim().to_owned();
        let key = secret(host, "key", &private)?;
        let public = host.run(&["sh", "-c", "exec wg pubkey < \"$0\"", &key])?.success()?.trim().to_owned();
        let end = Self { host: host.clone(), process, private, public };
        eventually("the tunnel's program answers", || end.inside(&["wg", "show", DEVICE]))
            .with_context(|| end.process.log())?;
        Ok(end)
    }

    /// Runs a command that sees what the tunnel's process sees.
    fn inside(&self, words: &[&str]) -> Result<String> {
        self.host.inside(self.process.pid()).run(words)?.success()
    }

    fn configure(&self, own: &str, peer: &Self, of_peer: &str, address: &str) -> Result<()> {
        let text =
            format!("[Interface]\nPrivateKey = {}\n{own}[Peer]\nPublicKey = {}\n{of_peer}", self.private, peer.public);
        let file = secret(&self.host, "wg.conf", &text)?;
        self.inside(&["wg", "setconf", DEVICE, &file])?;
        self.host.ip(&["link", "set", DEVICE, "mtu", MTU, "up"])?;
        self.host.ip(&["addr", "add", &format!("{address}/24"), "dev", DEVICE])?;
        Ok(())
    }
}

/// Writes a file of the host that only root can read.
fn secret(host: &Host, name: &str, text: &str) -> Result<String> {
    let path = host.dir().join(name);
    let mut file = fs::File::options().write(true).create_new(true).mode(0o600).open(&path)?;
    std::io::Write::write_all(&mut file, text.as_bytes())?;
    Ok(path.to_string_lossy().into_owned())
}
