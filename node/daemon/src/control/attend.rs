//! Looks after a connection while it is in use: whether it still leads to the other end when the network changes, or when
//! nothing comes in answer to what is sent, and whether one over TCP can be exchanged for one by UDP, which is quicker and needs no proxy.

use std::{net::SocketAddr, time::Duration};

use anyhow::Result;
use postern_wire::stun::{self, Transaction};
use tokio::{
    net::UdpSocket,
    sync::{Notify, watch},
    task::JoinSet,
    time::{sleep, timeout},
};

use super::connect::{Connected, Transport, Way};

/// How long the other end has to answer after the network has changed.
const PROOF: Duration = Duration::from_secs(2);
/// How long it has when it has been silent for a while already,
const LAST_PROOF: Duration = Duration::from_secs(1);
/// which is this long with something sent meanwhile. A connection sends something every few seconds, and gets it acknowledged.
const SILENCE: Duration = Duration::from_secs(4);
/// The same while something is sent for others, of which somebody tells.
const BUSY_SILENCE: Duration = Duration::from_millis(700);
/// How often it is looked whether it has.
const LOOK: Duration = Duration::from_millis(50);
/// Between two looks whether UDP gets through, and until the first: that TCP won may have been chance.
const ROUND: Duration = Duration::from_secs(30);
const FIRST_ROUND: Duration = Duration::from_secs(5);
/// The longest pause when UDP gets through and yet no connection comes about: some networks let only short datagrams pass.
const LONGEST_ROUND: Duration = Duration::from_secs(600);
/// How often it is asked, and how long an answer may take.
const ASKED: u32 = 3;
const ANSWER: Duration = Duration::from_millis(500);

/// Why a session is to be made anew.
pub(crate) enum Anew {
    /// Nothing comes from the other end any more, for this reason as far as is known.
    Lost(&'static str),
    /// There is a connection by UDP.
    Better(Box<Connected>),
}

/// Returns when the session is to be made anew. `changes` says that the network changed, `busy` that something is
/// sent for others.
pub(crate) async fn attend(connected: &Connected, way: &Way, changes: &mut watch::Receiver<()>, busy: &Notify) -> Anew {
    let (mut wait, mut next) = (FIRST_ROUND, ROUND);
    loop {
        let is_change = tokio::select! {
            () = changed(changes) => true,
            () = falls_silent(connected, busy) => return Anew::Lost("nothing comes in answer any more"),
            () = sleep(wait), if connected.transport != Transport::Udp => false,
        };
        if is_change {
            next = ROUND;
            if !is_there(connected, PROOF).await {
                return Anew::Lost("the network changed, and it is not reached as it was");
            }
        }
        if connected.transport == Transport::Udp {
            continue;
        }
        wait = next;
        if let Some(addr) = answering(way).await {
            match way.connect_to(addr).await {
                Ok(better) => return Anew::Better(Box::new(better)),
                Err(error) => {
                    tracing::debug!(error = format!("{error:#}"), "UDP gets through, but no connection by it");
                    next = (next * 2).min(LONGEST_ROUND);
                }
            }
        }
    }
}

/// Waits for the network's next change; for ever when nobody tells of any.
pub(crate) async fn changed(changes: &mut watch::Receiver<()>) {
    if changes.changed().await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// Returns when nothing comes any more in answer to what is sent.
async fn falls_silent(connected: &Connected, busy: &Notify) {
    loop {
        let mut before = (connected.sent(), connected.received());
        tokio::select! {
            () = busy.notified() => {
                before = (connected.sent(), connected.received());
                sleep(BUSY_SILENCE).await;
            }
            () = sleep(SILENCE) => {}
        }
        let is_silent = connected.received() == before.1 && connected.sent() > before.0;
        if is_silent && !is_there(connected, LAST_PROOF).await {
            return;
        }
    }
}

/// Whether the other end answers within that time.
async fn is_there(connected: &Connected, within: Duration) -> bool {
    let before = connected.received();
    connected.ping();
    let answered = async {
        while connected.received() == before {
            sleep(LOOK).await;
        }
    };
    timeout(within, answered).await.is_ok()
}

/// An address of the coordinator that answers by UDP.
async fn answering(way: &Way) -> Option<SocketAddr> {
    let mut asking = JoinSet::new();
    for addr in way.addresses().await.ok()? {
        asking.spawn(async move { ask(addr).await.is_ok_and(|is_answered| is_answered).then_some(addr) });
    }
    while let Some(asked) = asking.join_next().await {
        if let Ok(Some(addr)) = asked {
            return Some(addr);
        }
    }
    None
}

/// Asks by STUN from a socket of its own, so that no earlier packet has opened the way.
async fn ask(addr: SocketAddr) -> Result<bool> {
    let any = if addr.is_ipv6() { "[::]:0" } else { "0.0.0.0:0" };
    let socket = UdpSocket::bind(any).await?;
    socket.connect(addr).await?;
    let mut random = [0; 12];
    getrandom::fill(&mut random)?;
    let transaction = Transaction::new(random);
    let request = stun::request(transaction);
    let mut answer = [0; 512];
    for _ in 0..ASKED {
        // Refused in one moment, it may pass in the next.
        let _ = socket.send(&request).await;
        let answered = async {
            loop {
                match socket.recv(&mut answer).await {
                    Ok(len) if stun::mapped_address(&answer[..len], transaction).is_some() => break,
                    Ok(_) => {}
                    Err(_) => sleep(LOOK).await,
                }
            }
        };
        if timeout(ANSWER, answered).await.is_ok() {
            return Ok(true);
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_an_answer_to_what_was_asked_says_that_udp_gets_through() {
        let server = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let addr = server.local_addr().unwrap();
        let honest = async {
            let mut request = [0; 100];
            let (len, from) = server.recv_from(&mut request).await.unwrap();
            let wrong = stun::request(Transaction::new([1; 12]));
            server.send_to(&stun::answer(&wrong, from).unwrap(), from).await.unwrap();
            server.send_to(b"junk", from).await.unwrap();
            server.send_to(&stun::answer(&request[..len], from).unwrap(), from).await.unwrap();
        };
        let (asked, ()) = tokio::join!(ask(addr), honest);
        assert!(asked.unwrap());

        let lies = async {
            for _ in 0..ASKED {
                let (_, from) = server.recv_from(&mut [0; 100]).await.unwrap();
                let wrong = stun::request(Transaction::new([1; 12]));
                server.send_to(&stun::answer(&wrong, from).unwrap(), from).await.unwrap();
            }
        };
        let (asked, ()) = tokio::join!(ask(addr), lies);
        assert!(!asked.unwrap());
    }
}
