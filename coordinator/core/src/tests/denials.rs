//! The same denial again and again: always answered, recorded once in a while with how many it was.

use std::time::Duration;

use postern_model::{DenyReason, ResourceId, audit::AuditEvent};

use super::office::{Office, office};
use crate::{Command, NewPolicy, Touched, denials::COUNTED};

const NOTHING: ResourceId = ResourceId::from_bytes([0; 16]);

/// Of each denial recorded since the shell last forgot: why, and how many it stands for.
fn recorded(office: &Office) -> Vec<(&str, &str)> {
    let detail = |event: &'static str| move |(name, _): &&(String, String)| name == event;
    let denials = office.shell.audit.iter().filter(|event| event.action == "access.deny");
    let row = denials.map(|event| {
        let details = &event.details;
        let times = details.iter().find(detail("times")).map_or("1", |(_, times)| times);
        (details.iter().find(detail("why")).unwrap().1.as_str(), times)
    });
    row.collect()
}

fn ask(office: &mut Office, count: u32) {
    for _ in 0..count {
        assert_eq!(office.shell.ask_in_vain(office.laptop, NOTHING), DenyReason::UnknownResource);
    }
}

#[test]
fn the_same_denial_is_recorded_once_and_then_counted() {
    let mut office = office();
    ask(&mut office, 100);
    assert_eq!(recorded(&office), [("unknown_resource", "1")]);
    office.shell.wait(COUNTED - Duration::from_millis(1));
    ask(&mut office, 1);
    assert_eq!(recorded(&office).len(), 1);
    office.shell.wait(Duration::from_millis(1));
    assert_eq!(recorded(&office), [("unknown_resource", "1"), ("unknown_resource", "100")], "all are accounted for");
    ask(&mut office, 1);
    assert_eq!(recorded(&office).len(), 3, "it is news again");
}

#[test]
fn a_denial_that_is_not_repeated_leaves_nothing_to_do() {
    let mut office = office();
    ask(&mut office, 1);
    office.shell.wait(COUNTED);
    assert_eq!(recorded(&office).len(), 1);
    assert_eq!(office.shell.due_in(), None);
}

#[test]
fn another_reason_resource_or_device_is_another_denial() {
    let mut office = office();
    ask(&mut office, 2);
    let secret = office.shell.resource("secret", "hq");
    let other = office.shell.laptop("alice");
    office.shell.connect(other);
    for _ in 0..2 {
        office.shell.ask_in_vain(office.laptop, secret);
        office.shell.ask_in_vain(other, secret);
    }
    office.shell.suspend("alice");
    for _ in 0..2 {
        office.shell.ask_in_vain(office.laptop, secret);
    }
    let why: Vec<_> = recorded(&office).into_iter().map(|(why, _)| why).collect();
    assert_eq!(why, ["unknown_resource", "no_policy", "no_policy", "user_suspended"]);
}

#[test]
fn a_denial_that_could_not_be_recorded_is_not_taken_for_recorded() {
    let mut office = office();
    office.shell.disk_is_full = true;
    assert!(office.shell.ask(office.laptop, NOTHING).is_none());
    office.shell.disk_is_full = false;
    ask(&mut office, 3);
    assert_eq!(recorded(&office), [("unknown_resource", "1")]);

    office.shell.disk_is_full = true;
    office.shell.wait(2 * COUNTED);
    office.shell.disk_is_full = false;
    office.shell.wait(Duration::ZERO);
    assert_eq!(recorded(&office), [("unknown_resource", "1"), ("unknown_resource", "2")]);
}

/// What policies in shadow would have made of each denial is counted like the denials, also when that changes in between.
#[test]
fn shadows_of_denials_are_counted_as_often_as_those() {
    let mut office = office();
    let secret = office.shell.resource("secret", "hq");
    let shadow = |subject: &str| {
        let allow = NewPolicy::allow(subject.parse().unwrap(), "secret".parse().unwrap());
        Command::from(NewPolicy { shadow: true, ..allow })
    };
    let ask = |office: &mut Office, count: u32| {
        for _ in 0..count {
            office.shell.ask_in_vain(office.laptop, secret);
        }
    };
    ask(&mut office, 3);
    let Ok(Touched::Policy(first)) = office.shell.run(&shadow("user:alice")) else { panic!() };
    ask(&mut office, 4);
    let Ok(Touched::Policy(second)) = office.shell.run(&shadow("everyone")) else { panic!() };
    ask(&mut office, 5);
    office.shell.wait(COUNTED);
    assert_eq!(recorded(&office), [("no_policy", "1"), ("no_policy", "11")]);
    let noted: Vec<_> = office.shell.audit.iter().filter(|event| event.action == "shadow.would_allow").collect();
    let detail = |event: &AuditEvent, name: &str| {
        event.details.iter().find(|(it, _)| it == name).map(|(_, value)| value.clone()).unwrap_or_default()
    };
    let said: Vec<_> = noted.iter().map(|event| (detail(event, "policies"), detail(event, "times"))).collect();
    let (one, both) = (first.to_string(), format!("{first},{second}"));
    let expected = [(&one, ""), (&one, "3"), (&both, ""), (&both, "4")];
    assert_eq!(said, expected.map(|(policies, times)| (policies.clone(), times.to_owned())));
}

/// A shadow that could not make the difference is not said to.
#[test]
fn only_shadows_that_open_something_are_named() {
    let mut office = office();
    let secret = office.shell.resource("secret", "hq");
    for ports in ["tcp/22", "tcp/443"] {
        let allow = NewPolicy::allow("user:alice".parse().unwrap(), "secret".parse().unwrap());
        let policy = NewPolicy { ports: Some(ports.parse().unwrap()), shadow: true, ..allow };
        office.shell.run(&policy.into()).unwrap();
    }
    office.shell.forget();
    office.shell.ask_in_vain(office.laptop, secret);
    let state = office.shell.core.state();
    let opens = state.policies.values().find(|policy| policy.ports == Some("tcp/443".parse().unwrap())).unwrap().id;
    assert_eq!(office.shell.audit[1].details[0], ("policies".to_owned(), opens.to_string()));
}
