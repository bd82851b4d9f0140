//! Enrolment: a join token and the device's public keys for a certificate.

use postern_model::{DeviceId, Posture, PublicKey, SecretBytes, TokenId};
use serde::{Deserialize, Serialize};

/// The first and only message of a node that has no certificate yet.
#[derive(Debug, Serialize, Deserialize)]
pub struct Enrol {
    /// Which token.
    pub token: TokenId,
    /// Proves that the node was given it.
    pub secret: SecretBytes,
    /// A PKCS#10 request (DER) signed with the Ed25519 device key: proves that the node holds that key.
    pub csr: Vec<u8>,
    /// The device's WireGuard key.
    pub wireguard: PublicKey,
    /// What the device says of itself.
    pub posture: Posture,
}

/// The coordinator's answer.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "kind", content = "body", rename_all = "snake_case")]
pub enum EnrolReply {
    /// Welcome.
    Enrolled(Enrolled),
    /// No.
    Refused(EnrolRefusal),
}

/// What an enrolled device keeps.
#[derive(Debug, Serialize, Deserialize)]
pub struct Enrolled {
    /// Its id.
    pub device: DeviceId,
    /// Its name, made from the host name.
    pub name: String,
    /// Its certificate (X.509, DER).
    pub certificate: Vec<u8>,
}

/// Why a device may not enrol. A wrong secret and an unknown token are one and the same to the outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "snake_case")]
pub enum EnrolRefusal {
    /// No such token, or the wrong secret.
    #[error("the join token is not valid here; ask your admin for a new one")]
    Invalid,
    /// Too late.
    #[error("the join token has expired; ask your admin for a new one")]
    Expired,
    /// Used as often as it may be.
    #[error("the join token has already been used; ask your admin for a new one")]
    Used,
    /// Taken back.
    #[error("the join token was withdrawn; ask your admin for a new one")]
    Withdrawn,
    /// Its owner is suspended or gone.
    #[error("the join token's owner may not enrol devices now; ask your admin")]
    OwnerInactive,
    /// The certificate request does not hold.
    #[error("the certificate request is not valid")]
    BadRequest,
    /// Another device has this WireGuard or device key.
    #[error("another device already uses this key; run 'postern logout' first if the state directory was copied")]
    KeyInUse,
    /// Nothing was recorded; trying again may help.
    #[error("the coordinator could not record the enrolment; try again later")]
    CoordinatorFault,
    /// For a reason that this version does not know.
    #[error("the coordinator refused for a reason that this version does not know; update it, or ask your admin")]
    #[serde(other)]
    Unknown,
}
