//! Names that people type, validated once.

use std::{fmt, str::FromStr};

use crate::text::serde_as_text;

/// Why a name was refused, and what would be right.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{given}' is not a valid {what}: {rule}")]
pub struct NameError {
    what: &'static str,
    given: String,
    rule: &'static str,
}

const LABEL_RULE: &str =
    "use 1 to 63 lower-case letters, digits and '-', beginning and ending with a letter or digit (like 'orders-db')";
const USER_RULE: &str = "use 1 to 128 lower-case letters, digits and '.', '_', '-', '+', '@', beginning with a letter or digit (like 'alice' or 'alice@example.com')";
const FQDN_RULE: &str =
    "use a DNS name of at most 253 characters whose labels hold letters, digits and '-' (like 'wiki.example.com')";

fn is_label(text: &str) -> bool {
    let bytes = text.as_bytes();
    (1..=63).contains(&bytes.len())
        && bytes.iter().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'-')
        && bytes.first() != Some(&b'-')
        && bytes.last() != Some(&b'-')
}

fn is_user(text: &str) -> bool {
    let bytes = text.as_bytes();
    (1..=128).contains(&bytes.len())
        && bytes.iter().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"._-+@".contains(b))
        && bytes[0].is_ascii_alphanumeric()
}

fn is_fqdn(text: &str) -> bool {
    let is_host_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    // A name that is all digits and dots would be taken for an address by resolvers.
    let is_numeric = text.rsplit('.').next().is_some_and(|last| last.bytes().all(|b| b.is_ascii_digit()));
    (1..=253).contains(&text.len()) && !is_numeric && text.split('.').all(is_host_label)
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $what:literal, $check:ident, $rule:ident, $normal:expr) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(Box<str>);

        impl $name {
            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl FromStr for $name {
            type Err = NameError;
            fn from_str(text: &str) -> Result<Self, NameError> {
                let normal: fn(&str) -> String = $normal;
                let name = normal(text);
                if $check(&name) {
                    Ok(Self(name.into()))
                } else {
                    Err(NameError { what: $what, given: text.to_owned(), rule: $rule })
                }
            }
        }

        serde_as_text!($name);
    };
}

name!(
    /// A user's name: a login or an e-mail address, in lower case.
    UserName, "user name", is_user, USER_RULE, str::to_owned
);
name!(
    /// A group's name: a DNS label.
    GroupName, "group name", is_label, LABEL_RULE, str::to_owned
);
name!(
    /// A site's name: a DNS label.
    SiteName, "site name", is_label, LABEL_RULE, str::to_owned
);
name!(
    /// A relay's name: a DNS label.
    RelayName, "relay name", is_label, LABEL_RULE, str::to_owned
);
name!(
    /// A resource's name: a DNS label, so that `<name>.<zone>` is its address.
    ResourceName, "resource name", is_label, LABEL_RULE, str::to_owned
);
name!(
    /// A tag's name: a DNS label. Resources with the same tag are a group.
    TagName, "tag", is_label, LABEL_RULE, str::to_owned
);
name!(
    /// An API key's name: what it is for.
    ApiKeyName, "API key name", is_label, LABEL_RULE, str::to_owned
);
name!(
    /// A DNS name, kept in lower case and without the final dot: an alias, the zone or a target host.
    Fqdn, "DNS name", is_fqdn, FQDN_RULE,
    |text| text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase()
);

impl Fqdn {
    /// Whether it lies below another name, so that it is neither a top-level domain nor a single label.
    pub fn has_parent(&self) -> bool {
        self.0.contains('.')
    }

    /// Whether this name is `zone` itself or lies below it.
    pub fn is_within(&self, zone: &Self) -> bool {
        self.0.strip_suffix(zone.as_str()).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
    }
}

impl ResourceName {
    /// The name under which the resource answers in `zone`.
    pub fn in_zone(&self, zone: &Fqdn) -> Fqdn {
        Fqdn(format!("{}.{zone}", self.0).into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_dns_labels() {
        assert!("orders-db".parse::<ResourceName>().is_ok());
        for bad in ["", "Wiki", "-a", "a-", "a.b", "a b", &"x".repeat(64)] {
            assert!(bad.parse::<ResourceName>().is_err(), "{bad}");
        }
    }

    #[test]
    fn the_error_says_what_would_be_right() {
        let error = "Wiki!".parse::<ResourceName>().unwrap_err().to_string();
        assert!(error.contains("'Wiki!'") && error.contains("lower-case") && error.contains("orders-db"), "{error}");
    }

    #[test]
    fn dns_names_are_normalised_and_addresses_are_not_names() {
        assert_eq!("Wiki.Example.COM.".parse::<Fqdn>().unwrap().as_str(), "wiki.example.com");
        assert!("10.0.0.5".parse::<Fqdn>().is_err());
        assert!("a..b".parse::<Fqdn>().is_err());
    }

    #[test]
    fn a_zone_holds_its_names_and_no_lookalikes() {
        let zone: Fqdn = "postern.internal".parse().unwrap();
        assert!("wiki.postern.internal".parse::<Fqdn>().unwrap().is_within(&zone));
        assert!(zone.is_within(&zone));
        assert!(!"evilpostern.internal".parse::<Fqdn>().unwrap().is_within(&zone));
    }
}
