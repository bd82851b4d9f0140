//! Rows for people: a table, or a line each as they come.

use std::time::Duration;

use crate::{activity::line::ActivityLine, cli::render};

/// A list as a table.
pub(in crate::cli) fn table(rows: &[ActivityLine]) -> String {
    let head = ["ID", "TIME", "KIND", "USER", "DEVICE", "RESOURCE", "DETAILS"];
    render::columns(rows, "There is no such activity.", &head, |row| {
        vec![
            row.id.to_string(),
            row.at.short(),
            row.kind.clone(),
            render::maybe(row.user.as_ref()),
            render::maybe(row.device.as_ref()),
            render::maybe(row.resource.as_ref()),
            details(row),
        ]
    })
}

/// One row as a line.
pub(super) fn one(row: &ActivityLine) -> String {
    let text = |value: &Option<String>| render::maybe(value.as_ref());
    let (user, device, resource) = (text(&row.user), text(&row.device), text(&row.resource));
    let line =
        format!("{}  {:<10}  {user:<12}  {device:<14}  {resource:<14}  {}", row.at.short(), row.kind, details(row));
    line.trim_end().to_owned()
}

fn details(row: &ActivityLine) -> String {
    let mut parts = Vec::new();
    if let Some(protocol) = &row.protocol {
        parts.push(match row.port {
            Some(port) if protocol != "icmp" => format!("{protocol}/{port}"),
            _ => protocol.clone(),
        });
    }
    parts.extend(row.filter.clone());
    if let (Some(up), Some(down)) = (row.up, row.down) {
        parts.push(format!("up {} down {}", bytes(up), bytes(down)));
    }
    if let Some(opened_at) = row.opened_at {
        let lasted = Duration::from_secs(opened_at.0.until(row.at.0).as_secs());
        parts.push(format!("for {}", humantime::format_duration(lasted).to_string().replace(' ', "")));
    }
    parts.extend(row.queried.as_ref().map(|name| format!("as {name}")));
    parts.extend(row.gateway.as_ref().map(|name| format!("through {name}")));
    parts.extend(row.reason.as_ref().map(|reason| format!("({reason})")));
    if row.times != 1 {
        parts.push(format!("{} times", row.times));
    }
    parts.join(" ")
}

/// `1.5MiB`; whole numbers without a fraction.
pub(super) fn bytes(count: u64) -> String {
    let units = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if count < 1024 {
        return format!("{count}B");
    }
    let (mut whole, mut rest, mut unit) = (count, 0, "");
    for next in units {
        if whole < 1024 {
            break;
        }
        (rest, whole, unit) = (whole % 1024, whole / 1024, next);
    }
    match rest * 10 / 1024 {
        0 => format!("{whole}{unit}"),
        tenth => format!("{whole}.{tenth}{unit}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_told_in_the_unit_that_fits() {
        for (count, text) in
            [(0, "0B"), (1023, "1023B"), (1024, "1KiB"), (1536, "1.5KiB"), (1 << 30, "1GiB"), (u64::MAX, "15.9EiB")]
        {
            assert_eq!(bytes(count), text);
        }
    }
}
