//! What the shell of a node does: carries out what the engine wants, runs the lane, and hands to each what comes from the
//! other. In the order of `postern`'s own shell, with its channels' delays.

use std::{net::IpAddr, time::Duration};

use postern_engine::{EngineEvent, Forwarder};
use postern_model::{Fqdn, Moment, ResourceId};
use postern_wire::NodeMessage;

use crate::{
    World,
    network::Datagram,
    node::{LaneCommand, LaneEvent, Node, Out, Session},
    permits::LANE,
    setting::{self, At},
    world::{Event, Stream},
};

/// How long a name takes to resolve.
const RESOLVER: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(200));

impl World {
    /// Carries out what the engine wants done, in order.
    pub(crate) fn pump(&mut self, at: At) {
        while let Some(event) = self.nodes[at].engine.poll_event() {
            match event {
                EngineEvent::Publish(table) => {
                    self.nodes[at].table = Some(table.clone());
                    let table = self.nodes[at].twisted(table);
                    self.command(at, LaneCommand::Publish(table));
                }
                EngineEvent::RequestAccess(resource, _) => self.request_access(at, resource),
                EngineEvent::Send(message) => self.send(at, message),
                EngineEvent::Replay(packets) => self.command(at, LaneCommand::Replay(packets)),
                EngineEvent::Refuse(packets, reason) => self.command(at, LaneCommand::Refuse(packets, reason)),
                EngineEvent::Resolve(name) => {
                    let due = self.now + self.random.between(RESOLVER.0, RESOLVER.1);
                    self.at(due, Event::Resolved(at, name));
                }
                EngineEvent::QueryUsage => self.command(at, LaneCommand::Usage),
                EngineEvent::RelayPeers(_) | EngineEvent::Denied(..) => {}
            }
        }
    }

    fn send(&mut self, at: At, message: NodeMessage) {
        self.oracle.said(at, &message, self.now);
        if let Session::Open(connection) = self.nodes[at].session {
            let due = self.now + self.control_delay();
            self.at_in_order(Stream::Up(connection), due, Event::ToCoordinator(at, connection, message));
        }
    }

    fn request_access(&mut self, at: At, resource: ResourceId) {
        let Session::Open(connection) = self.nodes[at].session else {
            let now = self.nodes[at].moment(self.now);
            return self.nodes[at].engine.handle_access_reply(resource, None, now);
        };
        self.nodes[at].asking.insert(resource);
        // A stream of its own: in no order with the session.
        let due = self.now + self.control_delay();
        self.at(due, Event::Ask(at, connection, resource));
    }

    /// A name was looked up.
    pub(crate) fn resolved(&mut self, at: At, name: &Fqdn) {
        let addresses = self.names.get(name).cloned().unwrap_or_default();
        let now = self.nodes[at].moment(self.now);
        self.nodes[at].engine.handle_resolved(name, addresses, now);
        self.pump(at);
    }

    /// From now on a name leads here.
    pub(crate) fn point_name(&mut self, name: &str, addr: IpAddr) {
        self.oracle.resolves(name, addr);
        self.names.insert(name.parse().expect("a DNS name"), vec![addr]);
    }

    /// Tells the lane something, which it does a little later.
    pub(crate) fn command(&mut self, at: At, command: LaneCommand) {
        let due = self.now + self.random.between(Duration::ZERO, LANE);
        self.at_in_order(Stream::ToLane(at), due, Event::ToLane(at, command));
    }

    /// The lane does what it was told.
    pub(crate) fn obey(&mut self, at: At, command: LaneCommand) {
        match command {
            LaneCommand::Publish(table) => {
                let generation = table.generation;
                self.lane(at, None, |forwarder, out, now| forwarder.handle_table(table, out, now));
                let cut = self.nodes[at].forwarder.take_cut();
                self.tell(at, LaneEvent::Applied(generation, cut));
            }
            LaneCommand::Replay(packets) => {
                for packet in packets {
                    self.lane(at, None, |forwarder, out, now| forwarder.handle_packet(&packet, out, now));
                }
            }
            LaneCommand::Refuse(packets, reason) => {
                for packet in packets {
                    self.lane(at, None, |forwarder, out, now| forwarder.handle_refused(&packet, reason, out, now));
                }
            }
            LaneCommand::Usage => {
                let in_use = self.nodes[at].forwarder.resources_in_use();
                self.tell(at, LaneEvent::Usage(in_use));
            }
        }
    }

    fn tell(&mut self, at: At, event: LaneEvent) {
        let due = self.now + self.random.between(Duration::ZERO, LANE);
        self.at_in_order(Stream::FromLane(at), due, Event::FromLane(at, event));
    }

    /// The engine hears from the lane.
    pub(crate) fn lane_event(&mut self, at: At, event: LaneEvent) {
        let now = self.nodes[at].moment(self.now);
        let engine = &mut self.nodes[at].engine;
        match event {
            LaneEvent::Miss(miss) => engine.handle_miss(miss, now),
            LaneEvent::Applied(generation, cut) => engine.handle_applied(generation, &cut),
            LaneEvent::Usage(in_use) => engine.handle_usage(&in_use, now),
        }
        self.pump(at);
    }

    /// A datagram arrives at whoever is there now.
    pub(crate) fn datagram(&mut self, datagram: Datagram) {
        let Datagram { from, to, bytes, sent_at } = datagram;
        let is_plugged = |node: &Node| node.unplugged_until <= self.now;
        if self.nodes.iter().any(|node| node.outside == from && !is_plugged(node)) {
            return;
        }
        if let Some(at) = self.nodes.iter().position(|node| node.outside == to && is_plugged(node)) {
            self.lane(at, Some(sent_at), |forwarder, out, now| {
                forwarder.handle_datagram(from.into(), &bytes, out, now)
            });
        }
    }

    /// Runs a node's forwarder, because of a datagram sent at `cause` if because of one, and takes what comes out.
    pub(crate) fn lane(&mut self, at: At, cause: Option<Duration>, run: impl FnOnce(&mut Forwarder, &mut Out, Moment)) {
        let mut out = Out::default();
        let now = self.nodes[at].moment(self.now);
        run(&mut self.nodes[at].forwarder, &mut out, now);
        for packet in out.packets {
            if setting::is_gateway(at) {
                self.pass_to_target(at, &packet, cause);
            } else {
                self.pass_to_application(at, &packet, cause);
            }
        }
        for (to, bytes) in out.datagrams {
            let datagram = Datagram { from: self.nodes[at].outside, to, bytes, sent_at: self.now };
            for due in self.network.carry(&datagram) {
                self.at(due, Event::Datagram(datagram.clone()));
            }
        }
        for miss in out.misses {
            self.tell(at, LaneEvent::Miss(miss));
        }
    }
}
