//! Sets of ports. "Any" is a variant of its own: an empty set allows nothing.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::text::serde_as_text;

/// Why a port list was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "'{0}' is not a port list: use ports and ranges between 1 and 65535, like '443', '80,443' or '8000-8100', or 'any'"
)]
pub struct PortsError(String);

/// An inclusive range of ports, `first <= last`, neither of them 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct PortRange {
    first: u16,
    last: u16,
}

impl PortRange {
    /// `None` when the range is empty or holds port 0.
    pub fn new(first: u16, last: u16) -> Option<Self> {
        (first != 0 && first <= last).then_some(Self { first, last })
    }

    /// The lowest port.
    pub fn first(self) -> u16 {
        self.first
    }

    /// The highest port.
    pub fn last(self) -> u16 {
        self.last
    }
}

/// Which ports of one protocol are open.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub enum PortSet {
    /// No port.
    #[default]
    None,
    /// Every port.
    Any,
    /// These, sorted and merged; never empty.
    Ranges(Box<[PortRange]>),
}

impl PortSet {
    /// The set of all ports in `ranges`.
    pub fn from_ranges(mut ranges: Vec<PortRange>) -> Self {
        ranges.sort_unstable();
        let mut merged: Vec<PortRange> = Vec::with_capacity(ranges.len());
        for range in ranges {
            match merged.last_mut() {
                Some(last) if u32::from(range.first) <= u32::from(last.last) + 1 => {
                    last.last = last.last.max(range.last)
                }
                _ => merged.push(range),
            }
        }
        if merged.is_empty() { Self::None } else { Self::Ranges(merged.into()) }
    }

    /// Whether the set holds `port`.
    pub fn contains(&self, port: u16) -> bool {
        match self {
            Self::None => false,
            Self::Any => true,
            Self::Ranges(ranges) => {
                let after = ranges.partition_point(|range| range.first <= port);
                after > 0 && ranges[after - 1].last >= port
            }
        }
    }

    /// The ports that are in either.
    #[must_use]
    pub fn union(&self, other: &Self) -> Self {
        match (self, other) {
            (Self::Any, _) | (_, Self::Any) => Self::Any,
            _ => Self::from_ranges([self.ranges(), other.ranges()].concat()),
        }
    }

    /// The ports that are in both.
    #[must_use]
    pub fn intersection(&self, other: &Self) -> Self {
        match (self, other) {
            (Self::Any, set) | (set, Self::Any) => set.clone(),
            _ => {
                let both = self.ranges().iter().flat_map(|a| {
                    let b = other.ranges().iter();
                    b.filter_map(|b| PortRange::new(a.first.max(b.first), a.last.min(b.last)))
                });
                Self::from_ranges(both.collect())
            }
        }
    }

    /// The ports of this set that are not in the other.
    #[must_use]
    pub fn minus(&self, other: &Self) -> Self {
        if other.is_none() {
            return self.clone();
        }
        let mut left = self.ranges().to_vec();
        for hole in other.ranges() {
            let around = |range: PortRange| {
                let below = PortRange::new(range.first, range.last.min(hole.first.saturating_sub(1)));
                let above = hole.last.checked_add(1).and_then(|next| PortRange::new(range.first.max(next), range.last));
                below.into_iter().chain(above)
            };
            left = left.into_iter().flat_map(around).collect();
        }
        Self::from_ranges(left)
    }

    fn ranges(&self) -> &[PortRange] {
        const ALL: &[PortRange] = &[PortRange { first: 1, last: u16::MAX }];
        match self {
            Self::None => &[],
            Self::Any => ALL,
            Self::Ranges(ranges) => ranges,
        }
    }

    /// Whether no port is in the set.
    pub fn is_none(&self) -> bool {
        matches!(self, Self::None)
    }
}

impl fmt::Display for PortSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("none"),
            Self::Any => f.write_str("any"),
            Self::Ranges(ranges) => {
                for (i, range) in ranges.iter().enumerate() {
                    let comma = if i == 0 { "" } else { "," };
                    match (range.first, range.last) {
                        (first, last) if first == last => write!(f, "{comma}{first}")?,
                        (first, last) => write!(f, "{comma}{first}-{last}")?,
                    }
                }
                Ok(())
            }
        }
    }
}

impl FromStr for PortSet {
    type Err = PortsError;
    fn from_str(text: &str) -> Result<Self, PortsError> {
        let error = || PortsError(text.to_owned());
        match text {
            "any" => return Ok(Self::Any),
            "none" => return Ok(Self::None),
            _ => {}
        }
        let ranges = text.split(',').map(|part| {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let port = |text: &str| text.trim().parse::<u16>().map_err(|_| error());
            PortRange::new(port(first)?, port(last)?).ok_or_else(error)
        });
        Ok(Self::from_ranges(ranges.collect::<Result<_, _>>()?))
    }
}

serde_as_text!(PortSet);

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_empty_set_denies() {
        assert!(!PortSet::from_ranges(vec![]).contains(80));
        assert!(!PortSet::default().contains(80));
        assert!("".parse::<PortSet>().is_err());
    }

    #[test]
    fn bad_lists_are_refused() {
        for bad in ["0", "65536", "80,", "90-80", "http", "-1", "1-2-3"] {
            assert!(bad.parse::<PortSet>().is_err(), "{bad}");
        }
    }

    fn sets() -> impl Strategy<Value = PortSet> {
        let some = prop::collection::vec((1u16..400, 0u16..60), 0..6);
        prop_oneof![
            1 => Just(PortSet::Any),
            8 => some.prop_map(|pairs| {
                PortSet::from_ranges(pairs.iter().map(|(f, n)| PortRange::new(*f, f + n).unwrap()).collect())
            }),
        ]
    }

    proptest! {
        /// Invariant: sets of ports are sets.
        #[test]
        fn sets_combine_port_by_port(a in sets(), b in sets(), probe in 1u16..500) {
            let (in_a, in_b) = (a.contains(probe), b.contains(probe));
            prop_assert_eq!(a.union(&b).contains(probe), in_a || in_b);
            prop_assert_eq!(a.intersection(&b).contains(probe), in_a && in_b);
            prop_assert_eq!(a.minus(&b).contains(probe), in_a && !in_b);
            prop_assert!(a.minus(&a).is_none());
        }

        #[test]
        fn a_set_holds_exactly_the_ports_of_its_ranges(
            pairs in prop::collection::vec((1u16.., 0u16..300), 1..8),
            probe in 1u16..,
        ) {
            let ranges: Vec<_> = pairs.iter().map(|(f, n)| PortRange::new(*f, f.saturating_add(*n)).unwrap()).collect();
            let expected = ranges.iter().any(|r| r.first() <= probe && probe <= r.last());
            let set = PortSet::from_ranges(ranges);
            prop_assert_eq!(set.contains(probe), expected);
            prop_assert_eq!(set.to_string().parse::<PortSet>().unwrap(), set);
        }
    }
}
