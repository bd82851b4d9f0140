//! Tells that the machine has slept: the clock that runs through sleep is then further on than the one that does not.

use std::{io, time::Duration};

use postern_dataplane::clock;
use postern_model::Moment;
use rustix::{
    fd::OwnedFd,
    time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime},
};
use tokio::{io::unix::AsyncFd, sync::mpsc};

use crate::clock::awake;

/// How often it is looked. The timer runs through sleep too, so that it is looked as soon as the machine wakes.
const LOOK: i64 = 5;
/// A shorter sleep is none: no peer has missed this node, and no NAT has forgotten it.
const SLEEP: Duration = Duration::from_secs(3);

/// Tells sleep from waking by two clocks.
#[derive(Debug, Clone, Copy)]
struct Clocks {
    through_sleep: Moment,
    awake: Duration,
}

impl Clocks {
    /// Whether the machine has slept since the last look; this is the last look from now on.
    fn has_slept(&mut self, now: Self) -> bool {
        let passed = now.through_sleep.since(self.through_sleep);
        let awake = now.awake.saturating_sub(self.awake);
        *self = now;
        passed > awake + SLEEP
    }
}

fn look() -> Clocks {
    Clocks { through_sleep: clock::now(), awake: awake() }
}

/// Tells, until the receiver is dropped, each time that the machine has slept.
///
/// # Errors
/// When the system has no such timer.
pub fn watch() -> io::Result<mpsc::Receiver<()>> {
    let timer = timerfd_create(TimerfdClockId::Boottime, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC)?;
    let every = Timespec { tv_sec: LOOK, tv_nsec: 0 };
    timerfd_settime(&timer, TimerfdTimerFlags::empty(), &Itimerspec { it_interval: every, it_value: every })?;
    #[allow(deprecated, reason = "the other way is unsafe; a descriptor that is owned is all that it asks for")]
    let timer: AsyncFd<OwnedFd> = AsyncFd::new(timer)?;
    let (woke, news) = mpsc::channel(1);
    tokio::spawn(async move {
        let mut last = look();
        loop {
            let Ok(mut ready) = timer.readable().await else { return };
            let _ = ready.try_io(|timer| Ok(rustix::io::read(timer.get_ref(), &mut [0; 8])?));
            if woke.is_closed() {
                return;
            }
            if last.has_slept(look()) {
                // One that is not taken yet says the same.
                let _ = woke.try_send(());
            }
        }
    });
    Ok(news)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_jump_of_one_clock_is_sleep_and_time_that_passes_is_not() {
        let at = |through_sleep: u64, awake: u64| Clocks {
            through_sleep: Moment::from_boot(Duration::from_secs(through_sleep)),
            awake: Duration::from_secs(awake),
        };
        let mut last = at(1_000, 400);
        assert!(!last.has_slept(at(1_060, 460)));
        assert!(!last.has_slept(at(1_068, 465)), "3 s");
        assert!(last.has_slept(at(5_000, 470)));
        assert!(!last.has_slept(at(5_005, 475)), "once");
    }
}
