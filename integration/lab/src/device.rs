//! TUN and TAP devices for what the lab itself does to packets: the shaper reads and writes frames, NAT64 packets.
//!
//! A device belongs to the host in which it was opened and is gone when it is dropped; it can be read and written from any
//! thread.
#![allow(unsafe_code)]

use std::{
    fs::{File, OpenOptions},
    io::{self, Read as _, Write as _},
    os::{
        fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd},
        unix::fs::OpenOptionsExt as _,
    },
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};

/// What comes out of the device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Layer {
    /// IP packets: TUN.
    Packets,
    /// Ethernet frames: TAP.
    Frames,
}

/// An open device.
#[derive(Debug)]
pub(crate) struct Device {
    file: File,
}

impl Device {
    /// Makes a device in the namespace of the calling thread; see `Host::within`.
    pub(crate) fn open(name: &str, layer: Layer) -> Result<Self> {
        let path = "/dev/net/tun";
        let file = OpenOptions::new().read(true).write(true).custom_flags(libc::O_NONBLOCK).open(path).context(path)?;
        // SAFETY: all zeros is a valid ifreq.
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        ensure!(name.len() < request.ifr_name.len(), "{name} is too long for an interface's name");
        for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
            *to = from as libc::c_char;
        }
        let kind = if layer == Layer::Packets { libc::IFF_TUN } else { libc::IFF_TAP };
        request.ifr_ifru.ifru_flags = (kind | libc::IFF_NO_PI) as libc::c_short;
        // SAFETY: the request is a whole ifreq, as TUNSETIFF wants it, and outlives the call.
        if unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &mut request) } < 0 {
            return Err(io::Error::last_os_error()).with_context(|| format!("make the device {name}"));
        }
        Ok(Self { file })
    }

    /// The next packet's length, or `None` when there is none now.
    pub(crate) fn read(&self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        match (&self.file).read(buffer) {
            Ok(len) => Ok(Some(len)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Hands a packet to the kernel. One that it does not take is lost, as on any link.
    pub(crate) fn write(&self, packet: &[u8]) {
        let _ = (&self.file).write(packet);
    }
}

impl AsFd for Device {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// What wakes a thread that waits for devices.
#[derive(Debug)]
pub(crate) struct Wake(OwnedFd);

impl Wake {
    pub(crate) fn new() -> Result<Self> {
        Ok(Self(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).context("make an eventfd")?))
    }

    /// The thread's [`Self::wait`] returns, or its next one.
    pub(crate) fn wake(&self) {
        let _ = rustix::io::write(&self.0, &1_u64.to_ne_bytes());
    }

    /// Waits until a device has something, or the time is over, or it is woken.
    pub(crate) fn wait(&self, devices: &[Device], timeout: Option<Duration>) -> Result<()> {
        let mut fds: Vec<_> = devices.iter().map(|device| PollFd::new(device, PollFlags::IN)).collect();
        fds.push(PollFd::new(&self.0, PollFlags::IN));
        let timeout = timeout.map(Timespec::try_from).transpose().context("a time to wait")?;
        match poll(&mut fds, timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let _ = rustix::io::read(&self.0, &mut [0; 8]);
        Ok(())
    }
}
