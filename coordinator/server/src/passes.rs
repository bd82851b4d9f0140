//! The key that signs passes for relays, and this coordinator's own relay.

use std::sync::Arc;

use anyhow::{Context as _, Result};
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use postern_core::{OWN_RELAY, PassSigner};
use postern_model::{RelayId, Sha256, TrustKey, token::HostPort};
use postern_relay::{Relay, RelaySettings, Trust, state::Limits};
use postern_wire::RelayEntry;
use rcgen::KeyPair;

/// Signs passes.
pub(crate) struct PassKey(Arc<Ed25519KeyPair>);

impl PassKey {
    /// With this key, which has to be an Ed25519 key.
    ///
    /// # Errors
    /// When it is not.
    pub(crate) fn new(key: &KeyPair) -> Result<Self> {
        let pair = Ed25519KeyPair::from_pkcs8(&key.serialize_der());
        Ok(Self(Arc::new(pair.ok().context("the key that signs passes for relays is no Ed25519 key")?)))
    }

    /// What relays check passes with.
    ///
    /// # Errors
    /// When the cryptography fails.
    pub(crate) fn trust(&self) -> Result<TrustKey> {
        Ok(TrustKey(self.0.public_key().as_ref().try_into().context("a public key has 32 bytes")?))
    }

    /// For the core.
    pub(crate) fn signer(&self) -> PassSigner {
        let pair = Arc::clone(&self.0);
        PassSigner::new(move |bytes| {
            let signature = pair.sign(bytes);
            signature.as_ref().try_into().expect("an Ed25519 signature has 64 bytes")
        })
    }
}

/// The relay inside the coordinator as nodes know it: they reach it as they reach the coordinator.
pub(crate) fn own_entry(pin: Sha256, address: HostPort) -> RelayEntry {
    let mut id = [0; 16];
    id.copy_from_slice(&pin.0[..16]);
    RelayEntry { id: RelayId::from_bytes(id), name: OWN_RELAY.to_owned(), address, pin }
}

/// A relay that believes these keys, at so many bytes per second for each node.
pub(crate) fn relay(trust: impl IntoIterator<Item = TrustKey>, rate: u64) -> Relay {
    Relay::new(RelaySettings { trust: Trust::new(trust), rate, limits: Limits::default() })
}

#[cfg(test)]
mod tests {
    use postern_model::{PublicKey, Timestamp};
    use postern_wire::{Pass, SignedPass};
    use rcgen::PKCS_ED25519;

    use super::*;

    #[test]
    fn relays_take_what_the_core_signs_and_nothing_else() {
        let key = PassKey::new(&KeyPair::generate_for(&PKCS_ED25519).unwrap()).unwrap();
        let pass = Pass {
            key: Sha256([1; 32]),
            holder: PublicKey([2; 32]),
            peer: PublicKey([3; 32]),
            expires: Timestamp::from_unix_millis(1_700_000_000_000),
        };
        let signer = RelaySigner(key.signer());
        let signed = signer.sign(pass);
        assert_eq!(signed, signer.sign(pass), "the same for the same bytes");
        let trust = Trust::new([key.trust().unwrap()]);
        assert!(trust.check(&signed).is_some());
        let longer = Pass { expires: Timestamp::from_unix_millis(1_800_000_000_000), ..pass };
        assert!(trust.check(&SignedPass { pass: longer, ..signed }).is_none());
        let other = PassKey::new(&KeyPair::generate_for(&PKCS_ED25519).unwrap()).unwrap();
        let both = Trust::new([other.trust().unwrap(), key.trust().unwrap()]);
        assert!(Trust::new([other.trust().unwrap()]).check(&signed).is_none() && both.check(&signed).is_some());
        assert!(PassKey::new(&KeyPair::generate().unwrap()).is_err());
    }

    struct RelaySigner(PassSigner);

    impl RelaySigner {
        fn sign(&self, pass: Pass) -> SignedPass {
            SignedPass { signature: self.0.sign(&pass.signed_bytes()), pass }
        }
    }
}
