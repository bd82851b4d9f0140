//! `postern`: the node on a laptop or server, as a daemon and a command line.
//!
//! - [`cli`]: the command line; [`local`]: how it speaks to the daemon
//! - [`daemon`]: the process; [`node`]: what runs in it while the node is up
//! - [`activity`]: what a gateway records of the flows that it carries
//! - [`control`]: the coordinator's client
//! - [`reach`]: how this node is reached: addresses seen from outside, relays, port mappings
//! - [`netcheck`] and [`doctor`]: what the network lets through, and what is wrong
//! - [`os`]: routes, firewall, resolver, addresses; [`dns`]: the stub resolver; [`uapi`]: for `wg show`
//! - `state_dir`: what is kept; `ping`: reaching a resource; [`clock`]: the wall clock; `log_limit`: what repeats is not logged
//!   without end

pub mod activity;
pub mod cli;
pub mod clock;
pub mod control;
pub mod daemon;
pub mod dns;
pub mod doctor;
pub mod local;
pub mod netcheck;
pub mod node;
pub mod os;
pub mod reach;
pub mod state_dir;
pub mod uapi;

mod log_limit;
mod ping;
