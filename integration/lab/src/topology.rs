//! Hosts and segments: network namespaces joined by bridges.

use std::{
    fs,
    os::fd::AsFd as _,
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
    thread,
};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tempfile::TempDir;

use crate::process::{Background, Output, run};

const PREFIX: &str = "pstn";
static LABS: AtomicU32 = AtomicU32::new(0);

/// A set of hosts. Dropping it ends their processes and removes them.
#[derive(Debug)]
pub struct Lab {
    prefix: String,
    dir: TempDir,
    hosts: Vec<String>,
    links: u32,
    keep: bool,
}

/// A bridge: all hosts on it hear each other.
#[derive(Debug, Clone)]
pub struct Segment {
    namespace: String,
}

/// A machine: one network namespace, with a directory of its own.
#[derive(Debug, Clone)]
pub struct Host {
    namespace: String,
    dir: PathBuf,
    /// Process 1 of a machine on this host that has mounts and process ids of its own.
    init: Option<u32>,
}

impl Lab {
    /// An empty lab. Needs root.
    ///
    /// # Errors
    /// When not root, or when `ip` is missing.
    pub fn new() -> Result<Self> {
        ensure!(rustix::process::geteuid().is_root(), "the lab makes network namespaces and needs root");
        sweep()?;
        let prefix = format!("{PREFIX}{}-{}", std::process::id(), LABS.fetch_add(1, Ordering::Relaxed));
        let dir =
            tempfile::Builder::new().prefix(&format!("{prefix}-")).tempdir().context("make the lab's directory")?;
        // Servers that drop root must be able to reach what is theirs.
        fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
        Ok(Self { prefix, dir, hosts: Vec::new(), links: 0, keep: false })
    }

    /// Leaves everything standing when the lab is dropped.
    pub fn keep(&mut self) {
        self.keep = true;
    }

    /// Where hosts keep their files.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    fn namespace(&mut self, name: &str) -> Result<String> {
        let namespace = format!("{}-{name}", self.prefix);
        ip(&["netns", "add", &namespace])?;
        self.hosts.push(namespace.clone());
        ip(&["-n", &namespace, "link", "set", "lo", "up"])?;
        Ok(namespace)
    }

    /// A number that no other link of this lab has.
    pub(crate) fn next_link(&mut self) -> u32 {
        self.links += 1;
        self.links
    }

    /// A new segment.
    pub fn segment(&mut self, name: &str) -> Result<Segment> {
        let namespace = self.namespace(&format!("sw-{name}"))?;
        ip(&["-n", &namespace, "link", "add", "br0", "type", "bridge"])?;
        ip(&["-n", &namespace, "link", "set", "br0", "up"])?;
        Ok(Segment { namespace })
    }

    /// A new host without links. Its resolver is `/etc/netns/NAME/resolv.conf`, empty at first.
    pub fn host(&mut self, name: &str) -> Result<Host> {
        let namespace = self.namespace(name)?;
        let dir = self.dir.path().join(name);
        fs::create_dir(&dir)?;
        let etc = etc_netns(&namespace);
        fs::create_dir_all(&etc)?;
        fs::write(etc.join("resolv.conf"), "")?;
        Ok(Host { namespace, dir, init: None })
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if self.keep {
            // The directory must outlive this process too.
            let _ = std::mem::replace(&mut self.dir, tempfile::tempdir().expect("a temporary directory")).keep();
            return;
        }
        for namespace in &self.hosts {
            remove(namespace);
        }
    }
}

impl Segment {
    /// Runs a closure in the segment's namespace, where its bridge `br0` is.
    pub(crate) fn within<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        within(&self.namespace, work)
    }

    /// Runs `ip` there.
    pub(crate) fn ip(&self, words: &[&str]) -> Result<String> {
        ip(&[&["-n", self.namespace.as_str()], words].concat())
    }
}

impl Host {
    /// The namespace's name, for `ip netns exec`.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// A directory for the host's files.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The resolv.conf that the host's processes see.
    pub fn resolv_conf(&self) -> PathBuf {
        etc_netns(&self.namespace).join("resolv.conf")
    }

    /// Connects the host to a segment as interface `name` with these addresses (with prefix lengths).
    pub fn link(&self, name: &str, segment: &Segment, addresses: &[&str]) -> Result<()> {
        let port = format!("{name}-{}", short(&self.namespace));
        ip(&[
            "-n",
            &segment.namespace,
            "link",
            "add",
            &port,
            "type",
            "veth",
            "peer",
            "name",
            name,
            "netns",
            &self.namespace,
        ])?;
        ip(&["-n", &segment.namespace, "link", "set", &port, "master", "br0", "up"])?;
        ip(&["-n", &self.namespace, "link", "set", name, "up"])?;
        for address in addresses {
            let mut words = vec!["-n", &self.namespace, "addr", "add", address, "dev", name];
            if address.contains(':') {
                // Duplicate address detection would keep the address unusable for a second.
                words.push("nodad");
            }
            ip(&words)?;
        }
        Ok(())
    }

    /// Takes an interface away, with its addresses and routes.
    pub fn unlink(&self, name: &str) -> Result<()> {
        self.ip(&["link", "del", name])?;
        Ok(())
    }

    /// Runs `ip` in the host.
    pub fn ip(&self, words: &[&str]) -> Result<String> {
        ip(&[&["-n", self.namespace.as_str()], words].concat())
    }

    /// Runs a closure in the host's network namespace, on a thread of its own. Sockets and devices that it opens belong to the
    /// host for good, wherever they are used.
    ///
    /// # Errors
    /// The closure's, or when there is no such namespace any more.
    pub fn within<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        within(&self.namespace, work)
    }

    /// Writes a setting of the host's network (`net/ipv4/ip_forward`).
    pub fn set(&self, setting: &str, value: &str) -> Result<()> {
        let file = format!("/proc/sys/{setting}");
        self.within(|| fs::write(&file, value).with_context(|| format!("write {value} to {file}")))
    }

    /// The machine on this host whose process 1 has this id.
    pub fn inside(&self, init: u32) -> Self {
        Self { init: Some(init), ..self.clone() }
    }

    /// A command in the host, for those who need more than [`Self::run`].
    pub fn command(&self, program: &str) -> Command {
        let mut command = match self.init {
            None => Command::new("ip"),
            Some(_) => Command::new("nsenter"),
        };
        match self.init {
            None => command.args(["netns", "exec", &self.namespace, program]),
            Some(init) => command.args(["--target", &init.to_string(), "--net", "--mount", "--pid", program]),
        };
        command.current_dir(&self.dir);
        command
    }

    /// A command in the host that also sees the host's name as its machine's.
    pub fn named_command(&self, program: &str) -> Command {
        let mut command = self.command("unshare");
        let name = self.dir.file_name().unwrap_or_default();
        command.args(["--uts", "sh", "-c", r#"hostname "$0" && exec "$@""#]).arg(name).arg(program);
        command
    }

    /// Runs a command to its end.
    pub fn run(&self, words: &[&str]) -> Result<Output> {
        run(self.command(words[0]).args(&words[1..]))
    }

    /// Starts a process; it ends when the handle is dropped.
    pub fn spawn(&self, name: &str, command: &mut Command) -> Result<Background> {
        Background::spawn(command, &self.dir.join(format!("{name}.log")))
    }
}

/// Runs `ip`, and takes its refusal for an error.
pub fn ip(words: &[&str]) -> Result<String> {
    let output = run(Command::new("ip").args(words))?;
    ensure!(output.ok(), "ip {}: {}", words.join(" "), output.stderr.trim());
    Ok(output.stdout)
}

fn within<T: Send>(namespace: &str, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    let path = Path::new("/run/netns").join(namespace);
    let file = fs::File::open(&path).with_context(|| format!("open {}", path.display()))?;
    thread::scope(|scope| {
        let thread = scope.spawn(|| {
            move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))
                .with_context(|| format!("enter {namespace}"))?;
            work()
        });
        thread.join().unwrap_or_else(|_| Err(anyhow!("what ran in {namespace} panicked")))
    })
}

fn etc_netns(namespace: &str) -> PathBuf {
    Path::new("/etc/netns").join(namespace)
}

/// A part of the namespace's name that fits into an interface name of 15 characters beside its own.
fn short(namespace: &str) -> &str {
    let name = namespace.splitn(3, '-').nth(2).unwrap_or(namespace);
    &name[..name.len().min(9)]
}

fn remove(namespace: &str) {
    if let Ok(pids) = run(Command::new("ip").args(["netns", "pids", namespace])) {
        for pid in
            pids.stdout.split_whitespace().filter_map(|pid| pid.parse().ok()).filter_map(rustix::process::Pid::from_raw)
        {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
    }
    let _ = ip(&["netns", "delete", namespace]);
    let _ = fs::remove_dir_all(etc_netns(namespace));
}

/// Removes what is left of labs whose process is gone: their namespaces and their directories.
fn sweep() -> Result<()> {
    for (place, is_namespace) in [(PathBuf::from("/run/netns"), true), (std::env::temp_dir(), false)] {
        let Ok(entries) = fs::read_dir(&place) else { continue };
        for entry in entries.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if !is_orphan(&name) {
                continue;
            }
            if is_namespace {
                remove(&name);
            } else {
                // Somebody's file system may still be mounted in there, or another run sweeps too.
                let _ = fs::remove_dir_all(entry.path());
            }
        }
    }
    Ok(())
}

/// Whether a name begins as a lab's does whose process is gone.
fn is_orphan(name: &str) -> bool {
    let owner =
        name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next()).and_then(|pid| pid.parse::<u32>().ok());
    owner.is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists()) && !is_kept(name)
}

/// Marks a lab that is to stand after its process ended.
pub fn mark_kept(lab: &Lab) -> Result<()> {
    fs::create_dir_all("/run/postern-lab")?;
    fs::write(Path::new("/run/postern-lab").join(&lab.prefix), "")?;
    Ok(())
}

fn is_kept(name: &str) -> bool {
    let mut kept = fs::read_dir("/run/postern-lab").into_iter().flatten().flatten();
    kept.any(|prefix| name.starts_with(&format!("{}-", prefix.file_name().to_string_lossy())))
}

/// Removes every lab that was kept.
pub fn remove_kept() -> Result<usize> {
    let Ok(entries) = fs::read_dir("/run/postern-lab") else { return Ok(0) };
    let mut removed = 0;
    for entry in entries {
        let path = entry?.path();
        let Some(prefix) = path.file_name().map(|name| name.to_string_lossy().into_owned()) else {
            bail!("odd file in /run/postern-lab")
        };
        for namespace in
            fs::read_dir("/run/netns")?.filter_map(|e| Some(e.ok()?.file_name().to_string_lossy().into_owned()))
        {
            if namespace.starts_with(&format!("{prefix}-")) {
                remove(&namespace);
            }
        }
        fs::remove_file(path)?;
        removed += 1;
    }
    // Their directories are orphans now.
    sweep()?;
    Ok(removed)
}
