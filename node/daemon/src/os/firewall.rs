//! One nftables table per node, replaced as a whole.
//!
//! Overlay addresses are only good inside the tunnel: what comes from one on any other interface is forged, and what goes to
//! this node's own is meant to get around the tunnel; both are dropped. Other addresses of 100.64.0.0/10 (RFC 6598) may be
//! this machine's own on a provider's network, and stay reachable.
//! On a gateway, clients' packets are let through and masqueraded where they leave, and nobody behind it can open a
//! connection to a client.

use std::{fmt::Write as _, process::Stdio};

use anyhow::{Context as _, Result, bail};
use tokio::{io::AsyncWriteExt as _, process::Command};

use super::NetworkConfig;

/// Puts the node's rules in force, in place of those that it had.
pub(super) async fn apply(config: &NetworkConfig) -> Result<()> {
    nft(&rules(config)).await
}

/// Takes the node's rules away, if there are any.
pub(super) async fn remove(interface: &str) -> Result<()> {
    let table = table(interface);
    // Adding what is there is no error, and deleting then is none either.
    nft(&format!("table {table} {{}}\ndelete table {table}\n")).await
}

fn table(interface: &str) -> String {
    format!("inet {interface}")
}

fn rules(config: &NetworkConfig) -> String {
    let interface = &config.interface;
    let table = table(interface);
    let [devices4, devices6] = config.ranges.device_ranges().map(|(addr, prefix)| format!("{addr}/{prefix}"));
    let [resources4, resources6] = config.ranges.resource_ranges().map(|(addr, prefix)| format!("{addr}/{prefix}"));
    let (own4, own6) = (config.addr.v4, config.addr.v6);
    let mut rules = format!("table {table} {{}}\ndelete table {table}\ntable {table} {{\n");
    let _ = write!(
        rules,
        "  chain outside {{
    type filter hook prerouting priority raw; policy accept;
    iifname {{ \"{interface}\", \"lo\" }} accept
    ip saddr {{ {devices4}, {resources4} }} drop
    ip daddr {own4} drop
    ip6 saddr {{ {devices6}, {resources6} }} drop
    ip6 daddr {own6} drop
  }}
"
    );
    if config.is_gateway {
        let _ = write!(
            rules,
            "  chain forward {{
    type filter hook forward priority filter; policy accept;
    oifname \"{interface}\" ct state established,related accept
    oifname \"{interface}\" drop
    iifname \"{interface}\" accept
  }}
  chain leave {{
    type nat hook postrouting priority srcnat; policy accept;
    oifname {{ \"{interface}\", \"lo\" }} accept
    ip saddr {devices4} masquerade
    ip6 saddr {devices6} masquerade
  }}
"
        );
    }
    rules.push_str("}\n");
    rules
}

async fn nft(script: &str) -> Result<()> {
    let mut command = Command::new("nft");
    command.args(["-f", "-"]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            bail!("the program 'nft' is missing: install the package nftables")
        }
        Err(error) => return Err(error).context("'nft' can't be started"),
    };
    let mut stdin = child.stdin.take().context("'nft' takes no rules")?;
    // One that ends early says why on its standard error.
    let _ = stdin.write_all(script.as_bytes()).await;
    drop(stdin);
    let output = child.wait_with_output().await?;
    if !output.status.success() {
        bail!("the firewall rules were refused: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use postern_model::{NetworkRanges, addr::FIRST_INDEX};

    use super::*;

    fn config(is_gateway: bool) -> NetworkConfig {
        let ranges = NetworkRanges::from_random([1, 2, 3, 4, 5]);
        NetworkConfig {
            interface: "postern7".into(),
            addr: ranges.device(FIRST_INDEX).unwrap(),
            ranges,
            zone: "postern.internal".parse().unwrap(),
            is_gateway,
        }
    }

    #[test]
    fn only_gateways_forward_and_masquerade() {
        let (client, gateway) = (rules(&config(false)), rules(&config(true)));
        assert!(!client.contains("masquerade") && !client.contains("forward"));
        assert!(gateway.contains("ip saddr 100.64.0.0/11 masquerade"), "{gateway}");
        for rules in [client, gateway] {
            assert!(rules.contains("ip saddr { 100.64.0.0/11, 100.96.0.0/11 } drop"), "{rules}");
            assert!(rules.contains("ip daddr 100.64.1.0 drop"), "{rules}");
        }
    }
}
