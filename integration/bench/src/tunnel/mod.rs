//! Postern's tunnel beside others', on one machine in one run: `make bench BENCH=tunnel`.
//!
//! ```text
//!  laptop ── internet ── gateway ── office ── server
//!    └── tunnel, MTU 1420 ──┘                 iperf3
//! ```
//!
//! Each contender has the same hosts, links and traffic to itself; of Postern it is the whole product's path, with a grant and
//! translation. All are started once; then comes round 1 of each, round 2 of each, and so on, and medians are compared.
//!
//! - [`contenders`]: who takes part, and how each is started
//! - [`wireguard`], [`nebula`]: how the others are set up
//! - [`scene`]: the hosts, and what the tunnel's two processes take
//! - [`measure`]: what is measured in a round, and how
//! - [`iperf`], [`ping`]: the tools that measure
//! - [`search`]: the highest rate at which hardly a datagram is lost
//! - [`report`]: medians, ratios, goals; as a table and as JSON
//! - [`machine`]: what it was measured on

mod contenders;
mod iperf;
mod machine;
mod measure;
mod nebula;
mod ping;
mod report;
pub(crate) mod scene;
mod search;
mod wireguard;

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use anyhow::{Context as _, Result, ensure};
use clap::{Args, ValueEnum as _};

use self::{
    contenders::Contender,
    measure::{Lengths, Measure, Round},
    report::Report,
    scene::Scene,
};
use crate::figures::now;

/// What may be asked for on the command line.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// How often each contender is measured; medians count.
    #[arg(long, default_value_t = 5)]
    rounds: u32,
    /// For development: two rounds of short runs. Not to be quoted.
    #[arg(long)]
    quick: bool,
    /// Only these contenders.
    #[arg(long, value_delimiter = ',')]
    only: Vec<Contender>,
    /// TCP's congestion control, if not this machine's own.
    #[arg(long)]
    congestion: Option<String>,
    /// Write the JSON, with the figures of each round, into this file.
    #[arg(long)]
    save: Option<PathBuf>,
}

/// The rounds of each contender that took part.
type Results = BTreeMap<Contender, Vec<Round>>;

pub(crate) fn run(options: &Options, json: bool) -> Result<()> {
    let (rounds, lengths) = if options.quick { (2, Lengths::QUICK) } else { (options.rounds, Lengths::FULL) };
    ensure!(rounds > 0, "0 rounds measure nothing");
    let mut contenders = Contender::value_variants().to_vec();
    contenders.retain(|contender| options.only.is_empty() || options.only.contains(contender));
    let versions = contenders.iter().map(|contender| Ok((*contender, contender.version()?)));
    let versions = versions.collect::<Result<BTreeMap<_, _>>>()?;

    let congestion = options.congestion.clone().map_or_else(machine::congestion_control, Ok)?;
    let start = now();
    let mut scenes = BTreeMap::new();
    for contender in &contenders {
        let mut scene = contender.start().with_context(|| format!("start {contender}"))?;
        scene.answers().with_context(|| format!("{contender} does not get through"))?;
        scene.congestion.clone_from(&options.congestion);
        scenes.insert(*contender, scene);
    }
    let mut results = Results::new();
    for round in 0..rounds {
        // Nobody is always the first, or always after the same.
        let mut order = contenders.clone();
        order.rotate_left(usize::try_from(round)? % contenders.len());
        for contender in order {
            let Some(scene) = scenes.get(&contender) else { continue };
            let idle = || processor_time(&scenes, contender);
            let (taken, began) = (idle(), now());
            let before = results.get(&contender).and_then(|rounds| rounds.last());
            match measure::round(scene, &lengths, before) {
                Ok(figures) => {
                    eprintln!("{:>5.0?} round {}: {contender}: {}", start.elapsed(), round + 1, report::line(&figures));
                    results.entry(contender).or_default().push(figures);
                }
                // What was measured of it stands, and the others go on.
                Err(error) => {
                    eprintln!("{contender} has failed, and takes no part any more: {error:#}");
                    scenes.remove(&contender);
                    continue;
                }
            }
            let share = idle().saturating_sub(taken).div_duration_f64(began.elapsed());
            if share > 0.02 {
                eprintln!("  the idle contenders took {:.1} % of a core meanwhile", share * 100.0);
            }
        }
    }
    let report = Report { rounds, quick: options.quick, took: start.elapsed(), congestion, versions, results };
    report.print();
    let all = report.json()?;
    if let Some(file) = &options.save {
        std::fs::write(file, format!("{all:#}\n")).with_context(|| format!("write {}", file.display()))?;
    }
    if json {
        println!("{all:#}");
    }
    let failed = contenders.iter().filter(|contender| !scenes.contains_key(contender)).map(ToString::to_string);
    let failed: Vec<_> = failed.collect();
    ensure!(failed.is_empty(), "failed on the way, as said above: {}", failed.join(", "));
    Ok(())
}

/// The processor time of all but one: they are idle, and it should be next to none.
fn processor_time(scenes: &BTreeMap<Contender, Scene>, but: Contender) -> Duration {
    scenes.iter().filter(|(other, _)| **other != but).filter_map(|(_, scene)| scene.processor_time().ok()).sum()
}
