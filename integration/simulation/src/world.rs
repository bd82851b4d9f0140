//! [`World`]: the clock, the queue of what is under way, and the parts.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use postern_engine::Forwarder;
use postern_model::{Fqdn, ResourceId};
use postern_wire::{AccessReply, CoordinatorMessage, NodeMessage};

use crate::{
    Quality, Violation,
    apps::Arrival,
    coordinator::Coordinator,
    network::{Datagram, Network},
    node::{LaneCommand, LaneEvent, Node},
    oracle::Oracle,
    random::Random,
    setting::{At, CLIENTS, NODES, RESOURCES},
    tcp::End,
};

/// So many things at one moment mean that time stands still.
const STANDSTILL: usize = 100_000;

/// Under which conditions a simulation begins.
#[derive(Debug, Clone)]
pub struct Conditions {
    /// What loses packets, delays messages, and makes ids.
    pub seed: u64,
    /// Of the network between the nodes.
    pub quality: Quality,
    /// The shortest and the longest delay of messages between nodes and coordinator.
    pub control_delay: (Duration, Duration),
    /// Whether the last client keeps to nothing.
    pub with_rogue: bool,
}

/// Something under way.
#[derive(Debug)]
pub(crate) enum Event {
    Datagram(Datagram),
    ToLane(At, LaneCommand),
    FromLane(At, LaneEvent),
    /// A node tries to reach the coordinator.
    Connect(At),
    Hello(At, u64, SocketAddr),
    ToNode(At, u64, Box<CoordinatorMessage>),
    Close(At, u64, u32),
    ToCoordinator(At, u64, NodeMessage),
    Ask(At, u64, ResourceId),
    Answer(At, u64, ResourceId, Option<Box<AccessReply>>),
    /// A node notices that its connection is gone.
    NodeLost(At, u64),
    /// The coordinator notices.
    CoordinatorLost(At, u64),
    CoordinatorReturns,
    Resolved(At, Fqdn),
}

/// What arrives in the order in which it was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Stream {
    ToLane(At),
    FromLane(At),
    Up(u64),
    Down(u64),
}

/// The simulation.
#[derive(Debug)]
pub struct World {
    pub(crate) now: Duration,
    pub(crate) nodes: Vec<Node>,
    pub(crate) network: Network,
    pub(crate) coordinator: Coordinator,
    pub(crate) oracle: Oracle,
    pub(crate) random: Random,
    pub(crate) control_delay: (Duration, Duration),
    /// Whether anybody can reach the coordinator.
    pub(crate) is_reachable: bool,
    /// Whose a connection is.
    pub(crate) connections: Vec<At>,
    /// Connections that carry nothing any more, whether or not the ends have noticed.
    pub(crate) cut: BTreeSet<u64>,
    /// What names resolve to.
    pub(crate) names: BTreeMap<Fqdn, Vec<IpAddr>>,
    /// What came to targets.
    pub(crate) arrivals: Vec<Arrival>,
    /// Clients' ends of connections: own and service.
    pub(crate) opener_ends: HashMap<(At, SocketAddr, SocketAddr), End>,
    /// Targets' ends: target and opener.
    pub(crate) target_ends: HashMap<(At, SocketAddr, SocketAddr), End>,
    queue: BTreeMap<(Duration, u64), Event>,
    queued: u64,
    streams: BTreeMap<Stream, Duration>,
}

impl World {
    /// A network that has just started: every node is about to connect, nobody may do anything.
    pub fn new(conditions: &Conditions) -> Self {
        let mut random = Random::new(conditions.seed);
        let rogue = conditions.with_rogue.then_some(CLIENTS - 1);
        let mut world = Self {
            now: Duration::ZERO,
            nodes: (0..NODES).map(|at| Node::new(at, Some(at) == rogue)).collect(),
            network: Network::new(conditions.quality, random.next()),
            coordinator: Coordinator::new(random.next()),
            oracle: Oracle::new(rogue),
            random,
            control_delay: conditions.control_delay,
            is_reachable: true,
            connections: Vec::new(),
            cut: BTreeSet::new(),
            names: BTreeMap::new(),
            arrivals: Vec::new(),
            opener_ends: HashMap::new(),
            target_ends: HashMap::new(),
            queue: BTreeMap::new(),
            queued: 0,
            streams: BTreeMap::new(),
        };
        world.point_name(RESOURCES[3].target, "10.0.0.5".parse().expect("an address"));
        for at in 0..NODES {
            world.at(Duration::ZERO, Event::Connect(at));
        }
        world
    }

    /// How long the simulation has run.
    pub fn now(&self) -> Duration {
        self.now
    }

    /// What did not hold so far.
    pub fn violations(&self) -> &[Violation] {
        &self.oracle.violations
    }

    /// Lets time go by, with everything on its time.
    pub fn pass(&mut self, duration: Duration) {
        let end = self.now + duration;
        let mut steps = 0;
        loop {
            let event = self.queue.first_key_value().map(|((due, _), _)| *due);
            let timers = self.nodes.iter().flat_map(Node::timers).flatten().min();
            let coordinator = self.coordinator.poll_timeout(self.now);
            let Some(due) = event.into_iter().chain(timers).chain(coordinator).min().filter(|due| *due <= end) else {
                break;
            };
            steps = if due > self.now { 0 } else { steps + 1 };
            assert!(steps < STANDSTILL, "time stands still at {:?}: {:?}", self.now, self.due_timers());
            self.now = self.now.max(due);
            match event {
                Some(at) if at <= self.now => {
                    if let Some((_, event)) = self.queue.pop_first() {
                        self.handle(event);
                    }
                }
                _ => self.handle_timers(),
            }
        }
        self.now = end;
    }

    fn due_timers(&self) -> Vec<(At, [Option<Duration>; 2])> {
        self.nodes.iter().map(Node::timers).enumerate().collect()
    }

    fn handle_timers(&mut self) {
        if self.coordinator.poll_timeout(self.now).is_some_and(|due| due <= self.now) {
            self.coordinator.timeout(self.now);
            self.send_out();
        }
        for at in 0..NODES {
            let [engine, forwarder] = self.nodes[at].timers().map(|due| due.is_some_and(|due| due <= self.now));
            let now = self.nodes[at].moment(self.now);
            if engine {
                self.nodes[at].engine.handle_timeout(now);
                self.pump(at);
            }
            if forwarder {
                self.lane(at, None, Forwarder::handle_timeout);
            }
        }
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Datagram(datagram) => self.datagram(datagram),
            Event::ToLane(at, command) => self.obey(at, command),
            Event::FromLane(at, event) => self.lane_event(at, event),
            Event::Connect(at) => self.connect(at),
            Event::Hello(at, connection, from) => self.hello(at, connection, from),
            Event::ToNode(at, connection, message) => self.message(at, connection, *message),
            Event::Close(at, connection, code) => self.closed(at, connection, code),
            Event::ToCoordinator(at, connection, message) => self.message_up(at, connection, message),
            Event::Ask(at, connection, resource) => self.asked(at, connection, resource),
            Event::Answer(at, connection, resource, reply) => {
                self.answered(at, connection, resource, reply.map(|reply| *reply));
            }
            Event::NodeLost(at, connection) => self.node_lost(at, connection),
            Event::CoordinatorLost(at, connection) => self.coordinator.disconnected(at, connection, self.now),
            Event::CoordinatorReturns => {
                self.is_reachable = true;
                self.coordinator.start();
            }
            Event::Resolved(at, name) => self.resolved(at, &name),
        }
    }

    /// Puts an event on its way.
    pub(crate) fn at(&mut self, due: Duration, event: Event) {
        self.queued += 1;
        self.queue.insert((due, self.queued), event);
    }

    /// Puts an event on its way, behind all that went this way before.
    pub(crate) fn at_in_order(&mut self, stream: Stream, due: Duration, event: Event) {
        let last = self.streams.entry(stream).or_default();
        *last = due.max(*last);
        let due = *last;
        self.at(due, event);
    }

    pub(crate) fn control_delay(&mut self) -> Duration {
        self.random.between(self.control_delay.0, self.control_delay.1)
    }
}
