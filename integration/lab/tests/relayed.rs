//! Nodes that can't send to each other: through the coordinator's relay at first, directly as soon as that is possible, and back
//! again. What an app has open goes on all the while.

use anyhow::{Context as _, Result, ensure};
use postern_lab::{Host, Node, Office, eventually, process::Background};
use serde_json::Value;

/// Laptop and gateway can't send UDP to each other; everybody else can be reached.
fn part(office: &Office) -> Result<()> {
    part_from(&office.laptop, ["203.0.113.20", "2001:db8:1::20"])?;
    part_from(&office.gateway, ["203.0.113.30", "2001:db8:1::30"])
}

fn part_from(host: &Host, [v4, v6]: [&str; 2]) -> Result<()> {
    let rules = format!(
        "table inet parted {{ chain input {{ type filter hook input priority filter;
         meta l4proto udp ip saddr {v4} drop; meta l4proto udp ip6 saddr {v6} drop; }}; }}"
    );
    host.run(&["nft", &rules])?.success().map(drop)
}

fn join(office: &Office) -> Result<()> {
    for host in [&office.laptop, &office.gateway] {
        host.run(&["nft", "delete table inet parted"])?.success()?;
    }
    Ok(())
}

/// The laptop's only peer, once it is reached like this.
fn is_reached(node: &Node, path: &str) -> Result<Value> {
    eventually(&format!("the peer is reached on a path that is {path}"), || {
        let status = node.json(&["status"])?;
        let peers = status["peers"].as_array().context("a list")?;
        let [peer] = &peers[..] else { anyhow::bail!("one peer: {status}") };
        ensure!(peer["path"] == path, "{peer}");
        Ok(peer.clone())
    })
    .with_context(|| node.log())
}

/// Fills a file of the wiki with what is nowhere the same twice, and says what it adds up to.
fn fill(wiki: &Host) -> Result<String> {
    let script = "cd nginx-80/www && head -c 167772160 /dev/urandom > big && sha256sum < big";
    Ok(wiki.run(&["sh", "-c", script])?.success()?.trim().to_owned())
}

fn arrived(office: &Office, download: &mut Background, sum: &str) -> Result<()> {
    // It takes as long as its server lets it; that it gets on is what counts.
    while download.ended().is_none() {
        let size = || std::fs::metadata(office.laptop.dir().join("big")).map_or(0, |file| file.len());
        let before = size();
        eventually("the download goes on, or ends", || {
            ensure!(size() > before || download.ended().is_some(), "{before} bytes, as before");
            Ok(())
        })?;
    }
    let code = download.wait()?;
    ensure!(code == 0, "curl ended with {code}: {}", download.log());
    let got = office.laptop.run(&["sh", "-c", "sha256sum < big"])?.success()?;
    ensure!(got.trim() == sum, "not a byte is wrong");
    Ok(())
}

#[test]
fn a_download_goes_on_from_relay_to_direct_path_and_back() -> Result<()> {
    let mut office = Office::new(&[])?;
    office.open_wiki()?;
    let sum = fill(&office.wiki)?;
    let gateway = office.join_gateway()?;
    let laptop = office.join_laptop()?;
    for node in [&gateway, &laptop] {
        eventually("the node waits at the coordinator's relay", || {
            let status = node.json(&["status"])?;
            ensure!(status["relay"] == "coordinator", "{status}");
            Ok(())
        })
        .with_context(|| node.log())?;
    }
    part(&office)?;
    let mut download = office.download()?;
    let peer = is_reached(&laptop, "relayed")?;
    ensure!(peer["relay"] == "coordinator" && peer["endpoint"].is_null(), "{peer}");
    let told = laptop.run(&["status"])?.success()?;
    ensure!(told.contains("through relay 'coordinator'"), "{told}");
    ensure!(laptop.run(&["ping", "wiki"])?.success()?.contains("by relay 'coordinator'"));

    join(&office)?;
    let peer = is_reached(&laptop, "direct")?;
    let endpoint = peer["endpoint"].as_str().context("an address")?;
    ensure!(endpoint.starts_with("203.0.113.20:") || endpoint.starts_with("[2001:db8:1::20]:"), "{peer}");
    ensure!(peer["round_trip_ms"].is_number() && peer["relay"].is_null(), "{peer}");
    office.grows("big")?;

    part(&office)?;
    is_reached(&laptop, "relayed")?;
    office.grows("big")?;
    join(&office)?;
    is_reached(&laptop, "direct")?;
    arrived(&office, &mut download, &sum)
}

/// What is not granted is not reached through a relay either, and what was revoked is cut there as elsewhere.
#[test]
fn a_relay_opens_nothing_that_is_not_granted() -> Result<()> {
    let mut office = Office::new(&[])?;
    office.open_wiki()?;
    let _gateway = office.join_gateway()?;
    let laptop = office.join_laptop()?;
    part(&office)?;
    let mut download = office.download()?;
    is_reached(&laptop, "relayed")?;
    office.is_closed("http://wiki.postern.internal:81/")?;
    office.is_closed("http://orders.postern.internal/")?;
    let policy = office.coordinator.ctl(&["policy", "list"])?;
    let id = policy[0]["id"].as_str().context("a policy's id")?;
    office.coordinator.ctl(&["policy", "remove", id])?;
    office.is_cut(&mut download)?;
    office.is_closed("http://wiki.postern.internal/")
}

/// A network that lets no UDP through at all: packets go over TCP to the relay, and from there to the gateway.
#[test]
fn without_udp_resources_are_reached_over_tcp_and_the_relay() -> Result<()> {
    let mut office = Office::new(&[])?;
    office.open_wiki()?;
    let _gateway = office.join_gateway()?;
    // Lost on the way in, at both ends: what leaves gets no error.
    let rules = "table inet blocked { chain input { type filter hook input priority filter; iifname lo accept;
        meta l4proto udp udp sport != 53 drop; }; }";
    office.laptop.run(&["nft", rules])?.success()?;
    part_from(&office.gateway, ["203.0.113.30", "2001:db8:1::30"])?;
    let laptop = office.join_laptop()?;
    office.is_open("http://wiki.postern.internal/").with_context(|| laptop.log())?;
    is_reached(&laptop, "relayed")?;
    let report = laptop.json(&["netcheck"])?;
    ensure!(report["udp"] == false && report["tcp"]["state"] == "open" && report["transport"] == "tcp", "{report}");
    let found = laptop.run(&["doctor"])?;
    ensure!(found.stdout.contains("this network lets no UDP through"), "{found:?}");

    office.laptop.run(&["nft", "delete table inet blocked"])?.success()?;
    office.gateway.run(&["nft", "delete table inet parted"])?.success()?;
    is_reached(&laptop, "direct")?;
    office.is_open("http://wiki.postern.internal/")
}

/// What netcheck and doctor say where all is well, and where the node is down.
#[test]
fn netcheck_and_doctor_see_what_is_so() -> Result<()> {
    let mut office = Office::new(&[])?;
    office.open_wiki()?;
    let _gateway = office.join_gateway()?;
    let laptop = office.join_laptop()?;
    office.is_open("http://wiki.postern.internal/")?;
    let report = laptop.json(&["netcheck"])?;
    ensure!(report["udp"] == true && report["ipv4"] == true && report["nat"] == "none", "{report}");
    let relays = report["relays"].as_array().context("a list")?;
    ensure!(relays.len() == 1 && relays[0]["name"] == "coordinator" && relays[0]["is_home"] == true, "{report}");
    ensure!(relays[0]["round_trip_ms"].is_number(), "{report}");
    let findings = laptop.json(&["doctor"])?;
    ensure!(findings.as_array().is_some_and(Vec::is_empty), "{findings}");

    // A route into the overlay, as another VPN would set it.
    office.laptop.ip(&["tuntap", "add", "dev", "vpn0", "mode", "tun"])?;
    office.laptop.ip(&["link", "set", "vpn0", "up"])?;
    office.laptop.ip(&["route", "add", "100.100.0.0/16", "dev", "vpn0"])?;
    let ill = laptop.run(&["doctor"])?;
    ensure!(ill.code == Some(1) && ill.stdout.contains("100.100.0.0/16") && ill.stdout.contains("vpn0"), "{ill:?}");
    office.laptop.ip(&["link", "del", "vpn0"])?;

    laptop.run(&["down"])?.success()?;
    let down = laptop.run(&["doctor"])?;
    ensure!(down.code == Some(1) && down.stdout.contains("the node is down"), "{down:?}");
    let report = laptop.run(&["netcheck"])?.success()?;
    ensure!(report.contains("the node is down: which relays there are"), "{report}");
    Ok(())
}
