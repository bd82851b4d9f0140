//! Medians, how they compare, and which goals they reach.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context as _, Result};
use serde_json::{Map, Value, json};

use super::{Contender, Measure, Results, Round, iperf, machine};
use crate::figures::table;

/// What was measured.
#[derive(Debug)]
pub(super) struct Report {
    pub(super) rounds: u32,
    pub(super) quick: bool,
    pub(super) took: Duration,
    /// TCP's congestion control.
    pub(super) congestion: String,
    pub(super) versions: BTreeMap<Contender, String>,
    pub(super) results: Results,
}

/// What Postern is to be compared with.
#[derive(Debug, Clone, Copy)]
enum Against {
    Gotatun,
    BestPeer,
}

/// What is aimed at: Postern's median as a multiple of another's.
struct Goal {
    measure: Measure,
    against: Against,
    times: f64,
}

const GOALS: [Goal; 5] = [
    Goal { measure: Measure::TcpUp, against: Against::Gotatun, times: 5.6 },
    Goal { measure: Measure::Processor, against: Against::Gotatun, times: 0.18 },
    Goal { measure: Measure::LargeFew, against: Against::BestPeer, times: 1.5 },
    Goal { measure: Measure::Small, against: Against::BestPeer, times: 1.5 },
    Goal { measure: Measure::PingP50, against: Against::BestPeer, times: 1.0 },
];

impl Goal {
    fn is_reached(&self, ratio: f64) -> bool {
        if self.measure.is_gain() { ratio >= self.times } else { ratio <= self.times }
    }
}

/// The figures of a round that say how it goes, in a line.
pub(super) fn line(round: &Round) -> String {
    let figures = [Measure::TcpUp, Measure::Processor, Measure::LargeFew, Measure::Small, Measure::PingP50];
    let figures = figures.iter().filter_map(|measure| {
        let value = round.get(measure)?;
        Some(format!("{} {}", measure.title(), measure.text(*value)))
    });
    figures.collect::<Vec<_>>().join("; ")
}

impl Report {
    /// The middle of what was measured in all rounds.
    fn median(&self, contender: Contender, measure: Measure) -> Option<f64> {
        median(self.results.get(&contender)?.iter().filter_map(|round| round.get(&measure)).copied().collect())
    }

    /// The other tunnel that is best at this, and its median.
    fn best_peer(&self, measure: Measure) -> Option<(Contender, f64)> {
        let peers = self.results.keys().filter(|contender| contender.is_peer());
        let medians = peers.filter_map(|peer| Some((*peer, self.median(*peer, measure)?)));
        let better =
            |a: &(_, f64), b: &(_, f64)| if measure.is_gain() { b.1.total_cmp(&a.1) } else { a.1.total_cmp(&b.1) };
        medians.min_by(better)
    }

    fn against(&self, against: Against, measure: Measure) -> Option<(Contender, f64)> {
        match against {
            Against::Gotatun => Some((Contender::Gotatun, self.median(Contender::Gotatun, measure)?)),
            Against::BestPeer => self.best_peer(measure),
        }
    }

    /// Postern's median as a multiple of another's.
    fn ratio(&self, against: Against, measure: Measure) -> Option<(Contender, f64)> {
        let (other, median) = self.against(against, measure)?;
        let ratio = self.median(Contender::Postern, measure)? / median;
        ratio.is_finite().then_some((other, ratio))
    }

    pub(super) fn print(&self) {
        println!("{}, TCP with {}", machine::line(), self.congestion);
        let versions = self.versions.iter().filter(|(_, version)| !version.is_empty());
        let versions: Vec<_> = versions.map(|(contender, version)| format!("{contender} {version}")).collect();
        println!(
            "{}; medians of {} rounds{}",
            versions.join(", "),
            self.rounds,
            if self.quick { " (quick)" } else { "" }
        );
        let names: Vec<_> = self.results.keys().map(ToString::to_string).collect();
        let head =
            ["measured"].into_iter().chain(names.iter().map(String::as_str)).chain(["/ gotatun", "/ best other"]);
        let rows = Measure::ALL.map(|measure| self.row(measure));
        table(&head.collect::<Vec<_>>(), &rows);
        for goal in &GOALS {
            println!("{}", self.outcome(goal));
        }
    }

    fn row(&self, measure: Measure) -> Vec<String> {
        let missing = || "-".to_owned();
        let mut row = vec![measure.title().to_owned()];
        for contender in self.results.keys() {
            row.push(self.median(*contender, measure).map_or_else(missing, |value| measure.text(value)));
        }
        let to_gotatun = self.ratio(Against::Gotatun, measure);
        row.push(to_gotatun.map_or_else(missing, |(_, ratio)| format!("{ratio:.2}")));
        let to_best = self.ratio(Against::BestPeer, measure);
        row.push(to_best.map_or_else(missing, |(best, ratio)| format!("{ratio:.2} {best}")));
        row
    }

    /// A goal, and whether it is reached.
    fn outcome(&self, goal: &Goal) -> String {
        let bound = if goal.measure.is_gain() { "at least" } else { "at most" };
        let title = goal.measure.title();
        let Some((other, ratio)) = self.ratio(goal.against, goal.measure) else {
            return format!("goal: {title}: not measured");
        };
        let outcome = if goal.is_reached(ratio) {
            "reached".to_owned()
        } else {
            format!("missed by {:.0} %", (ratio / goal.times - 1.0).abs() * 100.0)
        };
        format!("goal: {title}: {bound} {} x {other}: is {ratio:.2} x, {outcome}", goal.times)
    }

    /// All of it: machine, versions, medians, each round's figures, ratios and goals.
    pub(super) fn json(&self) -> Result<Value> {
        let mut contenders = Map::new();
        for (contender, rounds) in &self.results {
            let medians =
                Measure::ALL.iter().filter_map(|m| Some((m.key().to_owned(), json!(self.median(*contender, *m)?))));
            let rounds =
                rounds.iter().map(|round| round.iter().map(|(m, value)| (m.key().to_owned(), json!(value))).collect());
            contenders.insert(
                contender.to_string(),
                json!({
                    "version": self.versions.get(contender).context("it has a version")?,
                    "medians": medians.collect::<Map<_, _>>(), "rounds": rounds.collect::<Vec<Map<_, _>>>(),
                }),
            );
        }
        let ratios = |against| {
            let ratios = Measure::ALL.iter().filter_map(|measure| {
                let (other, ratio) = self.ratio(against, *measure)?;
                Some((measure.key().to_owned(), json!({ "other": other.to_string(), "ratio": ratio })))
            });
            ratios.collect::<Map<_, _>>()
        };
        let goals = GOALS.iter().map(|goal| {
            let ratio = self.ratio(goal.against, goal.measure);
            json!({
                "measure": goal.measure.key(), "other": ratio.map(|(other, _)| other.to_string()),
                "goal": goal.times, "at_least": goal.measure.is_gain(), "ratio": ratio.map(|(_, ratio)| ratio),
                "reached": ratio.map(|(_, ratio)| goal.is_reached(ratio)),
            })
        });
        Ok(json!({
            "machine": machine::machine(), "rounds": self.rounds, "quick": self.quick, "seconds": self.took.as_secs(),
            "tcp_congestion_control": self.congestion,
            "udp_socket_buffer": iperf::socket_buffer()?, "contenders": contenders,
            "postern_to_gotatun": ratios(Against::Gotatun), "postern_to_best_other": ratios(Against::BestPeer),
            "goals": goals.collect::<Vec<_>>(),
        }))
    }
}

fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => None,
        odd if odd % 2 == 1 => Some(values[middle]),
        _ => Some(f64::midpoint(values[middle - 1], values[middle])),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(figures: &[(Contender, Measure, &[f64])]) -> Report {
        let mut results = Results::new();
        for (contender, measure, values) in figures {
            let rounds = results.entry(*contender).or_default();
            rounds.resize(values.len().max(rounds.len()), Round::new());
            for (round, value) in rounds.iter_mut().zip(*values) {
                round.insert(*measure, *value);
            }
        }
        let versions = results.keys().map(|contender| (*contender, "1".to_owned())).collect();
        Report { rounds: 3, quick: false, took: Duration::ZERO, congestion: String::new(), versions, results }
    }

    #[test]
    fn one_lucky_round_decides_nothing() {
        assert_eq!(median(vec![1.0, 900.0, 2.0]), Some(2.0));
        assert_eq!(median(vec![1.0, 3.0]), Some(2.0));
        assert_eq!(median(vec![]), None);
    }

    #[test]
    fn the_best_is_the_highest_rate_and_the_shortest_time_of_other_tunnels() {
        let report = report(&[
            (Contender::None, Measure::Small, &[900.0]),
            (Contender::Postern, Measure::Small, &[30.0]),
            (Contender::Gotatun, Measure::Small, &[10.0]),
            (Contender::Nebula, Measure::Small, &[20.0]),
            (Contender::Postern, Measure::PingP50, &[30.0]),
            (Contender::Gotatun, Measure::PingP50, &[10.0]),
            (Contender::Nebula, Measure::PingP50, &[20.0]),
        ]);
        assert_eq!(report.ratio(Against::BestPeer, Measure::Small), Some((Contender::Nebula, 1.5)));
        assert_eq!(report.ratio(Against::Gotatun, Measure::Small), Some((Contender::Gotatun, 3.0)));
        assert_eq!(report.ratio(Against::BestPeer, Measure::PingP50), Some((Contender::Gotatun, 3.0)));
        let goals = report.json().unwrap()["goals"].clone();
        assert_eq!((&goals[3]["reached"], &goals[4]["reached"]), (&json!(true), &json!(false)));
        assert_eq!(goals[0]["reached"], Value::Null, "what was not measured is not reached");
    }
}
