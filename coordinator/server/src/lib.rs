//! `postern-coordinator`: the shell around the core and the store. The only crate of the coordinator that does things:
//! sockets, TLS, files, threads, the clock.
//!
//! - [`coordinator`]: [`Coordinator`](coordinator::Coordinator), the handle that everything else speaks to
//! - [`serve`]: starts all of it and ends it in order
//! - [`api`]: the admin HTTP API; [`cli`]: the command line, its client
//! - [`pin`]: TLS for clients of a coordinator, which trust one key and no authority

pub mod api;
pub mod cli;
pub mod clock;
pub mod coordinator;
pub mod pin;
pub mod serve;
