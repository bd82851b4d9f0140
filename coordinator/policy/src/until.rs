//! Until when a policy applies, as people write it.

use postern_model::Timestamp;
use time::{Date, OffsetDateTime, format_description::well_known::Rfc3339, macros::format_description};

/// A text that is no end.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not a time: write a day like 2026-12-31 (up to its end, UTC), or a time like 2026-12-31T18:00:00Z")]
pub struct UntilError(String);

/// Reads a day, which is meant up to its end (UTC), or a time (RFC 3339).
///
/// # Errors
/// When it is neither.
pub fn parse(text: &str) -> Result<Timestamp, UntilError> {
    let error = || UntilError(text.to_owned());
    let end_of_day = || {
        let day = Date::parse(text, format_description!("[year]-[month]-[day]")).ok()?;
        Some(day.next_day()?.midnight().assume_utc())
    };
    let at = OffsetDateTime::parse(text, &Rfc3339).ok().or_else(end_of_day).ok_or_else(error)?;
    let millis = i64::try_from(at.unix_timestamp_nanos() / 1_000_000).map_err(|_| error())?;
    Ok(Timestamp::from_unix_millis(millis))
}

/// As [`parse`] reads it: the day where it is the end of one, else the time.
pub fn display(until: Timestamp) -> String {
    let nanos = i128::from(until.unix_millis()) * 1_000_000;
    let Ok(at) = OffsetDateTime::from_unix_timestamp_nanos(nanos) else { return until.unix_millis().to_string() };
    if at.time() == time::Time::MIDNIGHT
        && let Some(day) = at.date().previous_day()
    {
        return day.to_string();
    }
    at.format(&Rfc3339).unwrap_or_else(|_| until.unix_millis().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_and_times_read_back() {
        let day = parse("2026-12-31").unwrap();
        assert_eq!(day, parse("2027-01-01T00:00:00Z").unwrap());
        assert_eq!(display(day), "2026-12-31");
        assert_eq!(display(parse("2026-12-31T19:00:00+01:00").unwrap()), "2026-12-31T18:00:00Z");
        for bad in ["", "tomorrow", "2026-13-01", "31.12.2026", "2026-12-31 18:00"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
