//! The words of `activity`, and those that `serve` has for it.

use std::{path::PathBuf, time::Duration};

use clap::{Args, Subcommand};
use postern_model::Timestamp;
use postern_store::activity::{ActivityKind, Retention};

use crate::{
    api::{activity, answer::Time},
    clock,
    serve::{ActivityConfig, DEFAULT_MAX_SIZE, HttpTarget, SyslogTarget},
};

/// The least room: less would not hold what comes within minutes.
const MIN_SIZE: u64 = 1 << 20;

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum ActivityWords {
    /// List rows: the last ones, or those after a row.
    List {
        #[command(flatten)]
        filter: FilterWords,
        /// How many at most.
        #[arg(long, value_name = "COUNT", default_value_t = activity::DEFAULT_LIMIT, allow_negative_numbers = true,
            value_parser = clap::value_parser!(u32).range(1..=i64::from(activity::MAX_LIMIT)))]
        limit: u32,
    },
    /// Show rows as they come, until you leave. With --json, one object per line.
    Tail {
        #[command(flatten)]
        filter: FilterWords,
    },
    /// Write all rows as JSON lines.
    Export {
        #[command(flatten)]
        filter: FilterWords,
        /// Into this file (mode 0600), which is there when it is complete; standard output unless given.
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
}

/// Which rows. Names are those of when it happened.
#[derive(Debug, Args)]
pub(in crate::cli) struct FilterWords {
    /// Only this user's.
    #[arg(long)]
    pub(super) user: Option<String>,
    /// Only of the device with this name.
    #[arg(long)]
    pub(super) device: Option<String>,
    /// Only of this resource.
    #[arg(long)]
    pub(super) resource: Option<String>,
    /// Only of this kind: allow, renew, change, end, deny, shadow, flow_open, flow_close or gap.
    #[arg(long)]
    pub(super) kind: Option<ActivityKind>,
    /// Only what happened since then: a time like 2026-05-01T12:00:00Z, or how long ago, like 1h.
    #[arg(long, value_name = "TIME|DURATION", value_parser = time)]
    pub(super) since: Option<Timestamp>,
    /// Only what happened before then.
    #[arg(long, value_name = "TIME|DURATION", value_parser = time)]
    pub(super) until: Option<Timestamp>,
    /// Only rows after the one with this id.
    #[arg(long, value_name = "ID", allow_negative_numbers = true)]
    pub(super) after: Option<u64>,
}

impl FilterWords {
    /// As a query, without the question mark.
    pub(super) fn query(&self) -> String {
        let mut query = String::new();
        let mut add = |name: &str, value: Option<String>| {
            if let Some(value) = value {
                let separator = if query.is_empty() { "" } else { "&" };
                query.push_str(&format!("{separator}{name}={}", escaped(&value)));
            }
        };
        add("user", self.user.clone());
        add("device", self.device.clone());
        add("resource", self.resource.clone());
        add("kind", self.kind.map(|kind| kind.to_string()));
        add("since", self.since.map(|time| Time(time).to_string()));
        add("until", self.until.map(|time| Time(time).to_string()));
        add("after", self.after.map(|after| after.to_string()));
        query
    }
}

fn escaped(value: &str) -> String {
    let byte = |byte: u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => char::from(byte).to_string(),
        _ => format!("%{byte:02X}"),
    };
    value.bytes().map(byte).collect()
}

pub(in crate::cli) fn time(text: &str) -> Result<Timestamp, String> {
    if let Ok(ago) = humantime::parse_duration(text) {
        let ago = i64::try_from(ago.as_millis()).unwrap_or(i64::MAX);
        return Ok(Timestamp::from_unix_millis(clock::now().unix_millis().saturating_sub(ago)));
    }
    let wrong =
        || format!("'{text}' is no time: write it like 2026-05-01T12:00:00Z, or how long ago like 30m or 2days");
    text.parse::<Time>().map(|time| time.0).map_err(|_| wrong())
}

/// What `serve` is told of access activity.
#[derive(Debug, Args)]
pub(in crate::cli) struct ActivityServeWords {
    /// How long access activity is kept.
    #[arg(long, value_name = "DURATION", default_value = "90days", value_parser = keep)]
    activity_keep: Duration,
    /// How much room it may take; the oldest goes.
    #[arg(long, value_name = "SIZE", default_value_t = Size(DEFAULT_MAX_SIZE), value_parser = size)]
    activity_max_size: Size,
    /// Append it to this file too, as JSON lines; SIGHUP opens the file anew.
    #[arg(long, value_name = "FILE")]
    activity_file: Option<PathBuf>,
    /// Send it to this syslog daemon too.
    #[arg(long, value_name = "unix:PATH|udp:HOST:PORT|tcp:HOST:PORT")]
    activity_syslog: Option<SyslogTarget>,
    /// Post it to this receiver too, as JSON lines, until it is taken.
    #[arg(long, value_name = "URL")]
    activity_http: Option<HttpTarget>,
    /// With the bearer token in this file.
    #[arg(long, value_name = "FILE", requires = "activity_http")]
    activity_http_token_file: Option<PathBuf>,
}

impl From<ActivityServeWords> for ActivityConfig {
    fn from(words: ActivityServeWords) -> Self {
        Self {
            retention: Retention { keep: words.activity_keep, max_size: words.activity_max_size.0 },
            file: words.activity_file,
            syslog: words.activity_syslog,
            http: words.activity_http,
            http_token_file: words.activity_http_token_file,
        }
    }
}

fn keep(text: &str) -> Result<Duration, String> {
    let keep = humantime::parse_duration(text).ok().filter(|keep| *keep >= Duration::from_secs(60));
    keep.ok_or_else(|| format!("activity can't be kept for '{text}': write it like 90days, and no less than 1m"))
}

/// So many bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Size(u64);

impl std::fmt::Display for Size {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&super::render::bytes(self.0))
    }
}

fn size(text: &str) -> Result<Size, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let factor = match unit.trim() {
        "" | "B" => Some(1),
        "KiB" => Some(1 << 10),
        "MiB" => Some(1 << 20),
        "GiB" => Some(1 << 30),
        "TiB" => Some(1_u64 << 40),
        _ => None,
    };
    let size = number.parse::<u64>().ok().and_then(|number| number.checked_mul(factor?));
    size.filter(|size| *size >= MIN_SIZE)
        .map(Size)
        .ok_or_else(|| format!("'{text}' is no room for activity: write it like 512MiB or 1GiB, and no less than 1MiB"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_they_are_written() {
        for (text, expected) in [("1GiB", 1 << 30), ("1048576", 1 << 20), ("300 MiB", 300 << 20), ("2TiB", 2 << 40)] {
            assert_eq!(size(text), Ok(Size(expected)), "{text}");
        }
        for wrong in ["", "GiB", "1GB", "-1GiB", "1.5GiB", "1023KiB", "99999999999TiB"] {
            assert!(size(wrong).unwrap_err().contains("1GiB"), "{wrong}");
        }
        assert_eq!(Size(DEFAULT_MAX_SIZE).to_string(), "1GiB");
    }

    #[test]
    fn times_are_points_or_how_long_ago() {
        assert_eq!(time("2026-05-01T14:00:00.123+02:00"), Ok(Timestamp::from_unix_millis(1_777_636_800_123)));
        let (before, hour) = (clock::now().unix_millis(), 3_600_000);
        let ago = time("1h").unwrap().unix_millis();
        assert!((before - hour..=clock::now().unix_millis() - hour).contains(&ago));
        for wrong in ["", "yesterday", "2026-05-01", "-1h"] {
            assert!(time(wrong).unwrap_err().contains("how long ago"), "{wrong}");
        }
    }
}
