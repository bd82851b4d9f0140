//! Which counters of a session have been seen (section 5.4.6 of the WireGuard paper, and RFC 6479).
//!
//! A ring of bits, one for each of the last [`WIDTH`] counters up to the highest. It is only told of counters whose messages
//! were authentic, or anyone could move it.

use crate::constants::REJECT_AFTER_MESSAGES;

/// So many counters below the highest are told apart. Wide enough for a batch that another core has held up.
pub(crate) const WIDTH: u64 = 8192;
const BITS: u64 = u64::BITS as u64;
const WORDS: usize = (WIDTH / BITS) as usize;

/// The counters that a session has received.
#[derive(Debug)]
pub(crate) struct Window {
    /// One more than the highest counter seen.
    next: u64,
    seen: [u64; WORDS],
}

impl Window {
    pub(crate) const fn new() -> Self {
        Self { next: 0, seen: [0; WORDS] }
    }

    /// Notes an authentic counter; `false` when it was seen before, is too old to tell, or is none that may be used.
    pub(crate) fn accept(&mut self, counter: u64) -> bool {
        if counter >= REJECT_AFTER_MESSAGES {
            return false;
        }
        let (word, bit) = place(counter);
        if counter < self.next {
            let is_new = self.next - counter <= WIDTH && self.seen[word] & bit == 0;
            if is_new {
                self.seen[word] |= bit;
            }
            return is_new;
        }
        self.forget(counter);
        self.seen[word] |= bit;
        self.next = counter + 1;
        true
    }

    /// Clears the places of the counters from `next` up to `end`: who had them before now lies too far back.
    fn forget(&mut self, end: u64) {
        if end - self.next >= WIDTH {
            self.seen = [0; WORDS];
            // All but the place of `end` itself, which is set next.
            return;
        }
        let mut at = self.next;
        while at < end {
            let (word, bit) = place(at);
            let left = end - at;
            if bit == 1 && left >= BITS {
                self.seen[word] = 0;
                at += BITS;
            } else {
                self.seen[word] &= !bit;
                at += 1;
            }
        }
    }
}

/// Where a counter's bit is.
fn place(counter: u64) -> (usize, u64) {
    ((counter / BITS) as usize % WORDS, 1 << (counter % BITS))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    /// What a window is to be, without regard to time and memory.
    #[derive(Default)]
    struct Model {
        seen: BTreeSet<u64>,
    }

    impl Model {
        fn accept(&mut self, counter: u64) -> bool {
            let too_old = self.seen.last().is_some_and(|last| last.saturating_sub(counter) >= WIDTH);
            counter < REJECT_AFTER_MESSAGES && !too_old && self.seen.insert(counter)
        }
    }

    #[test]
    fn it_is_as_wide_as_it_says() {
        let mut window = Window::new();
        assert!(window.accept(WIDTH));
        assert!(window.accept(1), "the last one inside");
        assert!(!window.accept(0), "one further back");
        assert!(!window.accept(1) && !window.accept(WIDTH), "each one once");
        assert!(window.accept(3 * WIDTH));
        assert!(!window.accept(2 * WIDTH) && window.accept(2 * WIDTH + 1), "nothing is left of before");
    }

    #[test]
    fn the_last_counters_are_for_nobody() {
        let mut window = Window::new();
        assert!(window.accept(REJECT_AFTER_MESSAGES - 1));
        assert!(!window.accept(REJECT_AFTER_MESSAGES) && !window.accept(u64::MAX));
        assert!(window.accept(REJECT_AFTER_MESSAGES - 2));
    }

    /// Steps that stay near the highest counter, jump around the window's edges, and leap far.
    fn step() -> impl Strategy<Value = i64> {
        let width = WIDTH as i64;
        prop_oneof![
            6 => -3i64..=4,
            3 => -200i64..=200,
            2 => -width - 2..=-width + 2,
            2 => width - 2..=width + 2,
            1 => -2 * width..=3 * width,
        ]
    }

    proptest! {
        /// Invariant: no counter is accepted twice, and none inside the window is refused.
        #[test]
        fn it_does_what_a_set_would(start in prop_oneof![Just(0u64), 0u64..20_000], steps in prop::collection::vec(step(), 1..400)) {
            let (mut window, mut model) = (Window::new(), Model::default());
            let mut highest = start;
            for step in steps {
                let counter = highest.saturating_add_signed(step);
                prop_assert_eq!(window.accept(counter), model.accept(counter), "counter {}", counter);
                highest = highest.max(counter);
            }
        }
    }
}
