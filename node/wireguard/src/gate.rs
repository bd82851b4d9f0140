//! Stands before all tunnels: what strangers send costs as little as can be.
//!
//! An initiation must carry a valid MAC1 (which needs our public key) and, while many arrive, from its source or in all,
//! a MAC2 made with a cookie that proves its source address (section 5.4.7 of the paper). A source that is proven has a
//! limit of its own, which others can't use up. Only then is the Diffie-Hellman done that tells whose it is.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use boringtun::noise::{Packet, TunnResult, handshake::parse_handshake_anon, rate_limiter::RateLimiter};
use postern_model::{Moment, PublicKey};

use crate::PrivateKey;

/// Initiations per second, from all sources together, from which cookies are asked for.
const CALM: u32 = 200;
/// Initiations per second that one source (IPv4 address, IPv6 /64) is heard with: so many without a cookie, and as many
/// again with one.
const PER_SOURCE: u32 = 20;
/// Sources remembered within one second; when there are more, cookies are asked for.
const SOURCES: usize = 4096;
/// Initiations per second that are looked into, which costs a Diffie-Hellman each, from however many sources.
const HEARD: u32 = 500;
/// Of which so many go to one peer's tunnel, where each costs four more; Linux has the same limit.
const PER_PEER: u32 = 50;

/// Checks and limits handshake initiations for one node.
pub struct Gate {
    private: PrivateKey,
    public: x25519_dalek::PublicKey,
    /// Checks MAC1 only.
    calm: RateLimiter,
    /// Checks MAC2 too, and makes cookies.
    busy: RateLimiter,
    window: Moment,
    total: u32,
    sources: HashMap<IpAddr, Heard>,
    /// How many were looked into, and how many of those were whose.
    heard: u32,
    peers: HashMap<PublicKey, u32>,
}

/// How many initiations came from a source within the second.
#[derive(Debug, Clone, Copy, Default)]
struct Heard {
    /// Anyone may have sent these.
    unproven: u32,
    /// With a cookie.
    proven: u32,
}

/// What became of an initiation.
#[derive(Debug, PartialEq, Eq)]
pub enum Admission<'a> {
    /// Give it to the tunnel of this peer, if there is one.
    Peer(PublicKey),
    /// Send this cookie reply back to where it came from, and do no more.
    Cookie(&'a [u8]),
    /// Not for this node, or damaged.
    Invalid,
    /// Over the limit, and from where it says it is.
    Limited,
}

impl Gate {
    /// For the node with this key.
    pub fn new(private: &PrivateKey, now: Moment) -> Self {
        let public = x25519_dalek::PublicKey::from(private.secret());
        Self {
            private: private.clone(),
            public,
            calm: RateLimiter::new(&public, u64::MAX),
            busy: RateLimiter::new(&public, 0),
            window: now,
            total: 0,
            sources: HashMap::new(),
            heard: 0,
            peers: HashMap::new(),
        }
    }

    /// Takes an initiation; `out` holds at least [`crate::MIN_BUFFER`] bytes.
    pub fn admit<'a>(&mut self, initiation: &[u8], from: SocketAddr, out: &'a mut [u8], now: Moment) -> Admission<'a> {
        if now.since(self.window) >= Duration::from_secs(1) {
            self.window = now;
            (self.total, self.heard) = (0, 0);
            self.sources.clear();
            self.peers.clear();
        }
        self.total = self.total.saturating_add(1);
        let heard = self.sources.get(&source(from)).copied().unwrap_or_default();
        let crowded = self.total > CALM || self.sources.len() >= SOURCES || heard.unproven >= PER_SOURCE;
        let limiter = if crowded { &self.busy } else { &self.calm };
        let packet = match limiter.verify_packet(Some(from.ip()), initiation, out) {
            Ok(Packet::HandshakeInit(packet)) => packet,
            Err(TunnResult::WriteToNetwork(cookie)) => {
                let len = cookie.len();
                return Admission::Cookie(&out[..len]);
            }
            _ => return Admission::Invalid,
        };
        // Counted only now: whoever can't make the MAC uses up nobody's share.
        let heard = self.sources.entry(source(from)).or_default();
        if crowded {
            heard.proven += 1;
            if heard.proven > PER_SOURCE {
                return Admission::Limited;
            }
        } else {
            heard.unproven += 1;
        }
        if self.heard >= HEARD {
            return Admission::Limited;
        }
        self.heard += 1;
        let Ok(half) = parse_handshake_anon(self.private.secret(), &self.public, &packet) else {
            return Admission::Invalid;
        };
        let peer = PublicKey(half.peer_static_public);
        let heard = self.peers.entry(peer).or_default();
        *heard += 1;
        if *heard > PER_PEER { Admission::Limited } else { Admission::Peer(peer) }
    }
}

impl std::fmt::Debug for Gate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Gate").field("total", &self.total).finish_non_exhaustive()
    }
}

/// What one party can be assumed to own: an IPv4 address, or an IPv6 /64.
fn source(from: SocketAddr) -> IpAddr {
    match from.ip().to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6((u128::from(v6) >> 64 << 64).into()),
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{MIN_BUFFER, Tunnel};
    use postern_model::SecretBytes;
    use proptest::prelude::*;

    fn key(byte: u8) -> PrivateKey {
        PrivateKey::from_bytes(&SecretBytes::new([byte; 32]))
    }

    fn initiation(from: &PrivateKey, to: &PrivateKey) -> Vec<u8> {
        let mut tunnel = Tunnel::new(from, to.public(), None, 7, Moment::default());
        tunnel.start_handshake(&mut [0; MIN_BUFFER], Moment::default()).unwrap().to_vec()
    }

    const FROM: &str = "192.0.2.1:51820";

    #[test]
    fn it_tells_whose_handshake_it_is() {
        let (alice, bob, carol) = (key(1), key(2), key(3));
        let message = initiation(&alice, &bob);
        let mut out = [0; MIN_BUFFER];
        let mut gate = Gate::new(&bob, Moment::default());
        let admitted = gate.admit(&message, FROM.parse().unwrap(), &mut out, Moment::default());
        assert_eq!(admitted, Admission::Peer(alice.public()));
        let mut other = Gate::new(&carol, Moment::default());
        let refused = other.admit(&message, FROM.parse().unwrap(), &mut out, Moment::default());
        assert_eq!(refused, Admission::Invalid, "without knowing the key nothing is answered");
    }

    /// Invariant: initiations with a forged source don't keep the one who is there from being heard.
    #[test]
    fn one_source_over_its_limit_is_heard_once_it_has_proven_itself() {
        let (alice, bob) = (key(1), key(2));
        let from = FROM.parse().unwrap();
        let mut gate = Gate::new(&bob, Moment::default());
        let mut out = [0; MIN_BUFFER];
        let forged = initiation(&alice, &bob);
        for _ in 0..PER_SOURCE {
            gate.admit(&forged, from, &mut out, Moment::default());
        }
        let mut tunnel = Tunnel::new(&alice, bob.public(), None, 7, Moment::default());
        let mut buffer = [0; MIN_BUFFER];
        let first = tunnel.start_handshake(&mut buffer, Moment::default()).unwrap().to_vec();
        let Admission::Cookie(cookie) = gate.admit(&first, from, &mut out, Moment::default()) else {
            panic!("a cookie is asked for")
        };
        tunnel.handle_datagram(cookie, &mut buffer, Moment::default()).unwrap();
        let soon = Moment::default() + Duration::from_millis(100);
        let second = tunnel.handle_timeout(&mut buffer, soon).unwrap().to_vec();
        for _ in 0..PER_SOURCE {
            assert_eq!(gate.admit(&second, from, &mut out, soon), Admission::Peer(alice.public()));
        }
        assert_eq!(gate.admit(&second, from, &mut out, soon), Admission::Limited);
    }

    #[test]
    fn one_source_is_limited_and_a_crowd_must_prove_its_addresses() {
        let (alice, bob) = (key(1), key(2));
        let message = initiation(&alice, &bob);
        let mut out = [0; MIN_BUFFER];
        let mut gate = Gate::new(&bob, Moment::default());
        let mut admit = |from: String, now: u64| {
            let now = Moment::from_boot(Duration::from_secs(now));
            match gate.admit(&message, from.parse().unwrap(), &mut out, now) {
                Admission::Peer(_) => 'p',
                Admission::Limited => 'l',
                Admission::Cookie(_) => 'c',
                Admission::Invalid => 'i',
            }
        };
        for _ in 0..PER_SOURCE {
            assert_eq!(admit(FROM.into(), 0), 'p');
        }
        assert_eq!(admit(FROM.into(), 0), 'c');
        assert_eq!(admit(FROM.into(), 1), 'p', "a second later it is heard again");
        for i in 1..CALM {
            admit(format!("192.0.{}.{}:1", i / 256, i % 256), 1);
        }
        assert_eq!(admit("198.51.100.1:1".into(), 1), 'c');
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 148)) {
            let mut gate = Gate::new(&key(2), Moment::default());
            let mut bytes = bytes;
            bytes[..4].copy_from_slice(&[1, 0, 0, 0]);
            let mut out = [0; MIN_BUFFER];
            prop_assert_eq!(gate.admit(&bytes, FROM.parse().unwrap(), &mut out, Moment::default()), Admission::Invalid);
        }
    }
}
