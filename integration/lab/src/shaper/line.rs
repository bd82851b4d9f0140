//! One direction of a shaped line: when each frame arrives, if it does. The time is an argument.

use std::{
    cmp::Reverse,
    collections::BinaryHeap,
    time::{Duration, Instant},
};

use crate::random::Random;

/// Bytes on their way at most, whatever the latency: 100 ms of 5 Gbit/s.
const MOST_UNDERWAY: usize = 64 << 20;

/// The properties of a line.
#[derive(Debug, Clone, PartialEq)]
pub struct Shape {
    /// How long a frame takes.
    pub latency: Duration,
    /// How much longer it takes at most; each frame another time. Their order is kept.
    pub jitter: Duration,
    /// The probability that a frame is lost.
    pub loss: f64,
    /// The probability that a frame is held back for another 5 ms and the jitter, so that later ones overtake it.
    pub reorder: f64,
    /// Bits in a second; unlimited without.
    pub rate: Option<u64>,
    /// The bytes that may wait for the rate before more are dropped.
    pub queue: usize,
}

impl Default for Shape {
    fn default() -> Self {
        let none = Duration::ZERO;
        Self { latency: none, jitter: none, loss: 0.0, reorder: 0.0, rate: None, queue: 256 << 10 }
    }
}

impl Shape {
    /// A line that only takes this long in each direction.
    pub fn latency(latency: Duration) -> Self {
        Self { latency, ..Self::default() }
    }
}

/// What became of frames.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Those that arrived.
    pub carried: u64,
    /// Those that were lost as the shape says.
    pub lost: u64,
    /// Those that found the queue full.
    pub overflowed: u64,
    /// Those, of the carried, that were held back.
    pub held_back: u64,
}

/// A frame on its way. The earliest is the greatest, with the order of arrival among equals.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Underway {
    due: Reverse<Instant>,
    number: Reverse<u64>,
    frame: Vec<u8>,
}

/// How long a frame is held back that others are to overtake.
const HELD_BACK: Duration = Duration::from_millis(5);

/// One direction.
#[derive(Debug)]
pub(super) struct Line {
    shape: Shape,
    random: Random,
    underway: BinaryHeap<Underway>,
    bytes: usize,
    number: u64,
    /// When the line has sent all that waits for its rate.
    free: Option<Instant>,
    /// When the last frame is due that was not held back: none is earlier than those before it.
    last: Option<Instant>,
    counts: Counts,
}

impl Line {
    pub(super) fn new(shape: Shape, seed: u64) -> Self {
        Self {
            shape,
            random: Random::new(seed),
            underway: BinaryHeap::new(),
            bytes: 0,
            number: 0,
            free: None,
            last: None,
            counts: Counts::default(),
        }
    }

    pub(super) fn set(&mut self, shape: Shape) {
        self.shape = shape;
    }

    pub(super) fn counts(&self) -> Counts {
        self.counts
    }

    /// A frame enters.
    pub(super) fn push(&mut self, now: Instant, frame: &[u8]) {
        if self.random.chance(self.shape.loss) {
            self.counts.lost += 1;
            return;
        }
        let mut sent = now;
        if let Some(rate) = self.shape.rate {
            let rate = rate.max(1) as f64;
            let begin = self.free.map_or(now, |free| free.max(now));
            let waiting = begin.duration_since(now).as_secs_f64() * rate / 8.0;
            if waiting > self.shape.queue as f64 {
                self.counts.overflowed += 1;
                return;
            }
            sent = begin + Duration::from_secs_f64(frame.len() as f64 * 8.0 / rate);
        }
        if self.bytes + frame.len() > MOST_UNDERWAY {
            self.counts.overflowed += 1;
            return;
        }
        if self.shape.rate.is_some() {
            self.free = Some(sent);
        }
        let mut due = sent + self.shape.latency + self.shape.jitter.mul_f64(self.random.fraction());
        if self.random.chance(self.shape.reorder) {
            due += HELD_BACK + self.shape.jitter;
            self.counts.held_back += 1;
        } else {
            due = self.last.map_or(due, |last| due.max(last));
            self.last = Some(due);
        }
        self.bytes += frame.len();
        self.underway.push(Underway { due: Reverse(due), number: Reverse(self.number), frame: frame.to_vec() });
        self.number += 1;
    }

    /// A frame that is due leaves.
    pub(super) fn pop(&mut self, now: Instant) -> Option<Vec<u8>> {
        if self.next_due()? > now {
            return None;
        }
        let frame = self.underway.pop()?.frame;
        self.bytes -= frame.len();
        self.counts.carried += 1;
        Some(frame)
    }

    /// When the next frame is due.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.underway.peek().map(|next| next.due.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wait;

    const MILLISECOND: Duration = Duration::from_millis(1);

    /// Sends numbered frames of 1000 bytes, one each millisecond, and returns which arrive when (in milliseconds).
    fn run(shape: Shape, frames: u32) -> (Vec<(u32, u128)>, Counts) {
        let mut line = Line::new(shape, 7);
        let start = wait::now();
        let mut arrived = Vec::new();
        for ms in 0..frames + 10_000 {
            let now = start + MILLISECOND * ms;
            if ms < frames {
                let mut frame = vec![0; 1000];
                frame[..4].copy_from_slice(&ms.to_be_bytes());
                line.push(now, &frame);
            }
            while let Some(frame) = line.pop(now) {
                arrived.push((u32::from_be_bytes(*frame.first_chunk().unwrap()), (now - start).as_millis()));
            }
        }
        assert!(line.next_due().is_none() && line.bytes == 0, "all have left");
        (arrived, line.counts())
    }

    #[test]
    fn latency_is_exact_and_jitter_keeps_the_order() {
        let (arrived, _) = run(Shape::latency(20 * MILLISECOND), 100);
        assert_eq!(arrived, (0..100).map(|n| (n, u128::from(n) + 20)).collect::<Vec<_>>());
        let (arrived, _) = run(Shape { jitter: 30 * MILLISECOND, ..Shape::latency(20 * MILLISECOND) }, 1000);
        assert!(arrived.is_sorted() && arrived.len() == 1000);
        assert!(arrived.iter().all(|(n, ms)| (20..=51).contains(&(ms - u128::from(*n)))));
        assert!(arrived.iter().any(|(n, ms)| ms - u128::from(*n) > 30), "it varies");
    }

    #[test]
    fn so_many_are_lost_and_so_many_are_overtaken() {
        let (arrived, counts) = run(Shape { loss: 0.3, ..Shape::default() }, 10_000);
        assert!((6_700..7_300).contains(&arrived.len()), "{}", arrived.len());
        assert_eq!(counts.lost + counts.carried, 10_000);
        let (arrived, counts) = run(Shape { reorder: 0.1, ..Shape::default() }, 10_000);
        assert_eq!(arrived.len(), 10_000, "none is lost");
        let overtaken = arrived.windows(2).filter(|pair| pair[0].0 > pair[1].0).count();
        assert!(overtaken > 500 && counts.held_back > 800, "{overtaken} {counts:?}");
    }

    #[test]
    fn the_rate_holds_and_what_the_queue_does_not_hold_is_dropped() {
        // 4 Mbit/s take a frame of 1000 bytes in 2 ms; they come twice as fast.
        let (arrived, counts) = run(Shape { rate: Some(4_000_000), queue: 100_000, ..Shape::default() }, 1000);
        let (_, last) = arrived.last().unwrap();
        let (expected, took) = (arrived.len() as u128 * 2, *last);
        assert!(took.abs_diff(expected) <= 3, "{took} {expected}");
        // Half of a second's frames, and a full queue.
        assert!((595..=605).contains(&arrived.len()), "{}", arrived.len());
        assert_eq!(counts.overflowed + counts.carried, 1000);
    }

    #[test]
    fn however_long_the_line_what_is_on_it_is_bounded() {
        let mut line = Line::new(Shape::latency(Duration::from_secs(1000)), 1);
        let now = wait::now();
        for _ in 0..100_000 {
            line.push(now, &[0; 1500]);
        }
        assert!(line.bytes <= MOST_UNDERWAY && line.counts.overflowed > 0);
        assert!(line.pop(now).is_none());
    }
}
