//! What the shell is to do, in order, after something was applied or handled.

use postern_model::DeviceId;
use postern_wire::{AccessReply, CoordinatorMessage};

use crate::AccessTicket;

/// One thing to do.
#[derive(Debug)]
pub enum Effect {
    /// Send this in the device's session; drop it if there is none.
    Send(DeviceId, CoordinatorMessage),
    /// Answer this access request.
    Answer(AccessTicket, AccessReply),
    /// Close the device's connection with this code of [`postern_wire::close`], after what was sent before.
    Close(DeviceId, u32),
    /// The proposal of an access request, a change or a lease's end is due: call `propose_timeout` right away.
    Due,
}
