//! `postern netcheck`: what the network that this machine is in lets through, and what a node makes of it.
//!
//! The daemon looks when it runs, since it knows the relays and has the environment that counts; otherwise the command line does, as
//! far as the identity says whom to ask. Questions go out from fresh sockets, so that no tunnel is disturbed. [`Report`] says what
//! could not be found out, and why.
//!
//! - `measure`: STUN from fresh sockets; [`run`] puts it together with TCP and what a running node knows

mod measure;

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use postern_encap::{client, proxy::Proxies};
use postern_model::{Sha256, token::HostPort};
use serde::{Deserialize, Serialize};

use self::measure::Measured;
use crate::{
    control::Transport,
    os::{candidates, nat64},
    reach::{self, Nat, PortMapping, ReachStatus, Server, is_private},
    state_dir::Identity,
};

/// How long TCP and TLS may take together.
const TCP: Duration = Duration::from_secs(4);

/// What is known ahead.
#[derive(Debug, Default)]
pub struct Known {
    /// The coordinator, and the digest of its key.
    pub coordinator: Option<(HostPort, Sha256)>,
    /// What the running node knows.
    pub reach: Option<ReachStatus>,
    /// What carries its session.
    pub transport: Option<Transport>,
}

impl Known {
    /// What an identity alone says: the node is down.
    pub fn of(identity: Option<&Identity>) -> Self {
        let coordinator = identity.map(|identity| (identity.coordinator.clone(), identity.pin));
        Self { coordinator, reach: None, transport: None }
    }
}

/// How TCP to the coordinator is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum Tcp {
    /// It leads to the coordinator.
    Open,
    /// Somebody else answers in its place: a captive portal, or somebody who reads TLS.
    Intercepted,
    /// It does not get through.
    Blocked {
        /// What happened.
        why: String,
    },
}

/// A relay, and how far it is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RelayTime {
    /// Its name.
    pub name: String,
    /// Where it is.
    pub address: HostPort,
    /// How long a question to it took just now, in milliseconds, if it was answered by UDP.
    pub round_trip_ms: Option<f64>,
    /// Whether the node waits for peers there.
    pub is_home: bool,
}

/// What was found out. What is `None` could not be, and `unknown` says why.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Report {
    /// Whether UDP gets through to coordinator or relays, and back.
    pub udp: Option<bool>,
    /// The same over IPv4 alone.
    pub ipv4: Option<bool>,
    /// The same over IPv6 alone; `None` also where no server has an IPv6 address.
    pub ipv6: Option<bool>,
    /// Whether this network has only IPv6, and translates.
    pub nat64: bool,
    /// At which addresses servers saw the questions come.
    pub observed: Vec<SocketAddr>,
    /// By which kind of NAT, for IPv4.
    pub nat: Nat,
    /// Whether the NAT leads what is for its own outer address back in.
    pub hairpin: Option<bool>,
    /// What became of asking the router for a port.
    pub port_mapping: Option<PortMapping>,
    /// The relays of the network, the nearest first.
    pub relays: Vec<RelayTime>,
    /// Which proxy the environment names for the coordinator, without its password.
    pub proxy: Option<String>,
    /// How TCP to the coordinator is, through the proxy if there is one.
    pub tcp: Option<Tcp>,
    /// What carries the session with the coordinator now.
    pub transport: Option<Transport>,
    /// What could not be found out, and why.
    pub unknown: Vec<String>,
}

/// Looks. Takes some seconds.
pub async fn run(known: Known) -> Report {
    let Known { coordinator, reach, transport } = known;
    let mut report = Report { transport, ..Report::default() };
    let relays = reach.as_ref().map(|reach| reach.relays.clone()).unwrap_or_default();
    match (&coordinator, &reach) {
        (None, _) => report.unknown.push("this device is not enrolled, so that there is nobody to ask".into()),
        (Some(_), None) => report.unknown.push(
            "the node is down: which relays there are, and whether the router maps ports, is known when it is up"
                .into(),
        ),
        _ => {}
    }
    report.port_mapping = reach.map(|reach| reach.port_mapping);
    let of_relays = relays.iter().map(|relay| (Server::Relay(relay.id), relay.address.clone()));
    let of_coordinator = coordinator.iter().map(|(at, _)| (Server::Coordinator, at.clone()));
    let servers = reach::addresses(of_relays.chain(of_coordinator).collect()).await;
    let tcp = async {
        match &coordinator {
            Some((at, pin)) => Some(tcp(at, *pin).await),
            None => None,
        }
    };
    let (measured, tcp, nat64) = tokio::join!(measure::measure(servers), tcp, nat64::find());
    report.nat64 = nat64.is_some();
    if let Some((tcp, proxy)) = tcp {
        (report.tcp, report.proxy) = (Some(tcp), proxy);
    }
    let own = candidates::candidates(0, "").await.unwrap_or_default();
    let own: Vec<_> = own.into_iter().map(|candidate| candidate.addr.ip()).collect();
    fill(&mut report, &measured, &own);
    for relay in relays {
        let answers = measured.answers.iter().filter(|answer| match answer.server {
            Server::Relay(id) => id == relay.id,
            // The coordinator has a relay at its own address.
            Server::Coordinator => coordinator.as_ref().is_some_and(|(at, _)| *at == relay.address),
        });
        let time = answers.map(|answer| answer.round_trip).min();
        report.relays.push(RelayTime {
            name: relay.name,
            address: relay.address,
            round_trip_ms: time.map(|time| time.as_secs_f64() * 1000.0),
            is_home: relay.is_home,
        });
    }
    report.relays.sort_by(|a, b| {
        let [a, b] = [a, b].map(|relay| relay.round_trip_ms.unwrap_or(f64::INFINITY));
        a.total_cmp(&b)
    });
    report
}

/// What the answers show.
fn fill(report: &mut Report, measured: &Measured, own: &[IpAddr]) {
    let asked =
        |is_v6: Option<bool>| measured.asked.iter().any(|addr| is_v6.is_none_or(|is_v6| addr.is_ipv6() == is_v6));
    let answered = |is_v6: Option<bool>| {
        measured.answers.iter().any(|answer| is_v6.is_none_or(|is_v6| answer.addr.is_ipv6() == is_v6))
    };
    let verdict = |is_v6| asked(is_v6).then(|| answered(is_v6));
    (report.udp, report.ipv4, report.ipv6) = (verdict(None), verdict(Some(false)), verdict(Some(true)));
    report.observed = measured.answers.iter().map(|answer| answer.observed).collect();
    report.observed.sort_unstable();
    report.observed.dedup();
    report.nat = reach::nat(measured.answers.iter(), own, false);
    report.hairpin = measured.hairpin;
    if report.udp.is_some() && report.ipv6.is_none() {
        report.unknown.push("IPv6: neither the coordinator nor a relay has an IPv6 address".into());
    }
    if report.nat == Nat::SomeKind {
        report.unknown.push("the kind of NAT: it takes a second server to tell, such as another relay".into());
    }
    if report.nat == Nat::None && own.iter().filter(|ip| ip.is_ipv4()).all(|ip| is_private(*ip)) {
        report.unknown.push("whether there is NAT further on: the servers are in the same private network".into());
    }
}

/// Whether TCP leads to the coordinator, and through which proxy it was tried.
async fn tcp(at: &HostPort, pin: Sha256) -> (Tcp, Option<String>) {
    let proxies = match Proxies::from_env() {
        Ok(proxies) => proxies,
        Err(error) => return (Tcp::Blocked { why: error.to_string() }, None),
    };
    let proxy = proxies.toward(at);
    let connect = async {
        if let Some(proxy) = proxy {
            return client::connect_through(proxy, at, pin).await.map(drop).map_err(|error| judge(&error));
        }
        let blocked = |why: String| Tcp::Blocked { why };
        let found = nat64::addresses(at).await.map_err(|error| blocked(format!("{error:#}")))?;
        let mut last = blocked("its name has no address".into());
        for addr in found {
            match client::connect(addr, pin).await {
                Ok(_) => return Ok(()),
                Err(error) => last = judge(&error),
            }
        }
        Err(last)
    };
    let tcp = match tokio::time::timeout(TCP, connect).await {
        Ok(Ok(())) => Tcp::Open,
        Ok(Err(tcp)) => tcp,
        Err(_) => Tcp::Blocked { why: "no answer came in time".into() },
    };
    (tcp, proxy.map(ToString::to_string))
}

fn judge(error: &client::ConnectError) -> Tcp {
    if error.is_wrong_pin() { Tcp::Intercepted } else { Tcp::Blocked { why: error.to_string() } }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reach::Answer;

    fn measured(seen: &[(&str, Option<&str>)]) -> Measured {
        let asked = seen.iter().map(|(addr, _)| addr.parse().unwrap()).collect();
        let answer = |(addr, observed): &(&str, Option<&str>)| {
            Some(Answer {
                server: Server::Coordinator,
                addr: addr.parse().unwrap(),
                observed: (*observed)?.parse().unwrap(),
                round_trip: Duration::from_millis(20),
                at: postern_model::Moment::default(),
            })
        };
        Measured { asked, answers: seen.iter().filter_map(answer).collect(), hairpin: None }
    }

    fn report(seen: &[(&str, Option<&str>)], own: &[&str]) -> Report {
        let mut report = Report::default();
        let own: Vec<_> = own.iter().map(|ip| ip.parse().unwrap()).collect();
        fill(&mut report, &measured(seen), &own);
        report
    }

    #[test]
    fn silence_is_udp_blocked_and_nobody_to_ask_is_unknown() {
        let silent = report(&[("203.0.113.1:8443", None)], &["192.168.1.7"]);
        assert_eq!((silent.udp, silent.ipv4, silent.ipv6), (Some(false), Some(false), None));
        assert_eq!(silent.nat, Nat::Unknown);
        assert!(silent.unknown[0].starts_with("IPv6:"), "{:?}", silent.unknown);
        let nobody = report(&[], &["192.168.1.7"]);
        assert_eq!((nobody.udp, nobody.ipv4, nobody.ipv6), (None, None, None));
    }

    #[test]
    fn answers_tell_families_addresses_and_nat() {
        let seen = [
            ("203.0.113.1:8443", Some("198.51.100.7:4000")),
            ("203.0.113.2:8443", Some("198.51.100.7:4000")),
            ("[2001:db8::1]:8443", None),
        ];
        let report = report(&seen, &["192.168.1.7"]);
        assert_eq!((report.udp, report.ipv4, report.ipv6), (Some(true), Some(true), Some(false)));
        assert_eq!(report.nat, Nat::EndpointIndependent);
        assert_eq!(report.observed, ["198.51.100.7:4000".parse().unwrap()]);
        assert_eq!(report.unknown, Vec::<String>::new());
    }

    #[test]
    fn one_server_does_not_tell_the_kind_of_nat() {
        let report = report(&[("203.0.113.1:8443", Some("198.51.100.7:4000"))], &["192.168.1.7"]);
        assert!(report.nat == Nat::SomeKind && report.unknown.iter().any(|why| why.contains("second server")));
    }
}
