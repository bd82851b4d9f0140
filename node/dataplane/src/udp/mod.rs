//! WireGuard's datagrams: [`sockets`](Sockets), `inbox`: batches as they are read, `batch`: batches as they are written.

pub(crate) mod batch;
pub(crate) mod inbox;
mod sockets;

pub use sockets::Sockets;
pub(crate) use sockets::{Pair, Sent, Unsent};
