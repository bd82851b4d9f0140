//! Plans and what became of assertions, for people.

use std::fmt::Display;

use crate::{
    api::declaration::rows::{AccessRow, CheckedRow, CutRow, DifferenceRow, Outcome, PlanRow, StepRow, Way},
    cli::render::list,
};

/// Longer lists are counted.
const FEW: usize = 5;

pub(super) fn plan(row: &PlanRow) -> String {
    let mut parts = Vec::new();
    let mut part = |head: String, lines: Vec<String>| {
        if !lines.is_empty() {
            let lines: Vec<_> = lines.iter().map(|line| format!("  {line}")).collect();
            parts.push(format!("{head}\n{}", lines.join("\n")));
        }
    };
    part(format!("To change ({}):", row.steps.len()), row.steps.iter().map(step).collect());
    part("Access:".to_owned(), row.access.iter().flat_map(access).collect());
    part(
        "Grants that end or get narrower, with the connections that this closes:".to_owned(),
        row.grants.iter().map(grant).collect(),
    );
    let assertions = row.assertions.iter().filter(|it| it.outcome != Outcome::Holds).map(checked_line);
    part("Assertions:".to_owned(), assertions.collect());
    part("Left out:".to_owned(), row.notes.clone());
    if row.steps.is_empty() {
        parts.push("Nothing to change: all is as declared.".to_owned());
    } else if row.access.is_empty() && row.grants.is_empty() {
        parts.push("Nobody gains or loses access.".to_owned());
    }
    let held = row.assertions.iter().filter(|it| it.outcome == Outcome::Holds).count();
    let held = if row.assertions.is_empty() {
        String::new()
    } else {
        format!(" {held} of {} assertions hold.", row.assertions.len())
    };
    parts.push(format!("Planned at revision {}.{held}", row.revision));
    parts.join("\n\n")
}

/// `3 changes`.
pub(super) fn changes(count: usize) -> String {
    if count == 1 { "1 change".to_owned() } else { format!("{count} changes") }
}

fn step(row: &StepRow) -> String {
    let sign = match row.verb.as_str() {
        "add" => '+',
        "remove" => '-',
        _ => '~',
    };
    let thing = row.thing.replace('.', " ");
    let mut words = format!("{sign} {thing}");
    if !(row.name.is_empty() || row.thing == "policy") {
        words.push_str(&format!(" {}", row.name));
    }
    let details = row.details.iter().map(|detail| {
        let (name, value) = (&detail.name, shown(&detail.value));
        match &detail.was {
            Some(was) => format!("{name}: {} -> {value}", shown(was)),
            None => format!("{name}: {value}"),
        }
    });
    let details = details.collect::<Vec<_>>().join(", ");
    if details.is_empty() { words } else { format!("{words}  {details}") }
}

/// In one line, and apart from what stands around it.
fn shown(value: &str) -> String {
    let words: Vec<_> = value.split_whitespace().collect();
    match words.as_slice() {
        [] => "none".to_owned(),
        [word] => (*word).to_owned(),
        words => format!("\"{}\"", words.join(" ")),
    }
}

fn access(row: &AccessRow) -> Vec<String> {
    let (who, resources) = (who(row), few(&row.resources));
    row.changes.iter().map(|change| format!("{who} {}", difference(change, &resources))).collect()
}

fn who(row: &AccessRow) -> String {
    let devices = match row.devices.len() {
        0 => None,
        1 => Some(format!("device {}", row.devices[0])),
        _ => Some(format!("devices {}", few(&row.devices))),
    };
    let users = match (row.count, &row.group) {
        (0, _) => None,
        (1, _) => Some(few(&row.users)),
        (count, Some(group)) if count == row.of => Some(format!("group:{group} ({count} users)")),
        (count, Some(group)) => Some(format!("{count} of {} users of group:{group} ({})", row.of, named(row))),
        (count, None) if count == row.of => Some(format!("everyone ({count} users)")),
        (count, None) => Some(format!("{count} users ({})", named(row))),
    };
    users.into_iter().chain(devices).collect::<Vec<_>>().join(" and ")
}

fn named(row: &AccessRow) -> String {
    few_of(&row.users, row.count)
}

fn few<T: Display>(things: &[T]) -> String {
    few_of(things, things.len())
}

fn few_of<T: Display>(things: &[T], count: usize) -> String {
    if count <= FEW {
        return list(things);
    }
    let some: Vec<_> = things.iter().take(FEW - 1).map(ToString::to_string).collect();
    format!("{} and {} others", some.join(", "), count - some.len())
}

fn difference(row: &DifferenceRow, resources: &str) -> String {
    let ports = &row.ports;
    let mut words = match row.change {
        Way::Gained => format!("gains {ports} of {resources}"),
        Way::Lost => format!("loses {ports} of {resources}"),
        Way::Lifted => format!("is no more denied {ports} of {resources}"),
        Way::Restricted => format!("is denied {ports} of {resources}"),
    };
    if let Some(when) = &row.when {
        let when = when.split_whitespace().collect::<Vec<_>>().join(" ");
        words.push_str(&format!(", when {when}"));
    }
    if let Some(until) = &row.until {
        words.push_str(&format!(", until {until}"));
    }
    words
}

fn grant(row: &CutRow) -> String {
    let user = row.user.as_ref().map(|user| format!(" ({user})")).unwrap_or_default();
    let (device, resource, before, after) = (&row.device, &row.resource, &row.before, &row.after);
    match row.ends {
        Some(reason) => format!("{device}{user} to {resource} on {before}: {reason}"),
        None => format!("{device}{user} to {resource}: {before} -> {after}"),
    }
}

fn checked_line(row: &CheckedRow) -> String {
    let why = row.why.as_ref().map(|why| format!(": {why}")).unwrap_or_default();
    match row.outcome {
        Outcome::Holds => format!("ok      {}", row.name),
        Outcome::Fails => format!("FAILS   {}{why}", row.name),
        Outcome::Skipped => format!("skipped {}{why}", row.name),
    }
}

pub(super) fn checked(rows: &[CheckedRow]) -> String {
    if rows.is_empty() {
        return "The file can be applied to an empty network. There are no assertions in it.".to_owned();
    }
    let count = |outcome| rows.iter().filter(|row| row.outcome == outcome).count();
    let mut lines: Vec<_> = rows.iter().map(checked_line).collect();
    let (failed, skipped) = (count(Outcome::Fails), count(Outcome::Skipped));
    let nothing = if are_all_skipped(rows) { " Nothing was checked." } else { "" };
    lines.push(format!("\n{} hold, {failed} fail, {skipped} skipped.{nothing}", count(Outcome::Holds)));
    lines.join("\n")
}

/// Whether there are assertions and none of them could be checked.
pub(super) fn are_all_skipped(rows: &[CheckedRow]) -> bool {
    !rows.is_empty() && rows.iter().all(|row| row.outcome == Outcome::Skipped)
}
