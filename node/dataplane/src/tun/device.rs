//! The TUN device: where applications' packets come from, and where the peers' packets go. It has one queue for each lane,
//! and a header in front of each packet, so that a packet may be a super-packet.
#![allow(unsafe_code)]

use std::{
    fs::{File, OpenOptions},
    io::{self, IoSlice, Read as _, Write as _},
    net::UdpSocket,
    num::NonZeroUsize,
    os::{
        fd::{AsFd, AsRawFd as _, BorrowedFd},
        unix::fs::OpenOptionsExt as _,
    },
};

use crate::Offloads;

const DEVICE: &str = "/dev/net/tun";
/// Of the namespace in which it is opened, whoever reads it.
const STATISTICS: &str = "/proc/thread-self/net/dev";

/// What the kernel may leave to do in the packets that it hands over (linux/if_tun.h).
const TUN_F_CSUM: libc::c_ulong = 0x01;
const TUN_F_TSO4: libc::c_ulong = 0x02;
const TUN_F_TSO6: libc::c_ulong = 0x04;
const TUN_F_TSO_ECN: libc::c_ulong = 0x08;
const TUN_F_USO4: libc::c_ulong = 0x20;
const TUN_F_USO6: libc::c_ulong = 0x40;

/// More queues than this are of no use: the kernel's own limit is 256.
const MAX_QUEUES: usize = 64;

/// A TUN device. It is gone when this is dropped.
#[derive(Debug)]
pub struct Tun {
    queues: Vec<Queue>,
    name: String,
    mtu: u16,
    offloads: Offloads,
    /// The kernel's counts for all interfaces of the namespace, as long as they can be read.
    statistics: Option<File>,
}

/// One queue of the device: packets of one flow come through one queue.
#[derive(Debug)]
pub(crate) struct Queue {
    file: File,
}

impl Tun {
    /// Makes a device of this name, with this MTU, in the calling thread's network namespace. It is down and has no
    /// address. A `%d` in the name becomes the first free number. Of the offloads for super-packets, those that the kernel
    /// has are used.
    ///
    /// # Errors
    /// When the kernel has no TUN devices, when not permitted, or when the name is taken or not a device's name.
    pub fn create(name: &str, mtu: u16, lanes: NonZeroUsize, offloads: Offloads) -> io::Result<Self> {
        let lanes = lanes.get().min(MAX_QUEUES);
        let several = if lanes > 1 { libc::IFF_MULTI_QUEUE } else { 0 };
        let flags = libc::IFF_TUN | libc::IFF_NO_PI | libc::IFF_VNET_HDR | several;
        let (first, name) = Queue::open(name, flags)?;
        let statistics = File::open(STATISTICS).ok();
        let mut tun = Self { queues: vec![first], name, mtu, offloads, statistics };
        while tun.queues.len() < lanes {
            tun.queues.push(Queue::open(&tun.name, flags)?.0);
        }
        tun.set_mtu(request(&tun.name)?)?;
        tun.set_offloads()?;
        Ok(tun)
    }

    /// The device's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The longest packet that it takes and gives, but for super-packets.
    pub fn mtu(&self) -> u16 {
        self.mtu
    }

    /// The offloads that are in use.
    pub(crate) fn offloads(&self) -> Offloads {
        self.offloads
    }

    /// Where the kernel's counts of this device are, among others.
    pub(crate) fn statistics(&self) -> Option<File> {
        self.statistics.as_ref().and_then(|file| file.try_clone().ok())
    }

    /// One for each lane.
    pub(crate) fn into_queues(self) -> Vec<Queue> {
        self.queues
    }

    /// Has the kernel hand over super-packets, as far as it can.
    fn set_offloads(&mut self) -> io::Result<()> {
        let tcp = if self.offloads.tcp { TUN_F_TSO4 | TUN_F_TSO6 | TUN_F_TSO_ECN } else { 0 };
        let udp = if self.offloads.udp { TUN_F_USO4 | TUN_F_USO6 } else { 0 };
        // Without checksums left to do there are no super-packets, and without super-packets they are better done there.
        let with_checksum = |features| if features == 0 { 0 } else { features | TUN_F_CSUM };
        if self.queues[0].set_offload(with_checksum(tcp | udp)).is_ok() {
            return Ok(());
        }
        if self.offloads.udp && self.queues[0].set_offload(with_checksum(tcp)).is_ok() {
            tracing::info!(
                interface = self.name,
                "the kernel has no UDP super-packets for TUN (Linux 6.2 has): sent singly"
            );
            self.offloads.udp = false;
            return Ok(());
        }
        tracing::info!(interface = self.name, "the kernel has no super-packets for TUN: packets are sent singly");
        (self.offloads.tcp, self.offloads.udp) = (false, false);
        self.queues[0].set_offload(0)
    }

    fn set_mtu(&self, mut request: libc::ifreq) -> io::Result<()> {
        let explain = |error: io::Error| {
            io::Error::new(error.kind(), format!("set the MTU of {} to {}: {error}", self.name, self.mtu))
        };
        request.ifr_ifru.ifru_mtu = self.mtu.into();
        // Any socket will do.
        let socket = UdpSocket::bind("127.0.0.1:0").or_else(|_| UdpSocket::bind("[::]:0")).map_err(explain)?;
        // SAFETY: the request is a whole ifreq with the device's name, as SIOCSIFMTU wants it.
        if unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFMTU, &request) } < 0 {
            return Err(explain(io::Error::last_os_error()));
        }
        Ok(())
    }
}

impl Queue {
    /// Opens the first or one more queue of a device; also the device's name.
    fn open(name: &str, flags: libc::c_int) -> io::Result<(Self, String)> {
        let mut request = request(name)?;
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NONBLOCK)
            .open(DEVICE)
            .map_err(|error| explain_open(&error))?;
        request.ifr_ifru.ifru_flags = flags as libc::c_short;
        // SAFETY: the request is a whole ifreq, as TUNSETIFF wants it, and outlives the call.
        if unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &mut request) } < 0 {
            return Err(explain_create(&io::Error::last_os_error(), name));
        }
        let name = request
            .ifr_name
            .iter()
            .take_while(|byte| **byte != 0)
            .map(|byte| char::from(byte.to_ne_bytes()[0]))
            .collect();
        Ok((Self { file }, name))
    }

    /// The same queue once more.
    pub(crate) fn try_clone(&self) -> io::Result<Self> {
        Ok(Self { file: self.file.try_clone()? })
    }

    fn set_offload(&self, features: libc::c_ulong) -> io::Result<()> {
        // SAFETY: TUNSETOFFLOAD takes its argument by value.
        let result = unsafe { libc::ioctl(self.file.as_raw_fd(), libc::TUNSETOFFLOAD, features) };
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// Reads one packet with its header in front; [`io::ErrorKind::WouldBlock`] when there is none.
    pub(crate) fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        (&self.file).read(buffer)
    }

    /// Writes one packet, its header in front, that lies in pieces.
    pub(crate) fn write(&self, pieces: &[IoSlice<'_>]) -> io::Result<()> {
        (&self.file).write_vectored(pieces).map(drop)
    }
}

impl AsFd for Queue {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// Whether an error of a queue says that its device is gone.
pub(crate) fn is_gone(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EBADFD | libc::EBADF | libc::ENODEV | libc::EFAULT))
}

/// An `ifreq` for a device of this name.
fn request(name: &str) -> io::Result<libc::ifreq> {
    // SAFETY: an ifreq is plain bytes; all zeros is one.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    let fits = !name.is_empty() && name.len() < request.ifr_name.len();
    if !fits || name.bytes().any(|byte| byte == 0 || byte == b'/' || byte.is_ascii_whitespace()) {
        let longest = request.ifr_name.len() - 1;
        let message = format!("{name:?} can't be a device's name: 1 to {longest} characters without '/' or spaces");
        return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = libc::c_char::from_ne_bytes([from]);
    }
    Ok(request)
}

fn explain_open(error: &io::Error) -> io::Error {
    let hint = match error.raw_os_error() {
        Some(libc::ENOENT | libc::ENXIO | libc::ENODEV) => "; load the kernel's module with 'modprobe tun'",
        Some(libc::EACCES | libc::EPERM) => "; this needs root, or CAP_NET_ADMIN and access to the file",
        _ => "",
    };
    io::Error::new(error.kind(), format!("open {DEVICE}: {error}{hint}"))
}

fn explain_create(error: &io::Error, name: &str) -> io::Error {
    let hint = match error.raw_os_error() {
        Some(libc::EBUSY | libc::EEXIST) => "; another program has a device of that name",
        Some(libc::EINVAL) => "; a device of that name exists and is of another kind, or it can't be a name",
        Some(libc::EACCES | libc::EPERM) => "; this needs root, or CAP_NET_ADMIN",
        _ => "",
    };
    io::Error::new(error.kind(), format!("make the TUN device {name}: {error}{hint}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_are_none_are_refused_before_anything_is_made() {
        for name in ["", "sixteen-letters-", "a/b", "a b", "a\0b"] {
            let error = Tun::create(name, 1420, NonZeroUsize::MIN, Offloads::ALL).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput, "{name:?}");
        }
    }
}
