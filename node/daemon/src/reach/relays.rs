//! [`Relays`]: the relays that this node attends. Its home always, others while a peer is to be reached there. The choice is
//! pure ([`needed`]); what is here besides starts and ends connections.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use postern_model::{Moment, PublicKey, RelayId};
use postern_wire::{RelayEntry, SignedPass};
use tokio::sync::mpsc;

use super::{
    RelayPeer, Shared,
    relay::{Attendance, RelayEvent},
};

/// How long a relay is attended that no peer needs any more: a grant that ended may come again.
const LINGER: Duration = Duration::from_secs(60);
/// So many relays are attended at once at most. A gateway's clients may wait at as many as there are.
const MAX_ATTENDED: usize = 64;

/// The relays of the network, and the connections to some of them.
pub(super) struct Relays {
    shared: Arc<Shared>,
    events: mpsc::Sender<RelayEvent>,
    entries: BTreeMap<RelayId, RelayEntry>,
    own_pass: Option<SignedPass>,
    peers: Vec<RelayPeer>,
    home: Option<RelayId>,
    attended: BTreeMap<RelayId, Attendance>,
}

impl Relays {
    /// What connections tell goes to `events`.
    pub(super) fn new(shared: Arc<Shared>, events: mpsc::Sender<RelayEvent>) -> Self {
        let (entries, attended) = (BTreeMap::new(), BTreeMap::new());
        Self { shared, events, entries, own_pass: None, peers: Vec::new(), home: None, attended }
    }

    /// The relays that there are from now on, and whether they are others than before; `own_pass` only if there is a fresh one.
    pub(super) fn set_entries(&mut self, entries: Vec<RelayEntry>, own_pass: Option<SignedPass>, now: Moment) -> bool {
        let entries = entries.into_iter().map(|entry| (entry.id, entry)).collect();
        let before = std::mem::replace(&mut self.entries, entries);
        self.own_pass = own_pass.or(self.own_pass);
        // One that is elsewhere or has another key is another one.
        self.attended.retain(|id, attendance| self.entries.get(id) == Some(&attendance.entry));
        self.follow(now);
        before != self.entries
    }

    /// The peers that are to be reached through relays, with all that is known of them.
    pub(super) fn set_peers(&mut self, peers: Vec<RelayPeer>, now: Moment) {
        self.peers = peers;
        self.follow(now);
    }

    /// Where this node is to wait for peers.
    pub(super) fn set_home(&mut self, home: Option<RelayId>, now: Moment) {
        self.home = home;
        self.follow(now);
    }

    /// Ends what nobody has needed for a while.
    pub(super) fn handle_timeout(&mut self, now: Moment) {
        self.attended.retain(|_, attendance| attendance.idle_since.is_none_or(|since| now.since(since) < LINGER));
    }

    /// The relays of the network.
    pub(super) fn entries(&self) -> impl Iterator<Item = &RelayEntry> {
        self.entries.values()
    }

    /// One of them.
    pub(super) fn entry(&self, id: RelayId) -> Option<&RelayEntry> {
        self.entries.get(&id)
    }

    fn follow(&mut self, now: Moment) {
        let needed = needed(&self.peers, self.home, self.entries.keys().copied());
        for (id, attendance) in &mut self.attended {
            match needed.contains_key(id) {
                true => attendance.idle_since = None,
                false => drop(attendance.idle_since.get_or_insert(now)),
            }
        }
        self.handle_timeout(now);
        for id in needed.keys() {
            if self.attended.contains_key(id) || self.attended.len() >= MAX_ATTENDED {
                continue;
            }
            if let Some(entry) = self.entries.get(id) {
                let attendance = Attendance::start(entry.clone(), &self.shared, self.events.clone());
                self.attended.insert(*id, attendance);
            }
        }
        for (id, attendance) in &self.attended {
            let peers = needed.get(id);
            let of_peers = self.peers.iter().filter(|peer| peers.is_some_and(|keys| keys.contains(&peer.key)));
            let passes = self.own_pass.iter().copied().chain(of_peers.map(|peer| peer.pass));
            attendance.show(passes.collect());
        }
    }
}

/// Which relays are to be attended, and for which peers: the home for whoever waits there too.
fn needed(
    peers: &[RelayPeer],
    home: Option<RelayId>,
    known: impl Iterator<Item = RelayId>,
) -> BTreeMap<RelayId, BTreeSet<PublicKey>> {
    let known: BTreeSet<_> = known.collect();
    let mut needed: BTreeMap<_, BTreeSet<_>> = BTreeMap::new();
    if let Some(home) = home.filter(|home| known.contains(home)) {
        needed.entry(home).or_default();
    }
    for peer in peers {
        for relay in peer.relays.iter().filter(|relay| known.contains(relay)) {
            needed.entry(*relay).or_default().insert(peer.key);
        }
    }
    needed
}

#[cfg(test)]
mod tests {
    use super::*;
    use postern_model::{Sha256, Timestamp};
    use postern_wire::Pass;

    fn relay(number: u8) -> RelayId {
        RelayId::from_bytes([number; 16])
    }

    fn peer(number: u8, relays: &[u8]) -> RelayPeer {
        let key = PublicKey([number; 32]);
        let expires = Timestamp::from_unix_millis(1);
        let pass = Pass { key: Sha256([0; 32]), holder: PublicKey([0; 32]), peer: key, expires };
        let relays = relays.iter().copied().map(relay).collect();
        RelayPeer { key, pass: SignedPass { pass, signature: [0; 64] }, relays }
    }

    #[test]
    fn the_home_is_attended_always_and_others_for_peers() {
        let known = || [1, 2, 3].into_iter().map(relay);
        assert_eq!(needed(&[], None, known()), BTreeMap::new());
        assert_eq!(needed(&[], Some(relay(1)), known()), BTreeMap::from([(relay(1), BTreeSet::new())]));
        let peers = [peer(7, &[1, 2]), peer(8, &[2]), peer(9, &[])];
        let found = needed(&peers, Some(relay(1)), known());
        let keys = |numbers: &[u8]| numbers.iter().map(|number| PublicKey([*number; 32])).collect::<BTreeSet<_>>();
        assert_eq!(found, BTreeMap::from([(relay(1), keys(&[7])), (relay(2), keys(&[7, 8]))]));
    }

    #[test]
    fn a_relay_that_the_network_does_not_have_is_not_attended() {
        let known = || [1].into_iter().map(relay);
        assert_eq!(needed(&[peer(7, &[9])], Some(relay(8)), known()), BTreeMap::new());
    }
}
