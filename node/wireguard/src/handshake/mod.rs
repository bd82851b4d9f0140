//! The handshake with one peer (section 5.4 of the WireGuard paper): `Noise_IKpsk2`, one message each way.
//!
//! ```text
//! initiator ── initiation: ephemeral, {static}, {timestamp}, MACs ──► responder    keys: es, ss
//!           ◄── response: ephemeral, {}, MACs ──────────────────────              keys: ee, se, psk
//!                          both have the session's keys
//! ```
//!
//! - [`noise`]: how keys and hash are mixed; [`messages`]: where fields lie; [`mac`]: MACs and cookies; [`timestamp`]
//!
//! A message that is refused changes nothing. When handshakes are started, and what becomes of sessions, is the tunnel's.

mod mac;
mod messages;
mod noise;
mod timestamp;

use std::time::Duration;

use postern_model::{Moment, PresharedKey, PublicKey};
use ring::rand::{SecureRandom as _, SystemRandom};
use subtle::ConstantTimeEq as _;
use x25519_dalek::{SharedSecret, StaticSecret};
use zeroize::Zeroizing;

use self::{
    mac::Macs,
    messages::{INITIATION, Initiation, NewInitiation, NewResponse, RESPONSE, Response},
    noise::{Noise, Secret},
    timestamp::Timestamp,
};
use crate::{PrivateKey, TunnelError, constants::REKEY_TIMEOUT};

/// An answer is waited for until two more initiations would have been sent.
const PATIENCE: Duration = Duration::from_secs(2 * REKEY_TIMEOUT.as_secs() + 1);

/// What a completed handshake yields.
pub(crate) struct Keys {
    /// Our index.
    pub(crate) index: u32,
    /// The peer's.
    pub(crate) peer_index: u32,
    pub(crate) seal: Secret,
    pub(crate) open: Secret,
    /// Since when the keys count as there: the initiator counts from its initiation, so that it never takes them for younger
    /// than the responder does.
    pub(crate) since: Moment,
}

/// An initiation without an answer.
struct Initiated {
    index: u32,
    sent_at: Moment,
    noise: Noise,
    ephemeral: StaticSecret,
}

/// The keys of both sides, and what is under way between them.
pub(crate) struct Handshake {
    ours: StaticSecret,
    our_public: [u8; 32],
    theirs: x25519_dalek::PublicKey,
    /// What both static keys make; `None` when theirs is one of the few that make the same with every other.
    static_shared: Option<SharedSecret>,
    preshared: Secret,
    macs: Macs,
    /// The last initiations, newest first. Two, as an answer may be on its way when the next one is sent.
    awaited: [Option<Initiated>; 2],
    /// The highest timestamp of the peer's.
    newest: Timestamp,
}

impl Handshake {
    pub(crate) fn new(private: &PrivateKey, peer: PublicKey, preshared: Option<&PresharedKey>) -> Self {
        let theirs = x25519_dalek::PublicKey::from(peer.0);
        let our_public = private.public().0;
        Self {
            ours: private.secret().clone(),
            our_public,
            theirs,
            static_shared: meet(private.secret(), &theirs),
            preshared: Zeroizing::new(preshared.map_or([0; 32], |key| *key.expose())),
            macs: Macs::new(&our_public, &peer.0),
            awaited: [None, None],
            newest: Timestamp::default(),
        }
    }

    /// Whether an initiation with this index is waiting for its answer.
    pub(crate) fn awaits(&self, index: u32) -> bool {
        self.awaited.iter().flatten().any(|initiated| initiated.index == index)
    }

    /// Answers to what was sent so far are not wanted any more.
    pub(crate) fn forget(&mut self) {
        self.awaited = [None, None];
    }

    /// Forgets initiations that are too old to be answered.
    pub(crate) fn forget_stale(&mut self, now: Moment) {
        for slot in &mut self.awaited {
            slot.take_if(|initiated| now.since(initiated.sent_at) >= PATIENCE);
        }
    }

    /// Writes an initiation to the start of `out` and returns its length. `None` when `out` is too short, when the system has
    /// no randomness, or when the peer's key is none.
    pub(crate) fn initiate(&mut self, index: u32, out: &mut [u8], now: Moment) -> Option<usize> {
        let message = out.first_chunk_mut::<INITIATION>()?;
        let static_shared = self.static_shared.as_ref()?;
        let (ephemeral, ephemeral_public) = new_ephemeral()?;
        let fields = NewInitiation::begin(message, index)?;
        let mut noise = Noise::begin(self.theirs.as_bytes());
        *fields.ephemeral = ephemeral_public;
        noise.mix_ephemeral(&ephemeral_public);
        let key = noise.mix_shared_to_key(meet(&ephemeral, &self.theirs)?.as_bytes());
        noise.seal(&key, &self.our_public, fields.sealed_static)?;
        let key = noise.mix_shared_to_key(static_shared.as_bytes());
        noise.seal(&key, &Timestamp::next().0, fields.sealed_timestamp)?;
        self.macs.append(message, index, now)?;
        self.awaited.swap(0, 1);
        self.awaited[0] = Some(Initiated { index, sent_at: now, noise, ephemeral });
        Some(INITIATION)
    }

    /// Takes an initiation, and writes the response to the start of `out`. Returns the keys of the new session, which has
    /// our `index`, and the response's length.
    ///
    /// # Errors
    /// `Replayed` when it is authentic and not newer than another one of this peer; `Invalid` for all else.
    pub(crate) fn respond(
        &mut self,
        initiation: &[u8],
        index: u32,
        out: &mut [u8],
        now: Moment,
    ) -> Result<(Keys, usize), TunnelError> {
        let (noise, initiation, stamp) = self.read_initiation(initiation).ok_or(TunnelError::Invalid)?;
        if stamp <= self.newest {
            return Err(TunnelError::Replayed);
        }
        let keys = self.write_response(noise, &initiation, index, out, now).ok_or(TunnelError::Invalid)?;
        self.newest = stamp;
        Ok((keys, RESPONSE))
    }

    fn read_initiation<'a>(&self, datagram: &'a [u8]) -> Option<(Noise, Initiation<'a>, Timestamp)> {
        let initiation = Initiation::read(datagram).filter(|_| self.macs.verify(datagram))?;
        let mut noise = Noise::begin(&self.our_public);
        noise.mix_ephemeral(initiation.ephemeral);
        let ephemeral = x25519_dalek::PublicKey::from(*initiation.ephemeral);
        let key = noise.mix_shared_to_key(meet(&self.ours, &ephemeral)?.as_bytes());
        let their_static: [u8; 32] = noise.open(&key, initiation.sealed_static)?;
        if !bool::from(their_static.ct_eq(self.theirs.as_bytes())) {
            return None;
        }
        let key = noise.mix_shared_to_key(self.static_shared.as_ref()?.as_bytes());
        let stamp = Timestamp(noise.open(&key, initiation.sealed_timestamp)?);
        Some((noise, initiation, stamp))
    }

    fn write_response(
        &mut self,
        mut noise: Noise,
        initiation: &Initiation<'_>,
        index: u32,
        out: &mut [u8],
        now: Moment,
    ) -> Option<Keys> {
        let message = out.first_chunk_mut::<RESPONSE>()?;
        let (ephemeral, ephemeral_public) = new_ephemeral()?;
        let fields = NewResponse::begin(message, index, initiation.sender)?;
        *fields.ephemeral = ephemeral_public;
        noise.mix_ephemeral(&ephemeral_public);
        noise.mix_shared(meet(&ephemeral, &(*initiation.ephemeral).into())?.as_bytes());
        noise.mix_shared(meet(&ephemeral, &self.theirs)?.as_bytes());
        let key = noise.mix_preshared(&self.preshared);
        noise.seal(&key, &[], fields.sealed_nothing)?;
        self.macs.append(message, index, now)?;
        let [open, seal] = noise.split();
        Some(Keys { index, peer_index: initiation.sender, seal, open, since: now })
    }

    /// Takes the response to one of our initiations. Those before that one are no longer waited for; one after it still is,
    /// since its answer may follow, and then is the newer session on both sides.
    ///
    /// # Errors
    /// `Invalid` when it is not authentic, or nobody waits for it any more.
    pub(crate) fn complete(&mut self, response: &[u8], now: Moment) -> Result<Keys, TunnelError> {
        let (at, keys) = self.read_response(response, now).ok_or(TunnelError::Invalid)?;
        for slot in &mut self.awaited[at..] {
            *slot = None;
        }
        Ok(keys)
    }

    fn read_response(&self, datagram: &[u8], now: Moment) -> Option<(usize, Keys)> {
        let response = Response::read(datagram).filter(|_| self.macs.verify(datagram))?;
        let is_it = |slot: &Option<Initiated>| slot.as_ref().is_some_and(|sent| sent.index == response.receiver);
        let at = self.awaited.iter().position(is_it)?;
        let initiated = self.awaited[at].as_ref().filter(|sent| now.since(sent.sent_at) < PATIENCE)?;
        let mut noise = initiated.noise.clone();
        noise.mix_ephemeral(response.ephemeral);
        let ephemeral = x25519_dalek::PublicKey::from(*response.ephemeral);
        noise.mix_shared(meet(&initiated.ephemeral, &ephemeral)?.as_bytes());
        noise.mix_shared(meet(&self.ours, &ephemeral)?.as_bytes());
        let key = noise.mix_preshared(&self.preshared);
        noise.open::<0>(&key, response.sealed_nothing)?;
        let [seal, open] = noise.split();
        let (index, since) = (initiated.index, initiated.sent_at);
        Some((at, Keys { index, peer_index: response.sender, seal, open, since }))
    }

    /// Takes a cookie for the last message; the next one carries its proof.
    ///
    /// # Errors
    /// `Invalid` when it is for another message, or not from the peer.
    pub(crate) fn take_cookie(&mut self, reply: &[u8], now: Moment) -> Result<(), TunnelError> {
        if self.macs.take_cookie(reply, now) { Ok(()) } else { Err(TunnelError::Invalid) }
    }
}

/// Diffie-Hellman. `None` for a public key that yields the same secret whatever the private one is.
fn meet(private: &StaticSecret, public: &x25519_dalek::PublicKey) -> Option<SharedSecret> {
    Some(private.diffie_hellman(public)).filter(SharedSecret::was_contributory)
}

/// A key pair for one handshake.
fn new_ephemeral() -> Option<(StaticSecret, [u8; 32])> {
    let mut bytes = Zeroizing::new([0; 32]);
    SystemRandom::new().fill(&mut *bytes).ok()?;
    let private = StaticSecret::from(*bytes);
    let public = x25519_dalek::PublicKey::from(&private).to_bytes();
    Some((private, public))
}

#[cfg(test)]
mod tests;
