//! `postern-coordinator`: the shell around the core and the store. The only crate of the coordinator that does things:
//! sockets, TLS, files, threads, the clock.
//!
//! - [`coordinator`]: [`Coordinator`](coordinator::Coordinator), the handle that everything else speaks to; `outbox`:
//!   what is on its way to nodes
//! - [`serve`]: starts all of it and ends it in order; `listeners`: the admin API's two doors
//! - `nodes`: QUIC connections of nodes, enrolment and sessions
//! - `activity`: decisions and flows, written down, streamed and handed on
//! - `relay`: a relay on its own; `passes`: what relays take
//! - `state_dir`, `certificates`: keys and what is signed with them
//! - [`api`]: the admin HTTP API; [`cli`]: the command line, its client

pub mod api;
pub mod cli;
pub mod clock;
pub mod coordinator;
pub mod serve;

mod activity;
mod certificates;
mod listeners;
mod nodes;
mod outbox;
mod passes;
mod relay;
mod state_dir;
