//! What all lanes have in common: the forwarder, which one lane at a time may ask, and the way to reach the others.
//!
//! The forwarder decides; that takes some hundred nanoseconds for a packet or a super-packet, and is done for a whole batch
//! under one lock. Reading, opening, sealing, joining, cutting and writing, which take a hundred times as long, are done
//! without it.

use std::{
    collections::HashMap,
    io,
    net::{IpAddr, SocketAddr},
    os::fd::OwnedFd,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering, fence},
    },
};

use postern_engine::{Forwarder, ForwarderSink, Miss};
use postern_model::Moment;
use postern_packet::Ecn;
use rustix::{
    event::{EventfdFlags, eventfd},
    time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime},
};

use super::exit::Exit;
use crate::{LaneEvent, udp::batch::Destination};

/// For how many places it is remembered where they wrote to. Beyond that the kernel's choice must do for a while.
const MAX_SOURCES: usize = 16_384;

/// Told of what happens.
pub(crate) type Events = Box<dyn FnMut(LaneEvent) + Send>;

/// What one lane at a time may touch.
pub(crate) struct Core {
    pub(crate) forwarder: Forwarder,
    pub(crate) events: Events,
    pub(crate) sources: Sources,
    /// When the timer fires. Not later than anybody asked for.
    armed: Option<Moment>,
    /// Whether it was told that there is news of flows.
    pub(crate) has_told_news: bool,
}

/// What the lanes share.
pub(crate) struct Shared {
    core: Mutex<Core>,
    /// Fires when the forwarder's next timer is due, through suspend too, as leases do.
    timer: OwnedFd,
    wakers: Vec<Waker>,
    /// For each lane, odd while it may act on what it was told before.
    turns: Vec<AtomicU64>,
    is_over: AtomicBool,
}

/// Wakes a lane from other threads.
#[derive(Debug)]
pub(crate) struct Waker(OwnedFd);

impl Waker {
    fn new() -> io::Result<Self> {
        Ok(Self(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?))
    }

    /// Makes the next wait, or the one under way, return.
    fn wake(&self) {
        // It can only fail when it is already as loud as can be.
        let _ = rustix::io::write(&self.0, &1_u64.to_ne_bytes());
    }

    pub(crate) fn fd(&self) -> &OwnedFd {
        &self.0
    }

    /// Silences it.
    pub(crate) fn drain(&self) {
        drain(&self.0);
    }
}

impl Shared {
    pub(crate) fn new(forwarder: Forwarder, events: Events, lanes: usize) -> io::Result<Self> {
        let timer = timerfd_create(TimerfdClockId::Boottime, TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK)?;
        let wakers = (0..lanes).map(|_| Waker::new()).collect::<io::Result<_>>()?;
        let core = Core { forwarder, events, sources: Sources::default(), armed: None, has_told_news: false };
        let turns = (0..lanes).map(|_| AtomicU64::new(0)).collect();
        Ok(Self { core: Mutex::new(core), timer, wakers, turns, is_over: AtomicBool::new(false) })
    }

    /// The forwarder, for this lane alone.
    pub(crate) fn core(&self) -> MutexGuard<'_, Core> {
        // A lane that panicked ends all of them.
        self.core.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn waker(&self, lane: usize) -> &Waker {
        &self.wakers[lane]
    }

    pub(crate) fn timer(&self) -> &OwnedFd {
        &self.timer
    }

    /// Wakes the lane that takes commands.
    pub(crate) fn wake(&self) {
        if let Some(first) = self.wakers.first() {
            first.wake();
        }
    }

    /// Ends all lanes.
    pub(crate) fn end(&self) {
        self.is_over.store(true, Ordering::Release);
        self.wakers.iter().for_each(Waker::wake);
    }

    pub(crate) fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Acquire)
    }

    /// A lane begins to act.
    pub(crate) fn begin_turn(&self, lane: usize) {
        self.turns[lane].fetch_add(1, Ordering::SeqCst);
    }

    /// It has done all that follows from what it was told.
    pub(crate) fn end_turn(&self, lane: usize) {
        self.turns[lane].fetch_add(1, Ordering::SeqCst);
    }

    /// Waits until every other lane has done what it was about when this was called: what was decided before is out then,
    /// or never goes. A turn takes some milliseconds at most. Not to be called with the core.
    pub(crate) fn wait_for_others(&self, lane: usize) {
        fence(Ordering::SeqCst);
        for (other, turn) in self.turns.iter().enumerate().filter(|(other, _)| *other != lane) {
            let before = turn.load(Ordering::SeqCst);
            while before % 2 == 1 && turn.load(Ordering::SeqCst) == before && !self.is_over() {
                tracing::trace!(other, "waiting for a lane");
                std::thread::yield_now();
            }
        }
    }

    /// Sees to it that a lane wakes when the forwarder has something to do.
    pub(crate) fn arm(&self, core: &mut Core) -> io::Result<()> {
        let Some(at) = core.forwarder.poll_timeout() else { return Ok(()) };
        // Too early costs one look; setting the timer anew with every packet would cost more.
        if core.armed.is_some_and(|armed| armed <= at) {
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
        core.armed = Some(at);
        Ok(())
    }

    /// The timer has fired.
    pub(crate) fn disarm(&self, core: &mut Core) {
        drain(&self.timer);
        core.armed = None;
    }
}

impl Core {
    /// The forwarder, and where its output goes.
    pub(crate) fn parts<'a>(&'a mut self, exit: &'a mut Exit) -> (&'a mut Forwarder, Sink<'a>) {
        let Self { forwarder, events, sources, .. } = self;
        (forwarder, Sink { exit, events, sources })
    }
}

/// From which of this machine's addresses to write to a place: the one that it wrote to. Not authenticated: the worst of it
/// is an answer from another address of ours.
#[derive(Debug, Default)]
pub(crate) struct Sources(HashMap<SocketAddr, IpAddr>);

impl Sources {
    /// Remembers that `from` writes to this machine's address `to`.
    pub(crate) fn note(&mut self, from: SocketAddr, to: IpAddr) {
        if self.0.get(&from) != Some(&to) {
            if self.0.len() >= MAX_SOURCES {
                self.0.clear();
            }
            self.0.insert(from, to);
        }
    }

    pub(crate) fn forget(&mut self, place: SocketAddr) {
        self.0.remove(&place);
    }

    pub(crate) fn destination(&self, to: SocketAddr, ecn: Ecn) -> Destination {
        Destination { to, from: self.0.get(&to).copied(), ecn }
    }
}

/// Takes what the forwarder makes itself: handshakes, resets, refusals.
pub(crate) struct Sink<'a> {
    exit: &'a mut Exit,
    events: &'a mut Events,
    pub(crate) sources: &'a mut Sources,
}

impl ForwarderSink for Sink<'_> {
    fn send_datagram(&mut self, to: SocketAddr, datagram: &[u8]) {
        self.exit.batch.push(self.sources.destination(to, Ecn::NotCapable), datagram);
    }

    fn send_probe(&mut self, to: SocketAddr, datagram: &[u8]) {
        self.exit.batch.send_whole(self.sources.destination(to, Ecn::NotCapable), datagram);
    }

    fn send_packet(&mut self, packet: &[u8]) {
        self.exit.write_plain(packet);
    }

    fn miss(&mut self, miss: Miss) {
        (self.events)(LaneEvent::Miss(miss));
    }
}

/// Reads the count of an eventfd or a timer, so that it is silent again.
fn drain(source: &OwnedFd) {
    let _ = rustix::io::read(source, &mut [0; 8]);
}
