//! `make demo`: the product's main job from end to end, told step by step.
//!
//! Builds the [office scene](postern_lab::office), joins a gateway and a laptop, reaches a private server by name, is
//! refused another, and cuts a running download with one edit. `--keep` leaves it standing; `--remove` takes a kept one down.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use postern_lab::{Office, eventually, office, postern::binary, servers, topology, wait::now};

fn main() -> Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    match words.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        [] => demo(false),
        ["--keep"] => demo(true),
        ["--remove"] => {
            println!("{} kept demo(s) removed", topology::remove_kept()?);
            Ok(())
        }
        other => bail!("unknown options {other:?}: use --keep, --remove or nothing"),
    }
}

/// Numbers the steps and says how long each took.
struct Story {
    step: u32,
    began: Instant,
}

impl Story {
    fn tell<T>(&mut self, what: &str, act: impl FnOnce() -> Result<T>) -> Result<T> {
        self.step += 1;
        println!("\n\x1b[1m{}. {what}\x1b[0m", self.step);
        let start = now();
        let value = act().with_context(|| format!("step {}: {what}", self.step))?;
        println!("   \x1b[2m{}\x1b[0m", took(start.elapsed()));
        Ok(value)
    }
}

fn took(time: Duration) -> String {
    format!("({:.0} ms)", time.as_secs_f64() * 1000.0)
}

fn say(who: &str, command: &str, answer: &str) {
    println!("   {who}$ {command}");
    for line in answer.lines() {
        println!("   {line}");
    }
}

fn demo(keep: bool) -> Result<()> {
    println!("Postern demo: a coordinator, a gateway, two private servers and a laptop, each in a network namespace.");
    let mut story = Story { step: 0, began: now() };

    let mut scene = story.tell("The machines and the coordinator start", || Office::new(&[]))?;
    let wiki = servers::nginx(&scene.wiki, 80, "Welcome to the private wiki.")?;
    let payroll = servers::nginx(&scene.db, 80, "Nobody should read this.")?;
    scene.serve(wiki);
    scene.serve(payroll);

    story.tell("The admin describes what is private, and who may reach it", || {
        for command in [
            "resource add wiki --site office --target 10.0.0.5 --tcp 80 --icmp",
            "resource add payroll --site office --target 10.0.0.6 --tcp 80",
            "policy allow user:alice wiki",
        ] {
            let words: Vec<_> = command.split_whitespace().collect();
            say("admin", &format!("postern-coordinator {command}"), &scene.coordinator.run(&words)?.success()?);
        }
        Ok(())
    })?;

    let token = scene.coordinator.token(&["--site", "office"])?;
    let gateway = story.tell("The gateway joins with a token, one command", || {
        let node = postern_lab::Node::start(&scene.gateway)?;
        say("gateway", "postern up postern-join-…", &node.up(Some(&token))?);
        Ok(node)
    })?;

    let token = scene.coordinator.token(&["--user", "alice"])?;
    let laptop = story.tell("Alice's laptop joins with a token, one command", || {
        let node = postern_lab::Node::start(&scene.laptop)?;
        say("laptop", "postern up postern-join-…", &node.up(Some(&token))?);
        Ok(node)
    })?;

    story.tell("She opens the wiki by its name: access is asked for, decided and carried", || {
        let page =
            scene.laptop.run(&["curl", "-sS", "--max-time", "10", "http://wiki.postern.internal/"])?.success()?;
        say("laptop", "curl http://wiki.postern.internal/", &page);
        ensure!(page.contains("private wiki"), "that is not the wiki");
        Ok(())
    })?;

    story.tell("And again, now that she holds a grant", || {
        let time = [
            "curl",
            "-sS",
            "-o",
            "/dev/null",
            "-w",
            "%{http_code} in %{time_total} s",
            "http://wiki.postern.internal/",
        ];
        let shown = "curl -o /dev/null -w '%{http_code} in %{time_total} s' http://wiki.postern.internal/";
        say("laptop", shown, &scene.laptop.run(&time)?.success()?);
        say("laptop", "postern ping wiki -c 3", &laptop.run(&["ping", "wiki", "-c", "3"])?.success()?);
        Ok(())
    })?;

    story.tell("What she was not given does not exist for her", || {
        let output = scene.laptop.run(&["curl", "-sS", "--max-time", "10", "http://payroll.postern.internal/"])?;
        ensure!(!output.ok(), "payroll answered");
        say("laptop", "curl http://payroll.postern.internal/", output.stderr.trim());
        let output = scene.laptop.run(&["curl", "-sS", "--max-time", "10", "http://wiki.postern.internal:22/"])?;
        ensure!(!output.ok(), "another port answered");
        say("laptop", "curl http://wiki.postern.internal:22/", output.stderr.trim());
        Ok(())
    })?;

    story.tell("She begins a long download, and the admin takes the access away", || {
        let mut curl = scene.laptop.command("curl");
        curl.args(["-sS", "-o", "big", "http://wiki.postern.internal/big"]);
        let mut download = scene.laptop.spawn("download", &mut curl)?;
        let file = scene.laptop.dir().join("big");
        let size = eventually("the download runs", || {
            let size = std::fs::metadata(&file)?.len();
            ensure!(size > 1 << 20, "only {size} bytes so far");
            Ok(size)
        })?;
        println!("   laptop$ curl http://wiki.postern.internal/big   … {} MiB so far", size >> 20);
        let policy = scene.coordinator.find(&["policy", "list"], "resource", "wiki")?;
        let id = policy["id"].as_str().context("the policy's id")?.to_owned();
        let edit = now();
        let answer = scene.coordinator.run(&["policy", "remove", &id])?.success()?;
        download.wait()?;
        let cut = edit.elapsed();
        say("admin", &format!("postern-coordinator policy remove {id}"), &answer);
        println!("   {}", download.log().trim());
        println!("   \x1b[1mcut {:.0} ms after the admin pressed return\x1b[0m", cut.as_secs_f64() * 1000.0);
        let output = scene.laptop.run(&["curl", "-sS", "--max-time", "10", "http://wiki.postern.internal/"])?;
        ensure!(!output.ok(), "the wiki still answers");
        say("laptop", "curl http://wiki.postern.internal/", output.stderr.trim());
        Ok(())
    })?;

    story.tell("All of it was written down, in a chain that can be checked", || {
        let log = scene.coordinator.run(&["audit", "list", "--limit", "1000"])?.success()?;
        let lines: Vec<_> = log.lines().collect();
        println!("   admin$ postern-coordinator audit list   (the last of it)");
        for line in &lines[lines.len().saturating_sub(5)..] {
            let rest = if line.chars().count() > 150 { "…" } else { "" };
            println!("   {}{rest}", line.chars().take(150).collect::<String>());
        }
        say("admin", "postern-coordinator audit verify", &scene.coordinator.run(&["audit", "verify"])?.success()?);
        Ok(())
    })?;

    println!("\nDone in {:.1} s.", story.began.elapsed().as_secs_f64());
    if keep { leave_standing(scene, gateway, laptop) } else { Ok(()) }
}

fn leave_standing(mut scene: Office, mut gateway: postern_lab::Node, mut laptop: postern_lab::Node) -> Result<()> {
    scene.coordinator.ctl(&["policy", "allow", "user:alice", "wiki"])?;
    scene.coordinator.process()?.keep();
    gateway.process()?.keep();
    laptop.process()?.keep();
    scene.servers.iter_mut().for_each(postern_lab::Background::keep);
    let (ctl, node) = (binary("postern-coordinator")?, binary("postern")?);
    let interface = laptop.json(&["status"])?["interface"].as_str().unwrap_or_default().to_owned();
    let enter = |host: &postern_lab::Host| format!("ip netns exec {}", host.namespace());
    println!("\nIt is left standing (the policy is back). Look around, as root:\n");
    println!("  alias admin='{} --state-dir {}'", ctl.display(), scene.coordinator.state_dir().display());
    println!("  alias laptop='{}'", enter(&scene.laptop));
    println!("  alias gateway='{}'", enter(&scene.gateway));
    println!("  admin resource list; admin device list; admin grant list; admin audit list");
    println!("  laptop curl http://wiki.postern.internal/");
    println!("  laptop {} --state-dir {} status", node.display(), laptop.state_dir().display());
    println!("  gateway {} --state-dir {} status", node.display(), gateway.state_dir().display());
    println!(
        "  laptop wg show {interface}; laptop dig wiki.postern.internal AAAA    # the wiki is {} behind the gateway",
        office::WIKI
    );
    println!("\nTake it down: {} --remove", std::env::current_exe()?.display());
    topology::mark_kept(&scene.lab)?;
    scene.lab.keep();
    Ok(())
}
