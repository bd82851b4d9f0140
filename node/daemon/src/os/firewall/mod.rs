//! One nftables table per node, replaced as a whole.
//!
//! - `rules`: what is in it; `keep`: that it stays there; `news`: that rules have changed
//! - `foreign`: other programs' rules that keep a gateway from forwarding, or peers from coming in; `guard`: those that guard the machine

mod foreign;
mod guard;
mod keep;
mod news;
mod rules;

use anyhow::{Context as _, Result};

use super::{NetworkConfig, program::run};

pub use foreign::closed_to;
pub(super) use foreign::obstacle;
pub(super) use guard::is_guarded;
pub(super) use keep::Kept;
pub use news::News;

/// Puts the node's rules in force, in place of those that it had. `inner` are the interfaces of this machine's own containers.
async fn apply(config: &NetworkConfig, inner: &[String]) -> Result<()> {
    load(&rules::rules(config, inner)).await
}

/// Takes the node's rules away, if there are any.
pub(super) async fn remove(interface: &str) -> Result<()> {
    let table = rules::table(interface);
    // Adding what is there is no error, and deleting then is none either.
    load(&format!("table {table} {{}}\ndelete table {table}\n")).await
}

/// The node's rules as the kernel shows them now.
async fn listing(interface: &str) -> Result<String> {
    let table = rules::table(interface);
    run("nft", &[&["list", "table"], &table.split(' ').collect::<Vec<_>>()[..]].concat(), "").await
}

async fn load(script: &str) -> Result<()> {
    run("nft", &["-f", "-"], script).await.map(drop).context("the firewall rules can't be set")
}
