//! [`Denials`]: the same denial is recorded once in a while, with how many it was. Whoever is denied may ask as often as it
//! likes, and an app that tries again and again fills no log.

use std::{
    collections::{HashMap, VecDeque},
    time::Duration,
};

use postern_model::{DenyReason, DeviceId, Moment, ResourceId};

/// How long the same denial is only counted after it was recorded.
pub(crate) const COUNTED: Duration = Duration::from_secs(60);
/// Denials that are remembered; more than that at a time are recorded each.
const REMEMBERED: usize = 1 << 16;
/// More than this are not recorded in one transaction.
const PER_BATCH: usize = 1000;

/// Who was denied what, and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Denial {
    pub(crate) device: DeviceId,
    pub(crate) resource: ResourceId,
    pub(crate) reason: DenyReason,
}

/// The denials of late.
#[derive(Debug, Default)]
pub(crate) struct Denials {
    /// How often each was repeated since it was recorded.
    repeats: HashMap<Denial, u64>,
    /// When each of them was recorded, the first one first.
    recorded: VecDeque<(Moment, Denial)>,
}

impl Denials {
    /// Whether this one was recorded a moment ago.
    pub(crate) fn is_recorded(&self, denial: &Denial) -> bool {
        self.repeats.contains_key(denial)
    }

    /// This one happened. It was recorded now unless [`Self::is_recorded`] said that it was before.
    pub(crate) fn count(&mut self, denial: Denial, now: Moment) {
        if let Some(repeats) = self.repeats.get_mut(&denial) {
            *repeats += 1;
        } else if self.repeats.len() < REMEMBERED {
            self.repeats.insert(denial, 0);
            self.recorded.push_back((now, denial));
        }
    }

    /// Those that were recorded long enough ago, with how often each was repeated since; the next call has the rest.
    pub(crate) fn due(&self, now: Moment) -> impl Iterator<Item = (Denial, u64)> {
        let due = self.recorded.iter().take_while(move |(at, _)| *at + COUNTED <= now).take(PER_BATCH);
        due.map(|(_, denial)| (*denial, self.repeats.get(denial).copied().unwrap_or_default()))
    }

    /// What was due then is recorded, and forgotten.
    pub(crate) fn forget_due(&mut self, now: Moment) {
        let due = self.due(now).count();
        for (_, denial) in self.recorded.drain(..due) {
            self.repeats.remove(&denial);
        }
    }

    /// When the next will be due.
    pub(crate) fn next_due(&self) -> Option<Moment> {
        self.recorded.front().map(|(at, _)| *at + COUNTED)
    }
}
