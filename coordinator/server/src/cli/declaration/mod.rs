//! `policy plan`, `apply`, `test` and `export`: how things are to be, as files say it.
//!
//! - `read`: files and folders to one declaration; `tell`: plans, for people
//!
//! Exit codes: 0 done, 1 refused, failed or wrong input; `plan --detailed-exitcode` ends with 2 when anything would change, and
//! `test` with 1 as well when it had to skip all assertions: a check in CI that checks nothing should not pass.

mod read;
mod tell;
#[cfg(test)]
mod tests;

use std::{
    fmt::Write as _,
    io::Write as _,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context as _, Result};
use clap::{Args, Subcommand};
use hyper::Method;
use postern_core::{Declaration, Env, declaration::check_offline};
use postern_model::Revision;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::{
    client::{Call, Door},
    json,
};
use crate::{
    api::declaration::{
        ToApply, ToPlan,
        file::File,
        rows::{AppliedRow, CheckedRow, Outcome, PlanRow},
    },
    clock, coordinator,
};

/// Something would change.
const CHANGES: u8 = 2;

#[derive(Debug, Subcommand)]
pub(crate) enum DeclarationWords {
    /// Show what would come of a file: what changes, who gains and who loses access, and which connections are cut.
    Plan {
        /// A TOML file, or a folder with such files.
        path: PathBuf,
        /// End with exit code 2 when anything would change.
        #[arg(long)]
        detailed_exitcode: bool,
    },
    /// Make things as a file says, all of it or nothing. Shows the plan, and refuses if it is outdated by then.
    Apply {
        /// A TOML file, or a folder with such files.
        path: PathBuf,
        /// As 'policy plan' showed it: refuse if anything has changed since that plan.
        #[arg(long, value_name = "N")]
        revision: Option<u64>,
    },
    /// Check a file and its assertions without a coordinator. Whoever the file names is made up; what hangs on things that only
    /// the coordinator knows is skipped. Ends with exit code 1 when an assertion fails, or when all are skipped.
    Test {
        /// A TOML file, or a folder with such files.
        path: PathBuf,
    },
    /// Write the file that 'policy apply' would make things so with as they are.
    Export(ExportWords),
}

#[derive(Debug, Args)]
pub(crate) struct ExportWords {
    /// Write it there, in place of what is there. To standard output unless given.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

/// Checks the assertions of a file. Asks nobody.
pub(super) fn test(path: &Path, is_json: bool) -> Result<ExitCode> {
    let declaration: Declaration = read::read(path)?.into();
    let (now, moment) = (clock::now(), clock::moment());
    let mut env = Env { now, moment, random: &mut coordinator::random };
    let checked = check_offline(&declaration, &mut env).with_context(|| path.display().to_string())?;
    let rows: Vec<_> = checked.into_iter().map(CheckedRow::from).collect();
    let text = if is_json { json::indent(&serde_json::to_string(&rows)?) } else { tell::checked(&rows) };
    print(&text);
    let has_failed = rows.iter().any(|row| row.outcome == Outcome::Fails);
    Ok(if has_failed || tell::are_all_skipped(&rows) { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// Carries out any of the words but `test`.
pub(super) fn run(words: DeclarationWords, door: &Door, is_json: bool) -> Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let asking = Asking { door, runtime };
    match words {
        DeclarationWords::Test { path } => test(&path, is_json),
        DeclarationWords::Export(ExportWords { out }) => export(&asking, out.as_deref(), is_json),
        DeclarationWords::Plan { path, detailed_exitcode } => {
            let (row, text) = asking.plan(read::read(&path)?)?;
            print(&if is_json { json::indent(&text) } else { tell::plan(&row) });
            let is_told = detailed_exitcode && !row.steps.is_empty();
            Ok(if is_told { ExitCode::from(CHANGES) } else { ExitCode::SUCCESS })
        }
        DeclarationWords::Apply { path, revision } => apply(&asking, &path, revision, is_json),
    }
}

fn apply(asking: &Asking<'_>, path: &Path, revision: Option<u64>, is_json: bool) -> Result<ExitCode> {
    let file = read::read(path)?;
    let (plan, text) = asking.plan(file.clone())?;
    if !is_json {
        print(&tell::plan(&plan));
    }
    let revision = Some(revision.map_or(plan.revision, Revision));
    let body = serde_json::to_value(ToApply { declaration: file, revision })?;
    let (applied, done): (AppliedRow, _) = asking.ask(Method::POST, "/apply", Some(body))?;
    if is_json {
        print(&json::indent(&format!("{{\"plan\":{text},\"applied\":{done}}}")));
    } else if !applied.steps.is_empty() {
        print(&format!("\nDone: {}, at revision {}.", tell::changes(applied.steps.len()), applied.revision));
    }
    Ok(ExitCode::SUCCESS)
}

fn export(asking: &Asking<'_>, out: Option<&Path>, is_json: bool) -> Result<ExitCode> {
    let (file, answer): (File, _) = asking.ask(Method::GET, "/export", None)?;
    let text = if is_json { json::indent(&answer) } else { to_toml(&file)? };
    match out {
        None => print(&text),
        Some(out) => {
            std::fs::write(out, text + "\n").with_context(|| format!("{} can't be written", out.display()))?;
            let said = json!({ "file": out.display().to_string() });
            print(&if is_json { format!("{said:#}") } else { format!("Wrote {}.", out.display()) });
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// A declaration as a file. Sections that are there and have nothing in them say so.
fn to_toml(file: &File) -> Result<String> {
    let mut text = String::from(
        "# How this network is to be. 'postern-coordinator policy plan FILE' shows what an edit comes to, 'policy apply FILE'\n# carries it out. What a section leaves out is removed; without the section it stays.\n\n",
    );
    write!(text, "{}", toml::to_string_pretty(file).context("the declaration can't be written as TOML")?)?;
    Ok(text.trim_end().to_owned())
}

struct Asking<'a> {
    door: &'a Door,
    runtime: tokio::runtime::Runtime,
}

impl Asking<'_> {
    fn plan(&self, declaration: File) -> Result<(PlanRow, String)> {
        self.ask(Method::POST, "/plan", Some(serde_json::to_value(ToPlan { declaration })?))
    }

    /// The answer, and as it was sent.
    fn ask<T: DeserializeOwned>(&self, method: Method, path: &str, body: Option<Value>) -> Result<(T, String)> {
        let call = Call { method, path: path.to_owned(), body };
        let answer = self.runtime.block_on(self.door.call(call))?;
        let row = serde_json::from_str(&answer);
        Ok((row.context("the coordinator's answer makes no sense; is it of another version?")?, answer))
    }
}

/// Whoever reads may have read enough.
fn print(text: &str) {
    let _ = writeln!(std::io::stdout(), "{text}");
}
