//! What the shell is to do, in order, after something was applied or handled.

use postern_model::DeviceId;
use postern_wire::{AccessReply, CoordinatorMessage};

use crate::AccessTicket;

/// One thing to do. Messages and closes name the connection that they are for, since a device's newer connection may have
/// taken the place of an older one; the shell drops what is for a connection that is gone.
#[derive(Debug)]
pub enum Effect {
    /// Send this in the session.
    Send {
        /// Whose.
        device: DeviceId,
        /// On which connection.
        connection: u64,
        /// What.
        message: CoordinatorMessage,
    },
    /// Answer this access request.
    Answer(AccessTicket, AccessReply),
    /// Close the connection with this code of [`postern_wire::close`], after what was sent before.
    Close {
        /// Whose.
        device: DeviceId,
        /// Which.
        connection: u64,
        /// Why.
        code: u32,
    },
}
