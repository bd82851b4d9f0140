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
mod scene;
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

    let start = now();
    let mut scenes = BTreeMap::new();
    for contender in &contenders {
        let scene = contender.start().with_context(|| format!("start {contender}"))?;
        scene.answers().with_context(|| format!("{contender} does not get through"))?;
        scenes.insert(*contender, scene);
    }
    let mut results = Results::new();
    for round in 0..rounds {
        // Nobody is always the first, or always after the same.
        let mut order = contenders.clone();
        order.rotate_left(usize::try_from(round)? % contenders.len());
        for contender in order {
            let before = results.get(&contender).and_then(|rounds| rounds.last());
            let (figures, idle) = turn(contender, &scenes, &lengths, before)?;
            eprintln!("{:>5.0?} round {}: {contender}: {}", start.elapsed(), round + 1, report::line(&figures));
            if idle > 0.02 {
                eprintln!("  the idle contenders took {:.1} % of a core meanwhile", idle * 100.0);
            }
            results.entry(contender).or_default().push(figures);
        }
    }
    let report = Report { rounds, quick: options.quick, took: start.elapsed(), versions, results };
    report.print();
    let all = report.json()?;
    if let Some(file) = &options.save {
        std::fs::write(file, format!("{all:#}\n")).with_context(|| format!("write {}", file.display()))?;
    }
    if json {
        println!("{all:#}");
    }
    Ok(())
}

/// One contender's round, and the share of a core that all others took meanwhile.
fn turn(
    contender: Contender,
    scenes: &BTreeMap<Contender, Scene>,
    lengths: &Lengths,
    before: Option<&Round>,
) -> Result<(Round, f64)> {
    let scene = scenes.get(&contender).context("it was not started")?;
    let others = || -> Result<Duration> {
        scenes.iter().filter(|(other, _)| **other != contender).map(|(_, scene)| scene.processor_time()).sum()
    };
    let (taken, start) = (others()?, now());
    let round = measure::round(scene, lengths, before).with_context(|| contender.to_string())?;
    let idle = others()?.saturating_sub(taken).div_duration_f64(start.elapsed());
    Ok((round, idle))
}
