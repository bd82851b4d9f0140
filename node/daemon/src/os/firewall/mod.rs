//! One nftables table per node, replaced as a whole.
//!
//! - `rules`: what is in it; `keep`: that it stays there; `news`: that rules have changed
//! - `foreign`: other programs' rules that keep a gateway from forwarding

mod foreign;
mod keep;
mod news;
mod rules;

use std::{process::Stdio, time::Duration};

use anyhow::{Context as _, Result, bail};
use tokio::{io::AsyncWriteExt as _, process::Command};

use super::NetworkConfig;

pub(super) use foreign::obstacle;
pub(super) use keep::Kept;

/// How long one of the firewall's programs may take.
const PATIENCE: Duration = Duration::from_secs(10);

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

/// What the program prints, given this to read.
async fn run(program: &str, words: &[&str], input: &str) -> Result<String> {
    let mut command = Command::new(program);
    command.args(words).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && program == "nft" => {
            bail!("the program 'nft' is missing: install the package nftables")
        }
        Err(error) => return Err(error).with_context(|| format!("'{program}' can't be started")),
    };
    let mut stdin = child.stdin.take().with_context(|| format!("'{program}' takes no input"))?;
    let exchange = async {
        // One that ends early says why on its standard error.
        let _ = stdin.write_all(input.as_bytes()).await;
        drop(stdin);
        child.wait_with_output().await
    };
    let output = tokio::time::timeout(PATIENCE, exchange)
        .await
        .with_context(|| format!("'{program}' did not end within {PATIENCE:?}"))??;
    if !output.status.success() {
        bail!("'{program}' refuses: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
