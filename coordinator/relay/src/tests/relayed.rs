//! Nodes exchange datagrams through a relay, and those that may not don't.

use std::time::Duration;

use postern_wire::{
    Pass, RelayNews, RelayRequest, close,
    relay::{Part, RelayRefusal},
};

use super::client::{Keys, Node, Running, within};
use crate::serve::DEFAULT_RATE;

/// Two nodes that have shown passes for each other, with their channels.
async fn pair(running: &Running, alice: &Keys, bob: &Keys) -> ((Node, u32), (Node, u32)) {
    let (mut here, mut there) = (running.connect(alice).await, running.connect(bob).await);
    here.show(running.pass(alice, bob)).await;
    let to_there = here.opened().await;
    there.show(running.pass(bob, alice)).await;
    let to_here = there.opened().await;
    here.until_there(to_there, true).await;
    there.until_there(to_here, true).await;
    ((here, to_there), (there, to_here))
}

#[tokio::test]
async fn two_nodes_with_passes_for_each_other_exchange_datagrams() {
    let running = Running::start(DEFAULT_RATE);
    let (alice, bob) = (Keys::new(1), Keys::new(2));
    let ((here, to_there), (there, to_here)) = pair(&running, &alice, &bob).await;
    for n in 0..100_u8 {
        here.send(to_there, &[n; 900]);
        assert_eq!(there.receive().await, (to_here, Part::Whole, vec![n; 900].into()));
        there.send(to_here, &[n, 1]);
        assert_eq!(here.receive().await, (to_there, Part::Whole, vec![n, 1].into()));
    }
    let counts = running.relay.counts();
    assert_eq!((counts.datagrams, counts.connections, counts.channels), (200, 2, 2));
}

#[tokio::test]
async fn nothing_reaches_a_node_whose_pass_is_missing_forged_anothers_or_expired() {
    let running = Running::start(DEFAULT_RATE);
    let (alice, bob, eve) = (Keys::new(1), Keys::new(2), Keys::new(3));
    let ((mut here, to_there), (there, to_here)) = pair(&running, &alice, &bob).await;
    let mut evil = running.connect(&eve).await;
    let refused = async |evil: &mut Node, pass, why| {
        evil.show(pass).await;
        let RelayNews::Refused { reason, .. } = evil.hear().await else { panic!("it was taken") };
        assert_eq!(reason, why);
    };
    let mut forged = running.pass(&eve, &alice);
    forged.pass.holder = bob.wireguard;
    refused(&mut evil, forged, RelayRefusal::Signature).await;
    let other = Running::start(DEFAULT_RATE);
    refused(&mut evil, other.pass(&eve, &alice), RelayRefusal::Signature).await;
    refused(&mut evil, running.pass(&bob, &alice), RelayRefusal::Holder).await;
    let old = Pass { expires: postern_model::Timestamp::from_unix_millis(0), ..running.pass(&eve, &alice).pass };
    refused(&mut evil, running.sign(old), RelayRefusal::Expired).await;
    // One of the two only: alice has none for eve.
    evil.show(running.pass(&eve, &alice)).await;
    let to_alice = evil.opened().await;
    for channel in [to_alice, to_there, to_here, 0, 7, (1 << 24) - 1] {
        evil.send(channel, b"nothing");
    }
    evil.connection.send_datagram(vec![9, 9, 9].into()).unwrap();
    evil.connection.send_datagram(vec![3, 0, 0, 0, 1].into()).unwrap();
    // Nor does a channel that alice has closed.
    here.ask(&RelayRequest::Close { peer: bob.wireguard }).await;
    let mut there = there;
    there.until_there(to_here, false).await;
    there.send(to_here, b"late");
    here.send(to_there, b"late");
    here.show(running.pass(&alice, &bob)).await;
    let again = here.opened().await;
    assert_ne!(again, to_there);
    here.until_there(again, true).await;
    there.until_there(to_here, true).await;
    // All of that was dropped once as much has been counted; only then what is due is sent.
    within(async {
        while running.relay.counts().dropped.no_peer + running.relay.counts().dropped.malformed < 10 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    here.send(again, b"due");
    assert_eq!(there.receive().await.2, &b"due"[..]);
    there.send(to_here, b"due too");
    assert_eq!(here.receive().await, (again, Part::Whole, b"due too"[..].into()));
    assert_eq!(running.relay.counts().datagrams, 2);
}

#[tokio::test]
async fn a_node_that_leaves_is_told_of_and_one_that_comes_back_takes_its_place() {
    let running = Running::start(DEFAULT_RATE);
    let (alice, bob) = (Keys::new(1), Keys::new(2));
    let ((here, _), (mut there, to_here)) = pair(&running, &alice, &bob).await;
    // It comes back while the relay still holds the old connection for alive.
    let mut anew = running.connect(&alice).await;
    anew.show(running.pass(&alice, &alice)).await;
    assert_eq!(here.close_code().await, close::SUPERSEDED);
    there.until_there(to_here, false).await;
    anew.show(running.pass(&alice, &bob)).await;
    let to_there = anew.opened().await;
    anew.until_there(to_there, true).await;
    there.until_there(to_here, true).await;
    anew.send(to_there, b"again");
    assert_eq!(there.receive().await.2, &b"again"[..]);
    anew.connection.close(0_u32.into(), b"");
    there.until_there(to_here, false).await;
    there.send(to_here, b"to nobody");
    drop((there, here));
    within(async {
        while running.relay.counts().connections > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    assert_eq!(running.relay.counts().channels, 0);
}

#[tokio::test]
async fn a_node_may_send_so_much_and_no_more() {
    let running = Running::start(1_000);
    let (alice, bob) = (Keys::new(1), Keys::new(2));
    let ((here, to_there), (there, _)) = pair(&running, &alice, &bob).await;
    // The burst is 256 KiB; it sends twice that.
    for n in 0..512_u32 {
        here.send(to_there, &[&n.to_be_bytes()[..], &[0; 1020]].concat());
        if n % 16 == 15 {
            // As fast as the relay takes them, so that nothing is lost on the way there.
            let seen = || {
                let counts = running.relay.counts();
                counts.datagrams + counts.dropped.rate
            };
            within(async {
                while seen() <= u64::from(n) {
                    tokio::task::yield_now().await;
                }
            })
            .await;
        }
    }
    let counts = running.relay.counts();
    assert_eq!(counts.datagrams + counts.dropped.rate, 512);
    let burst = 256 * 1024 / 1028;
    assert!((burst..burst + 60).contains(&counts.datagrams), "{counts:?}");
    for _ in 0..counts.datagrams {
        there.receive().await;
    }
}

#[tokio::test]
async fn what_is_no_message_ends_the_connection() {
    let running = Running::start(DEFAULT_RATE);
    let mut rude = running.connect(&Keys::new(1)).await;
    rude.bytes(&[0, 0, 0, 4, 0xff, 0xff, 0xff, 0xff]).await;
    assert_eq!(rude.close_code().await, close::PROTOCOL);
    let mut rude = running.connect(&Keys::new(1)).await;
    rude.bytes(&u32::MAX.to_be_bytes()).await;
    assert_eq!(rude.close_code().await, close::PROTOCOL, "four billion bytes are announced");
}

#[tokio::test]
async fn a_stranger_without_a_pass_is_sent_away() {
    let running = Running::start(DEFAULT_RATE);
    let mut stranger = running.connect(&Keys::new(1)).await;
    let keys = Keys::new(2);
    stranger.show(running.pass(&keys, &keys)).await;
    let RelayNews::Refused { reason: RelayRefusal::Holder, .. } = stranger.hear().await else { panic!("taken") };
    assert_eq!(stranger.close_code().await, close::UNAUTHORIZED);
}
