//! Whether a firewall keeps out what nobody asked for: a posture's `firewall`.
//!
//! It does when some chain that sees what comes in for this machine drops by policy, or ends in a rule that drops or rejects
//! everything. The node's own tables guard the tunnel and not the machine, and don't count; nor do rules for forwarded
//! packets, nor rules with a condition, nor chains that see IPv6 alone. Other chains that a chain jumps to are not followed: a
//! firewall that hides its last word so is taken for none.

use std::path::Path;

use serde_json::Value;

use super::foreign::objects;
use crate::os::program::run;

/// What the tables of all nodes on a machine are called, with a number behind it.
const OWN: &str = "postern";
/// So many chains are looked into at most.
const MAX_CHAINS: usize = 64;
/// Chains may come and go while they are looked at.
const TRIES: usize = 3;

/// `None` when it can't be found out. `root` is where `/proc` is.
pub(in crate::os) async fn is_guarded(root: &Path) -> Option<bool> {
    match by_nft().await? {
        true => Some(true),
        false => by_legacy(root).await,
    }
}

async fn by_nft() -> Option<bool> {
    let mut known = None;
    for _ in 0..TRIES {
        known = look().await;
        if known.is_some() {
            break;
        }
    }
    known
}

async fn look() -> Option<bool> {
    let chains = input_chains(&run("nft", &["-j", "list", "chains"], "").await.ok()?)?;
    if chains.iter().any(|chain| chain.drops) {
        return Some(true);
    }
    // What nft would read as an option, or as a command of its own, is no name to ask for.
    let is_plain = |name: &str| {
        name.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_')
            && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-./".contains(&byte))
    };
    if chains.len() > MAX_CHAINS || !chains.iter().all(|chain| is_plain(&chain.table) && is_plain(&chain.name)) {
        return None;
    }
    for chain in chains {
        let words = ["-j", "list", "chain", &chain.family, &chain.table, &chain.name];
        if ends_in_drop(&run("nft", &words, "").await.ok()?) {
            return Some(true);
        }
    }
    Some(false)
}

/// Rules of the older kind are not seen by nft. The list is empty where the kernel holds none.
async fn by_legacy(root: &Path) -> Option<bool> {
    match std::fs::read_to_string(root.join("proc/net/ip_tables_names")) {
        Ok(names) if names.lines().any(|name| name == "filter") => {
            run("iptables-legacy", &["-S", "INPUT"], "").await.ok().map(|rules| legacy_guards(&rules))
        }
        _ => Some(false),
    }
}

/// A chain that sees what comes in.
#[derive(Debug, PartialEq, Eq)]
struct Chain {
    family: String,
    table: String,
    name: String,
    /// Whether its policy drops.
    drops: bool,
}

/// Of `nft -j list chains`, but for the nodes' own; `None` when it is no such list.
fn input_chains(json: &str) -> Option<Vec<Chain>> {
    let objects = objects(json);
    // Each list begins with the program's version.
    objects.first()?.get("metainfo")?;
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let chains = objects.iter().filter_map(|object| {
        let chain = object.get("chain")?;
        let table = chain["table"].as_str()?;
        let number = table.strip_prefix(OWN);
        let is_own = number.is_some_and(|number| number.bytes().all(|byte| byte.is_ascii_digit()));
        let is_ip = matches!(chain["family"].as_str(), Some("ip" | "inet"));
        let is_meant = is_ip && chain["hook"] == "input" && chain["type"] == "filter" && !is_own;
        is_meant.then(|| Chain {
            family: text(&chain["family"]),
            table: table.to_owned(),
            name: text(&chain["name"]),
            drops: chain["policy"] == "drop",
        })
    });
    Some(chains.collect())
}

/// Whether the last rule of a chain (`nft -j list chain`) lets nothing pass, whatever it is.
fn ends_in_drop(json: &str) -> bool {
    let objects = objects(json);
    let last = objects.iter().filter_map(|object| object["rule"]["expr"].as_array()).next_back();
    last.is_some_and(|expressions| {
        let is_verdict = |expression: &Value| {
            let is_reject = expression["xt"]["name"] == "REJECT";
            expression.get("drop").is_some() || expression.get("reject").is_some() || is_reject
        };
        let has_no_say = |expression: &Value| expression.get("counter").is_some() || expression.get("log").is_some();
        expressions.iter().any(is_verdict) && expressions.iter().all(|it| is_verdict(it) || has_no_say(it))
    })
}

/// Of `iptables-legacy -S INPUT`.
fn legacy_guards(rules: &str) -> bool {
    let last = rules.lines().map(str::trim).rfind(|line| !line.is_empty());
    let is_all = |line: &str| line == "-A INPUT -j DROP" || line.starts_with("-A INPUT -j REJECT");
    rules.lines().any(|line| line.trim() == "-P INPUT DROP") || last.is_some_and(is_all)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(objects: &str) -> String {
        format!(r#"{{"nftables": [{{"metainfo": {{"version": "1.0.6"}}}}, {objects}]}}"#)
    }

    fn chain(family: &str, table: &str, hook: &str, policy: &str) -> String {
        format!(
            r#"{{"chain": {{"family": "{family}", "table": "{table}", "name": "in", "type": "filter", "hook": "{hook}",
            "policy": "{policy}"}}}}"#
        )
    }

    #[test]
    fn only_what_keeps_this_machine_s_packets_out_counts() {
        let look = |family, table, hook, policy| input_chains(&list(&chain(family, table, hook, policy))).unwrap();
        assert!(look("inet", "mine", "input", "drop")[0].drops);
        assert!(look("ip", "filter", "input", "drop")[0].drops, "as iptables and ufw have it");
        assert!(!look("inet", "mine", "input", "accept")[0].drops);
        assert!(look("inet", "postern_mine", "input", "drop")[0].drops);
        for (family, table, hook) in [
            ("inet", "postern0", "input"),
            ("inet", "postern", "input"),
            ("inet", "mine", "forward"),
            ("inet", "mine", "output"),
            ("bridge", "mine", "input"),
            ("arp", "mine", "input"),
            ("ip6", "mine", "input"),
        ] {
            assert_eq!(look(family, table, hook, "drop"), [], "{family} {table} {hook}");
        }
        assert_eq!(
            input_chains(&list(r#"{"chain": {"family": "inet", "table": "t", "name": "jumped-to"}}"#)),
            Some(vec![])
        );
        assert_eq!(input_chains(""), None);
        assert_eq!(input_chains(r#"{"nftables": []}"#), None);
    }

    #[test]
    fn a_chain_guards_by_its_last_rule_when_that_has_no_condition() {
        let rules = |rules: &[&str]| {
            let rules: Vec<_> = rules.iter().map(|expr| format!(r#"{{"rule": {{"expr": [{expr}]}}}}"#)).collect();
            list(&[&[chain("inet", "mine", "input", "accept")], &rules[..]].concat().join(","))
        };
        let accept =
            r#"{"match": {"op": "==", "left": {"meta": {"key": "iifname"}}, "right": "lo"}}, {"accept": null}"#;
        let (drop, reject) =
            (r#"{"drop": null}"#, r#"{"counter": {"packets": 0, "bytes": 0}}, {"reject": {"type": "icmp"}}"#);
        for last in
            [drop, reject, r#"{"log": null}, {"drop": null}"#, r#"{"xt": {"type": "target", "name": "REJECT"}}"#]
        {
            assert!(ends_in_drop(&rules(&[accept, last])), "{last}");
            assert!(!ends_in_drop(&rules(&[last, accept])), "{last}");
        }
        let on_condition =
            r#"{"match": {"op": "==", "left": {"meta": {"key": "iifname"}}, "right": "eth9"}}, {"drop": null}"#;
        let limited = r#"{"limit": {"rate": 10, "per": "second"}}, {"drop": null}"#;
        for last in
            [on_condition, limited, accept, r#"{"jump": {"target": "more"}}"#, r#"{"xt": null}, {"drop": null}"#]
        {
            assert!(!ends_in_drop(&rules(&[last])), "{last}");
        }
        assert!(!ends_in_drop(&rules(&[])));
        assert!(!ends_in_drop("no json"));
    }

    #[test]
    fn rules_of_the_older_kind_count_too() {
        assert!(legacy_guards("-P INPUT DROP\n-A INPUT -i lo -j ACCEPT\n"));
        assert!(legacy_guards(
            "-P INPUT ACCEPT\n-A INPUT -i lo -j ACCEPT\n-A INPUT -j REJECT --reject-with icmp-port-unreachable\n"
        ));
        assert!(legacy_guards("-P INPUT ACCEPT\n-A INPUT -j DROP\n"));
        assert!(!legacy_guards("-P INPUT ACCEPT\n-A INPUT -j DROP\n-A INPUT -i lo -j ACCEPT\n"));
        assert!(!legacy_guards("-P INPUT ACCEPT\n-A INPUT -i eth9 -j DROP\n"));
        assert!(!legacy_guards("-P INPUT ACCEPT\n-P FORWARD DROP\n"));
    }
}
