//! Data messages (section 5.4.6 of the WireGuard paper), sealed and opened in place.
//!
//! ```text
//! 0    4          8         16                       16 + padded   32 + padded
//! │ 4  │ receiver │ counter │ inner packet, zeros, sealed │ tag │
//! ```
//!
//! A [`Tunnel`](crate::Tunnel) hands out what seals and what opens; both hold one key and no more, so that any thread may
//! use them while the tunnel goes on. The order of things is kept by the tunnel: it reserves the counters before sealing,
//! and says after opening whether a counter is new. Nothing here allocates, locks, or knows the time.

use std::{fmt, ops::Range, sync::Arc};

use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};

use crate::{TunnelError, classify::receiver, constants::REJECT_AFTER_MESSAGES};

/// Room in front of an inner packet.
pub const HEADER: usize = 16;
/// Room behind an inner packet and its padding.
pub const TAG: usize = 16;

/// Inner packets are padded to a multiple of this.
const PADDING: usize = 16;
/// What a data message begins with.
const DATA: [u8; 4] = [4, 0, 0, 0];
/// Where it has its receiver's index, and its counter.
const RECEIVER: Range<usize> = 4..8;
const COUNTER: Range<usize> = 8..16;

/// One direction's key. ring can't wipe it when it is dropped; so all share the one on the heap, and it goes as soon as its session
/// and what that has handed out have gone.
pub(crate) type TransportKey = Arc<LessSafeKey>;

/// Takes over a key.
pub(crate) fn transport_key(bytes: &[u8; 32]) -> TransportKey {
    Arc::new(aead_key(bytes))
}

/// A key of ChaCha20-Poly1305, as the handshake needs them too.
pub(crate) fn aead_key(bytes: &[u8; 32]) -> LessSafeKey {
    let key = UnboundKey::new(&CHACHA20_POLY1305, bytes).expect("32 bytes are a key of ChaCha20-Poly1305");
    LessSafeKey::new(key)
}

/// The nonce of a counter. Whoever seals sees to it that each is used once.
pub(crate) fn nonce(counter: u64) -> Nonce {
    let mut bytes = [0; 12];
    bytes[4..].copy_from_slice(&counter.to_le_bytes());
    Nonce::assume_unique_for_key(bytes)
}

/// Counters reserved on a session, each used exactly once. What is left of them when it is dropped is never used.
///
/// Made by [`Tunnel::sealer`](crate::Tunnel::sealer), for packets that are sealed and sent at once: it knows no time, and
/// the tunnel can't take it back. When the tunnel has changed to another key meanwhile, it still seals with its own, which the
/// receiver has kept.
pub struct Sealer {
    key: TransportKey,
    receiver: u32,
    counters: Range<u64>,
    mtu: usize,
}

impl Sealer {
    /// The caller answers for nobody else having these counters.
    pub(crate) fn new(key: TransportKey, receiver: u32, counters: Range<u64>, mtu: usize) -> Self {
        Self { key, receiver, counters, mtu }
    }

    /// Seals one inner packet in place. `buffer` has [`HEADER`] bytes of room, `len` bytes of inner packet, then room for
    /// padding and [`TAG`]. Returns the datagram's length, which is [`Self::sealed_len`]; the datagram is at the start of
    /// the buffer. No bytes at all (`len` 0) are a keepalive.
    ///
    /// `None`, and nothing happens, when the counters are used up or the buffer is too short.
    pub fn seal(&mut self, buffer: &mut [u8], len: usize) -> Option<usize> {
        if len > buffer.len() {
            return None;
        }
        let sealed_len = self.sealed_len(len);
        let (header, rest) = buffer.get_mut(..sealed_len)?.split_first_chunk_mut::<HEADER>()?;
        let (packet, tag) = rest.split_last_chunk_mut::<TAG>()?;
        // Gone, whatever comes of it.
        let counter = self.counters.next()?;
        packet[len..].fill(0);
        header[..4].copy_from_slice(&DATA);
        header[RECEIVER].copy_from_slice(&self.receiver.to_le_bytes());
        header[COUNTER].copy_from_slice(&counter.to_le_bytes());
        let made = self.key.seal_in_place_separate_tag(nonce(counter), Aad::empty(), packet).ok()?;
        tag.copy_from_slice(made.as_ref());
        Some(sealed_len)
    }

    /// The length of the datagram that [`Self::seal`] makes of so many bytes.
    pub fn sealed_len(&self, len: usize) -> usize {
        HEADER + padded_len(len, self.mtu) + TAG
    }

    /// How many packets it can still seal.
    pub fn left(&self) -> u64 {
        self.counters.end - self.counters.start
    }
}

impl fmt::Debug for Sealer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sealer")
            .field("receiver", &self.receiver)
            .field("counters", &self.counters)
            .finish_non_exhaustive()
    }
}

/// The next multiple of [`PADDING`], but no more than a full packet has (as in the kernel's implementation), so that a
/// full packet needs no more room than its header and tag.
pub(crate) fn padded_len(len: usize, mtu: usize) -> usize {
    len.checked_next_multiple_of(PADDING).unwrap_or(len).min(mtu).max(len)
}

/// An opened data message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plain {
    /// To be shown to [`Tunnel::accept`](crate::Tunnel::accept), before the packet goes any further.
    pub counter: u64,
    /// The length of the inner packet with its padding; 0 for a keepalive.
    pub len: usize,
}

/// Opens data messages of one session; changes nothing. Made by [`Tunnel::opener`](crate::Tunnel::opener).
#[derive(Clone)]
pub struct Opener {
    key: TransportKey,
    index: u32,
}

impl Opener {
    pub(crate) fn new(key: TransportKey, index: u32) -> Self {
        Self { key, index }
    }

    /// The receiver index that it opens for, to compare with the next datagram's.
    pub fn index(&self) -> u32 {
        self.index
    }

    /// Decrypts in place. The inner packet, with padding, then lies at `datagram[HEADER..HEADER + len]`. It is authentic, but it
    /// may have come before: only [`Tunnel::accept`](crate::Tunnel::accept) tells.
    ///
    /// # Errors
    /// `UnknownSession` when it is for another session; `Expired` for a counter that no key may be used with; `Invalid`
    /// otherwise. The datagram's content is lost then.
    pub fn open(&self, datagram: &mut [u8]) -> Result<Plain, TunnelError> {
        if receiver_index(datagram).ok_or(TunnelError::Invalid)? != self.index {
            return Err(TunnelError::UnknownSession);
        }
        let (header, sealed) = datagram.split_first_chunk_mut::<HEADER>().ok_or(TunnelError::Invalid)?;
        let counter = header.last_chunk().map_or(u64::MAX, |bytes| u64::from_le_bytes(*bytes));
        if counter >= REJECT_AFTER_MESSAGES {
            return Err(TunnelError::Expired);
        }
        match self.key.open_in_place(nonce(counter), Aad::empty(), sealed) {
            Ok(packet) => Ok(Plain { counter, len: packet.len() }),
            Err(_) => Err(TunnelError::Invalid),
        }
    }
}

impl fmt::Debug for Opener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Opener").field("index", &self.index).finish_non_exhaustive()
    }
}

/// The receiver index of a data message, of which the 24 bits above the lowest 8 are the tunnel's; `None` when it is
/// something else. Nothing is authenticated yet.
pub fn receiver_index(datagram: &[u8]) -> Option<u32> {
    if datagram.len() < HEADER + TAG || !datagram.starts_with(&DATA) {
        return None;
    }
    receiver(datagram, RECEIVER.start)
}

#[cfg(test)]
mod tests;
