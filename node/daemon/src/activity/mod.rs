//! Access activity, on a gateway: what its lane tells of clients' flows is written down, and told to the coordinator until
//! that has it on its disk.
//!
//! ```text
//!   lane ─ news ─► entries ─► Spool (files in the state directory) ─► Shipping ─► session
//!                                ▲                                       ▲
//!                                └──────────── recorded up to ───────────┘ coordinator
//! ```
//!
//! - [`Recorder`]: the thread that does all of this, away from packets and from the node's task
//! - `entries`: news as entries, with the time of the wall clock
//! - `spool`: entries on the disk, bounded, in `segment`s: files of which each is written once, from front to end
//! - `shipping`: one batch at a time, in order, again after each reconnect: at least once
//!
//! A node that is no gateway has no recorder, and writes nothing.

mod entries;
mod recorder;
mod segment;
mod shipping;
mod spool;
#[cfg(test)]
mod tests;

pub use recorder::{ActivityCounts, Recorder, Send};

/// Inside the state directory.
pub const DIR: &str = "activity";
/// How much the spool may take of the disk, in bytes.
pub const SPOOL_BYTES: u64 = 64 << 20;
