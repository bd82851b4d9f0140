//! A line with properties: latency, jitter, loss, reordering and a rate, in user space, since not every kernel has netem.
//!
//! [`Lab::shaped`] joins two segments by a pair of TAP devices, one in each segment's bridge, and a thread that carries frames from
//! one to the other. Hosts on both sides are on one network and notice nothing but the properties, which can be changed at
//! any time with [`ShapedLink::set`]. Losses follow a seed; when they fall on which frame is not repeatable, since that is
//! up to real programs. It carries several 100 Mbit/s on one core.
//!
//! - `line`: one direction, without devices or clocks

mod line;

use std::{
    io,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::Result;

use self::line::Line;
pub use self::line::{Counts, Shape};
use crate::{
    device::{Device, Layer, Wake},
    topology::{Lab, Segment},
    wait::now,
};

/// Frames that are read from one side before the other side has its turn.
const BATCH: usize = 64;
/// The longest frame: what the kernel cuts, it cuts to the MTU.
const FRAME: usize = 9216;

/// Two segments joined by a line with properties. Dropping it parts them.
#[derive(Debug)]
pub struct ShapedLink {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    lines: Mutex<[Line; 2]>,
    ended: AtomicBool,
    wake: Wake,
}

impl Lab {
    /// Joins two segments by a line of this shape in both directions.
    ///
    /// # Errors
    /// When a TAP device can't be made.
    pub fn shaped(&mut self, a: &Segment, b: &Segment, shape: Shape) -> Result<ShapedLink> {
        let name = format!("shaped{}", self.next_link());
        let open = |segment: &Segment| {
            let device = segment.within(|| Device::open(&name, Layer::Frames))?;
            // Longer than any burst of the kernel's, so that all that gets lost is what the shape says.
            segment.ip(&["link", "set", &name, "master", "br0", "txqueuelen", "10000", "up"])?;
            anyhow::Ok(device)
        };
        let devices = [open(a)?, open(b)?];
        let lines = [Line::new(shape.clone(), 1), Line::new(shape, 2)];
        let shared = Arc::new(Shared { lines: Mutex::new(lines), ended: AtomicBool::new(false), wake: Wake::new()? });
        let thread = thread::Builder::new().name(name).spawn({
            let shared = shared.clone();
            move || shared.carry(&devices)
        })?;
        Ok(ShapedLink { shared, thread: Some(thread) })
    }
}

impl ShapedLink {
    /// Gives both directions another shape, for frames that come from now on.
    pub fn set(&self, shape: &Shape) {
        for line in self.shared.lines().iter_mut() {
            line.set(shape.clone());
        }
        self.shared.wake.wake();
    }

    /// What became of the frames so far: from the first segment to the second, and back.
    pub fn counts(&self) -> [Counts; 2] {
        let lines = self.shared.lines();
        [lines[0].counts(), lines[1].counts()]
    }
}

impl Drop for ShapedLink {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::Relaxed);
        self.shared.wake.wake();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn lines(&self) -> MutexGuard<'_, [Line; 2]> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The thread: ends with the handle, or when a device is gone with its segment.
    fn carry(&self, devices: &[Device; 2]) {
        let mut buffer = vec![0; FRAME];
        while !self.ended.load(Ordering::Relaxed) {
            let Ok(due) = self.turn(devices, &mut buffer) else { return };
            if self.wake.wait(devices, due).is_err() {
                return;
            }
        }
    }

    /// Reads what there is, up to a limit, and writes what is due; returns in how long the next frame is due.
    fn turn(&self, devices: &[Device; 2], buffer: &mut [u8]) -> io::Result<Option<Duration>> {
        let mut lines = self.lines();
        for (line, (from, to)) in lines.iter_mut().zip([(0, 1), (1, 0)]) {
            for _ in 0..BATCH {
                let Some(len) = devices[from].read(buffer)? else { break };
                line.push(now(), &buffer[..len]);
            }
            while let Some(frame) = line.pop(now()) {
                devices[to].write(&frame);
            }
        }
        let next = lines.iter().filter_map(Line::next_due).min();
        Ok(next.map(|due| due.saturating_duration_since(now())))
    }
}
