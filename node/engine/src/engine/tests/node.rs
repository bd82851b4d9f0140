//! An engine with a clock, and what it wants done, as lines.

use std::{net::IpAddr, sync::Arc, time::Duration};

use postern_model::{DenyReason, GrantId, Moment, ResourceId, Revision};
use postern_wire::{AccessReply, CoordinatorMessage, Granted, InstallGrant, NodeMessage, Welcome};

use super::setting::{grant, resource, welcome};
use crate::{Engine, EngineEvent, ForwardingTable, Generation, Miss};

/// One engine, and the time.
pub(super) struct Node {
    pub(super) engine: Engine,
    pub(super) now: Moment,
    /// The last table that was published.
    pub(super) table: Option<Arc<ForwardingTable>>,
    /// The welcomes that it has said to be in force.
    pub(super) settled: Vec<Revision>,
}

impl Node {
    /// Nobody has said anything yet.
    pub(super) fn new() -> Self {
        Self {
            engine: Engine::new(),
            now: Moment::from_boot(Duration::from_secs(1000)),
            table: None,
            settled: Vec::new(),
        }
    }

    /// In a session, with this catalogue.
    pub(super) fn connected(catalogue: &[u8]) -> Self {
        let mut node = Self::new();
        node.welcome(welcome(catalogue));
        assert_eq!(node.events(), ["table"]);
        node.applied();
        assert!(node.events().is_empty());
        node
    }

    /// In a session, and holds a grant for the first resource of the catalogue, numbered 1.
    pub(super) fn holding(catalogue: &[u8]) -> Self {
        let mut node = Self::connected(catalogue);
        node.want(catalogue[0]);
        node.granted(super::setting::granted(1, catalogue[0]));
        assert_eq!(node.events(), [format!("ask {}", catalogue[0]), "table held 1".to_owned()]);
        node
    }

    pub(super) fn message(&mut self, message: CoordinatorMessage) {
        self.engine.handle_message(message, self.now);
    }

    pub(super) fn welcome(&mut self, welcome: Welcome) {
        self.message(CoordinatorMessage::Welcome(Box::new(welcome)));
    }

    pub(super) fn install(&mut self, install: InstallGrant) {
        self.message(CoordinatorMessage::InstallGrant(Box::new(install)));
    }

    pub(super) fn revoke(&mut self, number: u8) {
        self.message(CoordinatorMessage::RevokeGrant { grant: grant(number), reason: DenyReason::NoPolicy });
    }

    /// A packet without a grant; the bytes are its name.
    pub(super) fn miss(&mut self, number: u8, packet: &str) {
        self.engine.handle_miss(Miss { resource: resource(number), packet: packet.into() }, self.now);
    }

    pub(super) fn want(&mut self, number: u8) {
        self.engine.handle_wanted(resource(number), self.now);
    }

    /// The coordinator says yes to the request for the grant's resource.
    pub(super) fn granted(&mut self, granted: Granted) {
        self.engine.handle_access_reply(granted.resource, Some(AccessReply::Granted(granted)), self.now);
    }

    pub(super) fn denied(&mut self, number: u8, reason: DenyReason) {
        self.engine.handle_access_reply(resource(number), Some(AccessReply::Denied { reason }), self.now);
    }

    /// The coordinator could not be asked.
    pub(super) fn unanswered(&mut self, number: u8) {
        self.engine.handle_access_reply(resource(number), None, self.now);
    }

    pub(super) fn in_use(&mut self, numbers: &[u8]) {
        let resources: Vec<_> = numbers.iter().map(|number| resource(*number)).collect();
        self.engine.handle_usage(&resources, self.now);
    }

    pub(super) fn resolved(&mut self, host: &str, addresses: &[&str]) {
        let addresses = addresses.iter().map(|addr| addr.parse().unwrap()).collect();
        self.engine.handle_resolved(&host.parse().unwrap(), addresses, self.now);
    }

    /// The forwarder has the last table in force.
    pub(super) fn applied(&mut self) {
        self.engine.handle_applied(self.generation(), &[]);
    }

    /// The same, and it cut flows for that, by grant.
    pub(super) fn applied_and_cut(&mut self, cut: &[(u8, u64)]) {
        let cut: Vec<_> = cut.iter().map(|(number, flows)| (grant(*number), *flows)).collect();
        self.engine.handle_applied(self.generation(), &cut);
    }

    pub(super) fn generation(&self) -> Generation {
        self.table.as_ref().map(|table| table.generation).unwrap_or_default()
    }

    /// Lets time go by in which nothing is to happen.
    pub(super) fn idle(&mut self, duration: Duration) {
        assert_eq!(self.pass(duration), []);
    }

    /// Lets time go by, with every timer on its time; what happened meanwhile, each with the seconds gone by then.
    #[must_use]
    pub(super) fn pass(&mut self, duration: Duration) -> Vec<(f64, String)> {
        let (start, end) = (self.now, self.now + duration);
        let mut lines: Vec<_> = self.events().into_iter().map(|line| (0.0, line)).collect();
        let mut same_instant = 0;
        while let Some(due) = self.engine.poll_timeout().filter(|due| *due <= end) {
            same_instant = if due > self.now { 0 } else { same_instant + 1 };
            assert!(same_instant < 10, "the timers stand still");
            self.now = self.now.max(due);
            self.engine.handle_timeout(self.now);
            let gone = self.now.since(start).as_secs_f64();
            lines.extend(self.events().into_iter().map(|line| (gone, line)));
        }
        self.now = end;
        lines
    }

    /// What the engine wants done since the last look. Every table that it publishes is sound, and has a higher number.
    pub(super) fn events(&mut self) -> Vec<String> {
        let mut lines = Vec::new();
        while let Some(event) = self.engine.poll_event() {
            if let EngineEvent::Publish(table) = &event {
                assert!(table.generation > self.generation());
                assert_sound(table, self.now);
                self.table = Some(Arc::clone(table));
            }
            // It follows every welcome, and has tests of its own.
            if let EngineEvent::Send(NodeMessage::Settled { revision }) = event {
                self.settled.push(revision);
                continue;
            }
            lines.push(line(&event));
        }
        lines
    }

    pub(super) fn table(&self) -> &ForwardingTable {
        self.table.as_ref().expect("a table was published")
    }

    /// Where a carried grant's packets go.
    pub(super) fn targets(&self, number: u8) -> Vec<String> {
        let mut grants = self.table().carried.values();
        let carried = grants.find(|carried| carried.grant == grant(number)).expect("it is carried");
        carried.targets.iter().map(IpAddr::to_string).collect()
    }
}

/// Invariants of every table: grants are held only within the catalogue, no lease is over, and every grant has its peer.
fn assert_sound(table: &ForwardingTable, now: Moment) {
    for (addr, held) in &table.held {
        let visible = &table.catalogue[addr];
        assert_eq!((visible.resource, visible.addr), (held.resource, held.addr));
        assert!(now <= held.expires && table.peers[&held.peer].initiate, "{held:?} at {now:?}");
    }
    for carried in table.carried.values() {
        assert!(now <= carried.expires && table.peers.contains_key(&carried.peer), "{carried:?} at {now:?}");
    }
}

fn number(id: [u8; 16]) -> u8 {
    id[0]
}

fn of(resource: ResourceId) -> u8 {
    number(*resource.as_bytes())
}

fn of_grant(grant: GrantId) -> u8 {
    number(*grant.as_bytes())
}

fn cuts(flows: u64) -> String {
    if flows == 0 { String::new() } else { format!(" cut {flows}") }
}

fn line(event: &EngineEvent) -> String {
    let text = |packets: &[Vec<u8>]| -> String {
        let names = packets.iter().map(|packet| String::from_utf8_lossy(packet));
        names.collect::<Vec<_>>().join(" ")
    };
    match event {
        EngineEvent::Publish(table) => {
            let held = table.held.values().map(|held| number(*held.grant.as_bytes())).collect();
            let carried = table.carried.values().map(|carried| number(*carried.grant.as_bytes())).collect();
            format!("table{}{}", list(" held", held), list(" carried", carried))
        }
        EngineEvent::RequestAccess(resource, None) => format!("ask {}", of(*resource)),
        EngineEvent::RequestAccess(resource, Some(name)) => format!("ask {} as {name}", of(*resource)),
        EngineEvent::Send(NodeMessage::GrantInstalled { grant, cut }) => {
            format!("installed {}{}", of_grant(*grant), cuts(*cut))
        }
        EngineEvent::Send(NodeMessage::GrantRevoked { grant, cut }) => {
            format!("revoked {}{}", of_grant(*grant), cuts(*cut))
        }
        EngineEvent::Send(other) => panic!("an engine does not send {other:?}"),
        EngineEvent::Replay(packets) => format!("replay {}", text(packets)),
        EngineEvent::Refuse(packets, reason) => format!("refuse {}: {}", text(packets), reason.label()),
        EngineEvent::Resolve(host) => format!("resolve {host}"),
        EngineEvent::QueryUsage => "in use?".to_owned(),
        EngineEvent::RelayPeers(peers) => format!("{} relay peers", peers.len()),
        EngineEvent::Denied(resource, reason) => format!("denied {}: {}", of(*resource), reason.label()),
    }
}

/// Grants are in the table once for each family.
fn list(what: &str, mut grants: Vec<u8>) -> String {
    grants.sort_unstable();
    assert!(grants.chunks(2).all(|pair| pair.len() == 2 && pair[0] == pair[1]), "both families: {grants:?}");
    grants.dedup();
    let numbers: String = grants.iter().map(|number| format!(" {number}")).collect();
    if numbers.is_empty() { numbers } else { format!("{what}{numbers}") }
}
