//! A name for the TUN device that no other node on this machine has, in whatever network namespace it runs: `wg show` finds
//! nodes by sockets in a directory that all namespaces share.

use std::{
    fs::{DirBuilder, File, OpenOptions},
    io,
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::Path,
};

/// Where UAPI sockets are.
pub const RUN_DIR: &str = "/var/run/wireguard";
/// More nodes than this do not run on one machine.
const MAX_NODES: u32 = 1000;

/// A claimed name; free again when dropped.
#[derive(Debug)]
pub struct InterfaceName {
    name: String,
    _lock: File,
}

impl InterfaceName {
    /// Claims the first `posternN` that is free.
    ///
    /// # Errors
    /// When the directory for sockets can't be written, or all names are taken.
    pub fn claim() -> io::Result<Self> {
        Self::claim_in(Path::new(RUN_DIR))
    }

    fn claim_in(dir: &Path) -> io::Result<Self> {
        DirBuilder::new().recursive(true).mode(0o755).create(dir)?;
        for number in 0..MAX_NODES {
            let name = format!("postern{number}");
            if index_of(&name).is_ok() {
                continue;
            }
            let path = dir.join(format!("{name}.lock"));
            let lock = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path)?;
            if lock.try_lock().is_ok() {
                return Ok(Self { name, _lock: lock });
            }
        }
        Err(io::Error::other("all names for network interfaces are taken"))
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.name
    }
}

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
        let claim = || InterfaceName::claim_in(dir.path()).unwrap();
        let (one, other) = (claim(), claim());
        assert_ne!(one.as_str(), other.as_str());
        let name = one.as_str().to_owned();
        drop(one);
        assert_eq!(claim().as_str(), name);
    }
}
