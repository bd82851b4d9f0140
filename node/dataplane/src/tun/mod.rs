//! The TUN device and its packets: [`device`](Tun) makes it and reads and writes; `vnet` is the header of each packet.

mod device;
pub(crate) mod vnet;

pub use device::Tun;
pub(crate) use device::{Queue, is_gone};
