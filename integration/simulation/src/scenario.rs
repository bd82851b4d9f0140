//! Steps, and strategies that make lists of them.

use std::time::Duration;

use proptest::{prelude::*, strategy::Union};

pub use crate::apps::{Kind, Sending};
use crate::{
    Conditions, Quality,
    setting::{At, CLIENTS, GATEWAYS, NODES, PORTS, RESOURCES},
};

/// One thing that happens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// An application sends a packet, perhaps with another client's address.
    Send(Sending, Option<At>),
    /// A host answers one of the packets that came last, counted from the last one.
    Reply(usize, usize),
    /// A host answers one with an ICMP error.
    Complain(usize),
    /// A host sends something to a client that nobody asked for. Perhaps with the address of a resource.
    Knock {
        /// Through which gateway, counted from the first one.
        gateway: usize,
        /// To which client.
        client: At,
        /// As which protocol: TCP, UDP, echo.
        protocol: u8,
        /// From the overlay address of this resource.
        pretends: Option<usize>,
    },
    /// A name of a resource is looked up.
    Want(At, usize),
    /// An admin allows a user a resource.
    Allow(At, usize),
    /// An admin takes that back.
    Forbid(At, usize),
    /// An admin changes what is open of a resource.
    Filter(usize, u8),
    /// An admin changes where a resource leads; the last one's name leads elsewhere.
    Retarget(usize, u8),
    /// An admin removes a resource, for good.
    Remove(usize),
    /// An admin suspends a user.
    Suspend(At),
    /// An admin takes that back.
    Resume(At),
    /// An admin revokes a device, for good.
    Revoke(At),
    /// The network between the nodes changes.
    Network(Quality),
    /// The eavesdropper sends a datagram again, from its own address or the sender's.
    Replay(usize, bool),
    /// A node's socket moves.
    Roam(At),
    /// A node's connection to the coordinator breaks.
    Disconnect(At),
    /// An admin drains a gateway, counted from the first one, or takes that back.
    Drain(usize, bool),
    /// A gateway, counted from the first one, can't be reached by anyone for a while, nor reach anyone.
    Unplug(usize, Duration),
    /// Nobody reaches the coordinator for a while; perhaps because it crashed.
    Outage(Duration, bool),
    /// Time goes by.
    Pass(Duration),
}

/// What kinds of steps there are in a scenario, by weight.
#[derive(Debug, Clone, Copy, Default)]
pub struct Mix {
    /// Clients forge addresses.
    pub forging: u32,
    /// Admins change who may reach what.
    pub admin: u32,
    /// The network changes, nodes move, datagrams are replayed.
    pub network: u32,
    /// Connections to the coordinator break.
    pub control: u32,
    /// Hosts behind gateways send what nobody asked for.
    pub knocking: u32,
    /// Payloads that do not fit into the tunnel.
    pub oversize: bool,
}

impl Mix {
    /// Everything.
    pub const ALL: Self = Self { forging: 4, admin: 10, network: 10, control: 3, knocking: 5, oversize: true };
}

/// A packet of an application.
pub fn sendings(oversize: bool) -> impl Strategy<Value = Sending> {
    let kinds = prop_oneof![
        3 => Just(Kind::Udp),
        1 => Just(Kind::Echo),
        3 => Just(Kind::TcpOpen),
        3 => Just(Kind::TcpData),
        1 => Just(Kind::TcpClose),
    ];
    let longest: usize = if oversize { 1500 } else { 1300 };
    let len = prop_oneof![4 => 8_usize..100, 1 => 8..=longest];
    let own_ports = prop_oneof![3 => 4000_u16..4003, 1 => Just(49_152)];
    let what = (0..CLIENTS, 0..RESOURCES.len(), any::<bool>(), kinds);
    let port = (prop::bool::weighted(0.85), any::<prop::sample::Index>());
    (what, port, own_ports, len).prop_map(|((client, resource, is_v6, kind), (is_open, index), own_port, len)| {
        let filter = RESOURCES[resource].filter(0);
        let may = |port: &u16| !is_open || kind == Kind::Echo || filter.allows(kind.protocol(), *port);
        let ports: Vec<_> = PORTS.into_iter().filter(may).collect();
        let port = *index.get(&ports);
        Sending { client, resource, is_v6, kind, port, own_port, len }
    })
}

/// A network that is good, bad or terrible.
pub fn qualities() -> impl Strategy<Value = Quality> {
    let delay = (1_u64..100, 0_u64..400)
        .prop_map(|(least, more)| (Duration::from_millis(least), Duration::from_millis(least + more)));
    let loss = prop_oneof![2 => Just(0_u8), 3 => 1_u8..50, 1 => Just(100)];
    let any = (loss, 0_u8..40, delay).prop_map(|(loss, duplication, delay)| Quality { loss, duplication, delay });
    prop_oneof![1 => Just(Quality::PERFECT), 4 => any]
}

/// Time that goes by: from nothing to more than any lease or key lasts.
pub fn durations() -> impl Strategy<Value = Duration> {
    prop_oneof![
        5 => 0_u64..50,
        5 => 50_u64..2_000,
        3 => 2_000_u64..15_000,
        2 => 15_000_u64..70_000,
        1 => 70_000_u64..250_000,
    ]
    .prop_map(Duration::from_millis)
}

/// A client and a resource.
fn pair() -> impl Strategy<Value = (At, usize)> {
    (0..CLIENTS, 0..RESOURCES.len())
}

fn admin_steps() -> BoxedStrategy<Step> {
    prop_oneof![
        8 => pair().prop_map(|(client, resource)| Step::Allow(client, resource)),
        4 => pair().prop_map(|(client, resource)| Step::Forbid(client, resource)),
        2 => (0..RESOURCES.len(), 0_u8..4).prop_map(|(resource, variant)| Step::Filter(resource, variant)),
        2 => (0..RESOURCES.len(), 0_u8..4).prop_map(|(resource, variant)| Step::Retarget(resource, variant)),
        1 => (0..CLIENTS).prop_map(Step::Suspend),
        2 => (0..CLIENTS).prop_map(Step::Resume),
        1 => prop_oneof![
            4 => (0..CLIENTS).prop_map(Step::Suspend),
            1 => (0..CLIENTS).prop_map(Step::Revoke),
            1 => (0..RESOURCES.len()).prop_map(Step::Remove),
        ],
    ]
    .boxed()
}

fn network_steps() -> BoxedStrategy<Step> {
    prop_oneof![
        3 => qualities().prop_map(Step::Network),
        4 => (any::<usize>(), any::<bool>()).prop_map(|(which, from_elsewhere)| Step::Replay(which, from_elsewhere)),
        1 => (0..NODES).prop_map(Step::Roam),
    ]
    .boxed()
}

fn control_steps() -> BoxedStrategy<Step> {
    prop_oneof![
        2 => (0..NODES).prop_map(Step::Disconnect),
        1 => (durations(), any::<bool>()).prop_map(|(duration, is_crash)| Step::Outage(duration, is_crash)),
        1 => (0..GATEWAYS, durations()).prop_map(|(gateway, duration)| Step::Unplug(gateway, duration)),
        2 => (0..GATEWAYS, any::<bool>()).prop_map(|(gateway, drained)| Step::Drain(gateway, drained)),
    ]
    .boxed()
}

fn knocks() -> BoxedStrategy<Step> {
    (0..GATEWAYS, 0..CLIENTS, 0_u8..3, prop::option::of(0..RESOURCES.len()))
        .prop_map(|(gateway, client, protocol, pretends)| Step::Knock { gateway, client, protocol, pretends })
        .boxed()
}

/// A list of steps. The first ones allow something, or most lists would come to nothing.
pub fn steps(mix: Mix, len: std::ops::Range<usize>) -> impl Strategy<Value = Vec<Step>> {
    let forged = (sendings(false), 0..CLIENTS).prop_map(|(sending, other)| Step::Send(sending, Some(other))).boxed();
    let mut kinds = vec![
        (40, sendings(mix.oversize).prop_map(|sending| Step::Send(sending, None)).boxed()),
        (20, (0_usize..6, 8_usize..200).prop_map(|(which, len)| Step::Reply(which, len)).boxed()),
        (2, (0_usize..6).prop_map(Step::Complain).boxed()),
        (3, pair().prop_map(|(client, resource)| Step::Want(client, resource)).boxed()),
        (20, durations().prop_map(Step::Pass).boxed()),
        (mix.forging, forged),
        (mix.knocking, knocks()),
        (mix.admin, admin_steps()),
        (mix.network, network_steps()),
        (mix.control, control_steps()),
    ];
    // A weight of 0 would still be shrunk to.
    kinds.retain(|(weight, _)| *weight > 0);
    let step = Union::new_weighted(kinds);
    (allowances(), prop::collection::vec(step, len)).prop_map(|(mut first, rest)| {
        first.extend(rest);
        first
    })
}

/// Who may do what at the beginning, and time for everyone to hear of it.
pub fn allowances() -> impl Strategy<Value = Vec<Step>> {
    let pairs = prop::collection::vec(prop::bool::weighted(0.7), CLIENTS * RESOURCES.len());
    pairs.prop_map(|allowed| {
        let allowed = allowed.into_iter().enumerate().filter(|(_, is_allowed)| *is_allowed);
        let allow = |(at, _)| Step::Allow(at / RESOURCES.len(), at % RESOURCES.len());
        let pass = || std::iter::once(Step::Pass(Duration::from_secs(2)));
        pass().chain(allowed.map(allow)).chain(pass()).collect()
    })
}

/// Under which a simulation begins.
pub fn conditions(quality: impl Strategy<Value = Quality>, with_rogue: bool) -> impl Strategy<Value = Conditions> {
    let control_delay = (1_u64..30, 0_u64..100)
        .prop_map(|(least, more)| (Duration::from_millis(least), Duration::from_millis(least + more)));
    (any::<u64>(), quality, control_delay).prop_map(move |(seed, quality, control_delay)| Conditions {
        seed,
        quality,
        control_delay,
        with_rogue,
    })
}
