//! STUN questions from fresh sockets, and whether the NAT leads back in what is for its own outer address.

use std::{
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use postern_dataplane::clock;
use tokio::{
    net::UdpSocket,
    time::{sleep, timeout},
};

use crate::reach::{Answer, Questions, Server};

/// When questions are asked, and asked again: pauses after each.
const PAUSES: [Duration; 4] =
    [Duration::from_millis(250), Duration::from_millis(500), Duration::from_millis(750), Duration::from_millis(500)];
/// How long what was sent to oneself may take.
const HAIRPIN: Duration = Duration::from_millis(500);
/// The longest answer that is read.
const MAX_ANSWER: usize = 1500;

/// Who was asked, and what they said.
#[derive(Debug, Default)]
pub(super) struct Measured {
    pub(super) asked: Vec<SocketAddr>,
    /// The best answer of each.
    pub(super) answers: Vec<Answer>,
    pub(super) hairpin: Option<bool>,
}

/// Asks all of them, both families at once.
pub(super) async fn measure(servers: Vec<(Server, SocketAddr)>) -> Measured {
    let asked = servers.iter().map(|(_, addr)| *addr).collect();
    let (v6, v4): (Vec<_>, Vec<_>) = servers.into_iter().partition(|(_, addr)| addr.is_ipv6());
    let sockets = (socket(false).await, socket(true).await);
    let ask = async |socket: Option<&UdpSocket>, servers: &[(Server, SocketAddr)]| match socket {
        Some(socket) if !servers.is_empty() => ask_all(socket, servers).await,
        _ => Vec::new(),
    };
    let (mut answers, of_v6) = tokio::join!(ask(sockets.0.as_ref(), &v4), ask(sockets.1.as_ref(), &v6));
    let hairpin = match (&sockets.0, answers.first()) {
        (Some(socket), Some(answer)) => hairpin(socket, answer).await,
        _ => None,
    };
    answers.extend(of_v6);
    Measured { asked, answers, hairpin }
}

async fn socket(is_v6: bool) -> Option<UdpSocket> {
    let any: SocketAddr = if is_v6 { (Ipv6Addr::UNSPECIFIED, 0).into() } else { (Ipv4Addr::UNSPECIFIED, 0).into() };
    UdpSocket::bind(any).await.ok()
}

async fn ask_all(socket: &UdpSocket, servers: &[(Server, SocketAddr)]) -> Vec<Answer> {
    let mut questions = Questions::default();
    let mut answers: Vec<Answer> = Vec::new();
    for pause in PAUSES {
        let silent = servers.iter().filter(|(_, addr)| answers.iter().all(|answer| answer.addr != *addr));
        for (server, addr) in silent {
            let mut random = [0; 12];
            if getrandom::fill(&mut random).is_ok() {
                // Where there is no way to some of them there may be one to others.
                let _ = socket.send_to(&questions.ask(*server, *addr, random, clock::now()), addr).await;
            }
        }
        let mut over = std::pin::pin!(sleep(pause));
        while answers.len() < servers.len() {
            let mut buffer = [0; MAX_ANSWER];
            tokio::select! {
                () = &mut over => break,
                Ok((len, from)) = socket.recv_from(&mut buffer) => {
                    let answer = questions.answered(from, &buffer[..len], clock::now());
                    answers.extend(answer.filter(|answer| answers.iter().all(|other| other.addr != answer.addr)));
                }
            }
        }
    }
    answers
}

/// Sends from another socket to where this one is seen, after this one has sent there, so that no filter is in the way.
async fn hairpin(socket: &UdpSocket, answer: &Answer) -> Option<bool> {
    if socket.local_addr().ok()?.port() == answer.observed.port()
        && crate::os::nat64::source_towards(answer.addr.ip()) == Some(answer.observed.ip())
    {
        // There is no NAT.
        return None;
    }
    let other = self::socket(false).await?;
    let seen = ask_all(&other, &[(answer.server, answer.addr)]).await.first()?.observed;
    let mut word = [0; 16];
    getrandom::fill(&mut word).ok()?;
    let exchange = async {
        for _ in 0..3 {
            socket.send_to(&word, seen).await.ok()?;
            other.send_to(&word, answer.observed).await.ok()?;
        }
        let mut buffer = [0; MAX_ANSWER];
        loop {
            let (len, _) = socket.recv_from(&mut buffer).await.ok()?;
            if buffer[..len] == word {
                return Some(());
            }
        }
    };
    Some(matches!(timeout(HAIRPIN, exchange).await, Ok(Some(()))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use postern_wire::stun;

    #[tokio::test]
    async fn whoever_answers_is_heard_and_whoever_does_not_is_not() {
        let [server, silent] = [socket(false).await.unwrap(), socket(false).await.unwrap()];
        let at = |socket: &UdpSocket| SocketAddr::from((Ipv4Addr::LOCALHOST, socket.local_addr().unwrap().port()));
        let servers = vec![(Server::Coordinator, at(&server)), (Server::Coordinator, at(&silent))];
        let answer = async {
            let mut buffer = [0; MAX_ANSWER];
            loop {
                let (len, from) = server.recv_from(&mut buffer).await.unwrap();
                let answer = stun::answer(&buffer[..len], from).unwrap();
                // From elsewhere it counts for nothing.
                silent.send_to(&answer, from).await.unwrap();
                server.send_to(&answer, from).await.unwrap();
            }
        };
        let measured = tokio::select! {
            measured = measure(servers.clone()) => measured,
            () = answer => unreachable!(),
        };
        assert_eq!(measured.asked.len(), 2);
        let [answer] = &measured.answers[..] else { panic!("{measured:?}") };
        assert_eq!(answer.addr, servers[0].1);
        assert!(answer.observed.ip().is_loopback());
    }
}
