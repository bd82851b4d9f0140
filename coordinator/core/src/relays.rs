//! Relays: which there are, who waits where, and passes for pairs that have a grant.
//!
//! A pass is good at any relay, so relays are told nothing: whoever shows one that this coordinator signed may do what it
//! says. There are no passes, and no word of relays, where the network has none.

use std::{fmt, sync::Arc, time::Duration};

use postern_model::{
    DeviceId, PublicKey, RelayId, Timestamp, TrustKey,
    change::Change,
    grant::Grant,
    record::{Device, Relay},
};
use postern_wire::{CoordinatorMessage, Pass, RelayEntry, RelayedPeer, SignedPass};

use crate::{Core, changes::Changes};

/// What the coordinator's own relay is called in lists.
pub const OWN_RELAY: &str = "coordinator";
/// For how long a node may wait at relays by one pass: two certificates' renewals.
const HOME_LIFE: Duration = Duration::from_secs(24 * 3600);
/// How much longer than the lease a pass for a peer holds, so that the next one is there in time.
const MARGIN: Duration = Duration::from_secs(60);

/// What the core needs where there are relays.
#[derive(Debug, Clone)]
pub struct RelayConfig {
    /// Signs passes.
    pub signer: PassSigner,
    /// What relays check them with.
    pub trust: TrustKey,
    /// The relay inside this coordinator, if it is one.
    pub own: Option<RelayEntry>,
}

/// Makes an Ed25519 signature; the same for the same bytes.
#[derive(Clone)]
pub struct PassSigner(Arc<dyn Fn(&[u8]) -> [u8; 64] + Send + Sync>);

impl PassSigner {
    /// Signs with this.
    pub fn new(sign: impl Fn(&[u8]) -> [u8; 64] + Send + Sync + 'static) -> Self {
        Self(Arc::new(sign))
    }

    /// Signs these bytes.
    pub fn sign(&self, bytes: &[u8]) -> [u8; 64] {
        (self.0)(bytes)
    }
}

impl fmt::Debug for PassSigner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PassSigner(…)")
    }
}

impl Core {
    /// The relays that nodes are told of, this coordinator's own first.
    pub fn relays(&self) -> Vec<RelayEntry> {
        let Some(config) = &self.config.relays else { return Vec::new() };
        config.own.iter().cloned().chain(self.state.relays.values().map(entry)).collect()
    }

    /// At which relay a device waits for its peers, if it does at one that there is.
    pub fn home_relay(&self, device: DeviceId) -> Option<RelayId> {
        let id = *self.homes.get(&device)?;
        self.has_relay(id).then_some(id)
    }

    /// How many devices that are connected wait at a relay.
    pub fn waiting_at(&self, relay: RelayId) -> usize {
        self.sessions.keys().filter(|device| self.homes.get(device) == Some(&relay)).count()
    }

    /// What relays check passes with, where there are any.
    pub fn trust_key(&self) -> Option<TrustKey> {
        self.config.relays.as_ref().map(|config| config.trust)
    }

    fn has_relay(&self, id: RelayId) -> bool {
        let own = self.config.relays.as_ref().and_then(|config| config.own.as_ref());
        own.is_some_and(|own| own.id == id) || self.state.relays.contains_key(&id)
    }

    /// Notes where a device waits; whether that is news.
    pub(crate) fn note_home(&mut self, device: DeviceId, relay: Option<RelayId>) -> bool {
        let relay = relay.filter(|id| self.has_relay(*id));
        let before = match relay {
            Some(id) => self.homes.insert(device, id),
            None => self.homes.remove(&device),
        };
        before != relay
    }

    /// How `holder` reaches the other end of a grant through relays.
    pub(crate) fn relayed(&self, holder: &Device, other: &Device, grant: &Grant) -> Option<RelayedPeer> {
        let pass = self.pass(holder, other.wireguard, grant.expires_at.plus(MARGIN))?;
        Some(RelayedPeer { relay: self.home_relay(other.id), pass })
    }

    /// A device's pass for itself.
    pub(crate) fn home_pass(&self, device: &Device, now: Timestamp) -> Option<SignedPass> {
        self.pass(device, device.wireguard, now.plus(HOME_LIFE))
    }

    fn pass(&self, holder: &Device, peer: PublicKey, expires: Timestamp) -> Option<SignedPass> {
        let config = self.config.relays.as_ref()?;
        if config.own.is_none() && self.state.relays.is_empty() {
            return None;
        }
        let pass = Pass { key: holder.key, holder: holder.wireguard, peer, expires };
        Some(SignedPass { signature: config.signer.sign(&pass.signed_bytes()), pass })
    }

    /// The relays as they are now, if the changes are about them.
    pub(crate) fn relays_before(&self, changes: &Changes) -> Option<Vec<RelayEntry>> {
        let is_about = |change: &Change| matches!(change, Change::PutRelay(_) | Change::RemoveRelay(_));
        changes.iter().any(is_about).then(|| self.relays())
    }

    /// All devices that are connected hear of it when there are other relays than before. Grants get passes with their next
    /// renewal where there were no relays at all.
    pub(crate) fn tell_relays(&mut self, before: &[RelayEntry], now: Timestamp) {
        if self.relays() == before {
            return;
        }
        let devices: Vec<_> = self.sessions.keys().copied().collect();
        devices.into_iter().for_each(|device| self.send_relays(device, now));
    }

    /// A device's certificate is made anew, and so is its pass for itself.
    pub(crate) fn renew_home_pass(&mut self, device: DeviceId, now: Timestamp) {
        if !self.relays().is_empty() {
            self.send_relays(device, now);
        }
    }

    /// Tells a device of all relays, with a fresh pass for itself.
    pub(crate) fn send_relays(&mut self, device: DeviceId, now: Timestamp) {
        let Some(record) = self.state.devices.get(&device) else { return };
        let relay_pass = self.home_pass(record, now);
        self.send(device, CoordinatorMessage::Relays { relays: self.relays(), relay_pass });
    }
}

fn entry(relay: &Relay) -> RelayEntry {
    RelayEntry { id: relay.id, name: relay.name.to_string(), address: relay.address.clone(), pin: relay.pin }
}
