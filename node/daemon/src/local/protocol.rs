//! What goes over the local socket: one request, one reply, each a line of JSON.

use std::{collections::BTreeMap, net::SocketAddr};

use postern_model::{
    DeviceId, Filter, Fqdn, NetworkRanges, OverlayAddr, Posture, PublicKey, ResourceId, ResourceName, SiteId,
};
use postern_wire::ExplainReply;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::control::Transport;

/// The longest line that is read, in bytes.
pub const MAX_LINE: usize = 1 << 20;

/// What the command line asks of the daemon.
#[derive(Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "snake_case")]
pub enum Request {
    /// Bring the node up; with a token, enrol first.
    Up {
        /// A join token, as text.
        token: Option<Zeroizing<String>>,
        /// The UDP port that peers are to reach this node on, from now on.
        #[serde(default)]
        port: Option<u16>,
        /// How much the records of flows may take of a gateway's disk, in bytes, from now on.
        #[serde(default)]
        activity_spool: Option<u64>,
    },
    /// Take the node down, until `Up`.
    Down,
    /// Take the node down and forget who it is.
    Logout,
    /// How is it?
    Status,
    /// What can be reached?
    Resources,
    /// Reach a resource through the tunnel.
    Ping {
        /// Which.
        resource: String,
        /// How often.
        count: u32,
    },
    /// Why can a resource be reached, or not?
    Explain {
        /// Which.
        resource: String,
    },
    /// What does the network let through?
    Netcheck,
    /// Who has this overlay address?
    Whois {
        /// Which.
        addr: std::net::IpAddr,
    },
}

/// What the daemon answers.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply<T> {
    /// Done.
    Ok(T),
    /// Not done, and why.
    Error(String),
}

/// How the node is.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Status {
    /// The daemon's version, if it runs.
    #[serde(default)]
    pub version: Option<String>,
    /// Whether this device has an identity.
    pub enrolled: bool,
    /// Whether the daemon runs.
    pub running: bool,
    /// Whether the node should be up.
    pub up: bool,
    /// Whether the coordinator is connected.
    pub connected: bool,
    /// What carries the connection to the coordinator.
    #[serde(default)]
    pub transport: Option<Transport>,
    /// The relay at which the node waits for peers, by its name.
    #[serde(default)]
    pub relay: Option<String>,
    /// What is wrong, if anything is.
    pub problem: Option<String>,
    /// The device's id.
    pub id: Option<DeviceId>,
    /// The device's name.
    pub name: Option<String>,
    /// The user whose device it is, if it is a person's.
    pub user: Option<String>,
    /// The site that it is a gateway of, if it is one.
    pub site: Option<SiteId>,
    /// The coordinator's address.
    pub coordinator: Option<String>,
    /// The network interface.
    pub interface: Option<String>,
    /// The device's overlay addresses.
    pub addr: Option<OverlayAddr>,
    /// Where overlay addresses lie.
    #[serde(default)]
    pub ranges: Option<NetworkRanges>,
    /// The zone under which resources answer.
    pub zone: Option<Fqdn>,
    /// The UDP port for WireGuard.
    pub wireguard_port: Option<u16>,
    /// This node's WireGuard key.
    pub wireguard_key: Option<PublicKey>,
    /// What the device says of itself, while the node is up.
    #[serde(default)]
    pub posture: Option<Posture>,
    /// How many resources it may see.
    pub resources: usize,
    /// How many grants it carries as a gateway.
    pub grants_carried: usize,
    /// Packets taken from applications and sent to peers.
    pub out_packets: u64,
    /// Packets taken from peers and given to applications.
    pub in_packets: u64,
    /// Dropped packets, by reason.
    pub drops: BTreeMap<String, u64>,
    /// The peers of its tunnels.
    pub peers: Vec<PeerRow>,
    /// On a gateway: the records of the flows that it carries.
    #[serde(default)]
    pub activity: Option<ActivityRow>,
}

/// Records of flows, on their way to the coordinator.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ActivityRow {
    /// How many the coordinator does not have yet.
    pub waiting: u64,
    /// How many were lost since the node came up: for want of room, or because they could not be written.
    pub dropped: u64,
}

/// By which kind of path a peer is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PathKind {
    /// Straight to its address.
    Direct,
    /// Through a relay.
    Relayed,
}

/// A peer.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PeerRow {
    /// Its key, which is its id.
    pub id: PublicKey,
    /// By which kind of path it is reached, if by any.
    #[serde(default)]
    pub path: Option<PathKind>,
    /// Its address, on a direct path.
    pub endpoint: Option<SocketAddr>,
    /// The relay, on a path through one: its name.
    #[serde(default)]
    pub relay: Option<String>,
    /// How long there and back takes on that path, in milliseconds, where this node chooses it and has measured it.
    #[serde(default)]
    pub round_trip_ms: Option<f64>,
    /// How long ago the last handshake was, in seconds.
    pub handshake_seconds_ago: Option<u64>,
    /// Bytes sent to it, encrypted.
    pub sent_bytes: u64,
    /// Bytes received from it, encrypted.
    pub received_bytes: u64,
    /// The longest inner packet that is sent to it, as far as its path is known.
    pub mtu: u16,
    /// Open flows through it.
    pub flows: usize,
}

/// A resource that this device may see.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ResourceRow {
    /// Its id.
    pub id: ResourceId,
    /// Its name.
    pub name: ResourceName,
    /// The name to use: in the zone.
    pub fqdn: Fqdn,
    /// Other names under which it answers.
    pub aliases: Vec<Fqdn>,
    /// Its overlay addresses.
    pub addr: OverlayAddr,
    /// What is open.
    pub filter: Filter,
    /// How long the lease still runs, in seconds, if a grant is held.
    pub lease_seconds_left: Option<u64>,
}

/// What `up` has to say.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct UpReply {
    /// How the node is.
    pub status: Status,
    /// What it may reach.
    pub resources: Vec<ResourceRow>,
}

/// What `down` and `logout` have to say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct DownReply {
    /// Whether the node was up.
    pub was_up: bool,
    /// Whether the device had an identity; what `logout` forgot.
    pub was_enrolled: bool,
}

/// What `ping` found.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PingReply {
    /// The resource's id.
    pub id: ResourceId,
    /// The resource's name.
    pub name: ResourceName,
    /// What was sent: `icmp`, or `tcp/PORT`.
    pub with: String,
    /// The gateway's key.
    pub gateway: Option<PublicKey>,
    /// The path: where the gateway is reached, directly.
    pub endpoint: Option<SocketAddr>,
    /// The path: through which relay.
    #[serde(default)]
    pub relay: Option<String>,
    /// How long each took, in milliseconds; `null` for those without an answer.
    pub milliseconds: Vec<Option<f64>>,
}

/// Why a resource can be reached, or not.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ExplainedReply {
    /// The resource's id.
    pub id: ResourceId,
    /// The resource's name.
    pub name: ResourceName,
    /// Whether anything of it is open now.
    pub allowed: bool,
    /// Why not: a sentence.
    pub because: Option<String>,
    /// What the coordinator says.
    #[serde(flatten)]
    pub reply: ExplainReply,
}

/// Who has an overlay address.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct WhoisReply {
    /// The device's id.
    pub id: DeviceId,
    /// The device's name.
    pub name: String,
    /// The user whose device it is, if it is a person's.
    pub user: Option<String>,
    /// The device's overlay addresses.
    pub addr: OverlayAddr,
    /// The device's WireGuard key.
    pub wireguard_key: PublicKey,
}
