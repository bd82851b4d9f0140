//! What answers are made of: times that people can read, and the things touched.

use std::{fmt, str::FromStr};

use axum::{
    Json,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use postern_core::Touched;
use postern_model::Timestamp;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

/// A wall-clock time in JSON: RFC 3339, UTC, down to the millisecond.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Time(pub(crate) Timestamp);

impl Time {
    fn date(self) -> OffsetDateTime {
        let nanos = i128::from(self.0.unix_millis()) * 1_000_000;
        // Further away than the year 9999 is as good as never.
        OffsetDateTime::from_unix_timestamp_nanos(nanos).unwrap_or_else(|_| time::PrimitiveDateTime::MAX.assume_utc())
    }

    /// To the second, for tables: `2026-05-01 12:00:00Z`.
    pub(crate) fn short(self) -> String {
        let date = self.date();
        let (hour, minute, second) = date.to_hms();
        format!("{} {hour:02}:{minute:02}:{second:02}Z", date.date())
    }
}

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let date = self.date();
        let (hour, minute, second, milli) = date.to_hms_milli();
        write!(f, "{}T{hour:02}:{minute:02}:{second:02}.{milli:03}Z", date.date())
    }
}

impl Serialize for Time {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl FromStr for Time {
    type Err = time::error::Parse;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let nanos = OffsetDateTime::parse(text, &Rfc3339)?.unix_timestamp_nanos();
        // RFC 3339 ends with the year 9999.
        Ok(Self(Timestamp::from_unix_millis(i64::try_from(nanos.div_euclid(1_000_000)).unwrap_or(i64::MAX))))
    }
}

impl<'de> Deserialize<'de> for Time {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

/// A thing that is no more.
#[derive(Debug, Serialize)]
pub(crate) struct Removed {
    id: String,
    removed: bool,
}

/// What a change answers with.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub(crate) enum Answer<R> {
    /// The thing touched, as it is now.
    Row(R),
    /// It is gone.
    Removed(Removed),
}

impl<R> Answer<R> {
    /// This thing is gone.
    pub(crate) fn removed(touched: Touched) -> Self {
        Self::Removed(Removed { id: id_of(touched), removed: true })
    }

    /// It was made just now.
    pub(crate) fn created(self) -> (StatusCode, Self) {
        (StatusCode::CREATED, self)
    }
}

impl<R: Serialize> IntoResponse for Answer<R> {
    fn into_response(self) -> Response {
        Json(self).into_response()
    }
}

fn id_of(touched: Touched) -> String {
    match touched {
        Touched::User(id) => id.to_string(),
        Touched::Group(id) => id.to_string(),
        Touched::Site(id) => id.to_string(),
        Touched::Resource(id) => id.to_string(),
        Touched::Policy(id) => id.to_string(),
        Touched::Policies(ids) => ids.iter().map(ToString::to_string).collect::<Vec<_>>().join(","),
        Touched::Declared(_) => String::new(),
        Touched::Token(id) => id.to_string(),
        Touched::Device(id) => id.to_string(),
        Touched::ApiKey(id) => id.to_string(),
        Touched::Relay(id) => id.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_read_back() {
        let time = Time(Timestamp::from_unix_millis(1_777_636_800_123));
        let json = serde_json::to_string(&time).unwrap();
        assert_eq!(json, "\"2026-05-01T12:00:00.123Z\"");
        assert_eq!(serde_json::from_str::<Time>(&json).unwrap(), time);
        assert_eq!(time.short(), "2026-05-01 12:00:00Z");
        assert_eq!(Time(Timestamp::from_unix_millis(0)).to_string(), "1970-01-01T00:00:00.000Z");
    }

    #[test]
    fn no_time_fails() {
        for millis in [i64::MIN, -1, 0, i64::MAX] {
            let time = Time(Timestamp::from_unix_millis(millis));
            assert!(!time.to_string().is_empty() && !time.short().is_empty());
        }
    }
}
