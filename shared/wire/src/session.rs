//! The session: what goes up and down between an enrolled node and the coordinator while both are there.

use std::time::Duration;

use postern_model::{
    Candidate, DenyReason, DeviceId, Filter, Fqdn, GrantId, NetworkRanges, OverlayAddr, Posture, PresharedKey,
    PublicKey, ResourceId, ResourceName, Revision, SiteId, Target,
};
use serde::{Deserialize, Serialize};

use crate::access::Granted;

/// Opens a session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// Made at random at each start of the node: tells a reconnect from a second node with a copied state directory.
    pub instance: [u8; 16],
    /// The UDP port of the node's WireGuard socket.
    pub wireguard_port: u16,
    /// Where the node may be reached.
    pub candidates: Vec<Candidate>,
    /// What the device says of itself.
    pub posture: Posture,
}

/// The authoritative snapshot that answers a [`Hello`]: whatever a node holds that is not in it ends.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Welcome {
    /// The coordinator's revision.
    pub revision: Revision,
    /// The device's id.
    pub device: DeviceId,
    /// The device's name.
    pub name: String,
    /// The name of the user whose device it is, if it is a person's.
    pub user: Option<String>,
    /// The site that the device is a gateway of, if it is one.
    pub site: Option<SiteId>,
    /// Its overlay addresses.
    pub addr: OverlayAddr,
    /// Where overlay addresses lie.
    pub ranges: NetworkRanges,
    /// The zone under which resources answer.
    pub zone: Fqdn,
    /// The resources that the device may see.
    pub catalogue: Vec<CatalogueEntry>,
    /// The grants that the device holds as a client.
    pub granted: Vec<Granted>,
    /// The grants that the device carries as a gateway.
    pub installed: Vec<InstallGrant>,
    /// How long until the device certificate should be renewed.
    pub renew_certificate_in: Duration,
}

/// A resource as a client sees it. Nothing says where it is or who guards it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CatalogueEntry {
    /// Its id.
    pub id: ResourceId,
    /// Its name.
    pub name: ResourceName,
    /// Other names under which it answers.
    pub aliases: Vec<Fqdn>,
    /// Its overlay addresses.
    pub addr: OverlayAddr,
    /// What is open.
    pub filter: Filter,
}

/// The client of a grant, as its gateway needs to know it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerDevice {
    /// Its id.
    pub id: DeviceId,
    /// Its name.
    pub name: String,
    /// Its user's name, if it is a person's.
    pub user: Option<String>,
    /// Its overlay addresses: the only sources that it may send from.
    pub addr: OverlayAddr,
    /// Its WireGuard key.
    pub wireguard: PublicKey,
}

/// The gateway's side of a grant. Coming again with the same id, it renews the lease.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstallGrant {
    /// Its id.
    pub grant: GrantId,
    /// Who may come.
    pub client: PeerDevice,
    /// The pair's preshared key.
    pub preshared_key: PresharedKey,
    /// Where the client may be reached.
    pub candidates: Vec<Candidate>,
    /// To which resource.
    pub resource: ResourceId,
    /// Its name.
    pub resource_name: ResourceName,
    /// Its overlay addresses.
    pub resource_addr: OverlayAddr,
    /// Where its packets go.
    pub target: Target,
    /// What may pass.
    pub filter: Filter,
    /// How long it holds, from now, unless renewed.
    pub lease: Duration,
}

/// From the node, in a session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", content = "body", rename_all = "snake_case")]
pub enum NodeMessage {
    /// A gateway has put an [`InstallGrant`] in force.
    GrantInstalled {
        /// Which.
        grant: GrantId,
    },
    /// A revoked grant no longer lets a packet through, and its open connections were reset.
    GrantRevoked {
        /// Which.
        grant: GrantId,
    },
    /// The node may now be reached elsewhere.
    Candidates {
        /// All of them.
        candidates: Vec<Candidate>,
    },
    /// What the device now says of itself.
    Posture {
        /// All of it.
        posture: Posture,
    },
    /// Asks for a fresh certificate for the same device key.
    RenewCertificate {
        /// A PKCS#10 request (DER) signed with the device key.
        csr: Vec<u8>,
    },
}

/// From the coordinator, in a session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", content = "body", rename_all = "snake_case")]
pub enum CoordinatorMessage {
    /// The snapshot; always first, and only then.
    Welcome(Box<Welcome>),
    /// The catalogue changed.
    Catalogue {
        /// The revision that it is of.
        revision: Revision,
        /// New or changed.
        put: Vec<CatalogueEntry>,
        /// Gone.
        removed: Vec<ResourceId>,
    },
    /// To a client: a grant that it holds has changed, such as the filter or where the gateway may be reached.
    Granted(Box<Granted>),
    /// To a gateway: let this through; acknowledge with [`NodeMessage::GrantInstalled`].
    InstallGrant(Box<InstallGrant>),
    /// To either end: let it through no more; acknowledge with [`NodeMessage::GrantRevoked`].
    RevokeGrant {
        /// Which.
        grant: GrantId,
        /// Why.
        reason: DenyReason,
    },
    /// The fresh certificate.
    Certificate {
        /// X.509, DER.
        certificate: Vec<u8>,
        /// How long until it should be renewed.
        renew_in: Duration,
    },
    /// The session is over, and so is every grant. The connection closes next.
    Evicted {
        /// Why.
        reason: Eviction,
    },
    /// The last message was of a kind that the coordinator does not know.
    Unknown {
        /// Which.
        kind: String,
    },
}

/// Why a session ended for good.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "snake_case")]
pub enum Eviction {
    /// An admin revoked or removed the device.
    #[error(
        "this device was revoked; ask your admin for a new join token, then run 'postern logout' and 'postern up TOKEN'"
    )]
    Revoked,
    /// Another node runs with this device's identity.
    #[error(
        "another node connected with this device's identity; if its state directory was copied, run 'postern logout' on one of them and enrol it anew"
    )]
    Superseded,
}
