//! Two gateways at one site, one of which can't hear the coordinator while something is revoked: what is told of it is true.
//!
//! The laptop can't hear it either: one that does, or that is honest, would end its side at once. What is left is the gateway,
//! which alone decides, by the lease that it knows.

use anyhow::{Context as _, Result, ensure};
use postern_lab::{Background, Host, Node, Office, eventually, office, servers};
use serde_json::Value;

/// How much later than the bound the end may be seen, in seconds, on a machine with much to do.
const MARGIN: i64 = 5;
const LAPTOP: &str = "203.0.113.30";

struct Scene {
    office: Office,
    /// Each with its address.
    gateways: [(Node, &'static str); 2],
    laptop: Node,
}

/// Two resources that alice may reach by one policy, and two gateways for them; `options` go to the coordinator.
fn scene(options: &[&str]) -> Result<Scene> {
    let mut office = Office::new(options)?;
    for (name, port) in [("first", "8001"), ("second", "8002")] {
        let server = servers::nginx(&office.wiki, port.parse()?, name)?;
        office.serve(server);
        let words = ["resource", "add", name, "--site", "office", "--target", office::WIKI, "--tcp", port];
        office.coordinator.ctl(&[&words[..], &["--tag", "web"]].concat())?;
    }
    let host = office.lab.host("gateway-b")?;
    host.link("eth0", &office.internet, &["203.0.113.21/24"])?;
    host.link("eth1", &office.office, &["10.0.0.2/24"])?;
    std::fs::write(host.resolv_conf(), "nameserver 203.0.113.53\n")?;
    let second = Node::join(&host, &office.coordinator.token(&["--site", "office"])?)?;
    let gateways = [(office.join_gateway()?, "203.0.113.20"), (second, "203.0.113.21")];
    let laptop = office.join_laptop()?;
    Ok(Scene { office, gateways, laptop })
}

/// What runs through each gateway.
struct Flows {
    policy: String,
    /// Through the gateway that will hear nothing: which one it is, its download, and the file of that.
    deaf: (usize, Background, &'static str),
    /// Through the other.
    hearing: Background,
}

impl Scene {
    /// Downloads from both resources, one through each gateway.
    fn flows(&self) -> Result<Flows> {
        let policy = self.office.coordinator.policy(&["allow", "user:alice", "tag:web"])?;
        let first = self.office.download_of("first", "http://first.postern.internal:8001/big")?;
        let second = self.office.download_of("second", "http://second.postern.internal:8002/big")?;
        let through = |resource: &str| {
            let grant = self.office.coordinator.find(&["grant", "list"], "resource", resource)?;
            let gateway = grant["gateway"].as_str().context("a gateway")?.to_owned();
            let names = ["gateway", "gateway-b"];
            names.iter().position(|name| *name == gateway).with_context(|| format!("no gateway {gateway}"))
        };
        let (deaf, other) = (through("first")?, through("second")?);
        ensure!(deaf != other, "the load is spread over both gateways");
        Ok(Flows { policy, deaf: (deaf, first, "first"), hearing: second })
    }

    /// From here on the coordinator and these hosts hear nothing of each other.
    fn cut_off(&self, addresses: &[&str]) -> Result<()> {
        let addresses = addresses.join(", ");
        let rules = format!(
            "add table ip cut; delete table ip cut; table ip cut {{
               chain input {{ type filter hook input priority filter; ip saddr {{ {addresses} }} drop; }}
               chain output {{ type filter hook output priority filter; ip daddr {{ {addresses} }} drop; }}
             }}"
        );
        self.coordinator().run(&["nft", &rules])?.success().map(drop)
    }

    /// The gateway that will hear nothing, and the laptop.
    fn cut_off_both(&self, flows: &Flows) -> Result<()> {
        self.cut_off(&[self.gateways[flows.deaf.0].1, LAPTOP])
    }

    fn let_back(&self) -> Result<()> {
        self.coordinator().run(&["nft", "delete table ip cut"])?.success().map(drop)
    }

    fn coordinator(&self) -> &Host {
        self.office.coordinator.host()
    }

    /// Revokes, and returns the change once the gateway that hears has enforced it.
    fn revoke(&self, flows: &mut Flows) -> Result<Value> {
        self.office.coordinator.ctl(&["policy", "remove", &flows.policy])?;
        self.office.is_cut(&mut flows.hearing)?;
        eventually("one gateway has acknowledged", || {
            let change = self.change()?;
            ensure!(change["what"].to_string().contains(&flows.policy), "{change}");
            ensure!(change["enforced"] == 1 && change["nodes"] == 2 && change["revoked"] == 2, "{change}");
            ensure!(change["cut"].as_u64() >= Some(1) && change["p99_ms"].is_f64(), "{change}");
            Ok(change)
        })
    }

    fn change(&self) -> Result<Value> {
        self.office.coordinator.ctl(&["change", "show", "last"])
    }

    /// The one gateway that is missing in a change, which is this one.
    fn missing(&self, change: &Value, gateway: usize) -> Result<Value> {
        let missing = change["missing"].as_array().context("a list")?;
        let name = ["gateway", "gateway-b"][gateway];
        ensure!(missing.len() == 1 && missing[0]["gateway"] == name && missing[0]["pending"] == 1, "{name}: {change}");
        Ok(missing[0].clone())
    }

    /// Waits until all gateways enforce the last change.
    fn settled(&self) -> Result<Value> {
        eventually("nobody is missing any more", || {
            let change = self.change()?;
            ensure!(change["enforced"] == 2 && change["missing"].as_array().is_some_and(Vec::is_empty), "{change}");
            Ok(change)
        })
        .with_context(|| self.gateways.iter().map(|(node, _)| node.log()).collect::<String>())
    }
}

/// The wall clock in this host, in seconds, when `of` is; a time as `date` reads it.
fn seconds(host: &Host, of: &str) -> Result<i64> {
    Ok(host.run(&["date", "-u", "-d", of, "+%s"])?.success()?.trim().parse()?)
}

#[test]
fn what_a_gateway_did_not_hear_of_ends_by_the_bound_that_was_told() -> Result<()> {
    let scene = scene(&["--lease", "15s"])?;
    let mut flows = scene.flows()?;
    scene.cut_off_both(&flows)?;
    let change = scene.revoke(&mut flows)?;
    let missing = scene.missing(&change, flows.deaf.0)?;
    let until = missing["until"].as_str().with_context(|| format!("a bound: {missing}"))?.to_owned();
    let text = scene.office.coordinator.run(&["change", "show"])?.success()?;
    ensure!(
        text.contains("Enforced on 1 of 2 gateways.") && text.contains("will have ended with the lease by"),
        "{text}"
    );

    let (_, download, _) = &mut flows.deaf;
    let bound = seconds(scene.coordinator(), &until)?;
    let now = || seconds(scene.coordinator(), "now");
    while download.ended().is_none() && now()? < bound + MARGIN {
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    let cut = now()?;
    ensure!(cut < bound + MARGIN, "it goes on at {cut}, and the bound was {bound}: {}", download.log());
    println!("the bound was {bound}, cut at {cut}");
    scene.office.is_cut(download)?;
    // Nobody can let anything through from then on, so it counts as enforced, heard or not.
    scene.settled()?;
    let (deaf, _) = &scene.gateways[flows.deaf.0];
    eventually("the gateway carries nothing", || {
        let status = deaf.json(&["status"])?;
        ensure!(status["grants_carried"] == 0 && status["connected"] == false, "{status}");
        Ok(())
    })?;

    scene.let_back()?;
    eventually("both are back", || {
        for node in [deaf, &scene.laptop] {
            ensure!(node.json(&["status"])?["connected"] == true);
        }
        Ok(())
    })?;
    scene.office.is_closed("http://first.postern.internal:8001/")?;
    scene.settled()?;
    // And it is of use again.
    scene.office.coordinator.policy(&["allow", "user:alice", "tag:web"])?;
    scene.office.is_open("http://first.postern.internal:8001/")?;
    scene.office.is_open("http://second.postern.internal:8002/")
}

#[test]
fn a_gateway_that_is_back_before_its_bound_enforces_what_it_has_missed() -> Result<()> {
    let scene = scene(&[])?;
    let mut flows = scene.flows()?;
    scene.cut_off_both(&flows)?;
    scene.revoke(&mut flows)?;
    let missing = eventually("it is seen to be offline", || {
        let missing = scene.missing(&scene.change()?, flows.deaf.0)?;
        ensure!(missing["offline"] == true, "{missing}");
        Ok(missing)
    })?;
    let bound = seconds(scene.coordinator(), missing["until"].as_str().context("a bound")?)?;
    ensure!(bound > seconds(scene.coordinator(), "now")? + 300, "the lease is a long one: {missing}");
    let text = scene.office.coordinator.run(&["change", "show", "last"])?.success()?;
    ensure!(text.contains("is offline: 1 grant there will have ended with the lease by"), "{text}");
    let (_, mut download, file) = flows.deaf;
    scene.office.grows(file).context("told as it is: it goes on until the bound, or until the gateway is back")?;

    // Only the gateway comes back, so that it is the gateway that ends it.
    scene.cut_off(&[LAPTOP])?;
    scene.office.is_cut(&mut download)?;
    let change = scene.settled()?;
    ensure!(change["what"].to_string().contains(&flows.policy), "{change}");
    let resources = scene.laptop.json(&["resources"])?;
    let held = resources.as_array().context("a list")?.iter().find(|row| row["name"] == file);
    ensure!(held.is_some_and(|row| row["lease_seconds_left"].is_u64()), "the laptop has heard nothing: {resources}");
    eventually("the audit log has the outcome", || {
        let audit = scene.office.coordinator.ctl(&["audit", "list", "--limit", "1000"])?;
        let object = format!("revision:{}", change["revision"]);
        let entries = audit.as_array().context("entries")?.iter();
        let of_it = entries.filter(|it| it["action"] == "change.enforced" && it["object"] == object.as_str());
        ensure!(of_it.count() == 1, "{audit}");
        Ok(())
    })?;
    scene.let_back()
}
