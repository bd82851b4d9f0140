//! What must not pass, tried with real packets against the running product.

use anyhow::{Context as _, Result, ensure};
use postern_lab::{Host, Node, Office, eventually, servers};

struct Scene {
    office: Office,
    gateway: Node,
    laptop: Node,
    /// The laptop's overlay address.
    own: String,
    /// The wiki's overlay address.
    wiki: String,
    /// The laptop's TUN.
    tun: String,
}

fn scene() -> Result<Scene> {
    let mut office = Office::new(&[])?;
    office.open_wiki()?;
    let gateway = office.join_gateway()?;
    let laptop = office.join_laptop()?;
    let status = laptop.json(&["status"])?;
    let text = |value: &serde_json::Value| value.as_str().map(str::to_owned).context("a text");
    let wiki = office.coordinator.find(&["resource", "list"], "name", "wiki")?;
    let (own, tun, wiki) = (text(&status["addr"]["v4"])?, text(&status["interface"])?, text(&wiki["addr"]["v4"])?);
    let scene = Scene { office, gateway, laptop, own, wiki, tun };
    scene.wiki_answers()?;
    Ok(scene)
}

impl Scene {
    fn wiki_answers(&self) -> Result<()> {
        self.office.laptop.run(&["curl", "-sS", "--max-time", "15", "http://wiki.postern.internal/"])?.success()?;
        Ok(())
    }
}

fn drops(node: &Node, reason: &str) -> Result<u64> {
    Ok(node.json(&["status"])?["drops"][reason].as_u64().unwrap_or(0))
}

#[test]
fn a_packet_with_anothers_source_address_stays_out() -> Result<()> {
    let scene = scene()?;
    let laptop = &scene.office.laptop;
    for source in ["100.64.77.77", "203.0.113.30"] {
        let before = drops(&scene.laptop, "foreign_source")?;
        laptop.ip(&["addr", "replace", &format!("{source}/32"), "dev", &scene.tun])?;
        let url = format!("http://{}/", scene.wiki);
        let output = laptop.run(&["curl", "-sS", "--max-time", "3", "--interface", source, &url])?;
        ensure!(!output.ok(), "answered to {source}");
        ensure!(drops(&scene.laptop, "foreign_source")? > before, "not counted for {source}");
    }
    scene.wiki_answers()
}

#[test]
fn a_gateway_can_answer_but_never_open() -> Result<()> {
    let mut scene = scene()?;
    let private = servers::nginx(&scene.office.laptop, 80, "alice's own")?;
    scene.office.serve(private);
    let url = format!("http://{}/", scene.own);
    // From the gateway, whose kernel has a route to the laptop through the tunnel.
    let output = scene.office.gateway.run(&["curl", "-sS", "--max-time", "5", &url])?;
    ensure!(output.code == Some(7), "refused at once: {output:?}");
    ensure!(drops(&scene.gateway, "no_flow")? > 0);
    // From a server behind it that was told the way.
    scene.office.wiki.ip(&["route", "add", "100.64.0.0/11", "via", "10.0.0.1"])?;
    ensure!(!scene.office.wiki.run(&["curl", "-sS", "--max-time", "3", &url])?.ok());
    ensure!(!scene.office.wiki.run(&["ping", "-c", "1", "-W", "2", &scene.own])?.ok());
    scene.wiki_answers()
}

#[test]
fn fragments_are_dropped_and_counted() -> Result<()> {
    let scene = scene()?;
    let ping =
        |size: &str| scene.office.laptop.run(&["ping", "-M", "dont", "-c", "1", "-W", "2", "-s", size, &scene.wiki]);
    ensure!(ping("100")?.ok());
    let before = drops(&scene.laptop, "fragment")?;
    ensure!(!ping("4000")?.ok());
    ensure!(drops(&scene.laptop, "fragment")? > before);
    Ok(())
}

/// Whether a datagram from `from`'s address `source` to `to` arrives at a listener on the laptop.
fn arrives(laptop: &Host, from: &Host, source: &str, to: &str, port: u16) -> Result<bool> {
    let listener = format!("UDP4-RECVFROM:{port}");
    let mut socat = laptop.command("socat");
    let heard = laptop.spawn(&format!("heard-{port}"), socat.args(["-u", &listener, "-"]))?;
    servers::listening(laptop, "-u", port)?;
    for sender in [source, "203.0.113.66"] {
        // The second, honest datagram arrives for sure, and after the first: what is heard first is what counts.
        let to = if sender == source { to } else { "203.0.113.30" };
        let target = format!("UDP4-SENDTO:{to}:{port},bind={sender}");
        from.run(&["sh", "-c", &format!("echo from {sender} | socat -u - {target}")])?;
    }
    eventually("a datagram is heard", || {
        ensure!(heard.log().contains("from"), "nothing yet");
        Ok(())
    })?;
    Ok(heard.log().contains(&format!("from {source}")))
}

#[test]
fn an_overlay_address_from_outside_the_tunnel_is_a_lie() -> Result<()> {
    let mut scene = scene()?;
    let mallory = scene.office.lab.host("mallory")?;
    mallory.link("eth0", &scene.office.internet, &["203.0.113.66/24"])?;
    mallory.ip(&["addr", "add", &format!("{}/32", scene.wiki), "dev", "lo"])?;
    mallory.ip(&["addr", "add", "203.0.113.67/24", "dev", "eth0"])?;
    mallory.ip(&["route", "add", &format!("{}/32", scene.own), "via", "203.0.113.30"])?;
    let laptop = &scene.office.laptop;
    ensure!(arrives(laptop, &mallory, "203.0.113.67", "203.0.113.30", 9001)?, "the listener hears honest addresses");
    ensure!(!arrives(laptop, &mallory, &scene.wiki, "203.0.113.30", 9002)?, "the wiki's address, from outside");
    ensure!(!arrives(laptop, &mallory, "203.0.113.67", &scene.own, 9003)?, "to the overlay address, from outside");
    scene.wiki_answers()
}

#[test]
fn one_target_address_two_resources_two_rights() -> Result<()> {
    let mut scene = scene()?;
    let admin = servers::nginx(&scene.office.wiki, 8080, "admin pages")?;
    scene.office.serve(admin);
    let words = ["resource", "add", "wiki-admin", "--site", "office", "--target", "10.0.0.5", "--tcp", "8080"];
    scene.office.coordinator.ctl(&words)?;
    // alice holds a grant for the same target address, but not for this resource.
    let admin = scene.office.coordinator.find(&["resource", "list"], "name", "wiki-admin")?;
    let address = admin["addr"]["v4"].as_str().context("an address")?;
    for url in [format!("http://{address}:8080/"), format!("http://{}:8080/", scene.wiki)] {
        let output = scene.office.laptop.run(&["curl", "-sS", "--max-time", "5", &url])?;
        ensure!(output.code == Some(7), "{url}: {output:?}");
    }
    scene.wiki_answers()
}
