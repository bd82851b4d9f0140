//! Connections between nodes and coordinator: made, cut, noticed late, made again. Messages of a session come in order;
//! access requests and their answers go on streams of their own, in no order with it.

use std::{net::SocketAddr, time::Duration};

use postern_model::{Candidate, ResourceId, candidate::CandidateKind};
use postern_wire::{AccessReply, CoordinatorMessage, NodeMessage, close};

use crate::{
    World,
    coordinator::Said,
    node::{Node, Session},
    setting::{self, At, NODES},
    world::{Event, Stream},
};

/// How long a node waits before it tries again.
const PAUSE: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(1));
/// How long either end takes to notice that a connection is gone.
const NOTICE: (Duration, Duration) = (Duration::ZERO, Duration::from_secs(3));

impl World {
    /// A node tries to reach the coordinator.
    pub(crate) fn connect(&mut self, at: At) {
        if self.nodes[at].is_evicted || self.nodes[at].session != Session::Away {
            return;
        }
        if !self.is_reachable || self.now < self.nodes[at].unplugged_until {
            return self.connect_later(at);
        }
        let connection = self.connections.len() as u64;
        self.connections.push(at);
        self.nodes[at].session = Session::Opening(connection);
        let (due, from) = (self.now + self.control_delay(), self.nodes[at].outside);
        self.at_in_order(Stream::Up(connection), due, Event::Hello(at, connection, from));
    }

    fn connect_later(&mut self, at: At) {
        let due = self.now + self.random.between(PAUSE.0, PAUSE.1);
        self.at(due, Event::Connect(at));
    }

    pub(crate) fn hello(&mut self, at: At, connection: u64, from: SocketAddr) {
        if !self.cut.contains(&connection) {
            self.coordinator.connected(at, connection, from, self.now);
            self.send_out();
        }
    }

    /// Sends what the coordinator says.
    pub(crate) fn send_out(&mut self) {
        while let Some(said) = self.coordinator.poll_said() {
            let due = self.now + self.control_delay();
            match said {
                Said::Message(connection, message) => {
                    let event = Event::ToNode(self.whose(connection), connection, Box::new(message));
                    self.at_in_order(Stream::Down(connection), due, event);
                }
                Said::Close(connection, code) => {
                    let event = Event::Close(self.whose(connection), connection, code);
                    self.at_in_order(Stream::Down(connection), due, event);
                }
                Said::Answer(at, connection, resource, reply) => {
                    self.at(due, Event::Answer(at, connection, resource, Some(reply)));
                }
            }
        }
    }

    fn whose(&self, connection: u64) -> At {
        self.connections[usize::try_from(connection).expect("connections are counted")]
    }

    /// A message comes to a node.
    pub(crate) fn message(&mut self, at: At, connection: u64, message: CoordinatorMessage) {
        let is_current = matches!(
            self.nodes[at].session,
            Session::Open(current) | Session::Opening(current) if current == connection
        );
        if !is_current || self.cut.contains(&connection) {
            return;
        }
        match &message {
            CoordinatorMessage::Welcome(_) => self.nodes[at].session = Session::Open(connection),
            CoordinatorMessage::Evicted { .. } => self.nodes[at].is_evicted = true,
            _ => {}
        }
        let is_welcome = matches!(message, CoordinatorMessage::Welcome(_));
        self.oracle.told(at, &message, self.now);
        let now = self.nodes[at].moment(self.now);
        self.nodes[at].engine.handle_message(message, now);
        self.pump(at);
        if is_welcome {
            // The node may have moved since its hello.
            self.tell_candidates(at);
        }
    }

    /// Says where a node may be reached, if there is a session.
    pub(crate) fn tell_candidates(&mut self, at: At) {
        if let Session::Open(connection) = self.nodes[at].session {
            let candidates = vec![Candidate { addr: self.nodes[at].outside, kind: CandidateKind::Host }];
            let due = self.now + self.control_delay();
            let event = Event::ToCoordinator(at, connection, NodeMessage::Candidates { candidates });
            self.at_in_order(Stream::Up(connection), due, event);
        }
    }

    /// The coordinator closes a node's connection.
    pub(crate) fn closed(&mut self, at: At, connection: u64, code: u32) {
        if matches!(code, close::UNAUTHORIZED | close::SUPERSEDED) {
            self.nodes[at].is_evicted = true;
        }
        self.cut.insert(connection);
        self.coordinator.disconnected(at, connection, self.now);
        self.node_lost(at, connection);
    }

    pub(crate) fn message_up(&mut self, at: At, connection: u64, message: NodeMessage) {
        if !self.cut.contains(&connection) {
            self.coordinator.message(at, connection, message, self.now);
            self.send_out();
        }
    }

    pub(crate) fn asked(&mut self, at: At, connection: u64, resource: ResourceId) {
        if !self.cut.contains(&connection) {
            self.coordinator.asked(at, connection, resource, self.now);
            self.send_out();
        }
    }

    /// An answer comes to a node; without one, the connection was lost.
    pub(crate) fn answered(&mut self, at: At, connection: u64, resource: ResourceId, reply: Option<AccessReply>) {
        if reply.is_some() && (self.cut.contains(&connection) || !self.nodes[at].asking.remove(&resource)) {
            return;
        }
        if let (Some(reply), Some(number)) = (&reply, setting::resource_with(resource)) {
            self.oracle.answered(at, number, reply, self.now);
        }
        let now = self.nodes[at].moment(self.now);
        self.nodes[at].engine.handle_access_reply(resource, reply, now);
        self.pump(at);
    }

    /// A node's connection stops carrying anything; both ends notice by and by.
    pub(crate) fn cut(&mut self, at: At) {
        let (Session::Open(connection) | Session::Opening(connection)) = self.nodes[at].session else { return };
        if self.cut.insert(connection) {
            let due = self.now + self.random.between(NOTICE.0, NOTICE.1);
            self.at(due, Event::NodeLost(at, connection));
            let due = self.now + self.random.between(NOTICE.0, NOTICE.1);
            self.at(due, Event::CoordinatorLost(at, connection));
        }
    }

    /// Nobody reaches the coordinator for a while. If it crashed, it begins again with what its store holds.
    pub(crate) fn coordinator_outage(&mut self, duration: Duration, is_crash: bool) {
        (0..NODES).for_each(|at| self.cut(at));
        if is_crash {
            self.coordinator.crash(self.now + duration);
        }
        self.is_reachable = false;
        self.at(self.now + duration, Event::CoordinatorReturns);
    }

    /// A node notices that its connection is gone.
    pub(crate) fn node_lost(&mut self, at: At, connection: u64) {
        let node = &mut self.nodes[at];
        if !matches!(node.session, Session::Open(lost) | Session::Opening(lost) if lost == connection) {
            return;
        }
        node.session = Session::Away;
        node.engine.handle_disconnected();
        if node.is_evicted {
            node.engine.handle_evicted();
            self.oracle.evicted(at, self.now);
        }
        for resource in std::mem::take(&mut self.nodes[at].asking) {
            let due = self.now + self.control_delay();
            self.at(due, Event::Answer(at, connection, resource, None));
        }
        self.pump(at);
        self.connect_later(at);
    }

    /// Whether everyone who is wanted has a session.
    pub(crate) fn all_connected(&self) -> bool {
        let is_well = |node: &Node| {
            node.is_evicted || matches!(node.session, Session::Open(connection) if !self.cut.contains(&connection))
        };
        self.is_reachable && self.coordinator.is_running() && self.nodes.iter().all(is_well)
    }
}
