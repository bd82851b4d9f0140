//! The relay inside the coordinator: who may meet there, and who may not.

use postern_model::{ResourceId, candidate::CandidateKind};
use postern_wire::{
    AccessReply, AccessRequest, CoordinatorMessage, NodeMessage, Opening, RelayNews, RelayRequest, SignedPass, Welcome,
    close,
    relay::{Header, Part, RelayRefusal},
};
use quinn::Connection;

use super::{
    client::{Device, Stream, close_code, connect, connect_to_relay, enrolled, hello, within},
    program::{Running, text},
    user_token,
};

/// An office with two devices and a gateway, of which alice's first may reach the wiki.
struct Scene {
    program: Running,
    resource: ResourceId,
    laptop: Device,
    other: Device,
    gateway: Device,
}

async fn scene() -> Scene {
    let program = Running::start();
    for words in ["user add alice", "site add office"] {
        program.done(words);
    }
    let wiki = program.json("resource add wiki --site office --target 10.0.0.5 --tcp 80");
    program.done("policy allow user:alice wiki");
    let server = program.address();
    let laptop = enrolled(server, &user_token(&program), 1).await;
    let other = enrolled(server, &user_token(&program), 3).await;
    let gateway = enrolled(server, &program.token("--site office"), 2).await;
    Scene { resource: text(&wiki, "id").parse().unwrap(), program, laptop, other, gateway }
}

async fn welcomed(program: &Running, device: &Device) -> (Connection, Stream, Welcome) {
    let connection = connect(program.address(), Some(&device.credential)).await.unwrap();
    let mut session = Stream::with(&connection, &hello()).await;
    let CoordinatorMessage::Welcome(welcome) = session.hear().await else { panic!("no welcome") };
    (connection, session, *welcome)
}

/// A connection to the relay that has shown this pass.
async fn at_relay(program: &Running, device: &Device, pass: SignedPass) -> (Connection, Stream) {
    let connection = connect_to_relay(program.address(), Some(&device.credential)).await.unwrap();
    let stream = Stream::with(&connection, &RelayRequest::Open { pass }).await;
    (connection, stream)
}

async fn channel(stream: &mut Stream) -> u32 {
    match stream.hear().await {
        RelayNews::Opened { channel, .. } => channel,
        other => panic!("{other:?}"),
    }
}

fn send(connection: &Connection, channel: u32, packet: &[u8]) {
    let mut datagram = Vec::new();
    Header { channel, part: Part::Whole }.encode(&mut datagram);
    datagram.extend(packet);
    connection.send_datagram(datagram.into()).unwrap();
}

#[tokio::test]
async fn the_ends_of_a_grant_meet_at_the_coordinators_relay_and_nobody_else_does() {
    let Scene { program, resource, laptop, other, gateway } = scene().await;
    let (_door, mut at_gateway, _) = welcomed(&program, &gateway).await;
    let (connection, _session, welcome) = welcomed(&program, &laptop).await;
    let [relay] = &welcome.relays[..] else { panic!("{:?}", welcome.relays) };
    assert_eq!((relay.name.as_str(), relay.address.port), ("coordinator", program.port));
    at_gateway.say(&NodeMessage::HomeRelay { relay: Some(relay.id) }).await;
    // Acted on before what is asked next, since the answer says so.
    let request = AccessRequest { resource, queried: None };
    let mut asking = Stream::with(&connection, &Opening::AccessRequest(request)).await;
    let CoordinatorMessage::InstallGrant(install) = at_gateway.hear().await else { panic!("no grant to install") };
    at_gateway.say(&NodeMessage::GrantInstalled { grant: install.grant, cut: 0 }).await;
    let AccessReply::Granted(granted) = asking.hear().await else { panic!("denied") };
    assert!(install.candidates.iter().all(|candidate| candidate.kind == CandidateKind::Observed));

    let of_laptop = granted.relayed.unwrap().pass;
    let (here, mut asks) = at_relay(&program, &laptop, of_laptop).await;
    let to_gateway = channel(&mut asks).await;
    // Another device of the same user, that has no grant: it may wait, and it may not use what is the laptop's.
    let (_session, _stream, its_welcome) = welcomed(&program, &other).await;
    let (elsewhere, mut its_asks) = at_relay(&program, &other, its_welcome.relay_pass.unwrap()).await;
    its_asks.say(&RelayRequest::Open { pass: of_laptop }).await;
    let news: RelayNews = its_asks.hear().await;
    assert!(matches!(news, RelayNews::Refused { reason: RelayRefusal::Holder, .. }), "{news:?}");

    let (there, mut gateway_asks) = at_relay(&program, &gateway, install.relayed.unwrap().pass).await;
    let to_laptop = channel(&mut gateway_asks).await;
    for (asks, channel) in [(&mut asks, to_gateway), (&mut gateway_asks, to_laptop)] {
        assert_eq!(asks.hear::<RelayNews>().await, RelayNews::There { channel, is_there: true });
    }
    for number in [to_gateway, to_laptop, 0, 1, 2] {
        send(&elsewhere, number, b"not allowed");
    }
    send(&here, to_gateway, b"sealed");
    let came = within(there.read_datagram()).await.unwrap();
    let (header, packet) = Header::decode(&came).unwrap();
    assert_eq!((header.channel, packet), (to_laptop, &b"sealed"[..]));

    // Shut out, it is so here too, and the gateway hears of it.
    program.done(&format!("device revoke {}", laptop.id));
    assert_eq!(close_code(&here).await, close::UNAUTHORIZED);
    let gone = RelayNews::There { channel: to_laptop, is_there: false };
    assert_eq!(gateway_asks.hear::<RelayNews>().await, gone);
    let again = connect_to_relay(program.address(), Some(&laptop.credential)).await.unwrap();
    assert_eq!(close_code(&again).await, close::UNAUTHORIZED);
}

#[tokio::test]
async fn strangers_get_nothing_from_the_relay_and_sessions_carry_no_datagrams() {
    let Scene { program, laptop, .. } = scene().await;
    let stranger = connect_to_relay(program.address(), None).await.unwrap();
    assert_eq!(close_code(&stranger).await, close::UNAUTHORIZED);
    let (connection, _session, welcome) = welcomed(&program, &laptop).await;
    let (patient, mut asks) = at_relay(&program, &laptop, welcome.relay_pass.unwrap()).await;
    connection.send_datagram(vec![0; 100].into()).unwrap();
    assert_eq!(close_code(&connection).await, close::PROTOCOL);
    asks.bytes(&[0, 0, 0, 2, 0xff, 0xff]).await;
    assert_eq!(close_code(&patient).await, close::PROTOCOL);
}

#[tokio::test]
async fn a_renewed_certificate_comes_with_a_new_pass() {
    let Scene { program, laptop, .. } = scene().await;
    let (_connection, mut session, welcome) = welcomed(&program, &laptop).await;
    let csr = super::csr(&laptop.credential.key);
    session.say(&NodeMessage::RenewCertificate { csr }).await;
    let mut pass = None;
    for _ in 0..2 {
        match session.hear().await {
            CoordinatorMessage::Certificate { .. } => {}
            CoordinatorMessage::Relays { relays, relay_pass } => {
                assert_eq!(relays, welcome.relays);
                pass = relay_pass;
            }
            other => panic!("{other:?}"),
        }
    }
    let (new, old) = (pass.unwrap().pass, welcome.relay_pass.unwrap().pass);
    assert_eq!((new.holder, new.peer, new.key), (old.holder, old.holder, old.key));
    assert!(new.expires >= old.expires);
}

#[tokio::test]
async fn a_coordinator_that_is_to_be_no_relay_is_none() {
    let program = Running::start_with(tempfile::tempdir().unwrap(), vec!["--no-relay".into()]);
    program.done("user add alice");
    let laptop = enrolled(program.address(), &user_token(&program), 1).await;
    let (_connection, _session, welcome) = welcomed(&program, &laptop).await;
    assert!(welcome.relays.is_empty() && welcome.relay_pass.is_none());
    let refused = connect_to_relay(program.address(), Some(&laptop.credential)).await;
    assert!(refused.is_err(), "the protocol is not spoken");
    assert_eq!(program.json("relay list")["relays"], serde_json::json!([]));
}
