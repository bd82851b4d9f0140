//! Files and folders of TOML to one declaration. What is wrong is said with file and line.

use std::{
    collections::{BTreeMap, HashMap},
    fmt::Display,
    io::Read as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};

use crate::api::declaration::{MAX_DECLARATION, file::File};

/// The most files in one folder.
const MAX_FILES: usize = 1000;

/// Reads a file, or all files of a folder that end in `.toml`, in the order of their names.
pub(super) fn read(path: &Path) -> Result<File> {
    let unreadable = || format!("{} can't be read", path.display());
    let is_folder = std::fs::metadata(path).with_context(unreadable)?.is_dir();
    let paths = if is_folder { files_in(path).with_context(unreadable)? } else { vec![path.to_owned()] };
    if paths.is_empty() {
        bail!("there is no file in {} whose name ends in .toml", path.display());
    }
    if paths.len() > MAX_FILES {
        bail!("there are more than {MAX_FILES} files in {}", path.display());
    }
    let mut merged = Merged::default();
    let mut left = MAX_DECLARATION as u64;
    for path in paths {
        let text = read_text(&path, left).with_context(|| format!("{} can't be read", path.display()))?;
        left -= text.len() as u64;
        let file = toml::from_str(&text).with_context(|| path.display().to_string())?;
        merged.take(file, &path)?;
    }
    Ok(merged.file)
}

/// Whatever it is: a pipe says nothing of its length.
fn read_text(path: &Path, most: u64) -> std::io::Result<String> {
    let mut text = String::new();
    std::fs::File::open(path)?.take(most + 1).read_to_string(&mut text)?;
    if text.len() as u64 > most {
        return Err(std::io::Error::other(format!("a declaration is at most {MAX_DECLARATION} bytes long")));
    }
    Ok(text)
}

fn files_in(folder: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        let is_hidden = path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
        if !is_hidden && path.extension().is_some_and(|extension| extension == "toml") {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}

/// What was read so far, and where each thing is.
#[derive(Default)]
struct Merged {
    file: File,
    places: HashMap<String, PathBuf>,
}

impl Merged {
    fn take(&mut self, file: File, path: &Path) -> Result<()> {
        let File { users, groups, sites, resources, policies, assertions } = file;
        for name in users.keys() {
            self.place("user", name, path)?;
        }
        self.file.users.extend(users);
        self.section("group", groups, path, |file| &mut file.groups)?;
        self.section("site", sites, path, |file| &mut file.sites)?;
        self.section("resource", resources, path, |file| &mut file.resources)?;
        if let Some(policies) = policies {
            for policy in &policies {
                let words = serde_json::to_string(policy)?;
                self.place("policy", &words, path)?;
            }
            self.file.policies.get_or_insert_default().extend(policies);
        }
        for assertion in &assertions {
            self.place("assertion", &assertion.name(), path)?;
        }
        self.file.assertions.extend(assertions);
        Ok(())
    }

    fn section<K: Ord + Display, V>(
        &mut self,
        what: &str,
        section: Option<BTreeMap<K, V>>,
        path: &Path,
        of: impl FnOnce(&mut File) -> &mut Option<BTreeMap<K, V>>,
    ) -> Result<()> {
        let Some(section) = section else { return Ok(()) };
        for name in section.keys() {
            self.place(what, name, path)?;
        }
        of(&mut self.file).get_or_insert_default().extend(section);
        Ok(())
    }

    /// Notes where something is, unless it is elsewhere already.
    fn place(&mut self, what: &str, name: &impl Display, path: &Path) -> Result<()> {
        match self.places.insert(format!("{what} {name}"), path.to_owned()) {
            None => Ok(()),
            Some(other) if other == path => bail!("{}: the {what} '{name}' is there twice", path.display()),
            Some(other) => {
                bail!("the {what} '{name}' is in both {} and {}: delete one", other.display(), path.display())
            }
        }
    }
}
