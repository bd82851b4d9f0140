//! The machine that a node runs on: what else lives there goes on, and comes back as it was.

use std::{fs, process::Command};

use anyhow::{Context as _, Result, ensure};
use postern_lab::{Background, Host, Node, Office, eventually, postern::binary, process::run, servers, topology::ip};
use rustix::process::Signal;

const ORIGINAL: &str = "nameserver 203.0.113.53\n";
const WIKI: &str = "http://wiki.postern.internal/";

fn curl(host: &Host, url: &str) -> Result<String> {
    host.run(&["curl", "-4", "-sS", "--max-time", "3", url])?.success()
}

fn reaches_wiki(host: &Host) -> Result<()> {
    eventually("the wiki answers", || curl(host, WIKI)).map(drop)
}

fn own_address(node: &Node) -> Result<String> {
    Ok(node.json(&["status"])?["addr"]["v4"].as_str().context("an address")?.to_owned())
}

fn interface(node: &Node) -> Result<String> {
    Ok(node.json(&["status"])?["interface"].as_str().context("an interface")?.to_owned())
}

fn resolv_conf(host: &Host) -> Result<String> {
    Ok(fs::read_to_string(host.resolv_conf())?)
}

/// The laptop as a workstation with containers: a default route, forwarding, masquerading, and one container behind it.
fn with_container(office: &mut Office) -> Result<Host> {
    let laptop = office.laptop.clone();
    let container = office.lab.host("container")?;
    let (inside, outside) = (container.namespace(), laptop.namespace());
    ip(&["-n", outside, "link", "add", "ve-box", "type", "veth", "peer", "name", "eth0", "netns", inside])?;
    laptop.ip(&["addr", "add", "172.17.0.1/16", "dev", "ve-box"])?;
    laptop.ip(&["link", "set", "ve-box", "up"])?;
    container.ip(&["addr", "add", "172.17.0.2/16", "dev", "eth0"])?;
    container.ip(&["link", "set", "eth0", "up"])?;
    container.ip(&["route", "add", "default", "via", "172.17.0.1"])?;
    laptop.ip(&["route", "add", "default", "via", "203.0.113.1"])?;
    laptop.run(&["sysctl", "-qw", "net.ipv4.ip_forward=1"])?.success()?;
    let rules = "table ip workstation { chain leave { type nat hook postrouting priority srcnat; oifname != ve-box masquerade; }; }";
    laptop.run(&["nft", rules])?.success()?;
    Ok(container)
}

#[test]
fn a_laptop_that_forwards_lends_its_rights_to_nobody_and_gives_containers_names() -> Result<()> {
    let mut office = Office::new(&[])?;
    office.open_wiki()?;
    let _gateway = office.join_gateway()?;
    let laptop = office.join_laptop()?;
    let own = own_address(&laptop)?;
    let wiki = office.coordinator.find(&["resource", "list"], "name", "wiki")?;
    let wiki = wiki["addr"]["v4"].as_str().context("an address")?.to_owned();
    // After the node: it has to notice.
    let container = with_container(&mut office)?;
    let mallory = office.lab.host("mallory")?;
    mallory.link("eth0", &office.internet, &["203.0.113.66/24"])?;
    for address in [wiki.as_str(), own.as_str(), "172.17.0.2"] {
        mallory.ip(&["route", "add", &format!("{address}/32"), "via", "203.0.113.30"])?;
    }

    let dig = |host: &Host, name: &str| {
        let server = format!("@{own}");
        Ok::<_, anyhow::Error>(
            host.run(&["dig", "+tries=1", "+time=2", "+short", &server, name])?.stdout.trim().to_owned(),
        )
    };
    eventually("the container finds names", || {
        ensure!(dig(&container, "wiki.postern.internal")? == wiki);
        Ok(())
    })?;
    ensure!(dig(&container, "public.example.com")? == "198.51.100.7", "also those of others");
    ensure!(dig(&mallory, "wiki.postern.internal")? != wiki, "neighbours learn no names");
    // Only the service for names.
    let server = servers::nginx(&office.laptop, 8080, "alice's own")?;
    office.serve(server);
    curl(&office.laptop, &format!("http://{own}:8080/"))?;
    ensure!(curl(&container, &format!("http://{own}:8080/")).is_err());

    // The laptop forwards for both of them, but not into the tunnel.
    for (from, to) in [(&container, "203.0.113.53"), (&mallory, "172.17.0.2")] {
        from.run(&["ping", "-c", "1", "-W", "5", to])?.success()?;
    }
    reaches_wiki(&office.laptop)?;
    let pings = || office.wiki.run(&["nstat", "-asz", "IcmpInEchos"])?.success();
    office.laptop.run(&["ping", "-c", "1", "-W", "5", &wiki])?.success()?;
    let before = pings()?;
    for stranger in [&container, &mallory] {
        ensure!(curl(stranger, &format!("http://{wiki}/")).is_err(), "{} came in", stranger.namespace());
        ensure!(!stranger.run(&["ping", "-c", "1", "-W", "1", &wiki])?.ok());
    }
    ensure!(pings()? == before, "nothing of theirs arrived, answered or not: {}", pings()?);
    reaches_wiki(&office.laptop)
}

#[test]
fn neighbours_with_addresses_like_the_overlay_s_stay_reachable() -> Result<()> {
    let mut office = Office::new(&[])?;
    office.open_wiki()?;
    let gateway = office.join_gateway()?;
    let laptop = office.join_laptop()?;
    let neighbour = office.lab.host("neighbour")?;
    // In the range of devices, and in that of resources.
    neighbour.link("eth0", &office.internet, &["100.70.0.9/16", "100.100.5.9/24"])?;
    for (host, last) in [(&office.laptop, 30), (&office.gateway, 20)] {
        host.ip(&["addr", "add", &format!("100.70.0.{last}/16"), "dev", "eth0"])?;
        host.ip(&["addr", "add", &format!("100.100.5.{last}/24"), "dev", "eth0"])?;
    }
    for host in [&office.laptop, &office.gateway] {
        for address in ["100.70.0.9", "100.100.5.9"] {
            host.run(&["ping", "-c", "1", "-W", "5", address])?.success().context(address)?;
        }
    }
    reaches_wiki(&office.laptop)?;
    // An address that leads into the tunnel is a lie from anywhere else.
    let wiki = office.coordinator.find(&["resource", "list"], "name", "wiki")?;
    let wiki = wiki["addr"]["v4"].as_str().context("an address")?;
    neighbour.ip(&["addr", "add", &format!("{wiki}/32"), "dev", "lo"])?;
    let pings = || office.laptop.run(&["nstat", "-asz", "IcmpInEchos"])?.success();
    let ping = |words: &[&str]| neighbour.run(&[&["ping", "-c", "1", "-W", "1"], words, &["100.70.0.30"]].concat());
    let none = pings()?;
    ensure!(ping(&["-I", "100.70.0.9"])?.ok());
    let one = pings()?;
    ensure!(one != none, "what arrives is counted");
    ensure!(!ping(&["-I", wiki])?.ok() && pings()? == one, "nothing from the wiki's address arrives: {}", pings()?);
    drop((gateway, laptop));
    Ok(())
}

#[test]
fn two_nodes_in_one_namespace_are_one_too_many() -> Result<()> {
    let mut office = Office::new(&[])?;
    office.open_wiki()?;
    let _gateway = office.join_gateway()?;
    let mut first = office.join_laptop()?;
    let token = office.coordinator.token(&["--user", "alice"])?;
    let mut second = Node::start_in(&office.laptop, office.laptop.dir().join("second"))?;
    let refused = second.run(&["up", &token])?;
    ensure!(refused.code == Some(1) && refused.stderr.contains("another postern runs in this network"), "{refused:?}");
    reaches_wiki(&office.laptop).context("the first goes on")?;

    // The first crashes, and leaves the resolver to nobody.
    first.process()?.kill()?;
    let refused = second.run(&["up", &token])?;
    ensure!(refused.code == Some(1) && refused.stderr.contains("did not set it back"), "{refused:?}");
    fs::write(office.laptop.resolv_conf(), ORIGINAL)?;
    second.up(None)?;
    reaches_wiki(&office.laptop).context("the token was still good, and the second is up")?;

    // Cleaning up after the first does not touch what is the second's, even if both have the same names for it.
    first.run(&["down"])?.success()?;
    let table = interface(&second)?;
    ensure!(office.laptop.run(&["nft", "list", "table", "inet", &table])?.success()?.contains("drop"));
    reaches_wiki(&office.laptop)?;
    second.process()?.terminate()?;
    ensure!(resolv_conf(&office.laptop)? == ORIGINAL);
    ensure!(!office.laptop.run(&["nft", "list", "ruleset"])?.success()?.contains("postern"));
    first.resume()?;
    first.up(None)?;
    reaches_wiki(&office.laptop)?;
    // It was up when it ended, and can't be now.
    second.resume()?;
    let problem = second.json(&["status"])?["problem"].clone();
    ensure!(problem.as_str().is_some_and(|text| text.contains("another postern")), "{problem}");
    reaches_wiki(&office.laptop)
}

/// All that a node changes outside its own interface.
fn machine(host: &Host) -> Result<String> {
    let script = r#"cd /proc/sys/net && for kind in forwarding accept_redirects accept_ra rp_filter route_localnet; do
        for file in ipv4/conf/*/$kind ipv6/conf/*/$kind; do
            case $file in *postern*|*'*'*) ;; *) [ -e $file ] && echo $file $(cat $file);; esac
        done; done; cat ipv4/ip_forward; nft list ruleset; cat /etc/resolv.conf"#;
    host.run(&["sh", "-c", script])?.success()
}

#[test]
fn however_it_ends_the_machine_is_as_it_was() -> Result<()> {
    let office = Office::new(&[])?;
    let host = &office.gateway;
    // A machine that was made safe: what the kernel changes along with forwarding must come back too.
    for setting in ["net.ipv4.conf.all.accept_redirects=0", "net.ipv4.conf.eth1.forwarding=1"] {
        host.run(&["sysctl", "-qw", setting])?.success()?;
    }
    let before = machine(host)?;
    let mut gateway = office.join_gateway()?;
    let is_up = |gateway: &Node| {
        eventually("it is up", || {
            ensure!(gateway.json(&["status"])?["connected"] == true);
            ensure!(resolv_conf(host)? != ORIGINAL);
            Ok(())
        })
    };
    for signal in [Signal::HUP, Signal::QUIT, Signal::INT, Signal::TERM] {
        is_up(&gateway)?;
        ensure!(machine(host)? != before);
        gateway.process()?.signal(signal)?;
        ensure!(gateway.process()?.wait()? == 0, "{signal:?}: {}", gateway.log());
        ensure!(machine(host)? == before, "after {signal:?}: {}", machine(host)?);
        gateway.resume()?;
    }
    is_up(&gateway)?;
    gateway.process()?.kill()?;
    gateway.run(&["down"])?.success()?;
    ensure!(machine(host)? == before, "after kill -9 and down: {}", machine(host)?);

    gateway.resume()?;
    gateway.up(None)?;
    gateway.process()?.kill()?;
    fs::write(host.resolv_conf(), "")?;
    gateway.run(&["down"])?.success()?;
    ensure!(machine(host)? == before, "after a crash in the middle of writing: {}", machine(host)?);
    Ok(())
}

#[test]
fn a_resolver_that_dhcp_rewrites_is_taken_again_with_its_new_servers() -> Result<()> {
    let mut office = Office::new(&[])?;
    office.open_wiki()?;
    let _gateway = office.join_gateway()?;
    let laptop = office.join_laptop()?;
    let other = office.lab.host("other-dns")?;
    other.link("eth0", &office.internet, &["203.0.113.54/24"])?;
    let server = servers::dnsmasq(&other, "203.0.113.54", &[("elsewhere.example.com", "198.51.100.8")])?;
    office.serve(server);
    let leased = "search example.com\nnameserver 203.0.113.54\n";
    fs::write(office.laptop.resolv_conf(), leased)?;
    let own = own_address(&laptop)?;
    eventually("the file names the node again", || {
        let now = resolv_conf(&office.laptop)?;
        ensure!(now.contains(&own) && now.contains("search example.com"), "{now}");
        Ok(())
    })?;
    reaches_wiki(&office.laptop)?;
    let found = office.laptop.run(&["dig", "+short", "elsewhere.example.com"])?.success()?;
    ensure!(found.trim() == "198.51.100.8", "the new server is asked: {found}");
    laptop.run(&["down"])?.success()?;
    ensure!(resolv_conf(&office.laptop)? == leased, "what DHCP wrote last comes back");
    Ok(())
}

#[test]
fn rules_that_another_program_removes_or_changes_are_put_up_again() -> Result<()> {
    let mut office = Office::new(&[])?;
    office.open_wiki()?;
    let gateway = office.join_gateway()?;
    let laptop = office.join_laptop()?;
    reaches_wiki(&office.laptop)?;
    for node in [&gateway, &laptop] {
        let table = interface(node)?;
        let listing = || node.host().run(&["nft", "list", "table", "inet", &table])?.success();
        let before = listing()?;
        // As `systemctl restart nftables` does; someone who clears a chain; and someone who adds a rule to it.
        let rule = ["nft", "insert", "rule", "inet", &table, "forward", "accept"];
        let changes: [&[&str]; 3] =
            [&["nft", "flush", "ruleset"], &["nft", "flush", "chain", "inet", &table, "forward"], &rule];
        for change in changes {
            node.host().run(change)?.success()?;
            eventually("the rules are in force again", || {
                let now = listing()?;
                ensure!(now == before, "after {change:?}: {now}");
                Ok(())
            })
            .with_context(|| node.log())?;
        }
        ensure!(node.log().contains("the firewall rules were gone or changed"), "it says so: {}", node.log());
        ensure!(node.json(&["status"])?["problem"].is_null());
    }
    reaches_wiki(&office.laptop)?;

    // Other programs' rules are theirs, and nothing of it is left behind.
    office.laptop.run(&["nft", "table inet theirs { chain c { tcp dport 1 drop; }; }"])?.success()?;
    laptop.run(&["down"])?.success()?;
    let left = office.laptop.run(&["nft", "list", "ruleset"])?.success()?;
    ensure!(left.contains("theirs") && !left.contains("postern"), "{left}");
    Ok(())
}

#[test]
fn a_program_that_keeps_rewriting_the_resolver_is_named_and_not_fought_at_its_pace() -> Result<()> {
    let mut office = Office::new(&[])?;
    office.open_wiki()?;
    let _gateway = office.join_gateway()?;
    let laptop = office.join_laptop()?;
    let own = own_address(&laptop)?;
    let taken = || {
        eventually("the file names the node", || {
            let now = resolv_conf(&office.laptop)?;
            ensure!(now.contains(&own), "{now}");
            Ok(())
        })
    };
    for _ in 0..3 {
        fs::write(office.laptop.resolv_conf(), ORIGINAL)?;
        taken()?;
    }
    fs::write(office.laptop.resolv_conf(), ORIGINAL)?;
    let problem = || Ok::<_, anyhow::Error>(laptop.json(&["status"])?["problem"].clone());
    eventually("it says so", || {
        let problem = problem()?;
        ensure!(problem.as_str().is_some_and(|text| text.contains("another program keeps rewriting")), "{problem}");
        Ok(())
    })?;
    // It is taken again without anybody writing it.
    taken()?;
    eventually("all is well again", || {
        ensure!(problem()?.is_null(), "{}", problem()?);
        Ok(())
    })?;
    reaches_wiki(&office.laptop)?;
    laptop.run(&["down"])?.success()?;
    ensure!(resolv_conf(&office.laptop)? == ORIGINAL);
    Ok(())
}

#[test]
fn a_gateway_whose_machine_drops_what_it_forwards_says_so() -> Result<()> {
    let mut office = Office::new(&[])?;
    office.open_wiki()?;
    let host = office.gateway.clone();
    host.run(&[
        "nft",
        "table ip filter { chain FORWARD { type filter hook forward priority filter; policy drop; }; }",
    ])?
    .success()?;
    let gateway = Node::start(&host)?;
    let said = gateway.up(Some(&office.coordinator.token(&["--site", "office"])?))?;
    ensure!(said.contains("iptables -I FORWARD -i postern+ -j ACCEPT"), "{said}");
    let problem = || Ok::<_, anyhow::Error>(gateway.json(&["status"])?["problem"].clone());
    ensure!(problem()?.as_str().is_some_and(|text| text.contains("drops what is forwarded")), "{}", problem()?);
    let _laptop = office.join_laptop()?;
    ensure!(curl(&office.laptop, WIKI).is_err());
    // What the message says, in words that need no iptables.
    for rule in ["iifname \"postern*\" accept", "oifname \"postern*\" ct state established,related accept"] {
        host.run(&["nft", &format!("insert rule ip filter FORWARD {rule}")])?.success()?;
    }
    ensure!(problem()?.is_null(), "{}", problem()?);
    reaches_wiki(&office.laptop)
}

/// A network namespace on a machine whose files are one for all of its namespaces, as where nobody made
/// `/etc/netns/NAME/resolv.conf`. Returns that machine's process 1.
fn shared_files(office: &Office) -> Result<(Background, String)> {
    let file = office.lab.dir().join("the-machine-s-resolv.conf");
    fs::write(&file, ORIGINAL)?;
    let boot = "mount --make-rprivate / && mount --bind \"$0\" /etc/resolv.conf && echo booted && exec sleep infinity";
    let mut command = Command::new("unshare");
    command.args(["--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c", boot]).arg(&file);
    let machine = Background::spawn(&mut command, &office.lab.dir().join("machine.log"))?;
    eventually("the machine is there", || {
        ensure!(machine.log().contains("booted"), "{}", machine.log());
        Ok(())
    })?;
    let children = fs::read_to_string(format!("/proc/{0}/task/{0}/children", machine.pid()))?;
    Ok((machine, children.trim().to_owned()))
}

#[test]
fn the_machine_s_own_resolver_is_left_alone_by_a_node_in_a_namespace() -> Result<()> {
    let mut office = Office::new(&[])?;
    office.open_wiki()?;
    let _gateway = office.join_gateway()?;
    let (_machine, init) = shared_files(&office)?;
    let state = office.laptop.dir().join("node");
    let namespace = format!("--net=/run/netns/{}", office.laptop.namespace());
    let mut daemon = Command::new("nsenter");
    daemon.args(["--target", &init, "--mount", "--pid", &namespace]).arg(binary("postern")?);
    let daemon = office.laptop.spawn("node", daemon.arg("daemon").arg("--state-dir").arg(&state))?;
    let postern = |words: &[&str]| run(Command::new(binary("postern")?).arg("--state-dir").arg(&state).args(words));
    eventually("the daemon answers", || {
        ensure!(!postern(&["status", "--json"])?.stdout.contains("not running"), "{}", daemon.log());
        Ok(())
    })?;
    let said = postern(&["up", &office.coordinator.token(&["--user", "alice"])?])?.success()?;
    ensure!(said.contains("/etc/netns/NAME/resolv.conf"), "{said}");
    let status: serde_json::Value = serde_json::from_str(&postern(&["status", "--json"])?.success()?)?;
    ensure!(status["problem"].as_str().is_some_and(|text| text.contains("/etc/netns")), "{status}");
    let file = office.lab.dir().join("the-machine-s-resolv.conf");
    ensure!(fs::read_to_string(&file)? == ORIGINAL, "the machine's file is untouched");
    let server = format!("@{}", status["addr"]["v4"].as_str().context("an address")?);
    let found = office.laptop.run(&["dig", "+short", &server, "wiki.postern.internal"])?.success()?;
    ensure!(found.starts_with("100."), "who knows where to ask finds names: {found}");
    postern(&["down"])?.success()?;
    ensure!(fs::read_to_string(&file)? == ORIGINAL);
    Ok(())
}

#[test]
fn status_and_down_do_not_wait_for_a_coordinator_that_hangs() -> Result<()> {
    let mut office = Office::new(&[])?;
    office.open_wiki()?;
    let _gateway = office.join_gateway()?;
    let token = office.coordinator.token(&["--user", "alice"])?;
    let laptop = Node::start(&office.laptop)?;
    office.coordinator.process()?.signal(Signal::STOP)?;
    let mut up = office.laptop.command(&binary("postern")?.to_string_lossy());
    up.arg("--state-dir").arg(laptop.state_dir()).args(["up", &token]);
    let mut up = office.laptop.spawn("up", &mut up)?;
    eventually("it enrols", || {
        ensure!(laptop.state_dir().join("enrolling.json").exists(), "not yet");
        Ok(())
    })?;
    ensure!(laptop.json(&["status"])?["enrolled"] == false);
    ensure!(up.ended().is_none(), "it has answered meanwhile");
    laptop.run(&["down"])?.success()?;
    ensure!(up.wait()? == 1 && up.log().contains("ended by 'postern down'"), "{}", up.log());
    office.coordinator.process()?.signal(Signal::CONT)?;
    laptop.up(Some(&token))?;
    reaches_wiki(&office.laptop)
}

#[test]
fn a_daemon_that_up_starts_outlives_the_terminal() -> Result<()> {
    let mut office = Office::new(&[])?;
    office.open_wiki()?;
    let _gateway = office.join_gateway()?;
    let token = office.coordinator.token(&["--user", "alice"])?;
    let (binary, state) = (binary("postern")?, office.laptop.dir().join("node"));
    let (binary, state) = (binary.to_string_lossy(), state.to_string_lossy());
    office.laptop.run(&[&binary, "--state-dir", &state, "up", &token])?.success()?;
    let pids = office.laptop.run(&["pgrep", "-f", &format!("own-session.*{state}")])?.success()?;
    let pid = pids.lines().next().context("a daemon")?;
    let session = office.laptop.run(&["ps", "-o", "sid=", "-p", pid])?.success()?;
    ensure!(session.trim() == pid, "process {pid} is in session {session}");
    reaches_wiki(&office.laptop)?;
    office.laptop.run(&["kill", "-HUP", pid])?.success()?;
    eventually("what is sent on purpose is heeded", || {
        ensure!(resolv_conf(&office.laptop)? == ORIGINAL);
        Ok(())
    })
}
