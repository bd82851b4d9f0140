//! Whether the root file system lies on an encrypted disk.
//!
//! It does when every way from it down to a physical device goes through a device of dm-crypt, as LUKS makes them, whatever
//! else (LVM, RAID) is above or below. File systems that bring their own encryption, and those in memory, on other machines or
//! in files, are unknown. So is swap, and what a disk encrypts by itself: that a disk does so can't be seen from here.

use std::{
    fs,
    os::unix::fs::{FileTypeExt as _, MetadataExt as _},
    path::{Path, PathBuf},
};

use super::files::{text, under};

/// Devices are stacked no higher, and no more of them are looked at.
const MAX_DEPTH: usize = 16;
const MAX_DEVICES: usize = 256;
/// How the uuid of a device begins that encrypts: dm-crypt's kinds, but not dm-verity and dm-integrity, which cryptsetup also
/// makes and which hide nothing.
const CRYPT: [&str; 7] = [
    "CRYPT-LUKS1-",
    "CRYPT-LUKS2-",
    "CRYPT-PLAIN-",
    "CRYPT-LOOPAES-",
    "CRYPT-TCRYPT-",
    "CRYPT-BITLK-",
    "CRYPT-FVAULT2-",
];

/// A device's numbers, as `MAJOR:MINOR`.
type Number = String;

/// `None` when it can't be known.
pub(super) fn is_encrypted(root: &Path) -> Option<bool> {
    decide(root, device_number)
}

/// `number_of` says which device a path names, if it is a block device.
fn decide(root: &Path, number_of: impl Fn(&Path) -> Option<Number>) -> Option<bool> {
    let mount = root_mount(&text(&under(root, "/proc/self/mountinfo")).ok()?)?;
    let number = match mount.number {
        number if !number.starts_with("0:") => number,
        _ if !mount.source.starts_with("/dev/") => return None,
        _ => number_of(&under(root, &mount.source))?,
    };
    let mut left = MAX_DEVICES;
    if mount.kind != "btrfs" {
        return judge(&under(root, format!("/sys/dev/block/{number}")), MAX_DEPTH, &mut left);
    }
    all(btrfs_devices(root, &number)?.iter().map(|device| judge(device, MAX_DEPTH, &mut left)))
}

struct Mount {
    number: Number,
    kind: String,
    source: String,
}

/// What is mounted on `/`: the last that is said to be hides those before.
fn root_mount(mountinfo: &str) -> Option<Mount> {
    let mount = |line: &str| {
        let (place, what) = line.split_once(" - ")?;
        let (mut place, mut what) = (place.split(' '), what.split(' '));
        let (number, at) = (place.nth(2)?, place.nth(1)?);
        let (kind, source) = (what.next()?, what.next()?);
        (at == "/").then(|| Mount { number: number.to_owned(), kind: kind.to_owned(), source: source.to_owned() })
    };
    mountinfo.lines().filter_map(mount).next_back()
}

fn device_number(path: &Path) -> Option<Number> {
    let found = fs::metadata(path).ok().filter(|found| found.file_type().is_block_device())?;
    let number = found.rdev();
    Some(format!("{}:{}", rustix::fs::major(number), rustix::fs::minor(number)))
}

/// A btrfs may lie on several devices, of which a mount names one.
fn btrfs_devices(root: &Path, number: &str) -> Option<Vec<PathBuf>> {
    let systems = entries(&under(root, "/sys/fs/btrfs"))?;
    let devices = systems.into_iter().filter_map(|system| entries(&system.join("devices")));
    let is_it = |device: &PathBuf| text(&device.join("dev")).is_ok_and(|it| it.trim() == number);
    devices.take(MAX_DEVICES).find(|devices| devices.iter().any(is_it))
}

/// Whether a device, a folder in `/sys`, is encrypted by itself or by all that it lies on.
fn judge(device: &Path, depth: usize, left: &mut usize) -> Option<bool> {
    *left = left.checked_sub(1)?;
    let depth = depth.checked_sub(1)?;
    if !device.is_dir() {
        return None;
    }
    if text(&device.join("dm/uuid")).is_ok_and(|uuid| CRYPT.iter().any(|kind| uuid.starts_with(kind))) {
        return Some(true);
    }
    // A file that is used as a device lies on a file system that is not looked for.
    if device.join("loop").exists() {
        return None;
    }
    if device.join("partition").exists() {
        // What the whole device lies on, the partition lies on.
        return judge(fs::canonicalize(device).ok()?.parent()?, depth, left);
    }
    match entries(&device.join("slaves")) {
        Some(below) if !below.is_empty() => all(below.iter().map(|device| judge(device, depth, left))),
        // Nothing is below a physical device; a mapped one whose ground can't be seen is not physical.
        _ => (!device.join("dm").exists() && !device.join("md").exists()).then_some(false),
    }
}

/// One that is not encrypted decides; then one that is not known.
fn all(answers: impl Iterator<Item = Option<bool>>) -> Option<bool> {
    let answers: Vec<_> = answers.collect();
    if answers.contains(&Some(false)) {
        return Some(false);
    }
    (!answers.is_empty() && !answers.contains(&None)).then_some(true)
}

fn entries(folder: &Path) -> Option<Vec<PathBuf>> {
    let entries = fs::read_dir(folder).ok()?;
    Some(entries.take(MAX_DEVICES + 1).filter_map(|entry| Some(entry.ok()?.path())).collect())
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, os::unix::fs::symlink};

    use tempfile::TempDir;

    use super::*;

    /// A made-up `/proc` and `/sys`.
    struct Tree {
        dir: TempDir,
        numbers: BTreeMap<PathBuf, Number>,
    }

    impl Tree {
        /// With what is mounted on `/`, as mountinfo has it: the device, the kind and the source.
        fn new(number: &str, kind: &str, source: &str) -> Self {
            let tree = Self { dir: tempfile::tempdir().unwrap(), numbers: BTreeMap::new() };
            let mounts = format!(
                "1 0 0:2 / / rw - rootfs none rw\n22 1 {number} /sub / rw,relatime shared:1 - {kind} {source} rw\n23 22 0:9 / /proc rw - proc \
                 proc rw\n24 22 8:9 / /boot rw - ext4 /dev/sdb9 rw\n"
            );
            tree.write("proc/self/mountinfo", &mounts);
            tree
        }

        fn write(&self, path: &str, text: &str) {
            let path = self.dir.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }

        /// A device on others; `path` is where in `/sys/devices` it is, `uuid` is of those of the device mapper.
        fn device(&self, path: &str, number: &str, uuid: Option<&str>, below: &[&str]) -> &Self {
            let place = format!("sys/devices/{path}");
            let root = self.dir.path();
            self.write(&format!("{place}/dev"), &format!("{number}\n"));
            if let Some(uuid) = uuid {
                self.write(&format!("{place}/dm/uuid"), uuid);
            }
            fs::create_dir_all(root.join("sys/dev/block")).unwrap();
            symlink(root.join(&place), root.join("sys/dev/block").join(number)).unwrap();
            fs::create_dir_all(root.join(&place).join("slaves")).unwrap();
            for below in below {
                let name = Path::new(below).file_name().unwrap();
                symlink(root.join("sys/devices").join(below), root.join(&place).join("slaves").join(name)).unwrap();
            }
            self
        }

        fn partition(&self, path: &str, number: &str) -> &Self {
            self.device(path, number, None, &[]);
            fs::remove_dir(self.dir.path().join(format!("sys/devices/{path}/slaves"))).unwrap();
            self.write(&format!("sys/devices/{path}/partition"), "2\n");
            self
        }

        fn btrfs(&self, id: &str, devices: &[&str]) {
            let folder = self.dir.path().join(format!("sys/fs/btrfs/{id}/devices"));
            fs::create_dir_all(&folder).unwrap();
            for device in devices {
                let name = Path::new(device).file_name().unwrap();
                symlink(self.dir.path().join("sys/devices").join(device), folder.join(name)).unwrap();
            }
        }

        fn named(&mut self, path: &str, number: &str) {
            self.numbers.insert(self.dir.path().join(path), number.to_owned());
        }

        fn is_encrypted(&self) -> Option<bool> {
            decide(self.dir.path(), |path| self.numbers.get(path).cloned())
        }
    }

    const LUKS: Option<&str> = Some("CRYPT-LUKS2-0123456789abcdef-root\n");
    const LVM: Option<&str> = Some("LVM-abcdef\n");

    #[test]
    fn every_way_down_has_to_be_encrypted() {
        let tree = Tree::new("254:1", "ext4", "/dev/mapper/vg-root");
        tree.device("sda", "8:0", None, &[]).partition("sda/sda2", "8:2").partition("sda/sda3", "8:3");
        tree.device("dm-0", "254:0", LUKS, &["sda/sda2"]).device("dm-1", "254:1", LVM, &["dm-0"]);
        assert_eq!(tree.is_encrypted(), Some(true), "LVM on LUKS");

        let tree = Tree::new("254:1", "ext4", "/dev/mapper/vg-root");
        tree.device("sda", "8:0", None, &[]).partition("sda/sda2", "8:2").partition("sda/sda3", "8:3");
        tree.device("dm-0", "254:0", LUKS, &["sda/sda2"]).device("dm-1", "254:1", LVM, &["dm-0", "sda/sda3"]);
        assert_eq!(tree.is_encrypted(), Some(false), "half of it");

        let tree = Tree::new("8:2", "ext4", "/dev/sda2");
        tree.device("sda", "8:0", None, &[]).partition("sda/sda2", "8:2");
        assert_eq!(tree.is_encrypted(), Some(false));
    }

    #[test]
    fn a_partition_of_an_encrypted_array_is_encrypted() {
        let tree = Tree::new("259:1", "xfs", "/dev/md0p1");
        tree.device("sda", "8:0", None, &[]).device("sdb", "8:16", None, &[]);
        tree.device("dm-0", "254:0", LUKS, &["sda"]).device("dm-1", "254:1", LUKS, &["sdb"]);
        tree.device("md0", "9:0", None, &["dm-0", "dm-1"]).partition("md0/md0p1", "259:1");
        assert_eq!(tree.is_encrypted(), Some(true));
    }

    #[test]
    fn what_checks_and_does_not_hide_is_not_encrypted() {
        for uuid in ["CRYPT-VERITY-0123-root", "CRYPT-INTEGRITY-root", "LVM-CRYPT-LUKS2-x", "mpath-1"] {
            let tree = Tree::new("254:0", "ext4", "/dev/mapper/root");
            tree.device("sda", "8:0", None, &[]).device("dm-0", "254:0", Some(uuid), &["sda"]);
            assert_eq!(tree.is_encrypted(), Some(false), "{uuid}");
        }
    }

    #[test]
    fn a_btrfs_is_as_encrypted_as_its_least_device() {
        for (second, expected) in [(LUKS, true), (LVM, false)] {
            let mut tree = Tree::new("0:30", "btrfs", "/dev/mapper/root");
            tree.device("sda", "8:0", None, &[]).device("sdb", "8:16", None, &[]);
            tree.device("dm-0", "254:0", LUKS, &["sda"]).device("dm-1", "254:1", second, &["sdb"]);
            tree.btrfs("another", &["sdb"]);
            tree.btrfs("features", &[]);
            tree.named("dev/mapper/root", "254:0");
            assert_eq!(tree.is_encrypted(), None, "where its devices are not known");
            tree.btrfs("this", &["dm-0", "dm-1"]);
            assert_eq!(tree.is_encrypted(), Some(expected));
        }
    }

    #[test]
    fn what_lies_elsewhere_is_unknown() {
        for (kind, source) in [("zfs", "rpool/root"), ("overlay", "overlay"), ("tmpfs", "tmpfs"), ("nfs4", "server:/x")]
        {
            assert_eq!(Tree::new("0:30", kind, source).is_encrypted(), None, "{kind}");
        }
        assert_eq!(Tree::new("0:30", "bcachefs", "/dev/sda:/dev/sdb").is_encrypted(), None);
        assert_eq!(Tree::new("8:1", "ext4", "/dev/sda1").is_encrypted(), None, "no such device in /sys");
        let tree = Tree::new("7:0", "ext4", "/dev/loop0");
        tree.device("loop0", "7:0", None, &[]).write("sys/devices/loop0/loop/backing_file", "/x");
        assert_eq!(tree.is_encrypted(), None);
        let tree = Tree::new("254:0", "ext4", "/dev/mapper/root");
        tree.device("dm-0", "254:0", LVM, &[]);
        assert_eq!(tree.is_encrypted(), None, "a mapped device whose ground is hidden");
        assert_eq!(is_encrypted(&tree.dir.path().join("nowhere")), None);
    }

    #[test]
    fn devices_that_lie_on_each_other_come_to_an_end() {
        let tree = Tree::new("254:0", "ext4", "/dev/mapper/root");
        tree.device("dm-0", "254:0", LVM, &["dm-1"]).device("dm-1", "254:1", LVM, &["dm-0"]);
        assert_eq!(tree.is_encrypted(), None);
        let tree = Tree::new("254:0", "ext4", "/dev/mapper/root");
        for number in 0..40 {
            let (path, below) = (format!("dm-{number}"), format!("dm-{}", number + 1));
            tree.device(&path, &format!("254:{number}"), LVM, &[&below]);
        }
        assert_eq!(tree.is_encrypted(), None, "deeper than anybody stacks them");
    }
}
