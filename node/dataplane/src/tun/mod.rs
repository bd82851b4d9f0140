//! The TUN device and its packets: [`device`](Tun) makes it and reads and writes; `vnet` is the header of each packet.

mod device;
pub(crate) mod vnet;

pub(crate) use device::Queue;
pub use device::Tun;
