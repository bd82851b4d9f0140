//! What of the packet path can be switched off or limited from outside, for when the kernel or a driver is suspected.

use std::{num::NonZeroUsize, thread};

use anyhow::{Context as _, Result};
use postern_dataplane::Offloads;

/// Names the offloads that are not to be used, with commas between them.
const WITHOUT: &str = "POSTERN_WITHOUT";
/// How many lanes there are to be.
const LANES: &str = "POSTERN_LANES";
/// More of them are not started unasked.
const MAX_LANES: NonZeroUsize = NonZeroUsize::new(4).unwrap();

/// How the lanes are to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Tuning {
    pub(super) offloads: Offloads,
    pub(super) lanes: NonZeroUsize,
}

impl Tuning {
    /// What the environment says, or what is best.
    ///
    /// # Errors
    /// When it says something that is not understood.
    pub(super) fn from_env() -> Result<Self> {
        let text = |name| std::env::var(name).unwrap_or_default();
        Self::read(&text(WITHOUT), &text(LANES))
    }

    fn read(without: &str, lanes: &str) -> Result<Self> {
        let offloads = without.parse().with_context(|| format!("the environment variable {WITHOUT}"))?;
        let lanes = match lanes {
            "" => best(),
            text => text
                .parse()
                .with_context(|| format!("the environment variable {LANES} is {text:?}: a number from 1"))?,
        };
        Ok(Self { offloads, lanes })
    }
}

/// One lane for each core, so that both directions of a flow have one.
fn best() -> NonZeroUsize {
    let cores = thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
    cores.min(MAX_LANES)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_environment_switches_off_and_limits() {
        let tuning = Tuning::read("", "").unwrap();
        assert_eq!((tuning.offloads, tuning.lanes), (Offloads::ALL, best()));
        let tuning = Tuning::read("tso", "3").unwrap();
        assert_eq!((tuning.offloads.tcp, tuning.offloads.udp, tuning.lanes.get()), (false, true, 3));
        for (without, lanes, names) in [("lro", "", WITHOUT), ("", "0", LANES), ("", "many", LANES)] {
            let error = Tuning::read(without, lanes).unwrap_err();
            assert!(format!("{error:#}").contains(names), "{error:#}");
        }
    }
}
