//! `/etc/resolv.conf`: reading it, putting ours in its place, and putting back what was there.

use std::{
    fs::{File, OpenOptions},
    io::{ErrorKind, Write as _},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

use crate::os::{
    interface::index_of,
    journal::{Before, SavedResolvConf},
};

/// How a file of ours begins.
pub(super) const HEADER: &str = "# Written by postern. 'postern down' brings back what was here before.\n";
const DNS_PORT: u16 = 53;

/// Its text; empty when there is none.
pub(super) fn read(path: &Path) -> Result<String> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(text),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(String::new()),
        Err(error) => Err(error).with_context(|| format!("{} can't be read", path.display())),
    }
}

/// What is there now, for putting it back.
pub(super) fn look(path: &Path) -> Result<Option<Before>> {
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

/// Puts back what was there, unless somebody else has written the file since.
pub(super) fn restore(path: &Path, saved: &SavedResolvConf) -> Result<()> {
    if !is_ours(&read(path)?, saved) {
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
        None => match std::fs::remove_file(path) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                Err(error).with_context(|| format!("{} can't be removed", path.display()))
            }
            _ => Ok(()),
        },
    }
}

/// Whether a text is what we wrote, or the beginning of it or of what we were putting back: a crash may have come in
/// between where the file can't be replaced whole.
pub(super) fn is_ours(now: &str, saved: &SavedResolvConf) -> bool {
    let was_being_put_back = matches!(&saved.before, Some(Before::File { text, .. }) if text.starts_with(now));
    saved.ours.starts_with(now) || now.starts_with(HEADER) || was_being_put_back
}

/// Writes the file whole where it can be replaced; in place where it is mounted over, as `ip netns exec` does.
pub(super) fn put(path: &Path, text: &str, mode: u32) -> Result<()> {
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
pub(super) fn rewrite(text: &str, own: Ipv4Addr) -> String {
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
pub(super) fn nameservers(text: &str) -> Vec<SocketAddr> {
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

/// Where a link in the place of `path` leads.
pub(super) fn resolve_link(path: &Path, target: &Path) -> PathBuf {
    path.parent().unwrap_or(Path::new("/")).join(target)
}

/// Whether the file is the same one that is seen from another root, such as that of process 1; where there is none, whether
/// it would be made in the same place.
pub(super) fn is_that_below(root: &Path, path: &Path) -> bool {
    let id = |path: &Path| std::fs::metadata(path).map(|found| (found.dev(), found.ino()));
    let below = |path: &Path| root.join(path.strip_prefix("/").unwrap_or(path));
    match (id(path), id(&below(path))) {
        (Ok(here), Ok(there)) => here == there,
        (Err(_), Err(_)) => {
            let dir = path.parent().unwrap_or(Path::new("/"));
            matches!((id(dir), id(&below(dir))), (Ok(here), Ok(there)) if here == there)
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BEFORE: &str = "# mine\nsearch example.com\nnameserver 192.0.2.53\nnameserver 2001:db8::53\noptions edns0\n";

    fn saved() -> SavedResolvConf {
        SavedResolvConf {
            before: Some(Before::File { text: BEFORE.into(), mode: 0o644 }),
            ours: rewrite(BEFORE, Ipv4Addr::new(100, 64, 1, 0)),
        }
    }

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
            restore(&path, &SavedResolvConf { before, ours: ours.clone() }).unwrap();
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
    fn what_a_crash_cut_short_is_put_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("resolv.conf");
        let saved = saved();
        // Nothing at all, a part of ours, and a part of what was being put back.
        for cut in ["", &saved.ours[..20], &BEFORE[..10]] {
            std::fs::write(&path, cut).unwrap();
            restore(&path, &saved).unwrap();
            assert_eq!(std::fs::read_to_string(&path).unwrap(), BEFORE, "{cut:?}");
        }
        std::fs::remove_file(&path).unwrap();
        restore(&path, &saved).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), BEFORE);
        std::fs::remove_file(&path).unwrap();
        restore(&path, &SavedResolvConf { before: None, ..saved }).unwrap();
        assert!(!path.exists());
    }

    #[test]
    fn what_another_program_wrote_stays() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("resolv.conf");
        std::fs::write(&path, "nameserver 192.0.2.99\n").unwrap();
        restore(&path, &saved()).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "nameserver 192.0.2.99\n");
    }

    #[test]
    fn a_file_is_the_same_from_another_root_or_not() {
        let dir = tempfile::tempdir().unwrap();
        let (root, path) = (Path::new("/proc/self/root"), dir.path().join("resolv.conf"));
        assert!(is_that_below(root, &path), "it would be made in the same directory");
        std::fs::write(&path, "").unwrap();
        assert!(is_that_below(root, &path));
        assert!(!is_that_below(dir.path(), &path), "from there it is not seen");
        let other = tempfile::tempdir().unwrap();
        let below = other.path().join(dir.path().strip_prefix("/").unwrap());
        std::fs::create_dir_all(&below).unwrap();
        assert!(!is_that_below(other.path(), &path));
        std::fs::write(below.join("resolv.conf"), "").unwrap();
        assert!(!is_that_below(other.path(), &path), "of the same name, and another");
        assert_eq!(resolve_link(Path::new("/etc/resolv.conf"), Path::new("../run/x")), Path::new("/etc/../run/x"));
    }
}
