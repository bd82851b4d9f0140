//! iperf3, run once from the laptop to the server.

use anyhow::{Context as _, Result, ensure};
use postern_lab::servers::listening;
use serde_json::Value;

use super::{scene::Scene, search::Probe};

/// Where iperf3 listens.
pub(super) const PORT: u16 = 5201;

/// Seconds at the beginning of each TCP run that don't count.
const OMITTED: u32 = 1;

/// The outcome of a TCP run.
#[derive(Debug)]
pub(super) struct Tcp {
    /// What was received, in bits per second, without the first second; both ways together.
    pub(super) rate: f64,
    /// All that was sent by the laptop, in bytes, the first second too.
    pub(super) sent: f64,
}

/// A TCP run of so many counted seconds; `words` are more of iperf3's options.
pub(super) fn tcp(scene: &Scene, seconds: u32, words: &[&str]) -> Result<Tcp> {
    let (time, omitted) = (seconds.to_string(), OMITTED.to_string());
    // By the socket: in a network namespace, the setting takes only what unprivileged users may have too.
    let congestion = scene.congestion.as_deref().map(|name| ["-C", name]);
    let congestion = congestion.as_ref().map_or(&[][..], |words| words);
    let result = run(scene, seconds + OMITTED, &[&["-t", &time, "-O", &omitted], congestion, words].concat())?;
    let end = &result["end"];
    let back = end["sum_received_bidir_reverse"]["bits_per_second"].as_f64().unwrap_or_default();
    let rate = end["sum_received"]["bits_per_second"].as_f64().context("iperf3 tells no rate")? + back;
    let intervals = result["intervals"].as_array().context("iperf3 tells no intervals")?;
    let sent = intervals.iter().filter_map(|interval| interval["sum"]["bytes"].as_f64()).sum();
    Ok(Tcp { rate, sent })
}

/// Datagrams of `size` bytes at `rate` bits per second of what is in them, for so many seconds.
///
/// Paced in steps of 200 µs, since by default iperf3 sends what belongs to a millisecond at once; and 8 at a time where
/// that is more than one, since each time costs it as much as the sending does.
pub(super) fn udp(scene: &Scene, seconds: u32, size: u32, rate: f64) -> Result<Probe> {
    let (time, size, asked) = (seconds.to_string(), size.to_string(), format!("{rate:.0}/8"));
    let buffer = socket_buffer()?.to_string();
    let words = ["-u", "-t", &time, "-l", &size, "-b", &asked, "-w", &buffer, "--pacing-timer", "200"];
    let result = run(scene, seconds, &words)?;
    let sum = |which: &str, what: &str| {
        result["end"][which][what].as_f64().with_context(|| format!("iperf3 tells no {which}.{what}"))
    };
    let packets = sum("sum", "packets")?;
    ensure!(packets > 0.0, "no datagram was sent");
    let lost = sum("sum", "lost_packets")? / packets;
    Ok(Probe { asked: rate, sent: sum("sum_sent", "bits_per_second")?, lost: lost.clamp(0.0, 1.0) })
}

/// As much as the system allows, up to a megabyte: the server's socket is not to be what overflows first.
pub(super) fn socket_buffer() -> Result<u64> {
    let read = |which: &str| -> Result<u64> {
        let text = std::fs::read_to_string(format!("/proc/sys/net/core/{which}"))?;
        text.trim().parse().with_context(|| format!("net.core.{which} is not a number"))
    };
    Ok(read("rmem_max")?.min(read("wmem_max")?).min(1 << 20))
}

fn run(scene: &Scene, seconds: u32, words: &[&str]) -> Result<Value> {
    let port = PORT.to_string();
    // One that ends after one client: what a client that was given up leaves behind is gone with it.
    let mut command = scene.server.command("iperf3");
    let mut server = scene.server.spawn("iperf3", command.args(["-s", "-1", "-p", &port]))?;
    listening(&scene.server, "-t", PORT)?;
    let limit = (seconds + 10).to_string();
    let client = ["timeout", &limit, "iperf3", "-J", "-c", &scene.target, "-p", &port, "--connect-timeout", "5000"];
    let output = scene.laptop.run(&[&client, words].concat())?;
    // Also after a failure: the next one needs the port.
    server.kill()?;
    let result: Value =
        serde_json::from_str(&output.stdout).with_context(|| format!("iperf3 {words:?}: {output:?}"))?;
    ensure!(result["error"].is_null(), "iperf3 {words:?}: {}", result["error"]);
    ensure!(output.ok(), "iperf3 {words:?}: exit {:?}", output.code);
    Ok(result)
}
