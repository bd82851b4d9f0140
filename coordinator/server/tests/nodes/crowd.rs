//! One change may be a thousand messages for one gateway. It hears them all, in order, and keeps its session.

use std::collections::{BTreeMap, BTreeSet};

use postern_model::{Candidate, DeviceId, GrantId, ResourceId, candidate::CandidateKind};
use postern_wire::{AccessReply, AccessRequest, CoordinatorMessage, NodeMessage, Opening};
use quinn::Connection;

use super::{
    Future,
    client::{Stream, connect, connect_from, enrolled, session},
    program::{Running, text},
};

const LAPTOPS: u8 = 11;
const RESOURCES: usize = 110;
/// How many a device asks for at once; it may have a hundred streams.
const AT_ONCE: usize = 55;
/// What the gateway takes ahead of what is read, so that nearly all of what it is told waits in the coordinator.
const WINDOW: u32 = 4096;

struct Laptop {
    id: DeviceId,
    connection: Connection,
    session: Stream,
}

/// alice's laptops, a gateway, and a grant for each pair of a laptop and a resource.
struct Crowd {
    program: Running,
    laptops: Vec<Laptop>,
    door: Connection,
    gateway: Stream,
    grants: BTreeMap<GrantId, DeviceId>,
}

async fn crowd() -> Crowd {
    let program = Running::start();
    program.done("user add alice");
    program.done("site add office");
    let mut resources: Vec<ResourceId> = Vec::new();
    for i in 0..RESOURCES {
        let row = program.json(&format!("resource add wiki{i} --site office --target 10.0.0.5 --tcp 80"));
        resources.push(text(&row, "id").parse().unwrap());
        program.done(&format!("policy allow user:alice wiki{i}"));
    }
    let server = program.address();
    let gateway = enrolled(server, &program.token("--site office"), 100).await;
    let door = connect_from("127.0.0.1", server, Some(&gateway.credential), WINDOW).await.unwrap();
    let gateway = session(&door).await;
    let token = program.token(&format!("--user alice --uses {LAPTOPS}"));
    let mut crowd = Crowd { program, laptops: Vec::new(), door, gateway, grants: BTreeMap::new() };
    for key in 1..=LAPTOPS {
        let device = enrolled(server, &token, key).await;
        let connection = connect(server, Some(&device.credential)).await.unwrap();
        let session = session(&connection).await;
        for part in resources.chunks(AT_ONCE) {
            crowd.reach(&connection, device.id, part).await;
        }
        crowd.laptops.push(Laptop { id: device.id, connection, session });
    }
    crowd
}

impl Crowd {
    /// The device asks for all of these, and the gateway lets it.
    async fn reach(&mut self, connection: &Connection, device: DeviceId, resources: &[ResourceId]) {
        let mut asking = Vec::new();
        for resource in resources {
            let request = Opening::AccessRequest(AccessRequest { resource: *resource, queried: None });
            asking.push(Stream::with(connection, &request).await);
        }
        for _ in resources {
            let CoordinatorMessage::InstallGrant(install) = self.gateway.hear().await else { panic!("no grant") };
            self.grants.insert(install.grant, device);
            self.gateway.say(&NodeMessage::GrantInstalled { grant: install.grant, cut: 0 }).await;
        }
        for mut asked in asking {
            let reply: AccessReply = asked.hear().await;
            assert!(matches!(reply, AccessReply::Granted(_)), "{reply:?}");
        }
    }

    fn assert_all_are_there(&self) {
        assert!(self.door.close_reason().is_none(), "{:?}", self.door.close_reason());
        for laptop in &self.laptops {
            assert!(laptop.connection.close_reason().is_none(), "{:?}", laptop.connection.close_reason());
        }
    }
}

/// The grants that are revoked in this session, up to this many.
async fn revoked(session: &mut Stream, count: usize) -> Vec<GrantId> {
    let mut revoked = Vec::new();
    while revoked.len() < count {
        if let CoordinatorMessage::RevokeGrant { grant, .. } = session.hear().await {
            revoked.push(grant);
        }
    }
    revoked
}

#[tokio::test]
async fn a_gateway_hears_of_every_grant_of_a_crowd() {
    let mut crowd = crowd().await;
    let all: BTreeSet<GrantId> = crowd.grants.keys().copied().collect();
    assert_eq!(all.len(), usize::from(LAPTOPS) * RESOURCES);

    // They all move, and the gateway reads nothing before the coordinator has heard of each.
    let moved = Candidate { addr: ([192, 0, 2, 1], 5000).into(), kind: CandidateKind::Host };
    for laptop in &mut crowd.laptops {
        laptop.session.say(&NodeMessage::Candidates { candidates: vec![moved] }).await;
        laptop.session.say(&Future::Teleport { to: "the café" }).await;
    }
    for laptop in &mut crowd.laptops {
        while !matches!(laptop.session.hear().await, CoordinatorMessage::Unknown { .. }) {}
    }
    let mut told = BTreeSet::new();
    for _ in 0..all.len() {
        let message: CoordinatorMessage = crowd.gateway.hear().await;
        let CoordinatorMessage::InstallGrant(install) = message else { panic!("{message:?}") };
        assert!(install.candidates.contains(&moved));
        told.insert(install.grant);
    }
    assert_eq!(told, all);
    crowd.assert_all_are_there();

    // Nothing of this test runs meanwhile, so the gateway reads nothing.
    crowd.program.done("user suspend alice");
    let ended = revoked(&mut crowd.gateway, all.len()).await;
    assert_eq!(ended.iter().copied().collect::<BTreeSet<_>>(), all);
    for laptop in &mut crowd.laptops {
        let own: Vec<_> = ended.iter().copied().filter(|grant| crowd.grants[grant] == laptop.id).collect();
        assert_eq!(revoked(&mut laptop.session, RESOURCES).await, own, "both ends hear it in one order");
    }
    crowd.assert_all_are_there();
}
