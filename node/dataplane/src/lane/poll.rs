//! What a lane waits for: commands, time, packets and datagrams.

use std::{io, mem::MaybeUninit, os::fd::OwnedFd};

use rustix::{event::epoll, io::Errno};

use super::shared::Shared;
use crate::{tun::Queue, udp::Pair};

const WAKE: u64 = 0;
const TIMER: u64 = 1;
const TUN: u64 = 2;
const V4: u64 = 3;
const V6: u64 = 4;
const SOURCES: usize = 5;

/// What there is to be done now.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Ready {
    pub(crate) woken: bool,
    pub(crate) timer: bool,
    pub(crate) tun: bool,
    pub(crate) v4: bool,
    pub(crate) v6: bool,
}

/// Waits for all of a lane's sources at once.
#[derive(Debug)]
pub(crate) struct Poll {
    epoll: OwnedFd,
}

impl Poll {
    pub(crate) fn new(lane: usize, shared: &Shared, queue: &Queue, sockets: &Pair) -> io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let readable = epoll::EventFlags::IN;
        epoll::add(&epoll, shared.waker(lane).fd(), epoll::EventData::new_u64(WAKE), readable)?;
        // One lane is enough to see to it.
        let exclusive = readable | epoll::EventFlags::EXCLUSIVE;
        epoll::add(&epoll, shared.timer(), epoll::EventData::new_u64(TIMER), exclusive)?;
        epoll::add(&epoll, queue, epoll::EventData::new_u64(TUN), readable)?;
        epoll::add(&epoll, &sockets.v4.socket, epoll::EventData::new_u64(V4), readable)?;
        if let Some(v6) = &sockets.v6 {
            epoll::add(&epoll, &v6.socket, epoll::EventData::new_u64(V6), readable)?;
        }
        Ok(Self { epoll })
    }

    /// Waits until there is something.
    pub(crate) fn wait(&self) -> io::Result<Ready> {
        let mut events = [MaybeUninit::uninit(); SOURCES];
        let events = match epoll::wait(&self.epoll, &mut events, None) {
            Ok((events, _)) => events,
            Err(Errno::INTR) => &mut [],
            Err(error) => return Err(error.into()),
        };
        let mut ready = Ready::default();
        for event in events {
            match event.data.u64() {
                WAKE => ready.woken = true,
                TIMER => ready.timer = true,
                TUN => ready.tun = true,
                V4 => ready.v4 = true,
                V6 => ready.v6 = true,
                _ => {}
            }
        }
        Ok(ready)
    }
}
