//! What conditions may ask about.

/// One attribute.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Attribute {
    /// As it is written: `posture.disk_encrypted`.
    pub(crate) name: &'static str,
    /// The record of Cedar's context that holds it, and its name there.
    pub(crate) record: &'static str,
    pub(crate) field: &'static str,
    pub(crate) kind: Kind,
    /// Whether it is always known.
    pub(crate) is_given: bool,
    /// What it is, for whoever asks what may be asked.
    pub(crate) about: &'static str,
}

/// What an attribute's values are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Flag,
    /// Whole numbers from the first to the last; ranges may go around the end where it is a cycle.
    Number {
        first: i64,
        last: i64,
        is_cycle: bool,
    },
    Weekday,
    Text,
    Version,
    Address,
}

const COUNT: Kind = Kind::Number { first: 0, last: 1_000_000, is_cycle: false };

macro_rules! attribute {
    ($record:literal . $field:literal, $kind:expr, $given:literal, $about:literal) => {
        Attribute {
            name: concat!($record, ".", $field),
            record: $record,
            field: $field,
            kind: $kind,
            is_given: $given,
            about: $about,
        }
    };
}

/// All of them.
pub(crate) static ATTRIBUTES: &[Attribute] = &[
    attribute!("posture"."disk_encrypted", Kind::Flag, false, "whether the root file system is encrypted"),
    attribute!("posture"."firewall", Kind::Flag, false, "whether a firewall keeps out what nobody asked for"),
    attribute!("posture"."screen_lock", Kind::Flag, false, "whether the screen locks by itself"),
    attribute!("posture"."update_age_days", COUNT, false, "days since the last security updates"),
    attribute!("posture"."os", Kind::Text, false, "the operating system, like 'Debian GNU/Linux 12 (bookworm)'"),
    attribute!("posture"."kernel", Kind::Version, false, "the kernel's version"),
    attribute!("posture"."version", Kind::Version, false, "the version of Postern on the device"),
    attribute!("time"."hour", Kind::Number { first: 0, last: 23, is_cycle: true }, true, "the hour, UTC"),
    attribute!("time"."minute", Kind::Number { first: 0, last: 59, is_cycle: true }, true, "the minute of the hour"),
    attribute!("time"."weekday", Kind::Weekday, true, "mon to sun, UTC"),
    attribute!("source"."ip", Kind::Address, false, "from where the device reaches the coordinator"),
    attribute!("auth"."age_hours", COUNT, true, "hours since the user last proved who they are"),
    attribute!("auth"."strength", Kind::Number { first: 0, last: 9, is_cycle: false }, true, "how well: 1 for a join token"),
];

pub(crate) const WEEKDAYS: [&str; 7] = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];

pub(crate) fn named(name: &str) -> Option<&'static Attribute> {
    ATTRIBUTES.iter().find(|attribute| attribute.name == name)
}
