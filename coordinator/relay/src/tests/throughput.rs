//! How fast a relay forwards on this machine: `cargo test --release -p postern-relay -- --ignored --nocapture`.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use super::client::{Keys, Running};
use crate::clock;

#[tokio::test(flavor = "multi_thread")]
#[ignore = "measures, and asserts nothing about speed"]
async fn throughput() {
    let running = Running::start(u64::MAX >> 8);
    let (alice, bob) = (Keys::new(1), Keys::new(2));
    let (mut here, mut there) = (running.connect(&alice).await, running.connect(&bob).await);
    here.show(running.pass(&alice, &bob)).await;
    let to_there = here.opened().await;
    there.show(running.pass(&bob, &alice)).await;
    there.opened().await;
    here.until_there(to_there, true).await;
    // Until the MTU is known.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let size = here.connection.max_datagram_size().unwrap() - 8;
    let received = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&received);
    let receiving = tokio::spawn(async move {
        while let Ok(datagram) = there.connection.read_datagram().await {
            counted.fetch_add(datagram.len() as u64, Ordering::Relaxed);
        }
    });
    let start = clock::moment();
    let duration = Duration::from_secs(4);
    let mut sent = 0_u64;
    while clock::moment().since(start) < duration {
        if here.connection.datagram_send_buffer_space() > 64 << 10 {
            for _ in 0..32 {
                here.send(to_there, &vec![0; size]);
                sent += size as u64;
            }
        }
        tokio::task::yield_now().await;
    }
    let gigabits = |bytes: u64| bytes as f64 * 8.0 / duration.as_secs_f64() / 1e9;
    let received = received.load(Ordering::Relaxed);
    println!("{size} bytes each: sent {:.2} Gbit/s, received {:.2} Gbit/s", gigabits(sent), gigabits(received));
    println!("{:?}", running.relay.counts());
    assert!(received > 0);
    receiving.abort();
}
