//! Carrying out a step.

use std::{net::SocketAddr, time::Duration};

use postern_core::{Command, NewPolicy, ResourceEdit};
use postern_model::{
    Filter, Protocol, Scope, Subject,
    record::{Owner, Principal},
};

use crate::{
    Invariant, Step, World,
    setting::{self, At, CLIENTS, GATEWAYS, RESOURCES},
};

/// Where the eavesdropper sends from.
const ELSEWHERE: ([u8; 4], u16) = ([198, 51, 100, 66], 666);

impl World {
    /// Carries out one step.
    pub fn step(&mut self, step: &Step) {
        match step {
            Step::Send(sending, poses_as) => drop(self.send_as(sending, *poses_as)),
            Step::Reply(back, len) => drop(self.reply(*back, *len)),
            Step::Complain(back) => {
                if let Some(arrival) = self.arrivals.len().checked_sub(1 + *back) {
                    self.complain_about(arrival);
                }
            }
            Step::Knock { gateway, client, protocol, pretends } => {
                self.knock_at(CLIENTS + *gateway, *client, *protocol, *pretends);
            }
            Step::Want(client, resource) => {
                let node = &mut self.nodes[*client];
                let now = node.moment(self.now);
                node.engine.handle_wanted(setting::resource_id(*resource), now);
                self.pump(*client);
            }
            Step::Allow(..)
            | Step::Forbid(..)
            | Step::Filter(..)
            | Step::Retarget(..)
            | Step::Remove(_)
            | Step::Suspend(_)
            | Step::Resume(_)
            | Step::Revoke(_)
            | Step::Drain(..) => self.administer(step),
            Step::Network(quality) => self.network.quality = *quality,
            Step::Replay(which, from_elsewhere) => {
                if let Some(mut datagram) = self.network.remembered(*which) {
                    if *from_elsewhere {
                        datagram.from = ELSEWHERE.into();
                    }
                    self.datagram(datagram);
                }
            }
            Step::Roam(at) => self.roam(*at),
            Step::Disconnect(at) => self.cut(*at),
            Step::Unplug(gateway, duration) => {
                let at = CLIENTS + *gateway;
                self.nodes[at].unplugged_until = self.now + *duration;
                self.cut(at);
            }
            Step::Outage(duration, is_crash) => self.coordinator_outage(*duration, *is_crash),
            Step::Pass(duration) => self.pass(*duration),
        }
    }

    /// A host answers the packet that came `back` before the last one; returns which packet that is.
    pub fn reply(&mut self, back: usize, len: usize) -> Option<u64> {
        self.reply_to(self.arrivals.len().checked_sub(1 + back)?, len)
    }

    /// A host answers packet `id`, if it came.
    pub fn reply_to_packet(&mut self, id: u64, len: usize) -> Option<u64> {
        let arrival = self.arrivals.iter().rposition(|arrival| arrival.id == id)?;
        self.reply_to(arrival, len)
    }

    fn knock_at(&mut self, gateway: At, client: At, protocol: u8, pretends: Option<usize>) {
        let protocol = [Protocol::Tcp, Protocol::Udp, Protocol::IcmpEcho][usize::from(protocol % 3)];
        let (src, dst): (SocketAddr, SocketAddr) = match pretends {
            Some(resource) => {
                let is_v6 = resource % 2 == 0;
                let addr = setting::of_family(setting::resource_addr(resource), is_v6);
                // To a port that the client's applications use; an echo has one identifier only.
                let own = if protocol == Protocol::IcmpEcho { 80 } else { 4000 };
                ((addr, 80).into(), (setting::of_family(setting::device_addr(client), is_v6), own).into())
            }
            // A port from which no host ever answers.
            None => (([10, 0, 0, 5], 7777).into(), (setting::device_addr(client).v4, 7777).into()),
        };
        self.knock(gateway, (src, dst), protocol);
    }

    fn administer(&mut self, step: &Step) {
        let name = |resource: usize| RESOURCES[resource].name.parse().expect("a resource's name");
        let command = match step {
            Step::Allow(client, resource) => {
                Command::from(NewPolicy::allow(Subject::User(setting::user_name(*client)), name(*resource)))
            }
            Step::Forbid(client, resource) => match self.policy(*client, *resource) {
                Some(id) => Command::RemovePolicy { id },
                None => return,
            },
            Step::Filter(resource, variant) => {
                let Filter { tcp, udp, icmp } = RESOURCES[*resource].filter(*variant);
                let edit = ResourceEdit { tcp: Some(tcp), udp: Some(udp), icmp: Some(icmp), ..ResourceEdit::default() };
                Command::EditResource { name: name(*resource), edit }
            }
            Step::Retarget(resource, variant) => {
                let addr = match variant % 4 {
                    0 => "10.0.0.5",
                    1 => "10.0.0.6",
                    2 => "fd00:10::5",
                    _ => "fd00:10::6",
                };
                if *resource == RESOURCES.len() - 1 {
                    return self.point_name(RESOURCES[*resource].target, addr.parse().expect("an address"));
                }
                let target = Some(addr.parse().expect("a target"));
                Command::EditResource {
                    name: name(*resource),
                    edit: ResourceEdit { target, ..ResourceEdit::default() },
                }
            }
            Step::Remove(resource) => Command::RemoveResource { name: name(*resource) },
            Step::Suspend(client) => Command::SuspendUser { name: setting::user_name(*client) },
            Step::Resume(client) => Command::ResumeUser { name: setting::user_name(*client) },
            Step::Drain(gateway, is_drained) => {
                let (site, id) = (setting::site_name(CLIENTS + *gateway), setting::device_id(CLIENTS + *gateway));
                match is_drained {
                    true => Command::DrainGateway { site, id, is_forced: true },
                    false => Command::UndrainGateway { site, id },
                }
            }
            Step::Revoke(client) => Command::RevokeDevice { id: setting::device_id(*client) },
            _ => return,
        };
        // A crashed coordinator has no admin API; and what is so already is refused.
        if self.coordinator.is_running() && self.coordinator.command(&command, self.now).is_ok() {
            self.send_out();
        }
    }

    pub(crate) fn policy(&self, client: At, resource: usize) -> Option<postern_model::PolicyId> {
        let state = self.coordinator.state();
        let Owner::User(user) = state.devices.get(&setting::device_id(client))?.owner else { return None };
        let resource = setting::resource_id(resource);
        let about = |policy: &&postern_model::record::Policy| {
            policy.principal == Principal::User(user) && policy.scope == Scope::Resource(resource)
        };
        state.policies.values().find(about).map(|policy| policy.id)
    }

    /// A node's socket is elsewhere from now on; the coordinator is told, if it can be.
    fn roam(&mut self, at: At) {
        let node = &mut self.nodes[at];
        node.moves = node.moves.wrapping_add(1) % 100;
        node.outside = setting::outside(at, node.moves);
        self.tell_candidates(at);
    }

    /// Makes everything well: a perfect network, the coordinator there, everyone connected who is wanted, no gateway drained; and lets time
    /// go by for what is left of worse times to be over.
    pub fn settle(&mut self, time: Duration) {
        self.network.quality = crate::Quality::PERFECT;
        for _ in 0..600 {
            self.pass(Duration::from_secs(1));
            if self.all_connected() {
                break;
            }
        }
        if !self.all_connected() {
            self.oracle.violate(Invariant::GetsThrough, self.now, "not everyone is connected again".into());
        }
        (0..GATEWAYS).for_each(|gateway| self.step(&Step::Drain(gateway, false)));
        self.pass(time);
    }
}
