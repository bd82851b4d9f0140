//! Findings about the node itself and the machine that it runs on.

use super::{CoordinatorSays, Facts, Finding, error, warning};

/// A clock that is off by more than this, in seconds, is wrong: the coordinator's answer takes some of it.
const OFF: i64 = 30;
/// A certificate that has less than one in so many parts of its life left should have been renewed.
const LATE: i64 = 10;

pub(super) fn findings(facts: &Facts) -> Vec<Finding> {
    let found = [state(facts), version(facts), left_over(facts), certificate(facts), clock(facts), key(facts)];
    found.into_iter().flatten().collect()
}

fn state(facts: &Facts) -> Option<Finding> {
    let status = &facts.status;
    let problem = status.problem.as_deref();
    match (status.enrolled, status.running, status.up, status.connected) {
        (false, ..) => Some(error(
            problem.unwrap_or("this device is not enrolled"),
            "ask your admin for a join token and run 'postern up TOKEN'",
        )),
        (true, false, ..) => Some(error("the daemon is not running", "run 'postern up', or start the service")),
        (true, true, false, _) => Some(match problem {
            Some(problem) => error(format!("the node can't come up: {problem}"), "mend that, then run 'postern up'"),
            None => error("the node is down", "run 'postern up'"),
        }),
        (true, true, true, false) => Some(error(
            problem.unwrap_or("the coordinator is not connected"),
            "see below whether the network lets anything through; if it does, ask your admin whether the coordinator runs. \
             Grants in force go on to the end of their lease",
        )),
        (true, true, true, true) => {
            problem.map(|problem| warning(problem, "see the daemon's log for more, if this does not say what to do"))
        }
    }
}

fn version(facts: &Facts) -> Option<Finding> {
    let running = facts.status.version.as_ref().filter(|_| facts.status.running)?;
    (*running != facts.version).then(|| {
        warning(
            format!("the daemon that runs is of version {running}, and this program of version {}", facts.version),
            "restart the daemon: 'systemctl restart postern', or 'postern down' and 'postern up'",
        )
    })
}

fn left_over(facts: &Facts) -> Option<Finding> {
    if facts.left_over.is_empty() {
        return None;
    }
    Some(error(
        format!("a daemon that ended without a word has left changes on this machine: {}", facts.left_over.join(", ")),
        "run 'postern down', which sets them back, or 'postern up'",
    ))
}

fn certificate(facts: &Facts) -> Option<Finding> {
    let (begins, ends) = facts.certificate?;
    if facts.now >= ends {
        return Some(error(
            "the device certificate has run out, or this machine's clock is ahead",
            "look at the clock; if it is right, this device was away for too long: ask your admin for a new join token, then \
             run 'postern logout' and 'postern up TOKEN'",
        ));
    }
    if facts.now + OFF < begins {
        return Some(error(
            "the device certificate does not hold yet, so this machine's clock is behind",
            "set the clock: 'timedatectl set-ntp true'",
        ));
    }
    ((ends - facts.now) * LATE < ends - begins).then(|| {
        warning(
            format!("the device certificate ends in {} minutes, and should have been renewed", (ends - facts.now) / 60),
            "keep the node up and connected; it renews the certificate by itself",
        )
    })
}

fn clock(facts: &Facts) -> Option<Finding> {
    let CoordinatorSays::Time(theirs) = facts.coordinator else { return None };
    let off = facts.now - theirs;
    (off.abs() > OFF).then(|| {
        let (by, how) = (off.abs(), if off > 0 { "ahead of" } else { "behind" });
        warning(
            format!("this machine's clock is {by} s {how} the coordinator's"),
            "set the clock, on whichever of the two it is wrong: 'timedatectl set-ntp true'",
        )
    })
}

fn key(facts: &Facts) -> Option<Finding> {
    (facts.coordinator == CoordinatorSays::WrongKey).then(|| {
        error(
            "who answers at the coordinator's address holds another key than the pinned one",
            "if this network has a page to log in to, do that first; if it reads everybody's TLS, ask its admin to let the \
             coordinator through; if the coordinator was set up anew, ask your admin for a new join token",
        )
    })
}

#[cfg(test)]
mod tests {
    use super::{super::Severity, *};
    use crate::local::protocol::Status;

    fn up() -> Status {
        Status { enrolled: true, running: true, up: true, connected: true, ..Status::default() }
    }

    fn found(facts: &Facts) -> Vec<(Severity, String)> {
        findings(facts).into_iter().map(|finding| (finding.severity, finding.what)).collect()
    }

    fn only(facts: &Facts) -> (Severity, String) {
        let found = found(facts);
        let [one] = &found[..] else { panic!("{found:?}") };
        one.clone()
    }

    #[test]
    fn each_state_of_the_node_is_told() {
        for (status, expected) in [
            (Status::default(), "not enrolled"),
            (Status { enrolled: true, ..Status::default() }, "the daemon is not running"),
            (Status { up: false, ..up() }, "the node is down"),
            (Status { up: false, problem: Some("no TUN".into()), ..up() }, "the node can't come up: no TUN"),
            (Status { connected: false, ..up() }, "not connected"),
        ] {
            let (severity, what) = only(&Facts { status, ..Facts::default() });
            assert!(severity == Severity::Error && what.contains(expected), "{what}");
        }
        let status = Status { problem: Some("the firewall drops it".into()), ..up() };
        assert_eq!(only(&Facts { status, ..Facts::default() }), (Severity::Warning, "the firewall drops it".into()));
    }

    #[test]
    fn an_old_daemon_and_what_a_dead_one_left_are_told() {
        let status = Status { version: Some("1.0.0".into()), ..up() };
        let facts = Facts { version: "1.1.0".into(), status, ..Facts::default() };
        assert!(only(&facts).1.contains("version 1.0.0"));
        let facts = Facts { left_over: vec!["/etc/resolv.conf".into()], status: up(), ..Facts::default() };
        assert_eq!(only(&facts).0, Severity::Error);
        assert!(only(&facts).1.contains("/etc/resolv.conf"));
    }

    #[test]
    fn certificates_that_end_have_ended_or_have_not_begun_are_told() {
        let at = |now| Facts { now, certificate: Some((1_000_000, 2_000_000)), status: up(), ..Facts::default() };
        assert_eq!(found(&at(1_500_000)), []);
        assert_eq!(only(&at(1_999_000)).0, Severity::Warning);
        assert!(only(&at(2_000_000)).1.contains("has run out"));
        assert!(only(&at(900_000)).1.contains("clock is behind"));
    }

    #[test]
    fn a_clock_that_is_off_and_another_key_are_told() {
        let with = |coordinator| Facts { now: 1_000_000, coordinator, status: up(), ..Facts::default() };
        assert_eq!(found(&with(CoordinatorSays::Time(1_000_020))), []);
        assert!(only(&with(CoordinatorSays::Time(1_000_090))).1.contains("90 s behind"));
        assert!(only(&with(CoordinatorSays::Time(999_000))).1.contains("1000 s ahead"));
        assert_eq!(only(&with(CoordinatorSays::WrongKey)).0, Severity::Error);
    }
}
