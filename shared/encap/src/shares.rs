//! Where strangers come from, and how much of what all share one of them may take.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    sync::{Arc, Mutex, PoisonError},
};

/// What one subscriber has at least: an IPv4 address, or an IPv6 /64.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Prefix {
    /// An IPv4 address.
    V4([u8; 4]),
    /// The first half of an IPv6 address.
    V6([u8; 8]),
}

impl Prefix {
    /// The prefix of an address. One of IPv4 is that, on whatever socket it came in.
    pub fn of(ip: IpAddr) -> Self {
        match ip.to_canonical() {
            IpAddr::V4(ip) => Self::V4(ip.octets()),
            IpAddr::V6(ip) => Self::V6(network(ip)),
        }
    }
}

fn network(ip: Ipv6Addr) -> [u8; 8] {
    let [a, b, c, d, e, f, g, h, ..] = ip.octets();
    [a, b, c, d, e, f, g, h]
}

/// Places, of which no prefix may hold more than its share.
#[derive(Debug)]
pub struct Shares {
    each: usize,
    held: Mutex<HashMap<Prefix, usize>>,
}

impl Shares {
    /// Of which each prefix may hold this many.
    pub fn new(each: usize) -> Arc<Self> {
        Arc::new(Self { each, held: Mutex::default() })
    }

    /// A place for this prefix until dropped; `None` when it has its share.
    pub fn take(self: &Arc<Self>, prefix: Prefix) -> Option<Share> {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let count = held.entry(prefix).or_default();
        if *count >= self.each {
            return None;
        }
        *count += 1;
        Some(Share { shares: Arc::clone(self), prefix })
    }
}

/// One place held.
#[derive(Debug)]
pub struct Share {
    shares: Arc<Shares>,
    prefix: Prefix,
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut held = self.shares.held.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = held.get_mut(&self.prefix) {
            *count -= 1;
            if *count == 0 {
                held.remove(&self.prefix);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(ip: &str) -> Prefix {
        Prefix::of(ip.parse().unwrap())
    }

    #[test]
    fn prefixes_are_what_one_subscriber_has() {
        assert_eq!(of("192.0.2.1"), of("::ffff:192.0.2.1"));
        assert_ne!(of("192.0.2.1"), of("192.0.2.2"));
        assert_eq!(of("2001:db8::1"), of("2001:db8::ffff:0:0:1"));
        assert_ne!(of("2001:db8::1"), of("2001:db8:0:1::1"));
    }

    #[test]
    fn no_prefix_holds_more_than_its_share_and_nothing_stays_behind() {
        let shares = Shares::new(2);
        let (here, there) = (of("192.0.2.1"), of("192.0.2.2"));
        let first = shares.take(here);
        let second = shares.take(here);
        assert!(first.is_some() && second.is_some() && shares.take(here).is_none());
        assert!(shares.take(there).is_some());
        drop(first);
        let again = shares.take(here);
        assert!(again.is_some() && shares.take(here).is_none());
        drop((second, again));
        assert!(shares.held.lock().unwrap().is_empty());
    }
}
