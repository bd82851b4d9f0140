//! What `postern netcheck` and `postern doctor` print for people.

use crate::{
    doctor::{Finding, Severity},
    netcheck::{Report, Tcp},
    reach::{Nat, PortMapping},
};

pub(super) fn netcheck(report: &Report) -> String {
    let mut lines = Vec::new();
    let mut line = |what: &str, value: String| lines.push(format!("{what:<13} {value}"));
    let passes = |verdict: Option<bool>| match verdict {
        Some(true) => "gets through",
        Some(false) => "does not get through",
        None => "unknown",
    };
    line("UDP", passes(report.udp).into());
    line("IPv4", passes(report.ipv4).into());
    let nat64 = if report.nat64 { ", and this network translates IPv4 (NAT64)" } else { "" };
    line("IPv6", format!("{}{nat64}", passes(report.ipv6)));
    for addr in &report.observed {
        line("Seen as", addr.to_string());
    }
    let nat = match report.nat {
        Nat::None => "none: one of this machine's addresses is seen",
        Nat::EndpointIndependent => "the same address for all destinations; peers can reach this machine directly",
        Nat::Symmetric => "symmetric: another port for each destination, so that some peers are reached through relays",
        Nat::SomeKind => "yes, of a kind that is not known",
        Nat::Unknown => "unknown",
    };
    line("NAT", nat.into());
    if let Some(hairpin) = report.hairpin {
        line("Hairpin", if hairpin { "leads back in" } else { "does not lead back in" }.into());
    }
    match report.port_mapping {
        Some(PortMapping::NotNeeded) => line("Port mapping", "not asked for: no NAT, or none that is known yet".into()),
        Some(PortMapping::Asking) => line("Port mapping", "the router is being asked".into()),
        Some(PortMapping::Mapped { protocol, addr }) => line("Port mapping", format!("{addr}, by {protocol}")),
        Some(PortMapping::Unavailable) => {
            line("Port mapping", "not available: the router answers neither PCP, NAT-PMP nor UPnP".into());
        }
        None => {}
    }
    match &report.tcp {
        Some(Tcp::Open) => line("TCP", "leads to the coordinator".into()),
        Some(Tcp::Intercepted) => line("TCP", "somebody else answers in the coordinator's place".into()),
        Some(Tcp::Blocked { why }) => line("TCP", format!("does not get through: {why}")),
        None => {}
    }
    if let Some(proxy) = &report.proxy {
        line("Proxy", proxy.clone());
    }
    if let Some(transport) = report.transport {
        line("Session", format!("over {transport}"));
    }
    for relay in &report.relays {
        let time = relay.round_trip_ms.map_or_else(|| "no answer by UDP".to_owned(), |time| format!("{time:.1} ms"));
        let home = if relay.is_home { ", this node's" } else { "" };
        line("Relay", format!("{} at {}, {time}{home}", relay.name, relay.address));
    }
    for unknown in &report.unknown {
        line("Not known", unknown.clone());
    }
    lines.join("\n")
}

pub(super) fn doctor(findings: &[Finding]) -> String {
    if findings.is_empty() {
        return "Nothing is wrong, as far as can be seen from here.".into();
    }
    let show = |finding: &Finding| {
        let severity = match finding.severity {
            Severity::Error => "Error",
            Severity::Warning => "Warning",
            Severity::Note => "Note",
        };
        format!("{severity}: {}\n    {}", finding.what, finding.to_do)
    };
    findings.iter().map(show).collect::<Vec<_>>().join("\n")
}
