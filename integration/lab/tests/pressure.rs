//! Nodes that are too slow for what comes: they drop it, say so by reason, and do not grow.

use anyhow::{Context as _, Result, ensure};
use postern_lab::{Background, Host, Node, Office, eventually, office::DB, servers};
use rustix::process::Signal;
use serde_json::Value;

/// How much a node may grow while it is flooded.
const GROWTH: u64 = 8 << 20;
/// So many packets are to be lost before it goes on.
const LOST: u64 = 5_000;

/// An app on the laptop is sent 300 Mbit/s of UDP by the database's machine, for as long as this lives.
fn flood(office: &mut Office) -> Result<Background> {
    let server = servers::iperf3(&office.db)?;
    office.serve(server);
    let words =
        ["resource", "add", "speed", "--site", "office", "--target", DB, "--tcp", "5201", "--udp", "5201", "--icmp"];
    office.coordinator.ctl(&words)?;
    office.coordinator.ctl(&["policy", "allow", "user:alice", "speed"])?;
    eventually("the resource is seen and reached", || {
        office.laptop.run(&["ping", "-c", "1", "-W", "2", "speed.postern.internal"])?.success()
    })?;
    let mut iperf = office.laptop.command("iperf3");
    iperf.args(["-c", "speed.postern.internal", "-u", "-R", "-b", "300M", "-l", "1200", "-t", "600"]);
    office.laptop.spawn("flood", &mut iperf)
}

/// Datagrams for which the kernel had no room in a socket of this port, of either family, as it says itself.
fn lost_by_socket(host: &Host, port: &Value) -> Result<u64> {
    let local = format!(":{:04X}", port.as_u64().context("a port")?);
    let sockets = host.run(&["cat", "/proc/net/udp", "/proc/net/udp6"])?.success()?;
    let fields = sockets.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let ours = fields.filter(|fields| fields.get(1).is_some_and(|address| address.ends_with(&local)));
    ours.map(|fields| Ok(fields.last().context("the column 'drops'")?.parse::<u64>()?)).sum()
}

/// Packets for which the kernel had no room in the TUN device, as it says itself.
fn lost_by_tun(host: &Host, interface: &Value) -> Result<u64> {
    let interface = interface.as_str().context("an interface")?;
    let shown = host.run(&["ip", "-s", "-j", "link", "show", interface])?.success()?;
    let shown: Value = serde_json::from_str(&shown)?;
    shown[0]["stats64"]["tx"]["dropped"].as_u64().with_context(|| shown.to_string())
}

/// Stops the node's process until `lost` says that enough more is lost, and holds that the node then says that it was at least as
/// much, for this reason, and has not grown.
fn stall(node: &mut Node, reason: &str, lost: impl Fn(&Host) -> Result<u64>) -> Result<()> {
    let host = node.host().clone();
    let (before, lost_before) = (node.process()?.resident()?, lost(&host)?);
    node.process()?.signal(Signal::STOP)?;
    let lost = eventually(&format!("{LOST} packets are lost"), || {
        let lost = lost(&host)?;
        ensure!(lost >= lost_before + LOST, "{lost} are lost, {lost_before} of them before");
        Ok(lost)
    });
    node.process()?.signal(Signal::CONT)?;
    let lost = lost?;
    let passed = |status: &Value| status["in_packets"].as_u64().zip(status["out_packets"].as_u64());
    let status = eventually("it goes on", || node.json(&["status"]))?;
    eventually("packets pass again", || {
        let now = node.json(&["status"])?;
        ensure!(passed(&now) > passed(&status), "{now}");
        Ok(())
    })?;
    let told = node.json(&["status"])?["drops"][reason].as_u64().unwrap_or(0);
    ensure!(told >= lost, "{reason}: {told} of {lost}");
    let metrics = node.run(&["metrics"])?.success()?;
    let line = format!("postern_dropped_packets_total{{reason=\"{reason}\"}} ");
    let in_metrics = metrics.lines().find_map(|metric| metric.strip_prefix(&line)?.parse::<u64>().ok());
    ensure!(in_metrics >= Some(told), "{metrics}");
    let growth = node.process()?.resident()?.saturating_sub(before);
    println!("{reason}: {told} dropped, {growth} bytes more");
    ensure!(growth < GROWTH, "{growth} bytes more");
    Ok(())
}

#[test]
fn nodes_that_are_flooded_while_they_stand_still_drop_count_and_do_not_grow() -> Result<()> {
    let mut office = Office::new(&[])?;
    let (mut gateway, mut laptop) = (office.join_gateway()?, office.join_laptop()?);
    let _flood = flood(&mut office)?;
    let status = eventually("it runs", || {
        let status = laptop.json(&["status"])?;
        ensure!(status["in_packets"].as_u64() > Some(20_000), "{status}");
        Ok(status)
    })?;
    stall(&mut laptop, "receive_full", |host| lost_by_socket(host, &status["wireguard_port"]))?;
    let status = gateway.json(&["status"])?;
    stall(&mut gateway, "tun_full", |host| lost_by_tun(host, &status["interface"]))
}
