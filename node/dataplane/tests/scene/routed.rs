//! Two lanes with a router between them.
//!
//! ```text
//!   client 192.0.2.30 ═══ eth0 router eth1 ═══ gateway 198.51.100.20
//! ```

use std::{num::NonZeroUsize, ops::RangeInclusive, sync::Arc};

use postern_dataplane::{NoRelays, Offloads, RelayOut, clock};

use super::{PATIENCE, Pair, netns::Netns, resource};

const GATEWAY: &str = "198.51.100.20";
const GATEWAY_V6: &str = "2001:db8:1::20";

/// What happens to what is too long for the router.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Excess {
    /// It is fragmented or, if that is forbidden, the sender is told.
    Told,
    /// It is lost, and nobody is told: no ICMP, and no fragments.
    Lost,
}

/// A pair, and what is between.
pub(crate) struct Routed {
    pub(crate) pair: Pair,
    router: Netns,
}

impl Routed {
    /// With the outer addresses of this family; both have the grant.
    pub(crate) fn granted(is_v6: bool) -> Self {
        let (client, router, gateway) = (Netns::new("client"), Netns::new("router"), Netns::new("gateway"));
        client.join("eth0", &router, "eth0");
        router.join("eth1", &gateway, "eth0");
        for setting in ["net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1"] {
            router.must(&["sysctl", "-qw", setting]);
        }
        client.address("eth0", &["192.0.2.30/24", "2001:db8::30/64"]);
        router.address("eth0", &["192.0.2.1/24", "2001:db8::1/64"]);
        router.address("eth1", &["198.51.100.1/24", "2001:db8:1::1/64"]);
        gateway.address("eth0", &["198.51.100.20/24", "2001:db8:1::20/64"]);
        for (netns, v4, v6) in [(&client, "192.0.2.1", "2001:db8::1"), (&gateway, "198.51.100.1", "2001:db8:1::1")] {
            netns.ip(&["route", "add", "default", "via", v4]);
            netns.ip(&["-6", "route", "add", "default", "via", v6]);
        }
        let candidate = if is_v6 { GATEWAY_V6 } else { GATEWAY };
        let relays: [Arc<dyn RelayOut>; 2] = [Arc::new(NoRelays), Arc::new(NoRelays)];
        let pair = Pair::between(client, gateway, candidate, (NonZeroUsize::MIN, Offloads::ALL), relays);
        pair.grant();
        Self { pair, router }
    }

    /// From now on the router carries at most `mtu` bytes at once, both ways.
    pub(crate) fn narrow(&self, mtu: u16, excess: Excess) {
        let mtu = mtu.to_string();
        if excess == Excess::Lost {
            let hole = "table inet hole { chain output { type filter hook output priority 0;
                icmp type destination-unreachable drop; icmpv6 type packet-too-big drop; }; }";
            self.router.must(&["nft", hole]);
            // Before they are put together again.
            let hole = "table inet hole { chain input { type filter hook prerouting priority -450;
                ip frag-off & 0x3fff != 0 drop; exthdr frag exists drop; }; }";
            for node in [&self.pair.client, &self.pair.gateway] {
                node.netns.must(&["nft", hole]);
            }
        }
        for (range, device) in [
            ("192.0.2.0/24", "eth0"),
            ("198.51.100.0/24", "eth1"),
            ("2001:db8::/64", "eth0"),
            ("2001:db8:1::/64", "eth1"),
        ] {
            // Of the router's own routes to its neighbours, none is left beside.
            let family = if range.contains(':') { "-6" } else { "-4" };
            self.router.ip(&[family, "route", "del", range, "dev", device]);
            self.router.ip(&[family, "route", "add", range, "dev", device, "mtu", "lock", &mtu]);
        }
    }

    /// Sends a little both ways until both ends know the path to be that wide.
    pub(crate) fn wait_for_mtu(&self, expected: &RangeInclusive<u16>) {
        let began = clock::now();
        loop {
            let known = [self.pair.client.mtu(), self.pair.gateway.mtu()];
            if known.iter().all(|mtu| expected.contains(mtu)) {
                return;
            }
            assert!(clock::now().since(began) < PATIENCE, "the path is taken to carry {known:?}, not {expected:?}");
            self.pair.client.ping_once(resource().v4.into());
        }
    }
}
