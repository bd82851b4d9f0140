//! A relay: forwards sealed packets between nodes that can't reach each other, and knows nothing but whom it may.
//!
//! It keeps no database and no key of nodes. What it goes by are passes, which the coordinator signed and nodes show
//! ([`postern_wire::relay`]); it forwards between two nodes once each has shown one for the other. It runs inside the
//! coordinator and on its own; either way a QUIC connection is handed in once its client has shown a device key.
//!
//! - [`state`]: who is there and who may exchange packets with whom; no I/O, the time is an argument
//! - [`trust`]: whose passes count; [`meter`]: how fast anyone may be
//! - [`serve`]: connections, the one stream of each, and datagrams from one to the other
//! - [`endpoint`]: QUIC as a relay needs it: certificates, buffers, congestion
//! - [`stats`]: what it has come to

pub mod endpoint;
pub mod meter;
pub mod serve;
pub mod state;
pub mod stats;
pub mod trust;

mod clock;
#[cfg(test)]
mod tests;

pub use endpoint::Window;
pub use serve::{Relay, RelaySettings};
pub use stats::{Counts, Drops};
pub use trust::Trust;
