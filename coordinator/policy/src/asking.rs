//! [`Asking`]: the circumstances of one device and one resource, as Cedar is asked about them.

use std::{
    collections::HashSet,
    str::FromStr as _,
    sync::{Arc, OnceLock},
};

use cedar_policy::{
    Authorizer, Context, Decision, Entities, Entity, EntityId, EntityTypeName, EntityUid, Request, RestrictedExpression,
};
use postern_model::{
    Check, Found, GroupId, Posture, Timestamp, UserId,
    record::{Device, Resource},
};

use crate::{
    Circumstances,
    compiled::{Compiled, CompiledPolicy, When},
    condition::{Atom, Versioned, version},
};

/// Milliseconds.
pub(crate) const MINUTE: i64 = 60_000;
pub(crate) const HOUR: i64 = 60 * MINUTE;
pub(crate) const DAY: i64 = 24 * HOUR;

/// How well a device has proved whose it is: with a join token, once.
const JOIN_TOKEN: i64 = 1;

/// Why a condition has no answer: a sentence.
pub(crate) type Fault = String;

/// One device asks for one resource, under these circumstances.
pub(crate) struct Asking<'a> {
    pub(crate) device: &'a Device,
    pub(crate) user: Option<UserId>,
    pub(crate) groups: &'a [GroupId],
    pub(crate) resource: &'a Resource,
    pub(crate) circumstances: Circumstances,
    /// The policies that may be asked.
    slice: &'a [Arc<CompiledPolicy>],
    base: OnceLock<Vec<(&'static str, RestrictedExpression)>>,
    shared: OnceLock<Result<Request, Fault>>,
    entities: OnceLock<Result<Entities, Fault>>,
}

impl<'a> Asking<'a> {
    pub(crate) fn new(
        device: &'a Device,
        (user, groups): (Option<UserId>, &'a [GroupId]),
        resource: &'a Resource,
        circumstances: Circumstances,
        slice: &'a [Arc<CompiledPolicy>],
    ) -> Self {
        let (base, shared, entities) = (OnceLock::new(), OnceLock::new(), OnceLock::new());
        Self { device, user, groups, resource, circumstances, slice, base, shared, entities }
    }

    /// The same at another time.
    pub(crate) fn at(&self, now: Timestamp) -> Self {
        let circumstances = self.circumstances.at(now);
        Self::new(self.device, (self.user, self.groups), self.resource, circumstances, self.slice)
    }

    /// The posture, if it counts now.
    pub(crate) fn posture(&self) -> Option<&'a Posture> {
        let until = self.circumstances.posture_until?;
        (self.circumstances.now < until).then_some(&self.device.posture)
    }

    /// Whether the condition of a policy of the slice is met.
    ///
    /// # Errors
    /// When it can't be told.
    pub(crate) fn meets(&self, policy: &CompiledPolicy) -> Result<bool, Fault> {
        match policy.condition() {
            Compiled::Always => Ok(true),
            Compiled::Broken(fault) => Err(fault.clone()),
            Compiled::When(when) => self.answer(when),
        }
    }

    fn answer(&self, when: &When) -> Result<bool, Fault> {
        let own;
        // The short form asks for single atoms, which are answered the same whatever others are.
        let request = if when.expr.is_some() {
            self.shared.get_or_init(|| self.request(&self.shared_atoms())).as_ref().map_err(Clone::clone)?
        } else {
            own = self.request(&when.atoms)?;
            &own
        };
        let empty;
        let entities = if when.needs.entities {
            self.entities.get_or_init(|| self.make_entities()).as_ref().map_err(Clone::clone)?
        } else {
            empty = Entities::empty();
            &empty
        };
        let response = authorizer().is_authorized(request, &when.set, entities);
        match response.diagnostics().errors().next() {
            Some(error) => Err(error.to_string()),
            None => Ok(response.decision() == Decision::Allow),
        }
    }

    /// What the policies in the short form ask for.
    fn shared_atoms(&self) -> Vec<Atom> {
        let mut atoms = Vec::new();
        for policy in self.slice {
            let Compiled::When(when) = policy.condition() else { continue };
            if when.expr.is_some() {
                atoms.extend(when.atoms.iter().cloned());
            }
        }
        atoms
    }

    /// The request; `atoms` are answered in its context.
    pub(crate) fn request(&self, atoms: &[Atom]) -> Result<Request, Fault> {
        let base = self.base.get_or_init(|| self.make_base());
        let pairs = base.iter().map(|(name, value)| ((*name).to_owned(), value.clone()));
        let context = Context::from_pairs(pairs.chain([("checks".to_owned(), self.checks(atoms)?)]));
        let context = context.map_err(|error| error.to_string())?;
        let (principal, resource) = (uid(Type::Device, &self.device.id), uid(Type::Resource, &self.resource.id));
        Request::new(principal, connect().clone(), resource, context, None).map_err(|error| error.to_string())
    }

    fn make_base(&self) -> Vec<(&'static str, RestrictedExpression)> {
        let millis = self.circumstances.now.unix_millis();
        let time = [
            ("hour", number(millis.rem_euclid(DAY) / HOUR)),
            ("minute", number(millis.rem_euclid(HOUR) / MINUTE)),
            // 1 January 1970 was a Thursday.
            ("weekday", number((millis.div_euclid(DAY) + 3).rem_euclid(7) + 1)),
        ];
        // Cedar does not read IPv4 addresses in IPv6 clothes.
        let source = self.circumstances.source.map(|ip| ip.to_canonical().to_string());
        let source = source.map(|ip| ("ip", RestrictedExpression::new_ip(ip)));
        let auth = [("age_hours", number(self.auth_age_hours())), ("strength", number(JOIN_TOKEN))];
        vec![
            ("posture", record(self.posture().into_iter().flat_map(posture_fields))),
            ("time", record(time)),
            ("source", record(source)),
            ("auth", record(auth)),
        ]
    }

    fn auth_age_hours(&self) -> i64 {
        let since = self.circumstances.now.unix_millis().saturating_sub(self.device.enrolled_at.unix_millis());
        since.max(0) / HOUR
    }

    /// When the age of the authentication will next be another number of hours.
    pub(crate) fn next_auth_hour(&self, after: Timestamp) -> Timestamp {
        let enrolled = self.device.enrolled_at.unix_millis();
        let since = after.unix_millis().saturating_sub(enrolled).max(0);
        Timestamp::from_unix_millis(enrolled.saturating_add((since / HOUR + 1) * HOUR))
    }

    fn checks(&self, atoms: &[Atom]) -> Result<RestrictedExpression, Fault> {
        let (mut passed, mut failed) = (Vec::new(), Vec::new());
        for atom in atoms {
            match self.check(atom) {
                Some(true) => passed.push(RestrictedExpression::new_string(atom.to_string())),
                Some(false) => failed.push(RestrictedExpression::new_string(atom.to_string())),
                None => {}
            }
        }
        let sets = [("passed", passed), ("failed", failed)];
        let sets = sets.map(|(name, values)| (name.to_owned(), RestrictedExpression::new_set(values)));
        RestrictedExpression::new_record(sets).map_err(|error| error.to_string())
    }

    /// `None` when it is not known.
    pub(crate) fn check(&self, atom: &Atom) -> Option<bool> {
        let posture = self.posture()?;
        match atom {
            Atom::Check(check) => match posture.checks.get(check)? {
                Found::Absent => Some(false),
                Found::Present | Found::Version(_) => Some(true),
                Found::Unknown => None,
            },
            Atom::Version(what, comparison, asked) => {
                let found = match what {
                    Versioned::Kernel => known(&posture.kernel)?,
                    Versioned::Postern => known(&posture.version)?,
                    Versioned::Package(name) => match posture.checks.get(&Check::Package(name.clone()))? {
                        Found::Version(found) => found,
                        // Whatever is asked of its version: a package that is not there has none.
                        Found::Absent => return Some(false),
                        Found::Present | Found::Unknown => return None,
                    },
                };
                Some(comparison.holds(version::compare(found, asked)))
            }
        }
    }

    fn make_entities(&self) -> Result<Entities, Fault> {
        let entity = |uid, parents: HashSet<_>| Entity::new_no_attrs(uid, parents);
        let group_uids: HashSet<_> = self.groups.iter().map(|group| uid(Type::Group, group)).collect();
        let user = self.user.map(|user| uid(Type::User, &user));
        let tags: HashSet<_> = self.resource.tags.iter().map(|tag| uid(Type::Tag, tag)).collect();
        let mut entities = vec![
            entity(uid(Type::Device, &self.device.id), user.iter().cloned().collect()),
            entity(uid(Type::Resource, &self.resource.id), tags.clone()),
        ];
        entities.extend(group_uids.iter().chain(&tags).map(|uid| entity(uid.clone(), HashSet::new())));
        entities.extend(user.map(|user| entity(user, group_uids)));
        Entities::from_entities(entities, None).map_err(|error| error.to_string())
    }
}

fn known(text: &str) -> Option<&str> {
    Some(text).filter(|text| !text.is_empty())
}

fn posture_fields(posture: &Posture) -> impl Iterator<Item = (&'static str, RestrictedExpression)> + '_ {
    let text = |name, text: &str| known(text).map(|text| (name, RestrictedExpression::new_string(text.to_owned())));
    let flag = |name, flag: Option<bool>| flag.map(|flag| (name, RestrictedExpression::new_bool(flag)));
    let fields = [
        text("os", &posture.os),
        text("kernel", &posture.kernel),
        text("version", &posture.version),
        flag("disk_encrypted", posture.disk_encrypted),
        flag("firewall", posture.firewall),
        flag("screen_lock", posture.screen_lock),
        posture.update_age_days.map(|days| ("update_age_days", number(days.into()))),
    ];
    fields.into_iter().flatten()
}

fn number(number: i64) -> RestrictedExpression {
    RestrictedExpression::new_long(number)
}

fn record(fields: impl IntoIterator<Item = (&'static str, RestrictedExpression)>) -> RestrictedExpression {
    let fields = fields.into_iter().map(|(name, value)| (name.to_owned(), value));
    RestrictedExpression::new_record(fields).expect("field names are written here, each once")
}

fn authorizer() -> &'static Authorizer {
    static AUTHORIZER: OnceLock<Authorizer> = OnceLock::new();
    AUTHORIZER.get_or_init(Authorizer::new)
}

/// The types of Cedar's entities.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Type {
    Device,
    User,
    Group,
    Resource,
    Tag,
}

/// An entity's id.
pub(crate) fn uid(kind: Type, id: &impl ToString) -> EntityUid {
    static NAMES: OnceLock<[EntityTypeName; 5]> = OnceLock::new();
    let names = NAMES.get_or_init(|| {
        ["Device", "User", "Group", "Resource", "Tag"].map(|name| EntityTypeName::from_str(name).expect("it is a name"))
    });
    EntityUid::from_type_name_and_id(names[kind as usize].clone(), EntityId::new(id.to_string()))
}

fn connect() -> &'static EntityUid {
    static CONNECT: OnceLock<EntityUid> = OnceLock::new();
    CONNECT.get_or_init(|| EntityUid::from_str("Action::\"connect\"").expect("it is an id"))
}
