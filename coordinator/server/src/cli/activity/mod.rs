//! `activity tail` and `activity export`: what is not one call with one answer.

pub(in crate::cli) mod render;
pub(in crate::cli) mod words;

use std::{
    fs::File,
    io::{self, BufWriter, Write},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context as _, Result};
use hyper::Method;
use serde_json::{Value, json};
use words::{ActivityWords, FilterWords};

use super::{
    client::{Call, Door},
    plan::{Plan, get, table},
};
use crate::activity::line::ActivityLine;

/// Rows of one page of an export.
const PAGE: usize = 1000;
/// How often a stream that broke off is taken up again before that counts as failed, and between two attempts.
const ATTEMPTS: u32 = 10;
const PAUSE: Duration = Duration::from_secs(1);

const STRANGE: &str = "the coordinator's answer makes no sense; is it of another version?";

/// The plan for a list; what is none is given back.
pub(super) fn plan(words: &ActivityWords) -> Option<Plan> {
    let ActivityWords::List { filter, limit } = words else { return None };
    let query = filter.query();
    let separator = if query.is_empty() { "" } else { "&" };
    Some(get(&format!("/activity?limit={limit}{separator}{query}"), table(render::table)))
}

/// Carries out what is no list.
pub(super) async fn run(door: &Door, words: ActivityWords, json: bool) -> Result<ExitCode> {
    match words {
        ActivityWords::List { .. } => anyhow::bail!("a list is one call"),
        ActivityWords::Tail { filter } => tail(door, filter, json).await,
        ActivityWords::Export { filter, out: None } => {
            let mut out = BufWriter::new(io::stdout());
            let exported = export(door, filter, &mut out).await;
            // Whoever reads may have read enough.
            is_left(exported.and_then(|_| Ok(out.flush()?)))?;
            Ok(ExitCode::SUCCESS)
        }
        ActivityWords::Export { filter, out: Some(path) } => {
            let rows = export_to(door, filter, &path).await?;
            let told = if json {
                json!({ "rows": rows, "file": path }).to_string()
            } else {
                format!("Wrote {rows} rows to {}.", path.display())
            };
            let _ = writeln!(io::stdout(), "{told}");
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// Turns a reader that has left into an end.
fn is_left(result: Result<()>) -> Result<()> {
    match result {
        Err(error) if error.downcast_ref::<io::Error>().is_some_and(|it| it.kind() == io::ErrorKind::BrokenPipe) => {
            Ok(())
        }
        other => other,
    }
}

async fn tail(door: &Door, mut filter: FilterWords, json: bool) -> Result<ExitCode> {
    let mut attempts = 0;
    loop {
        let query = filter.query();
        let separator = if query.is_empty() { "" } else { "?" };
        let call = Call { method: Method::GET, path: format!("/activity/stream{separator}{query}"), body: None };
        let opened = door.open(call).await;
        let mut lines = match opened {
            Ok(lines) => lines,
            // It was there before: perhaps it restarts.
            Err(error) if attempts > 0 && attempts < ATTEMPTS && error.may_pass() => {
                attempts += 1;
                tokio::time::sleep(PAUSE).await;
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        // However it ends, the next one goes on where it was, also when nothing has come yet.
        filter.after = filter.after.or(lines.after);
        while let Ok(Some(line)) = lines.next().await {
            attempts = 0;
            if line.is_empty() {
                continue;
            }
            let row: ActivityLine = serde_json::from_str(&line).context(STRANGE)?;
            filter.after = Some(row.id);
            let text = if json { line } else { render::one(&row) };
            let mut out = io::stdout();
            if writeln!(out, "{text}").and_then(|()| out.flush()).is_err() {
                // Whoever reads has read enough.
                return Ok(ExitCode::SUCCESS);
            }
        }
        attempts += 1;
        if attempts > ATTEMPTS {
            anyhow::bail!("the stream of activity breaks off again and again");
        }
        tokio::time::sleep(PAUSE).await;
    }
}

async fn export_to(door: &Door, filter: FilterWords, path: &Path) -> Result<u64> {
    let mut part = path.as_os_str().to_owned();
    part.push(".part");
    let named = || format!("{} can't be written", path.display());
    // Not through a link that someone else has put there, nor into a file that others have open.
    let _ = std::fs::remove_file(&part);
    let file = File::options().write(true).create_new(true).mode(0o600).open(&part).with_context(named)?;
    let write = async {
        let mut out = BufWriter::new(file);
        let rows = export(door, filter, &mut out).await?;
        out.into_inner().map_err(io::IntoInnerError::into_error).with_context(named)?.sync_all().with_context(named)?;
        std::fs::rename(&part, path).with_context(named)?;
        Ok(rows)
    };
    let written: Result<u64> = write.await;
    if written.is_err() {
        let _ = std::fs::remove_file(&part);
    }
    written
}

/// Writes row after row, page by page, until there are no more.
async fn export(door: &Door, mut filter: FilterWords, out: &mut impl Write) -> Result<u64> {
    let mut written = 0;
    filter.after = Some(filter.after.unwrap_or(0));
    loop {
        let path = format!("/activity?limit={PAGE}&{}", filter.query());
        let answer = door.call(Call { method: Method::GET, path, body: None }).await?;
        // As they came, field by field.
        let rows: Vec<&serde_json::value::RawValue> = serde_json::from_str(&answer).context(STRANGE)?;
        for row in &rows {
            writeln!(out, "{row}")?;
        }
        written += rows.len() as u64;
        let Some(last) = rows.last().filter(|_| rows.len() >= PAGE) else { return Ok(written) };
        let last: Value = serde_json::from_str(last.get()).context(STRANGE)?;
        filter.after = Some(last["id"].as_u64().context(STRANGE)?);
    }
}
