//! Whatever happens, in whatever order, with a disk that fails now and then: what must hold after each step.

use std::{collections::BTreeSet, time::Duration};

use postern_model::{
    Decision, DeviceId, Effect, Filter, Fqdn, GrantId, Posture, ResourceId, TagName, Target, Timestamp, audit::Actor,
    grant::Grant, record::Owner,
};
use postern_policy::{decide, visible};
use postern_wire::{AccessReply, CoordinatorMessage, Granted, NodeMessage};
use proptest::prelude::*;

use super::{
    office::tcp,
    removal::assert_whole,
    shell::{LEASE, START, Shell, Told, posture},
};
use crate::{Command, EnrolProof, NewPolicy, ResourceEdit, TokenOwner};

/// Numbers pick from what there is, by remainder; what they name may not be there.
#[derive(Debug, Clone)]
enum Step {
    Command(Command),
    RemovePolicy(usize),
    AllowDevice(usize, u8),
    RevokeDevice(usize),
    RemoveDevice(usize),
    Drain(usize, bool),
    Enrol(TokenOwner),
    EnrolAgain(usize),
    Connect(usize, u8),
    Disconnect(usize),
    Move(usize, u16),
    Tell(usize, Option<bool>),
    Ask(usize, usize),
    Acknowledge(usize, u8),
    Wait(u64),
    SetClock(i64),
    DiskFills(bool),
}

fn resource(n: u8) -> postern_model::ResourceName {
    format!("r{n}").parse().unwrap()
}

type Edits = (Option<Target>, Option<Filter>, Option<Vec<Fqdn>>, Option<BTreeSet<TagName>>);

fn edit_of((target, filter, aliases, tags): Edits) -> ResourceEdit {
    let (tcp, udp, icmp) = match filter {
        Some(Filter { tcp, udp, icmp }) => (Some(tcp), Some(udp), Some(icmp)),
        None => (None, None, None),
    };
    ResourceEdit { site: None, target, tcp, udp, icmp, aliases, tags }
}

pub(super) fn commands() -> impl Strategy<Value = Command> {
    let user = || (0u8..3).prop_map(|n| format!("u{n}").parse::<postern_model::UserName>().unwrap());
    let group = || (0u8..2).prop_map(|n| format!("g{n}").parse::<postern_model::GroupName>().unwrap());
    let site = || (0u8..2).prop_map(|n| format!("s{n}").parse::<postern_model::SiteName>().unwrap());
    let name = || (0u8..3).prop_map(resource);
    let filter = || prop::sample::select(vec![Filter::default(), tcp("80"), tcp("any"), tcp("22,443")]);
    let target = || (1u8..4).prop_map(|n| format!("10.0.0.{n}").parse().unwrap());
    let aliases = || {
        let alias = prop::sample::select(vec!["a.example.com", "b.example.com", "r0.postern.internal"]);
        prop::collection::vec(alias.prop_map(|alias| alias.parse().unwrap()), 0..2)
    };
    let tags = || prop::collection::btree_set((0u8..2).prop_map(|n| format!("t{n}").parse().unwrap()), 0..2);
    let edit =
        (prop::option::of(target()), prop::option::of(filter()), prop::option::of(aliases()), prop::option::of(tags()));
    let edit = edit.prop_map(edit_of);
    prop_oneof![
        1 => (user(), prop::collection::vec(group(), 0..2)).prop_map(|(name, groups)| Command::AddUser { name, groups }),
        1 => user().prop_map(|name| Command::SuspendUser { name }),
        1 => user().prop_map(|name| Command::ResumeUser { name }),
        1 => user().prop_map(|name| Command::RemoveUser { name }),
        1 => group().prop_map(|name| Command::AddGroup { name }),
        1 => (group(), user()).prop_map(|(group, user)| Command::AddMember { group, user }),
        1 => (group(), user()).prop_map(|(group, user)| Command::AddMember { group, user }),
        1 => (group(), user()).prop_map(|(group, user)| Command::RemoveMember { group, user }),
        1 => group().prop_map(|name| Command::RemoveGroup { name }),
        1 => (name(), site(), target(), filter(), aliases(), tags()).prop_map(
            |(name, site, target, filter, aliases, tags)| {
                Command::AddResource { name, site, target, filter, aliases, tags }
            }
        ),
        1 => (name(), edit).prop_map(|(name, edit)| Command::EditResource { name, edit }),
        1 => name().prop_map(|name| Command::RemoveResource { name }),
        4 => policies(),
    ]
}

const CONDITIONS: [&str; 4] = [
    "posture.firewall",
    "!posture.firewall",
    "time.minute in 0..30 || time.minute in 45..60",
    "source.ip in \"192.0.2.0/25\"",
];

fn policies() -> impl Strategy<Value = Command> {
    let subject = prop_oneof![
        4 => (0u8..3).prop_map(|n| format!("user:u{n}")),
        2 => (0u8..2).prop_map(|n| format!("group:g{n}")),
        1 => Just("everyone".to_owned()),
    ];
    let scope = prop_oneof![
        6 => (0u8..3).prop_map(|n| format!("r{n}")),
        2 => (0u8..2).prop_map(|n| format!("tag:t{n}")),
        1 => Just("everything".to_owned()),
    ];
    let effect = prop_oneof![5 => Just(Effect::Allow), 1 => Just(Effect::Deny)];
    let ports = prop::option::weighted(0.3, prop::sample::select(vec![tcp("80"), tcp("443"), tcp("1-100")]));
    let when = prop::option::weighted(0.4, prop::sample::select(CONDITIONS.to_vec()));
    let until = prop::option::weighted(0.2, 1u64..2_000);
    let policy = (effect, subject, scope, ports, when, until, prop::bool::weighted(0.1));
    policy.prop_map(|(effect, subject, scope, ports, when, until, shadow)| {
        let (subject, scope) = (subject.parse().unwrap(), scope.parse().unwrap());
        let until = until.map(|seconds| START.plus(Duration::from_secs(seconds)));
        NewPolicy { effect, subject, scope, ports, when: when.map(str::to_owned), until, shadow }.into()
    })
}

fn steps() -> impl Strategy<Value = Step> {
    let owner = prop_oneof![
        (0u8..3).prop_map(|n| TokenOwner::User(format!("u{n}").parse().unwrap())),
        (0u8..2).prop_map(|n| TokenOwner::Site(format!("s{n}").parse().unwrap())),
    ];
    let device = || 0usize..12;
    prop_oneof![
        6 => commands().prop_map(Step::Command),
        1 => any::<usize>().prop_map(Step::RemovePolicy),
        1 => (device(), 0u8..3).prop_map(|(device, resource)| Step::AllowDevice(device, resource)),
        1 => device().prop_map(Step::RevokeDevice),
        1 => device().prop_map(Step::RemoveDevice),
        2 => (device(), any::<bool>()).prop_map(|(device, drained)| Step::Drain(device, drained)),
        2 => owner.prop_map(Step::Enrol),
        1 => device().prop_map(Step::EnrolAgain),
        2 => (device(), 0u8..3).prop_map(|(device, instance)| Step::Connect(device, instance)),
        1 => device().prop_map(Step::Disconnect),
        2 => (device(), 1u16..4).prop_map(|(device, port)| Step::Move(device, port)),
        3 => (device(), prop::option::of(any::<bool>())).prop_map(|(device, firewall)| Step::Tell(device, firewall)),
        12 => (device(), 0usize..4).prop_map(|(device, resource)| Step::Ask(device, resource)),
        12 => (device(), 1u8..4).prop_map(|(device, count)| Step::Acknowledge(device, count)),
        3 => prop::sample::select(vec![0, 1_000, 1_500, 4_999, 5_000, 200_000, 599_999, 600_000]).prop_map(Step::Wait),
        1 => prop::sample::select(vec![-86_400_000, -300_000, 300_000]).prop_map(Step::SetClock),
        1 => any::<bool>().prop_map(Step::DiskFills),
    ]
}

fn device(shell: &Shell, n: usize) -> Option<DeviceId> {
    let devices = &shell.core.state().devices;
    devices.keys().nth(n.checked_rem(devices.len())?).copied()
}

pub(super) fn run(shell: &mut Shell, command: &Command) {
    // Whether it is refused is another test's business.
    let _ = shell.try_transact(|core, env| core.propose_command(&Actor::AdminSocket, command, env));
    shell.carry_out();
}

fn connected(shell: &Shell, n: usize) -> Option<DeviceId> {
    device(shell, n).filter(|id| shell.nodes.get(id).is_some_and(|node| node.connection.is_some()))
}

fn take(shell: &mut Shell, step: &Step) -> Option<()> {
    match step {
        Step::Command(command) => run(shell, command),
        Step::RemovePolicy(n) => {
            let policies = &shell.core.state().policies;
            let id = *policies.keys().nth(n.checked_rem(policies.len())?)?;
            run(shell, &Command::RemovePolicy { id });
        }
        Step::AllowDevice(n, name) => {
            let subject = postern_model::Subject::Device(device(shell, *n)?);
            run(shell, &Command::from(NewPolicy::allow(subject, resource(*name))));
        }
        Step::RevokeDevice(n) => run(shell, &Command::RevokeDevice { id: device(shell, *n)? }),
        Step::RemoveDevice(n) => run(shell, &Command::RemoveDevice { id: device(shell, *n)? }),
        Step::Drain(n, drained) => {
            let id = device(shell, *n)?;
            let Owner::Site(site) = shell.core.state().devices[&id].owner else { return None };
            let site = shell.core.state().sites[&site].name.clone();
            run(
                shell,
                &if *drained {
                    Command::DrainGateway { site, id, is_forced: true }
                } else {
                    Command::UndrainGateway { site, id }
                },
            );
        }
        Step::Enrol(owner) => {
            let exists = match owner {
                TokenOwner::User(user) => shell.core.state().user_named(user).is_some_and(|user| !user.suspended),
                TokenOwner::Site(site) => shell.core.state().site_named(site).is_some(),
            };
            if exists && !shell.disk_is_full {
                let (token, secret_hash) = shell.token(owner.clone());
                let proof = shell.proof(token, secret_hash);
                shell.enrol(&proof).expect("the disk is not full").expect("the token is good");
            }
        }
        Step::EnrolAgain(n) => {
            let record = shell.core.state().devices[&device(shell, *n)?].clone();
            let secret_hash = shell.core.state().tokens.get(&record.token)?.secret_hash;
            let (device_key, wireguard) = (record.key, record.wireguard);
            let proof =
                EnrolProof { token: record.token, device_key, wireguard, ..shell.proof(record.token, secret_hash) };
            let is_active = match record.owner {
                Owner::User(user) => !shell.core.state().users[&user].suspended,
                Owner::Site(_) => true,
            };
            let done = shell.enrol(&proof)?;
            let is_good = is_active && !record.revoked;
            assert_eq!(done.ok().map(|enrolment| enrolment.device), is_good.then_some(record.id));
            assert_eq!(shell.core.state().devices[&record.id], record);
        }
        Step::Connect(n, instance) => drop(shell.connect_as(device(shell, *n)?, [*instance; 16])),
        Step::Disconnect(n) => shell.disconnect(device(shell, *n)?),
        Step::Move(n, port) => {
            let addr = ([198, 51, 100, 1], *port).into();
            let candidates =
                vec![postern_model::Candidate { addr, kind: postern_model::candidate::CandidateKind::Host }];
            shell.message(connected(shell, *n)?, NodeMessage::Candidates { candidates });
        }
        Step::Tell(n, firewall) => {
            let (id, posture) = (connected(shell, *n)?, Posture { firewall: *firewall, ..posture() });
            let _: Result<_, std::convert::Infallible> =
                shell.try_transact(move |core, env| Ok(core.propose_posture(id, &posture, env)));
            shell.carry_out();
        }
        Step::Ask(n, resource) => {
            let resources = &shell.core.state().resources;
            let unknown = ResourceId::from_bytes([0; 16]);
            let resource = resources.keys().nth(*resource).copied().unwrap_or(unknown);
            shell.ask(connected(shell, *n)?, resource);
        }
        Step::Acknowledge(n, count) => {
            let gateway = connected(shell, *n)?;
            for _ in 0..*count {
                shell.acknowledge_one(gateway);
            }
        }
        Step::Wait(millis) => {
            shell.wait(Duration::from_millis(*millis));
            let latest = shell.now.plus(LEASE);
            let is_short = |grant: &Grant| grant.expires_at <= latest;
            assert!(
                shell.disk_is_full || shell.core.state().grants.values().all(is_short),
                "a lease was not shortened"
            );
        }
        Step::SetClock(by) => shell.now = Timestamp::from_unix_millis(shell.now.unix_millis() + by),
        Step::DiskFills(is_full) => shell.disk_is_full = *is_full,
    }
    Some(())
}

/// A network in which something can happen.
pub(super) fn start() -> Shell {
    let mut shell = Shell::new();
    for n in 0..2 {
        shell.group(&format!("g{n}"));
        shell.site(&format!("s{n}"));
        shell.user(&format!("u{n}"));
        shell.add_member(&format!("g{n}"), &format!("u{n}"));
        shell.resource(&format!("r{n}"), &format!("s{n}"));
        shell.allow(&format!("user:u{n}"), &format!("r{n}"));
        shell.allow("group:g0", &format!("r{n}"));
        for device in [shell.laptop(&format!("u{n}")), shell.gateway(&format!("s{n}")), shell.gateway("s0")] {
            shell.connect(device);
        }
    }
    shell.forget();
    shell
}

/// Every grant that the client was told of since the last step.
fn granted(told: &Told) -> Vec<(DeviceId, &Granted)> {
    match told {
        Told::Message(client, CoordinatorMessage::Granted(granted)) => vec![(*client, granted)],
        Told::Message(client, CoordinatorMessage::Welcome(welcome)) => {
            welcome.granted.iter().map(|granted| (*client, granted)).collect()
        }
        Told::Answer(client, AccessReply::Granted(granted)) => vec![(*client, granted)],
        _ => Vec::new(),
    }
}

/// The lease of every grant that a gateway was told of since the last step.
fn installed(told: &Told) -> Vec<Duration> {
    match told {
        Told::Message(_, CoordinatorMessage::InstallGrant(install)) => vec![install.lease],
        Told::Message(_, CoordinatorMessage::Welcome(welcome)) => {
            welcome.installed.iter().map(|install| install.lease).collect()
        }
        _ => Vec::new(),
    }
}

fn in_force(shell: &Shell, granted: &Granted) -> Option<Filter> {
    let gateway = shell.core.state().devices.values().find(|device| device.wireguard == granted.gateway)?.id;
    shell.nodes.get(&gateway)?.in_force.get(&granted.grant).cloned()
}

fn is_gateway(shell: &Shell, id: DeviceId) -> bool {
    shell.core.state().devices.get(&id).is_some_and(|device| matches!(device.owner, Owner::Site(_)))
}

pub(super) fn check(shell: &Shell) {
    let (state, now): (_, Timestamp) = (shell.core.state(), shell.now);
    assert_whole(&shell.core);
    for grant in state.grants.values().filter(|grant| now < grant.expires_at) {
        let circumstances = shell.core.surroundings.of_holder(grant, now);
        // Time may have opened more since, which the next renewal will see.
        match decide(state, grant.device, grant.resource, circumstances) {
            Decision::Allowed { filter, .. } => assert!(grant.filter.minus(&filter).is_empty(), "{grant:?}"),
            Decision::Denied { reason } => panic!("{reason:?}: {grant:?}"),
        }
        assert!(!state.devices[&grant.gateway].revoked && is_gateway(shell, grant.gateway), "{grant:?}");
    }
    let mut pairs = BTreeSet::new();
    assert!(state.grants.values().all(|grant| pairs.insert((grant.device, grant.resource))), "two grants for one pair");
    for (id, node) in shell.nodes.iter().filter(|(_, node)| node.connection.is_some()) {
        let known: BTreeSet<_> = node.catalogue.keys().copied().collect();
        assert_eq!(known, visible(state, *id), "the catalogue of {id}");
        for (resource, entry) in &node.catalogue {
            let record = &state.resources[resource];
            assert_eq!((&entry.name, &entry.aliases), (&record.name, &record.aliases));
            assert_eq!((entry.addr, &entry.filter), (record.addr, &record.filter));
        }
        let held: BTreeSet<GrantId> = node.held.values().map(|held| held.grant).collect();
        // Or moves, and its successor is not in force yet.
        let is_known = |grant: &GrantId| state.grants.contains_key(grant) || shell.core.superseded.is_untold(*grant);
        assert!(held.iter().all(is_known), "{id} holds a grant that ended");
    }
    for lease in shell.told.iter().flat_map(installed) {
        assert!(!lease.is_zero() && lease <= LEASE, "a gateway was told of a lease of {lease:?}");
    }
    for (client, granted) in shell.told.iter().flat_map(granted) {
        assert!(!granted.lease.is_zero(), "{client} was told of a lease that ended");
        assert!(granted.lease <= LEASE, "{client} was told of a longer lease than there is");
        assert_eq!(in_force(shell, granted).as_ref(), Some(&granted.filter), "{client} was told before its gateway");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    /// Invariants: the indexes are what a load would make; every grant in force is what would be decided now; catalogues
    /// are what is visible; a client is told only what its gateway has in force; a failed commit changes nothing.
    #[test]
    fn what_must_hold_holds_after_every_step(steps in prop::collection::vec(steps(), 1..120)) {
        let mut shell = start();
        for step in &steps {
            shell.forget();
            let before = shell.disk_is_full.then(|| shell.core.state().clone());
            take(&mut shell, step);
            if let Some(before) = before {
                assert_eq!(*shell.core.state(), before, "a failed commit changed something");
            }
            check(&shell);
        }
    }
}
