//! The node's private key.

use blake2::{Blake2s256, Digest as _};
use postern_model::{PublicKey, SecretBytes};
use x25519_dalek::StaticSecret;

/// A node's X25519 private key: born on the device, never leaves it, wiped when dropped.
#[derive(Clone)]
pub struct PrivateKey(StaticSecret);

impl PrivateKey {
    /// Takes over 32 random bytes.
    pub fn from_bytes(bytes: &SecretBytes) -> Self {
        Self(StaticSecret::from(*bytes.expose()))
    }

    /// The key's public half, which is the node's WireGuard identity.
    pub fn public(&self) -> PublicKey {
        PublicKey(x25519_dalek::PublicKey::from(&self.0).to_bytes())
    }

    /// The secret itself, for the state file and the root-only UAPI socket.
    pub fn expose(&self) -> SecretBytes {
        SecretBytes::new(self.0.to_bytes())
    }

    /// A number that nobody else knows, and that says nothing of the key: for hash tables whose keys others choose.
    pub fn hash_seed(&self) -> u64 {
        let digest = Blake2s256::new_with_prefix(b"postern hash seed v1").chain_update(self.0.as_bytes()).finalize();
        digest.first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes))
    }

    pub(crate) fn secret(&self) -> &StaticSecret {
        &self.0
    }
}

impl std::fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("PrivateKey(…)")
    }
}
