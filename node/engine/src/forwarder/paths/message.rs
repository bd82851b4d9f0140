//! What two nodes ask each other inside the tunnel about the paths between them.
//!
//! ```text
//! 0      1        9       10        26     28
//! │ kind │ number │ what  │ address │ port │      a probe: what is asked for, and zeros
//! ```
//!
//! Probe and answer are of one length, so that nobody is made to send more than was sent to him. Both travel sealed, which keeps
//! strangers and repetitions out.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

const PROBE: u8 = 3;
const ANSWER: u8 = 4;
/// Of both, before padding.
pub(in crate::forwarder) const LEN: usize = 28;
/// In a probe: the other end is to probe wherever this node may be.
const CALL: u8 = 1;
const V4: u8 = 4;
const V6: u8 = 6;

/// One of the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::forwarder) enum Message {
    /// Does this path carry anything there and back? It is answered exactly the way that it came.
    Probe {
        /// Tells it from all others.
        number: u64,
        /// Whether the other end is to send probes of its own to wherever this node may be: that opens the address
        /// translators on its side for those that come from here.
        calls: bool,
    },
    /// It does.
    Answer {
        /// The probe's.
        number: u64,
        /// From which address it came; `None` when through a relay.
        observed: Option<SocketAddr>,
    },
}

/// Whether an inner packet is one of them, by its first byte: these never say where a peer is to be reached.
pub(in crate::forwarder) fn is_message(first: u8) -> bool {
    first == PROBE || first == ANSWER
}

impl Message {
    /// What an inner packet, with its padding, is; `None` when it makes no sense as one of these.
    pub(in crate::forwarder) fn decode(inner: &[u8]) -> Option<Self> {
        let message: &[u8; LEN] = inner.first_chunk()?;
        let (number, rest) = message[1..].split_first_chunk()?;
        let number = u64::from_be_bytes(*number);
        let what = *rest.first()?;
        match message[0] {
            // Flags of later versions are left out.
            PROBE => Some(Self::Probe { number, calls: what & CALL != 0 }),
            ANSWER => {
                let (address, rest) = rest[1..].split_first_chunk::<16>()?;
                let port = u16::from_be_bytes(*rest.first_chunk()?);
                let ip = match what {
                    V4 => Some(IpAddr::from(Ipv4Addr::from(*address.first_chunk::<4>()?))),
                    V6 => Some(IpAddr::from(Ipv6Addr::from(*address))),
                    _ => None,
                };
                Some(Self::Answer { number, observed: ip.map(|ip| SocketAddr::new(ip, port)) })
            }
            _ => None,
        }
    }

    /// As an inner packet.
    pub(in crate::forwarder) fn encode(self) -> [u8; LEN] {
        let mut out = [0; LEN];
        let number = match self {
            Self::Probe { number, calls } => {
                out[0] = PROBE;
                out[9] = u8::from(calls) * CALL;
                number
            }
            Self::Answer { number, observed } => {
                out[0] = ANSWER;
                if let Some(observed) = observed {
                    match observed.ip().to_canonical() {
                        IpAddr::V4(v4) => {
                            out[9] = V4;
                            out[10..14].copy_from_slice(&v4.octets());
                        }
                        IpAddr::V6(v6) => {
                            out[9] = V6;
                            out[10..26].copy_from_slice(&v6.octets());
                        }
                    }
                    out[26..].copy_from_slice(&observed.port().to_be_bytes());
                }
                number
            }
        };
        out[1..9].copy_from_slice(&number.to_be_bytes());
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn messages_are_read_as_they_were_written(number: u64, calls: bool, ip: Option<IpAddr>, port: u16) {
            let observed = ip.map(|ip| SocketAddr::new(ip.to_canonical(), port));
            for message in [Message::Probe { number, calls }, Message::Answer { number, observed }] {
                let mut padded = message.encode().to_vec();
                prop_assert!(is_message(padded[0]));
                padded.resize(32, 0);
                prop_assert_eq!(Message::decode(&padded), Some(message));
                prop_assert_eq!(Message::decode(&padded[..LEN - 1]), None);
            }
        }

        #[test]
        fn anything_may_come(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            if let Some(message) = Message::decode(&bytes) {
                // What is not understood of it is left out.
                prop_assert_eq!(Message::decode(&message.encode()), Some(message));
            }
        }
    }
}
