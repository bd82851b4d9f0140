//! Other programs' rules: a chain that drops what is forwarded, as Docker's does, makes a gateway carry nothing.
//!
//! A packet has to pass every table, so this node's own accepting it is not enough. The rules are somebody else's, and so
//! they are not changed but reported.

use serde_json::Value;

use crate::os::program::run;

/// What keeps this gateway from forwarding, and what to do about it; `None` when nothing is seen.
pub(in crate::os) async fn obstacle(interface: &str) -> Option<String> {
    if let Ok(chains) = run("nft", &["-j", "list", "chains"], "").await {
        for chain in dropping_chains(&chains, "forward", interface) {
            let rules = run("nft", &["-j", "list", "table", &chain.family, &chain.table], "").await;
            if !rules.is_ok_and(|rules| is_let_through(&rules, interface)) {
                return Some(chain.explain());
            }
        }
    }
    // Rules of the older kind are not seen by nft. The list is empty where the kernel holds none.
    let is_legacy_in_use =
        std::fs::read_to_string("/proc/net/ip_tables_names").is_ok_and(|names| names.contains("filter"));
    if is_legacy_in_use && let Ok(rules) = run("iptables-legacy", &["-S"], "").await {
        return legacy_drops(&rules, interface).then(|| explain_iptables("iptables-legacy"));
    }
    None
}

/// The chain that drops what comes to this UDP port unasked, if one does: its name.
pub async fn closed_to(port: u16, own_table: &str) -> Option<String> {
    let chains = run("nft", &["-j", "list", "chains"], "").await.ok()?;
    for chain in dropping_chains(&chains, "input", own_table) {
        let rules = run("nft", &["-j", "list", "table", &chain.family, &chain.table], "").await;
        if rules.is_ok_and(|rules| !is_open(&rules, port)) {
            return Some(format!("the chain {} of table {} {}", chain.name, chain.family, chain.table));
        }
    }
    None
}

/// Whether a table (`nft -j list table`) has a rule that accepts what comes to this UDP port.
fn is_open(json: &str, port: u16) -> bool {
    let covers = |value: &Value| match value {
        Value::Number(number) => number.as_u64() == Some(port.into()),
        Value::Object(object) => {
            let range = object.get("range").and_then(Value::as_array).map(Vec::as_slice);
            let bound = |at: usize| range?.get(at)?.as_u64();
            bound(0).zip(bound(1)).is_some_and(|(from, to)| (from..=to).contains(&port.into()))
        }
        _ => false,
    };
    objects(json).iter().filter_map(|object| object["rule"]["expr"].as_array()).any(|expressions| {
        let accepts = expressions.iter().any(|expression| expression.get("accept").is_some());
        let names_it = expressions.iter().any(|expression| {
            let matched = &expression["match"];
            let field = &matched["left"]["payload"];
            let is_of_udp = field["protocol"] == "udp" || field["protocol"] == "th";
            let set = matched["right"]["set"].as_array();
            is_of_udp
                && field["field"] == "dport"
                && matched["op"] == "=="
                && (covers(&matched["right"]) || set.is_some_and(|set| set.iter().any(covers)))
        });
        accepts && names_it
    })
}

/// A chain whose policy drops what is forwarded, or what comes in.
#[derive(Debug, PartialEq, Eq)]
struct Chain {
    family: String,
    table: String,
    name: String,
}

impl Chain {
    fn explain(&self) -> String {
        match (self.family.as_str(), self.table.as_str(), self.name.as_str()) {
            ("ip", "filter", "FORWARD") => explain_iptables("iptables"),
            ("ip6", "filter", "FORWARD") => explain_iptables("ip6tables"),
            (family, table, name) => format!(
                "the firewall of this machine drops what is forwarded (chain {name} of table {family} {table}), so clients \
                 reach nothing beyond it; let the tunnel through with 'nft insert rule {family} {table} {name} iifname \
                 \"postern*\" accept' and 'nft insert rule {family} {table} {name} oifname \"postern*\" ct state \
                 established,related accept'"
            ),
        }
    }
}

fn explain_iptables(program: &str) -> String {
    format!(
        "the firewall of this machine drops what is forwarded (policy of FORWARD, as Docker sets it), so clients reach \
         nothing beyond it; let the tunnel through with '{program} -I FORWARD -i postern+ -j ACCEPT' and '{program} -I \
         FORWARD -o postern+ -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT'"
    )
}

/// What `nft -j` lists.
pub(super) fn objects(json: &str) -> Vec<Value> {
    let parsed: Option<Value> = serde_json::from_str(json).ok();
    parsed.and_then(|mut parsed| parsed["nftables"].as_array_mut().map(std::mem::take)).unwrap_or_default()
}

/// Of `nft -j list chains`, but for this node's own.
fn dropping_chains(json: &str, hook: &str, own_table: &str) -> Vec<Chain> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let chains = objects(json).into_iter().filter_map(|object| {
        let chain = object.get("chain")?;
        let drops = chain["hook"] == hook && chain["policy"] == "drop" && chain["table"] != own_table;
        let is_ip = matches!(chain["family"].as_str(), Some("ip" | "ip6" | "inet"));
        (drops && is_ip).then(|| Chain {
            family: text(&chain["family"]),
            table: text(&chain["table"]),
            name: text(&chain["name"]),
        })
    });
    chains.collect()
}

/// Whether a table (`nft -j list table`) has a rule that accepts what comes from this interface.
fn is_let_through(json: &str, interface: &str) -> bool {
    objects(json).iter().filter_map(|object| object["rule"]["expr"].as_array()).any(|expressions| {
        let accepts = expressions.iter().any(|expression| expression.get("accept").is_some());
        let names_it = expressions.iter().any(|expression| {
            let matched = &expression["match"];
            matched["left"]["meta"]["key"] == "iifname"
                && matched["op"] == "=="
                && match &matched["right"] {
                    Value::String(pattern) => fits(pattern, '*', interface),
                    Value::Object(set) => set.get("set").and_then(Value::as_array).is_some_and(|names| {
                        names.iter().filter_map(Value::as_str).any(|pattern| fits(pattern, '*', interface))
                    }),
                    _ => false,
                }
        });
        accepts && names_it
    })
}

/// Of `iptables-legacy -S`.
fn legacy_drops(rules: &str, interface: &str) -> bool {
    let is_let_through = rules.lines().any(|line| {
        let words: Vec<_> = line.split_whitespace().collect();
        let comes_from = words.windows(2).any(|pair| pair[0] == "-i" && fits(pair[1], '+', interface));
        comes_from && words.ends_with(&["-j", "ACCEPT"])
    });
    rules.lines().any(|line| line.trim() == "-P FORWARD DROP") && !is_let_through
}

/// Whether a pattern that may end in a wildcard matches the interface's name.
fn fits(pattern: &str, wildcard: char, interface: &str) -> bool {
    match pattern.strip_suffix(wildcard) {
        Some(start) => interface.starts_with(start),
        None => pattern == interface,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHAINS: &str = r#"{"nftables": [{"metainfo": {"version": "1.0.6"}},
        {"chain": {"family": "ip", "table": "filter", "name": "FORWARD", "hook": "forward", "policy": "drop"}},
        {"chain": {"family": "ip", "table": "filter", "name": "DOCKER-USER"}},
        {"chain": {"family": "inet", "table": "mine", "name": "in", "hook": "input", "policy": "drop"}},
        {"chain": {"family": "bridge", "table": "b", "name": "f", "hook": "forward", "policy": "drop"}},
        {"chain": {"family": "inet", "table": "postern0", "name": "forward", "hook": "forward", "policy": "drop"}},
        {"chain": {"family": "inet", "table": "mine", "name": "fwd", "hook": "forward", "policy": "drop"}}]}"#;

    #[test]
    fn chains_that_drop_what_is_forwarded_are_found_and_explained() {
        let chains = dropping_chains(CHAINS, "forward", "postern0");
        let names: Vec<_> = chains.iter().map(|chain| chain.name.as_str()).collect();
        assert_eq!(names, ["FORWARD", "fwd"]);
        assert!(chains[0].explain().contains("'iptables -I FORWARD -i postern+ -j ACCEPT'"));
        assert!(chains[1].explain().contains("nft insert rule inet mine fwd iifname"));
        assert_eq!(dropping_chains("no json", "forward", "postern0"), []);
        assert_eq!(dropping_chains(CHAINS, "input", "postern0")[0].name, "in");
    }

    #[test]
    fn a_port_is_open_where_a_rule_accepts_it() {
        let table = |right: &str, verdict: &str| {
            format!(
                r#"{{"nftables": [{{"rule": {{"expr": [{{"match": {{"op": "==", "left": {{"payload":
                {{"protocol": "udp", "field": "dport"}}}}, "right": {right}}}}}, {{"{verdict}": null}}]}}}}]}}"#
            )
        };
        for right in
            ["4000", r#"{"set": [53, 4000]}"#, r#"{"range": [3000, 5000]}"#, r#"{"set": [{"range": [1, 4000]}]}"#]
        {
            assert!(is_open(&table(right, "accept"), 4000), "{right}");
            assert!(!is_open(&table(right, "drop"), 4000), "{right}");
            assert!(!is_open(&table(right, "accept"), 6000), "{right}");
        }
        assert!(!is_open("no json", 4000));
    }

    #[test]
    fn an_obstacle_that_lets_the_tunnel_through_is_none() {
        let table = |right: &str, verdict: &str| {
            format!(
                r#"{{"nftables": [{{"rule": {{"expr": [{{"match": {{"op": "==", "left": {{"meta": {{"key": "iifname"}}}},
                "right": {right}}}}}, {{"counter": null}}, {{"{verdict}": null}}]}}}}]}}"#
            )
        };
        for right in [r#""postern*""#, r#""postern0""#, r#"{"set": ["eth1", "postern0"]}"#] {
            assert!(is_let_through(&table(right, "accept"), "postern0"), "{right}");
            assert!(!is_let_through(&table(right, "drop"), "postern0"), "{right}");
        }
        assert!(!is_let_through(&table(r#""docker0""#, "accept"), "postern0"));
        let docker = "-P INPUT ACCEPT\n-P FORWARD DROP\n-N DOCKER-USER\n";
        assert!(legacy_drops(docker, "postern0"));
        assert!(!legacy_drops(&format!("{docker}-A FORWARD -i postern+ -j ACCEPT\n"), "postern0"));
        assert!(legacy_drops(&format!("{docker}-A FORWARD -i docker0 -j ACCEPT\n"), "postern0"));
        assert!(!legacy_drops("-P FORWARD ACCEPT\n", "postern0"));
    }
}
