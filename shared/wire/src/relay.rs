//! Between a node and a relay: passes, messages and datagrams.
//!
//! A relay is reached by QUIC (ALPN [`ALPN`]) with a client certificate of the node's device key, whoever signed it: what
//! counts is the key. On the one bidirectional stream, which the node opens, go [`RelayRequest`]s up and [`RelayNews`] down.
//! Sealed packets travel in QUIC datagrams, each with a short [`Header`] that says for, or from, which peer.
//!
//! ```text
//! node A                       relay                        node B
//!   │ Open{pass A→B} ───────────►│                             │
//!   │◄────────── Opened{B, 5}    │◄─────────── Open{pass B→A}  │
//!   │                            │ Opened{A, 9} ──────────────►│
//!   │◄────────── There{5, true}  │ There{9, true} ────────────►│
//!   │ datagram: 5, packet ──────►│ datagram: 9, packet ───────►│
//! ```
//!
//! A node that has shown no pass for 10 seconds, or whose passes have all run out, is sent away. Until there is a grant it
//! shows the one for itself ([`Welcome::relay_pass`](crate::Welcome::relay_pass)): with that it may wait, and nothing else; it
//! has no channel, and is answered only when it is of no use.
//!
//! A [`Pass`] is what the coordinator says of a pair that has a grant: the holder of this device key may, as this WireGuard
//! peer, exchange packets with that one, until then. A relay forwards between two nodes that have each shown theirs for the
//! other. It knows keys and lengths, and nothing of what is inside.

use std::fmt;

use base64::{Engine as _, prelude::BASE64_STANDARD};
use postern_model::{PublicKey, RelayId, Sha256, Timestamp, token::HostPort};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// The QUIC application protocol.
pub const ALPN: &[u8] = b"postern-relay/1";

/// A relay of the network, as nodes know it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RelayEntry {
    /// Its id.
    pub id: RelayId,
    /// Its name.
    pub name: String,
    /// Where it is reached: UDP for QUIC and STUN, TCP for QUIC over TLS.
    pub address: HostPort,
    /// SHA-256 of its public key (SubjectPublicKeyInfo, DER): whoever answers has to hold it.
    pub pin: Sha256,
}

/// How the other end of a grant may be reached through relays.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RelayedPeer {
    /// At which relay the other end waits, if it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub relay: Option<RelayId>,
    /// This node's pass for it, good at any relay of the network.
    pub pass: SignedPass,
}

/// What the coordinator says of a pair, to one of the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pass {
    /// Digest of the holder's device key (SubjectPublicKeyInfo, DER).
    pub key: Sha256,
    /// As which WireGuard peer it sends.
    pub holder: PublicKey,
    /// To and from which it may; itself, in a pass to be there at all.
    pub peer: PublicKey,
    /// Until when.
    pub expires: Timestamp,
}

/// What is signed begins with this, so that the signature is of no use for anything else.
const LABEL: &[u8; 15] = b"postern pass v1";
const SIGNED: usize = 15 + 32 + 32 + 32 + 8;
/// Ed25519 (RFC 8032).
const SIGNATURE: usize = 64;

/// A [`Pass`] and the Ed25519 signature under it; nothing says yet that it holds.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct SignedPass {
    /// What it says.
    pub pass: Pass,
    /// The coordinator's signature under [`Pass::signed_bytes`].
    pub signature: [u8; SIGNATURE],
}

impl Pass {
    /// What is signed.
    pub fn signed_bytes(&self) -> [u8; SIGNED] {
        let mut bytes = [0; SIGNED];
        let (label, rest) = bytes.split_at_mut(LABEL.len());
        label.copy_from_slice(LABEL);
        rest[..32].copy_from_slice(&self.key.0);
        rest[32..64].copy_from_slice(&self.holder.0);
        rest[64..96].copy_from_slice(&self.peer.0);
        rest[96..].copy_from_slice(&self.expires.unix_millis().to_be_bytes());
        bytes
    }
}

impl SignedPass {
    fn to_bytes(self) -> [u8; SIGNED - 15 + SIGNATURE] {
        let mut bytes = [0; SIGNED - 15 + SIGNATURE];
        bytes[..SIGNED - 15].copy_from_slice(&self.pass.signed_bytes()[15..]);
        bytes[SIGNED - 15..].copy_from_slice(&self.signature);
        bytes
    }

    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (key, rest) = bytes.split_first_chunk()?;
        let (holder, rest) = rest.split_first_chunk()?;
        let (peer, rest) = rest.split_first_chunk()?;
        let (expires, signature) = rest.split_first_chunk()?;
        let expires = Timestamp::from_unix_millis(i64::from_be_bytes(*expires));
        let pass = Pass { key: Sha256(*key), holder: PublicKey(*holder), peer: PublicKey(*peer), expires };
        Some(Self { pass, signature: signature.try_into().ok()? })
    }
}

impl fmt::Debug for SignedPass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.pass.fmt(f)
    }
}

impl Serialize for SignedPass {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&BASE64_STANDARD.encode(self.to_bytes()))
    }
}

impl<'de> Deserialize<'de> for SignedPass {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let pass = BASE64_STANDARD.decode(text).ok().and_then(|bytes| Self::from_bytes(&bytes));
        pass.ok_or_else(|| de::Error::custom("not a relay pass"))
    }
}

/// From a node to a relay.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", content = "body", rename_all = "snake_case")]
pub enum RelayRequest {
    /// Forward between me and the pass's peer. With a pass for a peer that has a channel already, it is good for longer.
    Open {
        /// Shows that I may.
        pass: SignedPass,
    },
    /// No longer.
    Close {
        /// To whom.
        peer: PublicKey,
    },
}

/// From a relay to a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", content = "body", rename_all = "snake_case")]
pub enum RelayNews {
    /// Datagrams to and from this peer bear this number.
    Opened {
        /// Whom.
        peer: PublicKey,
        /// Its number on this connection; less than [`Header::CHANNELS`].
        channel: u32,
    },
    /// The pass is of no use.
    Refused {
        /// For whom.
        peer: PublicKey,
        /// Why.
        reason: RelayRefusal,
    },
    /// Whether the peer is at this relay now, and has shown its pass: only then is anything forwarded. Not before `Opened`,
    /// and `false` until told.
    There {
        /// Who.
        channel: u32,
        /// Whether.
        is_there: bool,
    },
    /// The channel is gone: the pass has run out.
    Closed {
        /// Which.
        channel: u32,
    },
}

/// Why a relay does not take a pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "snake_case")]
pub enum RelayRefusal {
    /// The signature is not this network's coordinator's.
    #[error("the pass is not from this relay's coordinator")]
    Signature,
    /// It is another node's.
    #[error("the pass is for another device key")]
    Holder,
    /// Its time is over.
    #[error("the pass has run out; one of the clocks may be off")]
    Expired,
    /// The node has as many channels as one may have.
    #[error("this node has too many channels at this relay")]
    TooMany,
    /// In a way that this version does not know.
    #[error("the relay refused for a reason that this version does not know")]
    #[serde(other)]
    Unknown,
}

/// What stands in front of a sealed packet in a QUIC datagram: 4 bytes, and 2 more in front of a part.
///
/// ```text
/// 0       1        4         6
/// │ part  │ channel │ message │ …
/// ```
///
/// A packet that is too long for one datagram travels in two parts with the same message number, which only the nodes make
/// sense of; a relay changes the channel and nothing else, but that it cuts a whole packet which arrived in one datagram and
/// does not fit the next. Parts should be halves: what is cut as long as one path allows may be too long for the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// For whom to the relay, from whom from it.
    pub channel: u32,
    /// Which part of a packet follows.
    pub part: Part,
}

/// Whether a datagram holds a whole packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// It does.
    Whole,
    /// The beginning of the packet with this number.
    First(u16),
    /// The rest of it.
    Last(u16),
}

impl Header {
    /// Channels have numbers below this one.
    pub const CHANNELS: u32 = 1 << 24;
    /// The longest header.
    pub const LONGEST: usize = 6;

    /// Reads a datagram: the header, and what follows. `None` for what is none.
    pub fn decode(datagram: &[u8]) -> Option<(Self, &[u8])> {
        let (first, rest) = datagram.split_first_chunk::<4>()?;
        let [part, channel @ ..] = *first;
        let channel = u32::from_be_bytes([0, channel[0], channel[1], channel[2]]);
        let number = || rest.split_first_chunk().map(|(number, rest)| (u16::from_be_bytes(*number), rest));
        let (part, rest) = match part {
            0 => (Part::Whole, rest),
            1 => number().map(|(number, rest)| (Part::First(number), rest))?,
            2 => number().map(|(number, rest)| (Part::Last(number), rest))?,
            _ => return None,
        };
        (!rest.is_empty()).then_some((Self { channel, part }, rest))
    }

    /// Appends it.
    pub fn encode(self, out: &mut Vec<u8>) {
        let [_, channel @ ..] = self.channel.to_be_bytes();
        let (part, number) = match self.part {
            Part::Whole => (0, None),
            Part::First(number) => (1, Some(number)),
            Part::Last(number) => (2, Some(number)),
        };
        out.push(part);
        out.extend(channel);
        out.extend(number.iter().flat_map(|number| number.to_be_bytes()));
    }

    /// Changes the channel of a datagram that was read before, as a relay does.
    pub fn set_channel(datagram: &mut [u8], channel: u32) {
        if let Some(place) = datagram.get_mut(1..4) {
            place.copy_from_slice(&channel.to_be_bytes()[1..]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Limit, frame};
    use proptest::prelude::*;

    fn signed() -> SignedPass {
        let pass = Pass {
            key: Sha256([1; 32]),
            holder: PublicKey([2; 32]),
            peer: PublicKey([3; 32]),
            expires: Timestamp::from_unix_millis(1_790_000_000_000),
        };
        SignedPass { pass, signature: [4; 64] }
    }

    #[test]
    fn a_pass_arrives_as_it_was_signed() {
        let request = RelayRequest::Open { pass: signed() };
        let mut decoder = crate::Decoder::new(Limit::Node);
        decoder.handle_bytes(&frame::encode(&request, Limit::Node).unwrap());
        assert_eq!(decoder.poll_message::<RelayRequest>().unwrap(), Some(request));
    }

    #[test]
    fn whatever_a_pass_says_is_signed() {
        let pass = signed().pass;
        let others = [
            Pass { key: Sha256([9; 32]), ..pass },
            Pass { holder: PublicKey([9; 32]), ..pass },
            Pass { peer: PublicKey([9; 32]), ..pass },
            Pass { expires: Timestamp::from_unix_millis(0), ..pass },
        ];
        assert!(others.iter().all(|other| other.signed_bytes() != pass.signed_bytes()));
    }

    proptest! {
        #[test]
        fn headers_are_read_as_they_were_written(
            channel in 0..Header::CHANNELS, other in 0..Header::CHANNELS, number: u16, which in 0_usize..3, packet: [u8; 5],
        ) {
            let part = [Part::Whole, Part::First(number), Part::Last(number)][which];
            let mut datagram = Vec::new();
            Header { channel, part }.encode(&mut datagram);
            datagram.extend(packet);
            prop_assert_eq!(Header::decode(&datagram), Some((Header { channel, part }, &packet[..])));
            Header::set_channel(&mut datagram, other);
            prop_assert_eq!(Header::decode(&datagram), Some((Header { channel: other, part }, &packet[..])));
        }

        #[test]
        fn anything_may_come(bytes in prop::collection::vec(any::<u8>(), 0..12)) {
            if let Some((header, rest)) = Header::decode(&bytes) {
                prop_assert!(header.channel < Header::CHANNELS && !rest.is_empty());
            }
        }
    }
}
