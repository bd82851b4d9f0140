//! Where a device may be reached is told to the gateways it has grants on: they must not drown in it.

use postern_model::{Candidate, ResourceId, candidate::CandidateKind};
use postern_wire::{AccessReply, AccessRequest, CoordinatorMessage, NodeMessage, Opening};

use super::{
    client::{Stream, connect, enrolled, session},
    program::{Running, text},
    user_token,
};

fn at(port: u16) -> Candidate {
    Candidate { addr: ([192, 0, 2, 1], port).into(), kind: CandidateKind::Host }
}

#[tokio::test]
async fn a_restless_laptop_does_not_drown_its_gateway() {
    let program = Running::start();
    for words in ["user add alice", "site add office"] {
        program.done(words);
    }
    let wiki = program.json("resource add wiki --site office --target 10.0.0.5 --tcp 80");
    program.done("policy allow user:alice wiki");
    let resource: ResourceId = text(&wiki, "id").parse().unwrap();
    let server = program.address();
    let laptop = enrolled(server, &user_token(&program), 1).await;
    let gateway = enrolled(server, &program.token("--site office"), 2).await;

    let door = connect(server, Some(&gateway.credential)).await.unwrap();
    let mut gateway = session(&door).await;
    let connection = connect(server, Some(&laptop.credential)).await.unwrap();
    let mut laptop = session(&connection).await;
    let mut asking =
        Stream::with(&connection, &Opening::AccessRequest(AccessRequest { resource, queried: None })).await;
    let CoordinatorMessage::InstallGrant(install) = gateway.hear().await else { panic!("no grant to install") };
    gateway.say(&NodeMessage::GrantInstalled { grant: install.grant, cut: 0 }).await;
    let reply: AccessReply = asking.hear().await;
    assert!(matches!(reply, AccessReply::Granted(_)), "{reply:?}");

    // Far more than the gateway should have to hear; it reads nothing meanwhile.
    let last = 4000;
    for port in 1..=last {
        laptop.say(&NodeMessage::Candidates { candidates: vec![at(port)] }).await;
    }
    let mut told = 0;
    loop {
        let message: CoordinatorMessage = gateway.hear().await;
        let CoordinatorMessage::InstallGrant(install) = message else { panic!("{message:?}") };
        told += 1;
        if install.candidates.contains(&at(last)) {
            break;
        }
    }
    assert!(told < 100, "told {told} times");
    assert!(door.close_reason().is_none() && connection.close_reason().is_none());
}
