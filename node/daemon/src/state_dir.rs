//! The node's state directory: who this device is, whether it should be up, and one lock over all.

use std::{
    fs::{DirBuilder, File, OpenOptions, Permissions},
    io::{ErrorKind, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use postern_model::{DeviceId, SecretBytes, Sha256, token::HostPort};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

const IDENTITY: &str = "identity.json";
const SETTINGS: &str = "settings.json";
const LOCK: &str = "lock";
/// The local API's socket inside the directory.
pub const SOCKET: &str = "postern.sock";
/// What a daemon that `postern up` started writes to.
pub const LOG: &str = "daemon.log";

/// Who this device is. Born here, and the private parts stay here.
#[derive(Clone, Serialize, Deserialize)]
pub struct Identity {
    /// Its id.
    pub device: DeviceId,
    /// Its name.
    pub name: String,
    /// Where its coordinator is.
    pub coordinator: HostPort,
    /// SHA-256 of the coordinator's public key.
    pub pin: Sha256,
    /// The Ed25519 device key (PKCS#8, PEM).
    pub device_key: Zeroizing<String>,
    /// The WireGuard key.
    pub wireguard_key: SecretBytes,
    /// The device certificate (X.509, DER).
    pub certificate: Vec<u8>,
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Identity({} at {})", self.device, self.coordinator)
    }
}

/// What outlives the daemon beside the identity.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Settings {
    /// Whether the node should be up when the daemon runs.
    pub up: bool,
    /// The UDP port that peers know; kept, so that they find the node again.
    pub wireguard_port: u16,
}

/// An open state directory; no other daemon can open it until this one is dropped.
#[derive(Debug)]
pub struct StateDir {
    path: PathBuf,
    _lock: File,
}

impl StateDir {
    /// Opens the directory, and makes it (mode 0700) when there is none.
    ///
    /// # Errors
    /// When it can't be made or opened, or another daemon runs with it.
    pub fn open(path: &Path) -> Result<Self> {
        Self::try_open(path)?.with_context(|| {
            format!(
                "another daemon is running with --state-dir {}: use it, or choose another directory",
                path.display()
            )
        })
    }

    /// Like [`Self::open`]; `None` when another daemon runs with it.
    ///
    /// # Errors
    /// When the directory can't be made or opened.
    pub fn try_open(path: &Path) -> Result<Option<Self>> {
        let made = DirBuilder::new().recursive(true).mode(0o700).create(path);
        made.with_context(|| format!("the state directory {} can't be made", path.display()))?;
        std::fs::set_permissions(path, Permissions::from_mode(0o700))
            .with_context(|| format!("the state directory {} is not this user's", path.display()))?;
        let lock = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path.join(LOCK));
        let lock = lock.with_context(|| format!("the state directory {} can't be written", path.display()))?;
        match lock.try_lock() {
            Ok(()) => Ok(Some(Self { path: path.to_owned(), _lock: lock })),
            Err(std::fs::TryLockError::WouldBlock) => Ok(None),
            Err(std::fs::TryLockError::Error(error)) => {
                Err(error).with_context(|| format!("{} can't be locked", path.display()))
            }
        }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Who this device is, if it has enrolled.
    ///
    /// # Errors
    /// When the file is there and can't be read.
    pub fn identity(&self) -> Result<Option<Identity>> {
        let Some(text) = self.read(IDENTITY)? else { return Ok(None) };
        match serde_json::from_str(&text) {
            Ok(identity) => Ok(Some(identity)),
            // Not with serde's message, which may quote the file.
            Err(_) => bail!(
                "{} is damaged: run 'postern logout', then enrol again with a new join token",
                self.path.join(IDENTITY).display()
            ),
        }
    }

    /// Keeps the identity.
    ///
    /// # Errors
    /// When it can't be written.
    pub fn set_identity(&self, identity: &Identity) -> Result<()> {
        self.write(IDENTITY, &Zeroizing::new(serde_json::to_string(identity)?))
    }

    /// Forgets the identity, overwriting it first.
    ///
    /// # Errors
    /// When the file can't be removed.
    pub fn forget_identity(&self) -> Result<()> {
        let path = self.path.join(IDENTITY);
        let remove = || match std::fs::metadata(&path) {
            Ok(found) => {
                let mut file = OpenOptions::new().write(true).open(&path)?;
                file.write_all(&vec![0; usize::try_from(found.len()).unwrap_or(0)])?;
                file.sync_all()?;
                std::fs::remove_file(&path)
            }
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        };
        remove().with_context(|| format!("{} can't be removed", path.display()))
    }

    /// The settings.
    ///
    /// # Errors
    /// When the file is there and can't be read.
    pub fn settings(&self) -> Result<Settings> {
        let Some(text) = self.read(SETTINGS)? else { return Ok(Settings::default()) };
        // Nothing in there can't be found out anew.
        Ok(serde_json::from_str(&text).unwrap_or_default())
    }

    /// Keeps the settings.
    ///
    /// # Errors
    /// When they can't be written.
    pub fn set_settings(&self, settings: &Settings) -> Result<()> {
        self.write(SETTINGS, &serde_json::to_string(settings)?)
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
    fn settings_survive_and_one_daemon_has_the_directory() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("node");
        let state = StateDir::open(&path).unwrap();
        assert_eq!(state.settings().unwrap(), Settings::default());
        let settings = Settings { up: true, wireguard_port: 4000 };
        state.set_settings(&settings).unwrap();
        assert_eq!(state.settings().unwrap(), settings);
        assert!(StateDir::try_open(&path).unwrap().is_none());
        assert!(StateDir::open(&path).unwrap_err().to_string().contains("another daemon"));
    }

    #[test]
    fn a_damaged_identity_is_reported_without_its_content() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::open(dir.path()).unwrap();
        assert!(state.identity().unwrap().is_none());
        std::fs::write(dir.path().join(IDENTITY), r#"{"device_key": "hush"}"#).unwrap();
        let error = format!("{:#}", state.identity().unwrap_err());
        assert!(error.contains("logout") && !error.contains("hush"), "{error}");
        state.forget_identity().unwrap();
        assert!(state.identity().unwrap().is_none());
    }
}
