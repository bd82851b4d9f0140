//! What is measured of a contender in one round.

use std::{collections::BTreeMap, thread, time::Duration};

use anyhow::{Context as _, Result};

use super::{
    iperf, ping,
    scene::Scene,
    search::{self, Probe},
};
use crate::figures::Times;

/// Bytes in a datagram of the two kinds.
const LARGE: u32 = 1380;
const SMALL: u32 = 200;

/// The shares of datagrams that may be lost.
const HARDLY_ANY: f64 = 0.001;
const FEW: f64 = 0.01;

/// One figure. The order is that of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Measure {
    TcpUp,
    TcpDown,
    Tcp4Up,
    Tcp4Down,
    BothWays,
    Large,
    LargeFew,
    Small,
    PingP50,
    PingP99,
    LoadedP50,
    LoadedP99,
    Processor,
    LaptopMemory,
    GatewayMemory,
}

impl Measure {
    pub(super) const ALL: [Self; 15] = [
        Self::TcpUp,
        Self::TcpDown,
        Self::Tcp4Up,
        Self::Tcp4Down,
        Self::BothWays,
        Self::Large,
        Self::LargeFew,
        Self::Small,
        Self::PingP50,
        Self::PingP99,
        Self::LoadedP50,
        Self::LoadedP99,
        Self::Processor,
        Self::LaptopMemory,
        Self::GatewayMemory,
    ];

    /// As the table has it, with its unit.
    pub(super) fn title(self) -> &'static str {
        match self {
            Self::TcpUp => "TCP 1 stream up, Gbit/s",
            Self::TcpDown => "TCP 1 stream down, Gbit/s",
            Self::Tcp4Up => "TCP 4 streams up, Gbit/s",
            Self::Tcp4Down => "TCP 4 streams down, Gbit/s",
            Self::BothWays => "TCP both ways at once, sum, Gbit/s",
            Self::Large => "UDP 1380 B, loss <= 0.1 %, Gbit/s",
            Self::LargeFew => "UDP 1380 B, loss <= 1 %, Gbit/s",
            Self::Small => "UDP 200 B, loss <= 0.1 %, packets/s",
            Self::PingP50 => "ping p50, idle, us",
            Self::PingP99 => "ping p99, idle, us",
            Self::LoadedP50 => "ping p50, beside TCP up, us",
            Self::LoadedP99 => "ping p99, beside TCP up, us",
            Self::Processor => "CPU seconds per GB, TCP 1 stream up",
            Self::LaptopMemory => "memory of the laptop's end, MiB",
            Self::GatewayMemory => "memory of the gateway's end, MiB",
        }
    }

    /// As JSON has it.
    pub(super) fn key(self) -> &'static str {
        match self {
            Self::TcpUp => "tcp_1_up_gbit_s",
            Self::TcpDown => "tcp_1_down_gbit_s",
            Self::Tcp4Up => "tcp_4_up_gbit_s",
            Self::Tcp4Down => "tcp_4_down_gbit_s",
            Self::BothWays => "tcp_bidirectional_sum_gbit_s",
            Self::Large => "udp_1380_loss_0_1_gbit_s",
            Self::LargeFew => "udp_1380_loss_1_gbit_s",
            Self::Small => "udp_200_loss_0_1_packets_s",
            Self::PingP50 => "ping_idle_p50_us",
            Self::PingP99 => "ping_idle_p99_us",
            Self::LoadedP50 => "ping_loaded_p50_us",
            Self::LoadedP99 => "ping_loaded_p99_us",
            Self::Processor => "cpu_s_per_gb",
            Self::LaptopMemory => "laptop_rss_mib",
            Self::GatewayMemory => "gateway_rss_mib",
        }
    }

    /// Whether more of it is better.
    pub(super) fn is_gain(self) -> bool {
        self <= Self::Small
    }

    /// A figure as the table has it.
    pub(super) fn text(self, value: f64) -> String {
        match self {
            Self::Small | Self::PingP50 | Self::PingP99 | Self::LoadedP50 | Self::LoadedP99 => format!("{value:.0}"),
            Self::LaptopMemory | Self::GatewayMemory => format!("{value:.1}"),
            _ => format!("{value:.2}"),
        }
    }
}

/// The figures of one round; what could not be measured is missing.
pub(super) type Round = BTreeMap<Measure, f64>;

/// How long is measured.
#[derive(Debug, Clone, Copy)]
pub(super) struct Lengths {
    /// Counted seconds of the TCP run that the processor's time is measured of, and of the others.
    tcp_first: u32,
    tcp: u32,
    /// Seconds of a run with datagrams.
    udp: u32,
    /// So many runs with datagrams a search may take.
    probes: usize,
    pings: u32,
}

impl Lengths {
    pub(super) const FULL: Self = Self { tcp_first: 4, tcp: 3, udp: 1, probes: 8, pings: 200 };
    pub(super) const QUICK: Self = Self { tcp_first: 2, tcp: 1, udp: 1, probes: 6, pings: 100 };
}

/// Measures everything once. Searches begin where the round `before` ended.
///
/// # Errors
/// When the contender is gone. What can't be measured though it is there is told, and missing.
pub(super) fn round(scene: &Scene, lengths: &Lengths, before: Option<&Round>) -> Result<Round> {
    scene.answers()?;
    let mut round = Round::new();
    let mut note = |measured: Result<Vec<(Measure, f64)>>| match measured {
        Ok(figures) => round.extend(figures),
        Err(error) => eprintln!("  not measured: {error:#}"),
    };
    note(idle(scene, lengths));
    note(tcp_first(scene, lengths));
    for (measure, words) in [
        (Measure::TcpDown, &["-R"][..]),
        (Measure::Tcp4Up, &["-P", "4"]),
        (Measure::Tcp4Down, &["-P", "4", "-R"]),
        (Measure::BothWays, &["--bidir"]),
    ] {
        note(iperf::tcp(scene, lengths.tcp, words).map(|run| vec![(measure, run.rate / 1e9)]));
    }
    note(loaded(scene, lengths));
    let known = |measure| before.and_then(|round| round.get(&measure)).copied().filter(|figure| *figure > 0.0);
    // Before there is anything to go by: what TCP came to, if that is a rate that one datagram after the other can be sent at.
    let tcp = round.get(&Measure::TcpUp).copied().unwrap_or(0.1).min(1.0);
    let first = known(Measure::Large).unwrap_or(tcp) * 1e9;
    let mut probes = Vec::new();
    probe(scene, lengths, LARGE, FEW, first, &mut probes);
    probe(scene, lengths, LARGE, HARDLY_ANY, first, &mut probes);
    let large = search::best(&probes, HARDLY_ANY);
    round.extend([(Measure::Large, large / 1e9), (Measure::LargeFew, search::best(&probes, FEW) / 1e9)]);
    let bits = f64::from(SMALL) * 8.0;
    let first = known(Measure::Small).map_or(large / f64::from(LARGE) * f64::from(SMALL), |packets| packets * bits);
    let mut probes = Vec::new();
    probe(scene, lengths, SMALL, HARDLY_ANY, first.max(10e6), &mut probes);
    round.insert(Measure::Small, search::best(&probes, HARDLY_ANY) / bits);
    scene.processor_time().context("the tunnel is gone")?;
    Ok(round)
}

/// Tries rates until the highest is found, or often enough.
fn probe(scene: &Scene, lengths: &Lengths, size: u32, limit: f64, first: f64, probes: &mut Vec<Probe>) {
    for _ in 0..lengths.probes {
        let Some(rate) = search::next(probes, limit, first) else { break };
        // What failed gets a second chance: whatever else the machine was doing is not to be the limit.
        let first_try = datagrams(scene, lengths, size, rate);
        let again = (first_try.lost > limit).then(|| datagrams(scene, lengths, size, rate));
        probes.push(again.filter(|again| again.lost < first_try.lost).unwrap_or(first_try));
    }
    if search::is_bound_by_sender(probes, limit) {
        eprintln!("  {size} bytes: iperf3 could send no more; the tunnel may carry more");
    }
}

fn datagrams(scene: &Scene, lengths: &Lengths, size: u32, rate: f64) -> Probe {
    iperf::udp(scene, lengths.udp, size, rate).unwrap_or_else(|error| {
        eprintln!("  {size} bytes at {:.0} Mbit/s count as lost: {error:#}", rate / 1e6);
        Probe { asked: rate, sent: rate, lost: 1.0 }
    })
}

/// One stream up, and what the tunnel's ends took for it.
fn tcp_first(scene: &Scene, lengths: &Lengths) -> Result<Vec<(Measure, f64)>> {
    let before = scene.processor_time()?;
    let run = iperf::tcp(scene, lengths.tcp_first, &[])?;
    let taken = scene.processor_time()?.saturating_sub(before);
    let mut figures = vec![(Measure::TcpUp, run.rate / 1e9)];
    if let [laptop, gateway] = scene.resident()?[..] {
        figures.push((Measure::Processor, taken.as_secs_f64() * 1e9 / run.sent));
        figures.extend([(Measure::LaptopMemory, mebibytes(laptop)), (Measure::GatewayMemory, mebibytes(gateway))]);
    }
    Ok(figures)
}

#[allow(clippy::cast_precision_loss, reason = "a figure for people")]
fn mebibytes(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

fn idle(scene: &Scene, lengths: &Lengths) -> Result<Vec<(Measure, f64)>> {
    let times = ping::ping(scene, lengths.pings, 0)?;
    Ok(percentiles(times, Measure::PingP50, Measure::PingP99))
}

/// Pings beside one stream up, once it has got going.
fn loaded(scene: &Scene, lengths: &Lengths) -> Result<Vec<(Measure, f64)>> {
    let (times, run) = thread::scope(|scope| {
        // Long enough for the first second that doesn't count, here and there.
        let run = scope.spawn(|| iperf::tcp(scene, lengths.pings / 100 + 1, &[]));
        (ping::ping(scene, lengths.pings, 100), run.join())
    });
    run.map_err(|_| anyhow::anyhow!("the thread panicked"))?.context("beside pings")?;
    Ok(percentiles(times?, Measure::LoadedP50, Measure::LoadedP99))
}

fn percentiles(mut times: Times, p50: Measure, p99: Measure) -> Vec<(Measure, f64)> {
    let micros = |time: Duration| time.as_secs_f64() * 1e6;
    vec![(p50, micros(times.percentile(0.5))), (p99, micros(times.percentile(0.99)))]
}
