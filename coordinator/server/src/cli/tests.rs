//! What the words mean, and what is said of wrong ones.

use clap::error::ErrorKind;
use hyper::Method;
use postern_model::{ApiKeyId, SecretBytes, Sha256};
use serde_json::json;

use super::{client::Call, *};

fn parsed(line: &str) -> Result<(Cli, bool), clap::Error> {
    let words = std::iter::once(NAME).chain(line.split_whitespace()).map(OsString::from);
    parse(words).map(|(cli, is_explicit, _)| (cli, is_explicit))
}

fn call(line: &str) -> Call {
    let (cli, _) = parsed(line).unwrap_or_else(|error| panic!("{line}: {error}"));
    plan::plan(cli.words).unwrap().call
}

#[test]
fn clap_finds_no_contradiction() {
    Cli::command().debug_assert();
}

#[test]
fn each_command_is_one_call() {
    let id = "0192d3c8-1f6e-7c44-b2a0-5d1c9a7e4f10";
    let plain = |method: Method, path: String| Call { method, path, body: None };
    let post = |path: &str, body| Call { method: Method::POST, path: path.into(), body: Some(body) };
    let patch = |body| Call { method: Method::PATCH, path: "/resources/wiki".into(), body: Some(body) };
    let wiki = json!({
        "name": "wiki", "site": "office", "target": "10.0.0.5", "tcp": "80,443", "udp": "none", "icmp": true,
        "aliases": ["a.example.com", "b.example.com"], "tags": ["prod"],
    });
    for (line, expected) in [
        ("user add alice --group eng --group ops", post("/users", json!({"name": "alice", "groups": ["eng", "ops"]}))),
        ("user suspend alice@example.com", plain(Method::POST, "/users/alice%40example.com/suspend".into())),
        ("user resume alice", plain(Method::POST, "/users/alice/resume".into())),
        ("user remove alice", plain(Method::DELETE, "/users/alice".into())),
        ("user list", plain(Method::GET, "/users".into())),
        ("group add eng", post("/groups", json!({"name": "eng"}))),
        ("group member add eng alice", plain(Method::PUT, "/groups/eng/members/alice".into())),
        ("group member remove eng alice", plain(Method::DELETE, "/groups/eng/members/alice".into())),
        ("group remove eng", plain(Method::DELETE, "/groups/eng".into())),
        ("site add office", post("/sites", json!({"name": "office"}))),
        ("site list", plain(Method::GET, "/sites".into())),
        ("site drain office door", plain(Method::POST, "/sites/office/gateways/door/drain".into())),
        ("site drain office door --force", plain(Method::POST, "/sites/office/gateways/door/drain?force=true".into())),
        ("site undrain office ../x", plain(Method::POST, "/sites/office/gateways/..%2Fx/undrain".into())),
        (
            "resource add wiki --site office --target 10.0.0.5 --tcp 443,80 --icmp --alias A.example.com --alias b.example.com --tag prod",
            post("/resources", wiki),
        ),
        ("resource edit wiki --tcp 22", patch(json!({"tcp": "22"}))),
        ("resource edit wiki --tcp none --icmp true", patch(json!({"tcp": "none", "icmp": true}))),
        ("resource edit wiki --no-alias", patch(json!({"aliases": []}))),
        ("resource edit wiki --alias a.example.com", patch(json!({"aliases": ["a.example.com"]}))),
        ("resource edit wiki --tag prod --tag web", patch(json!({"tags": ["prod", "web"]}))),
        ("resource edit wiki --no-tag", patch(json!({"tags": []}))),
        ("resource remove wiki", plain(Method::DELETE, "/resources/wiki".into())),
        (
            "policy shadow-report --since 2026-05-01T12:00:00Z --policy 0192d3c8-1f6e-7c44-b2a0-5d1c9a7e4f10",
            plain(Method::GET, format!("/policies/shadow-report?since=2026-05-01T12%3A00%3A00.000Z&policy={id}")),
        ),
        (
            "policy advise --since 2026-05-01T12:00:00Z",
            plain(Method::GET, "/policies/advice?since=2026-05-01T12%3A00%3A00.000Z".into()),
        ),
        ("policy enforce 0192d3c8-1f6e-7c44-b2a0-5d1c9a7e4f10", plain(Method::POST, format!("/policies/{id}/enforce"))),
        (
            "policy enforce 0192d3c8-1f6e-7c44-b2a0-5d1c9a7e4f10 --dry-run",
            plain(Method::GET, format!("/policies/{id}/enforce")),
        ),
        ("policy allow group:eng wiki", post("/policies", json!({"subject": "group:eng", "resource": "wiki"}))),
        (
            "policy deny everyone tag:prod --when !posture.disk_encrypted --until 2126-12-31 --ports tcp/22 --shadow",
            post(
                "/policies",
                json!({
                    "effect": "deny", "subject": "everyone", "resource": "tag:prod", "when": "!posture.disk_encrypted",
                    "until": "2126-12-31", "ports": "tcp/22", "shadow": true,
                }),
            ),
        ),
        ("policy remove 0192d3c8-1f6e-7c44-b2a0-5d1c9a7e4f10", plain(Method::DELETE, format!("/policies/{id}"))),
        ("token create --user alice", post("/tokens", json!({"user": "alice", "expires_in": "1h", "uses": 1}))),
        (
            "token create --site office --expires 90m --uses 5",
            post("/tokens", json!({"site": "office", "expires_in": "1h 30m", "uses": 5})),
        ),
        ("device revoke laptop", plain(Method::POST, "/devices/laptop/revoke".into())),
        ("device remove ../users/alice", plain(Method::DELETE, "/devices/..%2Fusers%2Falice".into())),
        ("grant list", plain(Method::GET, "/grants".into())),
        ("activity list", plain(Method::GET, "/activity?limit=100".into())),
        (
            "activity list --user a&b --kind flow_open --since 2026-05-01T12:00:00Z --after 7 --limit 5",
            plain(
                Method::GET,
                "/activity?limit=5&user=a%26b&kind=flow_open&since=2026-05-01T12%3A00%3A00.000Z&after=7".into(),
            ),
        ),
        ("audit list", plain(Method::GET, "/audit?limit=100".into())),
        ("audit list --after 7 --limit 5", plain(Method::GET, "/audit?limit=5&after=7".into())),
        ("audit verify", plain(Method::GET, "/audit/verify".into())),
        ("apikey create backup", post("/api-keys", json!({"name": "backup"}))),
    ] {
        assert_eq!(call(line), expected, "{line}");
    }
}

#[test]
fn wrong_words_exit_with_2_and_say_what_would_be_right() {
    for (line, advice) in [
        ("user add Wiki!", "lower-case letters"),
        ("user add", "<NAME>"),
        ("group add a.b", "orders-db"),
        ("site add -x", "--help"),
        ("site drain office", "<GATEWAY>"),
        ("resource add wiki --site office --target 10.0.0.5", "--tcp <PORTS>|--udp <PORTS>|--icmp"),
        ("resource add wiki --site office --target 10.0.0.5:80 --tcp 80", "--tcp and --udp"),
        ("resource add wiki --site office --target 10.0.0.5 --tcp 0", "8000-8100"),
        ("resource add wiki --site office --target 10.0.0.5 --tcp 80 --alias 1.2.3.4", "wiki.example.com"),
        ("resource edit wiki", "--no-alias"),
        ("resource edit wiki --icmp maybe", "true, false"),
        ("resource edit wiki --no-alias --alias a.example.com", "cannot be used"),
        ("policy allow alice wiki", "user:NAME"),
        ("policy allow user:Alice! wiki", "lower-case"),
        ("policy allow user:alice tag:Prod", "lower-case"),
        ("policy allow user:alice wiki --when posture.disk", "column 1: 'posture.disk' is not known"),
        ("policy allow user:alice wiki --until tomorrow", "2026-12-31"),
        ("policy allow user:alice wiki --ports 22", "tcp/443"),
        ("policy add --cedar /nowhere.cedar", "/nowhere.cedar can't be read"),
        ("policy remove wiki", "ids look like"),
        ("policy plan", "<PATH>"),
        ("policy apply network.toml --revision soon", "--revision <N>"),
        ("token create", "--user <USER>|--site <SITE>"),
        ("token create --user alice --site office", "cannot be used"),
        ("token create --user alice --expires soon", "30m, 1h or 7days"),
        ("token create --user alice --expires 99999999999years", "366days"),
        ("token create --user alice --expires 367days", "366days"),
        ("token create --user alice --uses 0", "1..=1000"),
        ("token create --user alice --uses -1", "1..=1000"),
        ("apikey create My_Key", "orders-db"),
        ("audit list --limit 0", "1..=100000"),
        ("audit list --limit -1", "1..=100000"),
        ("audit list --after -1", "'--after <ID>'"),
        ("serve --listen 8443", "[::]:8443"),
        ("serve --listen 127.0.0.1:0", "0.0.0.0:8443"),
        ("serve --public-address example.com", "coordinator.example.com:8443"),
        ("serve --lease 1ms", "10m"),
        ("user list --url http://example.com:8443", "https://coordinator.example.com:8443"),
        ("serve --activity-keep 1s", "90days"),
        ("serve --activity-max-size 1GB", "1GiB"),
        ("serve --activity-syslog /dev/log", "unix:/dev/log"),
        ("serve --activity-http log.example.com", "https://log.example.com"),
        ("serve --activity-http-token-file /x", "--activity-http"),
        ("user lsit", "list"),
    ] {
        let error = parsed(line).map(|_| ()).unwrap_err();
        assert_eq!(error.exit_code(), 2, "{line}");
        assert!(error.to_string().contains(advice), "{line}: '{advice}' is not in:\n{error}");
    }
    assert_eq!(parsed("--version").map(|_| ()).unwrap_err().kind(), ErrorKind::DisplayVersion);
}

#[test]
fn options_stand_before_or_after_the_command() {
    for line in
        ["--state-dir /x --json user list", "user list --json --state-dir /x", "user --state-dir /x list --json"]
    {
        let (cli, is_explicit) = parsed(line).unwrap();
        assert!(cli.json && is_explicit && cli.state_dir == Path::new("/x"), "{line}");
    }
    let (cli, is_explicit) = parsed("serve --listen [::1]:9000").unwrap();
    let Words::Serve(serve) = cli.words else { panic!("serve") };
    assert!(!is_explicit && serve.listen == Some("[::1]:9000".parse().unwrap()));
}

#[test]
fn the_key_says_where_unless_the_url_does() {
    let key = ApiKey {
        coordinator: "coordinator.example.com:8443".parse().unwrap(),
        pin: Sha256([1; 32]),
        id: ApiKeyId::from_bytes([2; 16]),
        secret: SecretBytes::new([3; 32]),
    };
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("key");
    std::fs::write(&file, format!("{}\n", *key.expose())).unwrap();
    let file = file.display();
    let chosen = |line: &str| {
        let (cli, is_explicit) = parsed(line).unwrap();
        door(&cli, is_explicit)
    };
    for (line, expected) in [
        (format!("user list --api-key-file {file}"), "coordinator.example.com:8443"),
        (format!("--api-key-file {file} --url https://[::1]:9000/ user list"), "[::1]:9000"),
        (format!("--api-key-file {file} --state-dir /x user list"), "coordinator.example.com:8443"),
    ] {
        let Door::Network(address, found) = chosen(&line).unwrap() else { panic!("{line}") };
        assert_eq!((address.to_string().as_str(), *found), (expected, key.clone()));
    }
    assert!(matches!(chosen("user list --state-dir /x").unwrap(), Door::Socket(dir) if dir == Path::new("/x")));
    std::fs::write(dir.path().join("bad"), "postern-key-nonsense").unwrap();
    let error = chosen(&format!("user list --api-key-file {}", dir.path().join("bad").display())).unwrap_err();
    assert!(format!("{error:#}").contains("copy it again"), "{error:#}");
    let error = chosen("user list --api-key-file /nowhere/key").unwrap_err();
    assert!(format!("{error:#}").contains("can't be read"), "{error:#}");
}
