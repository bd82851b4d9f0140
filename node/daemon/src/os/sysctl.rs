//! Kernel settings of gateways.
//!
//! Writing a forwarding switch changes others with it, and writing it back does not change them back: each interface's own
//! forwarding follows, and so does whether redirects are accepted. So those are noted too, and set back after the switch.

use std::io::ErrorKind;

use anyhow::{Context as _, Result};

/// One setting that a gateway needs: a file below `/proc/sys` and its value.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Setting {
    pub(super) path: String,
    pub(super) value: &'static str,
    /// What the kernel changes together with it, as they are now.
    pub(super) beside: Vec<(String, String)>,
}

/// What a gateway needs.
pub(super) fn for_gateway(interface: &str) -> Vec<Setting> {
    let mut settings = Vec::new();
    let mut set = |path: String, value: &'static str, beside| settings.push(Setting { path, value, beside });
    // A router ignores router advertisements unless told to; whoever lives by them must not lose its default route.
    for name in interfaces("ipv6") {
        let path = format!("net/ipv6/conf/{name}/accept_ra");
        let is_for_all = matches!(name.as_str(), "all" | "default" | "lo");
        if !is_for_all && read(&path).is_ok_and(|value| value.as_deref() == Some("1")) {
            set(path, "2", Vec::new());
        }
    }
    set("net/ipv4/ip_forward".into(), "1", as_they_are("ipv4", &["forwarding", "accept_redirects"]));
    set("net/ipv6/conf/all/forwarding".into(), "1", as_they_are("ipv6", &["forwarding", "accept_redirects"]));
    // A target at 127.0.0.1 of the gateway itself.
    set(format!("net/ipv4/conf/{interface}/route_localnet"), "1", Vec::new());
    // Clients come in where their addresses are routed to; a strict check would be content, a loose one always is.
    set(format!("net/ipv4/conf/{interface}/rp_filter"), "2", Vec::new());
    settings
}

/// `all` is left out where it is the switch itself: writing it would set all others once more.
fn as_they_are(family: &str, names: &[&str]) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for interface in interfaces(family) {
        for name in names.iter().filter(|name| interface != "all" || **name != "forwarding") {
            let path = format!("net/{family}/conf/{interface}/{name}");
            if let Ok(Some(value)) = read(&path) {
                found.push((path, value));
            }
        }
    }
    found
}

fn interfaces(family: &str) -> Vec<String> {
    let Ok(dir) = std::fs::read_dir(format!("/proc/sys/net/{family}/conf")) else { return Vec::new() };
    dir.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect()
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
pub(super) fn restore(path: &str, before: &str, ours: &str, beside: &[(String, String)]) -> Result<()> {
    match read(path)? {
        Some(now) if now == ours => write(path, before)?,
        // It was set back already, and what goes with it perhaps not.
        Some(now) if now == before => {}
        _ => return Ok(()),
    }
    for (path, before) in beside {
        if read(path)?.is_some_and(|now| now != *before) {
            write(path, before)?;
        }
    }
    Ok(())
}

fn file(path: &str) -> String {
    format!("/proc/sys/{path}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_forwarding_switch_is_noted_with_all_that_follows_it_and_without_itself() {
        let settings = for_gateway("lo");
        let switch = settings.iter().find(|setting| setting.path == "net/ipv4/ip_forward").unwrap();
        let has = |path: &str| switch.beside.iter().any(|(beside, _)| beside == path);
        assert!(has("net/ipv4/conf/all/accept_redirects") && has("net/ipv4/conf/default/forwarding"));
        assert!(has("net/ipv4/conf/lo/forwarding") && !has("net/ipv4/conf/all/forwarding"));
        assert!(settings.iter().all(|setting| setting.path.contains("forward") || setting.beside.is_empty()));
    }
}
