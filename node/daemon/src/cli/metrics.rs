//! The node's counters in Prometheus' text format (version 0.0.4), for whoever collects metrics from a command's output, such as
//! node_exporter's textfile collector. The node opens no port for them.

use std::fmt::Write as _;

use postern_engine::DropReason;

use crate::local::protocol::Status;

/// Every metric, each with what it is.
pub(super) fn text(status: &Status) -> String {
    let mut text = String::new();
    metric(&mut text, "postern_up", "gauge", "Whether the node is up.", [("", u64::from(status.up))]);
    let connected = u64::from(status.connected);
    metric(&mut text, "postern_connected", "gauge", "Whether the coordinator is connected.", [("", connected)]);
    let packets = [(r#"{direction="out"}"#, status.out_packets), (r#"{direction="in"}"#, status.in_packets)];
    metric(&mut text, "postern_packets_total", "counter", "Packets that passed, to and from peers.", packets);
    let drops = DropReason::ALL.map(|reason| {
        let count = status.drops.get(reason.label()).copied().unwrap_or(0);
        (format!(r#"{{reason="{}"}}"#, reason.label()), count)
    });
    metric(&mut text, "postern_dropped_packets_total", "counter", "Packets that were dropped, by reason.", drops);
    let carried = [("", status.grants_carried as u64)];
    metric(&mut text, "postern_grants_carried", "gauge", "Grants that it carries as a gateway.", carried);
    let labels = |of: fn(&crate::local::protocol::PeerRow) -> u64| {
        status.peers.iter().map(move |peer| (format!(r#"{{peer="{}"}}"#, peer.id), of(peer)))
    };
    let sent = labels(|peer| peer.sent_bytes);
    metric(&mut text, "postern_peer_sent_bytes_total", "counter", "Bytes sent to a peer, encrypted.", sent);
    let received = labels(|peer| peer.received_bytes);
    let help = "Bytes received from a peer, encrypted.";
    metric(&mut text, "postern_peer_received_bytes_total", "counter", help, received);
    let flows = labels(|peer| peer.flows as u64);
    metric(&mut text, "postern_peer_flows", "gauge", "Open flows through a peer.", flows);
    if let Some(activity) = &status.activity {
        let help = "Records of flows that the coordinator does not have yet.";
        metric(&mut text, "postern_activity_waiting", "gauge", help, [("", activity.waiting)]);
        let help = "Records of flows that were lost.";
        metric(&mut text, "postern_activity_dropped_total", "counter", help, [("", activity.dropped)]);
    }
    text
}

/// One metric, with its labels (none, or those in braces) and values. The labels hold nothing that would need to be escaped.
fn metric<L: AsRef<str>>(
    text: &mut String,
    name: &str,
    kind: &str,
    help: &str,
    values: impl IntoIterator<Item = (L, u64)>,
) {
    let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
    for (labels, value) in values {
        let _ = writeln!(text, "{name}{} {value}", labels.as_ref());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::local::protocol::PeerRow;
    use postern_model::PublicKey;

    #[test]
    fn every_reason_is_there_with_its_count_and_every_line_is_of_the_format() {
        let peer = PeerRow {
            id: PublicKey([7; 32]),
            path: None,
            endpoint: None,
            relay: None,
            round_trip_ms: None,
            handshake_seconds_ago: None,
            sent_bytes: 5,
            received_bytes: 6,
            flows: 1,
            mtu: 1420,
        };
        let drops = [("socket_full".to_owned(), 3)].into();
        let status = Status { connected: true, out_packets: 12, drops, peers: vec![peer], ..Status::default() };
        let text = text(&status);
        assert!(text.contains("\npostern_connected 1\n"), "{text}");
        assert!(text.contains("\npostern_packets_total{direction=\"out\"} 12\n"), "{text}");
        assert!(text.contains("\npostern_dropped_packets_total{reason=\"socket_full\"} 3\n"), "{text}");
        assert!(text.contains("\npostern_dropped_packets_total{reason=\"tun_full\"} 0\n"), "{text}");
        let peer = format!("\npostern_peer_sent_bytes_total{{peer=\"{}\"}} 5\n", PublicKey([7; 32]));
        assert!(text.contains(&peer), "{text}");
        for line in text.lines().filter(|line| !line.starts_with("# ")) {
            let (name, value) = line.rsplit_once(' ').unwrap();
            assert!(name.starts_with("postern_") && value.parse::<u64>().is_ok(), "{line}");
        }
        assert_eq!(text.matches("{reason=").count(), DropReason::ALL.len());
    }
}
