//! What the node can tell: to the local API, and to `wg show`.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc, time::Duration};

use postern_dataplane::{LaneStatus, clock};
use postern_engine::Endpoint;
use postern_model::{Moment, PublicKey, RelayId};

use super::{Node, handle::Command, lane_status};
use crate::{
    control::session::Session,
    local::protocol::{ActivityRow, PathKind, PeerRow, ResourceRow, Status, WhoisReply},
    reach::Reach,
    uapi::{UapiPeer, UapiStatus},
};

impl Node {
    pub(super) async fn command(&mut self, command: Command) {
        match command {
            Command::Stop(_) => unreachable!("ends the loop"),
            Command::Usable(answer) => match &self.problem {
                None if self.welcome.is_some() => drop(answer.send(Ok(()))),
                Some(problem) if self.is_stuck => drop(answer.send(Err(problem.clone()))),
                _ => self.wait_usable.push(answer),
            },
            Command::Grant(resource, answer) => {
                self.wait_grant.push((resource, answer));
                self.engine.handle_demanded(resource, clock::now());
            }
            Command::Status(answer) => {
                let (mut status, concern) = (self.status().await, self.machine.concern());
                tokio::spawn(async move {
                    if status.problem.is_none() {
                        status.problem = concern.await;
                    }
                    let _ = answer.send(status);
                });
            }
            Command::Reach(answer) => {
                if let Some(status) = self.reach.as_ref().map(Reach::status) {
                    tokio::spawn(async move {
                        if let Ok(status) = status.await {
                            let _ = answer.send(status);
                        }
                    });
                }
            }
            Command::Resources(answer) => drop(answer.send(self.resources())),
            Command::Explain(resource, answer) => {
                let session = self.session.clone();
                tokio::spawn(async move {
                    let reply = match session {
                        Some(session) => session.explain(resource).await,
                        None => None,
                    };
                    let _ = answer.send(reply);
                });
            }
            Command::GatewayOf(resource, answer) => {
                let held = self.engine.resources(clock::now()).into_iter().find(|held| held.entry.id == resource);
                let _ = answer.send(held.and_then(|held| held.gateway));
            }
            Command::Whois(addr, answer) => {
                let found = self.engine.whois(addr).map(|client| WhoisReply {
                    id: client.id,
                    name: client.name.clone(),
                    user: client.user.clone(),
                    addr: client.addr,
                    wireguard_key: client.wireguard,
                });
                let _ = answer.send(found);
            }
            Command::Uapi(answer) => drop(answer.send(self.uapi().await)),
            Command::HasEnded(answer) => drop(answer.send(self.is_evicted || self.is_stuck)),
        }
    }

    fn resources(&self) -> Vec<ResourceRow> {
        let Some(welcome) = &self.welcome else { return Vec::new() };
        let row = |held: postern_engine::HeldStatus| ResourceRow {
            id: held.entry.id,
            fqdn: held.entry.name.in_zone(&welcome.zone),
            name: held.entry.name,
            aliases: held.entry.aliases,
            addr: held.entry.addr,
            filter: held.entry.filter,
            lease_seconds_left: held.lease_left.map(|left| left.as_secs()),
        };
        self.engine.resources(clock::now()).into_iter().map(row).collect()
    }

    async fn status(&self) -> Status {
        let lane = self.ask_lane().await;
        let identity = Arc::clone(&self.identity.borrow());
        let now = clock::now();
        let kind = |endpoint: Endpoint| if endpoint.is_relayed() { PathKind::Relayed } else { PathKind::Direct };
        let peers = lane.peers.iter().map(|peer| PeerRow {
            id: peer.key,
            path: peer.endpoint.map(kind),
            endpoint: peer.endpoint.and_then(Endpoint::direct),
            relay: peer.endpoint.and_then(Endpoint::relay).map(|relay| self.relay_name(relay)),
            round_trip_ms: peer.round_trip.map(|time| time.as_secs_f64() * 1000.0),
            handshake_seconds_ago: peer.stats.last_handshake.map(|at| now.since(at).as_secs()),
            sent_bytes: peer.stats.sent_bytes,
            received_bytes: peer.stats.received_bytes,
            mtu: peer.mtu,
            flows: peer.flows,
        });
        let drops = lane.counters.drops().map(|(reason, count)| (reason.label().to_owned(), count));
        Status {
            version: Some(env!("CARGO_PKG_VERSION").into()),
            enrolled: true,
            running: true,
            up: true,
            connected: self.session.is_some() && !self.is_evicted,
            transport: self.session.as_ref().map(Session::transport),
            relay: self.hello.borrow().relay.map(|relay| self.relay_name(relay)),
            problem: self.problem.clone(),
            id: Some(identity.device),
            name: Some(identity.name.clone()),
            user: self.welcome.as_ref().and_then(|welcome| welcome.user.clone()),
            site: self.welcome.as_ref().and_then(|welcome| welcome.site),
            coordinator: Some(identity.coordinator.to_string()),
            interface: Some(self.machine.interface().to_owned()),
            addr: self.welcome.as_ref().map(|welcome| welcome.addr),
            ranges: self.welcome.as_ref().map(|welcome| welcome.ranges),
            zone: self.welcome.as_ref().map(|welcome| welcome.zone.clone()),
            wireguard_port: Some(self.hello.borrow().wireguard_port),
            wireguard_key: Some(self.machine.key()),
            posture: Some(self.hello.borrow().posture.clone()),
            resources: self.engine.resources(now).len(),
            grants_carried: self.engine.carried(),
            out_packets: lane.counters.out_packets,
            in_packets: lane.counters.in_packets,
            drops: drops.collect::<BTreeMap<_, _>>(),
            peers: peers.collect(),
            activity: self.recorder.as_ref().map(|recorder| ActivityRow {
                waiting: recorder.counts().waiting(),
                dropped: recorder.counts().dropped(),
            }),
        }
    }

    fn relay_name(&self, relay: RelayId) -> String {
        let relays = self.welcome.as_ref().map(|welcome| &welcome.relays[..]).unwrap_or_default();
        let entry = relays.iter().find(|entry| entry.id == relay);
        entry.map_or_else(|| relay.to_string(), |entry| entry.name.clone())
    }

    async fn uapi(&self) -> UapiStatus {
        let lane = self.ask_lane().await;
        let peers = lane.peers.iter().map(|peer| UapiPeer {
            key: peer.key,
            endpoint: peer.endpoint.and_then(Endpoint::direct),
            allowed_ips: self.addresses_behind(&peer.key),
            last_handshake: peer.stats.last_handshake.map(wall_clock),
            tx_bytes: peer.stats.sent_bytes,
            rx_bytes: peer.stats.received_bytes,
            persistent_keepalive: peer.persistent_keepalive,
        });
        UapiStatus { listen_port: self.hello.borrow().wireguard_port, peers: peers.collect() }
    }

    /// The overlay addresses that a peer stands for: resources that it guards, and its own as a client.
    fn addresses_behind(&self, key: &PublicKey) -> Vec<IpAddr> {
        let Some(table) = &self.table else { return Vec::new() };
        let guarded = table.held.iter().filter(|(_, held)| held.peer == *key).map(|(addr, _)| *addr);
        let own = table.carried.iter().filter(|(_, carried)| carried.peer == *key).map(|((client, _), _)| *client);
        let mut addresses: Vec<_> = guarded.chain(own).collect();
        addresses.sort_unstable();
        addresses.dedup();
        addresses
    }

    async fn ask_lane(&self) -> LaneStatus {
        lane_status(Arc::clone(&self.lane)).await.unwrap_or_else(|| LaneStatus {
            peers: Vec::new(),
            counters: postern_engine::Counters::default(),
            generation: None,
            in_use: Vec::new(),
        })
    }
}

/// A moment of this machine as time since the Unix epoch.
fn wall_clock(at: Moment) -> Duration {
    crate::clock::since_epoch().saturating_sub(clock::now().since(at))
}
