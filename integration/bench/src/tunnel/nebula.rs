//! Nebula, as its manual sets it up: an authority, a certificate for each end, and the office as the gateway's unsafe route.

use std::fs;

use anyhow::{Context as _, Result};
use postern_lab::{Background, Host};

use super::scene::{BEHIND, GATEWAY, Hosts, MTU, Scene};

const DEVICE: &str = "nebula0";
const PORT: u16 = 4242;
const AT_LAPTOP: &str = "10.90.0.2";
const AT_GATEWAY: &str = "10.90.0.1";

pub(super) fn start() -> Result<Scene> {
    let hosts = Hosts::new()?;
    let authority = hosts.lab.dir().to_string_lossy().into_owned();
    let sign = |host: &Host, address: &str, more: &[&str]| -> Result<()> {
        let (ca, key) = (format!("{authority}/ca.crt"), format!("{authority}/ca.key"));
        let address = format!("{address}/24");
        let name = host.dir().file_name().context("a host has a name")?.to_string_lossy().into_owned();
        let words = ["nebula-cert", "sign", "-ca-crt", &ca, "-ca-key", &key, "-name", &name, "-ip", &address];
        let files = ["-out-crt", "host.crt", "-out-key", "host.key"];
        host.run(&[&words[..], &files, more].concat())?.success()?;
        Ok(())
    };
    let (ca, key) = (format!("{authority}/ca.crt"), format!("{authority}/ca.key"));
    let words = ["nebula-cert", "ca", "-name", "bench", "-out-crt", &ca, "-out-key", &key];
    hosts.gateway.run(&words)?.success()?;
    sign(&hosts.laptop, AT_LAPTOP, &[])?;
    sign(&hosts.gateway, AT_GATEWAY, &["-subnets", BEHIND])?;

    let known = format!("static_host_map: {{'{AT_GATEWAY}': ['{GATEWAY}:{PORT}']}}");
    let route = format!("unsafe_routes: [{{route: {BEHIND}, via: {AT_GATEWAY}, mtu: {MTU}}}]");
    let gateway = end(&hosts.gateway, &authority, PORT, "", "")?;
    let laptop = end(&hosts.laptop, &authority, 0, &known, &route)?;
    Ok(hosts.scene(vec![laptop.pid(), gateway.pid()], (laptop, gateway)))
}

fn end(host: &Host, authority: &str, port: u16, known: &str, route: &str) -> Result<Background> {
    let anything = "[{port: any, proto: any, host: any}]";
    let config = format!(
        "pki: {{ca: {authority}/ca.crt, cert: host.crt, key: host.key}}\n\
         {known}\n\
         lighthouse: {{am_lighthouse: false}}\n\
         listen: {{host: 0.0.0.0, port: {port}}}\n\
         tun:\n  dev: {DEVICE}\n  mtu: {MTU}\n  {route}\n\
         firewall:\n  outbound: {anything}\n  inbound: {anything}\n\
         logging: {{level: warning}}\n"
    );
    fs::write(host.dir().join("nebula.yml"), config)?;
    host.spawn("tunnel", host.command("nebula").args(["-config", "nebula.yml"]))
}
