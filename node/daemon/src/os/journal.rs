//! The journal: what is about to be changed, and what was there before, on disk ahead of the change.

use std::{
    io::ErrorKind,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

const FILE: &str = "machine.json";

/// One change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub(super) enum Entry {
    /// The node's nftables table.
    Firewall { interface: String },
    /// A kernel setting, and those that the kernel changes with it, as they were.
    Sysctl {
        path: String,
        before: String,
        ours: String,
        #[serde(default)]
        beside: Vec<(String, String)>,
    },
    /// `/etc/resolv.conf`.
    ResolvConf(SavedResolvConf),
    /// systemd-resolved's settings of the interface.
    Resolved { interface: String },
}

impl Entry {
    /// What was changed, for people.
    pub(super) fn name(&self) -> String {
        match self {
            Self::Firewall { interface } => format!("the firewall's table {interface}"),
            Self::Sysctl { path, .. } => format!("the kernel's setting {path}"),
            Self::ResolvConf(_) => "/etc/resolv.conf".into(),
            Self::Resolved { interface } => format!("the resolver's settings of {interface}"),
        }
    }
}

/// What `/etc/resolv.conf` was.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct SavedResolvConf {
    /// What was in it, or where it led; nothing if there was none.
    pub(super) before: Option<Before>,
    /// What is written in its place.
    pub(super) ours: String,
}

/// What stood in the place of a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Before {
    File { text: String, mode: u32 },
    Link(PathBuf),
}

/// All changes that are not undone yet, in the order in which they were made.
#[derive(Debug)]
pub(super) struct Journal {
    path: PathBuf,
    entries: Vec<Entry>,
}

impl Journal {
    pub(super) fn load(state_dir: &Path) -> Result<Self> {
        let path = state_dir.join(FILE);
        let entries = match std::fs::read_to_string(&path) {
            Ok(text) => serde_json::from_str(&text).with_context(|| {
                format!("{} is damaged: look into it, set back what it names, remove it", path.display())
            })?,
            Err(error) if error.kind() == ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(error).with_context(|| format!("{} can't be read", path.display())),
        };
        Ok(Self { path, entries })
    }

    /// Notes a change that is about to be made.
    pub(super) fn add(&mut self, entry: Entry) -> Result<()> {
        if !self.entries.contains(&entry) {
            self.entries.push(entry);
            self.save()?;
        }
        Ok(())
    }

    /// Notes a change that is about to be made, in place of one that was.
    pub(super) fn replace(&mut self, old: &Entry, new: Entry) -> Result<()> {
        self.entries.retain(|entry| entry != old);
        self.entries.push(new);
        self.save()
    }

    /// Takes all entries out, the last one first. What is not put back with [`Self::keep`] is forgotten at the next save.
    pub(super) fn take_reversed(&mut self) -> impl Iterator<Item = Entry> + use<> {
        std::mem::take(&mut self.entries).into_iter().rev()
    }

    /// Puts an entry back in front of those that were put back before.
    pub(super) fn keep(&mut self, entry: Entry) {
        self.entries.insert(0, entry);
    }

    pub(super) fn save(&self) -> Result<()> {
        if !self.entries.is_empty() {
            return Ok(postern_statedir::write_whole(&self.path, &serde_json::to_string(&self.entries)?)?);
        }
        match std::fs::remove_file(&self.path) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                Err(error).with_context(|| format!("{} can't be removed", self.path.display()))
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_noted_survives_and_what_was_undone_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let entry = |n: u8| Entry::Firewall { interface: format!("postern{n}") };
        let mut journal = Journal::load(dir.path()).unwrap();
        journal.add(entry(1)).unwrap();
        journal.add(entry(2)).unwrap();
        let mut journal = Journal::load(dir.path()).unwrap();
        let undone: Vec<_> = journal.take_reversed().collect();
        assert_eq!(undone, [entry(2), entry(1)]);
        journal.keep(entry(1));
        journal.save().unwrap();
        let mut journal = Journal::load(dir.path()).unwrap();
        assert_eq!(journal.take_reversed().collect::<Vec<_>>(), [entry(1)]);
        journal.save().unwrap();
        assert!(!dir.path().join(FILE).exists());
        journal.add(entry(1)).unwrap();
        journal.replace(&entry(1), entry(3)).unwrap();
        assert_eq!(Journal::load(dir.path()).unwrap().take_reversed().collect::<Vec<_>>(), [entry(3)]);
    }

    #[test]
    fn a_journal_of_an_earlier_version_is_still_read() {
        let dir = tempfile::tempdir().unwrap();
        let old = r#"[{"kind": "sysctl", "path": "net/ipv4/ip_forward", "before": "0", "ours": "1"}]"#;
        std::fs::write(dir.path().join(FILE), old).unwrap();
        assert_eq!(Journal::load(dir.path()).unwrap().take_reversed().count(), 1);
    }
}
