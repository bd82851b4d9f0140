//! Reaching resources by name, with real clients; and for each thing that is allowed, what stays blocked.

use anyhow::{Result, ensure};
use postern_lab::{Host, Node, Office, eventually, resolved, servers};

fn curl(host: &Host, url: &str) -> Result<postern_lab::Output> {
    host.run(&["curl", "-sS", "--max-time", "15", url])
}

/// How curl says that the other side reset or refused.
const REFUSED: i32 = 7;
const NO_SUCH_NAME: i32 = 6;

#[test]
fn a_private_page_by_name_and_nothing_else() -> Result<()> {
    let mut office = Office::new(&[])?;
    office.open_wiki()?;
    let payroll = servers::nginx(&office.db, 80, "secret")?;
    office.serve(payroll);
    office
        .coordinator
        .ctl(&["resource", "add", "payroll", "--site", "office", "--target", "10.0.0.6", "--tcp", "80"])?;
    let _gateway = office.join_gateway()?;
    let laptop = office.join_laptop()?;

    for family in ["-4", "-6"] {
        let page = office.laptop.run(&["curl", family, "-sS", "--max-time", "15", "http://wiki.postern.internal/"])?;
        ensure!(page.success()?.contains("hello from the wiki"));
    }

    // Not in the catalogue: the name does not exist, and the address, had she guessed it, is refused.
    ensure!(curl(&office.laptop, "http://payroll.postern.internal/")?.code == Some(NO_SUCH_NAME));
    let payroll = office.coordinator.find(&["resource", "list"], "name", "payroll")?;
    let address = payroll["addr"]["v4"].as_str().expect("an address");
    ensure!(curl(&office.laptop, &format!("http://{address}/"))?.code == Some(REFUSED));

    // Another port of what she may reach, and the target's own address.
    ensure!(curl(&office.laptop, "http://wiki.postern.internal:22/")?.code == Some(REFUSED));
    ensure!(!curl(&office.laptop, "http://10.0.0.5/")?.ok());

    let status = laptop.json(&["status"])?;
    ensure!(status["drops"]["port_closed"].as_u64() > Some(0), "refused packets are counted: {status}");
    Ok(())
}

#[test]
fn names_answer_in_the_zone_and_all_else_as_before() -> Result<()> {
    let mut office = Office::new(&[])?;
    office.open_wiki()?;
    office.coordinator.ctl(&["resource", "edit", "wiki", "--alias", "wiki.example.com"])?;
    let _gateway = office.join_gateway()?;
    let mut laptop = office.join_laptop()?;
    let dig = |words: &[&str]| office.laptop.run(&[&["dig", "+tries=1", "+time=5"], words].concat())?.success();

    let wiki = office.coordinator.find(&["resource", "list"], "name", "wiki")?;
    for name in ["wiki.postern.internal", "WIKI.Postern.Internal", "wiki.example.com"] {
        ensure!(dig(&["+short", name, "A"])?.trim() == wiki["addr"]["v4"].as_str().unwrap_or("?"), "{name} A");
        ensure!(dig(&["+short", name, "AAAA"])?.trim() == wiki["addr"]["v6"].as_str().unwrap_or("?"), "{name} AAAA");
    }
    ensure!(dig(&["+short", "+tcp", "wiki.postern.internal"])?.trim() == wiki["addr"]["v4"].as_str().unwrap_or("?"));
    ensure!(dig(&["nothing.postern.internal"])?.contains("NXDOMAIN"));
    ensure!(dig(&["wiki.postern.internal", "TXT"])?.contains("NOERROR"));
    ensure!(dig(&["+short", "public.example.com"])?.trim() == "198.51.100.7", "other names go where they went before");

    let before = "nameserver 203.0.113.53\n";
    ensure!(std::fs::read_to_string(office.laptop.resolv_conf())? != before);
    laptop.run(&["down"])?.success()?;
    ensure!(std::fs::read_to_string(office.laptop.resolv_conf())? == before, "down restores the resolver");
    ensure!(dig(&["+short", "public.example.com"])?.trim() == "198.51.100.7");
    laptop.up(None)?;
    ensure!(curl(&office.laptop, "http://wiki.postern.internal/")?.ok(), "up again needs no token");
    laptop.process()?.terminate()?;
    ensure!(std::fs::read_to_string(office.laptop.resolv_conf())? == before, "so does the daemon's end");
    Ok(())
}

#[test]
fn systemd_resolved_asks_for_the_zone_and_the_aliases_and_nothing_else() -> Result<()> {
    let mut office = Office::new(&[])?;
    office.open_wiki()?;
    office.coordinator.ctl(&["resource", "edit", "wiki", "--alias", "wiki.example.com"])?;
    let _gateway = office.join_gateway()?;
    let (machine, running) = resolved::boot(&office.laptop, "203.0.113.53")?;
    office.serve(running);
    let laptop = Node::join(&machine, &office.coordinator.token(&["--user", "alice"])?)?;
    let dig = |name: &str| Ok::<_, anyhow::Error>(machine.run(&["dig", "+short", name])?.success()?.trim().to_owned());

    let interface = laptop.json(&["status"])?["interface"].as_str().expect("an interface").to_owned();
    let domains = || resolved::resolvectl(&machine, &["domain", &interface]);
    ensure!(domains()?.contains("~postern.internal ~wiki.example.com"), "{}", domains()?);
    let link = machine.run(&["readlink", "/etc/resolv.conf"])?.success()?;
    ensure!(link.trim() == "/run/systemd/resolve/stub-resolv.conf", "its file is left alone: {link}");
    let wiki = office.coordinator.find(&["resource", "list"], "name", "wiki")?;
    for name in ["wiki.postern.internal", "wiki.example.com"] {
        ensure!(dig(name)? == wiki["addr"]["v4"].as_str().unwrap_or("?"), "{name}");
    }
    ensure!(machine.run(&["dig", "nothing.postern.internal"])?.success()?.contains("NXDOMAIN"));
    for name in ["public.example.com", "below.wiki.example.com"] {
        ensure!(dig(name)? == "198.51.100.7", "{name} is not ours");
    }
    ensure!(curl(&machine, "http://wiki.example.com/")?.ok());

    // An alias that is taken away goes back to whom it belongs to, at once.
    office.coordinator.ctl(&["resource", "edit", "wiki", "--no-alias"])?;
    eventually("the alias is no longer asked for", || {
        ensure!(!domains()?.contains("example.com"), "{}", domains()?);
        Ok(())
    })?;

    // One that hangs keeps the node waiting for nothing: were it to wait, it would do so for 5 seconds.
    let pid = machine.run(&["pidof", "systemd-resolved"])?.success()?;
    machine.run(&["kill", "-STOP", pid.trim()])?.success()?;
    office.coordinator.ctl(&["resource", "edit", "wiki", "--alias", "wiki.example.com"])?;
    let status = laptop.json(&["status"])?;
    let server = format!("@{}", status["addr"]["v4"].as_str().unwrap_or("?"));
    let mut unanswered = 0;
    eventually("the node itself knows the alias", || {
        let answer = machine.run(&["dig", "+tries=1", "+time=4", "+short", &server, "wiki.example.com"])?;
        unanswered += usize::from(!answer.ok());
        ensure!(answer.stdout.trim() == wiki["addr"]["v4"].as_str().unwrap_or("?"), "{answer:?}");
        Ok(())
    })?;
    ensure!(unanswered == 0, "{unanswered} queries found the node waiting for systemd-resolved");
    machine.run(&["kill", "-CONT", pid.trim()])?.success()?;
    eventually("what it did not hear it is told again", || {
        ensure!(domains()?.contains("~postern.internal ~wiki.example.com"), "{}", domains()?);
        Ok(())
    })?;

    laptop.run(&["down"])?.success()?;
    ensure!(resolved::resolvectl(&machine, &["domain"])?.find("postern").is_none(), "down takes it all back");
    ensure!(dig("public.example.com")? == "198.51.100.7");
    Ok(())
}

#[test]
fn psql_ssh_ping_iperf_and_wg_work_as_everywhere() -> Result<()> {
    let mut office = Office::new(&[])?;
    office.open_wiki()?;
    let postgres = servers::postgres(&office.db)?;
    let (sshd, key) = servers::sshd(&office.db)?;
    let iperf = servers::iperf3(&office.db)?;
    for server in [postgres, sshd, iperf] {
        office.serve(server);
    }
    for words in [
        "resource add orders-db --site office --target 10.0.0.6 --tcp 5432",
        "resource add shell --site office --target 10.0.0.6 --tcp 22",
        "resource add speed --site office --target 10.0.0.6 --tcp 5201 --udp 5201",
        "policy allow user:alice orders-db",
        "policy allow user:alice shell",
        "policy allow user:alice speed",
    ] {
        office.coordinator.ctl(&words.split(' ').collect::<Vec<_>>())?;
    }
    let gateway = office.join_gateway()?;
    let laptop = office.join_laptop()?;

    let query = [
        "psql",
        "-h",
        "orders-db.postern.internal",
        "-U",
        "postgres",
        "-Atc",
        "select sum(g) from generate_series(1, 1000) g",
    ];
    ensure!(office.laptop.run(&query)?.success()?.trim() == "500500");

    // A session that outlives other work on the same tunnel.
    let ssh = |command: &str| {
        let mut ssh = office.laptop.command("ssh");
        ssh.args([
            "-o",
            "StrictHostKeyChecking=no",
            "-o",
            "UserKnownHostsFile=/dev/null",
            "-o",
            "LogLevel=ERROR",
            "-i",
        ]);
        ssh.arg(&key).args(["root@shell.postern.internal", command]);
        ssh
    };
    let marker = office.db.dir().join("marker");
    let mut session = office.laptop.spawn(
        "ssh",
        &mut ssh(&format!("echo begun; until [ -e {} ]; do sleep 0.1; done; echo ended", marker.display())),
    )?;
    eventually("the ssh session runs", || {
        ensure!(session.log().contains("begun"), "{}", session.log());
        Ok(())
    })?;

    let ping = office.laptop.run(&["ping", "-c", "3", "-i", "0.2", "-W", "5", "wiki.postern.internal"])?.success()?;
    ensure!(ping.contains(" 0% packet loss"), "{ping}");
    ensure!(
        !office.laptop.run(&["ping", "-c", "1", "-W", "2", "orders-db.postern.internal"])?.ok(),
        "no --icmp, no ping"
    );

    for direction in [&["-R"][..], &[]] {
        let words = [&["iperf3", "-c", "speed.postern.internal", "-t", "1", "-J"], direction].concat();
        let report: serde_json::Value = serde_json::from_str(&office.laptop.run(&words)?.success()?)?;
        ensure!(report["end"]["sum_received"]["bytes"].as_u64() > Some(1 << 20), "{report}");
    }

    let interface = laptop.json(&["status"])?["interface"].as_str().expect("an interface").to_owned();
    let shown = office.laptop.run(&["wg", "show", &interface, "dump"])?.success()?;
    let peer: Vec<_> = shown.lines().nth(1).expect("a peer").split('\t').collect();
    // The gateway has both addresses, and whichever was heard first is in use.
    const GATEWAY: [&str; 2] = ["203.0.113.20:", "[2001:db8:1::20]:"];
    ensure!(
        GATEWAY.iter().any(|at| peer[2].starts_with(at)) && peer[4] != "0" && peer[5].parse::<u64>()? > 1 << 20,
        "{shown}"
    );
    ensure!(office.laptop.run(&["wg", "show", &interface])?.success()?.contains("latest handshake"));
    ensure!(!office.laptop.run(&["wg", "set", &interface, "listen-port", "1"])?.ok(), "wg may look, not change");

    let client = office.laptop.run(&["ip", "-o", "-4", "addr", "show", "dev", &interface])?.success()?;
    let client = client.split_whitespace().nth(3).and_then(|a| a.split('/').next()).expect("an address");
    let whois = gateway.json(&["whois", client])?;
    ensure!(whois["user"] == "alice", "{whois}");

    let path = laptop.json(&["ping", "wiki"])?.to_string();
    ensure!(GATEWAY.iter().any(|at| path.contains(at)), "ping says which path: {path}");

    std::fs::write(marker, "")?;
    ensure!(session.wait()? == 0 && session.log().contains("ended"), "{}", session.log());
    Ok(())
}

#[test]
fn targets_by_name_on_the_gateway_itself_and_in_overlapping_networks() -> Result<()> {
    let mut office = Office::new(&[])?;
    office.open_wiki()?;
    // A second site with the same private addresses behind a gateway of its own.
    let branch = office.lab.segment("branch")?;
    let branch_gateway = office.lab.host("branch-gw")?;
    branch_gateway.link("eth0", &office.internet, &["203.0.113.21/24"])?;
    branch_gateway.link("eth1", &branch, &["10.0.0.1/24"])?;
    let branch_wiki = office.lab.host("branch-wiki")?;
    branch_wiki.link("eth0", &branch, &["10.0.0.5/24"])?;
    let on_branch = servers::nginx(&branch_wiki, 80, "hello from the branch")?;
    let second = servers::nginx(&office.wiki, 8080, "the second port")?;
    let itself = servers::nginx(&office.gateway, 8000, "the gateway itself")?;
    let db = servers::nginx(&office.db, 80, "found by name")?;
    for server in [on_branch, second, itself, db] {
        office.serve(server);
    }
    office.coordinator.ctl(&["site", "add", "branch"])?;
    for (name, rest) in [
        ("branch-wiki", "--site branch --target 10.0.0.5 --tcp 80"),
        ("wiki-admin", "--site office --target 10.0.0.5 --tcp 8080"),
        ("gateway-lan", "--site office --target 10.0.0.1 --tcp 8000"),
        ("gateway-local", "--site office --target 127.0.0.1 --tcp 8000"),
        ("by-name", "--site office --target db.office.example.com --tcp 80"),
        ("by-v6", "--site office --target fd00:10::5 --tcp 80"),
    ] {
        let words: Vec<_> = ["resource", "add", name].into_iter().chain(rest.split(' ')).collect();
        office.coordinator.ctl(&words)?;
        office.coordinator.ctl(&["policy", "allow", "user:alice", name])?;
    }
    let _gateway = office.join_gateway()?;
    let token = office.coordinator.token(&["--site", "branch"])?;
    let _branch = postern_lab::Node::join(&branch_gateway, &token)?;
    let laptop = office.join_laptop()?;
    let get = |url: &str| curl(&office.laptop, url)?.success();

    ensure!(get("http://wiki.postern.internal/")?.contains("from the wiki"));
    ensure!(get("http://branch-wiki.postern.internal/")?.contains("from the branch"));
    ensure!(get("http://wiki-admin.postern.internal:8080/")?.contains("second port"));
    ensure!(
        curl(&office.laptop, "http://wiki-admin.postern.internal/")?.code == Some(REFUSED),
        "80 is the other resource's"
    );
    ensure!(get("http://by-name.postern.internal/")?.contains("found by name"));
    for family in ["-4", "-6"] {
        let page = office.laptop.run(&["curl", family, "-sS", "--max-time", "15", "http://by-v6.postern.internal/"])?;
        ensure!(page.success()?.contains("from the wiki"), "{family} to an IPv6 target");
    }

    // On the gateway itself the server sees who it is; on another host it sees the gateway.
    let status = laptop.json(&["status"])?;
    let own = status["addr"]["v4"].as_str().expect("an address").to_owned();
    let seen = |url: &str| office.laptop.run(&["curl", "-4", "-sS", "--max-time", "15", url])?.success();
    ensure!(seen("http://gateway-lan.postern.internal:8000/address")?.trim().trim_start_matches("::ffff:") == own);
    ensure!(seen("http://gateway-local.postern.internal:8000/address")?.trim().trim_start_matches("::ffff:") == own);
    ensure!(seen("http://wiki.postern.internal/address")?.trim().trim_start_matches("::ffff:") == "10.0.0.1");
    Ok(())
}

#[test]
fn the_tunnel_runs_over_ipv6_too() -> Result<()> {
    let mut office = Office::new(&["--listen", "[::]:8443"])?;
    office.open_wiki()?;
    for host in [&office.gateway, &office.laptop] {
        host.ip(&["-4", "addr", "flush", "dev", "eth0"])?;
        std::fs::write(host.resolv_conf(), "nameserver 2001:db8:1::53\n")?;
    }
    office.coordinator.kill()?;
    office.coordinator.set_address("2001:db8:1::10");
    office.coordinator.resume()?;
    let _gateway = office.join_gateway()?;
    let _laptop = office.join_laptop()?;
    for family in ["-4", "-6"] {
        let page = office.laptop.run(&["curl", family, "-sS", "--max-time", "15", "http://wiki.postern.internal/"])?;
        ensure!(page.success()?.contains("hello from the wiki"), "{family} inside");
    }
    Ok(())
}
