//! Enrolment: what a join token's holder gets, or why not.

use std::net::SocketAddr;

use postern_model::{
    DeviceId, OverlayAddr, Posture, PublicKey, Sha256, Timestamp, TokenId,
    audit::Actor,
    change::Change,
    record::{Device, Owner, Token},
};
use postern_wire::EnrolRefusal;

use crate::{Core, Env, Proposal, draft::Draft, state::State};

/// What the shell has checked of an enrolment: the request's signature holds for this device key.
#[derive(Debug)]
pub struct EnrolProof {
    /// Which token.
    pub token: TokenId,
    /// SHA-256 of the secret that came with it.
    pub secret_hash: Sha256,
    /// SHA-256 of the device key (SubjectPublicKeyInfo, DER).
    pub device_key: Sha256,
    /// The device's WireGuard key.
    pub wireguard: PublicKey,
    /// What it says of itself.
    pub posture: Posture,
    /// From where it came.
    pub from: SocketAddr,
}

/// An enrolled device, to be given a certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Enrolment {
    /// Its id.
    pub device: DeviceId,
    /// Its name.
    pub name: String,
    /// Whether it was enrolled before, by the same request.
    pub is_again: bool,
}

/// What will come of an enrolment, as things are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Foreseen {
    /// A device is made.
    New,
    /// A device that there is gets its certificate once more.
    Again(DeviceId),
    /// The secret is right, and yet it is refused; that is recorded.
    Refused,
    /// There is such a token, and the secret is wrong; that is recorded.
    Guess,
    /// No such token was ever made here; nothing is recorded.
    Stranger,
}

/// The longest device name made from a host name; a DNS label.
const MAX_NAME: usize = 63;

impl Core {
    /// What [`Self::propose_enrolment`] will come to, for whoever paces it. Looks only.
    pub fn foresee_enrolment(&self, proof: &EnrolProof, now: Timestamp) -> Foreseen {
        let Some(token) = self.state.tokens.get(&proof.token) else { return Foreseen::Stranger };
        if !has_secret(token, proof) {
            return Foreseen::Guess;
        }
        match decide(&self.state, proof, now) {
            Ok(Decided::New(..)) => Foreseen::New,
            Ok(Decided::Again(device)) => Foreseen::Again(device.id),
            Err(_) => Foreseen::Refused,
        }
    }

    /// A device that wants to enrol. A refusal is also a proposal: its batch holds only the audit entry, or nothing when
    /// no such token was ever made here, so that strangers can't fill the log.
    pub fn propose_enrolment(
        &self,
        proof: &EnrolProof,
        env: &mut Env<'_>,
    ) -> Proposal<Result<Enrolment, EnrolRefusal>> {
        let mut draft = Draft::new(self, Actor::Token(proof.token), env.now);
        let outcome = match decide(&self.state, proof, env.now) {
            Ok(Decided::New(token, addr)) => Ok(enrol(&mut draft, (token, addr), proof, env)),
            Ok(Decided::Again(device)) => {
                let details: [(&str, &dyn ToString); 2] = [("id", &device.id), ("from", &proof.from)];
                draft.note("device.enrol.again", format!("device:{}", device.name), &details);
                Ok(Enrolment { device: device.id, name: device.name.clone(), is_again: true })
            }
            Err(refusal) => Err(refusal),
        };
        if let Err(refusal) = &outcome
            && self.state.tokens.contains_key(&proof.token)
        {
            let hostname = proof.posture.clone().bounded().hostname;
            let why = serde_label(*refusal);
            draft.note(
                "enrol.refuse",
                format!("token:{}", proof.token),
                &[("why", &why), ("hostname", &hostname), ("from", &proof.from)],
            );
        }
        Proposal::new(draft.finish(), outcome)
    }
}

/// What becomes of an enrolment that is not refused.
enum Decided<'a> {
    /// A device with this address, for a use of this token.
    New(&'a Token, OverlayAddr),
    Again(&'a Device),
}

/// The secret first: whoever does not have it learns nothing about the token.
fn decide<'a>(state: &'a State, proof: &EnrolProof, now: Timestamp) -> Result<Decided<'a>, EnrolRefusal> {
    let token = state.tokens.get(&proof.token).ok_or(EnrolRefusal::Invalid)?;
    if !has_secret(token, proof) {
        return Err(EnrolRefusal::Invalid);
    }
    if token.withdrawn {
        return Err(EnrolRefusal::Withdrawn);
    }
    if !is_active(state, token.owner) {
        return Err(EnrolRefusal::OwnerInactive);
    }
    if let Some(device) = enrolled_already(state, proof) {
        return Ok(Decided::Again(device));
    }
    if token.expires_at <= now {
        return Err(EnrolRefusal::Expired);
    }
    if token.uses_left == 0 {
        return Err(EnrolRefusal::Used);
    }
    if state.device_with_key(&proof.device_key).or(state.device_with_wireguard(&proof.wireguard)).is_some() {
        return Err(EnrolRefusal::KeyInUse);
    }
    let network = &state.network;
    let addr = network.ranges.device(network.next_device_index).ok_or(EnrolRefusal::CoordinatorFault)?;
    Ok(Decided::New(token, addr))
}

fn has_secret(token: &Token, proof: &EnrolProof) -> bool {
    token.secret_hash.ct_eq(&proof.secret_hash)
}

/// The device that this very request has made before: the answer to it was lost. It gets its certificate once more, though
/// the token may be used up or expired by now. A device that was revoked does not.
fn enrolled_already<'a>(state: &'a State, proof: &EnrolProof) -> Option<&'a Device> {
    let device = state.device_with_key(&proof.device_key)?;
    let is_same = device.wireguard == proof.wireguard && device.token == proof.token;
    (is_same && !device.revoked).then_some(device)
}

fn is_active(state: &State, owner: Owner) -> bool {
    match owner {
        Owner::User(user) => state.users.get(&user).is_some_and(|user| !user.suspended),
        Owner::Site(site) => state.sites.contains_key(&site),
    }
}

fn enrol(
    draft: &mut Draft<'_>,
    (token, addr): (&Token, OverlayAddr),
    proof: &EnrolProof,
    env: &mut Env<'_>,
) -> Enrolment {
    let state = draft.state;
    let mut network = state.network.clone();
    network.next_device_index += 1;
    let posture = proof.posture.clone().bounded();
    let name = device_name(state, &posture.hostname);
    let id = env.id(DeviceId::from_bytes);
    draft.note(
        "device.enrol",
        format!("device:{name}"),
        &[
            ("id", &id),
            ("owner", &owner_label(state, token.owner)),
            ("wireguard", &proof.wireguard),
            ("from", &proof.from),
        ],
    );
    draft.change(Change::PutNetwork(network));
    draft.change(Change::PutToken(Token { uses_left: token.uses_left - 1, ..token.clone() }));
    draft.change(Change::PutDevice(Device {
        id,
        name: name.clone(),
        owner: token.owner,
        key: proof.device_key,
        wireguard: proof.wireguard,
        addr,
        revoked: false,
        drained: false,
        posture,
        enrolled_at: env.now,
        token: token.id,
    }));
    Enrolment { device: id, name, is_again: false }
}

fn owner_label(state: &State, owner: Owner) -> String {
    match owner {
        Owner::User(id) => state.users.get(&id).map_or_else(|| id.to_string(), |user| format!("user:{}", user.name)),
        Owner::Site(id) => state.sites.get(&id).map_or_else(|| id.to_string(), |site| format!("site:{}", site.name)),
    }
}

/// A name that no device has: the host name as a DNS label, numbered when it is taken.
fn device_name(state: &State, hostname: &str) -> String {
    let first = hostname.split('.').next().unwrap_or_default().to_ascii_lowercase();
    let label: String = first.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).take(MAX_NAME).collect();
    let label = label.trim_matches('-');
    let label = if label.is_empty() { "device" } else { label };
    let numbered = |n: u64| {
        if n == 1 {
            return label.to_owned();
        }
        let suffix = format!("-{n}");
        let stem: String = label.chars().take(MAX_NAME - suffix.len()).collect();
        format!("{stem}{suffix}")
    };
    // Not one number after the other: a fleet may have one host name. `taken` is, and `free` is not.
    let is_free = |n: u64| state.device_named(&numbered(n)).is_none();
    let (mut taken, mut free) = (0, 1);
    while !is_free(free) {
        (taken, free) = (free, free * 2);
    }
    while free - taken > 1 {
        let middle = taken + (free - taken) / 2;
        if is_free(middle) {
            free = middle;
        } else {
            taken = middle;
        }
    }
    numbered(free)
}

fn serde_label(refusal: EnrolRefusal) -> &'static str {
    match refusal {
        EnrolRefusal::Invalid => "invalid",
        EnrolRefusal::Expired => "expired",
        EnrolRefusal::Used => "used",
        EnrolRefusal::Withdrawn => "withdrawn",
        EnrolRefusal::OwnerInactive => "owner_inactive",
        EnrolRefusal::BadRequest => "bad_request",
        EnrolRefusal::KeyInUse => "key_in_use",
        EnrolRefusal::CoordinatorFault => "coordinator_fault",
        EnrolRefusal::Unknown => "unknown",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::world;

    #[test]
    fn device_names_are_labels_and_unique() {
        let state = State::new(world());
        assert_eq!(device_name(&state, "Alice's Laptop.example.com"), "alice-s-laptop");
        assert_eq!(device_name(&state, "…"), "device");
        assert_eq!(device_name(&state, &"x".repeat(100)).len(), 63);
    }
}
