//! What the device says of itself, and how that is found out.
//!
//! - `disk`, `updates`, `screen`, `checks`: one question each, asked of files under a root that tests make up
//! - the firewall is asked for in [`firewall`](super::firewall), where the node's own rules are
//! - `files`: reading what may be anything
//!
//! What is not known is left out, never guessed. Each question is asked on a thread of its own and has its time; one that hangs, as
//! on a dead network disk, leaves its own answer unknown and nothing else, and is not asked again until it has come back.

mod checks;
mod disk;
mod files;
mod screen;
mod updates;

use std::{
    mem,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use postern_model::{Check, Found, Posture, check::MAX_CHECKS};
use tokio::task::JoinHandle;

use self::{
    checks::Shown,
    files::{text, under},
    screen::Seat,
    updates::Written,
};
use super::firewall;
use crate::clock;

/// How long a question may take when somebody waits for the node to come up.
pub const AT_START: Duration = Duration::from_secs(3);
/// How long a question may take when nobody waits.
pub const LATER: Duration = Duration::from_secs(10);

/// A posture with so many bytes of checks fits into a message of a node, which may have 64 KiB.
const MAX_SHOWN: usize = 40 << 10;
/// What one check takes beside its name and its version.
const SHOWN: usize = 48;

/// How much is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extent {
    /// What may change at any moment and is cheap to see: the firewall, files and processes.
    Quick,
    /// Everything.
    All,
}

/// Finds out the posture, again and again; keeps what it found.
#[derive(Debug)]
pub struct Collector {
    root: Arc<Path>,
    checks: Arc<[Check]>,
    posture: Posture,
    files: Shown,
    processes: Shown,
    packages: Shown,
    asked: Asked,
}

/// What is being asked.
#[derive(Debug, Default)]
struct Asked {
    system: Question<System>,
    disk: Question<bool>,
    updates: Question<Written>,
    seats: Question<Vec<Seat>>,
    files: Question<Shown>,
    processes: Question<Shown>,
    packages: Question<Option<Shown>>,
}

/// What a machine is called and what runs on it.
#[derive(Debug)]
struct System {
    hostname: String,
    os: String,
    kernel: String,
}

/// This machine's posture now, without checks.
pub async fn posture() -> Posture {
    Collector::new("/").collect(Extent::All, AT_START).await
}

impl Collector {
    /// For the machine whose files are under `root`.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self {
            root: root.into().into(),
            checks: Arc::default(),
            posture: Posture::default(),
            files: Shown::new(),
            processes: Shown::new(),
            packages: Shown::new(),
            asked: Asked::default(),
        }
    }

    /// What to look at beside the rest, from the next time on that [all](Extent::All) is collected.
    pub fn set_checks(&mut self, mut checks: Vec<Check>) {
        checks.truncate(MAX_CHECKS);
        self.checks = checks.into();
    }

    /// Looks, and says all that is known now. Each question has so much time, and they are asked at once.
    pub async fn collect(&mut self, extent: Extent, patience: Duration) -> Posture {
        let Self { asked, .. } = self;
        let (root, checks) = (&self.root, &self.checks);
        let look = |work: fn(&Path, &[Check]) -> Shown| {
            let (root, checks) = (Arc::clone(root), Arc::clone(checks));
            move || Some(work(&root, &checks))
        };
        let quick = async {
            tokio::join!(
                within(patience, firewall::is_guarded(root)),
                asked.files.ask(patience, look(checks::files)),
                asked.processes.ask(patience, look(checks::processes)),
            )
        };
        let rest = async {
            if extent == Extent::Quick {
                return None;
            }
            let packages = async {
                let (at, named) = (Arc::clone(root), Arc::clone(checks));
                // One answer for "can't be known", one for "not a machine of this kind".
                match asked.packages.ask(patience, move || Some(checks::dpkg(&at, &named))).await {
                    Some(None) => within(patience, async { Some(checks::rpm(checks).await) }).await,
                    known => known.flatten(),
                }
            };
            let screen = async {
                let at = Arc::clone(root);
                let seats = asked.seats.ask(patience, move || screen::seats(&at)).await?;
                within(patience, screen::lock_all(seats)).await
            };
            let updates = async {
                let (at, now) = (Arc::clone(root), clock::since_epoch().as_secs());
                let written = asked.updates.ask(patience, move || Some(updates::written(&at, now))).await?;
                within(patience, updates::age_days(written)).await
            };
            let (at, on) = (Arc::clone(root), Arc::clone(root));
            Some(tokio::join!(
                asked.system.ask(patience, move || Some(system(&at))),
                asked.disk.ask(patience, move || disk::is_encrypted(&on)),
                updates,
                screen,
                packages,
            ))
        };
        let ((firewall, files, processes), rest) = tokio::join!(quick, rest);
        self.posture.firewall = firewall;
        self.files = files.unwrap_or_default();
        self.processes = processes.unwrap_or_default();
        if let Some((system, disk, updates, screen, packages)) = rest {
            if let Some(System { hostname, os, kernel }) = system {
                self.posture = Posture { hostname, os, kernel, ..mem::take(&mut self.posture) };
            }
            self.posture.disk_encrypted = disk;
            self.posture.update_age_days = updates;
            self.posture.screen_lock = screen;
            self.packages = packages.unwrap_or_default();
        }
        self.posture.version = env!("CARGO_PKG_VERSION").to_owned();
        self.posture.checks = shown(&self.checks, [&self.files, &self.processes, &self.packages]);
        self.posture.clone().bounded()
    }
}

/// What was asked for, as much of it as fits into a message.
fn shown(checks: &[Check], found: [&Shown; 3]) -> Shown {
    let mut room = MAX_SHOWN;
    let mut shown = Shown::new();
    for check in checks {
        let Some(found) = found.iter().find_map(|found| found.get(check)) else { continue };
        let version = match found {
            // Longer ones are cut off; a character has up to four bytes.
            Found::Version(version) => version.len().min(4 * Posture::MAX_FIELD),
            _ => 0,
        };
        match room.checked_sub(check.to_string().len() + version + SHOWN) {
            Some(left) => room = left,
            None => break,
        }
        shown.insert(check.clone(), found.clone());
    }
    shown
}

async fn within<T>(patience: Duration, work: impl Future<Output = Option<T>>) -> Option<T> {
    tokio::time::timeout(patience, work).await.ok().flatten()
}

/// A question that is asked on a thread of its own, and not twice at once.
#[derive(Debug)]
struct Question<T>(Option<JoinHandle<Option<T>>>);

impl<T> Default for Question<T> {
    fn default() -> Self {
        Self(None)
    }
}

impl<T: Send + 'static> Question<T> {
    /// `None` when it is not known in time.
    async fn ask(&mut self, patience: Duration, look: impl FnOnce() -> Option<T> + Send + 'static) -> Option<T> {
        if self.0.as_ref().is_some_and(|earlier| !earlier.is_finished()) {
            // The other questions need not wait for it a second time.
            return None;
        }
        within(patience, async {
            // What an earlier one found too late is old.
            let answer = self.0.insert(tokio::task::spawn_blocking(look)).await;
            self.0 = None;
            answer.ok().flatten()
        })
        .await
    }
}

fn system(root: &Path) -> System {
    let uname = rustix::system::uname();
    let name = |name: &std::ffi::CStr| name.to_string_lossy().into_owned();
    let os = text(&under(root, "/etc/os-release")).unwrap_or_default();
    System {
        hostname: name(uname.nodename()),
        os: pretty_name(&os).unwrap_or_else(|| name(uname.sysname())),
        kernel: name(uname.release()),
    }
}

/// `PRETTY_NAME` of os-release(5).
fn pretty_name(os_release: &str) -> Option<String> {
    let value = os_release.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="))?;
    Some(value.trim().trim_matches(['"', '\'']).to_owned()).filter(|name| !name.is_empty())
}

#[cfg(test)]
mod tests {
    use std::sync::{
        atomic::{AtomicUsize, Ordering},
        mpsc,
    };

    use super::*;

    #[tokio::test]
    async fn a_machine_has_a_name_and_a_kernel() {
        let posture = posture().await;
        assert!(!posture.hostname.is_empty() && !posture.kernel.is_empty() && !posture.os.is_empty());
        assert_eq!(posture.version, env!("CARGO_PKG_VERSION"));
        assert_eq!(pretty_name("ID=x\nPRETTY_NAME=\"Debian 12\"\n").as_deref(), Some("Debian 12"));
        assert_eq!(pretty_name(""), None);
    }

    #[tokio::test]
    async fn what_is_said_is_what_is_asked_for() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("here"), "").unwrap();
        let [here, gone, package] = ["file:/here", "file:/gone", "package:none"].map(|it| it.parse::<Check>().unwrap());
        let mut collector = Collector::new(dir.path());
        assert_eq!(collector.collect(Extent::All, LATER).await.checks, Shown::new());
        collector.set_checks(vec![here.clone(), gone.clone(), package.clone()]);
        let first = collector.collect(Extent::All, LATER).await;
        assert_eq!(first.checks.get(&here), Some(&Found::Present));
        assert_eq!(first.checks.get(&gone), Some(&Found::Absent));
        assert_eq!((first.disk_encrypted, first.update_age_days, first.screen_lock), (None, None, None));
        std::fs::write(dir.path().join("gone"), "").unwrap();
        std::fs::create_dir_all(dir.path().join("var/lib/dpkg")).unwrap();
        std::fs::write(dir.path().join("var/lib/dpkg/status"), "").unwrap();
        let second = collector.collect(Extent::Quick, LATER).await;
        assert_eq!(second.checks.get(&gone), Some(&Found::Present));
        assert_eq!((second.hostname, second.os), (first.hostname, first.os), "what was not looked at stays");
        collector.set_checks(vec![package.clone()]);
        let third = collector.collect(Extent::All, LATER).await;
        assert_eq!(third.checks, Shown::from([(package, Found::Absent)]), "and nothing that is not asked for any more");
    }

    #[test]
    fn checks_never_fill_more_than_a_message() {
        let checks: Vec<_> = (0..MAX_CHECKS).map(|number| Check::Package(format!("{number:0>250}"))).collect();
        let version = Found::Version("é".repeat(10_000));
        let packages: Shown = checks.iter().map(|check| (check.clone(), version.clone())).collect();
        let posture =
            Posture { checks: shown(&checks, [&Shown::new(), &Shown::new(), &packages]), ..Posture::default() };
        assert!(!posture.checks.is_empty());
        let message = postern_wire::NodeMessage::Posture { posture: posture.bounded() };
        postern_wire::frame::encode(&message, postern_wire::Limit::Node).unwrap();
    }

    #[tokio::test]
    async fn what_hangs_is_unknown_and_is_not_asked_twice() {
        let (release, held) = mpsc::channel::<()>();
        let asked = Arc::new(AtomicUsize::new(0));
        let mut question = Question::default();
        let counted = Arc::clone(&asked);
        let hang = move || {
            counted.fetch_add(1, Ordering::SeqCst);
            let _ = held.recv();
            Some("old")
        };
        let count = |answer| {
            let asked = Arc::clone(&asked);
            move || {
                asked.fetch_add(1, Ordering::SeqCst);
                Some(answer)
            }
        };
        assert_eq!(question.ask(Duration::from_millis(10), hang).await, None);
        assert_eq!(question.ask(LATER, count("never asked")).await, None);
        drop(release);
        let answer = loop {
            match question.ask(LATER, count("new")).await {
                Some(answer) => break answer,
                None => tokio::task::yield_now().await,
            }
        };
        assert_eq!(answer, "new", "not what it would have said long ago");
        assert_eq!(asked.load(Ordering::SeqCst), 2);
    }
}
