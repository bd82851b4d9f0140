//! [`State`]: who is there, and who may exchange packets with whom. No I/O; the time is an argument.
//!
//! ```text
//! handle_joined ─► handle_pass, handle_close … ─► handle_left     what connections do
//! handle_timeout, about once a second                             what ends by itself
//! poll_output until None                                          what is to be done, in order
//! ```
//!
//! A *channel* is one node's pass for one peer, under a number of that node's connection. It is *linked* with the channel
//! that the peer has for this node, once there is one; only linked channels forward. Numbers are not used again for as long
//! as possible: a datagram may overtake the word that its channel is gone.

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    time::Duration,
};

use postern_model::{Moment, PublicKey, Sha256, Timestamp};
use postern_wire::{
    RelayNews, close,
    relay::{Header, RelayRefusal},
};
use rustc_hash::FxHashMap;

use crate::trust::CheckedPass;

/// How long a connection may be without an accepted pass.
pub const PATIENCE: Duration = Duration::from_secs(10);
/// How much later than the coordinator's this relay's clock may be: so much longer a pass is taken.
pub const SKEW: Duration = Duration::from_secs(120);

/// How much a relay takes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Connections at once.
    pub connections: usize,
    /// Channels of all of them.
    pub channels: usize,
    /// Channels of one: a gateway has one for each of its clients.
    pub channels_each: usize,
}

impl Default for Limits {
    fn default() -> Self {
        // A channel takes some 250 bytes.
        Self { connections: 50_000, channels: 500_000, channels_each: 20_000 }
    }
}

/// A channel of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct End {
    /// Which connection, by its number.
    pub connection: u64,
    /// Which of its channels.
    pub channel: u32,
}

/// One thing to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// Datagrams that come from one end go to the other from now on, or nowhere.
    Link(End, Option<End>),
    /// Tell a connection.
    News(u64, RelayNews),
    /// Close a connection with this code of [`postern_wire::close`]; it has left already.
    Close(u64, u32, &'static str),
}

/// Everyone who is connected.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct State {
    limits: Limits,
    nodes: HashMap<u64, Node>,
    /// Which connection is a WireGuard peer's.
    holders: HashMap<PublicKey, u64>,
    channels: usize,
    /// When passes end: of channels, and those by which a connection may stay.
    ends: BTreeSet<(Timestamp, u64, Option<u32>)>,
    /// Until when each is to have shown a pass, in that order.
    newcomers: VecDeque<(Moment, u64)>,
    outputs: VecDeque<Output>,
}

#[derive(Debug, PartialEq, Eq)]
struct Node {
    /// Digest of the device key that it has shown to hold.
    key: Sha256,
    /// Who it is and until when it may stay, once it has shown a pass.
    holder: Option<(PublicKey, Timestamp)>,
    channels: FxHashMap<u32, Channel>,
    by_peer: HashMap<PublicKey, u32>,
    next_channel: u32,
}

#[derive(Debug, PartialEq, Eq)]
struct Channel {
    peer: PublicKey,
    until: Timestamp,
    linked: Option<End>,
}

impl State {
    /// Nobody is there yet.
    pub fn new(limits: Limits) -> Self {
        Self { limits, ..Self::default() }
    }

    /// How many connections there are, and channels.
    pub fn sizes(&self) -> (usize, usize) {
        (self.nodes.len(), self.channels)
    }

    /// A node has connected with this device key. `false` when there is no room.
    pub fn handle_joined(&mut self, connection: u64, key: Sha256, moment: Moment) -> bool {
        if self.nodes.len() >= self.limits.connections {
            return false;
        }
        let node = Node { key, holder: None, channels: FxHashMap::default(), by_peer: HashMap::new(), next_channel: 0 };
        self.nodes.insert(connection, node);
        self.newcomers.push_back((moment + PATIENCE, connection));
        true
    }

    /// A connection shows a pass.
    pub fn handle_pass(&mut self, connection: u64, pass: &CheckedPass, now: Timestamp) {
        let peer = pass.pass().peer;
        match self.open(connection, pass, now) {
            Ok(Some(channel)) => self.tell(connection, RelayNews::Opened { peer, channel }),
            Ok(None) => {}
            Err(reason) => self.refuse(connection, peer, reason),
        }
        self.link(connection, &peer, now);
    }

    /// Whether a connection has shown a pass.
    pub fn is_admitted(&self, connection: u64) -> bool {
        self.nodes.get(&connection).is_some_and(|node| node.holder.is_some())
    }

    /// A connection shows what is no pass of ours.
    pub fn refuse(&mut self, connection: u64, peer: PublicKey, reason: RelayRefusal) {
        self.tell(connection, RelayNews::Refused { peer, reason });
    }

    /// Takes the pass; the number of its channel, if it is for another.
    fn open(&mut self, connection: u64, pass: &CheckedPass, now: Timestamp) -> Result<Option<u32>, RelayRefusal> {
        let pass = pass.pass();
        let until = pass.expires.plus(SKEW);
        let Some(node) = self.nodes.get(&connection) else { return Ok(None) };
        if pass.key != node.key || node.holder.is_some_and(|(holder, _)| holder != pass.holder) {
            return Err(RelayRefusal::Holder);
        }
        if now >= until {
            return Err(RelayRefusal::Expired);
        }
        let known = node.by_peer.get(&pass.peer).copied();
        let is_new = pass.peer != pass.holder && known.is_none();
        if is_new && (node.channels.len() >= self.limits.channels_each || self.channels >= self.limits.channels) {
            return Err(RelayRefusal::TooMany);
        }
        if let Some(other) = self.holders.get(&pass.holder).copied().filter(|other| *other != connection) {
            // A node that came anew, and whose old connection has not noticed. No other key takes anybody's place.
            if self.nodes.get(&other).is_some_and(|other| other.key != pass.key) {
                return Err(RelayRefusal::Holder);
            }
            self.send_away(other, close::SUPERSEDED, "this node has connected anew");
        }
        self.holders.insert(pass.holder, connection);
        let Some(node) = self.nodes.get_mut(&connection) else { return Ok(None) };
        let before = node.holder.map(|(_, until)| until);
        if before.is_none_or(|before| before < until) {
            node.holder = Some((pass.holder, until));
            if let Some(before) = before {
                self.ends.remove(&(before, connection, None));
            }
            self.ends.insert((until, connection, None));
        }
        if let Some(number) = known {
            if let Some(channel) = node.channels.get_mut(&number).filter(|channel| channel.until < until) {
                self.ends.remove(&(channel.until, connection, Some(number)));
                channel.until = until;
                self.ends.insert((until, connection, Some(number)));
            }
            return Ok(Some(number));
        }
        if !is_new {
            return Ok(None);
        }
        let number = node.free_number();
        node.channels.insert(number, Channel { peer: pass.peer, until, linked: None });
        node.by_peer.insert(pass.peer, number);
        self.ends.insert((until, connection, Some(number)));
        self.channels += 1;
        Ok(Some(number))
    }

    /// Links the two channels between a connection and a peer, if there are two.
    fn link(&mut self, connection: u64, peer: &PublicKey, now: Timestamp) {
        let Some(here) = self.end(connection, peer, now) else { return };
        let Some((holder, _)) = self.nodes.get(&connection).and_then(|node| node.holder) else { return };
        let Some(other) = self.holders.get(peer).copied() else { return };
        let Some(there) = self.end(other, &holder, now) else { return };
        if self.channel(here).is_none_or(|channel| channel.linked == Some(there)) {
            return;
        }
        for (from, to) in [(here, there), (there, here)] {
            if let Some(channel) = self.channel(from) {
                channel.linked = Some(to);
            }
            self.outputs.push_back(Output::Link(from, Some(to)));
            self.tell(from.connection, RelayNews::There { channel: from.channel, is_there: true });
        }
    }

    /// A connection's channel for a peer, if its pass has not run out.
    fn end(&self, connection: u64, peer: &PublicKey, now: Timestamp) -> Option<End> {
        let node = self.nodes.get(&connection)?;
        let channel = *node.by_peer.get(peer)?;
        node.channels.get(&channel).filter(|channel| now < channel.until)?;
        Some(End { connection, channel })
    }

    fn channel(&mut self, end: End) -> Option<&mut Channel> {
        self.nodes.get_mut(&end.connection)?.channels.get_mut(&end.channel)
    }

    /// A connection wants nothing more to do with a peer.
    pub fn handle_close(&mut self, connection: u64, peer: &PublicKey) {
        let channel = self.nodes.get(&connection).and_then(|node| node.by_peer.get(peer).copied());
        if let Some(channel) = channel {
            self.remove_channel(End { connection, channel });
        }
    }

    fn remove_channel(&mut self, end: End) {
        let Some(node) = self.nodes.get_mut(&end.connection) else { return };
        let Some(channel) = node.channels.remove(&end.channel) else { return };
        node.by_peer.remove(&channel.peer);
        self.channels -= 1;
        self.ends.remove(&(channel.until, end.connection, Some(end.channel)));
        let Some(there) = channel.linked else { return };
        self.outputs.push_back(Output::Link(end, None));
        if let Some(other) = self.channel(there) {
            other.linked = None;
            self.outputs.push_back(Output::Link(there, None));
            self.tell(there.connection, RelayNews::There { channel: there.channel, is_there: false });
        }
    }

    /// A connection is gone.
    pub fn handle_left(&mut self, connection: u64) {
        let Some(node) = self.nodes.get(&connection) else { return };
        let channels: Vec<_> = node.channels.keys().copied().collect();
        for channel in channels {
            self.remove_channel(End { connection, channel });
        }
        let Some(Node { holder: Some((holder, until)), .. }) = self.nodes.remove(&connection) else { return };
        self.ends.remove(&(until, connection, None));
        self.holders.remove(&holder);
    }

    /// Ends what is over: channels and connections whose passes have run out, and connections that have shown none in time.
    pub fn handle_timeout(&mut self, now: Timestamp, moment: Moment) {
        while let Some((_, connection)) = self.newcomers.pop_front_if(|(until, _)| *until <= moment) {
            if self.nodes.get(&connection).is_some_and(|node| node.holder.is_none()) {
                self.send_away(connection, close::UNAUTHORIZED, "no pass was shown in time");
            }
        }
        while let Some((until, connection, channel)) = self.ends.first().copied().filter(|(until, ..)| *until <= now) {
            self.ends.remove(&(until, connection, channel));
            match channel {
                Some(channel) => {
                    self.remove_channel(End { connection, channel });
                    self.tell(connection, RelayNews::Closed { channel });
                }
                None => self.send_away(connection, close::UNAUTHORIZED, "all passes have run out"),
            }
        }
    }

    fn send_away(&mut self, connection: u64, code: u32, why: &'static str) {
        self.handle_left(connection);
        self.outputs.push_back(Output::Close(connection, code, why));
    }

    fn tell(&mut self, connection: u64, news: RelayNews) {
        if self.nodes.contains_key(&connection) {
            self.outputs.push_back(Output::News(connection, news));
        }
    }

    /// Where a datagram goes that came from this end.
    pub fn forward(&self, from: End) -> Option<End> {
        self.nodes.get(&from.connection)?.channels.get(&from.channel)?.linked
    }

    /// The next thing to do.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }
}

impl Node {
    /// The next number in a round through all of them that is not in use; there are far more than channels.
    fn free_number(&mut self) -> u32 {
        loop {
            let number = self.next_channel;
            self.next_channel = (number + 1) % Header::CHANNELS;
            if !self.channels.contains_key(&number) {
                return number;
            }
        }
    }
}
