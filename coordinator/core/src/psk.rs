//! Preshared keys: each pair of devices has its own, derived and never stored.

use hmac::{Hmac, Mac as _};
use postern_model::{PresharedKey, PublicKey, SecretBytes};
use sha2::Sha256;

const LABEL: &[u8] = b"postern psk v1";

/// The preshared key of a pair, the same in either order: HMAC-SHA-256 (RFC 2104) over a label and both WireGuard keys,
/// the smaller one first. A pair's key changes when one of them enrols anew, since its WireGuard key does.
pub(crate) fn derive(master: &SecretBytes, one: &PublicKey, other: &PublicKey) -> PresharedKey {
    let (first, second) = if one <= other { (one, other) } else { (other, one) };
    let mut mac = Hmac::<Sha256>::new_from_slice(master.expose()).expect("HMAC takes keys of any length");
    mac.update(LABEL);
    mac.update(&first.0);
    mac.update(&second.0);
    PresharedKey::new(mac.finalize().into_bytes().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pair_has_one_key_and_no_other_pair_has_it() {
        let master = SecretBytes::new([1; 32]);
        let [a, b, c] = [2, 3, 4].map(|byte| PublicKey([byte; 32]));
        assert_eq!(derive(&master, &a, &b), derive(&master, &b, &a));
        assert_ne!(derive(&master, &a, &b), derive(&master, &a, &c));
        assert_ne!(derive(&master, &a, &b), derive(&SecretBytes::new([9; 32]), &a, &b));
    }
}
