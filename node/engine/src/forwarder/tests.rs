//! Forwarders against each other, through an in-memory network and in simulated time.
//!
//! - `world`: the network and its tables; `packets`: packets made, and what is seen of them
//! - `passing`: what must pass; `refusals`: what must not, each with its reason; `revocation`: what ends
//! - `activity`: what is told of flows; `paths`: packets that are too long for the path to a peer
//! - `sessions`: restarts on either side, and silence
//! - `roads`: several ways between two nodes; `choosing`: which of them is taken

mod activity;
mod choosing;
mod packets;
mod passing;
mod paths;
mod refusals;
mod revocation;
mod roads;
mod sessions;
mod world;
