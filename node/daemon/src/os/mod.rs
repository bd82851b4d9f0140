//! What the node changes on the machine, each change written down before it is made.
//!
//! - [`interface`]: a name for the TUN device; `links`: its addresses and routes
//! - `firewall`: what the kernel must not let pass, and masquerading on gateways; `sysctl`: forwarding
//! - `resolver`: the machine's resolver, systemd-resolved or `/etc/resolv.conf`
//! - `journal`: what was there before, for `postern down`, and for the next start after a crash
//! - [`candidates`]: this machine's addresses; `posture`: what the device says of itself

pub mod candidates;
pub mod interface;

mod firewall;
mod journal;
mod links;
mod posture;
mod resolver;
mod sysctl;

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, anyhow};
use postern_model::{Fqdn, NetworkRanges, OverlayAddr};

use self::{
    journal::{Entry, Journal},
    resolver::Asked,
};

pub use posture::posture;

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
    interface: String,
    zone: Fqdn,
    asked: Asked,
    aliases: BTreeSet<Fqdn>,
    upstreams: Vec<SocketAddr>,
}

impl Configured {
    /// Sets the machine up. The firewall comes first and the resolver last, so that at no time more passes than should, and
    /// no name is asked of someone who can't answer yet.
    ///
    /// # Errors
    /// When the system refuses any of it; then nothing stays changed.
    pub async fn apply(state_dir: &Path, config: &NetworkConfig) -> Result<Self> {
        let mut journal = Journal::load(state_dir)?;
        match set_up(&mut journal, config).await {
            Ok((asked, upstreams)) => Ok(Self {
                state_dir: state_dir.to_owned(),
                interface: config.interface.clone(),
                zone: config.zone.clone(),
                asked,
                aliases: BTreeSet::new(),
                upstreams,
            }),
            Err(error) => {
                if let Err(error) = recover(state_dir).await {
                    tracing::error!(error = format!("{error:#}"), "what was changed can't be set back");
                }
                Err(error)
            }
        }
    }

    /// Leads these names to this node as well, in place of those before.
    ///
    /// # Errors
    /// When systemd-resolved refuses.
    pub async fn set_aliases(&mut self, aliases: BTreeSet<Fqdn>) -> Result<()> {
        if let Asked::ByName = self.asked
            && aliases != self.aliases
        {
            let names: Vec<_> = std::iter::once(&self.zone).chain(&aliases).collect();
            resolver::tell_names(&self.interface, &names).await?;
        }
        self.aliases = aliases;
        Ok(())
    }

    /// The resolvers that were there before, for all names that are not this node's.
    pub fn upstreams(&self) -> &[SocketAddr] {
        &self.upstreams
    }

    /// Sets everything back.
    ///
    /// # Errors
    /// With all that could not be; the next start tries again.
    pub async fn undo(self) -> Result<()> {
        recover(&self.state_dir).await
    }
}

async fn set_up(journal: &mut Journal, config: &NetworkConfig) -> Result<(Asked, Vec<SocketAddr>)> {
    journal.add(Entry::Firewall { interface: config.interface.clone() })?;
    firewall::apply(config).await?;
    links::apply(config).await.context("addresses and routes can't be set")?;
    if config.is_gateway {
        for (path, value) in sysctl::for_gateway(&config.interface) {
            if let Some(before) = sysctl::read(&path)?.filter(|before| *before != value) {
                // A gateway's own interface takes its settings with it.
                journal.add(Entry::Sysctl { path: path.clone(), before, ours: value.clone() })?;
                sysctl::write(&path, &value)?;
            }
        }
    }
    resolver::apply(journal, config).await.context("the resolver can't be set up")
}

/// Undoes what a crashed run left behind, and what this run changed.
///
/// # Errors
/// With all that could not be undone; it stays in the journal for the next try.
pub async fn recover(state_dir: &Path) -> Result<()> {
    let mut journal = Journal::load(state_dir)?;
    let mut errors = Vec::new();
    // The last change first.
    for entry in journal.take_reversed() {
        let undone = match &entry {
            Entry::Firewall { interface } => firewall::remove(interface).await,
            Entry::Sysctl { path, before, ours } => sysctl::restore(path, before, ours),
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
