//! Grants as the oracle knows them: by the messages that were delivered, and when. No engine is asked.

use std::time::Duration;

use postern_model::{Filter, GrantId, Protocol, Target};

use crate::setting::At;

/// How long what engine and lane tell each other may take. More than it ever should, so that things cross on the way.
pub(crate) const LANE: Duration = Duration::from_millis(50);

/// One version of a grant at one node.
#[derive(Debug, Clone)]
pub(crate) struct Permit {
    /// The client that holds it, or the gateway that carries it.
    pub(crate) holder: At,
    pub(crate) client: At,
    pub(crate) resource: usize,
    pub(crate) grant: GrantId,
    pub(crate) filter: Filter,
    /// Gateways only.
    pub(crate) target: Option<Target>,
    pub(crate) from: Duration,
    /// From when on the lease is over.
    pub(crate) expires: Duration,
    /// Until when it may still be in force, once it was revoked or replaced.
    pub(crate) until: Option<Duration>,
}

impl Permit {
    fn is_live(&self, at: Duration) -> bool {
        self.from <= at && at < self.expires && self.until.is_none_or(|until| at <= until)
    }
}

/// What is asked about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Use {
    pub(crate) client: At,
    pub(crate) resource: usize,
    pub(crate) protocol: Protocol,
    pub(crate) port: u16,
}

/// All permits that ever were.
#[derive(Debug, Default)]
pub(crate) struct Permits(Vec<Permit>);

impl Permits {
    /// Enters a version; earlier ones of the same grant, or for the same client and resource at a client, end.
    pub(crate) fn give(&mut self, permit: Permit) {
        let replaces = |old: &Permit| {
            old.grant == permit.grant || (permit.holder == permit.client && old.resource == permit.resource)
        };
        self.end(permit.holder, replaces, permit.from);
        self.0.push(permit);
    }

    /// The holder was told at `now` that these end.
    pub(crate) fn end(&mut self, holder: At, which: impl Fn(&Permit) -> bool, now: Duration) {
        for permit in self.0.iter_mut().filter(|permit| permit.holder == holder && which(permit)) {
            permit.until.get_or_insert(now + LANE);
        }
    }

    /// The holder says that a revoked grant is out of force.
    pub(crate) fn acknowledged_end(&mut self, holder: At, grant: GrantId, now: Duration) {
        for permit in self.0.iter_mut().filter(|permit| permit.holder == holder && permit.grant == grant) {
            if let Some(until) = &mut permit.until {
                *until = (*until).min(now);
            }
        }
    }

    /// The permits at `holder` that let this pass at `at`.
    pub(crate) fn live(&self, holder: At, what: Use, at: Duration) -> impl Iterator<Item = &Permit> {
        let fits = move |permit: &&Permit| {
            permit.holder == holder
                && (permit.client, permit.resource) == (what.client, what.resource)
                && permit.filter.allows(what.protocol, what.port)
        };
        self.0.iter().filter(move |permit| permit.is_live(at)).filter(fits)
    }

    pub(crate) fn is_live(&self, holder: At, what: Use, at: Duration) -> bool {
        self.live(holder, what, at).next().is_some()
    }

    /// Whether some permit is live at every moment from `from` to `to`.
    pub(crate) fn lasts(&self, holder: At, what: Use, from: Duration, to: Duration) -> bool {
        let mut at = from;
        while at <= to {
            let ends = self.live(holder, what, at).map(|permit| match permit.until {
                Some(until) => permit.expires.min(until),
                None => permit.expires,
            });
            match ends.max() {
                Some(end) if end > at => at = end,
                _ => return false,
            }
        }
        true
    }
}
