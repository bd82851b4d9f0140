//! The real engines of clients and gateways, and the real coordinator's core, against each other in simulated time; and an
//! oracle that judges every packet that comes out.
//!
//! ```text
//!  app ─► TUN ┌────────┐  datagrams  ┌─────────┐ datagrams  ┌─────────┐ TUN ─► target
//!   ▲         │ client ├────────────►│ network ├───────────►│ gateway │          │
//!   └─ judged └───┬────┘             └─────────┘            └────┬────┘ ◄────────┘
//!        oracle   │ session            loss, duplication,        │ session     judged: oracle
//!                 └───────────► coordinator (core) ◄─────────────┘
//! ```
//!
//! Everything follows from a list of [`Step`]s and a seed, so that a failure repeats and shrinks. Only two things stand
//! outside: ephemeral keys, which decide nothing, and the timestamps of handshakes, which only have to rise.
//!
//! - [`scenario`]: steps, and strategies that make them
//! - [`World`]: clock and event queue; `shell`: what a node's shell does with its engine and its lane; `sessions`: the
//!   control connections; `apps`: applications and targets; `steps`: carrying out a step;
//!   `results`: what came of it
//! - [`setting`]: who and what there is; `node`, `rogue`, `coordinator`, `network`: the parts
//! - [`oracle`]: what may pass, by the messages that were delivered and nothing else; `permits`: grants as it knows them
//! - `packets`, `tcp`, `random`: packets made and read, counting ends of connections, repeatable randomness
//!
//! The simulation itself has no clock, no thread and no socket. It panics only where it is broken itself.

pub mod oracle;
pub mod scenario;
pub mod setting;

mod apps;
mod coordinator;
mod network;
mod node;
mod packets;
mod permits;
mod random;
mod results;
mod rogue;
mod sessions;
mod shell;
mod steps;
mod tcp;
mod world;

pub use network::Quality;
pub use oracle::{Invariant, Violation};
pub use scenario::Step;
pub use world::{Conditions, World};
