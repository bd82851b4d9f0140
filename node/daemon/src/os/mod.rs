//! What the node changes on the machine, each change written down before it is made.
//!
//! - [`interface`]: a name for the TUN device; `links`: its addresses and routes
//! - `firewall`: what the kernel must not let pass, and masquerading on gateways; `inner`: where containers are
//! - `sysctl`: forwarding
//! - `resolver`: the machine's resolver, systemd-resolved or `/etc/resolv.conf`
//! - `journal`: what was there before, for `postern down`, and for the next start after a crash
//! - [`candidates`]: this machine's addresses, and news of the network; [`routes`]; [`nat64`]; [`wake`]: news of having slept
//! - [`posture`]: what the device says of itself
//! - `program`: how other programs are run

pub mod candidates;
pub mod interface;
pub mod nat64;
pub mod posture;
pub mod routes;
pub mod wake;

mod firewall;
mod inner;
mod journal;
mod links;
mod program;
mod resolver;
mod sysctl;

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, anyhow};
use postern_model::{Fqdn, Moment, NetworkRanges, OverlayAddr};
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
};

use self::{
    journal::{Entry, Journal},
    resolver::Resolver,
};

pub use firewall::{News, closed_to};
pub use resolver::names::Names;

/// How the machine is to be set up.
#[derive(Debug, Clone)]
pub struct NetworkConfig {
    /// The TUN device, which is there already.
    pub interface: String,
    /// This device's overlay addresses.
    pub addr: OverlayAddr,
    /// Where overlay addresses lie.
    pub ranges: NetworkRanges,
    /// The zone under which resources answer.
    pub zone: Fqdn,
    /// Whether clients' packets go on from here.
    pub is_gateway: bool,
}

/// What was changed on this machine; undone by [`undo`](Self::undo), or by [`recover`] at the next start after a crash.
#[derive(Debug)]
pub struct Configured {
    state_dir: PathBuf,
    config: NetworkConfig,
    /// Until it is [kept in force](Self::keep_firewall).
    firewall: Option<firewall::Kept>,
    /// Why the firewall's rules are not in force, if they are not.
    firewall_problem: watch::Sender<Option<String>>,
    resolver: Resolver,
}

impl Configured {
    /// Sets the machine up. The firewall comes first and the resolver last, so that at no time more passes than should, and
    /// no name is asked of someone who can't answer yet.
    ///
    /// # Errors
    /// When the system refuses any of it; then nothing stays changed.
    pub async fn apply(state_dir: &Path, config: NetworkConfig) -> Result<Self> {
        let mut journal = Journal::load(state_dir)?;
        match set_up(&mut journal, &config).await {
            Ok((firewall, resolver)) => {
                let (state_dir, firewall_problem) = (state_dir.to_owned(), watch::Sender::new(None));
                Ok(Self { state_dir, config, firewall: Some(firewall), firewall_problem, resolver })
            }
            Err(error) => {
                if let Err(error) = take_back(state_dir, Some(&config.interface)).await {
                    tracing::error!(error = format!("{error:#}"), "what was changed can't be set back");
                }
                Err(error)
            }
        }
    }

    /// Leads names to this node beside the zone's; `None` where all names are led here anyhow.
    pub fn lead_names(&self) -> Option<Names> {
        self.resolver.lead_names(&self.config)
    }

    /// Keeps the firewall's rules in force until the sender of `links`, which tells that interfaces have changed, is gone. The
    /// task has to have ended before [`undo`](Self::undo).
    pub fn keep_firewall(&mut self, links: watch::Receiver<()>) -> JoinHandle<()> {
        let (firewall, problem) = (self.firewall.take(), self.firewall_problem.clone());
        tokio::spawn(async move {
            if let Some(firewall) = firewall {
                firewall.keep(links, problem).await;
            }
        })
    }

    /// The files by which the machine's resolver goes.
    pub fn watched(&self) -> Vec<PathBuf> {
        self.resolver.files()
    }

    /// Tells, until aborted, when to call [`follow_resolver`](Self::follow_resolver).
    pub fn watch_resolver(&self, news: mpsc::Sender<()>) -> JoinHandle<()> {
        resolver::watch::watch(self.watched(), news)
    }

    /// When to call [`follow_resolver`](Self::follow_resolver) even without news.
    pub fn poll_timeout(&self) -> Option<Moment> {
        self.resolver.poll_timeout()
    }

    /// The machine's resolver may have been changed by another program: leads names to this node again.
    ///
    /// # Errors
    /// When it can't be read or written.
    pub fn follow_resolver(&mut self, now: Moment) -> Result<()> {
        let mut journal = Journal::load(&self.state_dir)?;
        self.resolver.follow(&mut journal, now).context("the resolver can't be followed")
    }

    /// The resolvers that the machine has beside this node, for all names that are not this node's.
    pub fn upstreams(&self) -> &[SocketAddr] {
        self.resolver.upstreams()
    }

    /// What on this machine keeps the node from doing all that it should, and what to do about it.
    pub fn concern(&self) -> impl Future<Output = Option<String>> + Send + use<> {
        let (note, interface) = (self.resolver.note(), self.config.interface.clone());
        let is_gateway = self.config.is_gateway;
        let firewall = self.firewall_problem.borrow().clone();
        async move {
            let obstacle = if is_gateway { firewall::obstacle(&interface).await } else { None };
            let concerns: Vec<_> = firewall.into_iter().chain(obstacle).chain(note).collect();
            (!concerns.is_empty()).then(|| concerns.join("; "))
        }
    }

    /// Sets everything back.
    ///
    /// # Errors
    /// With all that could not be; the next start tries again.
    pub async fn undo(self) -> Result<()> {
        take_back(&self.state_dir, Some(&self.config.interface)).await
    }
}

async fn set_up(journal: &mut Journal, config: &NetworkConfig) -> Result<(firewall::Kept, Resolver)> {
    let inner = inner::inner().await.unwrap_or_else(|error| {
        tracing::warn!(error = format!("{error:#}"), "this machine's containers can't be found; they get no names");
        Vec::new()
    });
    journal.add(Entry::Firewall { interface: config.interface.clone() })?;
    let firewall = firewall::Kept::put_up(config, inner).await?;
    links::apply(config).await.context("addresses and routes can't be set")?;
    if config.is_gateway {
        for sysctl::Setting { path, value, beside } in sysctl::for_gateway(&config.interface) {
            if let Some(before) = sysctl::read(&path)?.filter(|before| *before != value) {
                // A gateway's own interface takes its settings with it.
                journal.add(Entry::Sysctl { path: path.clone(), before, ours: value.into(), beside })?;
                sysctl::write(&path, value)?;
            }
        }
    }
    let resolver = Resolver::apply(journal, config).await.context("the resolver can't be set up")?;
    Ok((firewall, resolver))
}

/// What a daemon that does not run any more has changed and not set back; empty when nothing is seen.
pub fn left_over(state_dir: &Path) -> Vec<String> {
    let journal = Journal::load(state_dir).map(|mut journal| journal.take_reversed().collect::<Vec<_>>());
    journal.unwrap_or_default().iter().map(Entry::name).collect()
}

/// Undoes what a crashed run left behind, and what this run changed.
///
/// # Errors
/// With all that could not be undone; it stays in the journal for the next try.
pub async fn recover(state_dir: &Path) -> Result<()> {
    take_back(state_dir, None).await
}

/// `own` is the interface of the node that is asking, if there is one.
async fn take_back(state_dir: &Path, own: Option<&str>) -> Result<()> {
    // A name may have been given to another node, which is alive, since this one's crash.
    let is_anothers = |name: &str| own != Some(name) && interface::index_of(name).is_ok();
    let mut journal = Journal::load(state_dir)?;
    let mut errors = Vec::new();
    // The last change first.
    for entry in journal.take_reversed() {
        let undone = match &entry {
            Entry::Firewall { interface } | Entry::Resolved { interface } if is_anothers(interface) => Ok(()),
            Entry::Firewall { interface } => firewall::remove(interface).await,
            Entry::Sysctl { path, before, ours, beside } => sysctl::restore(path, before, ours, beside),
            Entry::ResolvConf(saved) => resolver::restore(saved),
            Entry::Resolved { interface } => resolver::revert_resolved(interface).await,
        };
        if let Err(error) = undone {
            errors.push(format!("{error:#}"));
            journal.keep(entry);
        }
    }
    journal.save()?;
    if errors.is_empty() { Ok(()) } else { Err(anyhow!(errors.join("; "))) }
}
