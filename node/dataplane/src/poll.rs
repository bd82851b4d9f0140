//! What the lane waits for: commands, time, packets and datagrams.

use std::{
    io,
    mem::MaybeUninit,
    os::fd::{AsFd, OwnedFd},
    sync::Arc,
};

use postern_model::Moment;
use rustix::{
    event::{EventfdFlags, epoll, eventfd},
    io::Errno,
    time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime},
};

use crate::{sockets::Sockets, tun::Tun};

const WAKE: u64 = 0;
const TIMER: u64 = 1;
const TUN: u64 = 2;
const V4: u64 = 3;
const V6: u64 = 4;
const SOURCES: usize = 5;

/// What can be read now.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Ready {
    pub(crate) tun: bool,
    pub(crate) v4: bool,
    pub(crate) v6: bool,
}

/// Wakes the lane from other threads.
#[derive(Debug, Clone)]
pub(crate) struct Waker(Arc<OwnedFd>);

impl Waker {
    /// Makes the next wait, or the one under way, return.
    pub(crate) fn wake(&self) {
        // It can only fail when it is already as loud as can be.
        let _ = rustix::io::write(&*self.0, &1_u64.to_ne_bytes());
    }
}

/// Waits for all of the lane's sources at once.
#[derive(Debug)]
pub(crate) struct Poll {
    epoll: OwnedFd,
    wake: Waker,
    timer: OwnedFd,
    /// When the timer fires. Not later than anybody asked for.
    armed: Option<Moment>,
}

impl Poll {
    pub(crate) fn new(tun: &Tun, sockets: &Sockets) -> io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        // The timer runs through suspend, as leases do.
        let timer = timerfd_create(TimerfdClockId::Boottime, TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK)?;
        let add = |source: &dyn AsFd, which| {
            epoll::add(&epoll, source.as_fd(), epoll::EventData::new_u64(which), epoll::EventFlags::IN)
        };
        add(&wake, WAKE)?;
        add(&timer, TIMER)?;
        add(tun, TUN)?;
        add(&sockets.v4.socket, V4)?;
        if let Some(v6) = &sockets.v6 {
            add(&v6.socket, V6)?;
        }
        Ok(Self { epoll, wake: Waker(Arc::new(wake)), timer, armed: None })
    }

    pub(crate) fn waker(&self) -> Waker {
        self.wake.clone()
    }

    /// Sees to it that [`Self::wait`] returns at this time.
    pub(crate) fn arm(&mut self, at: Option<Moment>) -> io::Result<()> {
        let Some(at) = at else { return Ok(()) };
        // Too early costs one look; setting the timer anew with every packet would cost more.
        if self.armed.is_some_and(|armed| armed <= at) {
            return Ok(());
        }
        let since_boot = at.since_boot();
        let it_value = Timespec {
            tv_sec: i64::try_from(since_boot.as_secs()).unwrap_or(i64::MAX),
            // Zero would disarm it.
            tv_nsec: since_boot.subsec_nanos().max(1).into(),
        };
        let it_interval = Timespec { tv_sec: 0, tv_nsec: 0 };
        timerfd_settime(&self.timer, TimerfdTimerFlags::ABSTIME, &Itimerspec { it_interval, it_value })?;
        self.armed = Some(at);
        Ok(())
    }

    /// Waits until something can be read, the time that was asked for has come, or someone wakes it.
    pub(crate) fn wait(&mut self) -> io::Result<Ready> {
        let mut events = [MaybeUninit::uninit(); SOURCES];
        let events = match epoll::wait(&self.epoll, &mut events, None) {
            Ok((events, _)) => events,
            Err(Errno::INTR) => &mut [],
            Err(error) => return Err(error.into()),
        };
        let mut ready = Ready::default();
        for event in events {
            match event.data.u64() {
                WAKE => drain(&self.wake.0),
                TIMER => {
                    drain(&self.timer);
                    self.armed = None;
                }
                TUN => ready.tun = true,
                V4 => ready.v4 = true,
                V6 => ready.v6 = true,
                _ => {}
            }
        }
        Ok(ready)
    }
}

/// Reads the count of an eventfd or a timer, so that it is silent again.
fn drain(source: &OwnedFd) {
    let _ = rustix::io::read(source, &mut [0; 8]);
}
