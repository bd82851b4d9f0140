//! What may come from outside, against what must hold whatever it is.
//!
//! Each module is one fuzz target: `check` takes the fuzzer's bytes, reads them as its header says, and asserts properties:
//! not only that nothing panics, but that what comes out is right. A panic is a finding.
//!
//! | target | what it takes | what holds |
//! | --- | --- | --- |
//! | [`split`] | a super-packet | whole packets with right checksums, and all of the payload |
//! | [`coalesce`] | a batch of packets | each flow comes out of cutting as it went in |
//! | [`parse`] | a packet, also an ICMP error | everything lies within it; answers are well formed, short, and never answered |
//! | [`rewrite`] | a packet, or an error about one | it has its new endpoints, its old payload, and checksums that stay right |
//! | [`wireguard`] | datagrams, genuine, altered and made up | only what was sealed is opened, and once; nothing grows |
//! | [`dns`] | a query | answers are answers to it, and short; names of the zone never leave |
//! | [`control`] | the bytes of a stream | the same however they arrive; what was read is written and read the same |
//! | [`stun`] | a datagram, and from where it comes | only requests are answered, shortly, and by that; QUIC and WireGuard are not taken for it |
//! | [`token`] | texts that people paste | what is taken reads back the same; errors don't repeat secrets |
//!
//! `make fuzz` runs them for long, `make test` for some seconds each. `seeds/` is where they begin, and is made by
//! `cargo run --example seeds`; what the fuzzer finds beside is kept in `corpus/`, which is not committed. A finding lies in
//! `artifacts/`: `cargo fuzz run -s none TARGET artifacts/TARGET/crash-…` replays it; its bytes then go into `seeds/`.

pub mod coalesce;
pub mod control;
pub mod dns;
pub mod parse;
pub mod rewrite;
pub mod split;
pub mod stun;
pub mod token;
pub mod wireguard;

mod packets;
mod setting;
