//! Whether a gateway is there: one that dies without a word has to be missed within seconds, so that its grants can move.
//!
//! Only of gateways: laptops may sleep, and nothing depends on how soon that is noticed. A gateway of which nothing was heard for a
//! moment, and which is not the only one of its site, is sent a message that QUIC has to acknowledge, and repeats until it is. It counts as gone after [`GONE`] looks in
//! which nothing came, if another one of its site was heard meanwhile: where none is, the line is down, here or there, and
//! there is nothing to move to anyway. Then QUIC's own patience ends the session. Looks are counted and not the time, so that a
//! coordinator that was stopped for a while blames nobody. Only what the connection's keys have opened counts as heard.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use anyhow::{Result, bail};
use postern_model::{DeviceId, Moment, SiteId, record::Owner};
use postern_wire::CoordinatorMessage;
use quinn::Connection;
use tokio::{sync::mpsc, time::MissedTickBehavior};

use super::{Nodes, connection::DeviceConnection};
use crate::clock;

/// How often is looked.
const LOOK: Duration = Duration::from_millis(250);
/// After so many looks in which nothing came, something is sent.
const QUIET: u32 = 3;
/// After so many, the gateway is gone: 2.5 seconds.
const GONE: u32 = 10;

/// What is to be done after a look.
#[derive(Debug, PartialEq, Eq)]
enum Next {
    /// It was heard.
    Heard,
    Nothing,
    Ask,
    GiveUp,
}

/// What was heard of one gateway.
#[derive(Debug, Default)]
struct Liveness {
    heard: u64,
    /// Looks since then.
    looks: u32,
    /// At which of them it was asked.
    asked: Option<u32>,
}

impl Liveness {
    /// `heard` counts what has come in all. Without another gateway at its site it is not asked, and so not given up.
    fn look(&mut self, heard: u64, has_other: bool) -> Next {
        if std::mem::replace(&mut self.heard, heard) != heard {
            (self.looks, self.asked) = (0, None);
            return Next::Heard;
        }
        self.looks = self.looks.saturating_add(1);
        match self.asked {
            None if self.looks >= QUIET && has_other => {
                self.asked = Some(self.looks);
                Next::Ask
            }
            Some(asked) if self.looks - asked >= GONE - QUIET => Next::GiveUp,
            _ => Next::Nothing,
        }
    }
}

/// When each gateway that is connected was last heard.
#[derive(Debug, Default)]
pub(super) struct Heard(Mutex<HashMap<SiteId, HashMap<DeviceId, Moment>>>);

impl Heard {
    fn note(&self, site: SiteId, gateway: DeviceId, at: Moment) {
        self.lock().entry(site).or_default().insert(gateway, at);
    }

    /// Whether another gateway of the site is there.
    fn has_other(&self, site: SiteId, gateway: DeviceId) -> bool {
        self.lock().get(&site).is_some_and(|all| all.keys().any(|other| *other != gateway))
    }

    /// Whether another gateway of the site was heard later than then. What was seen in a look may have come a look before.
    fn is_other_heard_after(&self, site: SiteId, gateway: DeviceId, asked: Moment) -> bool {
        let all = self.lock();
        let mut others = all.get(&site).into_iter().flatten().filter(|(other, _)| **other != gateway);
        others.any(|(_, at)| *at >= asked + 2 * LOOK)
    }

    fn forget(&self, site: SiteId, gateway: DeviceId) {
        let mut all = self.lock();
        if let Some(gateways) = all.get_mut(&site) {
            gateways.remove(&gateway);
            if gateways.is_empty() {
                all.remove(&site);
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<SiteId, HashMap<DeviceId, Moment>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Forgets a gateway whose session ends, however it does.
struct Watched<'a>(&'a Heard, SiteId, DeviceId);

impl Drop for Watched<'_> {
    fn drop(&mut self) {
        self.0.forget(self.1, self.2);
    }
}

/// How many frames have come that show that the node is there. Its keep-alives and acknowledgements are among them.
fn heard(connection: &Connection) -> u64 {
    let frames = connection.stats().frame_rx;
    frames.acks + frames.ping + frames.stream
}

impl Nodes {
    /// Ends with a reason when a gateway has fallen silent; never for other devices.
    pub(super) async fn watch(
        &self,
        device: &DeviceConnection,
        replies: mpsc::Sender<CoordinatorMessage>,
    ) -> Result<()> {
        let DeviceConnection { number, connection, identity, .. } = device;
        let id = identity.device;
        let site = |core: &postern_core::Core| match core.state().devices.get(&id)?.owner {
            Owner::Site(site) => Some(site),
            Owner::User(_) => None,
        };
        let Some(site) = self.coordinator.read(site).await else { return std::future::pending().await };
        let _watched = Watched(&self.heard, site, id);
        let (mut liveness, mut asked) = (Liveness::default(), clock::moment());
        let mut looks = tokio::time::interval(LOOK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            looks.tick().await;
            match liveness.look(heard(connection), self.heard.has_other(site, id)) {
                Next::Heard => self.heard.note(site, id, clock::moment()),
                Next::Ask => {
                    asked = clock::moment();
                    // Where there is no room for it, something waits to be acknowledged already.
                    let _ = replies.try_send(CoordinatorMessage::StillThere {});
                }
                Next::GiveUp if self.heard.is_other_heard_after(site, id, asked) => {
                    // Missed since it was last heard of, and not only since now.
                    self.coordinator.fell_silent(id, *number, LOOK * GONE).await;
                    tracing::warn!(device = %id, "a gateway has fallen silent");
                    bail!("nothing is heard of gateway {id} any more");
                }
                Next::Nothing | Next::GiveUp => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quiet_gateway_is_asked_once_and_then_given_up() {
        let mut liveness = Liveness::default();
        assert_eq!(liveness.look(7, true), Next::Heard);
        let looks: Vec<_> = (1..=GONE + 1).map(|_| liveness.look(7, true)).collect();
        let asked = looks.iter().filter(|next| **next == Next::Ask).count();
        let given_up = looks.iter().position(|next| *next == Next::GiveUp);
        assert_eq!((asked, given_up), (1, Some(GONE as usize - 1)));
        assert_eq!(liveness.look(7, true), Next::GiveUp, "and it stays so");
        assert_eq!(liveness.look(8, true), Next::Heard, "until it is heard");
        assert!(LOOK * GONE >= Duration::from_millis(2500));
    }

    #[test]
    fn the_only_gateway_of_a_site_is_left_alone_and_one_that_was_has_its_time() {
        let mut liveness = Liveness::default();
        liveness.look(7, false);
        assert!((0..3 * GONE).all(|_| liveness.look(7, false) == Next::Nothing));
        assert_eq!(liveness.look(7, true), Next::Ask);
        let waits = (0..).take_while(|_| liveness.look(7, true) == Next::Nothing).count();
        assert_eq!(waits, (GONE - QUIET) as usize - 1, "it could not answer before it was asked");
    }

    #[test]
    fn whoever_answers_is_there() {
        let mut liveness = Liveness::default();
        let (mut heard, mut asked) = (0, 0);
        for _ in 0..1000 {
            match liveness.look(heard, true) {
                Next::Nothing | Next::Heard => {}
                Next::Ask => {
                    asked += 1;
                    heard += 1;
                }
                Next::GiveUp => panic!("it answers"),
            }
        }
        assert!(asked > 200, "{asked}");
    }

    #[test]
    fn whoever_speaks_is_not_asked() {
        let mut liveness = Liveness::default();
        assert!((0..1000_u64).all(|look| liveness.look(1 + look / 2, true) != Next::Ask));
    }

    /// Where nobody is heard any more, nobody is to blame.
    #[test]
    fn only_what_was_heard_of_another_one_of_the_site_after_it_was_asked_proves_anything() {
        let at = |millis| Moment::from_boot(Duration::from_millis(millis));
        let [site, elsewhere] = [1, 2].map(|byte| SiteId::from_bytes([byte; 16]));
        let [silent, other] = [1, 2].map(|byte| DeviceId::from_bytes([byte; 16]));
        let heard = Heard::default();
        let asked = at(10_000);
        assert!(!heard.has_other(site, silent));
        let is_proven = || heard.is_other_heard_after(site, silent, asked);
        assert!(!is_proven());
        heard.note(site, silent, at(20_000));
        heard.note(elsewhere, other, at(20_000));
        heard.note(site, other, at(10_499));
        assert!(!is_proven(), "that may have come before the line went down");
        heard.note(site, other, at(10_500));
        assert!(is_proven() && heard.has_other(site, silent));
        heard.forget(site, other);
        assert!(!is_proven(), "it is not there any more");
    }
}
