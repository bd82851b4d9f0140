//! The session: what goes up and down between an enrolled node and the coordinator while both are there.

use std::{
    net::{IpAddr, Ipv6Addr},
    time::Duration,
};

use postern_model::activity::{FlowEntry, SpoolId};
use postern_model::{
    Candidate, Check, DenyReason, DeviceId, Filter, Fqdn, GrantId, NetworkRanges, OverlayAddr, Posture, PresharedKey,
    PublicKey, RelayId, ResourceId, ResourceName, Revision, SiteId, Target,
};
use serde::{Deserialize, Serialize};

use crate::{
    access::Granted,
    relay::{RelayEntry, RelayedPeer, SignedPass},
};

/// Opens a session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// Made at random at each start of the node: tells a reconnect from a second node with a copied state directory.
    pub instance: [u8; 16],
    /// The UDP port of the node's WireGuard socket.
    pub wireguard_port: u16,
    /// Where the node may be reached.
    pub candidates: Vec<Candidate>,
    /// The relay at which it waits for peers, if it is connected to one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub relay: Option<RelayId>,
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
    /// The checks that policies name: the device is to say in its posture what they show. At most
    /// [`MAX_CHECKS`](postern_model::check::MAX_CHECKS).
    #[serde(default, deserialize_with = "crate::checks::deserialize")]
    pub checks: Vec<Check>,
    /// The relays of the network.
    #[serde(default)]
    pub relays: Vec<RelayEntry>,
    /// This node's pass for itself, by which a relay lets it wait for peers; where there are relays. It is good for a day, and
    /// another one comes in [`CoordinatorMessage::Relays`] whenever the node renews its certificate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub relay_pass: Option<SignedPass>,
}

/// Why a node does not do as a [`Welcome`] says: it would lead away more of the machine's traffic or names than an overlay has.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WelcomeError {
    /// Not a ULA, as RFC 4193 has them.
    #[error("its IPv6 range {0}/48 is not within fd00::/8")]
    Range(Ipv6Addr),
    /// Not an address that devices have.
    #[error("its address {} or {} for this device is not within the devices' ranges", .0.v4, .0.v6)]
    Address(OverlayAddr),
    /// All of a top-level domain.
    #[error("its zone '{0}' is a top-level domain")]
    Zone(Fqdn),
}

impl Welcome {
    /// Holds that addresses and zone are an overlay's and nobody else's. The node asks before it sets the machine up.
    ///
    /// # Errors
    /// With what is not.
    pub fn check(&self) -> Result<(), WelcomeError> {
        let [first, ..] = self.ranges.ula.octets();
        let has_host_bits = self.ranges.ula.segments()[3..].iter().any(|segment| *segment != 0);
        if first != 0xfd || has_host_bits {
            return Err(WelcomeError::Range(self.ranges.ula));
        }
        let is_device = |addr: IpAddr| self.ranges.is_device(addr);
        if !is_device(self.addr.v4.into()) || !is_device(self.addr.v6.into()) {
            return Err(WelcomeError::Address(self.addr));
        }
        if !self.zone.has_parent() {
            return Err(WelcomeError::Zone(self.zone.clone()));
        }
        Ok(())
    }
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
    /// How it may be reached through relays, where there are any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub relayed: Option<RelayedPeer>,
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
    /// The DNS name by which the client has asked for the resource, if the coordinator knows: one that the resource has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queried: Option<Fqdn>,
}

/// From the node, in a session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", content = "body", rename_all = "snake_case")]
pub enum NodeMessage {
    /// A gateway has put an [`InstallGrant`] in force.
    GrantInstalled {
        /// Which.
        grant: GrantId,
        /// How many open flows were cut because it now lets less through than before.
        #[serde(default)]
        cut: u64,
    },
    /// A revoked grant no longer lets a packet through, and its open connections were reset.
    GrantRevoked {
        /// Which.
        grant: GrantId,
        /// How many open flows were cut with it.
        #[serde(default)]
        cut: u64,
    },
    /// A [`Welcome`] is in force: what it does not list has ended, and no packet passes by it any more.
    Settled {
        /// The revision that it was of.
        revision: Revision,
    },
    /// The node may now be reached elsewhere.
    Candidates {
        /// All of them.
        candidates: Vec<Candidate>,
    },
    /// The node now waits for peers at this relay, or at none.
    HomeRelay {
        /// Which.
        relay: Option<RelayId>,
    },
    /// What the device now says of itself.
    Posture {
        /// All of it.
        posture: Posture,
    },
    /// A gateway tells of the flows that it carries: what it has written down and not heard to be recorded. At most
    /// [`MAX_ENTRIES`](postern_model::activity::MAX_ENTRIES) at once, in the order of their numbers.
    Activity {
        /// From which spool.
        spool: SpoolId,
        /// What.
        entries: Vec<FlowEntry>,
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
    /// Activity is on the coordinator's disk, and may go from the gateway's.
    ActivityRecorded {
        /// Of which spool.
        spool: SpoolId,
        /// Up to and with which entry.
        up_to: u64,
    },
    /// From now on, say this of yourself: in place of the checks that the [`Welcome`] named, or an earlier message of this
    /// kind. Answered by a [`NodeMessage::Posture`] when the checks show anything new.
    Checks {
        /// At most [`MAX_CHECKS`](postern_model::check::MAX_CHECKS).
        #[serde(deserialize_with = "crate::checks::deserialize")]
        checks: Vec<Check>,
    },
    /// The network has these relays from now on.
    Relays {
        /// All of them.
        relays: Vec<RelayEntry>,
        /// As in [`Welcome::relay_pass`], and fresh.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        relay_pass: Option<SignedPass>,
    },
    /// The fresh certificate.
    Certificate {
        /// X.509, DER.
        certificate: Vec<u8>,
        /// How long until it should be renewed.
        renew_in: Duration,
    },
    /// To a gateway of which nothing was heard for a moment. It is not answered: that the transport acknowledges it says enough.
    StillThere {},
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
    /// For a reason that this version does not know.
    #[error("the coordinator shut this device out for a reason that this version does not know; ask your admin")]
    #[serde(other)]
    Unknown,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{AccessReply, Decoder, EnrolRefusal, EnrolReply, Limit, frame};
    use postern_model::candidate::CandidateKind;

    /// What a coordinator sends that has words for more things than this version: `kind` and `body` as it writes them.
    fn from_newer<M: serde::de::DeserializeOwned>(kind: &str, body: impl Serialize) -> M {
        #[derive(Serialize)]
        struct Newer<'a, B> {
            kind: &'a str,
            body: B,
        }
        let mut decoder = Decoder::new(Limit::Coordinator);
        decoder.handle_bytes(&frame::encode(&Newer { kind, body }, Limit::Coordinator).unwrap());
        decoder.poll_message().unwrap().expect("a whole message")
    }

    fn welcome() -> Welcome {
        let ranges = NetworkRanges::from_random([1, 2, 3, 4, 5]);
        Welcome {
            revision: Revision(1),
            device: DeviceId::from_bytes([1; 16]),
            name: "laptop".into(),
            user: None,
            site: None,
            addr: ranges.device(300).unwrap(),
            ranges,
            zone: "postern.internal".parse().unwrap(),
            catalogue: vec![],
            granted: vec![],
            installed: vec![],
            renew_certificate_in: Duration::from_secs(1),
            checks: vec![],
            relays: vec![],
            relay_pass: None,
        }
    }

    /// Invariant: a coordinator can't have a node lead other traffic or names than the overlay's to itself.
    #[test]
    fn a_welcome_that_reaches_beyond_the_overlay_is_refused() {
        let good = welcome();
        assert_eq!(good.check(), Ok(()));
        for ula in ["2001:db8::", "fc00::", "fe80::", "::", "fd01:203:405:1::"] {
            let ranges = NetworkRanges { ula: ula.parse().unwrap() };
            let refused = Welcome { ranges, addr: ranges.device(300).unwrap(), ..good.clone() };
            assert!(matches!(refused.check(), Err(WelcomeError::Range(_))), "{ula}");
        }
        let resource = good.ranges.resource(300).unwrap();
        let mixed = [
            OverlayAddr { v4: [192, 0, 2, 1].into(), ..good.addr },
            OverlayAddr { v6: "fd99::1".parse().unwrap(), ..good.addr },
            OverlayAddr { v4: resource.v4, ..good.addr },
            OverlayAddr { v6: resource.v6, ..good.addr },
        ];
        for addr in mixed {
            assert_eq!(Welcome { addr, ..good.clone() }.check(), Err(WelcomeError::Address(addr)));
        }
        for zone in ["com", "internal"] {
            let refused = Welcome { zone: zone.parse().unwrap(), ..good.clone() };
            assert!(matches!(refused.check(), Err(WelcomeError::Zone(_))), "{zone}");
        }
    }

    #[derive(Serialize)]
    struct Body {
        grant: GrantId,
        reason: &'static str,
    }

    /// Invariant: a revocation counts, whatever it says its reason is.
    #[test]
    fn reasons_that_only_newer_versions_know_are_heard() {
        let grant = GrantId::from_bytes([1; 16]);
        let body = || Body { grant, reason: "posture_changed" };
        let revoked: CoordinatorMessage = from_newer("revoke_grant", body());
        assert_eq!(revoked, CoordinatorMessage::RevokeGrant { grant, reason: DenyReason::Unknown });
        let evicted: CoordinatorMessage = from_newer("evicted", body());
        assert_eq!(evicted, CoordinatorMessage::Evicted { reason: Eviction::Unknown });
        let denied: AccessReply = from_newer("denied", body());
        assert_eq!(denied, AccessReply::Denied { reason: DenyReason::Unknown });
        assert!(!DenyReason::Unknown.is_transient(), "a denial is one until it is understood to be less");
        let refused: EnrolReply = from_newer("refused", "too_late_in_the_day");
        assert!(matches!(refused, EnrolReply::Refused(EnrolRefusal::Unknown)));
    }

    /// Invariant: a coordinator can't have a device look at more than so much, nor end its session with a check of a newer kind.
    #[test]
    fn checks_are_bounded_and_those_of_newer_kinds_are_left_out() {
        #[derive(Serialize)]
        struct Told {
            checks: Vec<String>,
        }
        let checks =
            ["file:/etc/edr.conf", "serial_number:", "process:../x", "process:edr"].map(str::to_owned).to_vec();
        let told: CoordinatorMessage = from_newer("checks", Told { checks });
        let known = ["file:/etc/edr.conf", "process:edr"].map(|check| check.parse().unwrap()).to_vec();
        assert_eq!(told, CoordinatorMessage::Checks { checks: known });
        let checks = (0..10_000).map(|number| format!("process:p{number}")).collect();
        let CoordinatorMessage::Checks { checks } = from_newer("checks", Told { checks }) else { unreachable!() };
        assert_eq!(checks.len(), postern_model::check::MAX_CHECKS);
    }

    /// As many entries as may be sent at once can be, whatever is in them.
    #[test]
    fn the_longest_activity_fits_into_a_frame() {
        use postern_model::{
            Protocol, Timestamp,
            activity::{FlowEnd, FlowEvent, MAX_ENTRIES},
        };
        let late = Timestamp::from_unix_millis(i64::MAX);
        let name = [63, 63, 63, 61].map(|len| "x".repeat(len)).join(".");
        assert_eq!(name.len(), 253);
        let entry = FlowEntry {
            number: u64::MAX,
            at: late,
            flow: u64::MAX,
            grant: GrantId::from_bytes([1; 16]),
            device: DeviceId::from_bytes([2; 16]),
            resource: ResourceId::from_bytes([3; 16]),
            protocol: Protocol::Other(255),
            port: u16::MAX,
            queried: Some(name.parse().unwrap()),
            event: FlowEvent::Closed { opened_at: late, up: u64::MAX, down: u64::MAX, end: FlowEnd::Finished },
        };
        let told = NodeMessage::Activity { spool: SpoolId([0xff; 16]), entries: vec![entry; MAX_ENTRIES] };
        let encoded = frame::encode(&told, Limit::Node).unwrap();
        let mut decoder = Decoder::new(Limit::Node);
        decoder.handle_bytes(&encoded);
        assert_eq!(decoder.poll_message::<NodeMessage>().unwrap(), Some(told));
    }

    #[test]
    fn a_candidate_learned_in_a_newer_way_does_not_spoil_the_others() {
        #[derive(Serialize)]
        struct Newer {
            addr: std::net::SocketAddr,
            kind: &'static str,
        }
        #[derive(Serialize)]
        struct Candidates([Newer; 2]);
        #[derive(Serialize)]
        struct Told {
            candidates: Candidates,
        }
        let addr = ([192, 0, 2, 1], 51820).into();
        let candidates = Candidates(["host", "relayed"].map(|kind| Newer { addr, kind }));
        let told: NodeMessage = from_newer("candidates", Told { candidates });
        let known = [CandidateKind::Host, CandidateKind::Unknown].map(|kind| Candidate { addr, kind });
        assert_eq!(told, NodeMessage::Candidates { candidates: known.to_vec() });
    }
}
