//! The machine's resolver: asked for the zone's names, it asks this node; for all others, whom it asked before.
//!
//! Where systemd-resolved runs, it is told over D-Bus. Where not, `/etc/resolv.conf` is replaced by one that names this node,
//! which passes other names on to the servers of the file that was there. Either may change while the node is up, such as
//! when a DHCP client hears of other servers; the node goes by what is there now.
//!
//! - `file`: `/etc/resolv.conf`; `pace`: how often it is taken again; `resolved`: systemd-resolved; [`names`]: what it is told; [`watch`]: news of changes

mod file;
pub(crate) mod names;
mod pace;
mod resolved;
pub(crate) mod watch;

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Result, bail};
use postern_model::{Moment, OverlayAddr};

use self::{names::Names, pace::Pace};
use super::{
    NetworkConfig,
    journal::{Before, Entry, Journal, SavedResolvConf},
};

pub(super) use resolved::revert as revert_resolved;

const RESOLV_CONF: &str = "/etc/resolv.conf";
/// The files as process 1 sees them.
const INIT_ROOT: &str = "/proc/1/root";
/// What systemd-resolved refused is said to it again after this.
const RETRY: Duration = Duration::from_secs(10);

/// How the machine's names now come to this node.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Asked {
    /// systemd-resolved asks for the names that it was told of.
    ByName,
    /// For all names, by this file.
    ForAll(SavedResolvConf),
    /// By nobody who does not know its address.
    ByNobody,
}

/// The machine's resolver, as far as it leads here.
#[derive(Debug)]
pub(super) struct Resolver {
    asked: Asked,
    own: OverlayAddr,
    upstreams: Vec<SocketAddr>,
    pace: Pace,
}

impl Resolver {
    /// Leads the zone's names to this node.
    pub(super) async fn apply(journal: &mut Journal, config: &NetworkConfig) -> Result<Self> {
        let own = config.addr;
        let asked_by = |asked, text: &str| Self { asked, own, upstreams: others(text, own), pace: Pace::default() };
        if resolved::is_in_charge() {
            journal.add(Entry::Resolved { interface: config.interface.clone() })?;
            match resolved::tell(config).await {
                // It asks for what lies below an alias too, and that is not ours.
                Ok(()) => return Ok(asked_by(Asked::ByName, &file::read(Path::new(resolved::UPLINK))?)),
                Err(error) => tracing::warn!(
                    error = format!("{error:#}"),
                    "systemd-resolved can't be told; taking /etc/resolv.conf"
                ),
            }
        }
        let path = Path::new(RESOLV_CONF);
        let text = file::read(path)?;
        if is_in_the_namespace_of_init() == Some(false) && file::is_that_below(Path::new(INIT_ROOT), path) {
            let resolver = asked_by(Asked::ByNobody, &text);
            tracing::warn!("{}", resolver.note().unwrap_or_default());
            return Ok(resolver);
        }
        if text.starts_with(file::HEADER) {
            bail!(
                "{RESOLV_CONF} was written by another postern that did not set it back: run 'postern down' with its \
                 --state-dir, or write your name servers into the file"
            );
        }
        let saved = take(journal, None, path, &text, own.v4)?;
        Ok(asked_by(Asked::ForAll(saved), &text))
    }

    /// Whom to ask for all names that are not this node's.
    pub(super) fn upstreams(&self) -> &[SocketAddr] {
        &self.upstreams
    }

    /// What people should know, if names do not work as they would expect.
    pub(super) fn note(&self) -> Option<String> {
        if self.pace.held_until().is_some() {
            return Some(format!(
                "names of resources are not found at times: another program keeps rewriting {RESOLV_CONF}; find it (a DHCP \
                 client, a VPN) and have it leave the file alone"
            ));
        }
        (self.asked == Asked::ByNobody).then(|| {
            format!(
                "names of resources are not found by themselves: {RESOLV_CONF} here is the one of the whole machine, and is \
                 left alone; give this network namespace its own as /etc/netns/NAME/resolv.conf, or ask {} for names",
                self.own.v4
            )
        })
    }

    /// Leads names here beside the zone's, where only those that are told lead here.
    pub(super) fn lead_names(&self, config: &NetworkConfig) -> Option<Names> {
        let (interface, zone) = (config.interface.clone(), config.zone.clone());
        (self.asked == Asked::ByName).then(|| {
            Names::start(RETRY, move |aliases| {
                let (interface, zone) = (interface.clone(), zone.clone());
                async move {
                    let names: Vec<_> = std::iter::once(&zone).chain(&aliases).collect();
                    resolved::tell_names(&interface, &names).await
                }
            })
        })
    }

    /// The files whose change [`follow`](Self::follow) has to hear of.
    pub(super) fn files(&self) -> Vec<PathBuf> {
        match &self.asked {
            Asked::ByName => vec![resolved::UPLINK.into()],
            Asked::ForAll(saved) => {
                let link = match &saved.before {
                    Some(Before::Link(target)) => Some(file::resolve_link(Path::new(RESOLV_CONF), target)),
                    _ => None,
                };
                std::iter::once(RESOLV_CONF.into()).chain(link).collect()
            }
            Asked::ByNobody => vec![RESOLV_CONF.into()],
        }
    }

    /// When to call [`follow`](Self::follow) even without news: the file is left to another program until then.
    pub(super) fn poll_timeout(&self) -> Option<Moment> {
        self.pace.held_until()
    }

    /// Goes by what the files say now, and takes `/etc/resolv.conf` again from who has rewritten it, unless that happens too
    /// often.
    ///
    /// # Errors
    /// When it can't be read or written.
    pub(super) fn follow(&mut self, journal: &mut Journal, now: Moment) -> Result<()> {
        let was_held = self.pace.held_until().is_some();
        self.pace.release();
        let text = match &self.asked {
            Asked::ByName => file::read(Path::new(resolved::UPLINK))?,
            Asked::ByNobody => file::read(Path::new(RESOLV_CONF))?,
            Asked::ForAll(saved) => match follow_file(journal, Path::new(RESOLV_CONF), saved, self.own.v4, || {
                self.pace.admit(now)
            })? {
                Followed::Same => return Ok(()),
                Followed::Left => {
                    if !was_held {
                        tracing::warn!("another program keeps rewriting {RESOLV_CONF}; it is taken again less often");
                    }
                    return Ok(());
                }
                Followed::Upstreams(text) => text,
                Followed::Taken(saved, text) => {
                    tracing::info!("{RESOLV_CONF} was rewritten; names lead here again");
                    self.asked = Asked::ForAll(saved);
                    text
                }
            },
        };
        self.upstreams = others(&text, self.own);
        Ok(())
    }
}

/// Puts back what was in `/etc/resolv.conf`, unless somebody else has written it since.
pub(super) fn restore(saved: &SavedResolvConf) -> Result<()> {
    file::restore(Path::new(RESOLV_CONF), saved)
}

/// What became of our file.
enum Followed {
    Same,
    /// Somebody had written something else in its place, and it stays for now.
    Left,
    /// It is as we left it, and what it stood in place of now says this.
    Upstreams(String),
    /// Somebody had written this in its place, and we have taken it again.
    Taken(SavedResolvConf, String),
}

/// `may_take` is asked before anything is written.
fn follow_file(
    journal: &mut Journal,
    path: &Path,
    saved: &SavedResolvConf,
    own: Ipv4Addr,
    may_take: impl FnOnce() -> bool,
) -> Result<Followed> {
    let now = file::read(path)?;
    if now == saved.ours {
        return Ok(match &saved.before {
            Some(Before::Link(target)) => Followed::Upstreams(file::read(&file::resolve_link(path, target))?),
            _ => Followed::Same,
        });
    }
    if !may_take() {
        return Ok(Followed::Left);
    }
    if saved.ours.starts_with(&now) || now.starts_with(file::HEADER) {
        // Removed, emptied, or a node's: nothing to go by, and what was saved stays.
        file::put(path, &saved.ours, 0o644)?;
        return Ok(Followed::Same);
    }
    let taken = take(journal, Some(saved), path, &now, own)?;
    Ok(Followed::Taken(taken, now))
}

/// Puts our file in the place of what is there, once that is noted; `instead_of` is what was noted before.
fn take(
    journal: &mut Journal,
    instead_of: Option<&SavedResolvConf>,
    path: &Path,
    text: &str,
    own: Ipv4Addr,
) -> Result<SavedResolvConf> {
    let saved = SavedResolvConf { before: file::look(path)?, ours: file::rewrite(text, own) };
    let note = Entry::ResolvConf(saved.clone());
    match instead_of {
        Some(old) => journal.replace(&Entry::ResolvConf(old.clone()), note)?,
        None => journal.add(note)?,
    }
    file::put(path, &saved.ours, 0o644)?;
    Ok(saved)
}

/// The name servers of a text, without this node, which would ask itself.
fn others(text: &str, own: OverlayAddr) -> Vec<SocketAddr> {
    file::nameservers(text).into_iter().filter(|server| !own.contains(server.ip().to_canonical())).collect()
}

/// Whether this process is in the network namespace of process 1; `None` when that can't be seen.
fn is_in_the_namespace_of_init() -> Option<bool> {
    let namespace = |process: &str| std::fs::read_link(format!("/proc/{process}/ns/net")).ok();
    Some(namespace("self")? == namespace("1")?)
}

#[cfg(test)]
mod tests {
    use std::net::Ipv6Addr;

    use super::*;

    const OWN: OverlayAddr =
        OverlayAddr { v4: Ipv4Addr::new(100, 64, 1, 0), v6: Ipv6Addr::new(0xfd00, 1, 2, 3, 0, 0, 0, 9) };

    #[test]
    fn a_file_that_another_program_rewrites_is_taken_again_with_its_servers() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("resolv.conf");
        let mut journal = Journal::load(dir.path()).unwrap();
        std::fs::write(&path, "nameserver 192.0.2.1\n").unwrap();
        let first = take(&mut journal, None, &path, "nameserver 192.0.2.1\n", OWN.v4).unwrap();
        assert!(matches!(follow_file(&mut journal, &path, &first, OWN.v4, || true).unwrap(), Followed::Same));

        std::fs::write(&path, "search example.com\nnameserver 192.0.2.2\n").unwrap();
        let Followed::Taken(second, text) = follow_file(&mut journal, &path, &first, OWN.v4, || true).unwrap() else {
            panic!("not taken")
        };
        assert_eq!(others(&text, OWN), ["192.0.2.2:53".parse().unwrap()]);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), second.ours);
        assert!(second.ours.contains("search example.com"));

        // Emptied, or another node's: ours again, and what will be put back is not forgotten.
        for odd in ["".to_owned(), file::rewrite("", Ipv4Addr::new(100, 64, 1, 9))] {
            std::fs::write(&path, odd).unwrap();
            assert!(matches!(follow_file(&mut journal, &path, &second, OWN.v4, || true).unwrap(), Followed::Same));
            assert_eq!(std::fs::read_to_string(&path).unwrap(), second.ours);
        }

        // While it is another program's turn, the file is left to it, whatever it says.
        for theirs in ["nameserver 192.0.2.9\n", ""] {
            std::fs::write(&path, theirs).unwrap();
            assert!(matches!(follow_file(&mut journal, &path, &second, OWN.v4, || false).unwrap(), Followed::Left));
            assert_eq!(std::fs::read_to_string(&path).unwrap(), theirs);
        }
        std::fs::write(&path, &second.ours).unwrap();
        let asked = || panic!("there is nothing to take");
        assert!(matches!(follow_file(&mut journal, &path, &second, OWN.v4, asked).unwrap(), Followed::Same));

        let noted: Vec<_> = Journal::load(dir.path()).unwrap().take_reversed().collect();
        assert_eq!(noted, [Entry::ResolvConf(second.clone())]);
        file::restore(&path, &second).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "search example.com\nnameserver 192.0.2.2\n");
    }

    #[test]
    fn a_link_s_target_is_followed_and_the_node_never_asks_itself() {
        let dir = tempfile::tempdir().unwrap();
        let (path, target) = (dir.path().join("resolv.conf"), dir.path().join("uplink"));
        let mut journal = Journal::load(dir.path()).unwrap();
        std::fs::write(&target, "nameserver 192.0.2.1\n").unwrap();
        std::os::unix::fs::symlink("uplink", &path).unwrap();
        let saved = take(&mut journal, None, &path, "nameserver 192.0.2.1\n", OWN.v4).unwrap();
        std::fs::write(
            &target,
            format!(
                "nameserver {}\nnameserver {}\nnameserver ::ffff:{}\nnameserver 192.0.2.3\n",
                OWN.v4, OWN.v6, OWN.v4
            ),
        )
        .unwrap();
        let Followed::Upstreams(text) = follow_file(&mut journal, &path, &saved, OWN.v4, || true).unwrap() else {
            panic!("the link's target is not read")
        };
        assert_eq!(others(&text, OWN), ["192.0.2.3:53".parse().unwrap()]);
        file::restore(&path, &saved).unwrap();
        assert_eq!(std::fs::read_link(&path).unwrap(), Path::new("uplink"));
    }
}
