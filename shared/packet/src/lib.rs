//! IP packets as bytes: one parse into a five-tuple, rewriting and translating with right checksums, and answers.
//!
//! Everything works on slices and trusts nothing in them. A fragment has no ports and is an error of its own; a protocol that
//! is not understood is [`Transport::Other`] and never has ports, also behind IPv6 extension headers. Imports nothing of ours.
//!
//! - [`parse`](fn@parse): bytes → [`Parsed`]; [`Parsed::tcp`], [`Parsed::quoted`] look further
//! - [`PacketBuf`]: a packet with room for a longer header
//! - [`rewrite`](fn@rewrite): other addresses and ports, also of the other IP family (RFC 7915)
//! - [`Split`]: a super-packet → the packets that it stands for
//! - [`Coalescer`]: packets → super-packets, wherever they lie in a buffer
//! - [`answer`]: resets, "administratively prohibited", "too big"
//! - [`ecn`]: congestion notification across a tunnel (RFC 6040)
//! - [`checksum`]: RFC 1071 and RFC 1624

pub mod answer;
pub mod checksum;
mod coalesce;
pub mod ecn;
mod icmp;
mod offload;
mod parse;
mod rewrite;
mod room;
#[cfg(test)]
mod sample;
mod split;
mod tcp;
mod transport;

pub use coalesce::{Coalescer, MAX_JOINED, Run};
pub use ecn::Ecn;
pub use offload::{Offload, set_partial_checksum};
pub use parse::{ParseError, Parsed, Quoted, parse};
pub use rewrite::{Endpoints, RewriteError, rewrite, rewrite_error};
pub use room::{HEADROOM, PacketBuf};
pub use split::{Split, SplitError};
pub use tcp::{TcpFlags, TcpSegment, clamp_mss};
pub use transport::Transport;
