//! The state directory: keys that are made once and never leave, the database, the admin socket, one lock over all.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use postern_model::{SecretBytes, token::HostPort};
use rcgen::{KeyPair, PKCS_ED25519};
use zeroize::Zeroizing;

const IDENTITY_KEY: &str = "identity.key";
const DEVICE_CA_KEY: &str = "device-ca.key";
const PASS_KEY: &str = "relay-passes.key";
const PSK_MASTER: &str = "psk-master.key";
const PUBLIC_ADDRESS: &str = "public-address";
const DATABASE: &str = "coordinator.db";
const ACTIVITY: &str = "activity.db";
/// The admin socket's name inside the state directory.
pub(crate) const ADMIN_SOCKET: &str = "admin.sock";

/// The coordinator's state directory; no other coordinator can open it until this one is dropped.
#[derive(Debug)]
pub(crate) struct StateDir(postern_statedir::StateDir);

impl StateDir {
    /// Opens the directory, and makes it when there is none.
    ///
    /// # Errors
    /// When it can't be made or opened, or another coordinator runs with it.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        Ok(Self(postern_statedir::StateDir::open(path)?))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Where the database is.
    pub(crate) fn database(&self) -> PathBuf {
        self.path(DATABASE)
    }

    /// Where the access activity is.
    pub(crate) fn activity(&self) -> PathBuf {
        self.path(ACTIVITY)
    }

    /// Where the admin socket is.
    pub(crate) fn admin_socket(&self) -> PathBuf {
        self.path(ADMIN_SOCKET)
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

    /// The key that signs passes for relays. It may come later than the database, and be replaced: relays are then told of
    /// the new one.
    ///
    /// # Errors
    /// When it can't be read or made.
    pub(crate) fn pass_key(&self) -> Result<KeyPair> {
        self.key_pair(PASS_KEY)
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
        let Some(text) = self.0.read(PUBLIC_ADDRESS)? else { return Ok(None) };
        Ok(Some(text.trim().parse().with_context(|| self.damaged(PUBLIC_ADDRESS))?))
    }

    /// Keeps the public address for later starts.
    ///
    /// # Errors
    /// When it can't be written.
    pub(crate) fn set_public_address(&self, address: &HostPort) -> Result<()> {
        Ok(self.0.write(PUBLIC_ADDRESS, &format!("{address}\n"))?)
    }

    fn damaged(&self, name: &str) -> String {
        format!("{} is damaged: restore it from a backup", self.path(name).display())
    }

    fn read_or_make(&self, name: &str, make: impl FnOnce() -> Result<Zeroizing<String>>) -> Result<Zeroizing<String>> {
        if let Some(text) = self.0.read(name)? {
            return Ok(text);
        }
        // Beside a database, a lost key is not to be replaced in silence: no node would believe the new one.
        if self.database().exists() && name != PASS_KEY {
            bail!("{} is missing: restore it from a backup", self.path(name).display());
        }
        let text = make()?;
        self.0.write(name, &text)?;
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

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
        let passes = state.pass_key().expect("a coordinator from before relays gets one").serialize_der();
        assert_eq!(state.pass_key().unwrap().serialize_der(), passes);
        std::fs::remove_file(path.join(IDENTITY_KEY)).unwrap();
        assert!(state.identity_key().unwrap_err().to_string().contains("missing"));
        std::fs::write(path.join(IDENTITY_KEY), "junk").unwrap();
        assert!(state.identity_key().unwrap_err().to_string().contains("damaged"));
    }
}
