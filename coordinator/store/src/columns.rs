//! Between the model's types and columns: whatever has a text form is kept as that text.

use std::{error::Error, fmt::Display, str::FromStr};

use postern_model::{
    DeviceId, Filter, GroupId, OverlayAddr, ResourceId, Scope, SiteId, TagName, Timestamp, UserId,
    record::{Owner, Principal},
};
use rusqlite::{
    Row,
    types::{FromSql, FromSqlError, FromSqlResult, ToSql, ToSqlOutput, ValueRef},
};
use serde::{Serialize, de::DeserializeOwned};

/// A value in a TEXT column, through `Display` and `FromStr`.
pub(crate) struct Text<T>(pub(crate) T);

impl<T: Display> ToSql for Text<T> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(self.0.to_string().into())
    }
}

impl<T: FromStr<Err: Error + Send + Sync + 'static>> FromSql for Text<T> {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        value.as_str()?.parse().map(Self).map_err(|error| FromSqlError::Other(Box::new(error)))
    }
}

/// Reads the columns of one row by name.
pub(crate) trait Columns {
    fn text<T: FromStr<Err: Error + Send + Sync + 'static>>(&self, column: &str) -> rusqlite::Result<T>;
    fn json<T: DeserializeOwned>(&self, column: &str) -> rusqlite::Result<T>;
    fn maybe_json<T: DeserializeOwned>(&self, column: &str) -> rusqlite::Result<Option<T>>;
    fn time(&self, column: &str) -> rusqlite::Result<Timestamp>;
    fn filter(&self) -> rusqlite::Result<Filter>;
    fn addr(&self) -> rusqlite::Result<OverlayAddr>;
    fn owner(&self) -> rusqlite::Result<Owner>;
    fn principal(&self) -> rusqlite::Result<Principal>;
    fn scope(&self) -> rusqlite::Result<Scope>;
    fn maybe_text<T: FromStr<Err: Error + Send + Sync + 'static>>(&self, column: &str) -> rusqlite::Result<Option<T>>;
}

impl Columns for Row<'_> {
    fn text<T: FromStr<Err: Error + Send + Sync + 'static>>(&self, column: &str) -> rusqlite::Result<T> {
        self.get::<_, Text<T>>(column).map(|text| text.0)
    }

    fn json<T: DeserializeOwned>(&self, column: &str) -> rusqlite::Result<T> {
        self.get::<_, String>(column).and_then(|text| from_json(&text))
    }

    fn maybe_json<T: DeserializeOwned>(&self, column: &str) -> rusqlite::Result<Option<T>> {
        self.get::<_, Option<String>>(column)?.map(|text| from_json(&text)).transpose()
    }

    fn time(&self, column: &str) -> rusqlite::Result<Timestamp> {
        self.get(column).map(Timestamp::from_unix_millis)
    }

    fn filter(&self) -> rusqlite::Result<Filter> {
        Ok(Filter { tcp: self.text("tcp")?, udp: self.text("udp")?, icmp: self.get("icmp")? })
    }

    fn addr(&self) -> rusqlite::Result<OverlayAddr> {
        Ok(OverlayAddr { v4: self.text("v4")?, v6: self.text("v6")? })
    }

    fn owner(&self) -> rusqlite::Result<Owner> {
        // The table's CHECK sees to it that exactly one is there.
        match self.maybe_text("user_id")? {
            Some(user) => Ok(Owner::User(user)),
            None => Ok(Owner::Site(self.text("site_id")?)),
        }
    }

    fn principal(&self) -> rusqlite::Result<Principal> {
        if let Some(user) = self.maybe_text("user_id")? {
            return Ok(Principal::User(user));
        }
        if let Some(group) = self.maybe_text("group_id")? {
            return Ok(Principal::Group(group));
        }
        Ok(self.maybe_text("device_id")?.map_or(Principal::Everyone, Principal::Device))
    }

    fn scope(&self) -> rusqlite::Result<Scope> {
        if let Some(resource) = self.maybe_text("resource_id")? {
            return Ok(Scope::Resource(resource));
        }
        Ok(self.maybe_text("tag")?.map_or(Scope::Everything, Scope::Tag))
    }

    fn maybe_text<T: FromStr<Err: Error + Send + Sync + 'static>>(&self, column: &str) -> rusqlite::Result<Option<T>> {
        self.get::<_, Option<Text<T>>>(column).map(|text| text.map(|text| text.0))
    }
}

/// A value in a TEXT column, as JSON.
pub(crate) fn to_json(value: &impl Serialize) -> rusqlite::Result<String> {
    serde_json::to_string(value).map_err(|error| rusqlite::Error::ToSqlConversionFailure(Box::new(error)))
}

fn from_json<T: DeserializeOwned>(text: &str) -> rusqlite::Result<T> {
    serde_json::from_str(text).map_err(|error| unreadable(Box::new(error)))
}

pub(crate) fn unreadable(why: Box<dyn Error + Send + Sync>) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(0, rusqlite::types::Type::Text, why)
}

/// The two columns of an owner, of which one is NULL.
pub(crate) fn owner_columns(owner: Owner) -> (Option<Text<UserId>>, Option<Text<SiteId>>) {
    match owner {
        Owner::User(id) => (Some(Text(id)), None),
        Owner::Site(id) => (None, Some(Text(id))),
    }
}

/// User, group, device.
pub(crate) type PrincipalColumns = (Option<Text<UserId>>, Option<Text<GroupId>>, Option<Text<DeviceId>>);

/// The three columns of a principal, of which at most one is not NULL.
pub(crate) fn principal_columns(principal: Principal) -> PrincipalColumns {
    match principal {
        Principal::User(id) => (Some(Text(id)), None, None),
        Principal::Group(id) => (None, Some(Text(id)), None),
        Principal::Device(id) => (None, None, Some(Text(id))),
        Principal::Everyone => (None, None, None),
    }
}

/// The two columns of a scope, of which at most one is not NULL.
pub(crate) fn scope_columns(scope: &Scope) -> (Option<Text<ResourceId>>, Option<Text<&TagName>>) {
    match scope {
        Scope::Resource(id) => (Some(Text(*id)), None),
        Scope::Tag(tag) => (None, Some(Text(tag))),
        Scope::Everything => (None, None),
    }
}
