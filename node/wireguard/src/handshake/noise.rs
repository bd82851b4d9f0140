//! The state of a Noise handshake, `Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s`, with the words of section 5.4 of the WireGuard
//! paper: a chaining key, from which keys are derived, and a hash of all that was said, which every seal is bound to.
//!
//! Which key goes in when is not known here; see the messages' order in [`super::Handshake`].

use blake2::{Blake2s256, Digest as _};
use hmac::{Mac as _, SimpleHmac};
use ring::aead::Aad;
use zeroize::Zeroizing;

use crate::transport::{TAG, aead_key, nonce};

/// 32 bytes that are wiped when dropped.
pub(crate) type Secret = Zeroizing<[u8; 32]>;

const CONSTRUCTION: &[u8] = b"Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s";
const IDENTIFIER: &[u8] = b"WireGuard v1 zx2c4 Jason@zx2c4.com";

/// The longest that a handshake message seals: a public key.
const LONGEST: usize = 32;

/// HASH() of all parts, one behind the other.
pub(super) fn hash(parts: &[&[u8]]) -> [u8; 32] {
    let mut hash = Blake2s256::new();
    for part in parts {
        hash.update(part);
    }
    hash.finalize().into()
}

fn hmac(key: &[u8], parts: &[&[u8]]) -> Secret {
    let mut mac = SimpleHmac::<Blake2s256>::new_from_slice(key).expect("HMAC takes keys of any length");
    for part in parts {
        mac.update(part);
    }
    Zeroizing::new(mac.finalize().into_bytes().into())
}

/// The paper's KDF with `N` outputs (HKDF of RFC 5869).
fn derive<const N: usize>(key: &[u8], input: &[u8]) -> [Secret; N] {
    let extracted = hmac(key, &[input]);
    let mut outputs = std::array::from_fn(|_| Secret::default());
    for i in 0..N {
        let number = [u8::try_from(i + 1).unwrap_or(u8::MAX)];
        outputs[i] = match i.checked_sub(1) {
            None => hmac(&*extracted, &[&number]),
            Some(last) => hmac(&*extracted, &[&*outputs[last], &number]),
        };
    }
    outputs
}

/// One handshake, as far as it has come.
#[derive(Clone)]
pub(super) struct Noise {
    chain: Secret,
    hash: [u8; 32],
}

impl Noise {
    /// Before the first message to `responder`.
    pub(super) fn begin(responder: &[u8; 32]) -> Self {
        let chain = hash(&[CONSTRUCTION]);
        let named = hash(&[&chain, IDENTIFIER]);
        Self { chain: Zeroizing::new(chain), hash: hash(&[&named, responder]) }
    }

    fn mix_hash(&mut self, data: &[u8]) {
        self.hash = hash(&[&self.hash, data]);
    }

    /// An ephemeral public key was sent in the clear.
    pub(super) fn mix_ephemeral(&mut self, public: &[u8; 32]) {
        self.mix_hash(public);
        self.mix_shared(public);
    }

    /// Two keys have met.
    pub(super) fn mix_shared(&mut self, shared: &[u8; 32]) {
        let [chain] = derive(&*self.chain, shared);
        self.chain = chain;
    }

    /// Two keys have met, and a key to seal with comes of it.
    pub(super) fn mix_shared_to_key(&mut self, shared: &[u8; 32]) -> Secret {
        let [chain, key] = derive(&*self.chain, shared);
        self.chain = chain;
        key
    }

    /// The preshared key goes in; a key to seal with comes of it.
    pub(super) fn mix_preshared(&mut self, preshared: &[u8; 32]) -> Secret {
        let [chain, mixed, key] = derive(&*self.chain, preshared);
        self.chain = chain;
        self.mix_hash(&*mixed);
        key
    }

    /// Seals `plain` into `sealed`, which is longer by [`TAG`]; `None` when it isn't.
    pub(super) fn seal(&mut self, key: &Secret, plain: &[u8], sealed: &mut [u8]) -> Option<()> {
        let (text, tag) = sealed.split_last_chunk_mut::<TAG>()?;
        if text.len() != plain.len() {
            return None;
        }
        text.copy_from_slice(plain);
        let made = aead_key(key).seal_in_place_separate_tag(nonce(0), Aad::from(&self.hash), text).ok()?;
        tag.copy_from_slice(made.as_ref());
        self.mix_hash(sealed);
        Some(())
    }

    /// Opens what was sealed; `None` when it is not authentic, or not of `N` bytes.
    pub(super) fn open<const N: usize>(&mut self, key: &Secret, sealed: &[u8]) -> Option<[u8; N]> {
        let mut buffer = [0; LONGEST + TAG];
        let text = buffer.get_mut(..sealed.len())?;
        text.copy_from_slice(sealed);
        let plain = aead_key(key).open_in_place(nonce(0), Aad::from(&self.hash), text).ok()?;
        let plain = plain.try_into().ok()?;
        self.mix_hash(sealed);
        Some(plain)
    }

    /// The end: the key by which the initiator seals, and that of the responder.
    pub(super) fn split(self) -> [Secret; 2] {
        derive(&*self.chain, &[])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(text: &str) -> Vec<u8> {
        (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
    }

    /// HASH(CONSTRUCTION), and HASH(that || IDENTIFIER), as every implementation has them.
    #[test]
    fn the_handshake_begins_with_the_known_constants() {
        let chain = hex("60e26daef327efc02ec335e2a025d2d016eb4206f87277f52d38d1988b78cd36");
        assert_eq!(hash(&[CONSTRUCTION]).to_vec(), chain);
        let named = hex("2211b361081ac566691243db458ad5322d9c6c662293e8b70ee19c65ba079ef3");
        assert_eq!(hash(&[&chain, IDENTIFIER]).to_vec(), named);
        let begun = Noise::begin(&[5; 32]);
        assert_eq!(begun.chain.to_vec(), chain);
        assert_eq!(begun.hash, hash(&[&named, &[5; 32]]));
    }

    /// HKDF with HMAC-BLAKE2s: (key, input, three outputs).
    #[test]
    fn keys_are_derived_as_the_known_vectors_say() {
        let vectors = [
            (
                "746573742d6b6579",
                "746573742d696e707574",
                [
                    "6f0e5ad38daba1bea8a0d213688736f19763239305e0f58aba697f9ffc41c633",
                    "df1194df20802a4fe594cde27e92991c8cae66c366e8106aaa937a55fa371e8a",
                    "fac6e2745a325f5dc5d11a5b165aad08b0ada28e7b4e666b7c077934a4d76c24",
                ],
            ),
            (
                "",
                "",
                [
                    "8387b46bf43eccfcf349552a095d8315c4055beb90208fb1be23b894bc2ed5d0",
                    "58a0e5f6faefccf4807bff1f05fa8a9217945762040bcec2f4b4a62bdfe0e86e",
                    "0ce6ea98ec548f8e281e93e32db65621c45eb18dc6f0a7ad94178610a2f7338e",
                ],
            ),
        ];
        for (key, input, outputs) in vectors {
            let derived: [Secret; 3] = derive(&hex(key), &hex(input));
            assert_eq!(derived.map(|output| output.to_vec()), outputs.map(hex));
            let [first]: [Secret; 1] = derive(&hex(key), &hex(input));
            assert_eq!(first.to_vec(), hex(outputs[0]), "fewer outputs are the first of more");
        }
    }

    #[test]
    fn a_seal_holds_only_after_the_same_words() {
        let key = Secret::new([3; 32]);
        let mut sealed = [0; 12 + TAG];
        Noise::begin(&[1; 32]).seal(&key, &[9; 12], &mut sealed).unwrap();
        assert_eq!(Noise::begin(&[1; 32]).open(&key, &sealed), Some([9; 12]));
        assert_eq!(Noise::begin(&[1; 32]).open::<11>(&key, &sealed), None);
        assert_eq!(Noise::begin(&[2; 32]).open::<12>(&key, &sealed), None);
        assert_eq!(Noise::begin(&[1; 32]).open::<12>(&Secret::new([4; 32]), &sealed), None);
        assert_eq!(Noise::begin(&[1; 32]).seal(&key, &[9; 13], &mut sealed), None);
    }
}
