//! Tunnels against each other and against boringtun's `Tunn`, an implementation that others have written and reviewed: the
//! oracle that tells whether the handshake and the transport of this crate are WireGuard's.
//!
//! - [`ends`]: a tunnel or a `Tunn`, driven alike
//! - [`oracle`]: handshakes, data, keys that don't fit, and cookies, in both roles
//! - [`schedules`]: messages lost, late, out of order and twice, at random

#![allow(clippy::unwrap_used, reason = "what fails here fails the test")]

mod ends;
mod oracle;
mod schedules;
