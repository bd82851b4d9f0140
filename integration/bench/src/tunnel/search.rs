//! The highest rate at which no more than a given share of the datagrams is lost: which rate to try next, and what was found.
//!
//! Nothing here sends. Rates are bits per second of what is in the datagrams.

/// So close are the rate that was passed and the one that was not, when a search is at its end.
const CLOSE: f64 = 1.05;
/// Below this nobody looks any further.
const FLOOR: f64 = 1e6;

/// A rate that was tried.
#[derive(Debug, Clone, Copy)]
pub(super) struct Probe {
    /// The rate that was asked for.
    pub(super) asked: f64,
    /// The rate that the sender came to.
    pub(super) sent: f64,
    /// The share that did not arrive.
    pub(super) lost: f64,
}

impl Probe {
    /// What arrived.
    fn received(&self) -> f64 {
        self.sent * (1.0 - self.lost)
    }

    /// Whether the sender could do no more.
    fn is_all(&self) -> bool {
        self.sent < self.asked * 0.9
    }
}

/// The highest rate, of what arrived, of those that lost no more than `limit`; 0 if none did.
pub(super) fn best(probes: &[Probe], limit: f64) -> f64 {
    passed(probes, limit).map_or(0.0, Probe::received)
}

/// Whether the best was all that the sender could do, so that the tunnel may carry more.
pub(super) fn is_bound_by_sender(probes: &[Probe], limit: f64) -> bool {
    passed(probes, limit).is_some_and(Probe::is_all)
}

fn passed(probes: &[Probe], limit: f64) -> Option<&Probe> {
    probes.iter().filter(|probe| probe.lost <= limit).max_by(|a, b| a.sent.total_cmp(&b.sent))
}

/// The rate to try next, if any: near `first`, then up or down until both sides are known, then between them.
pub(super) fn next(probes: &[Probe], limit: f64, first: f64) -> Option<f64> {
    let good = passed(probes, limit);
    let above = good.map_or(0.0, |probe| probe.sent);
    let failed = probes.iter().filter(|probe| probe.lost > limit && probe.sent > above);
    let bad = failed.min_by(|a, b| a.sent.total_cmp(&b.sent));
    match (good, bad) {
        (None, None) => Some(first),
        (Some(good), None) if good.is_all() => None,
        (Some(good), None) => Some(good.sent * 1.25),
        (None, Some(bad)) => {
            // What arrives when there is too much is about what gets through.
            let rate = bad.received().clamp(bad.sent * 0.4, bad.sent * 0.85);
            (rate > FLOOR).then_some(rate)
        }
        (Some(good), Some(bad)) => (bad.sent > good.sent * CLOSE).then(|| (good.sent * bad.sent).sqrt()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a search finds of a tunnel that carries so much and loses the rest.
    fn found(carries: f64, sender: f64, first: f64, limit: f64) -> (f64, Vec<Probe>) {
        let mut probes: Vec<Probe> = Vec::new();
        while let Some(asked) = next(&probes, limit, first) {
            let sent = asked.min(sender);
            probes.push(Probe { asked, sent, lost: (1.0 - carries / sent).max(0.0) });
            assert!(probes.len() < 40, "it ends");
        }
        (best(&probes, limit), probes)
    }

    #[test]
    fn finds_what_a_tunnel_carries_from_wherever_it_begins() {
        for first in [10e6, 300e6, 400e6, 500e6, 9e9] {
            let (rate, probes) = found(400e6, 20e9, first, 0.001);
            assert!((380e6..=400e6).contains(&rate), "{rate} from {first}");
            let enough = if (300e6..=500e6).contains(&first) { 6 } else { 24 };
            assert!(probes.len() <= enough && !is_bound_by_sender(&probes, 0.001), "{probes:?} from {first}");
        }
    }

    #[test]
    fn ends_where_the_sender_does() {
        let (rate, probes) = found(10e9, 300e6, 100e6, 0.001);
        assert!((299e6..=301e6).contains(&rate) && probes.len() < 10, "{rate} {probes:?}");
        assert!(is_bound_by_sender(&probes, 0.001), "and that is told");
    }

    #[test]
    fn a_tunnel_that_always_loses_has_no_rate() {
        let mut probes = Vec::new();
        while let Some(asked) = next(&probes, 0.001, 1e9) {
            probes.push(Probe { asked, sent: asked, lost: 0.01 });
        }
        assert_eq!(best(&probes, 0.001).to_bits(), 0);
        assert!(best(&probes, 0.05) > 0.9e9, "the same probes pass a looser limit");
    }
}
