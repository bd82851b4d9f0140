//! [`Enforcement`]: what a change has come to at the gateways. Each of them that carries a grant which a change ends or narrows
//! is told, and acknowledges once it lets no more through; the report says who has, how long it took, and until when at most
//! the others can go on: the end of the lease that they know.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Duration,
};

use postern_model::{DeviceId, GrantId, Moment, Revision, Timestamp, audit::AuditEvent, grant::Grant};

use crate::draft::Draft;

/// The reports that are kept, the latest ones.
const KEPT: usize = 1024;
/// The most acknowledgements that are waited for in all of them: with more, the oldest reports go.
const MAX_AWAITED: usize = 1 << 18;
/// A report that not all have acknowledged is recorded after so long as it is then: whoever has not by then is offline or
/// does not speak.
const RECORDED_AFTER: Duration = Duration::from_secs(30);

/// A gateway, and a grant that it carries.
type Enforced = (DeviceId, GrantId);

/// What one change has come to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChangeReport {
    /// The revision that it made.
    pub revision: Revision,
    /// When it was committed.
    pub at: Timestamp,
    /// What it was: the audit entries' actions and objects, the first ones.
    pub what: Vec<(String, String)>,
    /// How many more there are.
    pub more: usize,
    /// How many grants were decided anew.
    pub redecided: usize,
    /// How many of them ended.
    pub ended: usize,
    /// How many go on otherwise: with other ports, or a sooner end.
    pub changed: usize,
    /// How many open connections were cut, as their gateways have counted.
    pub cut: u64,
    /// The gateways that are to enforce it.
    pub nodes: BTreeMap<DeviceId, NodeReport>,
    /// From the commit to each acknowledgement; emptied once the report is recorded.
    latencies: Vec<Duration>,
    /// The median and the 99th percentile, once it is.
    summary: Option<(Duration, Duration)>,
    committed: Moment,
    is_recorded: bool,
    /// Whether it was recorded before all had acknowledged, and is to be once more when they have.
    is_open: bool,
}

/// What one gateway has of it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NodeReport {
    /// What it has yet to acknowledge, and when that ends at the latest.
    pub pending: BTreeMap<GrantId, Timestamp>,
    /// Whether it is away, as far as the coordinator knows.
    pub is_offline: bool,
    /// What it has acknowledged.
    pub acknowledged: usize,
}

impl NodeReport {
    /// Whether it has acknowledged all of it.
    pub fn has_acknowledged(&self) -> bool {
        self.pending.is_empty()
    }

    /// Whether nothing that the change took away passes through it any more: it has acknowledged that, or the leases that it
    /// knows of have ended.
    pub fn is_enforced(&self, now: Timestamp) -> bool {
        self.pending.values().all(|bound| *bound <= now)
    }

    /// When it will be so at the latest, if it is not.
    pub fn bound(&self, now: Timestamp) -> Option<Timestamp> {
        self.pending.values().filter(|bound| **bound > now).max().copied()
    }
}

impl ChangeReport {
    /// What half of the acknowledgements, and 99 in 100, took no longer than; `None` before the first. Acknowledgements that
    /// come after the report was recorded are not among them.
    pub fn latency(&self) -> Option<(Duration, Duration)> {
        self.summary.or_else(|| {
            let mut sorted = self.latencies.clone();
            sorted.sort_unstable();
            let at = |per_cent: usize| sorted.get((sorted.len() * per_cent).div_ceil(100).saturating_sub(1)).copied();
            Some((at(50)?, at(99)?))
        })
    }

    /// Whether all nodes enforce it.
    pub fn is_enforced(&self, now: Timestamp) -> bool {
        self.nodes.values().all(|node| node.is_enforced(now))
    }
}

/// What a change does to grants, before it is known who has heard.
#[derive(Debug, Default)]
pub(crate) struct Effects {
    pub(crate) redecided: usize,
    /// The grants that end, as they were.
    pub(crate) ended: Vec<Grant>,
    /// The grants that go on with less, as they were.
    pub(crate) changed: Vec<Grant>,
    /// Grants whose place one of those had taken, and which other gateways may still have in force.
    pub(crate) elsewhere: Vec<Grant>,
}

/// All reports that are kept.
#[derive(Debug, Default)]
pub(crate) struct Enforcement {
    reports: VecDeque<ChangeReport>,
    /// Which changes wait for which acknowledgement.
    awaited: BTreeMap<Enforced, Vec<Revision>>,
}

impl Enforcement {
    /// Begins a report. `is_connected` says who is there to be told.
    pub(crate) fn begin(
        &mut self,
        (revision, at, committed): (Revision, Timestamp, Moment),
        audit: &[AuditEvent],
        effects: &Effects,
        is_connected: impl Fn(DeviceId) -> bool,
    ) {
        /// More than the first few are in the audit log.
        const SHOWN: usize = 8;
        let mut nodes: BTreeMap<DeviceId, NodeReport> = BTreeMap::new();
        for grant in effects.ended.iter().chain(&effects.changed).chain(&effects.elsewhere) {
            let node = nodes.entry(grant.gateway).or_default();
            node.is_offline = !is_connected(grant.gateway);
            // A gateway that has not heard of an earlier change goes by the end that it knows.
            let earlier = self.awaited.get(&(grant.gateway, grant.id)).into_iter().flatten();
            let earlier = earlier.filter_map(|revision| {
                self.report(*revision)?.nodes.get(&grant.gateway)?.pending.get(&grant.id).copied()
            });
            node.pending.insert(grant.id, earlier.fold(grant.expires_at, Timestamp::max));
            self.awaited.entry((grant.gateway, grant.id)).or_default().push(revision);
        }
        let is_of_grants = |event: &&AuditEvent| event.action.starts_with("grant.");
        let causes = audit.iter().filter(|event| !is_of_grants(event));
        let more = causes.clone().count().saturating_sub(SHOWN);
        let what = causes.take(SHOWN).map(|event| (event.action.clone(), event.object.clone())).collect();
        self.reports.push_back(ChangeReport {
            revision,
            at,
            what,
            more,
            redecided: effects.redecided,
            ended: effects.ended.len(),
            changed: effects.changed.len(),
            cut: 0,
            is_recorded: nodes.is_empty(),
            is_open: false,
            nodes,
            latencies: Vec::new(),
            summary: None,
            committed,
        });
        while self.reports.len() > KEPT || (self.awaited.len() > MAX_AWAITED && self.reports.len() > 1) {
            if let Some(report) = self.reports.pop_front() {
                self.forget(&report);
            }
        }
    }

    fn forget(&mut self, report: &ChangeReport) {
        for (device, node) in &report.nodes {
            for grant in node.pending.keys() {
                if let Some(revisions) = self.awaited.get_mut(&(*device, *grant)) {
                    revisions.retain(|revision| *revision != report.revision);
                    if revisions.is_empty() {
                        self.awaited.remove(&(*device, *grant));
                    }
                }
            }
        }
    }

    /// A gateway has cut so many connections for what became of a grant.
    pub(crate) fn count_cut(&mut self, device: DeviceId, grant: GrantId, cut: u64) {
        let revisions = self.awaited.get(&(device, grant)).filter(|_| cut > 0).cloned();
        // By the last change, if there were several: they were not told apart.
        if let Some(report) = revisions.and_then(|it| it.last().copied()).and_then(|it| self.report_mut(it)) {
            report.cut = report.cut.saturating_add(cut);
        }
    }

    /// A node enforces what became of a grant, and has cut so many connections for it.
    pub(crate) fn acknowledged(&mut self, device: DeviceId, grant: GrantId, cut: u64, now: Moment) {
        self.count_cut(device, grant, cut);
        for revision in self.awaited.remove(&(device, grant)).unwrap_or_default() {
            let Some(report) = self.report_mut(revision) else { continue };
            let latency = now.since(report.committed);
            if let Some(node) = report.nodes.get_mut(&device)
                && node.pending.remove(&grant).is_some()
            {
                node.acknowledged += 1;
                if !report.is_recorded {
                    report.latencies.push(latency);
                }
            }
        }
    }

    /// The node enforces a snapshot of this revision: what was told it before is in it.
    pub(crate) fn settled(&mut self, device: DeviceId, up_to: Revision, now: Moment) {
        // What was changed after the snapshot is told, and acknowledged, after it.
        let is_in_it = |(_, revisions): &(_, &Vec<Revision>)| revisions.iter().all(|revision| *revision <= up_to);
        let grants: Vec<_> = self.awaited_from(device).filter(is_in_it).map(|(grant, _)| grant).collect();
        for grant in grants {
            self.acknowledged(device, grant, 0, now);
        }
    }

    fn awaited_from(&self, device: DeviceId) -> impl Iterator<Item = (GrantId, &Vec<Revision>)> {
        let all = (device, GrantId::from_raw([0; 16]))..=(device, GrantId::from_raw([u8::MAX; 16]));
        self.awaited.range(all).map(|((_, grant), revisions)| (*grant, revisions))
    }

    /// The node came or went.
    pub(crate) fn note_presence(&mut self, device: DeviceId, is_offline: bool) {
        let revisions: BTreeSet<_> = self.awaited_from(device).flat_map(|(_, revisions)| revisions).copied().collect();
        for revision in revisions {
            if let Some(node) = self.report_mut(revision).and_then(|report| report.nodes.get_mut(&device)) {
                node.is_offline = is_offline;
            }
        }
    }

    /// What became of the change that made this revision, if that is still known.
    pub(crate) fn report(&self, revision: Revision) -> Option<&ChangeReport> {
        self.index(revision).and_then(|at| self.reports.get(at))
    }

    fn report_mut(&mut self, revision: Revision) -> Option<&mut ChangeReport> {
        self.index(revision).and_then(|at| self.reports.get_mut(at))
    }

    fn index(&self, revision: Revision) -> Option<usize> {
        self.reports.binary_search_by_key(&revision, |report| report.revision).ok()
    }

    /// The latest reports, the latest one first.
    pub(crate) fn latest(&self) -> impl Iterator<Item = &ChangeReport> {
        self.reports.iter().rev()
    }

    /// Reports whose outcome is to be recorded: all have acknowledged, or the time for that is over.
    pub(crate) fn due(&self, now: Moment) -> impl Iterator<Item = &ChangeReport> {
        self.reports.iter().filter(move |report| report.is_due(now))
    }

    /// Those that were due then are recorded.
    pub(crate) fn recorded(&mut self, now: Moment) {
        for report in self.reports.iter_mut().filter(|report| report.is_due(now)) {
            report.summary = report.latency();
            report.latencies = Vec::new();
            report.is_recorded = true;
            report.is_open = !report.is_whole();
        }
    }

    /// In how long the next will be due.
    pub(crate) fn next_due(&self, now: Moment) -> Option<Duration> {
        let waits = self.reports.iter().filter_map(|report| match (report.is_due(now), report.is_recorded) {
            (true, _) => Some(Duration::ZERO),
            (false, false) => Some((report.committed + RECORDED_AFTER).since(now)),
            (false, true) => None,
        });
        waits.min()
    }
}

impl ChangeReport {
    fn is_due(&self, now: Moment) -> bool {
        match (self.is_recorded, self.is_open) {
            (false, _) => self.committed + RECORDED_AFTER <= now || self.is_whole(),
            (true, true) => self.is_whole(),
            (true, false) => false,
        }
    }

    fn is_whole(&self) -> bool {
        self.nodes.values().all(|node| node.pending.is_empty())
    }
}

impl Draft<'_> {
    /// What a change has come to, for the audit log: proof that it was enforced, and how soon.
    pub(crate) fn note_report(&mut self, report: &ChangeReport) {
        let enforced = report.nodes.values().filter(|node| node.pending.is_empty()).count();
        let nodes = format!("{enforced} of {}", report.nodes.len());
        let millis = |latency: Option<Duration>| {
            latency.map_or_else(|| "-".to_owned(), |latency| latency.as_millis().to_string())
        };
        let (p50, p99) = report.latency().unzip();
        let (p50, p99) = (millis(p50), millis(p99));
        let mut details: Vec<(&str, &dyn ToString)> = vec![
            ("redecided", &report.redecided),
            ("revoked", &report.ended),
            ("narrowed", &report.changed),
            ("cut", &report.cut),
            ("enforced", &nodes),
            ("p50_ms", &p50),
            ("p99_ms", &p99),
        ];
        let missing = report.nodes.iter().filter(|(_, node)| !node.pending.is_empty());
        let missing: Vec<_> = missing.map(|(id, _)| self.device_label(*id)).collect();
        let missing = missing.join(",");
        if !missing.is_empty() {
            details.push(("missing", &missing));
        }
        self.note("change.enforced", format!("revision:{}", report.revision), &details);
    }
}
