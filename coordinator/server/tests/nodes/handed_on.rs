//! Where activity goes besides the list: to whoever follows it, into an export, a file, a syslog daemon, an HTTP receiver.

use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead as _, BufReader},
    os::unix::fs::PermissionsExt as _,
    process::{Child, ChildStdout, Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::{
    Router,
    extract::State,
    http::{HeaderMap, StatusCode},
    routing::post,
};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use serde_json::{Value, json};
use tokio::io::AsyncReadExt as _;

use super::{
    client::within,
    office::{Office, rows, rows_once},
    program::{Running, program, text},
};

/// A command that goes on and on; killed when dropped.
struct Following {
    child: Child,
    lines: std::io::Lines<BufReader<ChildStdout>>,
}

impl Following {
    fn start(command: &mut Command) -> Self {
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, lines }
    }

    fn of(running: &Running, words: &str) -> Self {
        Self::start(program().arg("--state-dir").arg(running.state()).args(words.split_whitespace()))
    }

    /// The next line.
    async fn line(&mut self) -> String {
        tokio::task::block_in_place(|| self.lines.next()).expect("more lines").unwrap()
    }

    async fn row(&mut self) -> Value {
        serde_json::from_str(&self.line().await).unwrap()
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn wait_for(what: &str, mut is_so: impl FnMut() -> bool) {
    for _ in 0..1000 {
        if is_so() {
            return;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    panic!("never: {what}");
}

fn in_dir(words: impl FnOnce(&std::path::Path) -> Vec<String>) -> Running {
    let dir = tempfile::tempdir().unwrap();
    let words = words(dir.path());
    Running::start_with(dir, words)
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_follows_sees_what_comes_and_only_what_was_asked_for() {
    let mut program = Running::start();
    let mut office = Office::open(&program, "hq", 1).await;
    office.denial(20).await;
    rows_once(&program, "", 1).await;
    let mut from_first = Following::of(&program, "activity tail --after 0 --json");
    let mut flows =
        Following::of(&program, "activity tail --user hq-alice --kind flow_close --since 2001-01-01T00:00:00Z");
    assert_eq!(from_first.row().await["kind"], "deny", "what was there before");
    let grant = office.grant().await;
    assert_eq!(from_first.row().await["kind"], "allow");
    let told = vec![office.opened(grant, 1), office.closed(grant, 2)];
    office.tell(told).await;
    let line = flows.line().await;
    for part in ["flow_close", "hq-alice", "node2", "hq-wiki", "tcp/443", "up 2B down 1.9KiB", "for 1m", "(finished)"] {
        assert!(line.contains(part), "'{part}' is not in {line}");
    }
    assert_eq!((&from_first.row().await["kind"], &from_first.row().await["id"]), (&json!("flow_open"), &json!(4)));

    // A restart is no end, and nothing is missed or told twice.
    program.serve.kill().unwrap();
    program.serve.wait().unwrap();
    program.restart();
    let office = office.reopen(&program).await;
    office.denial(21).await;
    assert_eq!(from_first.row().await["id"], 5);
    let human = program.done("activity list --kind flow_close");
    assert!(human.contains("KIND") && human.contains("hq-wiki"), "{human}");
    assert_eq!(program.done("activity list --user nobody"), "There is no such activity.\n");
    program.fails("activity list --kind dance", 2, "flow_close");
    program.fails("activity list --since yesterday", 2, "how long ago");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_key_follows_no_longer() {
    let running = Running::start();
    let office = Office::open(&running, "hq", 1).await;
    let made = running.json("apikey create watcher");
    let mut watcher = program();
    watcher.env("POSTERN_API_KEY", text(&made, "api_key")).args(["activity", "tail", "--after", "0", "--json"]);
    let mut watching = Following::start(&mut watcher);
    office.denial(20).await;
    assert_eq!(watching.row().await["id"], 1);
    running.done(&format!("apikey revoke {}", text(&made, "id")));
    office.denial(21).await;
    rows_once(&running, "", 2).await;
    assert!(tokio::task::block_in_place(|| watching.lines.next()).is_none(), "it hears no more");
    assert_eq!(watching.child.wait().unwrap().code(), Some(1));
}

#[tokio::test]
async fn an_export_is_all_of_it_and_private() {
    let program = Running::start();
    let mut office = Office::open(&program, "hq", 1).await;
    let grant = office.grant().await;
    for batch in 0..25 {
        let entries = (1..=100).map(|n| office.closed(grant, batch * 100 + n)).collect();
        office.tell(entries).await;
    }
    let all = rows(&program, "");
    let path = program.dir.path().join("export");
    let said = program.done(&format!("activity export --out {}", path.display()));
    assert_eq!(said, format!("Wrote {} rows to {}.\n", all.len(), path.display()));
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let parsed = |lines: &str| lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect::<Vec<Value>>();
    assert_eq!(parsed(&fs::read_to_string(&path).unwrap()), all, "over several pages");
    assert_eq!(parsed(&program.done("activity export --kind allow")), [all[0].clone()]);
    assert_eq!(parsed(&program.done("activity export --user nobody")), Vec::<Value>::new());
    program.fails("activity export --out /nowhere/export", 1, "/nowhere/export");
    let names: Vec<_> = fs::read_dir(program.dir.path()).unwrap().map(|it| it.unwrap().file_name()).collect();
    assert!(!names.iter().any(|name| name.to_string_lossy().ends_with(".part")), "{names:?}");
}

#[tokio::test]
async fn a_file_gets_lines_and_can_be_rotated() {
    let program = in_dir(|dir| vec!["--activity-file".into(), dir.join("activity.log").display().to_string()]);
    let path = program.dir.path().join("activity.log");
    let office = Office::open(&program, "hq", 1).await;
    let lines = || fs::read_to_string(&path).unwrap_or_default().lines().count();
    office.denial(20).await;
    wait_for("the first line", || lines() == 1);
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let line: Value = serde_json::from_str(fs::read_to_string(&path).unwrap().trim()).unwrap();
    assert_eq!(line, rows(&program, "")[0], "as in the list");

    let old = program.dir.path().join("activity.log.1");
    fs::rename(&path, &old).unwrap();
    assert!(Command::new("kill").args(["-HUP", &program.serve.id().to_string()]).status().unwrap().success());
    wait_for("a new file", || path.exists());
    office.denial(21).await;
    wait_for("a line in the new file", || lines() == 1);
    assert_eq!(fs::read_to_string(&old).unwrap().lines().count(), 1);
}

/// The row in one syslog message.
fn syslog_row(message: &[u8]) -> Value {
    let message = std::str::from_utf8(message).unwrap();
    assert!(message.starts_with("<110>1 "), "{message}");
    serde_json::from_str(message.split_once(" - ").unwrap().1).unwrap()
}

#[tokio::test]
async fn syslog_gets_each_row_over_unix_udp_and_tcp() {
    let mut buffer = vec![0; 4096];
    {
        let program =
            in_dir(|dir| vec!["--activity-syslog".into(), format!("unix:{}", dir.join("log.sock").display())]);
        let office = Office::open(&program, "hq", 1).await;
        // Nobody listens yet; what comes meanwhile waits.
        office.denial(20).await;
        rows_once(&program, "", 1).await;
        let socket = tokio::net::UnixDatagram::bind(program.dir.path().join("log.sock")).unwrap();
        office.denial(21).await;
        for id in [1, 2] {
            let len = within(socket.recv(&mut buffer)).await.unwrap();
            assert_eq!(syslog_row(&buffer[..len])["id"], id);
        }
    }
    {
        let socket = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let target = format!("udp:{}", socket.local_addr().unwrap());
        let program = in_dir(|_| vec!["--activity-syslog".into(), target]);
        Office::open(&program, "hq", 1).await.denial(20).await;
        let len = within(socket.recv(&mut buffer)).await.unwrap();
        assert_eq!(syslog_row(&buffer[..len])["kind"], "deny");
    }
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let target = format!("tcp:{}", listener.local_addr().unwrap());
    let program = in_dir(|_| vec!["--activity-syslog".into(), target]);
    let office = Office::open(&program, "hq", 1).await;
    office.denial(20).await;
    office.denial(21).await;
    let (mut stream, _) = within(listener.accept()).await.unwrap();
    for id in [1, 2] {
        let mut len = 0;
        loop {
            match within(stream.read_u8()).await.unwrap() {
                b' ' => break,
                digit => len = len * 10 + usize::from(digit - b'0'),
            }
        }
        within(stream.read_exact(&mut buffer[..len])).await.unwrap();
        assert_eq!(syslog_row(&buffer[..len])["id"], id);
    }
}

/// What an HTTP receiver has heard, and how many more posts it fails.
#[derive(Default)]
struct Receiver {
    heard: Mutex<BTreeMap<u64, Value>>,
    failing: AtomicUsize,
    failed: AtomicUsize,
    authorization: Mutex<Option<String>>,
}

impl Receiver {
    fn router(self: &Arc<Self>) -> Router {
        Router::new().route("/activity", post(Self::take)).with_state(Arc::clone(self))
    }

    async fn take(State(this): State<Arc<Self>>, headers: HeaderMap, body: String) -> StatusCode {
        if this.failing.load(Ordering::SeqCst) > 0 {
            this.failing.fetch_sub(1, Ordering::SeqCst);
            this.failed.fetch_add(1, Ordering::SeqCst);
            return StatusCode::SERVICE_UNAVAILABLE;
        }
        assert_eq!(headers["content-type"], "application/x-ndjson");
        let authorization = headers.get("authorization").map(|it| it.to_str().unwrap().to_owned());
        *this.authorization.lock().unwrap() = authorization;
        for line in body.lines() {
            let row: Value = serde_json::from_str(line).unwrap();
            this.heard.lock().unwrap().insert(row["id"].as_u64().unwrap(), row);
        }
        StatusCode::NO_CONTENT
    }

    fn ids(&self) -> Vec<u64> {
        self.heard.lock().unwrap().keys().copied().collect()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_http_receiver_gets_all_of_it_though_it_fails_and_the_coordinator_crashes() {
    let receiver = Arc::<Receiver>::default();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    receiver.failing.store(2, Ordering::SeqCst);
    let serving = tokio::spawn(axum::serve(listener, receiver.router()).into_future());
    let mut program = in_dir(|dir| {
        let token = dir.join("token");
        fs::write(&token, "hunter2\n").unwrap();
        fs::set_permissions(&token, fs::Permissions::from_mode(0o600)).unwrap();
        let words = ["--activity-http", &format!("http://{address}/activity"), "--activity-http-token-file"];
        words.into_iter().map(str::to_owned).chain([token.display().to_string()]).collect()
    });
    let office = Office::open(&program, "hq", 1).await;
    office.denial(20).await;
    wait_for("the first row", || receiver.ids() == [1]);
    assert_eq!(receiver.failed.load(Ordering::SeqCst), 2, "it was tried again");
    assert_eq!(receiver.authorization.lock().unwrap().as_deref(), Some("Bearer hunter2"));

    // The receiver goes away, rows come, and the coordinator dies before they are taken.
    serving.abort();
    let _ = serving.await;
    office.denial(21).await;
    office.denial(22).await;
    rows_once(&program, "", 3).await;
    program.serve.kill().unwrap();
    program.serve.wait().unwrap();
    program.restart();
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.set_reuseaddr(true).unwrap();
    socket.bind(address).unwrap();
    tokio::spawn(axum::serve(socket.listen(16).unwrap(), receiver.router()).into_future());
    wait_for("all rows", || receiver.ids() == [1, 2, 3]);
    let heard: Vec<_> = receiver.heard.lock().unwrap().values().cloned().collect();
    assert_eq!(heard, rows(&program, ""), "as in the list");
    assert!(!program.log().contains("hunter2"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_https_receiver_is_believed_when_this_machine_knows_its_authority_and_not_otherwise() {
    let authority = || {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        (params.self_signed(&key).unwrap().pem(), Issuer::new(params, key))
    };
    for is_known in [true, false] {
        let (pem, issuer) = authority();
        let known = if is_known { pem } else { authority().0 };
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(vec!["localhost".into()]).unwrap().signed_by(&key, &issuer).unwrap();
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let tls = rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let tls = tls.with_no_client_auth().with_single_cert(vec![certificate.der().clone()], key).unwrap();
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(tls));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("https://localhost:{}/activity", listener.local_addr().unwrap().port());
        let program = in_dir(|dir| {
            fs::write(dir.join("authorities.pem"), known).unwrap();
            vec!["--activity-http".into(), url]
        });
        Office::open(&program, "hq", 1).await.denial(20).await;
        let (stream, _) = within(listener.accept()).await.unwrap();
        let accepted = within(acceptor.accept(stream)).await;
        if !is_known {
            assert!(accepted.is_err(), "nothing was sent to who is not known");
            continue;
        }
        let receiver = Arc::<Receiver>::default();
        let service = hyper_util::service::TowerToHyperService::new(receiver.router());
        let io = hyper_util::rt::TokioIo::new(accepted.unwrap());
        within(hyper::server::conn::http1::Builder::new().serve_connection(io, service)).await.unwrap();
        assert_eq!(receiver.ids(), [1]);
    }
}
