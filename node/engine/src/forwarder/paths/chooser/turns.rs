//! What a chooser turns to: searches, checks, doubt, and from one path to another.

use postern_model::Moment;

use super::{
    super::{
        choice::{self, Verdict},
        path::{Path, Why},
    },
    AGAIN, Chooser, DEBT, FORGIVEN, MOST_OWED, PATIENCE, PAUSE, SILENT, WINS,
};
use crate::Endpoint;

impl Chooser {
    /// Looks around, unless there is only one way.
    pub(super) fn look(&mut self, now: Moment) {
        let pause = self.pause;
        self.pause = (pause * 2).min(PAUSE.1);
        if self.paths.len() > 1 || self.searched.is_none() {
            self.search(true, now);
        }
        self.look_at = now + pause;
    }

    /// The same once data is sent.
    pub(super) fn search_soon(&mut self, now: Moment) {
        (self.pause, self.look_at) = (PAUSE.0, now);
    }

    pub(super) fn search(&mut self, calls: bool, now: Moment) {
        self.searched = Some(now);
        self.wake(now);
        let checked = self.used.endpoint.filter(|_| self.is_checked);
        for path in &mut self.paths {
            path.measured = 0;
            if path.is_there != Some(false) && Some(path.endpoint) != checked {
                path.probe(Why::Search { calls }, now);
            }
        }
    }

    /// Finds out quickly whether the path in use still carries anything.
    pub(super) fn check(&mut self, now: Moment) {
        if let Some(path) = self.path_in_use_mut() {
            path.probe(Why::Check, now);
            self.is_checked = true;
            self.wake(now);
        }
    }

    pub(super) fn end_check(&mut self) {
        self.is_checked = false;
        if let Some(path) = self.path_in_use_mut()
            && path.probing.is_some_and(|probing| probing.why == Why::Check)
        {
            path.probing = None;
        }
        self.end_doubt();
    }

    /// The path in use may be of no use: what there is to send goes through a relay until it has answered.
    pub(super) fn doubt(&mut self, now: Moment) {
        if self.used.endpoint.is_some_and(|used| !used.is_relayed()) {
            self.is_doubtful = true;
            let there = self.paths.iter().find(|path| path.is_there == Some(true) && !path.is_dead);
            self.detour = there.map(|path| path.endpoint);
        }
        self.check(now);
    }

    pub(super) fn end_doubt(&mut self) {
        self.is_doubtful = false;
        // The other end follows back.
        self.used.wants_keepalive |= self.detour.take().is_some();
    }

    /// No probe of a path was answered.
    pub(super) fn failed(&mut self, nth: usize, now: Moment) {
        let path = &mut self.paths[nth];
        if Some(path.endpoint) != self.used.endpoint {
            return path.die();
        }
        let was_checked = std::mem::take(&mut self.is_checked);
        let is_heard = self.used.heard.is_some_and(|heard| now.since(heard) < SILENT);
        // Other implementations of WireGuard answer no probes.
        if was_checked || !is_heard {
            self.lose(now);
        }
    }

    /// The path in use is dead.
    fn lose(&mut self, now: Moment) {
        let is_forgiven = now.since(self.since) >= FORGIVEN;
        if let Some(path) = self.path_in_use_mut() {
            path.die();
            path.deaths = if is_forgiven { 1 } else { path.deaths.saturating_add(1) };
            path.owed = path.deaths.min(MOST_OWED);
        }
        self.leave(now);
    }

    /// Uses another path than the one in use, if there is any.
    pub(super) fn leave(&mut self, now: Moment) {
        self.is_checked = false;
        self.search_soon(now + PAUSE.0);
        match choice::refuge(&self.paths, self.used.endpoint, now) {
            Some(nth) => self.switch(self.paths[nth].endpoint, now),
            None => {
                (self.is_lost, self.is_doubtful, self.detour, self.used.unanswered) = (true, false, None, None);
            }
        }
    }

    pub(super) fn switch(&mut self, endpoint: Endpoint, now: Moment) {
        let heard = self.index(endpoint).and_then(|nth| self.paths[nth].heard);
        // What was heard meanwhile is known of the one that is left.
        let heard_there = self.used.heard;
        if let Some(path) = self.path_in_use_mut() {
            path.heard = path.heard.max(heard_there);
        }
        self.used.move_to(endpoint, heard);
        self.used.patience = PATIENCE.0;
        self.used.wants_keepalive = true;
        self.wake(now);
        self.since = now;
        (self.is_lost, self.is_doubtful, self.detour, self.is_checked) = (false, false, None, false);
        self.paths.iter_mut().for_each(|path| path.wins = 0);
    }

    /// Another path than the one in use has answered.
    pub(super) fn consider(&mut self, nth: usize, now: Moment) {
        let path = &self.paths[nth];
        let endpoint = path.endpoint;
        let Some(used) = self.path_in_use().filter(|used| !used.is_dead) else { return self.switch(endpoint, now) };
        if path.owed > 0 {
            self.probe(nth, Why::Search { calls: false }, now + DEBT);
        } else if self.is_doubtful && endpoint.is_relayed() {
            self.detour = Some(endpoint);
        } else if self.is_doubtful {
            self.switch(endpoint, now);
        } else {
            match choice::compare(path, used) {
                Verdict::Now => self.switch(endpoint, now),
                Verdict::Better if path.wins + 1 >= WINS => self.switch(endpoint, now),
                Verdict::Better => {
                    self.paths[nth].wins += 1;
                    self.try_again(nth, now);
                }
                Verdict::No => self.paths[nth].wins = 0,
            }
        }
    }

    /// Measures a path and the one in use once more, at the same time.
    pub(super) fn try_again(&mut self, nth: usize, now: Moment) {
        self.probe(nth, Why::Search { calls: false }, now + AGAIN);
        if let Some(used) = self.path_in_use_mut().filter(|used| used.probing.is_none()) {
            used.probe(Why::Search { calls: false }, now + AGAIN);
        }
    }

    /// One that was found better before this one's round trip was known, and is not under way of being tried.
    pub(super) fn better_than_used(&self) -> Option<usize> {
        let used = self.path_in_use()?;
        let is_better = |path: &Path| {
            path.endpoint != used.endpoint
                && path.is_proven()
                && path.wins == 0
                && path.probing.is_none()
                && path.answered >= self.searched
                && choice::compare(path, used) != Verdict::No
        };
        self.paths.iter().position(is_better)
    }
}
