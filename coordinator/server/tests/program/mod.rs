//! The real program on loopback, in a directory of its own; gone when dropped.

#![allow(dead_code, reason = "each test file uses its own part")]

use std::{
    fs,
    net::{SocketAddr, TcpListener, UdpSocket},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use postern_model::JoinToken;
use serde_json::Value;

const BINARY: &str = env!("CARGO_BIN_EXE_postern-coordinator");

/// A coordinator on this machine's loopback; killed when dropped.
pub(crate) struct Running {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) port: u16,
    pub(crate) serve: Child,
    /// What `serve` is told besides.
    pub(crate) words: Vec<String>,
}

pub(crate) struct Said {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

pub(crate) fn run(command: &mut Command) -> Said {
    let output = command.stdin(Stdio::null()).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    Said { code: output.status.code().unwrap(), stdout: text(output.stdout), stderr: text(output.stderr) }
}

/// The program with nothing of this test's environment that would tell it something.
pub(crate) fn program() -> Command {
    let mut command = Command::new(BINARY);
    command.env_remove("POSTERN_API_KEY").env_remove("POSTERN_COORDINATOR_STATE_DIR").env_remove("POSTERN_LOG");
    command
}

/// A port that is free for both TCP and UDP.
pub(crate) fn free_port() -> u16 {
    loop {
        let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = tcp.local_addr().unwrap().port();
        if UdpSocket::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

impl Running {
    pub(crate) fn start() -> Self {
        Self::start_with(tempfile::tempdir().unwrap(), vec![])
    }

    /// In this directory, and told these words besides.
    pub(crate) fn start_with(dir: tempfile::TempDir, words: Vec<String>) -> Self {
        let port = free_port();
        let serve = serve(dir.path(), port, &words);
        let running = Self { dir, port, serve, words };
        running.wait();
        running
    }

    pub(crate) fn state(&self) -> PathBuf {
        self.dir.path().join("state")
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap()
    }

    fn wait(&self) {
        for _ in 0..1500 {
            if self.say("user list").code == 0 {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        panic!("the coordinator does not answer: {}", self.log());
    }

    pub(crate) fn restart(&mut self) {
        self.serve = serve(self.dir.path(), self.port, &self.words);
        self.wait();
    }

    pub(crate) fn say(&self, words: &str) -> Said {
        run(program().arg("--state-dir").arg(self.state()).args(words.split_whitespace()))
    }

    /// What it prints for people; must succeed.
    #[track_caller]
    pub(crate) fn done(&self, words: &str) -> String {
        let said = self.say(words);
        assert_eq!(said.code, 0, "{words}: {}", said.stderr);
        assert_eq!(said.stderr, "", "{words}");
        said.stdout
    }

    /// What it prints with `--json`; must succeed.
    #[track_caller]
    pub(crate) fn json(&self, words: &str) -> Value {
        serde_json::from_str(&self.done(&format!("{words} --json"))).unwrap()
    }

    /// Where nodes and API clients reach it.
    pub(crate) fn address(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.port))
    }

    /// A join token for that owner (`--user alice`).
    pub(crate) fn token(&self, owner: &str) -> JoinToken {
        text(&self.json(&format!("token create {owner}")), "token").parse().unwrap()
    }

    /// Must fail with this code and say why on standard error, and nothing on standard output.
    #[track_caller]
    pub(crate) fn fails(&self, words: &str, code: i32, why: &str) {
        let said = self.say(words);
        assert_eq!((said.code, said.stdout.as_str()), (code, ""), "{words}: {}", said.stderr);
        assert!(said.stderr.contains(why), "{words}: '{why}' is not in {}", said.stderr);
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.serve.kill();
        let _ = self.serve.wait();
    }
}

fn serve(dir: &Path, port: u16, words: &[String]) -> Child {
    let log = fs::File::options().create(true).append(true).open(dir.join("log")).unwrap();
    let mut command = program();
    command.arg("serve").arg("--state-dir").arg(dir.join("state")).args(["--listen", &format!("127.0.0.1:{port}")]);
    command.args(words).env("SSL_CERT_FILE", dir.join("authorities.pem"));
    command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap()
}

pub(crate) fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value[field].as_str().unwrap_or_else(|| panic!("no '{field}' in {value}"))
}
