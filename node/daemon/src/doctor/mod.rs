//! `postern doctor`: what is wrong on this machine or in its network, and what to do about it.
//!
//! - `collect`: looks around and makes [`Facts`]; changes nothing
//! - [`findings`]: what follows from them. Pure, so that each can be tested on facts that are made up
//! - `network`, `machine`: the findings, by what they are about

mod collect;
mod machine;
mod network;

use std::net::IpAddr;

use postern_model::{Fqdn, OverlayAddr};
use serde::Serialize;

use crate::{local::protocol::Status, netcheck, os::routes::Route};

pub use collect::collect;

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// Something does not work.
    Error,
    /// Something works worse than it could, or soon will not.
    Warning,
    /// Good to know.
    Note,
}

/// Something that was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// What is so.
    pub what: String,
    /// What to do about it.
    pub to_do: String,
}

fn error(what: impl Into<String>, to_do: impl Into<String>) -> Finding {
    Finding { severity: Severity::Error, what: what.into(), to_do: to_do.into() }
}

fn warning(what: impl Into<String>, to_do: impl Into<String>) -> Finding {
    Finding { severity: Severity::Warning, what: what.into(), to_do: to_do.into() }
}

fn note(what: impl Into<String>, to_do: impl Into<String>) -> Finding {
    Finding { severity: Severity::Note, what: what.into(), to_do: to_do.into() }
}

/// What is so on this machine. What could not be found out is `None` or empty, and nothing follows from it.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    /// The command line's version.
    pub version: String,
    /// How the node is; its own problem is in there.
    pub status: Status,
    /// Seconds since the Unix epoch by this machine's clock.
    pub now: i64,
    /// From when to when the device certificate holds, in seconds since the Unix epoch.
    pub certificate: Option<(i64, i64)>,
    /// What the coordinator says about the time.
    pub coordinator: CoordinatorSays,
    /// Changes of the machine that a daemon made which does not run any more.
    pub left_over: Vec<String>,
    /// A resource's name, its addresses, and what the machine's resolver says.
    pub name: Option<(Fqdn, OverlayAddr, Resolved)>,
    /// A name of the zone that nobody has, and what the machine's resolver says.
    pub made_up: Option<(Fqdn, Resolved)>,
    /// The machine's routes.
    pub routes: Vec<Route>,
    /// Interfaces that are other tunnels, up or not.
    pub tunnels: Vec<String>,
    /// What in the firewall drops what comes to the WireGuard port.
    pub closed: Option<String>,
    /// What the network lets through.
    pub network: Option<netcheck::Report>,
}

/// What came of asking the coordinator by HTTPS.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum CoordinatorSays {
    /// Nobody could be asked.
    #[default]
    Nothing,
    /// What its clock shows, in seconds since the Unix epoch.
    Time(i64),
    /// Somebody else answered.
    WrongKey,
}

/// What a resolver says of a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Resolved {
    /// These addresses; none is "there is no such name".
    To(Vec<IpAddr>),
    /// No answer that helps.
    Failed(String),
}

/// All that is wrong, the worst first.
pub fn findings(facts: &Facts) -> Vec<Finding> {
    let mut findings = machine::findings(facts);
    findings.extend(network::findings(facts));
    findings.sort_by_key(|finding| finding.severity);
    findings
}

/// Whether something does not work.
pub fn is_ill(findings: &[Finding]) -> bool {
    findings.iter().any(|finding| finding.severity == Severity::Error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_healthy_node_has_no_findings() {
        let status = Status {
            enrolled: true,
            running: true,
            up: true,
            connected: true,
            version: Some("1.0.0".into()),
            ..Status::default()
        };
        let facts = Facts { version: "1.0.0".into(), status, ..Facts::default() };
        assert_eq!(findings(&facts), []);
    }

    #[test]
    fn the_worst_comes_first_and_only_errors_count_as_ill() {
        let facts = Facts { tunnels: vec!["wg0".into()], version: "1".into(), ..Facts::default() };
        let found = findings(&facts);
        assert!(is_ill(&found) && found[0].severity == Severity::Error, "{found:?}");
        assert!(!is_ill(&[note("", ""), warning("", "")]));
    }
}
