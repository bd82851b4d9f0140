//! The coordinator's client: enrolment once, then a session for as long as the node is up.
//!
//! - [`enrol`]: a join token becomes an identity
//! - [`session`]: connects, and connects again; messages and access requests
//! - `connect`: by UDP, or over TCP where UDP does not get through; `attend`: whether it is time to change
//! - `tls`: the pinned key; `stream`: frames
//!
//! Relays are reached in the same ways, so that [`reach`](crate::reach) shares the last four.

pub mod enrol;
pub mod session;

pub(crate) mod attend;
pub(crate) mod connect;
pub(crate) mod stream;
pub(crate) mod tls;

pub use connect::Transport;
use quinn::ConnectionError;

/// The code with which the coordinator closed the connection, if that is what went wrong.
fn close_code(error: &anyhow::Error) -> Option<u32> {
    let closed = |error: &ConnectionError| match error {
        ConnectionError::ApplicationClosed(closed) => u32::try_from(closed.error_code.into_inner()).ok(),
        _ => None,
    };
    error.chain().find_map(|cause| {
        let read = cause.downcast_ref().and_then(|error| match error {
            quinn::ReadError::ConnectionLost(error) => Some(error),
            _ => None,
        });
        let written = cause.downcast_ref().and_then(|error| match error {
            quinn::WriteError::ConnectionLost(error) => Some(error),
            _ => None,
        });
        cause.downcast_ref::<ConnectionError>().or(read).or(written).and_then(closed)
    })
}
