//! Output for people.

use std::fmt::Write as _;

use comfy_table::{Table, presets};
use postern_model::{Filter, Found, Posture, PublicKey};

use crate::{
    control::Transport,
    local::protocol::{
        ActivityRow, DownReply, ExplainedReply, PeerRow, PingReply, ResourceRow, Status, UpReply, WhoisReply,
    },
};

pub(super) fn up(reply: &UpReply) -> String {
    let status = &reply.status;
    let name = status.name.as_deref().unwrap_or("this device");
    let mut text = match (&status.user, &status.site) {
        (Some(user), _) => format!("Up: this device is '{name}', {user}'s."),
        (None, Some(_)) => format!("Up: this device is '{name}', a gateway."),
        (None, None) => format!("Up: this device is '{name}'."),
    };
    if let Some(addr) = status.addr {
        let _ = write!(text, " Its addresses are {} and {}.", addr.v4, addr.v6);
    }
    text.push('\n');
    if let Some(problem) = &status.problem {
        let _ = writeln!(text, "But {problem}.");
    }
    if !reply.resources.is_empty() {
        text.push_str("You can reach:\n");
        text.push_str(&resources(&reply.resources));
    } else if status.site.is_none() {
        text.push_str(
            "There is nothing to reach yet; when your admin gives you access, 'postern resources' shows it.\n",
        );
    }
    text
}

pub(super) fn down(reply: &DownReply) -> String {
    if reply.was_up { "Down. 'postern up' brings it back." } else { "It was down already." }.into()
}

pub(super) fn logout(reply: &DownReply) -> String {
    if reply.was_enrolled {
        "Logged out: this device's identity is gone. An admin removes it from the list with 'postern-coordinator device remove'."
    } else {
        "This device had no identity."
    }
    .into()
}

pub(super) fn explain(explained: &ExplainedReply) -> String {
    let ExplainedReply { name, because, reply, .. } = explained;
    let mut lines = vec![match because {
        None => format!("You can reach {name} on {}.", reply.open),
        Some(because) => format!("You can't reach {name} now: {because}."),
    }];
    let more = if because.is_none() { "For more of it" } else { "For that" };
    for (at, way) in reply.ways.iter().enumerate() {
        lines.push(if at == 0 { format!("{more}, this is missing:") } else { "Or this:".to_owned() });
        lines.extend(way.iter().map(|lack| {
            let state = if lack.is_known { "not met" } else { "not known" };
            format!("  {}: {state}; {}", lack.test, lack.hint)
        }));
    }
    if reply.has_untold {
        let other = if reply.ways.is_empty() { "There may be" } else { "There may also be" };
        lines.push(format!("{other} conditions that can't be told here; ask your admin."));
    }
    lines.join("\n")
}

pub(super) fn status(status: &Status) -> String {
    let mut lines = Vec::new();
    let mut line = |what: &str, value: String| lines.push(format!("{what:<13} {value}"));
    let state = match (status.enrolled, status.up, status.connected) {
        (false, _, _) => "not enrolled",
        (true, false, _) if !status.running => "not running",
        (true, false, _) => "down",
        (true, true, false) => "up, not connected to the coordinator",
        (true, true, true) => "up",
    };
    line("State", state.into());
    match status.transport {
        Some(Transport::Tcp) => line("Transport", "connected over TCP: this network lets no UDP through".into()),
        Some(Transport::Proxy) => {
            line("Transport", "connected through an HTTP proxy: this network lets no UDP through".into());
        }
        Some(Transport::Udp) | None => {}
    }
    if let Some(relay) = &status.relay {
        line("Relay", format!("waits for peers at '{relay}'"));
    }
    if let Some(problem) = &status.problem {
        line("Problem", problem.clone());
    }
    if let (Some(name), Some(id)) = (&status.name, &status.id) {
        line("Device", format!("{name} ({id})"));
    }
    if let Some(user) = &status.user {
        line("User", user.clone());
    }
    if status.site.is_some() {
        line("Gateway", format!("carrying {}", counted(status.grants_carried, "grant")));
    }
    if let Some(activity) = status.activity.filter(|activity| activity.waiting + activity.dropped > 0) {
        let ActivityRow { waiting, dropped } = activity;
        line("Activity", format!("{waiting} records of flows not with the coordinator yet, {dropped} dropped"));
    }
    if let Some(coordinator) = &status.coordinator {
        line("Coordinator", coordinator.clone());
    }
    if let (Some(interface), Some(addr)) = (&status.interface, &status.addr) {
        line("Interface", format!("{interface}, {}, {}", addr.v4, addr.v6));
    }
    if let (Some(key), Some(port)) = (&status.wireguard_key, status.wireguard_port) {
        line("WireGuard", format!("{key}, UDP port {port}"));
    }
    if let Some(posture) = &status.posture {
        line("Posture", self::posture(posture));
        for (check, found) in &posture.checks {
            line("Check", format!("{check} {}", self::found(found)));
        }
    }
    if status.up {
        if status.site.is_none() || status.resources > 0 {
            line("Resources", status.resources.to_string());
        }
        line("Packets", format!("{} out, {} in", status.out_packets, status.in_packets));
    }
    if !status.drops.is_empty() {
        let drops: Vec<_> = status.drops.iter().map(|(reason, count)| format!("{reason} {count}")).collect();
        line("Dropped", drops.join(", "));
    }
    for peer in &status.peers {
        let path = path(peer);
        let flows = counted(peer.flows, "flow");
        let (sent, received, mtu) = (peer.sent_bytes, peer.received_bytes, peer.mtu);
        let peer = short(&peer.id);
        line("Peer", format!("{peer} {path}, MTU {mtu}, {flows}, {sent} B out, {received} B in"));
    }
    lines.join("\n")
}

fn path(peer: &PeerRow) -> String {
    let place = match (&peer.endpoint, &peer.relay) {
        (Some(endpoint), _) => format!("directly at {endpoint}"),
        (None, Some(relay)) => format!("through relay '{relay}'"),
        (None, None) => return "no path yet: it has not answered".to_owned(),
    };
    let time = peer.round_trip_ms.map(|time| format!(", {time:.1} ms")).unwrap_or_default();
    match peer.handshake_seconds_ago {
        Some(ago) => format!("{place}{time}, handshake {ago} s ago"),
        None => format!("perhaps {place}, no answer yet"),
    }
}

/// What policies may ask of it; what is not known satisfies none of them.
fn posture(posture: &Posture) -> String {
    let say = |value: Option<bool>, yes: &'static str, no: &'static str, unknown: &'static str| match value {
        Some(true) => yes,
        Some(false) => no,
        None => unknown,
    };
    let updated = match posture.update_age_days {
        Some(0) => "updated today".to_owned(),
        Some(1) => "updated 1 day ago".to_owned(),
        Some(days) => format!("updated {days} days ago"),
        None => "age of updates unknown".to_owned(),
    };
    let said = [
        say(posture.disk_encrypted, "disk encrypted", "disk not encrypted", "disk encryption unknown"),
        say(posture.firewall, "firewall on", "no firewall", "firewall unknown"),
        say(posture.screen_lock, "screen locks", "screen does not lock", "screen lock unknown"),
        &updated,
    ];
    said.join(", ")
}

fn found(found: &Found) -> String {
    match found {
        Found::Absent => "is not there".into(),
        Found::Present => "is there".into(),
        Found::Version(version) => format!("is there in version {version}"),
        Found::Unknown => "is unknown".into(),
    }
}

pub(super) fn resources(rows: &[ResourceRow]) -> String {
    if rows.is_empty() {
        return "There is nothing to reach yet; your admin gives access.".into();
    }
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_header(["NAME", "OPEN", "ADDRESS", "ALSO KNOWN AS", "LEASE"]);
    for row in rows {
        let aliases: Vec<_> = row.aliases.iter().map(ToString::to_string).collect();
        table.add_row([
            row.fqdn.to_string(),
            open(&row.filter),
            row.addr.v4.to_string(),
            aliases.join(", "),
            row.lease_seconds_left.map_or_else(|| "-".to_owned(), |left| format!("{left} s left")),
        ]);
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    let lines: Vec<_> = table.lines().map(|line| line.trim_end().to_owned() + "\n").collect();
    lines.concat()
}

fn open(filter: &Filter) -> String {
    filter.to_string()
}

pub(super) fn ping(reply: &PingReply) -> String {
    let path = match (reply.gateway, reply.endpoint, &reply.relay) {
        (None, ..) => "without a grant".to_owned(),
        (Some(gateway), Some(endpoint), _) => format!("through gateway {} at {endpoint}, direct", short(&gateway)),
        (Some(gateway), None, Some(relay)) => format!("through gateway {} by relay '{relay}'", short(&gateway)),
        (Some(gateway), None, None) => format!(
            "through gateway {}, which has not answered yet; 'postern doctor' here and on the gateway says what is in the way",
            short(&gateway)
        ),
    };
    let mut lines = vec![format!("{} by {}, {path}", reply.name, reply.with)];
    for (number, time) in reply.milliseconds.iter().enumerate() {
        lines.push(match time {
            Some(time) => format!("{}: {time:.1} ms", number + 1),
            None => format!("{}: no answer", number + 1),
        });
    }
    lines.join("\n")
}

pub(super) fn whois(reply: &WhoisReply) -> String {
    let user = reply.user.as_deref().unwrap_or("no user (a service device)");
    format!("{} on device {} ({}), {} and {}", user, reply.name, reply.id, reply.addr.v4, reply.addr.v6)
}

fn counted(count: usize, what: &str) -> String {
    if count == 1 { format!("1 {what}") } else { format!("{count} {what}s") }
}

fn short(key: &PublicKey) -> String {
    key.to_string().chars().take(8).chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_posture_says_what_is_so_what_is_not_and_what_is_unknown() {
        let unknown = posture(&Posture::default());
        assert_eq!(unknown, "disk encryption unknown, firewall unknown, screen lock unknown, age of updates unknown");
        let (disk_encrypted, firewall, update_age_days) = (Some(true), Some(false), Some(1));
        let some = Posture { disk_encrypted, firewall, update_age_days, ..Posture::default() };
        assert_eq!(posture(&some), "disk encrypted, no firewall, screen lock unknown, updated 1 day ago");
    }
}
