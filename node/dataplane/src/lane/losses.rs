//! What the kernel lost before a lane could take it: datagrams that came while the socket's buffer was full, and packets of
//! applications that came while TUN's queue was. The kernel counts them; here they are read whenever someone asks for the counters.
#![allow(unsafe_code)]

use std::{
    fs::File,
    io::{self, Read as _, Seek as _},
    net::UdpSocket,
    os::fd::AsRawFd as _,
};

use postern_engine::{Counters, DropReason};

use crate::udp::Pair;

/// The list of a machine's interfaces is read no further than this.
const LONGEST: u64 = 1 << 20;
/// What `/proc/net/dev` has behind the name: which of its columns has packets dropped on their way out of the kernel, which
/// for TUN is the way to us.
const TX_DROPPED: usize = 11;

/// The losses of all lanes.
#[derive(Debug)]
pub(crate) struct Losses {
    sockets: Vec<Counted>,
    statistics: Option<File>,
    interface: String,
    tun_dropped: u64,
}

/// A socket, and how often it was full.
#[derive(Debug)]
struct Counted {
    socket: UdpSocket,
    /// What the kernel said last. It counts in 32 bits.
    last: u32,
    total: u64,
}

impl Losses {
    /// Of these sockets, and of the interface of that name in what `statistics` says.
    pub(crate) fn new(pairs: &[Pair], statistics: Option<File>, interface: &str) -> io::Result<Self> {
        let sockets = pairs.iter().flat_map(|pair| [Some(&pair.v4), pair.v6.as_ref()]).flatten();
        let counted = |socket: &UdpSocket| Ok(Counted { socket: socket.try_clone()?, last: 0, total: 0 });
        let sockets = sockets.map(|socket| counted(&socket.socket)).collect::<io::Result<_>>()?;
        Ok(Self { sockets, statistics, interface: interface.to_owned(), tun_dropped: 0 })
    }

    /// Asks the kernel.
    pub(crate) fn look(&mut self) {
        for Counted { socket, last, total } in &mut self.sockets {
            if let Ok(now) = dropped(socket) {
                *total += u64::from(now.wrapping_sub(*last));
                *last = now;
            }
        }
        self.tun_dropped = self.dropped_by_tun().unwrap_or(self.tun_dropped);
    }

    /// Adds what was lost from the start to the last look.
    pub(crate) fn add_to(&self, counters: &mut Counters) {
        for Counted { total, .. } in &self.sockets {
            counters.add(DropReason::ReceiveFull, *total);
        }
        counters.add(DropReason::TunFull, self.tun_dropped);
    }

    fn dropped_by_tun(&self) -> Option<u64> {
        let mut file = self.statistics.as_ref()?;
        file.rewind().ok()?;
        let mut text = String::new();
        file.take(LONGEST).read_to_string(&mut text).ok()?;
        tx_dropped(&text, &self.interface)
    }
}

/// How many datagrams (or joined ones) the kernel has dropped for want of room in the socket (SO_MEMINFO).
fn dropped(socket: &UdpSocket) -> io::Result<u32> {
    const AT: usize = libc::SK_MEMINFO_DROPS as usize;
    let mut words = [0_u32; AT + 1];
    let mut len = libc::socklen_t::try_from(size_of_val(&words)).map_err(io::Error::other)?;
    let place = words.as_mut_ptr().cast();
    // SAFETY: the kernel writes at most `len` bytes to the array, which is that long.
    let result =
        unsafe { libc::getsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, libc::SO_MEMINFO, place, &raw mut len) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(words[AT]) }
}

/// What `/proc/net/dev` says of this interface.
fn tx_dropped(text: &str, interface: &str) -> Option<u64> {
    let counts = text.lines().find_map(|line| line.trim_start().strip_prefix(interface)?.strip_prefix(':'))?;
    counts.split_whitespace().nth(TX_DROPPED)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Offloads, Sockets};
    use std::{net::Ipv4Addr, num::NonZeroUsize};

    #[test]
    fn each_datagram_that_found_no_room_is_counted_once() {
        let sockets = Sockets::bind(0, NonZeroUsize::MIN, Offloads::ALL).unwrap();
        let to = (Ipv4Addr::LOCALHOST, sockets.port());
        let pairs = sockets.into_pairs();
        let receiver = &pairs[0].v4.socket;
        rustix::net::sockopt::set_socket_recv_buffer_size(receiver, 10_000).unwrap();
        let mut losses = Losses::new(&pairs, None, "postern0").unwrap();
        let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
        let mut received = 0;
        for sent in [100, 200] {
            for _ in 0..100 {
                sender.send_to(&[7; 1000], to).unwrap();
            }
            let mut dropped = 0;
            // A busy kernel may take a moment for the last of them.
            for _ in 0..100_000 {
                while receiver.recv(&mut [0; 2000]).is_ok() {
                    received += 1;
                }
                let mut counters = Counters::default();
                losses.look();
                losses.add_to(&mut counters);
                dropped = counters.dropped(DropReason::ReceiveFull);
                if received + dropped >= sent {
                    break;
                }
                std::thread::yield_now();
            }
            assert_eq!(received + dropped, sent);
            assert!(dropped > 0 && received > 0);
        }
    }

    #[test]
    fn the_right_count_of_the_right_interface_is_read() {
        let text = "Inter-|   Receive                            |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed
    lo: 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16
postern01: 1 2 3 4 5 6 7 8 9 10 11 99 13 14 15 16
postern0:21 22 23 24 25 26 27 28 29 30 31 32 33 34 35 36
";
        assert_eq!(tx_dropped(text, "postern0"), Some(32));
        assert_eq!(tx_dropped(text, "postern1"), None);
    }
}
