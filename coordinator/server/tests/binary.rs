//! The real program, driven through its command line and its two doors.

#![allow(clippy::unwrap_used, reason = "what fails here fails the test")]

mod program;

use std::{
    fs,
    io::{Read as _, Write as _},
    net::TcpStream,
    os::unix::{fs::PermissionsExt as _, process::ExitStatusExt as _},
    path::Path,
    process::{Command, Stdio},
};

use program::{Running, free_port, program, run, text};
use serde_json::{Value, json};

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn every_command_works_and_a_crash_loses_nothing() {
    let mut running = Running::start();
    assert!(running.done("group add eng").contains("Added group eng."));
    let alice = running.json("user add alice --group eng");
    assert_eq!((text(&alice, "name"), &alice["groups"]), ("alice", &json!(["eng"])));
    running.done("user add bob");
    assert_eq!(running.json("group member add eng bob")["members"], json!(["alice", "bob"]));
    assert_eq!(running.json("group member remove eng bob")["members"], json!(["alice"]));
    assert_eq!(running.json("user suspend bob")["suspended"], true);
    assert_eq!(running.json("user resume bob")["suspended"], false);
    text(&running.json("site add office"), "id");
    let wiki =
        running.json("resource add wiki --site office --target 10.0.0.5 --tcp 80 --icmp --alias wiki.example.com");
    assert!(text(&wiki["addr"], "v4").starts_with("100."));
    let wiki = running.json("resource edit wiki --udp 53");
    assert_eq!((text(&wiki, "tcp"), text(&wiki, "udp"), &wiki["icmp"]), ("80", "53", &json!(true)));
    let policy = running.json("policy allow user:alice wiki");
    let other = running.json("policy allow group:eng wiki");
    assert_eq!(running.json(&format!("policy remove {}", text(&other, "id")))["removed"], true);
    let token = running.json("token create --user alice --expires 30m --uses 2");
    assert!(text(&token, "token").starts_with("postern-join-"));
    assert_eq!(running.json(&format!("token withdraw {}", text(&token, "id")))["status"], "withdrawn");
    let said = running.done("token create --site office");
    assert!(said.contains("  postern up postern-join-"), "{said}");
    for empty in ["device list", "grant list", "apikey list"] {
        assert_eq!(running.json(empty), json!([]), "{empty}");
    }

    running.serve.kill().unwrap();
    assert_eq!(running.serve.wait().unwrap().signal(), Some(9));
    running.fails("user list", 1, "no coordinator is running with --state-dir");
    running.restart();

    let names = |list: &str, field: &str| {
        let rows = running.json(list);
        rows.as_array().unwrap().iter().map(|row| text(row, field).to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(names("user list", "name"), ["alice", "bob"]);
    assert_eq!(names("group list", "name"), ["eng"]);
    assert_eq!(names("site list", "name"), ["office"]);
    assert_eq!(names("policy list", "id"), [text(&policy, "id")]);
    assert_eq!(names("token list", "owner"), ["user:alice", "site:office"]);
    assert_eq!(running.json("resource list")[0], wiki);
    assert!(running.done("resource list").contains("tcp/80 udp/53 icmp"));
    assert!(running.done("token list").lines().all(|line| line == line.trim_end()), "no trailing blanks in a pipe");

    running.done("resource remove wiki");
    running.done("user remove bob");
    running.done("group remove eng");
    assert_eq!(names("policy list", "id"), Vec::<String>::new());
    let log = running.json("audit list --limit 1000");
    let report = running.json("audit verify");
    assert_eq!((&report["ok"], report["entries"].as_u64()), (&json!(true), Some(log.as_array().unwrap().len() as u64)));
    assert_eq!(running.json("audit list --after 2 --limit 1")[0]["id"], 3);
    assert!(running.done("audit list").contains("user.remove"));

    for secret in [text(&token, "token"), said.trim().rsplit(' ').next().unwrap()] {
        assert!(
            !running.log().contains(&secret[20..]) && !log.to_string().contains(&secret[20..]),
            "a secret was kept"
        );
    }
}

#[test]
fn refusals_say_why_and_change_nothing() {
    let running = Running::start();
    running.done("user add alice");
    let before = running.json("audit verify");
    running.fails("user add alice", 1, "already");
    running.fails("user add Alice!", 2, "lower-case");
    running.fails("user add bob --group moon", 1, "group list");
    running.fails("policy allow alice wiki", 2, "user:NAME");
    running.fails("policy allow user:alice wiki", 1, "resource list");
    running.fails("resource add wiki --site moon --target 10.0.0.5 --tcp 80", 1, "site list");
    running.fails("resource add wiki --site moon --target 10.0.0.5", 2, "--tcp");
    running.fails("device revoke laptop", 1, "device list");
    running.fails("token withdraw 0192d3c8-1f6e-7c44-b2a0-5d1c9a7e4f10", 1, "token list");
    running.fails("apikey revoke nonsense", 2, "ids look like");
    running.fails("user suspend moon", 1, "user list");
    running.fails("serve --listen 8443", 2, "ADDR:PORT");
    assert_eq!(running.json("audit verify"), before);
    assert_eq!(running.json("user list").as_array().unwrap().len(), 1);
}

#[test]
fn one_at_a_time_private_and_gone_when_asked() {
    let mut running = Running::start();
    let state = running.state();
    assert_eq!(mode(&state), 0o700);
    for file in
        ["admin.sock", "coordinator.db", "coordinator.db-wal", "identity.key", "device-ca.key", "psk-master.key"]
    {
        assert_eq!(mode(&state.join(file)), 0o600, "{file}");
    }
    let second = running.say(&format!("serve --listen 127.0.0.1:{}", free_port()));
    assert!(second.code == 1 && second.stderr.contains("another program is running"), "{}", second.stderr);
    let elsewhere = tempfile::tempdir().unwrap();
    let words = ["serve", "--listen", &format!("127.0.0.1:{}", running.port), "--state-dir"];
    let taken = run(program().args(words).arg(elsewhere.path()));
    assert!(taken.code == 1 && taken.stderr.contains("--listen"), "{}", taken.stderr);

    assert!(Command::new("kill").arg(running.serve.id().to_string()).status().unwrap().success());
    assert_eq!(running.serve.wait().unwrap().code(), Some(0), "{}", running.log());
    assert!(!state.join("admin.sock").exists());
    // A pipe that nobody reads is no reason to fail.
    running.restart();
    let mut reading = program();
    reading.arg("--state-dir").arg(&state).args(["audit", "list"]).stdin(Stdio::null()).stdout(Stdio::piped());
    let mut reader = reading.spawn().unwrap();
    drop(reader.stdout.take());
    assert_eq!(reader.wait().unwrap().code(), Some(0));
}

#[test]
fn a_state_directory_with_too_long_a_name_is_refused_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("d".repeat(100));
    let listen = format!("127.0.0.1:{}", free_port());
    let said = run(program().args(["serve", "--listen", &listen, "--state-dir"]).arg(&state));
    assert!(said.code == 1 && said.stderr.contains("shorter --state-dir"), "{}", said.stderr);
    assert!(!said.stderr.contains("is running"), "{}", said.stderr);
}

#[test]
fn another_port_than_join_tokens_name_is_worth_a_word() {
    let mut running = Running::start();
    let warning = "join tokens name the port of an earlier --public-address";
    assert!(!running.log().contains(warning), "{}", running.log());
    fs::write(running.state().join("public-address"), "coordinator.example.com:9999\n").unwrap();
    running.serve.kill().unwrap();
    running.serve.wait().unwrap();
    running.restart();
    assert!(running.log().contains(warning), "{}", running.log());
}

#[test]
fn connections_that_say_nothing_keep_nobody_from_the_api() {
    let running = Running::start();
    let made = running.json("apikey create backup");
    let idle: Vec<_> = (0..80).map(|_| TcpStream::connect(("127.0.0.1", running.port)).unwrap()).collect();
    // Those beyond the source's share are dropped unheard.
    let mut last = idle.last().unwrap();
    assert!(matches!(last.read(&mut [0]), Ok(0) | Err(_)));
    let mut first = &idle[0];
    first.set_nonblocking(true).unwrap();
    assert_eq!(first.read(&mut [0]).unwrap_err().kind(), std::io::ErrorKind::WouldBlock, "before their time is over");
    drop(idle);
    let asked = || run(program().env("POSTERN_API_KEY", text(&made, "api_key")).args(["user", "list"]));
    assert!((0..500).any(|_| asked().code == 0), "{}", asked().stderr);
}

#[test]
fn from_afar_with_an_api_key() {
    let running = Running::start();
    running.done("user add alice");
    let made = running.json("apikey create backup");
    let (key, dir) = (text(&made, "api_key"), running.dir.path());
    let from_afar = |key: &str, words: &[&str]| run(program().env("POSTERN_API_KEY", key).args(words));

    let said = from_afar(key, &["user", "list", "--json"]);
    assert_eq!(said.code, 0, "{}", said.stderr);
    assert_eq!(serde_json::from_str::<Value>(&said.stdout).unwrap()[0]["name"], "alice");
    fs::write(dir.join("key"), format!("{key}\n")).unwrap();
    let url = format!("https://localhost:{}", running.port);
    let file = dir.join("key");
    let said = run(program().arg("--api-key-file").arg(&file).args(["--url", &url, "user", "add", "bob"]));
    assert_eq!((said.code, said.stdout.as_str()), (0, "Added user bob.\n"), "{}", said.stderr);
    assert_eq!(running.json("audit list --limit 1")[0]["actor"], json!({"kind": "api_key", "id": made["id"]}));
    let said = from_afar(key, &["user", "add", "bob"]);
    assert!(said.code == 1 && said.stderr.contains("already"), "{}", said.stderr);

    let said = run(program().args(["--url", &url, "user", "list"]));
    assert!(said.code == 2 && said.stderr.contains("POSTERN_API_KEY"), "{}", said.stderr);
    let altered = format!("{}x", &key[..key.len() - 1]);
    let said = from_afar(&altered, &["user", "list"]);
    assert!(said.code == 2 && said.stderr.contains("damaged") && !said.stderr.contains(&key[20..]), "{}", said.stderr);
    let closed = format!("https://127.0.0.1:{}", free_port());
    let said = from_afar(key, &["--url", &closed, "user", "list"]);
    assert!(said.code == 1 && said.stderr.contains("can't be reached"), "{}", said.stderr);

    // Another coordinator at that address is not believed, and does not get to see the key.
    let other = Running::start();
    let said = from_afar(key, &["--url", &format!("https://127.0.0.1:{}", other.port), "user", "list"]);
    assert!(said.code == 1 && said.stderr.contains("pins"), "{}", said.stderr);
    // A state directory that is named is the one that is meant.
    let said = run(program().env("POSTERN_API_KEY", key).arg("user").arg("list").arg("--state-dir").arg(other.state()));
    assert_eq!((said.code, said.stdout.as_str()), (0, "There are no users.\n"), "{}", said.stderr);

    running.done(&format!("apikey revoke {}", text(&made, "id")));
    let said = from_afar(key, &["user", "list"]);
    assert!(said.code == 1 && said.stderr.contains("not valid here"), "{}", said.stderr);
    assert!(!running.log().contains(&key[20..]), "the key was logged");
}

#[test]
fn whoever_speaks_no_tls_hears_nothing() {
    let running = Running::start();
    let mut stream = TcpStream::connect(("127.0.0.1", running.port)).unwrap();
    stream.write_all(b"GET /api/v1/users HTTP/1.1\r\nhost: localhost\r\n\r\n").unwrap();
    let mut heard = Vec::new();
    let _ = stream.read_to_end(&mut heard);
    assert!(!String::from_utf8_lossy(&heard).contains("HTTP/1.1"), "{heard:?}");
    running.done("user list");
}

/// A relay on its own; killed when dropped.
struct RelayAlone(std::process::Child);

impl Drop for RelayAlone {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn relay_alone(dir: &Path, port: u16, trust: &str) -> (RelayAlone, String) {
    let log = dir.join("relay.log");
    let file = fs::File::options().create(true).append(true).open(&log).unwrap();
    let mut command = program();
    command.args(["relay", "serve", "--listen", &format!("127.0.0.1:{port}"), "--trust", trust, "--rate", "100"]);
    command.arg("--state-dir").arg(dir.join("relay")).stdin(Stdio::null()).stdout(file.try_clone().unwrap());
    let relay = RelayAlone(command.stderr(file).spawn().unwrap());
    for _ in 0..1500 {
        let said = fs::read_to_string(&log).unwrap();
        if let Some((_, rest)) = said.rsplit_once("--pin ") {
            return (relay, rest.trim().to_owned());
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    panic!("the relay does not start: {}", fs::read_to_string(&log).unwrap());
}

#[test]
fn a_relay_on_its_own_is_registered_and_taken_out_again() {
    let running = Running::start();
    let list = running.json("relay list");
    let own = &list["relays"][0];
    assert_eq!((text(own, "name"), &own["created_at"]), ("coordinator", &Value::Null));
    assert_eq!(list["relays"].as_array().unwrap().len(), 1);
    let trust = text(&list, "trust");
    assert!(running.done("relay list").contains(&format!("--trust {trust}")));

    let (dir, port) = (tempfile::tempdir().unwrap(), free_port());
    let (relay, pin) = relay_alone(dir.path(), port, trust);
    assert_eq!(mode(&dir.path().join("relay")), 0o700);
    assert_eq!(mode(&dir.path().join("relay/relay.key")), 0o600);
    let added = running.json(&format!("relay add frankfurt --address 127.0.0.1:{port} --pin {pin}"));
    assert_eq!((text(&added, "name"), text(&added, "pin")), ("frankfurt", pin.as_str()));
    running.fails(&format!("relay add paris --address 127.0.0.1:{port} --pin {pin}"), 1, "remove it first");
    assert_eq!(running.json("relay list")["relays"][1], added);
    assert!(running.done("audit list").contains("relay.add"));

    drop(relay);
    let (_again, same) = relay_alone(dir.path(), port, trust);
    assert_eq!(same, pin, "the key is kept");
    assert!(running.done("relay remove frankfurt").contains("Removed relay frankfurt"));
    running.fails("relay remove frankfurt", 1, "relay list");
    assert_eq!(running.json("relay list"), list);

    let state = running.state().display().to_string();
    let words = ["relay", "serve", "--state-dir", &state, "--trust", trust];
    let said = run(program().args(words));
    assert_eq!(said.code, 1, "the coordinator's directory: {}", said.stderr);
    let said = run(program().args(["relay", "serve", "--trust", "nonsense"]));
    assert_eq!(said.code, 2);
}
