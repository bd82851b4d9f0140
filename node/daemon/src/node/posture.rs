//! What the device says of itself, kept current while the node is up.
//!
//! [`follow`] is a task of its own: it looks when the firewall's rules change, when other checks are asked for, when a session
//! begins, and every few seconds, and tells the node's task what it found. That one sends what is new at once, and from time to time
//! what is not, since the coordinator takes an old posture for none.

use std::time::Duration;

use postern_dataplane::clock;
use postern_model::{Check, Posture, check::MAX_CHECKS};
use postern_wire::NodeMessage;
use tokio::{
    sync::{mpsc, watch},
    time::Instant,
};

use super::Node;
use crate::os::{
    News,
    posture::{Collector, Extent, LATER},
};

/// What may change at any moment is looked at this often.
const LOOK: Duration = Duration::from_secs(15);
/// The rest is, and all that is known is said again, changed or not. The coordinator's patience is three times this.
const SAY: Duration = Duration::from_secs(5 * 60);
/// A firewall's program may make several changes in a row; looked at in between, the machine may seem to have none.
const SETTLE: Duration = Duration::from_millis(250);
/// Programs that change their rules all the time shall not keep this one busy.
const PAUSE: Duration = Duration::from_secs(1);

/// What the follower is asked to do.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Wanted {
    checks: Vec<Check>,
    /// Counts sessions: with each, it looks.
    sessions: u64,
}

/// Keeps looking, until the sender of `wanted` is gone. What is received is what is known at that time, changed or not.
pub(super) fn follow(mut collector: Collector, mut wanted: watch::Receiver<Wanted>) -> mpsc::Receiver<Posture> {
    let (found, told) = mpsc::channel(1);
    tokio::spawn(async move {
        let mut news = News::start();
        let mut checks = Vec::new();
        let mut all_at = clock::now() + SAY;
        let mut quiet_until = Instant::now();
        loop {
            let changed = async {
                tokio::time::sleep_until(quiet_until).await;
                news.heard().await;
            };
            let mut extent = tokio::select! {
                asked = wanted.changed() => match asked {
                    Ok(()) => Extent::Quick,
                    Err(_) => return,
                },
                () = changed => {
                    tokio::time::sleep(SETTLE).await;
                    news.count();
                    quiet_until = Instant::now() + PAUSE;
                    Extent::Quick
                }
                () = tokio::time::sleep(LOOK) => Extent::Quick,
            };
            let asked = wanted.borrow_and_update().checks.clone();
            let now = clock::now();
            if asked != checks || all_at <= now {
                collector.set_checks(asked.clone());
                (checks, all_at, extent) = (asked, now + SAY, Extent::All);
            }
            if found.send(collector.collect(extent, LATER).await).await.is_err() {
                return;
            }
        }
    });
    told
}

impl Node {
    /// The coordinator asks for these checks, in place of those before.
    pub(super) fn want_checks(&self, checks: &[Check]) {
        let checks = &checks[..checks.len().min(MAX_CHECKS)];
        self.wanted.send_if_modified(|wanted| {
            let is_new = wanted.checks != checks;
            wanted.checks = checks.to_vec();
            is_new
        });
    }

    /// A session has begun, in whose hello this was said. The machine may have slept since it was found out.
    pub(super) fn tell_posture_anew(&mut self, told: &Posture) {
        self.say_posture_at = clock::now() + SAY;
        let posture = self.hello.borrow().posture.clone();
        if posture != *told {
            self.send(NodeMessage::Posture { posture });
        }
        self.wanted.send_modify(|wanted| wanted.sessions += 1);
    }

    /// This is known now: sent when it is new, or when the coordinator has not heard for a while.
    pub(super) fn tell_posture(&mut self, posture: Posture) {
        let is_new = self.hello.borrow().posture != posture;
        if is_new {
            self.hello.send_modify(|hello| hello.posture = posture.clone());
        }
        if self.session.is_some() && (is_new || self.say_posture_at <= clock::now()) {
            self.say_posture_at = clock::now() + SAY;
            self.send(NodeMessage::Posture { posture });
        }
    }
}

#[cfg(test)]
mod tests {
    use postern_model::Found;

    use super::*;

    /// Invariant: what is asked for anew is looked at at once, and so is everything when a session begins.
    #[tokio::test]
    async fn it_looks_when_it_is_asked_to() {
        let dir = tempfile::tempdir().unwrap();
        let (wanted, latest) = watch::channel(Wanted::default());
        let mut told = follow(Collector::new(dir.path()), latest);
        let check: Check = "file:/edr.conf".parse().unwrap();
        let first_with = |found: Found| {
            let check = check.clone();
            move |posture: &Posture| posture.checks.get(&check) == Some(&found)
        };
        wanted.send_modify(|wanted| wanted.checks = vec![check.clone()]);
        let absent = first_with(Found::Absent);
        while !absent(&told.recv().await.unwrap()) {}
        std::fs::write(dir.path().join("edr.conf"), "").unwrap();
        wanted.send_modify(|wanted| wanted.sessions += 1);
        let present = first_with(Found::Present);
        while !present(&told.recv().await.unwrap()) {}
        wanted.send_modify(|wanted| wanted.checks.clear());
        while !told.recv().await.unwrap().checks.is_empty() {}
        drop(wanted);
        while told.recv().await.is_some() {}
    }
}
