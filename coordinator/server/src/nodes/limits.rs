//! How often one device, one join token and one source address may ask for what is recorded or passed on to others.
//!
//! Kept by device, not by connection: whoever connects again is still the same. Pure; the time is an argument.

use std::{
    collections::HashMap,
    hash::{BuildHasher as _, Hash, RandomState},
    net::SocketAddr,
    time::Duration,
};

use postern_encap::shares::Prefix;
use postern_model::{Candidate, DeviceId, Moment, RelayId, TokenId};

use super::pace::{Bucket, Rate, Spacing};

/// Access requests: a laptop that wakes up asks for all it held, and no one clicks faster than the rate.
const ACCESS: Rate = Rate { burst: 128, every: Duration::from_millis(50) };
/// Sessions begun.
const HELLOS: Rate = Rate { burst: 10, every: Duration::from_secs(1) };
/// Certificates renewed.
const RENEWALS: Rate = Rate { burst: 10, every: Duration::from_secs(60) };
/// Between two postures that are recorded.
const POSTURE: Duration = Duration::from_secs(10);
/// Between two changes of where a device may be reached; each is told to everyone who shares a grant with it.
const REACH: Duration = Duration::from_secs(2);
/// Times that one device gets its certificate without a new enrolment; each is recorded.
const REPEATS: Rate = Rate { burst: 3, every: Duration::from_secs(60) };
/// Enrolments refused to those who have one join token; each is recorded. Guesses at its secret are counted by themselves,
/// as often: whoever guesses takes nothing from its holder.
const TOKEN_REFUSALS: Rate = Rate { burst: 16, every: Duration::from_secs(30) };
/// Enrolments refused from one source prefix.
const SOURCE_REFUSALS: Rate = Rate { burst: 32, every: Duration::from_secs(5) };
/// Messages of a gateway that tell of flows: thousands of flows in a second, and what was spooled in minutes. The log is not
/// one gateway's alone.
const ACTIVITY: Rate = Rate { burst: 500, every: Duration::from_millis(20) };
/// Entries that are kept without looking through them for those that say nothing any more.
const FEW: usize = 4096;
/// Sources that are kept at most; tokens and devices are as many as the admin has made.
const SOURCES: usize = 1 << 16;

/// All limits.
#[derive(Debug, Default)]
pub(super) struct Limits {
    devices: Tidied<DeviceId, Device>,
    tokens: Tidied<TokenId, Token>,
    sources: Tidied<Prefix, Bucket>,
    /// Keyed at random, so that nobody finds two reaches that look alike.
    hasher: RandomState,
}

#[derive(Debug)]
struct Device {
    access: Bucket,
    hellos: Bucket,
    renewals: Bucket,
    repeats: Bucket,
    activity: Bucket,
    posture: Spacing,
    reach: Spacing,
    home: Spacing,
    /// What it last said of where it may be reached, digested.
    last_reach: Option<u64>,
    /// At which relay it last said to wait.
    last_home: Option<RelayId>,
}

impl Default for Device {
    fn default() -> Self {
        Self {
            access: Bucket::new(ACCESS),
            hellos: Bucket::new(HELLOS),
            renewals: Bucket::new(RENEWALS),
            repeats: Bucket::new(REPEATS),
            activity: Bucket::new(ACTIVITY),
            posture: Spacing::new(POSTURE),
            reach: Spacing::new(REACH),
            home: Spacing::new(REACH),
            last_reach: None,
            last_home: None,
        }
    }
}

impl Device {
    fn is_idle(&self, now: Moment) -> bool {
        [self.access, self.hellos, self.renewals, self.repeats, self.activity].iter().all(|bucket| bucket.is_full(now))
            && [self.posture, self.reach, self.home].iter().all(|spacing| spacing.is_over(now))
    }
}

#[derive(Debug)]
struct Token {
    refusals: Bucket,
    guesses: Bucket,
}

impl Default for Token {
    fn default() -> Self {
        Self { refusals: Bucket::new(TOKEN_REFUSALS), guesses: Bucket::new(TOKEN_REFUSALS) }
    }
}

/// What a refused enrolment counts for, besides where it came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shown {
    /// A token that there is, with its secret.
    Token(TokenId),
    /// A token that there is, with another secret.
    Guess(TokenId),
    /// Nothing that is known here.
    Nothing,
}

/// An explanation counts as so many access requests.
const EXPLANATION: usize = 16;

impl Limits {
    /// Whether a device may ask for access now.
    pub(super) fn take_access(&mut self, device: DeviceId, now: Moment) -> bool {
        self.device(device, now).access.take(now)
    }

    /// Whether a device may ask why now: that costs as much as many requests.
    pub(super) fn take_explanation(&mut self, device: DeviceId, now: Moment) -> bool {
        let access = &mut self.device(device, now).access;
        (0..EXPLANATION).all(|_| access.take(now))
    }

    /// Whether a device may begin a session now.
    pub(super) fn take_hello(&mut self, device: DeviceId, now: Moment) -> bool {
        self.device(device, now).hellos.take(now)
    }

    /// Whether a device may renew its certificate now.
    pub(super) fn take_renewal(&mut self, device: DeviceId, now: Moment) -> bool {
        self.device(device, now).renewals.take(now)
    }

    /// Whether what a device says of itself is recorded now, or else how long that has to wait.
    pub(super) fn take_posture(&mut self, device: DeviceId, now: Moment) -> Result<(), Duration> {
        self.device(device, now).posture.take(now)
    }

    /// Whether it is passed on now where a device may be reached, or else how long that has to wait. What it said the
    /// last time is nothing new, and never waits.
    pub(super) fn take_reach(
        &mut self,
        device: DeviceId,
        observed: SocketAddr,
        candidates: &[Candidate],
        now: Moment,
    ) -> Result<(), Duration> {
        let said = self.hasher.hash_one((observed, candidates));
        let device = self.device(device, now);
        if device.last_reach != Some(said) {
            device.reach.take(now)?;
            device.last_reach = Some(said);
        }
        Ok(())
    }

    /// The same of the relay at which it waits.
    pub(super) fn take_home(&mut self, device: DeviceId, relay: Option<RelayId>, now: Moment) -> Result<(), Duration> {
        let device = self.device(device, now);
        if device.last_home != relay {
            device.home.take(now)?;
            device.last_home = relay;
        }
        Ok(())
    }

    /// Whether what a gateway tells of flows is taken now, or else when to ask again.
    pub(super) fn take_activity(&mut self, device: DeviceId, now: Moment) -> Result<(), Duration> {
        if self.device(device, now).activity.take(now) { Ok(()) } else { Err(ACTIVITY.every) }
    }

    /// Whether a device may now get its certificate by the request that enrolled it.
    pub(super) fn take_repeat(&mut self, device: DeviceId, now: Moment) -> bool {
        self.device(device, now).repeats.take(now)
    }

    /// Whether an enrolment from there may be refused now, and that be recorded. Only what is so answered counts, and
    /// nothing of it keeps out an enrolment that is not refused.
    pub(super) fn take_refusal(&mut self, from: Prefix, shown: Shown, now: Moment) -> bool {
        // Those who used up theirs get new ones then, but no token does.
        if self.sources.map.len() >= SOURCES {
            self.sources.map.clear();
        }
        let source = self.sources.entry(from, || Bucket::new(SOURCE_REFUSALS), |bucket| bucket.is_full(now));
        if !source.take(now) {
            return false;
        }
        let is_idle = |token: &Token| token.refusals.is_full(now) && token.guesses.is_full(now);
        let is_taken = match shown {
            Shown::Token(id) => self.tokens.entry(id, Token::default, is_idle).refusals.take(now),
            Shown::Guess(id) => self.tokens.entry(id, Token::default, is_idle).guesses.take(now),
            Shown::Nothing => true,
        };
        if !is_taken {
            source.put_back();
        }
        is_taken
    }

    fn device(&mut self, device: DeviceId, now: Moment) -> &mut Device {
        self.devices.entry(device, Device::default, |device| device.is_idle(now))
    }
}

/// A map that is looked through, each time that it has doubled, for what says nothing any more.
#[derive(Debug)]
struct Tidied<K, V> {
    map: HashMap<K, V>,
    tidy_at: usize,
}

impl<K, V> Default for Tidied<K, V> {
    fn default() -> Self {
        Self { map: HashMap::new(), tidy_at: FEW }
    }
}

impl<K: Eq + Hash, V> Tidied<K, V> {
    fn entry(&mut self, key: K, new: impl FnOnce() -> V, is_idle: impl Fn(&V) -> bool) -> &mut V {
        if self.map.len() >= self.tidy_at {
            self.map.retain(|_, entry| !is_idle(entry));
            self.tidy_at = FEW.max(2 * self.map.len());
        }
        self.map.entry(key).or_insert_with(new)
    }
}

#[cfg(test)]
mod tests {
    use postern_model::candidate::CandidateKind;

    use super::*;

    const LAPTOP: DeviceId = DeviceId::from_bytes([1; 16]);
    const DESKTOP: DeviceId = DeviceId::from_bytes([2; 16]);
    const TOKEN: TokenId = TokenId::from_bytes([3; 16]);

    fn at(millis: u64) -> Moment {
        Moment::from_boot(Duration::from_millis(millis))
    }

    fn source(ip: &str) -> Prefix {
        Prefix::of(ip.parse().unwrap())
    }

    fn candidate(port: u16) -> Candidate {
        Candidate { addr: SocketAddr::from(([192, 0, 2, 1], port)), kind: CandidateKind::Host }
    }

    #[test]
    fn a_device_has_its_own_limits_and_no_other_s() {
        let mut limits = Limits::default();
        assert_eq!((0..1000).filter(|_| limits.take_access(LAPTOP, at(1))).count(), 128);
        assert_eq!((0..1000).filter(|_| limits.take_access(LAPTOP, at(1001))).count(), 20);
        assert_eq!((0..1000).filter(|_| limits.take_hello(LAPTOP, at(1))).count(), 10);
        assert_eq!((0..1000).filter(|_| limits.take_activity(LAPTOP, at(1)).is_ok()).count(), 500);
        assert_eq!((0..1000).filter(|_| limits.take_activity(LAPTOP, at(1001)).is_ok()).count(), 50);
        assert_eq!((0..1000).filter(|_| limits.take_renewal(LAPTOP, at(1))).count(), 10);
        assert_eq!(limits.take_posture(LAPTOP, at(1)), Ok(()));
        assert_eq!(limits.take_posture(LAPTOP, at(2)), Err(Duration::from_millis(9_999)));
        assert!(limits.take_access(DESKTOP, at(1)) && limits.take_hello(DESKTOP, at(1)));
        assert_eq!(limits.take_posture(DESKTOP, at(1)), Ok(()));
    }

    #[test]
    fn only_a_new_reach_waits() {
        let mut limits = Limits::default();
        let observed: SocketAddr = "192.0.2.1:4000".parse().unwrap();
        let (first, second) = ([candidate(1)], [candidate(2)]);
        assert_eq!(limits.take_reach(LAPTOP, observed, &first, at(0)), Ok(()));
        for millis in 1..100 {
            assert_eq!(limits.take_reach(LAPTOP, observed, &first, at(millis)), Ok(()));
        }
        assert_eq!(limits.take_reach(LAPTOP, observed, &second, at(500)), Err(Duration::from_millis(1500)));
        let moved = "192.0.2.1:4001".parse().unwrap();
        assert_eq!(limits.take_reach(LAPTOP, moved, &first, at(500)), Err(Duration::from_millis(1500)));
        assert_eq!(limits.take_reach(LAPTOP, observed, &second, at(2000)), Ok(()));
        assert_eq!(limits.take_reach(LAPTOP, observed, &first, at(2000)), Err(REACH), "back again is a change too");
    }

    #[test]
    fn only_another_relay_waits() {
        let mut limits = Limits::default();
        let (east, west) = (Some(RelayId::from_bytes([1; 16])), Some(RelayId::from_bytes([2; 16])));
        assert_eq!(limits.take_home(LAPTOP, east, at(0)), Ok(()));
        assert!((1..100).all(|millis| limits.take_home(LAPTOP, east, at(millis)).is_ok()));
        assert_eq!(limits.take_home(LAPTOP, west, at(500)), Err(Duration::from_millis(1500)));
        assert_eq!(limits.take_home(LAPTOP, None, at(500)), Err(Duration::from_millis(1500)));
        assert_eq!(limits.take_home(LAPTOP, west, at(2000)), Ok(()));
        assert_eq!(limits.take_reach(LAPTOP, "192.0.2.1:4000".parse().unwrap(), &[], at(2000)), Ok(()));
    }

    #[test]
    fn refusals_are_limited_by_token_and_by_source() {
        let mut limits = Limits::default();
        let anywhere = |last: u8| source(&format!("198.51.100.{last}"));
        for shown in [Shown::Token(TOKEN), Shown::Guess(TOKEN)] {
            let answered = (1..=255).filter(|last| limits.take_refusal(anywhere(*last), shown, at(0)));
            assert_eq!(answered.count(), 16, "one token from everywhere: {shown:?}");
        }
        let office = source("192.0.2.1");
        for _ in 0..1000 {
            assert!(!limits.take_refusal(office, Shown::Token(TOKEN), at(0)), "not answered, so it does not count");
        }
        assert_eq!((0..1000).filter(|_| limits.take_refusal(office, Shown::Nothing, at(0))).count(), 32, "one source");
        assert!(!limits.take_refusal(office, Shown::Nothing, at(4_999)));
        assert!(limits.take_refusal(office, Shown::Token(TOKEN), at(30_000)));
        let networks =
            (0..50).filter(|i| limits.take_refusal(source(&format!("2001:db8::{i}")), Shown::Nothing, at(0)));
        assert_eq!(networks.count(), 32, "who has one IPv6 address has 2^64");
    }

    #[test]
    fn a_source_that_used_up_its_share_takes_nothing_from_a_token() {
        let mut limits = Limits::default();
        let (cafe, office) = (source("198.51.100.1"), source("192.0.2.1"));
        assert_eq!((0..1000).filter(|_| limits.take_refusal(cafe, Shown::Nothing, at(0))).count(), 32);
        assert!((0..1000).all(|_| !limits.take_refusal(cafe, Shown::Token(TOKEN), at(0))));
        assert_eq!((0..1000).filter(|_| limits.take_refusal(office, Shown::Token(TOKEN), at(0))).count(), 16);
    }

    #[test]
    fn a_device_enrols_again_three_times_and_then_once_a_minute() {
        let mut limits = Limits::default();
        assert_eq!((0..1000).filter(|_| limits.take_repeat(LAPTOP, at(0))).count(), 3);
        assert!(!limits.take_repeat(LAPTOP, at(59_999)) && limits.take_repeat(DESKTOP, at(59_999)));
        assert!(limits.take_repeat(LAPTOP, at(60_000)) && !limits.take_repeat(LAPTOP, at(60_000)));
    }

    #[test]
    fn what_says_nothing_any_more_is_not_kept() {
        let mut limits = Limits::default();
        for i in 0..200_000_u32 {
            let [a, b, c, d] = i.to_be_bytes();
            let from = Prefix::of([10 + a, b, c, d].into());
            // Each device asks once and is never seen again; 100 come per second.
            let mut id = [0; 16];
            id[..4].copy_from_slice(&i.to_be_bytes());
            let now = at(u64::from(i) * 10);
            limits.take_access(DeviceId::from_bytes(id), now);
            limits.take_refusal(from, Shown::Nothing, now);
        }
        assert!(limits.devices.map.len() <= 2 * FEW && limits.sources.map.len() <= 2 * FEW);
    }
}
