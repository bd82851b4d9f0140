//! The UDP sockets that WireGuard's datagrams come and go through: one for IPv4, one for IPv6, on the same port.
#![allow(unsafe_code)]

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    os::fd::AsRawFd as _,
};

use quinn_udp::{Transmit, UdpSockRef, UdpSocketState};
use rustix::{
    io::Errno,
    net::{
        AddressFamily, SocketFlags, SocketType, bind,
        ipproto::UDP,
        socket_with,
        sockopt::{
            Ipv4PathMtuDiscovery, Ipv6PathMtuDiscovery, set_ip_mtu_discover, set_ipv6_mtu_discover, set_ipv6_v6only,
            set_socket_recv_buffer_size, set_socket_recv_buffer_size_force, set_socket_send_buffer_size,
            set_socket_send_buffer_size_force,
        },
    },
};

/// What the kernel may keep in each direction: 50 ms at 1 Gbit/s, so that a burst survives the lane being busy.
const BUFFER: usize = 7 << 20;
/// How often a free pair of ports is looked for.
const PORT_TRIES: usize = 32;

/// One IPv4 and one IPv6 socket on the same port; IPv4 alone where there is no IPv6.
#[derive(Debug)]
pub struct Sockets {
    pub(crate) v4: Socket,
    pub(crate) v6: Option<Socket>,
    port: u16,
}

impl Sockets {
    /// Binds both to every address of the calling thread's network namespace. 0 is any port that is free for both.
    ///
    /// # Errors
    /// When the port is taken.
    pub fn bind(port: u16) -> io::Result<Self> {
        let mut tries = 0;
        loop {
            let v4 = Socket::bind((Ipv4Addr::UNSPECIFIED, port).into()).map_err(|error| explain(&error, port))?;
            let chosen = v4.socket.local_addr()?.port();
            match Socket::bind((Ipv6Addr::UNSPECIFIED, chosen).into()) {
                Ok(v6) => return Ok(Self { v4, v6: Some(v6), port: chosen }),
                Err(error) if is_without_ipv6(&error) => return Ok(Self { v4, v6: None, port: chosen }),
                // Someone has the port for IPv6 only.
                Err(error) if error.kind() == io::ErrorKind::AddrInUse && port == 0 && tries < PORT_TRIES => tries += 1,
                Err(error) => return Err(explain(&error, chosen)),
            }
        }
    }

    /// The port of both.
    pub fn port(&self) -> u16 {
        self.port
    }

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
    /// They are on their way, or can't be on any: a candidate that can't be reached is no error.
    Done,
    /// The socket was full; so many are lost.
    Full(usize),
    /// Not from this source address: it may no longer be this machine's. Nothing was sent.
    SourceGone,
}

/// One of the two sockets.
#[derive(Debug)]
pub(crate) struct Socket {
    pub(crate) socket: UdpSocket,
    pub(crate) state: UdpSocketState,
}

impl Socket {
    fn bind(addr: SocketAddr) -> io::Result<Self> {
        let family = if addr.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(family, SocketType::DGRAM, flags, Some(UDP))?;
        if addr.is_ipv6() {
            set_ipv6_v6only(&socket, true)?;
        }
        // More than the system's limit takes CAP_NET_ADMIN; without it, as much as is allowed.
        set_socket_recv_buffer_size_force(&socket, BUFFER).or_else(|_| set_socket_recv_buffer_size(&socket, BUFFER))?;
        set_socket_send_buffer_size_force(&socket, BUFFER).or_else(|_| set_socket_send_buffer_size(&socket, BUFFER))?;
        bind(&socket, &addr)?;
        let socket = UdpSocket::from(socket);
        let state = prepare(&socket)?;
        Ok(Self { socket, state })
    }

    /// Sends datagrams of `segment` bytes each, the last one perhaps shorter, to one place.
    pub(crate) fn send(&mut self, to: SocketAddr, from: Option<IpAddr>, datagrams: &[u8], segment: usize) -> Sent {
        let count = datagrams.len().div_ceil(segment.max(1));
        let segment_size = (count > 1).then_some(segment);
        let transmit = Transmit { destination: to, ecn: None, contents: datagrams, segment_size, src_ip: from };
        let Err(error) = self.state.try_send(UdpSockRef::from(&self.socket), &transmit) else { return Sent::Done };
        if is_full(&error) {
            return Sent::Full(count);
        }
        if from.is_some() {
            // Kernels say it as "invalid argument" or as "unreachable". The first, the state has taken for a kernel that
            // can't segment, which has yet to be shown.
            if error.kind() == io::ErrorKind::InvalidInput
                && let Ok(state) = prepare(&self.socket)
            {
                self.state = state;
            }
            return Sent::SourceGone;
        }
        if count == 1 {
            tracing::trace!(%to, %error, "not sent");
            return Sent::Done;
        }
        // A device on the way can't segment, or the path is narrower than one segment: the kernel may still fragment.
        let lost = datagrams.chunks(segment).filter(|datagram| self.send_one(to, datagram)).count();
        if lost == 0 { Sent::Done } else { Sent::Full(lost) }
    }

    /// Sends one datagram; whether it was lost because the socket is full.
    fn send_one(&self, to: SocketAddr, contents: &[u8]) -> bool {
        let transmit = Transmit { destination: to, ecn: None, contents, segment_size: None, src_ip: None };
        self.state.try_send(UdpSockRef::from(&self.socket), &transmit).is_err_and(|error| is_full(&error))
    }
}

/// Sets what batches need, and takes back that datagrams must not be fragmented: a tunnel over a narrow path is to be
/// slow, not dead.
fn prepare(socket: &UdpSocket) -> io::Result<UdpSocketState> {
    let state = UdpSocketState::new(socket.into())?;
    if socket.local_addr()?.is_ipv4() {
        set_ip_mtu_discover(socket, Ipv4PathMtuDiscovery::DONT)?;
    } else {
        set_ipv6_mtu_discover(socket, Ipv6PathMtuDiscovery::DONT)?;
        allow_ipv6_fragments(socket)?;
    }
    Ok(state)
}

/// `IPV6_DONTFRAG` (RFC 3542 section 11.2) off, for which there is no safe function.
fn allow_ipv6_fragments(socket: &UdpSocket) -> io::Result<()> {
    let off: libc::c_int = 0;
    let len = libc::socklen_t::try_from(size_of_val(&off)).map_err(io::Error::other)?;
    // SAFETY: the option's value is an int, and the pointer and the length are that int's.
    let result = unsafe {
        libc::setsockopt(socket.as_raw_fd(), libc::IPPROTO_IPV6, libc::IPV6_DONTFRAG, (&raw const off).cast(), len)
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn is_full(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::WouldBlock || error.raw_os_error() == Some(Errno::NOBUFS.raw_os_error())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_families_have_the_same_port_and_a_taken_port_says_so() {
        let sockets = Sockets::bind(0).unwrap();
        assert_ne!(sockets.port(), 0);
        if let Some(v6) = &sockets.v6 {
            assert_eq!(v6.socket.local_addr().unwrap().port(), sockets.port());
        }
        let error = Sockets::bind(sockets.port()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
        assert!(error.to_string().contains(&sockets.port().to_string()), "{error}");
    }

    #[test]
    fn segments_arrive_as_datagrams_and_the_last_may_be_shorter() {
        let receiver = UdpSocket::bind("127.0.0.1:0").unwrap();
        let to = receiver.local_addr().unwrap();
        let mut sockets = Sockets::bind(0).unwrap();
        assert_eq!(sockets.v4.send(to, Some(to.ip()), &[7; 250], 100), Sent::Done);
        let mut buffer = [0; 300];
        for len in [100, 100, 50] {
            assert_eq!(receiver.recv(&mut buffer).unwrap(), len);
        }
    }

    #[test]
    fn a_source_that_is_gone_is_told_and_does_not_cost_segmentation() {
        let receiver = UdpSocket::bind("127.0.0.1:0").unwrap();
        let to = receiver.local_addr().unwrap();
        let mut sockets = Sockets::bind(0).unwrap();
        let segments = sockets.v4.state.max_gso_segments();
        let gone = Ipv4Addr::new(192, 0, 2, 1).into();
        assert_eq!(sockets.v4.send(to, Some(gone), &[7; 200], 100), Sent::SourceGone);
        assert_eq!(sockets.v4.state.max_gso_segments(), segments);
    }
}
