//! The vocabulary of Postern: ids, names, keys, addresses, resources, filters, grants and records.
//!
//! Everything here is a plain value that was validated when it was made ("parse, don't validate"):
//! a [`ResourceName`] is always a DNS label, a [`Filter`] never means "any" by being empty.
//! No tokio, no I/O, no clock, no randomness; every other crate imports this one, it imports none.
//!
//! - [`id`], [`name`], [`key`], [`addr`], [`time`], [`revision`]: typed primitives
//! - [`ports`], [`filter`], [`resource`], [`subject`], [`candidate`]: what access is about
//! - [`grant`], [`decision`]: what an access request ends in
//! - [`token`]: the join token that an admin hands out, and the API key
//! - [`record`], [`change`], [`audit`]: the coordinator's durable state and how it moves; [`activity`]: the flows of gateways
//! - [`policy`]: what policies are made of; [`posture`], [`check`]: what a device says of itself

pub mod activity;
pub mod addr;
pub mod audit;
pub mod candidate;
pub mod change;
pub mod check;
pub mod decision;
pub mod filter;
pub mod grant;
pub mod id;
pub mod key;
pub mod name;
pub mod policy;
pub mod ports;
pub mod posture;
pub mod record;
pub mod resource;
pub mod revision;
pub mod subject;
pub mod time;
pub mod token;
pub mod usage;

mod text;

pub use addr::{NetworkRanges, OverlayAddr};
pub use candidate::Candidate;
pub use check::{Check, Found};
pub use decision::{Decision, DenyReason};
pub use filter::{Filter, Protocol};
pub use id::{ApiKeyId, DeviceId, GrantId, GroupId, PolicyId, RelayId, ResourceId, SiteId, TokenId, UserId};
pub use key::{PresharedKey, PublicKey, SecretBytes, Sha256, TrustKey};
pub use name::{ApiKeyName, Fqdn, GroupName, NameError, RelayName, ResourceName, SiteName, TagName, UserName};
pub use policy::{Condition, Effect, Scope, ScopeName};
pub use ports::{PortRange, PortSet};
pub use posture::Posture;
pub use resource::Target;
pub use revision::Revision;
pub use subject::Subject;
pub use time::{Moment, Timestamp};
pub use token::{ApiKey, JoinToken};
