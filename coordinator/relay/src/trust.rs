//! Whose passes count: Ed25519 keys of coordinators, of which there may be several while one takes another's place.

use aws_lc_rs::signature::{ED25519, UnparsedPublicKey};
use postern_model::TrustKey;
use postern_wire::{Pass, SignedPass};

/// The keys that a relay believes.
#[derive(Debug, Clone)]
pub struct Trust(Vec<TrustKey>);

/// A pass whose signature holds. Nothing else makes one, so that none is taken unchecked.
#[derive(Debug, Clone, Copy)]
pub struct CheckedPass(Pass);

impl Trust {
    /// Believes these keys, and no others.
    pub fn new(keys: impl IntoIterator<Item = TrustKey>) -> Self {
        Self(keys.into_iter().collect())
    }

    /// The pass, if one of the keys signed it. Costs some tens of microseconds.
    pub fn check(&self, signed: &SignedPass) -> Option<CheckedPass> {
        let bytes = signed.pass.signed_bytes();
        let holds = |key: &TrustKey| UnparsedPublicKey::new(&ED25519, key.0).verify(&bytes, &signed.signature).is_ok();
        self.0.iter().any(holds).then_some(CheckedPass(signed.pass))
    }
}

impl CheckedPass {
    /// What it says.
    pub fn pass(&self) -> &Pass {
        &self.0
    }
}

#[cfg(test)]
impl CheckedPass {
    /// As if its signature had been checked: for tests of what comes after that.
    pub(crate) fn assumed(pass: Pass) -> Self {
        Self(pass)
    }
}
