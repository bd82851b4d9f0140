//! What a packet carries, and the numbers by which IP says so.

pub(crate) const TCP: u8 = 6;
pub(crate) const UDP: u8 = 17;
pub(crate) const ICMP: u8 = 1;
pub(crate) const ICMPV6: u8 = 58;

/// What a packet carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Transport {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// An ICMP or ICMPv6 echo request. Its identifier is in both ports.
    EchoRequest,
    /// An echo reply. Its identifier is in both ports.
    EchoReply,
    /// An ICMP or ICMPv6 error about another packet: see [`Parsed::quoted`].
    IcmpError,
    /// Anything else, by protocol number; without ports.
    Other(u8),
}
