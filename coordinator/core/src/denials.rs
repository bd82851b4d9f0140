//! [`Denials`]: the same denial is recorded once in a while, with how many it was. Whoever is denied may ask as often as it
//! likes, and an app that tries again and again fills no log. What policies in shadow would have made of them is counted alike.

use std::{
    collections::{HashMap, VecDeque},
    time::Duration,
};

use postern_model::{DenyReason, DeviceId, Moment, ResourceId};

use crate::shadow::Note;

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

/// What is counted since a denial was recorded.
#[derive(Debug, Default)]
pub(crate) struct Repeats {
    /// How often it was repeated.
    pub(crate) times: u64,
    /// What policies in shadow made of it the last time, which is recorded.
    pub(crate) shadows: Vec<Note>,
    /// How often they made the same of it since.
    pub(crate) shadow_times: u64,
}

/// The denials of late.
#[derive(Debug, Default)]
pub(crate) struct Denials {
    repeats: HashMap<Denial, Repeats>,
    /// When each of them was recorded, the first one first.
    recorded: VecDeque<(Moment, Denial)>,
}

impl Denials {
    /// What was counted of this one, if it was recorded a moment ago.
    pub(crate) fn recorded(&self, denial: &Denial) -> Option<&Repeats> {
        self.repeats.get(denial)
    }

    /// This one happened, and policies in shadow would have made this of it. Unless [`Self::recorded`] has said that it was
    /// recorded before, it was recorded now; and so were the shadows, where they are others than before.
    pub(crate) fn count(&mut self, denial: Denial, shadows: Vec<Note>, now: Moment) {
        if let Some(repeats) = self.repeats.get_mut(&denial) {
            repeats.times += 1;
            if repeats.shadows == shadows {
                repeats.shadow_times += 1;
            } else {
                (repeats.shadows, repeats.shadow_times) = (shadows, 0);
            }
        } else if self.repeats.len() < REMEMBERED {
            self.repeats.insert(denial, Repeats { shadows, ..Repeats::default() });
            self.recorded.push_back((now, denial));
        }
    }

    /// Those that were recorded long enough ago, with what was counted since; the next call has the rest.
    pub(crate) fn due(&self, now: Moment) -> impl Iterator<Item = (Denial, &Repeats)> {
        let due = self.recorded.iter().take_while(move |(at, _)| *at + COUNTED <= now).take(PER_BATCH);
        due.filter_map(|(_, denial)| Some((*denial, self.repeats.get(denial)?)))
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
