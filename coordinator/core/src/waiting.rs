//! [`WaitingGrants`]: grants that their gateway has not yet acknowledged as they are now, and until when it may.

use std::collections::{BTreeSet, HashMap};

use postern_model::{GrantId, Moment, grant::Grant};

use crate::AccessTicket;

/// A grant that its gateway has not yet acknowledged as it is now.
#[derive(Debug)]
pub(crate) struct Waiting {
    /// The requests to be answered then.
    pub(crate) tickets: Vec<AccessTicket>,
    /// Whether the client is to be told in its session as well.
    pub(crate) push: bool,
    /// What the gateway has in force meanwhile, if it has acknowledged the grant before.
    pub(crate) before: Option<Grant>,
    /// When the gateway has failed to; `None` when nobody waits for that: it is away, or has failed already.
    until: Option<Moment>,
}

impl Waiting {
    /// Whether the gateway may still acknowledge it in time.
    pub(crate) fn is_awaited(&self) -> bool {
        self.until.is_some()
    }
}

/// All of them, the deadlines in their order.
#[derive(Debug, Default)]
pub(crate) struct WaitingGrants {
    grants: HashMap<GrantId, Waiting>,
    deadlines: BTreeSet<(Moment, GrantId)>,
}

impl WaitingGrants {
    pub(crate) fn get(&self, id: GrantId) -> Option<&Waiting> {
        self.grants.get(&id)
    }

    pub(crate) fn get_mut(&mut self, id: GrantId) -> Option<&mut Waiting> {
        self.grants.get_mut(&id)
    }

    /// Takes a grant in, unless it waits already. `before` is what its gateway has in force.
    pub(crate) fn add(&mut self, id: GrantId, before: Option<Grant>) -> &mut Waiting {
        self.grants.entry(id).or_insert(Waiting { tickets: Vec::new(), push: false, before, until: None })
    }

    /// These requests wait for that grant as well.
    pub(crate) fn take_over(&mut self, id: GrantId, tickets: Vec<AccessTicket>) {
        if let Some(waiting) = self.grants.get_mut(&id) {
            waiting.tickets.extend(tickets);
        }
    }

    /// Gives the gateway until then, unless it has a deadline already.
    pub(crate) fn expect(&mut self, id: GrantId, until: Moment) {
        if let Some(waiting) = self.grants.get_mut(&id).filter(|waiting| waiting.until.is_none()) {
            waiting.until = Some(until);
            self.deadlines.insert((until, id));
        }
    }

    /// Nobody waits for the gateway any more; returns the requests that did.
    pub(crate) fn give_up(&mut self, id: GrantId) -> Vec<AccessTicket> {
        let Some(waiting) = self.grants.get_mut(&id) else { return Vec::new() };
        if let Some(until) = waiting.until.take() {
            self.deadlines.remove(&(until, id));
        }
        std::mem::take(&mut waiting.tickets)
    }

    /// The grant is acknowledged, or is no more.
    pub(crate) fn remove(&mut self, id: GrantId) -> Option<Waiting> {
        let waiting = self.grants.remove(&id)?;
        if let Some(until) = waiting.until {
            self.deadlines.remove(&(until, id));
        }
        Some(waiting)
    }

    /// Those whose gateway had until now, or less.
    pub(crate) fn late(&self, now: Moment) -> impl Iterator<Item = (GrantId, &Waiting)> {
        let late = self.deadlines.iter().take_while(move |(until, _)| *until <= now);
        late.filter_map(|(_, id)| Some((*id, self.grants.get(id)?)))
    }

    #[cfg(test)]
    pub(crate) fn ids(&self) -> impl Iterator<Item = &GrantId> {
        self.grants.keys()
    }

    /// The deadlines are those of the grants.
    #[cfg(test)]
    pub(crate) fn assert_whole(&self) {
        let until = self.grants.iter().filter_map(|(id, waiting)| Some((waiting.until?, *id)));
        assert_eq!(until.collect::<BTreeSet<_>>(), self.deadlines);
    }

    /// When the next gateway will be late.
    pub(crate) fn next_deadline(&self) -> Option<Moment> {
        self.deadlines.first().map(|(until, _)| *until)
    }
}
