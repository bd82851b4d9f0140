//! The state directory: keys that are made once and never leave, the database, the admin socket, one lock over all.

use std::{
    fs::{DirBuilder, File, OpenOptions, Permissions},
    io::{ErrorKind, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use postern_model::{SecretBytes, token::HostPort};
use rcgen::{KeyPair, PKCS_ED25519};
use zeroize::Zeroizing;

const IDENTITY_KEY: &str = "identity.key";
const DEVICE_CA_KEY: &str = "device-ca.key";
const PSK_MASTER: &str = "psk-master.key";
const PUBLIC_ADDRESS: &str = "public-address";
const DATABASE: &str = "coordinator.db";
const LOCK: &str = "lock";
/// The admin socket's name inside the state directory.
pub(crate) const ADMIN_SOCKET: &str = "admin.sock";

/// An open state directory; no other coordinator can open it until this one is dropped.
#[derive(Debug)]
pub(crate) struct StateDir {
    path: PathBuf,
    _lock: File,
}

impl StateDir {
    /// Opens the directory, and makes it (mode 0700) when there is none.
    ///
    /// # Errors
    /// When it can't be made or opened, or another coordinator runs with it.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let made = DirBuilder::new().recursive(true).mode(0o700).create(path);
        made.with_context(|| format!("the state directory {} can't be made", path.display()))?;
        std::fs::set_permissions(path, Permissions::from_mode(0o700))
            .with_context(|| format!("the state directory {} is not this user's", path.display()))?;
        let lock = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path.join(LOCK));
        let lock = lock.with_context(|| format!("the state directory {} can't be written", path.display()))?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { path: path.to_owned(), _lock: lock }),
            Err(std::fs::TryLockError::WouldBlock) => bail!(
                "another coordinator is running with --state-dir {}: stop it first, or choose another directory",
                path.display()
            ),
            Err(std::fs::TryLockError::Error(error)) => {
                Err(error).with_context(|| format!("{} can't be locked", path.display()))
            }
        }
    }

    /// Where the database is.
    pub(crate) fn database(&self) -> PathBuf {
        self.path.join(DATABASE)
    }

    /// Where the admin socket is.
    pub(crate) fn admin_socket(&self) -> PathBuf {
        self.path.join(ADMIN_SOCKET)
    }

    /// The key that join tokens pin.
    ///
    /// # Errors
    /// When it can't be read or made.
    pub(crate) fn identity_key(&self) -> Result<KeyPair> {
        self.key_pair(IDENTITY_KEY)
    }

    /// The key that signs device certificates.
    ///
    /// # Errors
    /// When it can't be read or made.
    pub(crate) fn device_ca_key(&self) -> Result<KeyPair> {
        self.key_pair(DEVICE_CA_KEY)
    }

    fn key_pair(&self, name: &str) -> Result<KeyPair> {
        let pem =
            self.read_or_make(name, || Ok(Zeroizing::new(KeyPair::generate_for(&PKCS_ED25519)?.serialize_pem())))?;
        let pair = KeyPair::from_pem(&pem).with_context(|| self.damaged(name))?;
        if pair.is_compatible(&PKCS_ED25519) { Ok(pair) } else { bail!(self.damaged(name)) }
    }

    /// What preshared keys are derived from.
    ///
    /// # Errors
    /// When it can't be read or made.
    pub(crate) fn psk_master(&self) -> Result<SecretBytes> {
        let text = self.read_or_make(PSK_MASTER, || {
            let mut bytes = Zeroizing::new([0; 32]);
            getrandom::fill(bytes.as_mut()).context("the system gives no random bytes")?;
            Ok(Zeroizing::new(serde_json::to_string(&SecretBytes::new(*bytes))?))
        })?;
        serde_json::from_str(&text).map_err(|_| anyhow::anyhow!(self.damaged(PSK_MASTER)))
    }

    /// The public address that an earlier start was told.
    ///
    /// # Errors
    /// When it can't be read.
    pub(crate) fn public_address(&self) -> Result<Option<HostPort>> {
        let Some(text) = self.read(PUBLIC_ADDRESS)? else { return Ok(None) };
        Ok(Some(text.trim().parse().with_context(|| self.damaged(PUBLIC_ADDRESS))?))
    }

    /// Keeps the public address for later starts.
    ///
    /// # Errors
    /// When it can't be written.
    pub(crate) fn set_public_address(&self, address: &HostPort) -> Result<()> {
        self.write(PUBLIC_ADDRESS, &format!("{address}\n"))
    }

    fn damaged(&self, name: &str) -> String {
        format!("{} is damaged: restore it from a backup", self.path.join(name).display())
    }

    fn read_or_make(&self, name: &str, make: impl FnOnce() -> Result<Zeroizing<String>>) -> Result<Zeroizing<String>> {
        if let Some(text) = self.read(name)? {
            return Ok(text);
        }
        // Beside a database, a lost key is not to be replaced in silence: no node would believe the new one.
        if self.database().exists() && name != PUBLIC_ADDRESS {
            bail!("{} is missing: restore it from a backup", self.path.join(name).display());
        }
        let text = make()?;
        self.write(name, &text)?;
        Ok(text)
    }

    fn read(&self, name: &str) -> Result<Option<Zeroizing<String>>> {
        let path = self.path.join(name);
        match std::fs::read_to_string(&path) {
            Ok(text) => Ok(Some(Zeroizing::new(text))),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("{} can't be read", path.display())),
        }
    }

    /// Whole or not at all, and on disk when this returns.
    fn write(&self, name: &str, text: &str) -> Result<()> {
        let (path, new) = (self.path.join(name), self.path.join(format!("{name}.new")));
        let write = || {
            let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
            std::fs::rename(&new, &path)?;
            File::open(&self.path)?.sync_all()
        };
        write().with_context(|| format!("{} can't be written", path.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_made_once_kept_private_and_never_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state");
        let state = StateDir::open(&path).unwrap();
        let made = state.identity_key().unwrap().serialize_der();
        assert_eq!(state.identity_key().unwrap().serialize_der(), made);
        assert_eq!(std::fs::metadata(path.join(IDENTITY_KEY)).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700);
        assert_eq!(state.psk_master().unwrap(), state.psk_master().unwrap());
        std::fs::write(state.database(), "").unwrap();
        std::fs::remove_file(path.join(IDENTITY_KEY)).unwrap();
        assert!(state.identity_key().unwrap_err().to_string().contains("missing"));
        std::fs::write(path.join(IDENTITY_KEY), "junk").unwrap();
        assert!(state.identity_key().unwrap_err().to_string().contains("damaged"));
    }

    #[test]
    fn one_coordinator_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let first = StateDir::open(dir.path()).unwrap();
        assert!(StateDir::open(dir.path()).unwrap_err().to_string().contains("another coordinator"));
        drop(first);
        StateDir::open(dir.path()).unwrap();
    }
}
