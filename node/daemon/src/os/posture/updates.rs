//! How many days ago the system was last brought up to date.
//!
//! What counts is that somebody asked for all updates and they were applied, or that a program whose work it is looked and found
//! none. That lists of packages were fetched does not, nor that a package was replaced because another one needed it. Everything
//! counts in days; times in logs are local ones, and read as if they were not.

use std::path::{Path, PathBuf};

use tokio::process::Command;

use super::files::{tail, under, written_at};
use crate::os::program;

const DAY: u64 = 24 * 60 * 60;

/// Written by whoever applies updates by itself, once it is through, also when there were none: apt's daily job, and
/// unattended-upgrades. The other stamps beside them say that updates were looked up or fetched.
const STAMPS: [&str; 2] = ["/var/lib/apt/periodic/upgrade-stamp", "/var/lib/apt/periodic/unattended-upgrades-stamp"];
/// What apt did, a paragraph each, also when a desktop's program or unattended-upgrades had it done. Each month's is packed
/// away with a number behind it, up to this one.
const APT_HISTORY: &str = "/var/log/apt/history.log";
const PACKED: u32 = 12;
/// Where dnf writes down each transaction, and nothing else. Installing something counts along, since nothing that can be read
/// here tells it apart; dnf refreshes its lists before, and takes the newest of what it takes. dnf 5 has the second.
const DNF_HISTORIES: [&str; 2] =
    ["/var/lib/dnf/history.sqlite", "/usr/lib/sysimage/libdnf5/transaction_history.sqlite"];

/// What bringing the whole system up to date is called, and what is something else whatever its words are.
const UPGRADES: [&str; 5] = ["upgrade", "dist-upgrade", "full-upgrade", "safe-upgrade", "role='update-packages'"];
const OTHERS: [&str; 6] = ["install", "reinstall", "remove", "purge", "autoremove", "build-dep"];

/// What files say, and where else to look.
#[derive(Debug)]
pub(super) struct Written {
    today: u64,
    last: Option<u64>,
    /// The newest first.
    packed: Vec<PathBuf>,
}

/// Reads what can be read at once. `now` is in seconds since the Unix epoch.
pub(super) fn written(root: &Path, now: u64) -> Written {
    let today = now / DAY;
    let written = STAMPS.iter().chain(&DNF_HISTORIES).filter_map(|path| written_at(&under(root, path)));
    let days = written.map(|seconds| seconds / DAY).filter(|day| is_past(*day, today));
    let apt = tail(&under(root, APT_HISTORY)).ok().and_then(|history| last_by_apt(&history, today));
    let packed = (1..=PACKED).map(|number| under(root, format!("{APT_HISTORY}.{number}.gz")));
    let packed = packed.filter(|path| apt.is_none() && path.is_file()).collect();
    Written { today, last: days.chain(apt).max(), packed }
}

/// `None` when it can't be known.
pub(super) async fn age_days(written: Written) -> Option<u32> {
    let Written { today, mut last, packed } = written;
    for path in packed {
        let mut command = Command::new("gzip");
        command.args(["-dc", "--"]).arg(path);
        let unpacked = program::output(command, "").await.ok().filter(|output| output.status.success());
        let found = unpacked.and_then(|output| last_by_apt(&String::from_utf8_lossy(&output.stdout), today));
        if found.is_some() {
            last = last.max(found);
            break;
        }
    }
    u32::try_from(today.saturating_sub(last?)).ok()
}

/// Tomorrow is today somewhere; what is later than that was written with a clock that was wrong.
fn is_past(day: u64, today: u64) -> bool {
    day <= today + 1
}

fn last_by_apt(history: &str, today: u64) -> Option<u64> {
    let upgraded = history.split("\n\n").filter_map(|paragraph| {
        let field = |name: &str| paragraph.lines().find_map(|line| line.strip_prefix(name));
        if !is_upgrade(field("Commandline: ")?) || field("Error: ").is_some() {
            return None;
        }
        // Without its end it is still going on, or was cut off.
        day(field("End-Date: ")?)
    });
    upgraded.filter(|day| is_past(*day, today)).max()
}

fn is_upgrade(command: &str) -> bool {
    let has = |these: &[&str]| command.split_whitespace().any(|word| these.contains(&word));
    let by_itself = command.split_whitespace().next().is_some_and(|program| program.ends_with("/unattended-upgrade"));
    by_itself || (has(&UPGRADES) && !has(&OTHERS))
}

/// Days from the Unix epoch to the date at the beginning, such as `2026-03-31`.
fn day(text: &str) -> Option<u64> {
    let mut parts = text.trim_start().get(..10)?.split('-').map(str::parse::<u64>);
    let (year, month, day) = (parts.next()?.ok()?, parts.next()?.ok()?, parts.next()?.ok()?);
    if !(1970..10_000).contains(&year) || !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    // Years that begin in March have their leap day at their end.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = 365 * year + year / 4 - year / 100 + year / 400 + (153 * month + 2) / 5 + day - 1;
    days.checked_sub(719_468)
}

#[cfg(test)]
mod tests {
    use std::{
        fs::{self, File},
        process::Command as Program,
        time::{Duration, UNIX_EPOCH},
    };

    use tempfile::TempDir;

    use super::*;

    const TODAY: u64 = 20_000;
    const NOW: u64 = TODAY * DAY + 3600;

    struct Tree(TempDir);

    impl Tree {
        fn new() -> Self {
            Self(tempfile::tempdir().unwrap())
        }

        fn write(&self, path: &str, text: &str, days_ago: i64) {
            let path = under(self.0.path(), path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, text).unwrap();
            let at = UNIX_EPOCH + Duration::from_secs(NOW.checked_add_signed(-days_ago * 86_400).unwrap());
            File::options().write(true).open(path).unwrap().set_modified(at).unwrap();
        }

        /// In apt's history, packed with this number or not.
        fn history(&self, paragraphs: &[String], packed: Option<u32>) {
            let text: String = paragraphs.iter().map(|paragraph| format!("\n{paragraph}")).collect();
            self.write(APT_HISTORY, &text, 0);
            if let Some(number) = packed {
                let path = under(self.0.path(), APT_HISTORY);
                assert!(Program::new("gzip").arg(&path).status().unwrap().success());
                fs::rename(path.with_extension("log.gz"), path.with_extension(format!("log.{number}.gz"))).unwrap();
            }
        }

        async fn age(&self) -> Option<u32> {
            age_days(written(self.0.path(), NOW)).await
        }
    }

    fn did(command: &str, day: &str) -> String {
        format!(
            "Start-Date: {day}  10:00:00\nCommandline: {command}\nUpgrade: y:amd64 (1, 2)\nEnd-Date: {day}  10:00:01\n"
        )
    }

    #[test]
    fn days_are_those_of_the_calendar() {
        let days = ["1970-01-01", "2000-02-29", "2000-03-01", "2024-10-04", "2026-11-24  21:45:12"].map(day);
        assert_eq!(days, [0, 11_016, 11_017, TODAY, 20_781].map(Some));
        for bad in ["", "2026-13-01", "2026-00-10", "1969-12-31", "20261124ab", "2026-1é", "----------"] {
            assert_eq!(day(bad), None, "{bad}");
        }
    }

    #[test]
    fn what_brings_everything_up_to_date_is_told_from_what_does_not() {
        for upgrade in [
            "apt upgrade",
            "apt-get -y -o Dpkg::Options::=--force-confold dist-upgrade",
            "/usr/bin/unattended-upgrade",
            "packagekit role='update-packages'",
        ] {
            assert!(is_upgrade(upgrade), "{upgrade}");
        }
        for other in
            ["apt install x", "apt-get install upgrade", "packagekit role='install-packages'", "apt autoremove", ""]
        {
            assert!(!is_upgrade(other), "{other}");
        }
    }

    #[tokio::test]
    async fn only_updates_that_were_applied_count() {
        let tree = Tree::new();
        assert_eq!(tree.age().await, None, "nothing is known");
        tree.write("/var/lib/apt/periodic/update-success-stamp", "", 0);
        tree.write("/var/lib/apt/periodic/download-upgradeable-stamp", "", 0);
        tree.write("/var/lib/dpkg/status", "", 0);
        let failed = did("apt upgrade", "2024-10-03").replace("End-Date", "Error: Sub-process returned 1\nEnd-Date");
        let unfinished = "Start-Date: 2024-10-02  10:00:00\nCommandline: apt upgrade\n".to_owned();
        let not_yet = did("apt upgrade", "2031-01-01");
        tree.history(&[did("apt install x", "2024-10-04"), failed, unfinished, not_yet], None);
        assert_eq!(tree.age().await, None, "nothing was brought up to date");
        tree.history(&[did("apt upgrade", "2024-07-01"), did("apt install x", "2024-07-30")], Some(3));
        tree.history(&[did("apt upgrade", "2024-08-01"), did("apt install x", "2024-08-30")], Some(2));
        tree.history(&[did("apt install x", "2024-09-30")], Some(1));
        assert_eq!(tree.age().await, Some(64));
        tree.history(&[did("apt upgrade", "2024-09-01"), did("apt full-upgrade", "2024-09-04")], None);
        assert_eq!(tree.age().await, Some(30));
        tree.write("/var/lib/apt/periodic/upgrade-stamp", "", 7);
        assert_eq!(tree.age().await, Some(7));
        tree.write("/var/lib/apt/periodic/unattended-upgrades-stamp", "", 0);
        assert_eq!(tree.age().await, Some(0));
    }

    #[tokio::test]
    async fn dnf_s_history_counts_and_a_clock_that_was_wrong_does_not() {
        let tree = Tree::new();
        tree.write("/var/lib/dnf/history.sqlite", "", 12);
        assert_eq!(tree.age().await, Some(12));
        tree.write("/var/lib/apt/periodic/upgrade-stamp", "", -9);
        assert_eq!(tree.age().await, Some(12));
    }
}
