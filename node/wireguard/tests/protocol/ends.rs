//! One end of a connection: of this crate, or the oracle's.

use std::{sync::Arc, time::Duration};

use boringtun::noise::{Tunn, TunnResult, rate_limiter::RateLimiter};
use postern_model::{Moment, PresharedKey, SecretBytes};
use postern_wireguard::{MIN_BUFFER, OVERHEAD, Opened, PrivateKey, Sealed, Tunnel};

/// Bytes for any datagram of these tests.
const ROOM: usize = 2048;

pub(crate) fn at(millis: u64) -> Moment {
    Moment::from_boot(Duration::from_millis(millis))
}

/// Somebody's private key.
pub(crate) fn key(byte: u8) -> PrivateKey {
    PrivateKey::from_bytes(&SecretBytes::new([byte; 32]))
}

fn secret(byte: u8) -> x25519_dalek::StaticSecret {
    x25519_dalek::StaticSecret::from([byte; 32])
}

/// Takes everything, or asks everyone for a cookie.
pub(crate) fn limiter(private: u8, limit: u64) -> Arc<RateLimiter> {
    Arc::new(RateLimiter::new(&x25519_dalek::PublicKey::from(&secret(private)), limit))
}

/// An IPv4 packet that carries a number.
pub(crate) fn packet(number: u32, len: usize) -> Vec<u8> {
    let mut packet = vec![0xaa; len.max(24)];
    packet[0] = 0x45;
    let total = u16::try_from(packet.len()).unwrap().to_be_bytes();
    packet[2..4].copy_from_slice(&total);
    packet[20..24].copy_from_slice(&number.to_be_bytes());
    packet
}

pub(crate) fn number(packet: &[u8]) -> u32 {
    u32::from_be_bytes(*packet[20..].first_chunk().unwrap())
}

/// What came of a datagram.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Got {
    Packet(Vec<u8>),
    Reply(Vec<u8>),
    Nothing,
    Refused,
}

impl Got {
    pub(crate) fn reply(self) -> Vec<u8> {
        let Self::Reply(datagram) = self else { panic!("a reply, and not {self:?}") };
        datagram
    }

    pub(crate) fn packet(self) -> Vec<u8> {
        let Self::Packet(packet) = self else { panic!("a packet, and not {self:?}") };
        packet
    }
}

pub(crate) enum End {
    Ours(Box<Tunnel>),
    Theirs(Box<Tunn>),
}

impl End {
    pub(crate) fn ours(private: u8, peer: u8, psk: Option<u8>) -> Self {
        let psk = psk.map(|byte| PresharedKey::new([byte; 32]));
        let index = 0x100 + u32::from(private);
        Self::Ours(Box::new(Tunnel::new(&key(private), key(peer).public(), psk.as_ref(), index, at(0))))
    }

    pub(crate) fn theirs(private: u8, peer: u8, psk: Option<u8>) -> Self {
        Self::theirs_limited(private, peer, psk, limiter(private, u64::MAX))
    }

    pub(crate) fn theirs_limited(private: u8, peer: u8, psk: Option<u8>, limiter: Arc<RateLimiter>) -> Self {
        let (public, index) = (key(peer).public().0.into(), 0x200 + u32::from(private));
        let psk = psk.map(|byte| [byte; 32]);
        Self::Theirs(Box::new(Tunn::new(secret(private), public, psk, None, index, Some(limiter))))
    }

    /// An initiation, unless a tunnel of ours has one under way.
    pub(crate) fn start(&mut self, now: u64) -> Option<Vec<u8>> {
        match self {
            Self::Ours(tunnel) => tunnel.start_handshake(&mut [0; MIN_BUFFER], at(now)).map(<[u8]>::to_vec),
            Self::Theirs(tunn) => {
                date(tunn);
                written(tunn.format_handshake_initiation(&mut [0; ROOM], true))
            }
        }
    }

    /// A data message, if there is a session.
    pub(crate) fn seal(&mut self, packet: &[u8], now: u64) -> Option<Vec<u8>> {
        match self {
            Self::Ours(tunnel) => {
                match tunnel.seal(packet, &mut vec![0; packet.len() + OVERHEAD + MIN_BUFFER], at(now)) {
                    Sealed::Datagram(datagram) => Some(datagram.to_vec()),
                    Sealed::NoSession => None,
                }
            }
            // Without a session it keeps the packet and makes an initiation.
            Self::Theirs(tunn) => written(tunn.encapsulate(packet, &mut [0; ROOM])).filter(|datagram| datagram[0] == 4),
        }
    }

    pub(crate) fn give(&mut self, datagram: &[u8], now: u64) -> Got {
        let mut out = [0; ROOM];
        match self {
            Self::Ours(tunnel) => match tunnel.handle_datagram(datagram, &mut out, at(now)) {
                Ok(Opened::Packet(packet)) => Got::Packet(packet.to_vec()),
                Ok(Opened::Reply { datagram, .. }) => Got::Reply(datagram.to_vec()),
                Ok(Opened::Keepalive | Opened::Nothing) => Got::Nothing,
                Err(_) => Got::Refused,
            },
            Self::Theirs(tunn) => {
                date(tunn);
                match tunn.decapsulate(Some("192.0.2.1".parse().unwrap()), datagram, &mut out) {
                    TunnResult::WriteToTunnelV4(packet, _) => Got::Packet(packet.to_vec()),
                    TunnResult::WriteToNetwork(reply) => Got::Reply(reply.to_vec()),
                    TunnResult::Done => Got::Nothing,
                    TunnResult::Err(_) => Got::Refused,
                    TunnResult::WriteToTunnelV6(..) => panic!("nobody sends IPv6 here"),
                }
            }
        }
    }

    /// What the timers want sent. The oracle's run on a clock of its own and are left out.
    pub(crate) fn timeout(&mut self, now: u64) -> Vec<Vec<u8>> {
        let mut sent = Vec::new();
        if let Self::Ours(tunnel) = self {
            while let Some(datagram) = tunnel.handle_timeout(&mut [0; MIN_BUFFER], at(now)) {
                sent.push(datagram.to_vec());
            }
        }
        sent
    }
}

/// A `Tunn` seals with the newest session, and learns only from this which one that is.
fn date(tunn: &mut Tunn) {
    let _ = tunn.update_timers(&mut [0; ROOM]);
}

pub(crate) fn written(result: TunnResult<'_>) -> Option<Vec<u8>> {
    match result {
        TunnResult::WriteToNetwork(datagram) => Some(datagram.to_vec()),
        _ => None,
    }
}
