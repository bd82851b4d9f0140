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
//! - [`nat`]: routers that translate addresses, of each kind; firewalls
//! - [`nat64`]: a network without IPv4, and the router that leads out of it
//! - [`proxy`]: an HTTP proxy for networks that let out nothing else
//! - [`shaper`]: lines with latency, loss, reordering and a rate
//! - [`office`]: the standard scene: a coordinator, a site with a gateway and private servers, a laptop
//! - [`nat_office`]: the same scene with a router of some kind in front of the laptop, and one in front of the gateway
//! - [`live`]: a download and an ssh session that have to live through what a test does to the network
//! - [`random`]: numbers that a seed repeats
//! - [`wait`]: waiting for a condition instead of sleeping

mod device;
pub mod live;
pub mod nat;
pub mod nat64;
pub mod nat_office;
pub mod office;
pub mod postern;
pub mod process;
pub mod proxy;
pub mod random;
pub mod resolved;
pub mod servers;
pub mod shaper;
pub mod topology;
pub mod wait;

pub use live::LiveTraffic;
pub use nat::{NatKind, Router};
pub use nat_office::NatOffice;
pub use nat64::Nat64;
pub use office::Office;
pub use postern::{Coordinator, Node};
pub use process::{Background, Output};
pub use proxy::Proxy;
pub use shaper::{Shape, ShapedLink};
pub use topology::{Host, Lab, Segment};
pub use wait::eventually;
