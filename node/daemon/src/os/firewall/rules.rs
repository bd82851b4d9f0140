//! What the kernel must not let pass, as text for nft(8).
//!
//! - An IPv4 source that this machine itself would answer through the tunnel is forged when it comes from anywhere else. The
//!   rest of 100.64.0.0/10 (RFC 6598) may be a provider's or a neighbour's, and stays reachable. The IPv6 ranges are nobody
//!   else's.
//! - What goes to this node's own overlay address from outside means to get around the tunnel; but this machine's own
//!   containers may ask it for names, since the machine's resolver settings, which they copy, name it.
//! - Nobody's packets but this machine's own go into the tunnel: a laptop that forwards for its containers, or for whoever
//!   is on its network, lends nobody its rights.
//! - On a gateway, clients' packets are let through and masqueraded where they leave, and nobody behind it can open a
//!   connection to a client.

use std::fmt::Write as _;

use crate::os::NetworkConfig;

/// The node's table.
pub(super) fn table(interface: &str) -> String {
    format!("inet {interface}")
}

/// A script that puts the table in place of what was there of it.
pub(super) fn rules(config: &NetworkConfig, inner: &[String]) -> String {
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
    ip saddr {own4} drop
    ip saddr {{ {devices4}, {resources4} }} fib saddr oifname \"{interface}\" drop
"
    );
    let inner: Vec<_> = inner.iter().filter(|name| is_plain(name)).map(|name| format!("\"{name}\"")).collect();
    if !inner.is_empty() {
        let inner = inner.join(", ");
        let _ = writeln!(
            rules,
            "    iifname {{ {inner} }} ip daddr {own4} fib saddr . iif oif exists meta l4proto {{ tcp, udp }} th dport 53 accept"
        );
    }
    let _ = write!(
        rules,
        "    ip daddr {own4} drop
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
    } else {
        let _ = write!(
            rules,
            "  chain forward {{
    type filter hook forward priority filter; policy accept;
    oifname \"{interface}\" drop
    iifname \"{interface}\" drop
  }}
"
        );
    }
    rules.push_str("}\n");
    rules
}

/// An interface's name may be almost any text; what could end the quotes or widen the match is left out.
fn is_plain(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.@".contains(&byte))
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
    fn only_gateways_let_pass_and_masquerade() {
        let (client, gateway) = (rules(&config(false), &[]), rules(&config(true), &[]));
        assert!(!client.contains("masquerade") && client.contains("oifname \"postern7\" drop"), "{client}");
        assert!(!client.contains("established"), "{client}");
        assert!(gateway.contains("ip saddr 100.64.0.0/11 masquerade"), "{gateway}");
        for rules in [client, gateway] {
            assert!(
                rules.contains("ip saddr { 100.64.0.0/11, 100.96.0.0/11 } fib saddr oifname \"postern7\" drop"),
                "{rules}"
            );
            assert!(
                rules.contains("ip saddr 100.64.1.0 drop") && rules.contains("ip daddr 100.64.1.0 drop"),
                "{rules}"
            );
        }
    }

    #[test]
    fn containers_may_ask_for_names_and_nothing_else() {
        let none = rules(&config(false), &[]);
        assert!(!none.contains("dport 53"), "{none}");
        let some = rules(&config(false), &["docker0".into(), "br-1".into(), "x\" accept #".into(), "eth*".into()]);
        let line = some.lines().find(|line| line.contains("dport 53")).unwrap();
        assert!(line.contains("iifname { \"docker0\", \"br-1\" } ip daddr 100.64.1.0 "), "{line}");
        let (open, shut) = (some.find("dport 53").unwrap(), some.find("ip daddr 100.64.1.0 drop").unwrap());
        let forged = some.find("fib saddr oifname").unwrap();
        assert!(forged < open && open < shut, "a forged source is dropped first, and all else last: {some}");
    }
}
