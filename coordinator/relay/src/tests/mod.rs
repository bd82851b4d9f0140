//! The state by itself, and a relay between real QUIC clients.

mod client;
mod relayed;
mod state;
mod throughput;
