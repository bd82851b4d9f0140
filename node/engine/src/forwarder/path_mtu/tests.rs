//! A peer and a path in simulated time: what fits passes, what doesn't is dropped, and nobody is told.

use std::collections::VecDeque;

use proptest::prelude::*;

use super::*;

/// The tunnel's MTU.
const MOST: u16 = 1420;
/// More probes than this no search takes: each size, and the short one beside it, so often.
const MOST_PROBES: usize = 2 * TRIES as usize * 9;

/// The way to a peer and back.
struct Path {
    path: PathMtu,
    now: Moment,
    /// The longest inner packet that passes in one piece.
    width: u16,
    /// How long there and back takes.
    round_trip: Duration,
    /// Whether the peer is there, and answers.
    answers: bool,
    /// For each probe that would pass, in turn, whether it or its answer is lost; then none is.
    losses: VecDeque<bool>,
    probes: Vec<(Moment, u16)>,
    replies: VecDeque<(Moment, Message)>,
}

impl Path {
    fn new(width: u16) -> Self {
        let now = Moment::from_boot(Duration::from_secs(1000));
        Self {
            path: PathMtu::new(MOST, now),
            now,
            width,
            round_trip: Duration::from_millis(20),
            answers: true,
            losses: VecDeque::new(),
            probes: vec![],
            replies: VecDeque::new(),
        }
    }

    /// Lets time go by, with data every 100 ms if `sends`.
    fn pass(&mut self, duration: Duration, sends: bool) {
        let end = self.now + duration;
        let mut data = self.now;
        loop {
            let reply = self.replies.front().map(|(at, _)| *at);
            let next = [reply, self.path.poll_timeout(), sends.then_some(data)].into_iter().flatten().min();
            let Some(next) = next.filter(|next| *next < end) else { break };
            self.now = self.now.max(next);
            if sends && data <= self.now {
                self.path.note_sent(self.now);
                if self.answers {
                    self.path.note_heard();
                }
                data = self.now + Duration::from_millis(100);
            }
            while let Some((_, reply)) = self.replies.pop_front_if(|(at, _)| *at <= self.now) {
                self.path.note_heard();
                self.path.handle_reply(reply, self.now);
            }
            self.probe();
        }
        self.now = end;
    }

    fn probe(&mut self) {
        while let Some(probe) = self.path.poll(self.now) {
            self.probes.push((self.now, probe.size));
            if self.answers && probe.size <= self.width && !self.losses.pop_front().unwrap_or(false) {
                self.replies.push_back((self.now + self.round_trip, Message { is_reply: true, ..probe }));
            }
        }
    }

    fn search(&mut self) {
        self.pass(Duration::from_secs(60), true);
    }

    fn assert_found(&self) {
        let mtu = self.path.mtu();
        let least = if self.width >= MOST { MOST } else { (self.width - EXACTNESS + 1).max(FLOOR) };
        assert!((least..=self.width.clamp(FLOOR, MOST)).contains(&mtu), "{mtu} of {}", self.width);
    }
}

#[test]
fn a_wide_path_takes_one_probe_and_then_one_at_a_time() {
    let mut path = Path::new(1500);
    path.pass(Duration::from_secs(10), true);
    assert_eq!(path.probes.iter().map(|(_, size)| *size).collect::<Vec<_>>(), [MOST, SHORT]);
    assert_eq!(path.path.mtu(), MOST);
    path.pass(Duration::from_secs(100), true);
    assert!(path.probes[2..].iter().all(|(_, size)| *size == MOST));
    assert_eq!(path.probes.len(), 2 + 7, "every 15 s");
}

#[test]
fn an_idle_peer_is_sent_nothing() {
    let mut path = Path::new(1300);
    path.pass(Duration::from_secs(10_000), false);
    assert!(path.probes.is_empty());
    path.search();
    let asked = path.probes.len();
    path.pass(Duration::from_secs(10_000), false);
    assert_eq!(path.probes.len(), asked);
    path.assert_found();
}

#[test]
fn a_narrow_path_is_known_within_seconds() {
    let mut path = Path::new(1330);
    path.pass(Duration::from_secs(4), true);
    path.assert_found();
}

#[test]
fn a_path_that_becomes_narrower_is_noticed_and_one_that_becomes_wider_used() {
    let mut path = Path::new(1500);
    path.search();
    path.width = 1290;
    path.pass(CONFIRM + Duration::from_secs(5), true);
    path.assert_found();
    path.width = 1500;
    path.pass(RAISE - CONFIRM - Duration::from_secs(5), true);
    assert!(path.path.mtu() <= 1290, "not before its time");
    path.pass(CONFIRM + Duration::from_secs(10), true);
    assert_eq!(path.path.mtu(), MOST);
}

#[test]
fn silence_is_a_reason_to_confirm_at_once() {
    let mut path = Path::new(1500);
    path.pass(SUSPICION + Duration::from_secs(1), true);
    let before = path.probes.len();
    for _ in 0..20 {
        path.path.note_sent(path.now);
        path.probe();
        path.now = path.now + Duration::from_millis(100);
    }
    assert!(path.probes.len() > before);
}

#[test]
fn what_the_peer_tries_is_a_hint_but_no_more() {
    let mut path = Path::new(1500);
    path.pass(SUSPICION + Duration::from_secs(1), true);
    let (before, asked) = (path.path.mtu(), path.probes.len());
    for size in [MOST, SHORT] {
        path.path.note_asked(size, path.now);
        path.pass(Duration::from_secs(1), true);
        assert_eq!(path.probes.len(), asked, "that says nothing");
    }
    for _ in 0..50 {
        path.path.note_asked(1300, path.now);
        path.pass(Duration::from_millis(100), true);
    }
    assert!(path.probes.len() > asked, "asked before its time");
    assert!(path.probes.len() <= asked + 3, "and not for each");
    assert_eq!(path.path.mtu(), before, "but only one's own probes count");
}

#[test]
fn a_search_that_ends_where_it_began_waits_as_long_again() {
    let mut path = Path::new(1345);
    path.search();
    for _ in 0..3 {
        let before = path.probes.len();
        path.pass(RAISE, true);
        let larger = path.probes[before..].iter().filter(|(_, size)| *size == MOST).count();
        assert_eq!(larger, usize::from(TRIES), "one search");
        path.assert_found();
    }
}

#[test]
fn below_the_floor_packets_are_fragmented_outside() {
    let mut path = Path::new(1000);
    path.search();
    assert_eq!(path.path.mtu(), FLOOR);
    let asked = path.probes.len();
    path.pass(RAISE / 2, true);
    assert_eq!(path.probes.len(), asked, "there is nothing to be confirmed");
}

#[test]
fn from_a_peer_that_answers_nothing_nothing_is_learned_and_it_is_asked_ever_less() {
    let mut path = Path::new(1300);
    path.answers = false;
    path.pass(Duration::from_secs(3600), true);
    assert_eq!(path.path.mtu(), MOST, "as if nobody had asked");
    assert!(path.probes.len() <= 2 * usize::from(TRIES) * 12, "{}", path.probes.len());
}

#[test]
fn a_peer_that_is_away_for_a_while_keeps_what_was_known() {
    let mut path = Path::new(1350);
    path.search();
    path.answers = false;
    path.pass(Duration::from_secs(30), true);
    path.assert_found();
    path.answers = true;
    path.pass(Duration::from_secs(30), true);
    path.assert_found();
}

#[test]
fn elsewhere_all_is_asked_anew_but_not_more_often_than_now_and_then() {
    let mut path = Path::new(1300);
    path.search();
    path.width = 1500;
    path.path.note_moved(path.now);
    path.pass(Duration::from_secs(3), true);
    assert_eq!(path.path.mtu(), MOST);
    let before = path.probes.len();
    for _ in 0..100 {
        path.path.note_moved(path.now);
        path.pass(Duration::from_millis(100), true);
    }
    assert!(path.probes.len() - before <= 3 * 2 * usize::from(TRIES), "{}", path.probes.len() - before);
}

#[test]
fn only_answers_to_what_was_asked_count() {
    let mut path = Path::new(1500);
    path.path.note_sent(path.now);
    let probe = path.path.poll(path.now).unwrap();
    let reply = Message { is_reply: true, ..probe };
    let before = path.path.poll_timeout();
    for wrong in [Message { number: 77, ..reply }, Message { size: probe.size - 1, ..reply }] {
        path.path.handle_reply(wrong, path.now);
        assert_eq!(path.path.poll_timeout(), before, "still waiting");
    }
    path.path.handle_reply(reply, path.now);
    assert_eq!(path.path.poll_timeout(), None);
    path.path.handle_reply(reply, path.now);
}

#[test]
fn few_answers_are_given_in_a_second() {
    let now = Moment::default();
    let mut path = PathMtu::new(MOST, now);
    let given = (0..1000).filter(|_| path.may_answer(now)).count();
    assert_eq!(given, ANSWERS as usize);
    assert!(path.may_answer(now + Duration::from_secs(1)));
}

#[test]
fn messages_survive_and_what_is_none_is_told_apart() {
    let mut buffer = [7; 2000];
    for message in
        [Message { is_reply: false, number: 1 << 40, size: 1420 }, Message { is_reply: true, number: 9, size: 1280 }]
    {
        let len = message.encode(&mut buffer).unwrap();
        assert_eq!(len, if message.is_reply { LEN } else { 1420 });
        assert!(buffer[LEN..len].iter().all(|byte| *byte == 0));
        assert_eq!(Message::decode(&buffer[..len]), Some(Some(message)));
        // The tunnel's padding.
        assert_eq!(Message::decode(&[&buffer[..len], &[0; 5]].concat()), Some(Some(message)));
    }
    let len = Message { is_reply: false, number: 1, size: 1420 }.encode(&mut buffer).unwrap();
    assert_eq!(Message::decode(&buffer[..len - 1]), Some(None), "shorter than it says");
    assert_eq!(Message::decode(&[PROBE; 5]), Some(None));
    assert_eq!(Message::decode(&[]), None);
    for first in (0..=u8::MAX).filter(|first| ![PROBE, REPLY].contains(first)) {
        assert_eq!(Message::decode(&[first; 100]), None, "a packet, or malformed as one");
    }
    let short = Message { is_reply: false, number: 1, size: SHORT - 1 };
    let len = short.encode(&mut buffer).unwrap();
    assert_eq!(Message::decode(&buffer[..len]), Some(None), "shorter than its answer would be");
    assert_eq!(short.encode(&mut [0; 20]), None, "no room");
}

proptest! {
    /// Whatever the path's width, its delay, and what is lost now and then: the largest size that passes is found, and
    /// never a larger one; with a bounded number of probes.
    #[test]
    fn the_largest_that_passes_is_found(
        width in 1200_u16..1500,
        millis in 0_u64..300,
        losses in prop::collection::vec(prop::bool::weighted(0.1), 0..4),
    ) {
        let mut path = Path::new(width);
        path.round_trip = Duration::from_millis(millis);
        // Two in a row of three are lost at most: who loses all tries of a size can't know better.
        let is_unlucky = losses.iter().filter(|lost| **lost).count() >= usize::from(TRIES);
        prop_assume!(!is_unlucky);
        path.losses = losses.into();
        path.pass(Duration::from_secs(45), true);
        path.assert_found();
        let confirmations = 4 * 2 * usize::from(TRIES);
        prop_assert!(path.probes.len() <= MOST_PROBES + confirmations, "{} probes", path.probes.len());
    }

    /// However the path and the peer change and whatever is lost, what is used at the end is what passes.
    #[test]
    fn whatever_happened_it_heals(
        steps in prop::collection::vec((1200_u16..1500, any::<bool>(), any::<bool>(), 0_u64..100, any::<bool>()), 0..12),
        losses in prop::collection::vec(any::<bool>(), 0..60),
        width in 1200_u16..1500,
    ) {
        let mut path = Path::new(1500);
        path.losses = losses.into();
        for (width, answers, sends, seconds, moves) in steps {
            (path.width, path.answers) = (width, answers);
            if moves {
                path.path.note_moved(path.now);
            }
            path.pass(Duration::from_secs(seconds), sends);
            prop_assert!((FLOOR..=MOST).contains(&path.path.mtu()));
        }
        (path.width, path.answers) = (width, true);
        path.losses.clear();
        path.pass(2 * RAISE + Duration::from_secs(120), true);
        path.assert_found();
    }
}
