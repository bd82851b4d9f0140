//! What is claimed to be quick, measured: `make bench`, or `make bench BENCH=policy`.
//!
//! - `policy`: decisions, re-decisions and plans in a large network
//! - `engine`: the packet path without the system, beside the cipher
//! - `revocation`: from the commit of a change to the last packet through a gateway, on the real programs
//! - `traffic`: the packets for that
//! - `connect`: how quickly a connection is there, and what it costs to be reachable
//! - `tunnel`: throughput, latency and cost of the tunnel, beside other tunnels
//! - [`figures`]: percentiles, tables; the clock

mod connect;
mod engine;
mod figures;
mod network;
mod policy;
mod revocation;
mod traffic;
mod tunnel;

use std::net::IpAddr;

use anyhow::Result;
use clap::{Parser, Subcommand};

/// Measures Postern.
#[derive(Debug, Parser)]
#[command(name = "postern-bench")]
struct Cli {
    /// Print JSON as well.
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    bench: Bench,
}

#[derive(Debug, Subcommand)]
enum Bench {
    /// Decisions, re-decisions and plans in a large network.
    Policy,
    /// The engine alone on one core, beside the cipher alone.
    Engine,
    /// From a revocation's commit to the last packet through the gateway.
    Revocation {
        /// How often each is measured.
        #[arg(long, default_value_t = 20)]
        rounds: u32,
    },
    /// From curl to the first byte without a grant; what relays and idle sessions cost.
    Connect {
        /// How often each is measured.
        #[arg(long, default_value_t = 20)]
        rounds: u32,
    },
    /// Throughput, latency and cost of the tunnel, beside others' tunnels. Takes half an hour.
    Tunnel(tunnel::Options),
    /// Says how much memory so many compiled policies take: the policy bench runs this in a process of its own.
    #[command(hide = true)]
    Memory { policies: u32 },
    /// Enrols devices that do nothing: the connect bench runs this on its laptop.
    #[command(hide = true)]
    Crowd {
        token: String,
        count: usize,
        #[arg(long)]
        at_relay: bool,
    },
    /// Sends packets: the revocation bench runs this on its laptop.
    #[command(hide = true)]
    Send { port: u16, targets: Vec<IpAddr> },
    /// Writes down when each flow's last packet came: the revocation bench runs this on its server.
    #[command(hide = true)]
    Receive { address: IpAddr, port: u16, count: u16 },
}

fn main() -> Result<()> {
    let cli = Cli::parse();
    match cli.bench {
        Bench::Policy => policy::run(cli.json),
        Bench::Engine => engine::run(cli.json),
        Bench::Revocation { rounds } => revocation::run(rounds, cli.json),
        Bench::Connect { rounds } => connect::run(rounds, cli.json),
        Bench::Crowd { token, count, at_relay } => match connect::hold(&token, count, at_relay)? {},
        Bench::Tunnel(options) => tunnel::run(&options, cli.json),
        Bench::Memory { policies } => policy::memory(policies),
        Bench::Send { port, targets } => traffic::send(port, &targets),
        Bench::Receive { address, port, count } => traffic::receive(address, port, count),
    }
}
