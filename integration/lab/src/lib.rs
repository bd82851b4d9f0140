//! A laboratory for the whole product: real binaries, real clients, in network namespaces of its own.
//!
//! A [`Lab`] makes namespaces ([`Host`]s) joined by bridges ([`Segment`]s), all of which belong to this process and are
//! removed when it is dropped; what a killed run left behind, the next run sweeps away. Nothing is ever sent outside
//! the namespaces, so several labs can run side by side.
//!
//! - [`topology`]: hosts, segments, cleaning up
//! - [`process`]: commands and background processes in a host
//! - [`postern`]: the coordinator and nodes, driven as their users drive them
//! - [`servers`]: nginx, PostgreSQL, sshd, dnsmasq, tinyproxy, iperf3
//! - [`resolved`]: a machine where systemd-resolved is in charge of names
//! - [`office`]: the standard scene: a coordinator, a site with a gateway and private servers, a laptop
//! - [`wait`]: waiting for a condition instead of sleeping

pub mod office;
pub mod postern;
pub mod process;
pub mod resolved;
pub mod servers;
pub mod topology;
pub mod wait;

pub use office::Office;
pub use postern::{Coordinator, Node};
pub use process::{Background, Output};
pub use topology::{Host, Lab, Segment};
pub use wait::eventually;
