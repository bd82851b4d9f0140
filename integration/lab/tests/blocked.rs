//! Networks that let no UDP through: the node speaks with its coordinator over TCP, straight or through a proxy, and by UDP again
//! as soon as that is possible.

use anyhow::{Context as _, Result, ensure};
use postern_lab::{Host, Node, Office, eventually, servers, wait::now};
use serde_json::Value;

/// Answers that come by UDP are lost, but for those of the resolver: what leaves gets no error.
const NO_UDP: &str = "table inet blocked { chain input {
    type filter hook input priority filter; iifname lo accept; meta l4proto udp udp sport != 53 drop; }; }";
/// Of UDP only the resolver may be asked, and by TCP nobody but the proxy.
const ONLY_THE_PROXY: &str = "table inet blocked { chain output {
    type filter hook output priority filter; oifname lo accept;
    meta l4proto udp udp dport != 53 drop; meta l4proto tcp tcp dport != 3128 reject with tcp reset; }; }";
const PASSWORD: &str = "correct-horse";

fn block(host: &Host, rules: &str) -> Result<()> {
    host.run(&["nft", rules])?.success().map(drop)
}

fn let_through(host: &Host) -> Result<()> {
    host.run(&["nft", "delete table inet blocked"])?.success().map(drop)
}

/// What a Wi-Fi that comes and goes looks like to the node: it looks anew.
fn change_network(host: &Host) -> Result<()> {
    host.ip(&["addr", "add", "203.0.113.130/24", "dev", "eth0"])?;
    host.ip(&["addr", "del", "203.0.113.130/24", "dev", "eth0"]).map(drop)
}

/// Waits until the node is connected by this.
fn is_connected_by(node: &Node, transport: &str) -> Result<Value> {
    eventually(&format!("it is connected by {transport}"), || {
        let status = node.json(&["status"])?;
        ensure!(status["connected"] == true && status["transport"] == transport, "{status}");
        Ok(status)
    })
    .with_context(|| node.log())
}

/// Whether what was granted before is in force: the page is there, and no other decision was needed for it.
fn grants(office: &Office) -> Result<Vec<String>> {
    let grants = office.coordinator.ctl(&["grant", "list"])?;
    let id = |grant: &Value| grant["id"].as_str().map(str::to_owned).context("an id");
    grants.as_array().context("a list")?.iter().map(id).collect()
}

#[test]
fn a_network_without_udp_is_noticed_and_left_again_and_grants_stay() -> Result<()> {
    let mut office = Office::new(&[])?;
    office.open_wiki()?;
    let _gateway = office.join_gateway()?;
    block(&office.laptop, NO_UDP)?;
    let started = now();
    let laptop = office.join_laptop()?;
    // Two connections, one after the other.
    let took = started.elapsed();
    println!("enrolled and up after {took:?}");
    let status = is_connected_by(&laptop, "tcp")?;
    ensure!(status["problem"].is_null(), "{status}");
    let told = laptop.run(&["status"])?.success()?;
    ensure!(told.contains("over TCP: this network lets no UDP through"), "{told}");
    ensure!(
        laptop.run(&["resources"])?.success()?.contains("wiki"),
        "what may be reached is known; enrolled in {took:?}"
    );
    let from = office.coordinator.ctl(&["device", "list"])?.to_string();
    ensure!(from.contains("203.0.113.30:"), "it is known from where it comes: {from}");

    // A change of what it may see arrives, and one of what it may not does not.
    office.coordinator.ctl(&["resource", "add", "db", "--site", "office", "--target", "10.0.0.6", "--tcp", "5432"])?;
    office
        .coordinator
        .ctl(&["resource", "add", "payroll", "--site", "office", "--target", "10.0.0.6", "--tcp", "80"])?;
    let policy = office.coordinator.policy(&["allow", "user:alice", "db"])?;
    eventually("the new resource is there", || {
        let resources = laptop.run(&["resources"])?.success()?;
        ensure!(resources.contains("db.postern.internal") && !resources.contains("payroll"), "{resources}");
        Ok(())
    })?;
    office.coordinator.ctl(&["policy", "remove", &policy])?;
    eventually("it is gone again", || {
        ensure!(!laptop.run(&["resources"])?.success()?.contains("db.postern.internal"));
        Ok(())
    })?;

    let_through(&office.laptop)?;
    change_network(&office.laptop)?;
    is_connected_by(&laptop, "udp")?;
    office.is_open("http://wiki.postern.internal/")?;
    let granted = grants(&office)?;
    ensure!(granted.len() == 1, "{granted:?}");

    // And back, with a connection open: the grant is the same one all the time.
    let mut download = office.download()?;
    block(
        &office.laptop,
        "table inet blocked { chain input {
        type filter hook input priority filter; meta l4proto udp udp sport 8443 drop; }; }",
    )?;
    change_network(&office.laptop)?;
    is_connected_by(&laptop, "tcp")?;
    office.grows("big")?;
    let_through(&office.laptop)?;
    change_network(&office.laptop)?;
    is_connected_by(&laptop, "udp")?;
    office.grows("big")?;
    ensure!(download.ended().is_none(), "the open connection went on: {}", download.log());
    ensure!(grants(&office)? == granted, "grants are untouched by another way to the coordinator");
    office.is_closed("http://payroll.postern.internal/")
}

#[test]
fn a_node_behind_a_proxy_asks_it_and_nobody_else_gets_out() -> Result<()> {
    let mut office = Office::new(&[])?;
    office.open_wiki()?;
    let proxy_host = office.lab.host("proxy")?;
    proxy_host.link("eth0", &office.internet, &["203.0.113.40/24"])?;
    let proxy = servers::tinyproxy(&proxy_host, PASSWORD)?;
    block(&office.laptop, ONLY_THE_PROXY)?;
    let token = office.coordinator.token(&["--user", "alice"])?;

    // Without the proxy, and with one that wants a password, there is no way, and it is said what to do.
    let node = Node::start(&office.laptop)?;
    let up = node.run(&["up", &token])?;
    ensure!(up.code == Some(1) && up.stderr.contains("can't be reached"), "{up:?}");
    drop(node);
    let node = Node::start_with(
        &office.laptop,
        office.laptop.dir().join("node"),
        &[("HTTPS_PROXY", "http://203.0.113.40:3128")],
    )?;
    let up = node.run(&["up", &token])?;
    ensure!(up.code == Some(1) && up.stderr.contains("name and password: set them in HTTPS_PROXY"), "{up:?}");
    drop(node);
    let wrong = "http://alice:battery-staple@203.0.113.40:3128";
    let node = Node::start_with(&office.laptop, office.laptop.dir().join("node"), &[("https_proxy", wrong)])?;
    let up = node.run(&["up", &token])?;
    ensure!(up.code == Some(1) && up.stderr.contains("does not accept"), "{up:?}");
    ensure!(!format!("{up:?}{}", node.log()).contains("battery"), "no password is shown");
    drop(node);

    let right = format!("http://alice:{PASSWORD}@203.0.113.40:3128");
    let node = Node::start_with(&office.laptop, office.laptop.dir().join("node"), &[("HTTPS_PROXY", &right)])?;
    node.up(Some(&token))?;
    let status = is_connected_by(&node, "proxy")?;
    ensure!(node.run(&["status"])?.success()?.contains("through an HTTP proxy"), "{status}");
    ensure!(node.run(&["resources"])?.success()?.contains("wiki"));
    ensure!(proxy.log().contains("203.0.113.10:8443"), "it went through the proxy: {}", proxy.log());
    ensure!(!node.log().contains(PASSWORD), "no password is logged");

    let_through(&office.laptop)?;
    change_network(&office.laptop)?;
    is_connected_by(&node, "udp")?;
    Ok(())
}

#[test]
fn a_network_that_goes_away_is_noticed_by_what_the_kernel_says_and_so_is_its_return() -> Result<()> {
    let mut office = Office::new(&[])?;
    office.open_wiki()?;
    let _gateway = office.join_gateway()?;
    let laptop = office.join_laptop()?;
    let mut download = office.download()?;
    office.laptop.ip(&["link", "set", "eth0", "down"])?;
    let gone = now();
    eventually("it knows that it is not connected", || {
        let status = laptop.json(&["status"])?;
        let problem = status["problem"].as_str().unwrap_or_default();
        ensure!(status["connected"] == false && status["transport"].is_null(), "{status}");
        ensure!(problem.contains("coordinator"), "{status}");
        Ok(())
    })?;
    // Not by the silence, for which it would have waited longer.
    ensure!(laptop.log().contains("the network changed"), "after {:?}: {}", gone.elapsed(), laptop.log());
    office.laptop.ip(&["link", "set", "eth0", "up"])?;
    let back = now();
    is_connected_by(&laptop, "udp").with_context(|| format!("after {:?}", back.elapsed()))?;
    office.grows("big")?;
    ensure!(download.ended().is_none(), "the open connection went on: {}", download.log());
    println!("noticed after {:?}, connected again after {:?}", back - gone, back.elapsed());
    Ok(())
}
