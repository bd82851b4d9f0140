//! The machine's resolver: asked for the zone's names, it asks this node; for all others, whom it asked before.
//!
//! Where systemd-resolved runs, it is told over D-Bus. Where not, `/etc/resolv.conf` is replaced by one that names this node,
//! which passes other names on to the servers of the file that was there.

use std::{
    fs::{File, OpenOptions},
    io::{ErrorKind, Write as _},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::Path,
};

use anyhow::{Context as _, Result};
use postern_model::Fqdn;
use serde::Serialize;

use super::{
    NetworkConfig,
    interface::index_of,
    journal::{Before, Entry, Journal, SavedResolvConf},
};

const RESOLV_CONF: &str = "/etc/resolv.conf";
/// How a file of ours begins.
const HEADER: &str = "# Written by postern. 'postern down' brings back what was here before.\n";
/// The servers that systemd-resolved itself asks, as it writes them down for others.
const UPLINK: &str = "/run/systemd/resolve/resolv.conf";
const DNS_PORT: u16 = 53;

/// How the machine's names now come to this node.
#[derive(Debug)]
pub(super) enum Asked {
    /// systemd-resolved asks for the names that it was told of.
    ByName,
    /// For all names.
    ForAll,
}

/// Leads the zone's names to this node. Returns whom to ask for all others.
pub(super) async fn apply(journal: &mut Journal, config: &NetworkConfig) -> Result<(Asked, Vec<SocketAddr>)> {
    if is_resolved_in_charge() {
        journal.add(Entry::Resolved { interface: config.interface.clone() })?;
        match tell_resolved(config).await {
            // It asks for what lies below an alias too, and that is not ours.
            Ok(()) => {
                return Ok((Asked::ByName, nameservers(&std::fs::read_to_string(UPLINK).unwrap_or_default())));
            }
            Err(error) => {
                tracing::warn!(error = format!("{error:#}"), "systemd-resolved can't be told; taking /etc/resolv.conf")
            }
        }
    }
    let path = Path::new(RESOLV_CONF);
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => String::new(),
        Err(error) => return Err(error).context("/etc/resolv.conf can't be read"),
    };
    let ours = rewrite(&text, config.addr.v4);
    let before = look(path)?;
    journal.add(Entry::ResolvConf(SavedResolvConf { before, ours: ours.clone() }))?;
    put(path, &ours, 0o644)?;
    Ok((Asked::ForAll, nameservers(&text)))
}

/// Puts back what was there, unless somebody else has written the file since.
pub(super) fn restore(saved: &SavedResolvConf) -> Result<()> {
    restore_at(Path::new(RESOLV_CONF), saved)
}

fn restore_at(path: &Path, saved: &SavedResolvConf) -> Result<()> {
    let now = std::fs::read_to_string(path).unwrap_or_default();
    if now != saved.ours && !now.starts_with(HEADER) {
        tracing::warn!("{} was written by another program since; it is left as it is", path.display());
        return Ok(());
    }
    match &saved.before {
        Some(Before::File { text, mode }) => put(path, text, *mode),
        Some(Before::Link(target)) => {
            let new = path.with_extension("postern");
            let _ = std::fs::remove_file(&new);
            let link = || std::os::unix::fs::symlink(target, &new).and_then(|()| std::fs::rename(&new, path));
            link().with_context(|| format!("{} can't be made a link again", path.display()))
        }
        None => std::fs::remove_file(path).with_context(|| format!("{} can't be removed", path.display())),
    }
}

fn look(path: &Path) -> Result<Option<Before>> {
    let unreadable = || format!("{} can't be read", path.display());
    match std::fs::symlink_metadata(path) {
        Ok(found) if found.is_symlink() => Ok(Some(Before::Link(std::fs::read_link(path).with_context(unreadable)?))),
        Ok(found) => {
            let text = std::fs::read_to_string(path).with_context(unreadable)?;
            Ok(Some(Before::File { text, mode: found.permissions().mode() & 0o777 }))
        }
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(unreadable),
    }
}

/// Writes the file whole where it can be replaced; in place where it is mounted over, as `ip netns exec` does.
fn put(path: &Path, text: &str, mode: u32) -> Result<()> {
    let new = path.with_extension("postern");
    let replace = || -> std::io::Result<()> {
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(&new)?;
        file.set_permissions(std::fs::Permissions::from_mode(mode))?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        std::fs::rename(&new, path)
    };
    let in_place = || -> std::io::Result<()> {
        let mut file = File::options().write(true).truncate(true).open(path)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()
    };
    replace()
        .or_else(|_| {
            let _ = std::fs::remove_file(&new);
            in_place()
        })
        .with_context(|| format!("{} can't be written", path.display()))
}

/// The file with this node as its only name server.
fn rewrite(text: &str, own: Ipv4Addr) -> String {
    let kept = text.lines().filter(|line| {
        let word = line.split_whitespace().next().unwrap_or_default();
        matches!(word, "search" | "domain" | "options")
    });
    let mut ours = HEADER.to_owned();
    for line in kept {
        ours.push_str(line);
        ours.push('\n');
    }
    ours.push_str(&format!("nameserver {own}\n"));
    ours
}

/// The name servers of a resolv.conf(5).
fn nameservers(text: &str) -> Vec<SocketAddr> {
    let servers = text.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        let addr = (words.next() == Some("nameserver")).then(|| words.next()).flatten()?;
        // A link-local address with its zone (`fe80::1%eth0`) parses only as a socket address.
        addr.parse::<IpAddr>().map(|ip| SocketAddr::new(ip, DNS_PORT)).ok().or_else(|| scoped(addr))
    });
    servers.collect()
}

fn scoped(addr: &str) -> Option<SocketAddr> {
    let (ip, interface) = addr.split_once('%')?;
    let scope = index_of(interface).ok()?;
    Some(std::net::SocketAddrV6::new(ip.parse().ok()?, DNS_PORT, 0, scope).into())
}

/// Whether names go through systemd-resolved: it owns `/etc/resolv.conf`, and this process is where it is.
fn is_resolved_in_charge() -> bool {
    let same_namespace = match (std::fs::read_link("/proc/self/ns/net"), std::fs::read_link("/proc/1/ns/net")) {
        (Ok(ours), Ok(init)) => ours == init,
        _ => false,
    };
    let leads_to_it = std::fs::canonicalize(RESOLV_CONF).is_ok_and(|path| path.starts_with("/run/systemd/resolve"));
    same_namespace && leads_to_it
}

async fn tell_resolved(config: &NetworkConfig) -> Result<()> {
    let manager = Resolved::connect().await?;
    let index = index_of(&config.interface).with_context(|| format!("the interface {} is gone", config.interface))?;
    let index = i32::try_from(index)?;
    let (v4, v6) = (config.addr.v4.octets().to_vec(), config.addr.v6.octets().to_vec());
    let servers = [(rustix::net::AddressFamily::INET, v4), (rustix::net::AddressFamily::INET6, v6)];
    let servers: Vec<_> = servers.into_iter().map(|(family, bytes)| (i32::from(family.as_raw()), bytes)).collect();
    manager.call("SetLinkDNS", &(index, servers)).await?;
    manager.call("SetLinkDefaultRoute", &(index, false)).await?;
    tell_names(&config.interface, &[&config.zone]).await
}

/// Tells systemd-resolved which names, and what lies below them, to ask this node for; and for nothing else.
pub(super) async fn tell_names(interface: &str, names: &[&Fqdn]) -> Result<()> {
    let manager = Resolved::connect().await?;
    let index = index_of(interface).with_context(|| format!("the interface {interface} is gone"))?;
    let names: Vec<_> = names.iter().map(|name| (name.as_str(), true)).collect();
    manager.call("SetLinkDomains", &(i32::try_from(index)?, names)).await?;
    manager.call("FlushCaches", &()).await
}

/// Tells systemd-resolved to forget the interface; one that is gone is forgotten already.
pub(super) async fn revert_resolved(interface: &str) -> Result<()> {
    let Ok(index) = index_of(interface) else { return Ok(()) };
    Resolved::connect().await?.call("RevertLink", &(i32::try_from(index)?,)).await
}

struct Resolved(zbus::Connection);

impl Resolved {
    async fn connect() -> Result<Self> {
        Ok(Self(zbus::Connection::system().await.context("the system bus can't be reached")?))
    }

    async fn call<B>(&self, method: &str, body: &B) -> Result<()>
    where
        B: Serialize + zbus::zvariant::DynamicType,
    {
        let (name, path) = ("org.freedesktop.resolve1", "/org/freedesktop/resolve1");
        let called = self.0.call_method(Some(name), path, Some("org.freedesktop.resolve1.Manager"), method, body).await;
        called.with_context(|| format!("systemd-resolved refuses {method}"))?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BEFORE: &str = "# mine\nsearch example.com\nnameserver 192.0.2.53\nnameserver 2001:db8::53\noptions edns0\n";

    #[test]
    fn the_new_file_names_only_this_node_and_keeps_what_else_counts() {
        let ours = rewrite(BEFORE, Ipv4Addr::new(100, 64, 1, 0));
        assert_eq!(ours, format!("{HEADER}search example.com\noptions edns0\nnameserver 100.64.1.0\n"));
        let servers: Vec<SocketAddr> = vec!["192.0.2.53:53".parse().unwrap(), "[2001:db8::53]:53".parse().unwrap()];
        assert_eq!(nameservers(BEFORE), servers);
        assert_eq!(nameservers("nameserver not-an-address\nnameserver\n"), []);
    }

    #[test]
    fn files_links_and_nothing_come_back_as_they_were() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("resolv.conf");
        let ours = rewrite(BEFORE, Ipv4Addr::new(100, 64, 1, 0));
        let round = |before: Option<Before>| {
            put(&path, &ours, 0o644).unwrap();
            restore_at(&path, &SavedResolvConf { before, ours: ours.clone() }).unwrap();
        };
        std::fs::write(&path, BEFORE).unwrap();
        round(look(&path).unwrap());
        assert_eq!(std::fs::read_to_string(&path).unwrap(), BEFORE);
        std::fs::remove_file(&path).unwrap();
        round(look(&path).unwrap());
        assert!(!path.exists());
        std::os::unix::fs::symlink("../run/elsewhere", &path).unwrap();
        let link = look(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        round(link);
        assert_eq!(std::fs::read_link(&path).unwrap(), Path::new("../run/elsewhere"));
    }

    #[test]
    fn what_another_program_wrote_stays() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("resolv.conf");
        std::fs::write(&path, "nameserver 192.0.2.99\n").unwrap();
        let saved = SavedResolvConf { before: None, ours: rewrite("", Ipv4Addr::LOCALHOST) };
        restore_at(&path, &saved).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "nameserver 192.0.2.99\n");
    }
}
