//! How long one decision takes: run by hand, with `cargo test --release -p postern-policy -- --ignored --nocapture speed`.

use std::{hint::black_box, time::Instant};

use postern_model::{Decision, record::Policy};

use super::world::{CALM, allowing, allowing_when, device, ports, resource, small_with};
use crate::decide;

const ROUNDS: usize = 20_000;

#[test]
#[ignore = "it measures, and asserts only that access is allowed"]
#[expect(clippy::disallowed_methods, reason = "it measures")]
fn speed_of_one_decision() {
    let condition = "posture.disk_encrypted && time.hour in 0..18 && package(\"openssl\") >= \"3.0.11\"";
    for count in [0, 1, 5] {
        // Each about another port, so that each is asked.
        let on = |n: u8| Some(ports(&format!("tcp/{n}")));
        let conditional = (1..=count).map(|n| Policy { ports: on(n), ..allowing_when(n, condition) });
        let plain = (count == 0).then(|| allowing(1));
        let mut world = small_with(conditional.chain(plain));
        world.posture().disk_encrypted = Some(true);
        world.posture().os = "Debian GNU/Linux 12 (bookworm)".into();
        let found = r#"{"package:openssl": {"found":"version","version":"3.0.15"}}"#;
        world.posture().checks = serde_json::from_str(found).unwrap();
        world.add_resource(1, ports("tcp/1-9"));
        let mut times: Vec<_> = (0..ROUNDS)
            .map(|_| {
                let start = Instant::now();
                let decision = decide(black_box(&world), device(1), resource(1), CALM);
                let time = start.elapsed();
                assert!(matches!(decision, Decision::Allowed { .. }));
                time
            })
            .collect();
        times.sort_unstable();
        let at = |percent: usize| times[ROUNDS * percent / 100];
        println!("{count} conditional policies: p50 {:?}, p99 {:?}", at(50), at(99));
    }
}
