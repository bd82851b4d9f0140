//! Kernel settings of gateways.

use std::io::ErrorKind;

use anyhow::{Context as _, Result};

/// What a gateway needs, as files below `/proc/sys` and their values.
pub(super) fn for_gateway(interface: &str) -> Vec<(String, String)> {
    let mut settings: Vec<(String, String)> = Vec::new();
    let mut set = |path: String, value: &str| settings.push((path, value.to_owned()));
    // A router ignores router advertisements unless told to; whoever lives by them must not lose its default route.
    for name in interfaces_with("ipv6", "accept_ra", "1") {
        set(format!("net/ipv6/conf/{name}/accept_ra"), "2");
    }
    set("net/ipv4/ip_forward".into(), "1");
    set("net/ipv6/conf/all/forwarding".into(), "1");
    // A target at 127.0.0.1 of the gateway itself.
    set(format!("net/ipv4/conf/{interface}/route_localnet"), "1");
    // Clients come in where their addresses are routed to; a strict check would be content, a loose one always is.
    set(format!("net/ipv4/conf/{interface}/rp_filter"), "2");
    settings
}

fn interfaces_with(family: &str, setting: &str, value: &str) -> Vec<String> {
    let Ok(dir) = std::fs::read_dir(format!("/proc/sys/net/{family}/conf")) else { return Vec::new() };
    let names = dir.flatten().filter_map(|entry| entry.file_name().into_string().ok());
    let has_value = |name: &String| {
        let read = std::fs::read_to_string(format!("/proc/sys/net/{family}/conf/{name}/{setting}"));
        read.is_ok_and(|text| text.trim() == value)
    };
    names.filter(|name| name != "all" && name != "default" && name != "lo" && has_value(name)).collect()
}

/// The setting, or `None` where the kernel has none of that name, such as without IPv6.
pub(super) fn read(path: &str) -> Result<Option<String>> {
    match std::fs::read_to_string(file(path)) {
        Ok(text) => Ok(Some(text.trim().to_owned())),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("the kernel setting {path} can't be read")),
    }
}

pub(super) fn write(path: &str, value: &str) -> Result<()> {
    std::fs::write(file(path), value).with_context(|| format!("the kernel setting {path} can't be set to {value}"))
}

/// Sets back, unless somebody else has changed it since, or it is gone with its interface.
pub(super) fn restore(path: &str, before: &str, ours: &str) -> Result<()> {
    match read(path)? {
        Some(now) if now == ours => write(path, before),
        _ => Ok(()),
    }
}

fn file(path: &str) -> String {
    format!("/proc/sys/{path}")
}
