//! What this node has shown to one relay, and what the relay has said to it. Pure.
//!
//! A peer's pass is shown once, and again when there is a later one; a pass that was refused is not shown again. A channel
//! counts only if it is for a peer that was asked for.

use std::collections::HashMap;

use postern_model::{PublicKey, Timestamp};
use postern_wire::{RelayNews, RelayRequest, SignedPass};

/// A peer whose pass was shown.
#[derive(Debug)]
struct Shown {
    until: Timestamp,
    channel: Option<u32>,
    is_there: bool,
}

/// One connection's channels.
#[derive(Debug, Default)]
pub(super) struct Channels {
    shown: HashMap<PublicKey, Shown>,
    peers: HashMap<u32, PublicKey>,
}

/// What has changed by what a relay said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    /// Datagrams for this peer may bear this number.
    Opened(PublicKey, u32),
    /// Whether a peer is there now.
    Presence(PublicKey, bool),
    /// Nothing goes to this peer any more; its channel had this number.
    Closed(PublicKey, u32),
    /// The pass is of no use.
    Refused(PublicKey, postern_wire::relay::RelayRefusal),
}

impl Channels {
    /// What to ask for, so that exactly these passes are shown; and the channels that nobody needs any more.
    pub(super) fn show<'a>(
        &mut self,
        passes: impl Iterator<Item = &'a SignedPass>,
    ) -> (Vec<RelayRequest>, Vec<Change>) {
        let mut requests = Vec::new();
        let mut wanted = HashMap::new();
        for signed in passes {
            wanted.insert(signed.pass.peer, *signed);
        }
        let gone: Vec<_> = self.shown.keys().filter(|peer| !wanted.contains_key(peer)).copied().collect();
        let mut changes = Vec::new();
        for peer in gone {
            requests.push(RelayRequest::Close { peer });
            if let Some(Shown { channel: Some(channel), .. }) = self.shown.remove(&peer) {
                self.peers.remove(&channel);
                changes.push(Change::Closed(peer, channel));
            }
        }
        for (peer, pass) in wanted {
            let until = pass.pass.expires;
            match self.shown.get_mut(&peer) {
                Some(shown) if shown.until >= until => continue,
                Some(shown) => shown.until = until,
                None => drop(self.shown.insert(peer, Shown { until, channel: None, is_there: false })),
            }
            requests.push(RelayRequest::Open { pass });
        }
        (requests, changes)
    }

    /// What a relay says.
    pub(super) fn hear(&mut self, news: &RelayNews) -> Option<Change> {
        match *news {
            RelayNews::Opened { peer, channel } => {
                let shown = self.shown.get_mut(&peer)?;
                // Its number was another one's: that one has gone without a word.
                if self.peers.get(&channel).is_some_and(|other| *other != peer) {
                    return None;
                }
                if let Some(old) = shown.channel.replace(channel).filter(|old| *old != channel) {
                    self.peers.remove(&old);
                    shown.is_there = false;
                }
                self.peers.insert(channel, peer);
                Some(Change::Opened(peer, channel))
            }
            RelayNews::There { channel, is_there } => {
                let peer = *self.peers.get(&channel)?;
                let shown = self.shown.get_mut(&peer)?;
                (shown.is_there != is_there).then(|| {
                    shown.is_there = is_there;
                    Change::Presence(peer, is_there)
                })
            }
            RelayNews::Closed { channel } => {
                let peer = self.peers.remove(&channel)?;
                let shown = self.shown.get_mut(&peer)?;
                (shown.channel, shown.is_there) = (None, false);
                Some(Change::Closed(peer, channel))
            }
            RelayNews::Refused { peer, reason } => {
                // It stays among what was shown, so that the same pass is not shown again and again.
                self.shown.contains_key(&peer).then_some(Change::Refused(peer, reason))
            }
        }
    }

    /// Whose datagrams bear this number.
    pub(super) fn peer(&self, channel: u32) -> Option<PublicKey> {
        self.peers.get(&channel).copied()
    }

    /// All peers that have a channel; for when the connection ends.
    pub(super) fn peers(&self) -> impl Iterator<Item = PublicKey> + '_ {
        self.peers.values().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use postern_model::Sha256;
    use postern_wire::{Pass, relay::RelayRefusal};

    fn pass(peer: u8, until: i64) -> SignedPass {
        let (key, holder, peer) = (Sha256([0; 32]), PublicKey([0; 32]), PublicKey([peer; 32]));
        SignedPass { pass: Pass { key, holder, peer, expires: Timestamp::from_unix_millis(until) }, signature: [0; 64] }
    }

    fn peer(peer: u8) -> PublicKey {
        PublicKey([peer; 32])
    }

    fn show(channels: &mut Channels, passes: &[SignedPass]) -> Vec<RelayRequest> {
        channels.show(passes.iter()).0
    }

    #[test]
    fn passes_are_shown_once_and_again_when_they_are_good_for_longer() {
        let mut channels = Channels::default();
        assert_eq!(show(&mut channels, &[pass(1, 10)]), [RelayRequest::Open { pass: pass(1, 10) }]);
        assert_eq!(show(&mut channels, &[pass(1, 10)]), []);
        assert_eq!(show(&mut channels, &[pass(1, 9)]), []);
        assert_eq!(show(&mut channels, &[pass(1, 20)]), [RelayRequest::Open { pass: pass(1, 20) }]);
        let refused = RelayNews::Refused { peer: peer(1), reason: RelayRefusal::Expired };
        assert_eq!(channels.hear(&refused), Some(Change::Refused(peer(1), RelayRefusal::Expired)));
        assert_eq!(show(&mut channels, &[pass(1, 20)]), [], "it would be refused again");
        assert_eq!(show(&mut channels, &[]), [RelayRequest::Close { peer: peer(1) }]);
    }

    #[test]
    fn a_channel_lives_from_its_opening_to_its_end() {
        let mut channels = Channels::default();
        show(&mut channels, &[pass(1, 10), pass(2, 10)]);
        let opened = RelayNews::Opened { peer: peer(1), channel: 7 };
        assert_eq!(channels.hear(&opened), Some(Change::Opened(peer(1), 7)));
        assert_eq!(channels.peer(7), Some(peer(1)));
        let there = |is_there| RelayNews::There { channel: 7, is_there };
        assert_eq!(channels.hear(&there(true)), Some(Change::Presence(peer(1), true)));
        assert_eq!(channels.hear(&there(true)), None);
        assert_eq!(channels.hear(&RelayNews::Closed { channel: 7 }), Some(Change::Closed(peer(1), 7)));
        assert_eq!((channels.peer(7), channels.hear(&there(false))), (None, None));
        channels.hear(&RelayNews::Opened { peer: peer(2), channel: 9 });
        let passes = [pass(1, 10)];
        let (requests, changes) = channels.show(passes.iter());
        assert_eq!(requests, [RelayRequest::Close { peer: peer(2) }]);
        assert_eq!(changes, [Change::Closed(peer(2), 9)]);
        assert_eq!(channels.peers().count(), 0);
    }

    /// A relay can't give this node channels to peers that it has not asked for, nor one peer's number to another.
    #[test]
    fn what_was_not_asked_for_is_not_heard() {
        let mut channels = Channels::default();
        assert_eq!(channels.hear(&RelayNews::Opened { peer: peer(1), channel: 7 }), None);
        assert_eq!(channels.hear(&RelayNews::There { channel: 7, is_there: true }), None);
        assert_eq!(channels.hear(&RelayNews::Refused { peer: peer(1), reason: RelayRefusal::TooMany }), None);
        show(&mut channels, &[pass(1, 10), pass(2, 10)]);
        channels.hear(&RelayNews::Opened { peer: peer(1), channel: 7 });
        assert_eq!(channels.hear(&RelayNews::Opened { peer: peer(2), channel: 7 }), None);
        assert_eq!(channels.peer(7), Some(peer(1)));
    }
}
