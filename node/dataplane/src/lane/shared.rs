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
    time::Duration,
};

use postern_engine::{Endpoint, Forwarder, ForwarderSink, Miss};
use postern_model::Moment;
use postern_packet::Ecn;
use rustix::{
    event::{EventfdFlags, eventfd},
    time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime},
};

use super::exit::Exit;
use crate::{LaneEvent, clock, relay::Relayed, udp::batch::Destination};

/// For how many places it is remembered where they wrote to. Beyond that the kernel's choice must do for a while.
const MAX_SOURCES: usize = 16_384;

/// Told of what happens.
pub(crate) type Events = Box<dyn FnMut(LaneEvent) + Send>;

/// What one lane at a time may touch.
pub(crate) struct Core {
    pub(crate) forwarder: Forwarder,
    pub(crate) events: Events,
    pub(crate) sources: Sources,
    stuns: Stuns,
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
    /// What came from relays.
    pub(crate) relayed: Relayed,
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
        let (sources, stuns) = (Sources::default(), Stuns::default());
        let core = Core { forwarder, events, sources, stuns, armed: None, has_told_news: false };
        let turns = (0..lanes).map(|_| AtomicU64::new(0)).collect();
        let relayed = Relayed::default();
        Ok(Self { core: Mutex::new(core), timer, wakers, relayed, turns, is_over: AtomicBool::new(false) })
    }

    /// The forwarder, for this lane alone.
    ///
    /// # Panics
    /// When another lane panicked while it had it: what it was about may be half done, and no packet is to be decided by
    /// that. So all lanes end.
    pub(crate) fn core(&self) -> MutexGuard<'_, Core> {
        self.core.lock().expect("another lane has come upon a bug")
    }

    /// Tells of the end, whatever state things are in.
    pub(crate) fn tell_failure(&self, reason: String) {
        let mut core = self.core.lock().unwrap_or_else(PoisonError::into_inner);
        (core.events)(LaneEvent::Failed(reason));
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
    /// or never goes. A turn takes some milliseconds at most. `false` when the lanes end instead. Not to be called with the
    /// core.
    pub(crate) fn wait_for_others(&self, lane: usize) -> bool {
        fence(Ordering::SeqCst);
        for (other, turn) in self.turns.iter().enumerate().filter(|(other, _)| *other != lane) {
            let before = turn.load(Ordering::SeqCst);
            while before % 2 == 1 && turn.load(Ordering::SeqCst) == before {
                if self.is_over() {
                    return false;
                }
                tracing::trace!(other, "waiting for a lane");
                std::thread::yield_now();
            }
        }
        true
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
        let Self { forwarder, events, sources, stuns, .. } = self;
        (forwarder, Sink { exit, events, sources, stuns })
    }
}

/// From which of this machine's addresses to write to a place: the one that it wrote to, or else what stands between may not
/// know the answer for one.
#[derive(Debug, Default)]
pub(crate) struct Sources {
    /// Of places that authentic datagrams came from. Peers choose those, so what hashes alike depends on a secret.
    known: HashMap<SocketAddr, IpAddr>,
    /// Of the datagram that is looked at, which anyone may have sent: only answers to it go by that.
    asked: Option<(SocketAddr, IpAddr)>,
}

impl Sources {
    /// A datagram is looked at that came from there to this machine's address `to`; or none is any more.
    pub(crate) fn set_asked(&mut self, asked: Option<(SocketAddr, IpAddr)>) {
        self.asked = asked;
    }

    /// An authentic datagram came from there to this machine's address `to`.
    pub(crate) fn note(&mut self, from: SocketAddr, to: IpAddr) {
        if self.known.get(&from) != Some(&to) {
            if self.known.len() >= MAX_SOURCES {
                self.known.clear();
            }
            self.known.insert(from, to);
        }
    }

    pub(crate) fn forget(&mut self, place: SocketAddr) {
        self.known.remove(&place);
    }

    /// This machine's addresses are others: what wrote to those before can't be answered from them.
    pub(crate) fn forget_all(&mut self) {
        self.known.clear();
    }

    pub(crate) fn destination(&self, to: SocketAddr, ecn: Ecn) -> Destination {
        let asked = self.asked.filter(|(place, _)| *place == to).map(|(_, own)| own);
        Destination { to, from: asked.or_else(|| self.known.get(&to).copied()), ecn }
    }
}

/// Takes what the forwarder makes itself: handshakes, resets, refusals.
pub(crate) struct Sink<'a> {
    exit: &'a mut Exit,
    events: &'a mut Events,
    pub(crate) sources: &'a mut Sources,
    stuns: &'a mut Stuns,
}

/// How many STUN messages were told of in this second: anyone may send what looks like one.
#[derive(Debug, Default)]
struct Stuns {
    since: Moment,
    count: u32,
}

impl Stuns {
    /// So many in a second: a few relays, each asked a few times.
    const MOST: u32 = 64;

    fn may_tell(&mut self, now: Moment) -> bool {
        if now.since(self.since) >= Duration::from_secs(1) {
            *self = Self { since: now, count: 0 };
        }
        self.count = self.count.saturating_add(1);
        self.count <= Self::MOST
    }
}

impl ForwarderSink for Sink<'_> {
    fn send_datagram(&mut self, to: Endpoint, datagram: &[u8]) {
        match to {
            Endpoint::Direct(to) => self.exit.batch.push(self.sources.destination(to, Ecn::NotCapable), datagram),
            Endpoint::Relayed { relay, peer } => self.exit.relay(relay, &peer, datagram, true),
        }
    }

    fn send_probe(&mut self, to: Endpoint, datagram: &[u8]) {
        match to {
            Endpoint::Direct(to) => self.exit.batch.send_whole(self.sources.destination(to, Ecn::NotCapable), datagram),
            Endpoint::Relayed { relay, peer } => self.exit.relay(relay, &peer, datagram, false),
        }
    }

    fn send_packet(&mut self, packet: &[u8]) {
        self.exit.write_plain(packet);
    }

    fn miss(&mut self, miss: Miss) {
        (self.events)(LaneEvent::Miss(miss));
    }

    fn stun(&mut self, from: SocketAddr, datagram: &[u8]) {
        if self.stuns.may_tell(clock::now()) {
            (self.events)(LaneEvent::Stun(from, datagram.to_vec()));
        }
    }
}

/// Reads the count of an eventfd or a timer, so that it is silent again.
fn drain(source: &OwnedFd) {
    let _ = rustix::io::read(source, &mut [0; 8]);
}

#[cfg(test)]
mod tests {
    use std::{sync::atomic::AtomicBool, thread};

    use postern_model::SecretBytes;
    use postern_wireguard::PrivateKey;

    use super::*;

    fn shared(lanes: usize) -> Shared {
        let private = PrivateKey::from_bytes(&SecretBytes::new([7; 32]));
        Shared::new(Forwarder::new(private, Moment::default()), Box::new(|_| {}), lanes).unwrap()
    }

    /// Invariant: when a table is said to be in force, nothing is under way that was decided by the one before.
    #[test]
    fn whoever_waits_has_waited_for_every_turn_that_had_begun() {
        let (shared, was_decided, is_out) = (shared(3), AtomicBool::new(false), AtomicBool::new(false));
        thread::scope(|scope| {
            scope.spawn(|| {
                shared.begin_turn(1);
                was_decided.store(true, Ordering::SeqCst);
                for _ in 0..1000 {
                    thread::yield_now();
                }
                is_out.store(true, Ordering::SeqCst);
                shared.end_turn(1);
            });
            while !was_decided.load(Ordering::SeqCst) {
                thread::yield_now();
            }
            assert!(shared.wait_for_others(0));
            assert!(is_out.load(Ordering::SeqCst));
        });
        assert!(shared.wait_for_others(0), "nobody is at work");
    }

    #[test]
    fn whoever_waits_for_a_lane_that_never_ends_its_turn_is_told_when_all_end() {
        let shared = shared(2);
        shared.begin_turn(1);
        thread::scope(|scope| {
            let waiting = scope.spawn(|| shared.wait_for_others(0));
            shared.end();
            assert!(!waiting.join().unwrap(), "nobody can say what is under way");
        });
    }

    #[test]
    fn strangers_get_their_answer_and_change_nothing_for_peers() {
        let [peer, stranger]: [SocketAddr; 2] = [([192, 0, 2, 1], 1).into(), ([192, 0, 2, 2], 2).into()];
        let [own, other]: [IpAddr; 2] = [[10, 0, 0, 1].into(), [10, 0, 0, 2].into()];
        let mut sources = Sources::default();
        let from = |sources: &Sources, to| sources.destination(to, Ecn::NotCapable).from;
        sources.note(peer, own);
        sources.set_asked(Some((stranger, other)));
        assert_eq!((from(&sources, stranger), from(&sources, peer)), (Some(other), Some(own)));
        sources.set_asked(Some((peer, other)));
        assert_eq!(from(&sources, peer), Some(other), "as it asks");
        sources.set_asked(None);
        assert_eq!((from(&sources, stranger), from(&sources, peer)), (None, Some(own)));
        sources.forget(peer);
        assert_eq!(from(&sources, peer), None);
        sources.note(peer, own);
        sources.forget_all();
        assert_eq!(from(&sources, peer), None, "after this machine has moved");
    }

    #[test]
    fn of_a_flood_of_stun_only_a_little_is_told() {
        let (mut stuns, now) = (Stuns::default(), Moment::from_boot(Duration::from_secs(9)));
        assert_eq!((0..1000).filter(|_| stuns.may_tell(now)).count(), Stuns::MOST as usize);
        assert!(stuns.may_tell(now + Duration::from_secs(1)));
    }

    #[test]
    fn a_bug_in_one_lane_leaves_nothing_to_decide_by() {
        let shared = shared(2);
        thread::scope(|scope| {
            let lane = scope.spawn(|| {
                let _core = shared.core();
                panic!("a bug");
            });
            assert!(lane.join().is_err());
            assert!(scope.spawn(|| drop(shared.core())).join().is_err());
        });
        shared.tell_failure("it is told all the same".into());
    }
}
