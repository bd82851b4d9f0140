//! When a gateway goes away: its grants move to another gateway of its site.
//!
//! Out of service is a gateway that is drained, or has been away for [`GATEWAY_PATIENCE`]. What it carries for devices that are
//! connected is decided anew, a batch at a time, with a gateway that is in service; what is denied by now ends. A move extends no
//! lease. Grants of devices that are away, and those that no other gateway can take, stay as they are: they are looked at again
//! when a device, or another gateway of the site, connects.
//!
//! Where all gateways of a site were away, it was the coordinator or the site's line, and not each of them: the first one that comes back
//! does not take all that the others carry. They get [`GRACE`] to come back too, as after the coordinator's own start.
//!
//! The new gateway is told first; once it has acknowledged, the client is; and then the old gateway, if it can be. When a gateway
//! is revoked or removed, what it carries has ended with it at once, and is given anew.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    time::Duration,
};

use postern_model::{
    DenyReason, DeviceId, GrantId, Moment, SiteId, Timestamp,
    change::Change,
    grant::{Grant, GrantEnd},
    record::{Device, Owner},
};
use postern_policy::Case;

use crate::{
    AccessTicket, Core, Env,
    access::{Allowed, GRANTS_PER_BATCH},
    draft::Draft,
    gateways::Given,
};

/// How long after it was last heard of a gateway may come back: a restart of the node takes no longer.
pub(crate) const GATEWAY_PATIENCE: Duration = Duration::from_millis(1500);
/// How long after its own start, or a site's return, the coordinator misses no gateway: they are still coming back.
pub(crate) const GRACE: Duration = Duration::from_secs(10);

/// Which gateways are away, and what is to be moved.
#[derive(Debug, Default)]
pub(crate) struct Failover {
    grace_until: Moment,
    /// Gateways that were there, and until when they may come back.
    missing: HashMap<DeviceId, Moment>,
    /// Gateways that did not.
    gone: HashSet<DeviceId>,
    /// Grants that are to be looked at.
    due: BTreeSet<GrantId>,
    /// Grants that ended because their gateway is not trusted any more, and are to be given anew.
    orphans: BTreeMap<GrantId, Grant>,
}

/// What one proposal does.
#[derive(Debug, Clone, Default)]
pub(crate) struct Moves {
    /// Gateways that are gone from now on.
    overdue: Vec<DeviceId>,
    /// Grants that were looked at.
    looked_at: Vec<GrantId>,
    /// Which grant takes the place of which.
    pub(crate) moved: HashMap<GrantId, GrantId>,
}

impl Failover {
    /// The coordinator starts, and these gateways have grants of before.
    pub(crate) fn begin(&mut self, carriers: impl Iterator<Item = DeviceId>, moment: Moment) {
        self.grace_until = moment + GRACE;
        self.missing = carriers.map(|gateway| (gateway, self.grace_until)).collect();
    }

    /// A gateway is there.
    pub(crate) fn came(&mut self, gateway: DeviceId) {
        self.missing.remove(&gateway);
        self.gone.remove(&gateway);
    }

    /// A gateway left, and was last heard of then.
    pub(crate) fn left(&mut self, gateway: DeviceId, heard: Moment) {
        self.missing.insert(gateway, (heard + GATEWAY_PATIENCE).max(self.grace_until));
    }

    /// Those of these that are away get until then.
    fn wait_for(&mut self, gateways: impl Iterator<Item = DeviceId>, until: Moment) {
        for gateway in gateways {
            if self.gone.remove(&gateway) {
                self.missing.insert(gateway, until);
            } else if let Some(missing) = self.missing.get_mut(&gateway) {
                *missing = until.max(*missing);
            }
        }
    }

    /// The device is no gateway any more.
    pub(crate) fn forget(&mut self, device: DeviceId) {
        self.came(device);
    }

    fn overdue(&self, moment: Moment) -> Vec<DeviceId> {
        let overdue = self.missing.iter().filter(|(_, until)| **until <= moment).map(|(gateway, _)| *gateway);
        let mut overdue: Vec<_> = overdue.collect();
        overdue.sort_unstable();
        overdue
    }

    /// In how long something is to be done.
    pub(crate) fn next_due(&self, moment: Moment) -> Option<Duration> {
        if !self.due.is_empty() || !self.orphans.is_empty() {
            return Some(Duration::ZERO);
        }
        self.missing.values().map(|until| until.since(moment)).min()
    }

    #[cfg(test)]
    pub(crate) fn is_idle(&self) -> bool {
        self.due.is_empty() && self.orphans.is_empty()
    }
}

/// Why a grant moves, for the audit log.
fn why(gateway: Option<&Device>) -> &'static str {
    match gateway {
        Some(gateway) if gateway.revoked => "gateway_revoked",
        Some(gateway) if gateway.drained => "gateway_drained",
        Some(_) => "gateway_away",
        None => "gateway_removed",
    }
}

impl Core {
    /// The coordinator starts at this moment: for [`GRACE`] from now nothing is moved because a gateway is not there. To be
    /// called once; without it, gateways that never connect are not missed.
    pub fn begin(&mut self, moment: Moment) {
        let sites = self.state.sites.keys().copied();
        let gateways = sites.flat_map(|site| self.state.devices_of(Owner::Site(site)));
        let carriers = gateways.filter(|gateway| self.state.load_of_gateway(gateway.id) > 0).map(|gateway| gateway.id);
        self.failover.begin(carriers, moment);
    }

    fn is_out_of_service(&self, gateway: DeviceId) -> bool {
        self.failover.gone.contains(&gateway)
            || self.state.devices.get(&gateway).is_none_or(|gateway| gateway.drained || gateway.revoked)
    }

    /// Moves what is to be moved, or a batch of it.
    pub(crate) fn draft_moves(&self, draft: &mut Draft<'_>, env: &mut Env<'_>) -> Moves {
        let overdue = self.failover.overdue(env.moment);
        let newly = overdue.iter().flat_map(|gateway| self.state.grants_of_gateway(*gateway)).map(|grant| grant.id);
        let due: BTreeSet<_> = self.failover.due.iter().copied().chain(newly).take(GRANTS_PER_BATCH).collect();
        let orphans = self.failover.orphans.values().take(GRANTS_PER_BATCH - due.len());
        let (mut moves, mut given) = (Moves::default(), Given::default());
        for id in &due {
            let Some(old) = self.state.grants.get(id).filter(|_| !draft.has_ended(*id)) else { continue };
            if !self.is_out_of_service(old.gateway) && !overdue.contains(&old.gateway) {
                continue;
            }
            match self.decide_move(old, env.now, &given) {
                Ok(allowed) => {
                    draft.end_grant(old, GrantEnd::Replaced);
                    *given.entry(allowed.gateway).or_default() += 1;
                    moves.moved.insert(*id, self.draft_move(draft, old, allowed, env));
                }
                Err(None) => {}
                Err(Some(reason)) => draft.end_grant(old, GrantEnd::Revoked(reason)),
            }
        }
        let mut pairs = HashSet::new();
        for old in orphans.clone() {
            let is_new = self.state.grant_of(old.device, old.resource).is_none();
            if is_new
                && pairs.insert((old.device, old.resource))
                && let Ok(allowed) = self.decide_move(old, env.now, &given)
            {
                *given.entry(allowed.gateway).or_default() += 1;
                self.draft_move(draft, old, allowed, env);
            }
        }
        moves.looked_at = due.iter().copied().chain(orphans.map(|orphan| orphan.id)).collect();
        moves.overdue = overdue;
        moves
    }

    /// Decides a grant anew, with another gateway; `Err(None)` when it has to stay where it is.
    fn decide_move(&self, old: &Grant, now: Timestamp, given: &Given) -> Result<Allowed, Option<DenyReason>> {
        if now >= old.expires_at || !self.sessions.contains_key(&old.device) {
            return Err(None);
        }
        let case = Case::new(&self.state, old.device, old.resource).map_err(Some)?;
        // The clock may have been set back since.
        let latest = old.expires_at.min(now.plus(self.config.lease));
        let decided = self.decide_access(&case, self.surroundings.of_holder(old, now), latest, None, given);
        decided.map_err(|reason| Some(reason).filter(|reason| !reason.is_transient()))
    }

    fn draft_move(&self, draft: &mut Draft<'_>, old: &Grant, allowed: Allowed, env: &mut Env<'_>) -> GrantId {
        let Allowed { filter, policy, gateway, expires_at } = allowed;
        let id = env.id(GrantId::from_bytes);
        let labels = [draft.device_label(old.device), draft.device_label(old.gateway), draft.device_label(gateway)];
        let resource = draft.resource_label(old.resource);
        let why = why(self.state.devices.get(&old.gateway));
        let details: [(&str, &dyn ToString); 7] = [
            ("device", &labels[0]),
            ("resource", &resource),
            ("from", &labels[1]),
            ("to", &labels[2]),
            ("why", &why),
            ("policy", &policy),
            ("filter", &filter),
        ];
        draft.note("grant.move", format!("grant:{id}"), &details);
        let (device, resource, granted_at) = (old.device, old.resource, env.now);
        draft.change(Change::PutGrant(Grant { id, device, resource, gateway, policy, filter, granted_at, expires_at }));
        id
    }

    /// The proposal is applied.
    pub(crate) fn settle_moves(&mut self, moves: &Moves) {
        for gateway in &moves.overdue {
            self.failover.missing.remove(gateway);
            self.failover.gone.insert(*gateway);
            self.look_at_gateway(*gateway);
        }
        for id in &moves.looked_at {
            self.failover.due.remove(id);
            self.failover.orphans.remove(id);
        }
    }

    /// The new grant takes the old one's place; neither end is told before the new gateway has acknowledged. Returns the
    /// requests that waited for the old gateway.
    pub(crate) fn hand_over(&mut self, old: &Grant, new: GrantId, now: Timestamp) -> Vec<AccessTicket> {
        if let Some(session) = self.sessions.get_mut(&old.gateway) {
            session.unacknowledged.remove(&old.id);
        }
        if let Some(name) = self.queried.remove(&old.id) {
            self.queried.insert(new, name);
        }
        self.superseded.put(old.clone(), new, false, now);
        self.waiting.remove(old.id).map(|waiting| waiting.tickets).unwrap_or_default()
    }

    /// A gateway is out of service: what it carries for devices that are there is to be moved, if anything can take it.
    pub(crate) fn look_at_gateway(&mut self, gateway: DeviceId) {
        let Some(Device { owner: Owner::Site(site), .. }) = self.state.devices.get(&gateway) else { return };
        if self.is_out_of_service(gateway) && self.has_other_gateway(*site, [gateway; 2]) {
            let carried = self.state.grants_of_gateway(gateway);
            let held = carried.filter(|grant| self.sessions.contains_key(&grant.device)).map(|grant| grant.id);
            self.failover.due.extend(held);
        }
    }

    /// A gateway of this site is in service, and may take what others can't carry.
    pub(crate) fn look_at_site(&mut self, site: SiteId) {
        let others: Vec<_> = self.state.devices_of(Owner::Site(site)).map(|gateway| gateway.id).collect();
        for gateway in others {
            self.look_at_gateway(gateway);
        }
    }

    /// A device is there: what it holds of gateways that are out of service is to be moved, and what others can't carry, if it
    /// is a gateway itself.
    pub(crate) fn look_at_device(&mut self, device: DeviceId, moment: Moment) {
        let is_stuck = |grant: &&Grant| self.is_out_of_service(grant.gateway);
        let stuck: Vec<_> = self.state.grants_of_device(device).filter(is_stuck).map(|grant| grant.id).collect();
        self.failover.due.extend(stuck);
        if let Some(Device { owner: Owner::Site(site), .. }) = self.state.devices.get(&device) {
            let site = *site;
            self.failover.came(device);
            if !self.has_other_gateway(site, [device; 2]) {
                // The first one that is there again.
                let others = self.state.devices_of(Owner::Site(site)).map(|gateway| gateway.id);
                self.failover.wait_for(others, moment + GRACE);
            }
            self.look_at_site(site);
        }
    }

    /// A grant ended with its gateway, which was revoked or removed: it is to be given anew, if another gateway can.
    pub(crate) fn note_orphan(&mut self, grant: Grant) {
        let Some(site) = self.state.resources.get(&grant.resource).map(|resource| resource.site) else { return };
        let is_there = self.sessions.contains_key(&grant.device);
        if is_there && self.has_other_gateway(site, [grant.gateway, grant.device]) {
            self.failover.orphans.insert(grant.id, grant);
        }
    }
}
