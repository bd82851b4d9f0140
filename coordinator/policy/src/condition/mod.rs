//! Conditions in the short form: what admins write after `--when`, read into tests and written as Cedar.
//!
//! ```text
//! posture.disk_encrypted && time.hour in 8..18
//! source.ip in "10.0.0.0/8" || auth.age_hours < 12
//! package("openssl") >= "3.0.11" && !process("telnetd")
//! ```
//!
//! A test whose attribute is not known is not met, and neither is its opposite: negations are moved down to the tests, and
//! each first asks whether it can be answered at all.
//!
//! - `attributes`: what may be asked; [`version`]: how versions compare
//! - `scan`, `parse`: text to [`Expr`]; `cedar`: [`Expr`] to Cedar

mod attributes;
mod cedar;
mod parse;
mod scan;
#[cfg(test)]
mod tests;
pub(crate) mod version;

use postern_model::Check;

pub(crate) use attributes::Attribute;
use attributes::Kind;
pub(crate) use cedar::{canonical, expression, test};
pub(crate) use parse::parse;

/// Why a condition was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the condition can't be understood at column {column}: {what}")]
pub struct ConditionError {
    /// Counted in characters from 1.
    pub column: usize,
    /// What is wrong, and what would be right.
    pub what: String,
}

/// A condition without negations.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Expr {
    All(Vec<Expr>),
    Any(Vec<Expr>),
    Test(Test),
}

impl Expr {
    /// All its tests, in the order in which they were written.
    pub(crate) fn tests(&self) -> Vec<&Test> {
        match self {
            Self::All(parts) | Self::Any(parts) => parts.iter().flat_map(Self::tests).collect(),
            Self::Test(test) => vec![test],
        }
    }
}

/// One question about the circumstances.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Test {
    /// As it was written.
    pub(crate) text: String,
    /// Whether the opposite is asked.
    pub(crate) negated: bool,
    pub(crate) what: What,
}

/// What a test asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum What {
    Flag(&'static Attribute),
    Number(&'static Attribute, Comparison, i64),
    /// From the first up to the second, without it; around the end where the first is larger.
    Range(&'static Attribute, i64, i64),
    OneOf(&'static Attribute, Vec<i64>),
    Text(&'static Attribute, Vec<String>),
    Like(&'static Attribute, String),
    Network(&'static Attribute, Vec<String>),
    Atom(Atom),
}

impl What {
    /// The attribute that it asks about, or the atom that it is.
    pub(crate) fn attribute(&self) -> Result<&'static Attribute, &Atom> {
        match self {
            Self::Flag(attribute)
            | Self::Number(attribute, ..)
            | Self::Range(attribute, ..)
            | Self::OneOf(attribute, _)
            | Self::Text(attribute, _)
            | Self::Like(attribute, _)
            | Self::Network(attribute, _) => Ok(attribute),
            Self::Atom(atom) => Err(atom),
        }
    }
}

/// How two values compare.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Comparison {
    Equal,
    NotEqual,
    Less,
    AtMost,
    More,
    AtLeast,
}

impl Comparison {
    pub(crate) fn symbol(self) -> &'static str {
        match self {
            Self::Equal => "==",
            Self::NotEqual => "!=",
            Self::Less => "<",
            Self::AtMost => "<=",
            Self::More => ">",
            Self::AtLeast => ">=",
        }
    }

    pub(crate) fn holds(self, order: std::cmp::Ordering) -> bool {
        match self {
            Self::Equal => order.is_eq(),
            Self::NotEqual => order.is_ne(),
            Self::Less => order.is_lt(),
            Self::AtMost => order.is_le(),
            Self::More => order.is_gt(),
            Self::AtLeast => order.is_ge(),
        }
    }
}

/// What Cedar can't ask itself: it is answered beforehand, and Cedar finds its text among what has passed or failed.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Atom {
    /// Whether it is there.
    Check(Check),
    /// How a version compares.
    Version(Versioned, Comparison, String),
}

/// What has a version.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Versioned {
    Kernel,
    Postern,
    Package(String),
}

impl Atom {
    /// What the device has to look at for it, if that is a check.
    pub(crate) fn check(&self) -> Option<Check> {
        match self {
            Self::Check(check) => Some(check.clone()),
            Self::Version(Versioned::Package(name), ..) => Some(Check::Package(name.clone())),
            Self::Version(..) => None,
        }
    }
}

impl std::fmt::Display for Atom {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Check(check) => check.fmt(f),
            Self::Version(what, comparison, version) => {
                match what {
                    Versioned::Kernel => f.write_str("kernel")?,
                    Versioned::Postern => f.write_str("version")?,
                    Versioned::Package(name) => write!(f, "package:{name}")?,
                }
                write!(f, "{}{version}", comparison.symbol())
            }
        }
    }
}

impl std::str::FromStr for Atom {
    type Err = ();
    /// Reads what [`Display`](std::fmt::Display) writes: how an expert's Cedar names atoms.
    fn from_str(text: &str) -> Result<Self, ()> {
        // In a path, signs of comparison are characters like others.
        if text.starts_with("file:") {
            return text.parse().map(Self::Check).map_err(|_| ());
        }
        let comparisons = [
            Comparison::AtMost,
            Comparison::AtLeast,
            Comparison::Equal,
            Comparison::NotEqual,
            Comparison::Less,
            Comparison::More,
        ];
        let found =
            comparisons.into_iter().filter_map(|comparison| Some((text.find(comparison.symbol())?, comparison)));
        let first = found.min_by_key(|(at, comparison)| (*at, std::cmp::Reverse(comparison.symbol().len())));
        let Some((at, comparison)) = first else { return text.parse().map(Self::Check).map_err(|_| ()) };
        let version = &text[at + comparison.symbol().len()..];
        if version.is_empty() {
            return Err(());
        }
        let what = match &text[..at] {
            "kernel" => Versioned::Kernel,
            "version" => Versioned::Postern,
            other => match other.parse() {
                Ok(Check::Package(name)) => Versioned::Package(name),
                _ => return Err(()),
            },
        };
        Ok(Self::Version(what, comparison, version.to_owned()))
    }
}
