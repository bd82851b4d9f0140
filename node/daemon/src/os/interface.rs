//! A name for the TUN device that no other node on this machine has, in whatever network namespace it runs: `wg show` finds
//! nodes by sockets in a directory that all namespaces share.
//!
//! In one network namespace there is one node: routes, firewall and resolver belong to it, and two would take them from
//! each other.

use std::{
    fs::{DirBuilder, File, OpenOptions},
    io,
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _},
    path::Path,
};

use anyhow::{Context as _, Result, bail};

/// Where UAPI sockets are.
pub const RUN_DIR: &str = "/var/run/wireguard";
/// More nodes than this do not run on one machine.
const MAX_NODES: u32 = 1000;

/// A claimed name, and the claim to be this network namespace's node; both free again when dropped.
#[derive(Debug)]
pub struct InterfaceName {
    name: String,
    _locks: [File; 2],
}

impl InterfaceName {
    /// Claims the first `posternN` that is free.
    ///
    /// # Errors
    /// When another node runs in this network namespace, the directory for sockets can't be written, or all names are taken.
    pub fn claim() -> Result<Self> {
        // Asked through the thread: a namespace is one's threads'.
        let namespace = std::fs::metadata("/proc/thread-self/ns/net").map_or(0, |found| found.ino());
        Self::claim_in(Path::new(RUN_DIR), namespace)
    }

    fn claim_in(dir: &Path, namespace: u64) -> Result<Self> {
        let unusable = || format!("{} can't be used", dir.display());
        DirBuilder::new().recursive(true).mode(0o755).create(dir).with_context(unusable)?;
        let lock = |name: &str| -> Result<Option<File>> {
            let path = dir.join(format!("{name}.lock"));
            let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path);
            let file = file.with_context(unusable)?;
            Ok(file.try_lock().is_ok().then_some(file))
        };
        let Some(sole) = lock(&format!("namespace-{namespace}"))? else { bail!(OCCUPIED) };
        for number in 0..MAX_NODES {
            let name = format!("postern{number}");
            // One with files of its own, as in a container with this machine's network, is seen by its interface.
            if index_of(&name).is_ok() {
                bail!("{OCCUPIED} (the interface {name} is there)");
            }
            if let Some(own) = lock(&name)? {
                return Ok(Self { name, _locks: [sole, own] });
            }
        }
        bail!("all names for network interfaces are taken")
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.name
    }
}

const OCCUPIED: &str = "another postern runs in this network namespace already, with another --state-dir; take that one down \
                        with 'postern --state-dir DIR down', or run this one in a namespace of its own";

/// An interface's index, asked of the kernel: `/sys` may show those of another network namespace.
///
/// # Errors
/// When there is no such interface.
pub(super) fn index_of(name: &str) -> io::Result<u32> {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, netdevice, socket_with};
    let socket = socket_with(AddressFamily::UNIX, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
    Ok(netdevice::name_to_index(socket, name)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interfaces_have_an_index_and_what_is_none_has_none() {
        assert_eq!(index_of("lo").unwrap(), 1);
        assert!(index_of("nosuch0").is_err());
    }

    #[test]
    fn no_two_claims_are_the_same_and_what_is_given_back_is_given_again() {
        let dir = tempfile::tempdir().unwrap();
        let claim = |namespace| InterfaceName::claim_in(dir.path(), namespace);
        let (one, other) = (claim(1).unwrap(), claim(2).unwrap());
        assert_ne!(one.as_str(), other.as_str());
        let error = claim(1).unwrap_err().to_string();
        assert!(error.contains("another postern runs in this network namespace"), "{error}");
        let name = one.as_str().to_owned();
        drop(one);
        assert_eq!(claim(1).unwrap().as_str(), name);
    }
}
