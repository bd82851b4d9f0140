//! Traffic that goes on while a test changes the network under it: a download of known random content, and an ssh session
//! that echoes a counter. Both are single TCP connections, begun once. Whatever happens they have to go on, and no byte may
//! be wrong, lost or doubled.

use std::{
    fs,
    io::{BufRead as _, BufReader, Read, Write as _},
    path::PathBuf,
    process::{Child, ChildStdin, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow, ensure};

use crate::{
    office::{DB, Office},
    process::Background,
    random::Random,
    servers,
    topology::Host,
    wait::{eventually, now},
};

/// The server sends half a MiB of it each second: it lasts longer than any test.
const LENGTH: usize = 48 << 20;
/// What has to arrive before a download counts as going on: more than what may have been underway before.
const PROGRESS: u64 = 128 << 10;
/// How often the counter is sent.
const TICK: Duration = Duration::from_millis(20);

/// A download and an ssh session, both underway.
#[derive(Debug)]
pub struct LiveTraffic {
    content: Vec<u8>,
    file: PathBuf,
    download: Background,
    session: Session,
}

impl LiveTraffic {
    /// Adds the resource `shell` (sshd on the database's machine) and lets alice reach it. Before [`Self::start`]; the wiki has to be
    /// open too.
    pub fn prepare(office: &mut Office) -> Result<PathBuf> {
        let (server, key) = servers::sshd(&office.db)?;
        office.serve(server);
        office.coordinator.ctl(&["resource", "add", "shell", "--site", "office", "--target", DB, "--tcp", "22"])?;
        office.coordinator.ctl(&["policy", "allow", "user:alice", "shell"])?;
        Ok(key)
    }

    /// Starts both on the laptop, and waits until they run. `key` is from [`Self::prepare`].
    pub fn start(office: &Office, key: &std::path::Path) -> Result<Self> {
        let mut content = vec![0; LENGTH];
        Random::new(u64::from(std::process::id())).fill(&mut content);
        fs::write(office.wiki.dir().join("nginx-80/www/live"), &content)?;
        let file = office.laptop.dir().join("live");
        let _ = fs::remove_file(&file);
        let mut curl = office.laptop.command("curl");
        curl.args(["-sS", "--no-buffer", "-o", "live", "http://wiki.postern.internal/live"]);
        let download = office.laptop.spawn("live-download", &mut curl)?;
        let session = Session::start(&office.laptop, key)?;
        let mut traffic = Self { content, file, download, session };
        traffic.goes_on().context("at its beginning")?;
        Ok(traffic)
    }

    /// Waits until both have got further than they are now; returns how long that took.
    ///
    /// # Errors
    /// When one ended, or hangs for longer than anything may take.
    pub fn goes_on(&mut self) -> Result<Duration> {
        let begin = now();
        let (bytes, echoed) = (self.received(), self.session.echoed());
        eventually("the live traffic goes on", || {
            // No use to wait longer then.
            if let Some(code) = self.download.ended() {
                return Ok(Err(anyhow!("the download ended with {code}: {}", self.download.log())));
            }
            let (more, further) = (self.received() - bytes, self.session.echoed() - echoed);
            ensure!(more > PROGRESS, "{more} bytes more of the download, and {further} of the counter");
            ensure!(further > 5, "the counter echoed {further} times more: {}", self.session.state());
            Ok(Ok(()))
        })??;
        Ok(now() - begin)
    }

    /// Whether neither has got a byte for a while: shows that a test has really cut what it meant to cut.
    pub fn is_stuck(&self) -> Result<()> {
        let mut before = (self.received(), self.session.echoed());
        eventually("the live traffic is stuck", || {
            thread::sleep(Duration::from_millis(300));
            let after = (self.received(), self.session.echoed());
            let stuck = after == before;
            before = after;
            ensure!(stuck, "it goes on: {after:?}");
            Ok(())
        })
    }

    /// Ends both, and compares every byte that arrived with what was sent.
    ///
    /// # Errors
    /// When a byte is wrong or missing.
    pub fn finish(mut self) -> Result<()> {
        self.goes_on()?;
        self.session.finish()?;
        if let Some(code) = self.download.ended() {
            ensure!(code == 0, "the download ended with {code}: {}", self.download.log());
            ensure!(self.received() == LENGTH as u64, "it ended early");
        }
        self.download.kill()?;
        let received = fs::read(&self.file)?;
        is_beginning(&received, &self.content)
    }

    fn received(&self) -> u64 {
        fs::metadata(&self.file).map_or(0, |file| file.len())
    }
}

/// Holds that what was received is what was sent, as far as it goes.
fn is_beginning(received: &[u8], sent: &[u8]) -> Result<()> {
    ensure!(received.len() <= sent.len(), "{} bytes of {} arrived", received.len(), sent.len());
    let wrong = received.iter().zip(sent).position(|(got, sent)| got != sent);
    ensure!(wrong.is_none(), "byte {wrong:?} of {} that arrived is wrong", received.len());
    Ok(())
}

/// An ssh session to `cat`: numbered lines go out, and have to come back in their order.
#[derive(Debug)]
struct Session {
    child: Child,
    shared: Arc<Shared>,
    writer: Option<JoinHandle<Result<u64>>>,
    reader: Option<JoinHandle<Result<()>>>,
    log: PathBuf,
}

#[derive(Debug, Default)]
struct Shared {
    echoed: AtomicU64,
    stop: AtomicBool,
}

impl Session {
    fn start(host: &Host, key: &std::path::Path) -> Result<Self> {
        let log = host.dir().join("live-ssh.log");
        let mut ssh = host.command("ssh");
        for option in ["StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "LogLevel=ERROR", "BatchMode=yes"] {
            ssh.args(["-o", option]);
        }
        ssh.arg("-i").arg(key).args(["root@shell.postern.internal", "cat"]);
        let mut child = ssh
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(fs::File::create(&log)?)
            .spawn()
            .context("start ssh")?;
        let input = child.stdin.take().context("ssh's input")?;
        let output = child.stdout.take().context("ssh's output")?;
        let shared = Arc::new(Shared::default());
        let writer = thread::spawn({
            let shared = shared.clone();
            move || count(input, &shared)
        });
        let reader = thread::spawn({
            let shared = shared.clone();
            move || compare(output, &shared)
        });
        Ok(Self { child, shared, writer: Some(writer), reader: Some(reader), log })
    }

    fn echoed(&self) -> u64 {
        self.shared.echoed.load(Ordering::Relaxed)
    }

    fn state(&mut self) -> String {
        let ended = self.child.try_wait().ok().flatten().map_or("runs".into(), |status| status.to_string());
        format!("ssh {ended}: {}", fs::read_to_string(&self.log).unwrap_or_default().trim())
    }

    fn finish(&mut self) -> Result<()> {
        self.shared.stop.store(true, Ordering::Relaxed);
        let writer = self.writer.take().context("it was finished before")?;
        let sent = writer.join().expect("the writer ends").with_context(|| self.state())?;
        // Its input has ended, and so does cat once all has come back.
        let status = eventually("the ssh session ends", || self.child.try_wait()?.context("it still runs"))?;
        let reader = self.reader.take().context("it was finished before")?;
        reader.join().expect("the reader ends")?;
        ensure!(status.success(), "{}", self.state());
        ensure!(self.echoed() == sent, "{sent} lines were sent, and {} came back", self.echoed());
        Ok(())
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Sends the numbers from 0 on until it is told to stop; returns how many.
fn count(mut to: ChildStdin, shared: &Shared) -> Result<u64> {
    let mut number = 0;
    while !shared.stop.load(Ordering::Relaxed) {
        writeln!(to, "{number}").with_context(|| format!("send {number} to ssh"))?;
        number += 1;
        thread::sleep(TICK);
    }
    Ok(number)
}

/// Reads the numbers to the end, each of which has to be the next.
fn compare(from: impl Read, shared: &Shared) -> Result<()> {
    for line in BufReader::new(from).lines() {
        let (line, expected) = (line?, shared.echoed.load(Ordering::Relaxed));
        ensure!(line == expected.to_string(), "{line:?} came back instead of {expected}");
        shared.echoed.fetch_add(1, Ordering::Relaxed);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_byte_and_one_too_many_are_found() {
        assert!(is_beginning(b"abc", b"abcd").is_ok());
        assert!(is_beginning(b"abd", b"abcd").is_err());
        assert!(is_beginning(b"abcde", b"abcd").is_err());
    }

    #[test]
    fn a_line_that_is_lost_or_doubled_or_altered_is_found() {
        let echoed = |text: &str| {
            let shared = Shared::default();
            compare(text.as_bytes(), &shared).map(|()| shared.echoed.into_inner())
        };
        assert_eq!(echoed("0\n1\n2\n").unwrap(), 3);
        for wrong in ["0\n2\n", "0\n0\n", "0\n1x\n", "1\n"] {
            assert!(echoed(wrong).is_err(), "{wrong:?}");
        }
    }
}
