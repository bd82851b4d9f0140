//! What gateways tell of flows: recorded beside the session's other messages, which never wait for it.

use anyhow::{Result, bail};
use postern_model::activity::{FlowEntry, SpoolId};
use postern_wire::CoordinatorMessage;
use tokio::sync::mpsc;

use super::{Nodes, connection::DeviceConnection};
use crate::{activity::claims, clock, coordinator::Stale};

/// Messages of one gateway that are not yet answered. It has one under way at a time; whoever sends more than this does not
/// listen, and is told to come back.
const UNANSWERED: usize = 4;

/// Entries of one spool.
pub(super) struct Told {
    pub(super) spool: SpoolId,
    pub(super) entries: Vec<FlowEntry>,
}

/// What a session's reader hands to [`Nodes::record`].
pub(super) struct Tellings(mpsc::Sender<Told>);

impl Tellings {
    pub(super) fn new() -> (Self, mpsc::Receiver<Told>) {
        let (sender, receiver) = mpsc::channel(UNANSWERED);
        (Self(sender), receiver)
    }

    /// Hands it over without waiting.
    ///
    /// # Errors
    /// When too much is unanswered.
    pub(super) fn hand_over(&self, told: Told) -> Result<()> {
        match self.0.try_send(told) {
            Ok(()) => Ok(()),
            Err(_) => bail!("the gateway sends activity without waiting for the answers"),
        }
    }
}

impl Nodes {
    /// Records what a gateway tells, one message after the other, and answers each once it is on the disk. Ends only with a
    /// reason.
    pub(super) async fn record(
        &self,
        device: &DeviceConnection,
        mut told: mpsc::Receiver<Told>,
        replies: mpsc::Sender<CoordinatorMessage>,
    ) -> Result<()> {
        let id = device.identity.device;
        while let Some(Told { spool, entries }) = told.recv().await {
            while let Err(wait) = self.limit(|limits, now| limits.take_activity(id, now)) {
                tokio::time::sleep(wait).await;
            }
            match self.coordinator.check(device.caller()).await {
                Ok(()) => {}
                // A newer connection tells it again.
                Err(Stale::Superseded) => continue,
                Err(stale) => bail!(stale),
            }
            let claimed =
                self.coordinator.read(|core| claims::of(core.state(), id, spool, entries, clock::now())).await;
            let Some(flows) = claimed else {
                tracing::debug!(device = %id, "a device that is no gateway told of flows; that is not recorded");
                continue;
            };
            let up_to = self.coordinator.activity.record(flows).await?;
            replies.send(CoordinatorMessage::ActivityRecorded { spool, up_to }).await?;
        }
        // The session's reader has ended, and says why.
        std::future::pending().await
    }
}
