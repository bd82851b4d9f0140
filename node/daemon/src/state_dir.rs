//! The node's state directory: who this device is, whether it should be up, and one lock over all.

use std::{
    fs::OpenOptions,
    io::{ErrorKind, Write as _},
    path::Path,
};

use anyhow::{Context as _, Result, bail};
use postern_model::{DeviceId, SecretBytes, Sha256, TokenId, token::HostPort};
use postern_statedir::OpenError;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::activity;

const IDENTITY: &str = "identity.json";
const ENROLLING: &str = "enrolling.json";
const SETTINGS: &str = "settings.json";
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

/// The keys with which this device asks to enrol. Kept until that has ended: when the coordinator's answer is lost, the
/// same token with the same keys gets it again, and any others would need a new token.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Enrolling {
    /// With which token.
    pub token: TokenId,
    /// SHA-256 of the public key of the coordinator that made it.
    pub pin: Sha256,
    /// The Ed25519 device key (PKCS#8, PEM).
    pub device_key: Zeroizing<String>,
    /// The WireGuard key.
    pub wireguard_key: SecretBytes,
}

impl std::fmt::Debug for Enrolling {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Enrolling(with {})", self.token)
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
    /// Whether someone has chosen it, so that no other will do.
    pub is_port_fixed: bool,
    /// How much the records of flows may take of a gateway's disk, in bytes, if someone has chosen that.
    pub activity_spool: Option<u64>,
}

/// The node's state directory; no other daemon can open it until this one is dropped.
#[derive(Debug)]
pub struct StateDir(postern_statedir::StateDir);

impl StateDir {
    /// Opens the directory, and makes it when there is none.
    ///
    /// # Errors
    /// When it can't be made or opened, or another daemon runs with it.
    pub fn open(path: &Path) -> Result<Self, OpenError> {
        postern_statedir::StateDir::open(path).map(Self)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// Who this device is, if it has enrolled.
    ///
    /// # Errors
    /// When the file is there and can't be read.
    pub fn identity(&self) -> Result<Option<Identity>> {
        Self::identity_in(self.path())
    }

    /// Who the device of a directory is, whether or not a daemon has it open.
    ///
    /// # Errors
    /// When the file is there and can't be read.
    pub fn identity_in(dir: &Path) -> Result<Option<Identity>> {
        let Some(text) = postern_statedir::read(dir, IDENTITY)? else { return Ok(None) };
        match serde_json::from_str(&text) {
            Ok(identity) => Ok(Some(identity)),
            // Not with serde's message, which may quote the file.
            Err(_) => bail!(
                "{} is damaged: run 'postern logout', then enrol again with a new join token",
                dir.join(IDENTITY).display()
            ),
        }
    }

    /// Keeps the identity.
    ///
    /// # Errors
    /// When it can't be written.
    pub fn set_identity(&self, identity: &Identity) -> Result<()> {
        Ok(self.0.write(IDENTITY, &Zeroizing::new(serde_json::to_string(identity)?))?)
    }

    /// Forgets the identity, and the keys of an enrolment that has not ended, overwriting them first; and what was
    /// recorded of flows.
    ///
    /// # Errors
    /// When a file can't be removed.
    pub fn forget_identity(&self) -> Result<()> {
        self.forget_activity().and(self.forget_enrolling()).and(self.forget(IDENTITY))
    }

    /// What was recorded for a coordinator that this device does not belong to any more.
    fn forget_activity(&self) -> Result<()> {
        let dir = self.path().join(activity::DIR);
        match std::fs::remove_dir_all(&dir) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                Err(error).with_context(|| format!("{} can't be removed", dir.display()))
            }
            _ => Ok(()),
        }
    }

    /// The keys of an enrolment that has not ended, if there is one. A damaged file is none.
    ///
    /// # Errors
    /// When the file is there and can't be read.
    pub fn enrolling(&self) -> Result<Option<Enrolling>> {
        let text = self.0.read(ENROLLING)?;
        Ok(text.and_then(|text| serde_json::from_str(&text).ok()))
    }

    /// Keeps the keys of an enrolment.
    ///
    /// # Errors
    /// When they can't be written.
    pub fn set_enrolling(&self, enrolling: &Enrolling) -> Result<()> {
        Ok(self.0.write(ENROLLING, &Zeroizing::new(serde_json::to_string(enrolling)?))?)
    }

    /// The enrolment has ended: forgets its keys, overwriting them first.
    ///
    /// # Errors
    /// When the file can't be removed.
    pub fn forget_enrolling(&self) -> Result<()> {
        self.forget(ENROLLING)
    }

    fn forget(&self, name: &str) -> Result<()> {
        let path = self.path().join(name);
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
        let Some(text) = self.0.read(SETTINGS)? else { return Ok(Settings::default()) };
        // Nothing in there can't be found out anew.
        Ok(serde_json::from_str(&text).unwrap_or_default())
    }

    /// Keeps the settings.
    ///
    /// # Errors
    /// When they can't be written.
    pub fn set_settings(&self, settings: &Settings) -> Result<()> {
        Ok(self.0.write(SETTINGS, &serde_json::to_string(settings)?)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_survive() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("node");
        let state = StateDir::open(&path).unwrap();
        assert_eq!(state.settings().unwrap(), Settings::default());
        let settings = Settings { up: true, wireguard_port: 4000, is_port_fixed: true, activity_spool: Some(1 << 20) };
        state.set_settings(&settings).unwrap();
        assert_eq!(state.settings().unwrap(), settings);
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

    #[test]
    fn a_forgotten_identity_takes_the_keys_of_an_enrolment_along() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::open(dir.path()).unwrap();
        let enrolling = Enrolling {
            token: TokenId::from_bytes([1; 16]),
            pin: Sha256([2; 32]),
            device_key: Zeroizing::new("hush".into()),
            wireguard_key: SecretBytes::new([3; 32]),
        };
        state.set_enrolling(&enrolling).unwrap();
        let spool = dir.path().join(activity::DIR);
        std::fs::create_dir(&spool).unwrap();
        std::fs::write(spool.join("entries"), "[]").unwrap();
        assert_eq!(state.enrolling().unwrap().as_ref(), Some(&enrolling));
        assert!(!format!("{enrolling:?}").contains("hush"));
        state.forget_identity().unwrap();
        assert_eq!(state.enrolling().unwrap(), None);
        assert!(!dir.path().join(ENROLLING).exists() && !spool.exists());
    }
}
