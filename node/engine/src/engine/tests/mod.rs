//! The control half, driven step by step in simulated time.
//!
//! - `node`: an engine and all that came out of it, as lines to compare; `setting`: resources, grants and welcomes
//! - `welcome`: the snapshot and the catalogue; `requests`: asking, and what waits; `bounds`: how much waits
//! - `leases`: grants held; `renewal`: asking again; `gateway`: grants carried; `targets`: host names; `dns`: answers; `relays`: peers behind them
//! - `properties`: what holds whatever happens

mod bounds;
mod dns;
mod gateway;
mod leases;
mod node;
mod properties;
mod relays;
mod renewal;
mod requests;
mod setting;
mod targets;
mod welcome;
