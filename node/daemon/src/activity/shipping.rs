//! From the spool to the coordinator: one batch at a time, in order. What was sent and not heard to be recorded is sent
//! again in the next session, so that everything arrives at least once; the coordinator knows entries by their numbers.

use std::io;

use postern_model::activity::SpoolId;
use postern_wire::NodeMessage;

use super::spool::Spool;

/// A spool, and what is on its way from it.
#[derive(Debug)]
pub(super) struct Shipping {
    pub(super) spool: Spool,
    is_connected: bool,
    /// Whether the coordinator is still to record a batch.
    is_in_flight: bool,
}

impl Shipping {
    pub(super) fn new(spool: Spool) -> Self {
        Self { spool, is_connected: false, is_in_flight: false }
    }

    /// A session begins, or there is none any more.
    pub(super) fn set_connected(&mut self, is_connected: bool) {
        (self.is_connected, self.is_in_flight) = (is_connected, false);
    }

    /// The coordinator has entries on its disk.
    ///
    /// # Errors
    /// When the spool can't begin another file; nothing is lost.
    pub(super) fn handle_recorded(&mut self, spool: SpoolId, up_to: u64) -> io::Result<()> {
        if spool != self.spool.id() {
            return Ok(());
        }
        let before = self.spool.recorded();
        let rolled = self.spool.record(up_to);
        // Without progress, sending the same again would go on forever.
        if self.spool.recorded() > before {
            self.is_in_flight = false;
        }
        rolled
    }

    /// What to send now, if anything.
    ///
    /// # Errors
    /// When the spool can't be read.
    pub(super) fn poll_message(&mut self) -> io::Result<Option<NodeMessage>> {
        if !self.is_connected || self.is_in_flight {
            return Ok(None);
        }
        let entries = self.spool.batch()?;
        self.is_in_flight = !entries.is_empty();
        let spool = self.spool.id();
        Ok(self.is_in_flight.then_some(NodeMessage::Activity { spool, entries }))
    }
}
