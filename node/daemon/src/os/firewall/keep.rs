//! The node's rules stay in force: put up again when containers come or go, and when another program takes them away, as
//! `nft flush ruleset` does.
//!
//! A task of its own, since the firewall's programs may take their time.

use std::time::Duration;

use anyhow::Result;
use postern_dataplane::clock;
use tokio::sync::watch;

use super::{apply, listing, news::News};
use crate::{
    log_limit::LogLimit,
    os::{NetworkConfig, inner::inner},
};

/// The rules are looked at this often even if the kernel tells nothing.
const LOOK: Duration = Duration::from_secs(30);
/// What could not be put in force, or may not be, is tried again after this.
const RETRY: Duration = Duration::from_secs(5);
/// Programs that change their own rules all the time shall not keep this one busy.
const PAUSE: Duration = Duration::from_secs(1);

/// The rules that are to be in force.
#[derive(Debug)]
pub(in crate::os) struct Kept {
    config: NetworkConfig,
    /// The interfaces that the rules know as containers'.
    inner: Vec<String>,
    /// How the kernel showed the rules when they had just been put up; `None` if they are not known to be.
    in_force: Option<String>,
    news: News,
    log: LogLimit,
}

impl Kept {
    /// Puts the rules in force, in place of those that the node had. `inner` are the interfaces of this machine's own
    /// containers.
    ///
    /// # Errors
    /// When the system refuses.
    pub(in crate::os) async fn put_up(config: &NetworkConfig, inner: Vec<String>) -> Result<Self> {
        let (news, log) = (News::start(), LogLimit::default());
        let mut kept = Self { config: config.clone(), inner: Vec::new(), in_force: None, news, log };
        kept.put(inner).await?;
        Ok(kept)
    }

    /// Looks whenever interfaces or rules change, and now and then; ends when the sender of `links` is gone, and never in the
    /// middle of a change. `problem` is what is wrong now.
    pub(in crate::os) async fn keep(mut self, mut links: watch::Receiver<()>, problem: watch::Sender<Option<String>>) {
        let mut wait = LOOK;
        loop {
            let are_rules_meant = tokio::select! {
                changed = links.changed() => match changed {
                    Ok(()) => false,
                    Err(_) => return,
                },
                () = self.news.heard() => true,
                () = tokio::time::sleep(wait) => true,
            };
            let looked = self.look(are_rules_meant).await;
            wait = if self.in_force.is_some() { LOOK } else { RETRY };
            let error = looked.err().map(|error| format!("{error:#}"));
            if let Some(error) = &error
                && let Some(unsaid) = self.log.admit(clock::now())
            {
                tracing::error!(error, unsaid, "the firewall rules are not in force; trying again");
            }
            problem.send_replace(error);
            match tokio::time::timeout(PAUSE, links.changed()).await {
                Ok(Err(_)) => return,
                Ok(Ok(())) => links.mark_changed(),
                Err(_) => {}
            }
        }
    }

    async fn look(&mut self, are_rules_meant: bool) -> Result<()> {
        let inner = match inner().await {
            Ok(inner) => inner,
            Err(error) => {
                if let Some(unsaid) = self.log.admit(clock::now()) {
                    tracing::warn!(error = format!("{error:#}"), unsaid, "containers that are new may not find names");
                }
                self.inner.clone()
            }
        };
        if !are_rules_meant && self.in_force.is_some() && inner == self.inner {
            return Ok(());
        }
        let now = listing(&self.config.interface).await.ok();
        if now.is_some() && now == self.in_force && inner == self.inner {
            return Ok(());
        }
        let known = self.in_force.take();
        let is_lost = now.is_none() || (known.is_some() && now != known);
        self.put(inner).await?;
        if is_lost && let Some(unsaid) = self.log.admit(clock::now()) {
            tracing::warn!(unsaid, "the firewall rules were gone or changed; they are in force again");
        }
        Ok(())
    }

    async fn put(&mut self, inner: Vec<String>) -> Result<()> {
        self.news.count();
        apply(&self.config, &inner).await?;
        let shown = listing(&self.config.interface).await.ok();
        // If somebody else made a change meanwhile, it may be shown along.
        self.in_force = shown.filter(|_| self.news.count().is_none_or(|changes| changes == 1));
        self.inner = inner;
        Ok(())
    }
}
