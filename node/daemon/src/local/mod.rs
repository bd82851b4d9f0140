//! The local API: the command line speaks to the daemon in lines of JSON over a socket in the state directory.
//!
//! Whoever may open the socket (mode 0600) may do everything; the operating system decides.

pub mod client;
pub mod protocol;
pub mod server;
