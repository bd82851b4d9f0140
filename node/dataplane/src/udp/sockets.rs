//! The UDP sockets that WireGuard's datagrams come and go through: for each lane one for IPv4 and one for IPv6, all on the
//! same port. The kernel gives all datagrams of one peer to the same lane (SO_REUSEPORT), so that they stay in order.
#![allow(unsafe_code)]

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    num::NonZeroUsize,
    os::fd::AsRawFd as _,
    sync::Once,
};

use postern_packet::Ecn;
use quinn_udp::{EcnCodepoint, Transmit, UdpSockRef, UdpSocketState};
use rustix::{
    io::Errno,
    net::{
        AddressFamily, SocketFlags, SocketType, bind,
        ipproto::UDP,
        socket_with,
        sockopt::{
            Ipv4PathMtuDiscovery, Ipv6PathMtuDiscovery, set_ip_mtu_discover, set_ipv6_mtu_discover, set_ipv6_v6only,
            set_socket_recv_buffer_size, set_socket_recv_buffer_size_force, set_socket_reuseport,
            set_socket_send_buffer_size, set_socket_send_buffer_size_force,
        },
    },
};

use crate::Offloads;

/// What the kernel may keep in each direction: 50 ms at 1 Gbit/s, so that a burst survives the lane being busy.
const BUFFER: usize = 7 << 20;
/// A datagram of this length fits any path: what IPv6 carries at least (RFC 8200 section 5), less headers.
const SURELY_FITS: usize = 1280 - 48;
/// How often a free pair of ports is looked for.
const PORT_TRIES: usize = 32;

/// The sockets of all lanes.
#[derive(Debug)]
pub struct Sockets {
    pairs: Vec<Pair>,
    port: u16,
}

/// One IPv4 and one IPv6 socket on the same port; IPv4 alone where there is no IPv6.
#[derive(Debug)]
pub(crate) struct Pair {
    pub(crate) v4: Socket,
    pub(crate) v6: Option<Socket>,
}

/// How a socket is to be.
#[derive(Debug, Clone, Copy)]
struct Kind {
    /// Others have its port too.
    is_shared: bool,
    offloads: Offloads,
}

impl Sockets {
    /// Binds a pair for each lane to every address of the calling thread's network namespace. 0 is any port that is free
    /// for both.
    ///
    /// # Errors
    /// When the port is taken.
    pub fn bind(port: u16, lanes: NonZeroUsize, offloads: Offloads) -> io::Result<Self> {
        let mut tries = 0;
        // Alone first: a port that is shared can be shared with another program.
        let alone = Kind { is_shared: false, offloads };
        let pair = loop {
            let v4 =
                Socket::bind((Ipv4Addr::UNSPECIFIED, port).into(), alone).map_err(|error| explain(&error, port))?;
            let chosen = v4.socket.local_addr()?.port();
            match Socket::bind((Ipv6Addr::UNSPECIFIED, chosen).into(), alone) {
                Ok(v6) => break Pair { v4, v6: Some(v6) },
                Err(error) if is_without_ipv6(&error) => break Pair { v4, v6: None },
                // Someone has the port for IPv6 only.
                Err(error) if error.kind() == io::ErrorKind::AddrInUse && port == 0 && tries < PORT_TRIES => tries += 1,
                Err(error) => return Err(explain(&error, chosen)),
            }
        };
        let port = pair.v4.socket.local_addr()?.port();
        if lanes.get() == 1 {
            return Ok(Self { pairs: vec![pair], port });
        }
        let has_v6 = pair.v6.is_some();
        drop(pair);
        let shared = Kind { is_shared: true, offloads };
        let pair = |_| {
            let v4 = Socket::bind((Ipv4Addr::UNSPECIFIED, port).into(), shared)?;
            let v6 = has_v6.then(|| Socket::bind((Ipv6Addr::UNSPECIFIED, port).into(), shared)).transpose()?;
            Ok(Pair { v4, v6 })
        };
        let pairs: io::Result<_> = (0..lanes.get()).map(pair).collect();
        Ok(Self { pairs: pairs.map_err(|error| explain(&error, port))?, port })
    }

    /// The port of all.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// One for each lane.
    pub(crate) fn into_pairs(self) -> Vec<Pair> {
        self.pairs
    }
}

impl Pair {
    /// The socket for an address of this family.
    pub(crate) fn of(&mut self, addr: &SocketAddr) -> Option<&mut Socket> {
        match addr {
            SocketAddr::V4(_) => Some(&mut self.v4),
            SocketAddr::V6(_) => self.v6.as_mut(),
        }
    }
}

fn is_without_ipv6(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL | libc::EPROTONOSUPPORT))
}

fn explain(error: &io::Error, port: u16) -> io::Error {
    let hint = match error.kind() {
        io::ErrorKind::AddrInUse => "; another program has it: choose another port, or 0 for any",
        _ => "",
    };
    io::Error::new(error.kind(), format!("bind UDP port {port}: {error}{hint}"))
}

/// What became of datagrams that were to be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sent {
    /// They are on their way, but for these.
    Done(Unsent),
    /// Not from this source address: it may no longer be this machine's. Nothing was sent.
    SourceGone,
}

/// Datagrams that were not sent, by why not.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Unsent {
    /// The socket was full.
    pub(crate) full: usize,
    /// There is no way to where they were to go.
    pub(crate) unreachable: usize,
}

impl Unsent {
    fn note(&mut self, error: &io::Error, count: usize) {
        if is_full(error) {
            self.full += count;
        } else {
            self.unreachable += count;
        }
    }
}

/// Datagrams for one place.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shipment<'a> {
    pub(crate) to: SocketAddr,
    /// From which of this machine's addresses, if that matters.
    pub(crate) from: Option<IpAddr>,
    pub(crate) ecn: Ecn,
    /// One after the other, of `segment` bytes each, the last one perhaps shorter.
    pub(crate) bytes: &'a [u8],
    pub(crate) segment: usize,
}

/// One of the sockets.
#[derive(Debug)]
pub(crate) struct Socket {
    pub(crate) socket: UdpSocket,
    pub(crate) state: UdpSocketState,
    offloads: Offloads,
}

impl Socket {
    fn bind(addr: SocketAddr, kind: Kind) -> io::Result<Self> {
        let family = if addr.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(family, SocketType::DGRAM, flags, Some(UDP))?;
        if addr.is_ipv6() {
            set_ipv6_v6only(&socket, true)?;
        }
        set_socket_reuseport(&socket, kind.is_shared)?;
        // More than the system's limit takes CAP_NET_ADMIN; without it, as much as is allowed.
        set_socket_recv_buffer_size_force(&socket, BUFFER).or_else(|_| set_socket_recv_buffer_size(&socket, BUFFER))?;
        set_socket_send_buffer_size_force(&socket, BUFFER).or_else(|_| set_socket_send_buffer_size(&socket, BUFFER))?;
        bind(&socket, &addr)?;
        let socket = UdpSocket::from(socket);
        let state = prepare(&socket, kind.offloads)?;
        Ok(Self { socket, state, offloads: kind.offloads })
    }

    /// How many datagrams the kernel cuts one shipment into, at most.
    pub(crate) fn max_segments(&self) -> usize {
        if self.offloads.send { self.state.max_gso_segments() } else { 1 }
    }

    /// Sends datagrams to one place.
    pub(crate) fn send(&mut self, shipment: Shipment<'_>) -> Sent {
        let count = shipment.bytes.len().div_ceil(shipment.segment.max(1));
        match self.try_send(shipment) {
            Ok(()) => Sent::Done(Unsent::default()),
            Err(error) if is_full(&error) => Sent::Done(Unsent { full: count, ..Unsent::default() }),
            Err(error) => {
                self.restore(&error);
                let (sent, has_passed) = self.send_singly(shipment);
                if count > 1 && has_passed {
                    self.note_refusal(&error, shipment.segment);
                }
                sent
            }
        }
    }

    /// Sends datagrams that did not go as one: a device on the way can't cut them, or the path is narrower than one of them,
    /// and the kernel may still fragment. With whether the first one passed, so that it was the batch that was refused and not
    /// the place.
    fn send_singly(&mut self, shipment: Shipment<'_>) -> (Sent, bool) {
        let (mut unsent, mut has_passed) = (Unsent::default(), true);
        for (nth, bytes) in shipment.bytes.chunks(shipment.segment.max(1)).enumerate() {
            let Err(error) = self.try_send(Shipment { bytes, segment: bytes.len(), ..shipment }) else { continue };
            self.restore(&error);
            if nth == 0 {
                has_passed = false;
                if shipment.from.is_some() && !is_full(&error) {
                    return (Sent::SourceGone, false);
                }
            }
            tracing::trace!(to = %shipment.to, %error, "not sent");
            unsent.note(&error, 1);
        }
        (Sent::Done(unsent), has_passed)
    }

    /// Several datagrams did not go as one, though they go one by one. EIO says that they never will; "invalid argument" says so too, but of those that
    /// are longer than the path: they are short enough for any path if they are as short as IPv6's least.
    fn note_refusal(&mut self, error: &io::Error, segment: usize) {
        let is_for_good = match error.raw_os_error() {
            Some(libc::EIO) => true,
            Some(libc::EINVAL) => segment <= SURELY_FITS,
            _ => false,
        };
        if is_for_good {
            self.offloads.send = false;
            static SAID: Once = Once::new();
            SAID.call_once(|| {
                tracing::info!(%error, "the kernel does not cut batches of datagrams here: they are sent one by one");
            });
        }
    }

    /// Sends one datagram that may not be fragmented, not here and not on its way. Whatever becomes of it: its answer tells.
    pub(crate) fn send_whole(&mut self, shipment: Shipment<'_>) {
        let sent = set_fragments(&self.socket, Fragments::Never).and_then(|()| self.try_send(shipment));
        if let Err(error) = sent {
            self.restore(&error);
            tracing::trace!(to = %shipment.to, %error, "a probe was not sent");
        }
        // What was just allowed to be set can be set again.
        if let Err(error) = set_fragments(&self.socket, Fragments::Allowed) {
            tracing::warn!(%error, "datagrams that are too long for a path may be lost from now on");
        }
    }

    /// After some errors the state takes the kernel for an old one, and does without batches and ECN: after "invalid argument",
    /// as kernels also say of a source address that is gone, and after EIO. What the kernel can't is noted here.
    fn restore(&mut self, error: &io::Error) {
        if matches!(error.raw_os_error(), Some(libc::EINVAL | libc::EIO))
            && let Ok(state) = prepare(&self.socket, self.offloads)
        {
            self.state = state;
        }
    }

    fn try_send(&self, Shipment { to, from, ecn, bytes, segment }: Shipment<'_>) -> io::Result<()> {
        let segment_size = (bytes.len() > segment).then_some(segment);
        let ecn = EcnCodepoint::from_bits(ecn.bits());
        let transmit = Transmit { destination: to, ecn, contents: bytes, segment_size, src_ip: from };
        self.state.try_send(UdpSockRef::from(&self.socket), &transmit)
    }
}

/// `UDP_GRO`, for which there is no safe function.
fn set_gro(socket: &UdpSocket, on: bool) -> io::Result<()> {
    set_option(socket, libc::IPPROTO_UDP, libc::UDP_GRO, on)
}

/// What may be done to a datagram that is longer than its path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fragments {
    Allowed,
    /// Also not because of what the kernel remembers of the path.
    Never,
}

fn set_fragments(socket: &UdpSocket, fragments: Fragments) -> io::Result<()> {
    let is_never = fragments == Fragments::Never;
    if socket.local_addr()?.is_ipv4() {
        let how = if is_never { Ipv4PathMtuDiscovery::PROBE } else { Ipv4PathMtuDiscovery::DONT };
        set_ip_mtu_discover(socket, how)?;
    } else {
        let how = if is_never { Ipv6PathMtuDiscovery::PROBE } else { Ipv6PathMtuDiscovery::DONT };
        set_ipv6_mtu_discover(socket, how)?;
        // RFC 3542 section 11.2; there is no safe function for it.
        set_option(socket, libc::IPPROTO_IPV6, libc::IPV6_DONTFRAG, is_never)?;
    }
    Ok(())
}

fn set_option(socket: &UdpSocket, level: libc::c_int, option: libc::c_int, on: bool) -> io::Result<()> {
    let value = libc::c_int::from(on);
    let len = libc::socklen_t::try_from(size_of_val(&value)).map_err(io::Error::other)?;
    // SAFETY: the option's value is an int, and the pointer and the length are that int's.
    let result = unsafe { libc::setsockopt(socket.as_raw_fd(), level, option, (&raw const value).cast(), len) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Sets what batches need, and takes back that datagrams must not be fragmented: a tunnel over a narrow path is to be
/// slow, not dead.
fn prepare(socket: &UdpSocket, offloads: Offloads) -> io::Result<UdpSocketState> {
    let state = UdpSocketState::new(socket.into())?;
    if !offloads.receive {
        set_gro(socket, false)?;
    }
    set_fragments(socket, Fragments::Allowed)?;
    Ok(state)
}

fn is_full(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::WouldBlock || error.raw_os_error() == Some(Errno::NOBUFS.raw_os_error())
}

#[cfg(test)]
mod tests {
    use rustix::net::sockopt::{ip_mtu_discover, ipv6_mtu_discover};

    use super::*;

    fn one() -> Sockets {
        Sockets::bind(0, NonZeroUsize::MIN, Offloads::ALL).unwrap()
    }

    fn shipment(to: SocketAddr, from: IpAddr, bytes: &[u8]) -> Shipment<'_> {
        Shipment { to, from: Some(from), ecn: Ecn::NotCapable, bytes, segment: 100 }
    }

    #[test]
    fn both_families_have_the_same_port_and_a_taken_port_says_so() {
        let three = NonZeroUsize::new(3).unwrap();
        for sockets in [one(), Sockets::bind(0, three, Offloads::ALL).unwrap()] {
            assert_ne!(sockets.port(), 0);
            for v6 in sockets.pairs.iter().filter_map(|pair| pair.v6.as_ref()) {
                assert_eq!(v6.socket.local_addr().unwrap().port(), sockets.port());
            }
            for lanes in [NonZeroUsize::MIN, three] {
                let error = Sockets::bind(sockets.port(), lanes, Offloads::ALL).unwrap_err();
                assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
                assert!(error.to_string().contains(&sockets.port().to_string()), "{error}");
            }
        }
    }

    #[test]
    fn segments_arrive_as_datagrams_and_the_last_may_be_shorter() {
        for send in [true, false] {
            let receiver = UdpSocket::bind("127.0.0.1:0").unwrap();
            let to = receiver.local_addr().unwrap();
            let offloads = Offloads { send, ..Offloads::ALL };
            let mut pairs = Sockets::bind(0, NonZeroUsize::MIN, offloads).unwrap().into_pairs();
            let v4 = &mut pairs[0].v4;
            assert_eq!(v4.max_segments() > 1, send);
            for bytes in [7; 250].chunks(v4.max_segments() * 100) {
                assert_eq!(v4.send(shipment(to, to.ip(), bytes)), Sent::Done(Unsent::default()));
            }
            let mut buffer = [0; 300];
            for len in [100, 100, 50] {
                assert_eq!(receiver.recv(&mut buffer).unwrap(), len);
            }
        }
    }

    #[test]
    fn a_source_that_is_gone_is_told_and_does_not_cost_segmentation() {
        let receiver = UdpSocket::bind("127.0.0.1:0").unwrap();
        let to = receiver.local_addr().unwrap();
        let v4 = &mut one().into_pairs()[0].v4;
        let segments = v4.max_segments();
        let gone = Ipv4Addr::new(192, 0, 2, 1).into();
        for bytes in [&[7; 200][..], &[7; 50]] {
            assert_eq!(v4.send(shipment(to, gone, bytes)), Sent::SourceGone);
            assert_eq!(v4.max_segments(), segments);
        }
    }

    #[test]
    fn what_was_switched_off_stays_off_after_an_error() {
        let off = Offloads { receive: false, ..Offloads::ALL };
        let v4 = &mut Sockets::bind(0, NonZeroUsize::MIN, off).unwrap().into_pairs()[0].v4;
        let (sender, to) = (UdpSocket::bind("127.0.0.1:0").unwrap(), v4.socket.local_addr().unwrap().port());
        let gone = Ipv4Addr::new(192, 0, 2, 1).into();
        let elsewhere = sender.local_addr().unwrap();
        assert_eq!(v4.send(shipment(elsewhere, gone, &[7; 200])), Sent::SourceGone);
        let other = &mut one().into_pairs()[0].v4;
        let batch = shipment((Ipv4Addr::LOCALHOST, to).into(), Ipv4Addr::LOCALHOST.into(), &[7; 300]);
        assert_eq!(other.send(batch), Sent::Done(Unsent::default()));
        let mut buffer = [0; 1000];
        assert_eq!([(); 3].map(|()| v4.socket.recv(&mut buffer).unwrap()), [100; 3], "received one by one");
    }

    #[test]
    fn what_can_not_be_reached_is_counted_and_costs_nothing_else() {
        let v4 = &mut one().into_pairs()[0].v4;
        let segments = v4.max_segments();
        // Nobody is there: a broadcast address that the socket may not send to.
        let to = (Ipv4Addr::BROADCAST, 9).into();
        let nowhere = Shipment { to, from: None, ecn: Ecn::NotCapable, bytes: &[7; 250], segment: 100 };
        assert_eq!(v4.send(nowhere), Sent::Done(Unsent { full: 0, unreachable: 3 }));
        assert_eq!(v4.max_segments(), segments);
    }
    #[test]
    fn a_datagram_that_is_to_stay_whole_changes_nothing_for_those_after_it() {
        let receiver = UdpSocket::bind("127.0.0.1:0").unwrap();
        let to = receiver.local_addr().unwrap();
        let pair = &mut one().into_pairs()[0];
        let segments = pair.v4.max_segments();
        let gone = Ipv4Addr::new(192, 0, 2, 1).into();
        for from in [to.ip(), gone] {
            pair.v4.send_whole(Shipment { segment: 200, ..shipment(to, from, &[7; 200]) });
            assert_eq!(ip_mtu_discover(&pair.v4.socket).unwrap(), Ipv4PathMtuDiscovery::DONT);
            assert_eq!(pair.v4.max_segments(), segments);
        }
        assert_eq!(receiver.recv(&mut [0; 300]).unwrap(), 200);
        if let Some(v6) = &mut pair.v6 {
            let to = (Ipv6Addr::LOCALHOST, to.port()).into();
            v6.send_whole(Shipment { from: None, segment: 200, ..shipment(to, to.ip(), &[7; 200]) });
            assert_eq!(ipv6_mtu_discover(&v6.socket).unwrap(), Ipv6PathMtuDiscovery::DONT);
        }
    }
}
