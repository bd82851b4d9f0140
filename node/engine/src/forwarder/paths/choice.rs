//! Which path is better than which.
//!
//! Direct ones are better than relayed ones, unless they are very much slower; else it is the round trip, by enough of a
//! difference that two paths that are about the same don't change places.

use std::time::Duration;

use postern_model::Moment;

use super::path::Path;
use crate::Endpoint;

/// A direct path may be this many times slower than a relayed one, and this much more, and is still better.
const DIRECT_TIMES: u32 = 3;
const DIRECT_MORE: Duration = Duration::from_millis(20);
/// To be quicker, a path has to take at most so many percent of the other's round trip, and to be quicker by so much.
const PERCENT: u32 = 85;
const QUICKER: Duration = Duration::from_millis(1);
/// An answer is no older than this when it says how things are now.
const FRESH: Duration = Duration::from_secs(3);

/// What a path is, compared with the one in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Better at once: a direct one in place of a relayed one.
    Now,
    /// Better, if it is so again.
    Better,
    /// Not better.
    No,
}

/// Whether to change to a path that has just been proven.
pub(super) fn compare(path: &Path, used: &Path) -> Verdict {
    let Some(time) = path.round_trip() else { return Verdict::No };
    match (path.endpoint.is_relayed(), used.endpoint.is_relayed(), used.round_trip()) {
        (false, true, None) => Verdict::Now,
        (false, true, Some(relayed)) if is_near(time, relayed) => Verdict::Now,
        (true, false, Some(direct)) if !is_near(direct, time) => Verdict::Better,
        (is_relayed, was_relayed, Some(before)) if is_relayed == was_relayed && is_quicker(time, before) => {
            Verdict::Better
        }
        _ => Verdict::No,
    }
}

/// Whether a direct path is near enough to be better than a relayed one.
fn is_near(direct: Duration, relayed: Duration) -> bool {
    direct <= relayed * DIRECT_TIMES + DIRECT_MORE
}

fn is_quicker(time: Duration, before: Duration) -> bool {
    time * 100 <= before * PERCENT && time + QUICKER <= before
}

/// Where to turn from a path that has died: to the best that has just been proven, or else to a relay that has the peer, since
/// that carries data at once; or else to what was proven once, or to a relay that may have it.
pub(super) fn refuge(paths: &[Path], dead: Option<Endpoint>, now: Moment) -> Option<usize> {
    let others = || paths.iter().enumerate().filter(|(_, path)| Some(path.endpoint) != dead && !path.is_dead);
    let is_fresh = |path: &Path| path.answered.is_some_and(|answered| now.since(answered) <= FRESH);
    let fresh = best(&others().filter(|(_, path)| is_fresh(path)));
    let there = || others().find(|(_, path)| path.is_there == Some(true)).map(|(nth, _)| nth);
    let proven = || best(&others().filter(|(_, path)| path.is_proven()));
    let relay = || {
        let mut relays = others().filter(|(_, path)| path.endpoint.is_relayed() && path.is_there.is_none());
        relays.next().map(|(nth, _)| nth)
    };
    fresh.or_else(there).or_else(proven).or_else(relay)
}

/// The best of paths that were proven.
fn best<'a>(paths: &(impl Iterator<Item = (usize, &'a Path)> + Clone)) -> Option<usize> {
    let quickest = |is_relayed: bool| {
        let paths = paths.clone().filter(|(_, path)| path.endpoint.is_relayed() == is_relayed);
        paths.filter_map(|(nth, path)| Some((path.round_trip()?, nth))).min()
    };
    match (quickest(false), quickest(true)) {
        (Some((direct, nth)), Some((relayed, _))) if is_near(direct, relayed) => Some(nth),
        (Some(_), Some((_, nth))) | (Some((_, nth)), None) | (None, Some((_, nth))) => Some(nth),
        (None, None) => None,
    }
}
