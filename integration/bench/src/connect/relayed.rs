//! A TCP stream between a laptop and a gateway that can't send to each other, through the coordinator's relay; beside it the
//! direct path, on the same hosts.

use anyhow::{Context as _, Result, ensure};
use postern_lab::{Host, Node, Office, eventually, servers};
use serde_json::{Value, json};

use crate::{figures::table, tunnel::scene::processor_time};

/// How long a stream is measured, in seconds.
const SECONDS: &str = "5";

/// Up and down, directly and relayed.
pub(super) fn measure() -> Result<Value> {
    let mut office = Office::new(&[])?;
    let server = servers::iperf3(&office.wiki)?;
    office.serve(server);
    let words =
        ["resource", "add", "speed", "--site", "office", "--target", postern_lab::office::WIKI, "--tcp", "5201"];
    office.coordinator.ctl(&words)?;
    office.coordinator.ctl(&["policy", "allow", "user:alice", "speed"])?;
    let _gateway = office.join_gateway()?;
    let laptop = office.join_laptop()?;
    let (mut rows, mut all) = (Vec::new(), Vec::new());
    for path in ["direct", "relayed"] {
        if path == "relayed" {
            part_from(&office.laptop, ["203.0.113.20", "2001:db8:1::20"])?;
            part_from(&office.gateway, ["203.0.113.30", "2001:db8:1::30"])?;
        }
        for (way, words) in [("up", &[][..]), ("down", &["-R"])] {
            stream(&office, "1", words)?;
            is_reached(&laptop, path)?;
            let relay = office.coordinator.process()?.pid();
            let before = processor_time(relay)?;
            let rate = stream(&office, SECONDS, words)? / 1e9;
            let taken = (processor_time(relay)? - before).as_secs_f64() / SECONDS.parse::<f64>()?;
            ensure!(rate > 0.0, "nothing came through");
            rows.push(vec![path.to_owned(), way.to_owned(), format!("{rate:.2}"), format!("{:.2}", taken / rate)]);
            all.push(json!({ "path": path, "way": way, "gbit_s": rate, "relay_cpu_per_gbit_s": taken / rate }));
        }
    }
    println!();
    table(&["path", "TCP, 1 stream", "Gbit/s", "the relay's cores per Gbit/s"], &rows);
    Ok(Value::from(all))
}

/// Bits per second of one TCP stream.
fn stream(office: &Office, seconds: &str, words: &[&str]) -> Result<f64> {
    let words = [&["iperf3", "-J", "-c", "speed.postern.internal", "-t", seconds], words].concat();
    let told: Value = eventually("iperf3 gets through", || {
        let told = office.laptop.run(&words)?.success()?;
        Ok(serde_json::from_str(&told)?)
    })?;
    told["end"]["sum_received"]["bits_per_second"].as_f64().context("iperf3 tells no rate")
}

fn part_from(host: &Host, [v4, v6]: [&str; 2]) -> Result<()> {
    let rules = format!(
        "table inet parted {{ chain input {{ type filter hook input priority filter;
         meta l4proto udp ip saddr {v4} drop; meta l4proto udp ip6 saddr {v6} drop; }}; }}"
    );
    host.run(&["nft", &rules])?.success().map(drop)
}

fn is_reached(node: &Node, path: &str) -> Result<()> {
    eventually(&format!("the path is {path}"), || {
        let status = node.json(&["status"])?;
        ensure!(status["peers"][0]["path"] == path, "{status}");
        Ok(())
    })
}
