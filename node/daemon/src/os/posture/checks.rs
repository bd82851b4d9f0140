//! What policies ask for by name: whether there is a file, a process, a package.
//!
//! Only what the coordinator named is looked at. A file is neither opened nor read, and nothing that the coordinator says is ever
//! run: a name is compared, or is the last word of one query to the package manager. What can't be found out is left out.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::{BufRead as _, BufReader, ErrorKind, Read as _},
    path::Path,
};

use postern_model::{Check, Found};
use tokio::process::Command;

use super::files::{open, text, under};
use crate::os::program;

/// What the checks have shown, as far as it is known.
pub(super) type Shown = BTreeMap<Check, Found>;

/// So many processes are looked at, and so much of what dpkg keeps, in bytes.
const MAX_PROCESSES: usize = 1 << 16;
const MAX_STATUS: u64 = 64 << 20;
/// So many files with a package each.
const MAX_PACKAGE_FILES: usize = 1 << 14;

/// Which of these files are there. May wait for a file system.
pub(super) fn files(root: &Path, checks: &[Check]) -> Shown {
    let found = checks.iter().filter_map(|check| {
        let Check::File(path) = check else { return None };
        let found = match fs::symlink_metadata(under(root, path)) {
            Ok(_) => Found::Present,
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => Found::Absent,
            Err(_) => return None,
        };
        Some((check.clone(), found))
    });
    found.collect()
}

/// Which of these processes run: by their command's name, which the kernel cuts off after 15 bytes, and by the program's file.
pub(super) fn processes(root: &Path, checks: &[Check]) -> Shown {
    let wanted: BTreeSet<&str> = checks
        .iter()
        .filter_map(|check| match check {
            Check::Process(name) => Some(name.as_str()),
            _ => None,
        })
        .collect();
    if wanted.is_empty() {
        return Shown::new();
    }
    let Ok(entries) = fs::read_dir(under(root, "/proc")) else { return Shown::new() };
    let is_process = |name: &str| name.bytes().all(|byte| byte.is_ascii_digit());
    let mut running: BTreeSet<&str> = BTreeSet::new();
    // Whether there is none beside those that were seen.
    let mut is_all = false;
    let (mut count, mut programs_unseen) = (0, false);
    for entry in entries {
        let Ok(entry) = entry else { return shown(&wanted, &running, |_| false) };
        if !entry.file_name().to_str().is_some_and(is_process) {
            continue;
        }
        count += 1;
        if count > MAX_PROCESSES {
            return shown(&wanted, &running, |_| false);
        }
        is_all = true;
        match text(&entry.path().join("comm")) {
            Ok(comm) => running.extend(wanted.get(comm.trim_end_matches('\n'))),
            // It may have ended meanwhile.
            Err(error) => programs_unseen |= error.kind() == ErrorKind::PermissionDenied,
        }
        match fs::read_link(entry.path().join("exe")) {
            Ok(program) => {
                let name = program.file_name().and_then(|name| name.to_str()).unwrap_or_default();
                // So the kernel says that the file was replaced since.
                let name = name.strip_suffix(" (deleted)").unwrap_or(name);
                running.extend(wanted.get(name));
            }
            // The kernel's own have no program.
            Err(error) => programs_unseen |= error.kind() == ErrorKind::PermissionDenied,
        }
    }
    shown(&wanted, &running, |_| is_all && !programs_unseen)
}

fn shown(wanted: &BTreeSet<&str>, running: &BTreeSet<&str>, is_absent: impl Fn(&str) -> bool) -> Shown {
    let found = wanted.iter().filter_map(|name| {
        let check = Check::Process((*name).to_owned());
        match running.contains(name) {
            true => Some((check, Found::Present)),
            false => is_absent(name).then_some((check, Found::Absent)),
        }
    });
    found.collect()
}

/// The versions of these packages, as dpkg has them; `None` when this is not a machine that dpkg keeps.
pub(super) fn dpkg(root: &Path, checks: &[Check]) -> Option<Shown> {
    let names = packages(checks);
    let mut versions = BTreeMap::new();
    let mut is_kept = false;
    match open(&under(root, "/var/lib/dpkg/status")) {
        Ok(file) if file.metadata().is_ok_and(|it| it.len() <= MAX_STATUS) => {
            is_kept = true;
            installed(BufReader::new(file.take(MAX_STATUS)), &names, true, &mut versions)?;
        }
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        _ => return Some(Shown::new()),
    }
    // Machines that are built and not installed into have a file for each package.
    if let Ok(entries) = fs::read_dir(under(root, "/var/lib/dpkg/status.d")) {
        is_kept = true;
        for (number, entry) in entries.enumerate() {
            if number >= MAX_PACKAGE_FILES {
                return Some(Shown::new());
            }
            let path = entry.ok()?.path();
            if path.extension().is_some_and(|ending| ending == "md5sums") {
                continue;
            }
            installed(BufReader::new(open(&path).ok()?.take(MAX_STATUS)), &names, false, &mut versions)?;
        }
    }
    let found = names.into_iter().map(|name| {
        let found = versions.remove(name).map_or(Found::Absent, Found::Version);
        (Check::Package(name.to_owned()), found)
    });
    is_kept.then(|| found.collect())
}

fn packages(checks: &[Check]) -> BTreeSet<&str> {
    let names = checks.iter().filter_map(|check| match check {
        Check::Package(name) => Some(name.as_str()),
        _ => None,
    });
    names.collect()
}

/// Reads paragraphs of `Package:`, `Status:` (if there is to be one) and `Version:`; `None` when they can't be read to their end.
fn installed(
    status: BufReader<impl std::io::Read>,
    names: &BTreeSet<&str>,
    has_status: bool,
    versions: &mut BTreeMap<String, String>,
) -> Option<()> {
    let (mut name, mut version, mut is_there) = (String::new(), String::new(), !has_status);
    let mut lines = status.split(b'\n');
    loop {
        let line = lines.next().transpose().ok()?;
        let line = line.as_deref().map(String::from_utf8_lossy);
        if line.as_deref().is_none_or(|line| line.trim().is_empty()) {
            if is_there && !version.is_empty() && names.contains(name.as_str()) {
                versions.insert(std::mem::take(&mut name), std::mem::take(&mut version));
            }
            (name, version, is_there) = (String::new(), String::new(), !has_status);
        }
        let Some(line) = line else { return Some(()) };
        if let Some(it) = line.strip_prefix("Package:") {
            it.trim().clone_into(&mut name);
        } else if let Some(it) = line.strip_prefix("Version:") {
            it.trim().clone_into(&mut version);
        } else if let Some(it) = line.strip_prefix("Status:") {
            is_there = it.trim().ends_with(" ok installed");
        }
    }
}

/// The versions of these packages, as rpm has them.
pub(super) async fn rpm(checks: &[Check]) -> Shown {
    let names = packages(checks);
    // What would be an option, or a file, is no package's name.
    let names: Vec<_> =
        names.into_iter().filter(|name| name.starts_with(|c: char| c.is_ascii_alphanumeric())).collect();
    if names.is_empty() {
        return Shown::new();
    }
    let mut command = Command::new("rpm");
    command.env("LC_ALL", "C").args(["-q", "--qf", "%{NAME} %{VERSION}-%{RELEASE}\\n", "--"]).args(&names);
    match program::output(command, "").await {
        Ok(output) => said_by_rpm(&String::from_utf8_lossy(&output.stdout), &names),
        Err(_) => Shown::new(),
    }
}

fn said_by_rpm(said: &str, names: &[&str]) -> Shown {
    let found = names.iter().filter_map(|name| {
        let version = said.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        let absent = format!("package {name} is not installed");
        let found = match version {
            Some(version) => Found::Version(version.trim().to_owned()),
            None => said.lines().any(|line| line.trim() == absent).then_some(Found::Absent)?,
        };
        Some((Check::Package((*name).to_owned()), found))
    });
    found.collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn checks(texts: &[&str]) -> Vec<Check> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn found(shown: &Shown) -> Vec<(String, Found)> {
        shown.iter().map(|(check, found)| (check.to_string(), found.clone())).collect()
    }

    fn write(root: &Path, path: &str, text: &str) {
        let path = under(root, path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    #[test]
    fn a_file_is_there_whatever_it_is_and_whoever_may_read_it() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), "/etc/edr.conf", "");
        symlink("/nowhere", dir.path().join("etc/link")).unwrap();
        let asked = checks(&[
            "file:/etc/edr.conf",
            "file:/etc",
            "file:/etc/link",
            "file:/etc/no",
            "file:/etc/edr.conf/x",
            "process:x",
        ]);
        let shown = files(dir.path(), &asked);
        let expected = [
            ("file:/etc", Found::Present),
            ("file:/etc/edr.conf", Found::Present),
            ("file:/etc/edr.conf/x", Found::Absent),
            ("file:/etc/link", Found::Present),
            ("file:/etc/no", Found::Absent),
        ];
        assert_eq!(found(&shown), expected.map(|(check, found)| (check.to_owned(), found)));
    }

    #[test]
    fn a_process_goes_by_its_command_and_by_its_program() {
        let dir = tempfile::tempdir().unwrap();
        let process = |pid: &str, comm: &str, program: Option<&str>| {
            write(dir.path(), &format!("/proc/{pid}/comm"), &format!("{comm}\n"));
            if let Some(program) = program {
                symlink(program, dir.path().join(format!("proc/{pid}/exe"))).unwrap();
            }
        };
        let asked = checks(&[
            "process:sshd",
            "process:edr-agent-with-a-long-name",
            "process:renamed",
            "process:old",
            "process:init",
            "file:/x",
        ]);
        assert_eq!(processes(dir.path(), &asked), Shown::new(), "without /proc nothing is known");
        fs::create_dir_all(dir.path().join("proc")).unwrap();
        assert_eq!(processes(dir.path(), &asked), Shown::new(), "nor when it is empty");
        process("1", "systemd", Some("/usr/lib/systemd/systemd"));
        process("2", "kthreadd", None);
        process("30", "sshd", Some("/usr/sbin/sshd"));
        process("31", "edr-agent-with-", Some("/opt/edr/edr-agent-with-a-long-name"));
        process("32", "worker", Some("/usr/bin/renamed"));
        process("33", "x", Some("/usr/bin/old (deleted)"));
        write(dir.path(), "/proc/init/comm", "init\n");
        let shown = processes(dir.path(), &asked);
        let expected = [
            ("process:edr-agent-with-a-long-name", Found::Present),
            ("process:init", Found::Absent),
            ("process:old", Found::Present),
            ("process:renamed", Found::Present),
            ("process:sshd", Found::Present),
        ];
        assert_eq!(found(&shown), expected.map(|(check, found)| (check.to_owned(), found)));
    }

    #[test]
    fn dpkg_s_packages_count_when_they_are_installed() {
        let dir = tempfile::tempdir().unwrap();
        let asked = checks(&["package:openssl", "package:removed", "package:nothing", "package:base-files"]);
        assert_eq!(dpkg(dir.path(), &asked), None, "another kind of machine");
        write(
            dir.path(),
            "/var/lib/dpkg/status",
            "Package: openssl\nStatus: install ok installed\nVersion: 3.0.11-1\nDescription: x\n Package: nothing\n\n\
             Package: removed\nStatus: deinstall ok config-files\nVersion: 1.0\n\n\
             Package: unasked\nStatus: install ok installed\nVersion: 2.0\n\n\
             Package: half\nStatus: install ok half-configured\nVersion: 2.0\n",
        );
        let package = |name: &str| Check::Package(name.into());
        let version = |text: &str| Found::Version(text.into());
        let mut expected = Shown::from([
            (package("base-files"), Found::Absent),
            (package("nothing"), Found::Absent),
            (package("openssl"), version("3.0.11-1")),
            (package("removed"), Found::Absent),
        ]);
        assert_eq!(dpkg(dir.path(), &asked), Some(expected.clone()));
        write(dir.path(), "/var/lib/dpkg/status.d/base", "Package: base-files\nVersion: 12.4\n");
        write(dir.path(), "/var/lib/dpkg/status.d/base.md5sums", "0123  usr/x\n");
        expected.insert(package("base-files"), version("12.4"));
        assert_eq!(dpkg(dir.path(), &asked), Some(expected));
    }

    #[test]
    fn what_rpm_does_not_say_is_unknown() {
        let said = "openssl 3.0.7-1.el9\npackage edr is not installed\nopenssl-libs 1-1\nerror: rpmdb open failed\n";
        let shown = said_by_rpm(said, &["openssl", "edr", "other"]);
        let expected = [("package:edr", Found::Absent), ("package:openssl", Found::Version("3.0.7-1.el9".into()))];
        assert_eq!(found(&shown), expected.map(|(check, found)| (check.to_owned(), found)));
    }

    #[tokio::test]
    async fn a_name_that_looks_like_an_option_is_asked_of_nobody() {
        assert_eq!(rpm(&checks(&["package:--eval", "package:-a"])).await, Shown::new());
    }
}
