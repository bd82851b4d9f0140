//! STUN questions that are out, and what the answers show: from where this node is seen, and how far the server is. Pure.
//!
//! An answer counts only if it comes from where was asked, and bears the random number of a question: nobody off the way can
//! make one up. Whoever is on the way can, and gains that this node tells peers of an address at which nobody answers.

use std::{collections::HashMap, net::SocketAddr, time::Duration};

use postern_model::{Moment, RelayId};
use postern_wire::stun::{self, Transaction};

/// Questions that may be out at once.
const MAX_ASKED: usize = 512;
/// Until when an answer counts.
const PATIENCE: Duration = Duration::from_secs(5);

/// Who is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Server {
    /// The coordinator.
    Coordinator,
    /// A relay.
    Relay(RelayId),
}

/// What an answer shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Answer {
    /// Who answered.
    pub(crate) server: Server,
    /// At which address.
    pub(crate) addr: SocketAddr,
    /// From which address it sees this node.
    pub(crate) observed: SocketAddr,
    /// How long it took.
    pub(crate) round_trip: Duration,
    /// When it came.
    pub(crate) at: Moment,
}

#[derive(Debug)]
struct Asked {
    server: Server,
    addr: SocketAddr,
    at: Moment,
}

/// The questions that are out.
#[derive(Debug, Default)]
pub(crate) struct Questions(HashMap<[u8; 12], Asked>);

impl Questions {
    /// A question for a server; it is to go to this address at once. `random` comes from the system's source.
    pub(crate) fn ask(&mut self, server: Server, addr: SocketAddr, random: [u8; 12], now: Moment) -> Vec<u8> {
        self.0.retain(|_, asked| now.since(asked.at) < PATIENCE);
        if self.0.len() < MAX_ASKED {
            self.0.insert(random, Asked { server, addr, at: now });
        }
        stun::request(Transaction::new(random))
    }

    /// What came from an address, if it answers a question; each is answered once.
    pub(crate) fn answered(&mut self, from: SocketAddr, datagram: &[u8], now: Moment) -> Option<Answer> {
        let random: [u8; 12] = datagram.get(8..20)?.try_into().ok()?;
        let Asked { server, addr, at } = self.0.get(&random)?;
        if canonical(from) != *addr || now.since(*at) >= PATIENCE {
            return None;
        }
        let observed = canonical(stun::mapped_address(datagram, Transaction::new(random))?);
        let answer = Answer { server: *server, addr: *addr, observed, round_trip: now.since(*at), at: now };
        self.0.remove(&random);
        Some(answer)
    }
}

/// A socket for both families shows IPv4 addresses inside IPv6 ones, and scopes mean nothing to others.
fn canonical(addr: SocketAddr) -> SocketAddr {
    SocketAddr::new(addr.ip().to_canonical(), addr.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::new(203, 0, 113, 10)), 8443);

    fn moment(millis: u64) -> Moment {
        Moment::from_boot(Duration::from_millis(millis))
    }

    #[test]
    fn an_answer_says_who_where_and_how_far() {
        let mut questions = Questions::default();
        let request = questions.ask(Server::Coordinator, AT, [1; 12], moment(0));
        let seen = "198.51.100.7:4000".parse().unwrap();
        let answer = stun::answer(&request, seen).unwrap();
        let (server, addr, round_trip) = (Server::Coordinator, AT, Duration::from_millis(30));
        let expected = Answer { server, addr, observed: seen, round_trip, at: moment(30) };
        assert_eq!(questions.answered(AT, &answer, moment(30)), Some(expected));
        assert_eq!(questions.answered(AT, &answer, moment(31)), None, "once");
    }

    #[test]
    fn what_nobody_asked_for_comes_from_elsewhere_or_too_late_is_no_answer() {
        let mut questions = Questions::default();
        let request = questions.ask(Server::Coordinator, AT, [1; 12], moment(0));
        let seen = "198.51.100.7:4000".parse().unwrap();
        let answer = stun::answer(&request, seen).unwrap();
        let strange = stun::answer(&stun::request(Transaction::new([2; 12])), seen).unwrap();
        assert_eq!(questions.answered(AT, &strange, moment(1)), None);
        assert_eq!(questions.answered("203.0.113.66:8443".parse().unwrap(), &answer, moment(1)), None);
        assert_eq!(questions.answered(AT, &request, moment(1)), None, "its own question, sent back");
        assert_eq!(questions.answered(AT, &answer[..10], moment(1)), None);
        assert_eq!(questions.answered(AT, &answer, moment(5_000)), None);
        // What was refused did not use the question up.
        assert!(questions.answered(AT, &answer, moment(2)).is_some());
    }

    #[test]
    fn questions_that_nobody_answers_are_forgotten_and_bounded() {
        let mut questions = Questions::default();
        for number in 0..10_000_u32 {
            let mut random = [0; 12];
            random[..4].copy_from_slice(&number.to_be_bytes());
            questions.ask(Server::Coordinator, AT, random, moment(0));
        }
        assert_eq!(questions.0.len(), MAX_ASKED);
        questions.ask(Server::Coordinator, AT, [9; 12], moment(5_000));
        assert_eq!(questions.0.len(), 1);
    }
}
