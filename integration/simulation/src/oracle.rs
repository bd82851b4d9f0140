//! The reference model: which packets were written, which grants are live where, and so which packet may come out where.
//!
//! It hears every message at the moment at which a node does, and sees every packet that leaves a node towards a target or
//! an application. It never looks into an engine or a table.

use std::{
    collections::{BTreeSet, HashMap},
    fmt,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use postern_model::{GrantId, Protocol, Target};
use postern_packet::Transport;
use postern_wire::{AccessReply, CoordinatorMessage, Granted, InstallGrant, NodeMessage};

use crate::{
    packets::{self, Seen},
    permits::{Permit, Permits, Use},
    setting::{self, At},
};

/// What must hold, whatever happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Invariant {
    /// No packet reaches a target unless a grant for exactly that device, resource and port is live.
    OnlyGranted,
    /// Nothing reaches an application but replies to what it opened, under a live grant, and refusals.
    OnlyReplies,
    /// No packet is delivered twice.
    Once,
    /// What is delivered is what was sent, between the right addresses.
    Unaltered,
    /// What is granted gets through when the network does.
    GetsThrough,
}

/// An invariant that did not hold.
#[derive(Debug, Clone)]
pub struct Violation {
    /// Which.
    pub invariant: Invariant,
    /// When.
    pub at: Duration,
    /// How.
    pub what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} at {:?}: {}", self.invariant, self.at, self.what)
    }
}

/// A flow as its client sees it. An echo's identifier is the port of both ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Flow {
    pub(crate) what: Use,
    pub(crate) own: SocketAddr,
    pub(crate) service: SocketAddr,
}

/// Who wrote a packet.
#[derive(Debug, Clone, Copy)]
enum Writer {
    /// A client's application; from an address of another, if forged.
    Client { flow: Flow, is_forged: bool },
    /// A host behind a gateway; as part of this flow, if any.
    Target { gateway: At, flow: Option<Flow> },
}

/// A packet that was written.
#[derive(Debug, Clone)]
struct Letter {
    writer: Writer,
    src: SocketAddr,
    dst: SocketAddr,
    len: usize,
    written_at: Duration,
    delivered_at: Option<Duration>,
    refused_at: Option<Duration>,
}

/// One end of the translation, at a gateway.
pub(crate) type Outside = (At, Protocol, SocketAddr, SocketAddr);

/// What a packet that came out is judged to be.
pub(crate) enum Judged {
    /// Carries what was written as this.
    Letter,
    /// A reset or an error that the network made itself.
    Refusal,
}

/// The reference model.
#[derive(Debug, Default)]
pub(crate) struct Oracle {
    pub(crate) violations: Vec<Violation>,
    pub(crate) permits: Permits,
    letters: Vec<Letter>,
    /// The flow that last passed between these, opener and target.
    flows: HashMap<Outside, Flow>,
    /// TCP between these, opener and target, was tried from either end.
    knocked: BTreeSet<(At, SocketAddr, SocketAddr)>,
    /// Every address that a name has ever led to.
    names: BTreeSet<(String, IpAddr)>,
    rogue: Option<At>,
}

type Verdict<T> = Result<T, (Invariant, String)>;

impl Oracle {
    pub(crate) fn new(rogue: Option<At>) -> Self {
        Self { rogue, ..Self::default() }
    }

    pub(crate) fn violate(&mut self, invariant: Invariant, at: Duration, what: String) {
        self.violations.push(Violation { invariant, at, what });
    }

    /// A node was told something in its session.
    pub(crate) fn told(&mut self, at: At, message: &CoordinatorMessage, now: Duration) {
        match message {
            CoordinatorMessage::Welcome(welcome) => {
                self.permits.end(at, |_| true, now);
                welcome.granted.iter().for_each(|granted| self.holds(at, granted, now));
                welcome.installed.iter().for_each(|install| self.carries(at, install, now));
            }
            CoordinatorMessage::Catalogue { removed, .. } => {
                let gone: Vec<_> = removed.iter().filter_map(|id| setting::resource_with(*id)).collect();
                self.permits.end(at, |permit| permit.holder == permit.client && gone.contains(&permit.resource), now);
            }
            CoordinatorMessage::Granted(granted) => self.holds(at, granted, now),
            CoordinatorMessage::InstallGrant(install) => self.carries(at, install, now),
            CoordinatorMessage::RevokeGrant { grant, .. } => self.permits.end(at, |it| it.grant == *grant, now),
            CoordinatorMessage::Evicted { .. } => self.evicted(at, now),
            CoordinatorMessage::ActivityRecorded { .. }
            | CoordinatorMessage::Certificate { .. }
            | CoordinatorMessage::Checks { .. }
            | CoordinatorMessage::Relays { .. }
            | CoordinatorMessage::StillThere {}
            | CoordinatorMessage::Unknown { .. } => {}
        }
    }

    /// A node is not wanted any more.
    pub(crate) fn evicted(&mut self, at: At, now: Duration) {
        self.permits.end(at, |_| true, now);
    }

    /// A client's request was answered.
    pub(crate) fn answered(&mut self, client: At, resource: usize, reply: &AccessReply, now: Duration) {
        match reply {
            AccessReply::Granted(granted) => self.holds(client, granted, now),
            AccessReply::Denied { reason } if reason.is_transient() => {}
            AccessReply::Denied { .. } => self.permits.end(client, |permit| permit.resource == resource, now),
        }
    }

    /// A node says something: after an acknowledged revocation nothing passes.
    pub(crate) fn said(&mut self, at: At, message: &NodeMessage, now: Duration) {
        if let NodeMessage::GrantRevoked { grant, .. } = message {
            self.permits.acknowledged_end(at, *grant, now);
        }
    }

    fn holds(&mut self, client: At, granted: &Granted, now: Duration) {
        let permit = (granted.grant, granted.filter.clone(), None, granted.lease);
        self.permit(client, client, setting::resource_with(granted.resource), permit, now);
    }

    fn carries(&mut self, gateway: At, install: &InstallGrant, now: Duration) {
        let client = (0..setting::CLIENTS).find(|client| setting::device_id(*client) == install.client.id);
        let permit = (install.grant, install.filter.clone(), Some(install.target.clone()), install.lease);
        if let Some(client) = client {
            self.permit(gateway, client, setting::resource_with(install.resource), permit, now);
        }
    }

    fn permit(
        &mut self,
        holder: At,
        client: At,
        resource: Option<usize>,
        (grant, filter, target, lease): (GrantId, postern_model::Filter, Option<Target>, Duration),
        now: Duration,
    ) {
        let Some(resource) = resource else { return };
        let (from, expires) = (now, now + lease);
        self.permits.give(Permit { holder, client, resource, grant, filter, target, from, expires, until: None });
    }

    /// A name leads here now.
    pub(crate) fn resolves(&mut self, name: &str, addr: IpAddr) {
        self.names.insert((name.to_owned(), addr));
    }

    /// A client's application writes a packet; returns which it is.
    pub(crate) fn client_writes(&mut self, flow: Flow, is_forged: bool, len: usize, now: Duration) -> u64 {
        self.write(Writer::Client { flow, is_forged }, (flow.own, flow.service), len, now)
    }

    /// A host behind a gateway writes a packet to `dst`: a reply, if a flow passed between the two.
    pub(crate) fn target_writes(
        &mut self,
        gateway: At,
        protocol: Protocol,
        (src, dst): (SocketAddr, SocketAddr),
        len: usize,
        now: Duration,
    ) -> u64 {
        let flow = self.flows.get(&(gateway, protocol, dst, src)).copied();
        if protocol == Protocol::Tcp {
            self.knocked.insert((gateway, dst, src));
        }
        self.write(Writer::Target { gateway, flow }, (src, dst), len, now)
    }

    fn write(&mut self, writer: Writer, (src, dst): (SocketAddr, SocketAddr), len: usize, now: Duration) -> u64 {
        let letter = Letter { writer, src, dst, len, written_at: now, delivered_at: None, refused_at: None };
        self.letters.push(letter);
        self.letters.len() as u64 - 1
    }

    /// When a packet was delivered.
    pub(crate) fn delivered_at(&self, id: u64) -> Option<Duration> {
        self.letters[usize::try_from(id).expect("an index")].delivered_at
    }

    /// How many packets were delivered, and how many were written.
    pub(crate) fn delivered(&self) -> (usize, usize) {
        (self.letters.iter().filter(|letter| letter.delivered_at.is_some()).count(), self.letters.len())
    }

    /// When its writer was told that a packet was refused.
    pub(crate) fn refused_at(&self, id: u64) -> Option<Duration> {
        self.letters[usize::try_from(id).expect("an index")].refused_at
    }

    /// When a packet was written, and in which flow, if in any.
    pub(crate) fn written(&self, id: u64) -> (Duration, Option<Flow>) {
        let letter = &self.letters[usize::try_from(id).expect("an index")];
        match letter.writer {
            Writer::Client { flow, .. } => (letter.written_at, Some(flow)),
            Writer::Target { flow, .. } => (letter.written_at, flow),
        }
    }

    /// Whether the flow of packet `id` is the last one between these.
    pub(crate) fn is_latest(&self, id: u64, outside: Outside) -> bool {
        self.written(id).1.is_some_and(|flow| self.flows.get(&outside) == Some(&flow))
    }

    fn letter(&mut self, seen: &Seen) -> Option<&mut Letter> {
        let id = usize::try_from(seen.id()?).ok()?;
        self.letters.get_mut(id)
    }

    /// A packet leaves a gateway for a target, because of a datagram sent at `cause`.
    pub(crate) fn reaches_target(
        &mut self,
        gateway: At,
        packet: &[u8],
        cause: Option<Duration>,
        now: Duration,
    ) -> Option<(Judged, Seen)> {
        let judged = packets::read(packet)
            .map_err(|error| (Invariant::Unaltered, error))
            .and_then(|seen| Ok((self.judge_at_target(gateway, &seen, cause, now)?, seen)));
        self.enter(judged, now, || format!("towards a target of node {gateway}"))
    }

    /// A packet leaves a client's node for its application, because of a datagram sent at `cause`.
    pub(crate) fn reaches_client(
        &mut self,
        client: At,
        packet: &[u8],
        cause: Option<Duration>,
        now: Duration,
    ) -> Option<(Judged, Seen)> {
        let judged = packets::read(packet)
            .map_err(|error| (Invariant::Unaltered, error))
            .and_then(|seen| Ok((self.judge_at_client(client, &seen, cause, now)?, seen)));
        self.enter(judged, now, || format!("towards the application of client {client}"))
    }

    fn enter<T>(&mut self, judged: Verdict<T>, now: Duration, place: impl Fn() -> String) -> Option<T> {
        judged.map_err(|(invariant, what)| self.violate(invariant, now, format!("{what}, {}", place()))).ok()
    }

    fn judge_at_target(&mut self, gateway: At, seen: &Seen, cause: Option<Duration>, now: Duration) -> Verdict<Judged> {
        let pair = (seen.src, seen.dst);
        if let Some(quoted) = &seen.quoted {
            return self.judge_error(quoted, |letter| matches!(letter.writer, Writer::Target { .. }), now);
        }
        if seen.is_reset() && seen.payload.is_empty() {
            return match self.knocked.contains(&(gateway, seen.src, seen.dst)) {
                true => Ok(Judged::Refusal),
                false => Err((Invariant::OnlyGranted, format!("a reset of nothing, {pair:?}"))),
            };
        }
        let unknown = || (Invariant::OnlyGranted, format!("a packet that no client wrote, {pair:?}"));
        let letter = self.letter(seen).ok_or_else(unknown)?.clone();
        let Writer::Client { flow, is_forged } = letter.writer else { return Err(unknown()) };
        let Flow { what, own, .. } = flow;
        if is_forged {
            return Err((Invariant::OnlyGranted, format!("{what:?} from the address of another, {own}")));
        }
        let targets: Vec<_> = self.permits.live(gateway, what, now).filter_map(|it| it.target.clone()).collect();
        if targets.is_empty() {
            return Err((Invariant::OnlyGranted, format!("{what:?} without a live grant at the gateway")));
        }
        if Some(what.client) != self.rogue && !self.permits.is_live(what.client, what, cause.unwrap_or(now)) {
            return Err((Invariant::OnlyGranted, format!("{what:?} without a live grant at its client")));
        }
        let leads = |target: &Target| match target {
            Target::Ip(ip) => *ip == seen.dst.ip(),
            Target::Host(name) => self.names.contains(&(name.to_string(), seen.dst.ip())),
        };
        let source = setting::of_family(setting::device_addr(what.client), seen.dst.is_ipv6());
        let is_right_port = what.protocol == Protocol::IcmpEcho || seen.dst.port() == what.port;
        if !targets.iter().any(leads) || seen.src.ip() != source || !is_right_port || seen.protocol() != what.protocol {
            return Err((Invariant::Unaltered, format!("{what:?} as {pair:?}, not to any of {targets:?}")));
        }
        self.flows.insert((gateway, what.protocol, seen.src, seen.dst), flow);
        if what.protocol == Protocol::Tcp {
            self.knocked.insert((gateway, seen.src, seen.dst));
        }
        self.deliver(seen, now)
    }

    fn judge_at_client(&mut self, client: At, seen: &Seen, cause: Option<Duration>, now: Duration) -> Verdict<Judged> {
        let pair = (seen.src, seen.dst);
        if let Some(quoted) = &seen.quoted {
            let own =
                |letter: &Letter| matches!(letter.writer, Writer::Client { flow, .. } if flow.what.client == client);
            return self.judge_error(quoted, own, now);
        }
        if seen.is_reset() && seen.payload.is_empty() {
            let asked = |letter: &Letter| match letter.writer {
                Writer::Client { flow, .. } => {
                    flow.what.client == client
                        && flow.what.protocol == Protocol::Tcp
                        && (letter.dst, letter.src) == pair
                }
                Writer::Target { .. } => false,
            };
            return match self.letters.iter().any(asked) {
                true => Ok(Judged::Refusal),
                false => Err((Invariant::OnlyReplies, format!("a reset of nothing, {pair:?}"))),
            };
        }
        let unknown = || (Invariant::OnlyReplies, format!("not a reply to anything, {pair:?}"));
        let letter = self.letter(seen).ok_or_else(unknown)?.clone();
        let Writer::Target { gateway, flow: Some(flow) } = letter.writer else { return Err(unknown()) };
        let what = flow.what;
        if what.client != client {
            return Err((Invariant::OnlyReplies, format!("a reply to {what:?}")));
        }
        let Some(sent_at) = cause else { return Err(unknown()) };
        if !self.permits.is_live(gateway, what, sent_at) {
            return Err((Invariant::OnlyReplies, format!("a reply to {what:?} without a live grant at the gateway")));
        }
        if Some(client) != self.rogue && !self.permits.is_live(client, what, now) {
            return Err((Invariant::OnlyReplies, format!("a reply to {what:?} without a live grant at the client")));
        }
        if (seen.dst, seen.src) != (flow.own, flow.service) || seen.protocol() != what.protocol {
            return Err((Invariant::Unaltered, format!("a reply to {flow:?} as {pair:?}")));
        }
        self.deliver(seen, now)
    }

    /// An ICMP error tells only the writer of a packet, in the writer's own words.
    fn judge_error(&mut self, quoted: &Seen, may: impl Fn(&Letter) -> bool, now: Duration) -> Verdict<Judged> {
        let pair = (quoted.src, quoted.dst);
        let letter = self.letter(quoted).filter(|letter| may(letter) && (letter.src, letter.dst) == pair);
        let letter = letter.ok_or((Invariant::OnlyReplies, format!("an error about what was never sent, {pair:?}")))?;
        letter.refused_at.get_or_insert(now);
        Ok(Judged::Refusal)
    }

    fn deliver(&mut self, seen: &Seen, now: Duration) -> Verdict<Judged> {
        let id = seen.id().unwrap_or_default();
        let Some(letter) = self.letter(seen) else { return Ok(Judged::Letter) };
        if packets::payload(id, letter.len) != seen.payload || seen.transport == Transport::IcmpError {
            return Err((Invariant::Unaltered, format!("packet {id} with another payload")));
        }
        match letter.delivered_at.replace(now) {
            Some(before) => Err((Invariant::Once, format!("packet {id} again, first at {before:?}"))),
            None => Ok(Judged::Letter),
        }
    }
}
