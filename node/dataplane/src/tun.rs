//! The TUN device: where applications' packets come from, and where the peers' packets go.
#![allow(unsafe_code)]

use std::{
    fs::{File, OpenOptions},
    io::{self, Read as _, Write as _},
    net::UdpSocket,
    os::{
        fd::{AsFd, AsRawFd as _, BorrowedFd},
        unix::fs::OpenOptionsExt as _,
    },
};

const DEVICE: &str = "/dev/net/tun";

/// A TUN device without a packet header in front of each packet. It is gone when this is dropped.
#[derive(Debug)]
pub struct Tun {
    file: File,
    name: String,
    mtu: u16,
}

impl Tun {
    /// Makes a device of this name, with this MTU, in the calling thread's network namespace. It is down and has no
    /// address. A `%d` in the name becomes the first free number.
    ///
    /// # Errors
    /// When the kernel has no TUN devices, when not permitted, or when the name is taken or not a device's name.
    pub fn create(name: &str, mtu: u16) -> io::Result<Self> {
        let mut request = request(name)?;
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NONBLOCK)
            .open(DEVICE)
            .map_err(|error| explain_open(&error))?;
        request.ifr_ifru.ifru_flags = (libc::IFF_TUN | libc::IFF_NO_PI) as libc::c_short;
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
        let tun = Self { file, name, mtu };
        tun.set_mtu(request)?;
        Ok(tun)
    }

    /// The device's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The longest packet that it takes and gives.
    pub fn mtu(&self) -> u16 {
        self.mtu
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

    /// Reads one packet; [`io::ErrorKind::WouldBlock`] when there is none.
    pub(crate) fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        (&self.file).read(buffer)
    }

    /// Writes one packet.
    pub(crate) fn write(&self, packet: &[u8]) -> io::Result<()> {
        (&self.file).write(packet).map(drop)
    }
}

impl AsFd for Tun {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
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
            let error = Tun::create(name, 1420).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput, "{name:?}");
        }
    }
}
