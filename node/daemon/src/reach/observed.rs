//! Where this node is seen from outside, and by which kind of NAT: made of what servers answered. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
};

use postern_model::{Candidate, candidate::CandidateKind};
use serde::{Deserialize, Serialize};

use super::questions::Answer;

/// So many addresses from outside are told to peers at most: a symmetric NAT shows another one to each server.
const MAX_OBSERVED: usize = 4;

/// How this node's datagrams leave the network, as far as answers show.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Nat {
    /// One of its own addresses is seen: there is no NAT.
    None,
    /// All servers see the same address and port: peers can use it.
    EndpointIndependent,
    /// Each server sees another port: what one sees is of no use to others.
    Symmetric,
    /// There is one, of a kind that one server alone can't show.
    SomeKind,
    /// Nobody answered.
    #[default]
    Unknown,
}

/// What answers say of one family's NAT; `own` are the machine's addresses.
pub(crate) fn nat<'a>(answers: impl Iterator<Item = &'a Answer>, own: &[IpAddr], is_v6: bool) -> Nat {
    let seen: BTreeMap<_, _> = answers
        .filter(|answer| answer.observed.is_ipv6() == is_v6 && answer.addr.is_ipv6() == is_v6)
        .map(|answer| (answer.addr, answer.observed))
        .collect();
    let distinct: BTreeSet<_> = seen.values().collect();
    match (seen.len(), distinct.len()) {
        (0, _) => Nat::Unknown,
        _ if distinct.iter().all(|observed| own.contains(&observed.ip())) => Nat::None,
        (1, _) => Nat::SomeKind,
        (_, 1) => Nat::EndpointIndependent,
        _ => Nat::Symmetric,
    }
}

/// What to tell peers beside the machine's own addresses: where servers see this node.
pub(crate) fn candidates<'a>(answers: impl Iterator<Item = &'a Answer>, host: &[Candidate]) -> Vec<Candidate> {
    let seen: BTreeSet<SocketAddr> = answers
        .map(|answer| answer.observed)
        .filter(|observed| is_sensible(observed) && host.iter().all(|candidate| candidate.addr != *observed))
        .collect();
    let observed = seen.into_iter().map(|addr| Candidate { addr, kind: CandidateKind::Observed });
    observed.take(MAX_OBSERVED).collect()
}

/// Whether a peer could send there at all; an answer may say anything.
fn is_sensible(addr: &SocketAddr) -> bool {
    let is_usable = match addr.ip() {
        IpAddr::V4(ip) => !ip.is_loopback() && !ip.is_unspecified() && !ip.is_multicast() && !ip.is_broadcast(),
        IpAddr::V6(ip) => !ip.is_loopback() && !ip.is_unspecified() && !ip.is_multicast(),
    };
    is_usable && addr.port() != 0
}

/// An address of a network of its own, which others reach only through NAT (RFC 1918, RFC 6598).
pub(crate) fn is_private(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_private() || (ip.octets()[0] == 100 && ip.octets()[1] & 0xc0 == 64),
        IpAddr::V6(ip) => ip.segments()[0] & 0xfe00 == 0xfc00,
    }
}

#[cfg(test)]
mod tests {
    use super::{super::questions::Server, *};
    use std::time::Duration;

    fn answers(seen: &[(&str, &str)]) -> Vec<Answer> {
        let answer = |(addr, observed): &(&str, &str)| Answer {
            server: Server::Coordinator,
            addr: addr.parse().unwrap(),
            observed: observed.parse().unwrap(),
            round_trip: Duration::ZERO,
            at: postern_model::Moment::default(),
        };
        seen.iter().map(answer).collect()
    }

    #[test]
    fn two_servers_tell_the_kinds_of_nat_apart_and_one_can_not() {
        let own = ["192.168.1.7".parse().unwrap()];
        let nat = |seen: &[(&str, &str)]| nat(answers(seen).iter(), &own, false);
        assert_eq!(nat(&[]), Nat::Unknown);
        assert_eq!(nat(&[("203.0.113.1:1", "192.168.1.7:4000")]), Nat::None);
        assert_eq!(nat(&[("203.0.113.1:1", "198.51.100.7:4000")]), Nat::SomeKind);
        let same = [("203.0.113.1:1", "198.51.100.7:4000"), ("203.0.113.2:1", "198.51.100.7:4000")];
        assert_eq!(nat(&same), Nat::EndpointIndependent);
        let other = [("203.0.113.1:1", "198.51.100.7:4000"), ("203.0.113.2:1", "198.51.100.7:4001")];
        assert_eq!(nat(&other), Nat::Symmetric);
        assert_eq!(nat(&[("[2001:db8::1]:1", "[2001:db8::7]:1")]), Nat::Unknown, "of the other family");
    }

    #[test]
    fn what_is_seen_is_told_but_for_own_addresses_and_nonsense() {
        let host = [Candidate { addr: "192.168.1.7:4000".parse().unwrap(), kind: CandidateKind::Host }];
        let seen = [
            ("203.0.113.1:1", "198.51.100.7:4000"),
            ("203.0.113.2:1", "198.51.100.7:4000"),
            ("203.0.113.3:1", "192.168.1.7:4000"),
            ("203.0.113.4:1", "127.0.0.1:4000"),
            ("203.0.113.5:1", "198.51.100.7:0"),
            ("203.0.113.6:1", "224.0.0.1:4000"),
        ];
        let told = candidates(answers(&seen).iter(), &host);
        let expected = Candidate { addr: "198.51.100.7:4000".parse().unwrap(), kind: CandidateKind::Observed };
        assert_eq!(told, [expected]);
    }

    #[test]
    fn a_symmetric_nats_addresses_are_told_within_bounds() {
        let seen: Vec<_> = (1..100).map(|port| ("203.0.113.1:1".to_owned(), format!("198.51.100.7:{port}"))).collect();
        let seen: Vec<_> = seen.iter().map(|(addr, observed)| (addr.as_str(), observed.as_str())).collect();
        assert_eq!(candidates(answers(&seen).iter(), &[]).len(), MAX_OBSERVED);
    }
}
