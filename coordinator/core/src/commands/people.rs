//! Users and groups.

use postern_model::{
    GroupName, UserName,
    change::Change,
    record::{Group, Owner, Principal, User},
};

use super::{Result, conflict, exists};
use crate::{Env, Touched, draft::Draft};

impl Draft<'_> {
    pub(super) fn add_user(&mut self, name: &UserName, groups: &[GroupName], env: &mut Env<'_>) -> Result<Touched> {
        if self.state.user_named(name).is_some() {
            return Err(exists("user", name));
        }
        let mut joined = groups.iter().map(|group| self.group(group)).collect::<Result<Vec<_>>>()?;
        joined.sort_by_key(|group| group.id);
        joined.dedup_by_key(|group| group.id);
        let id = env.id(postern_model::UserId::from_bytes);
        let names: Vec<_> = joined.iter().map(|group| group.name.as_str()).collect();
        self.note("user.add", format!("user:{name}"), &[("id", &id), ("groups", &names.join(","))]);
        self.change(Change::PutUser(User { id, name: name.clone(), suspended: false, created_at: self.now }));
        for group in joined {
            self.change(Change::AddMember(group.id, id));
        }
        Ok(Touched::User(id))
    }

    pub(super) fn set_suspended(&mut self, name: &UserName, suspended: bool) -> Result<Touched> {
        let user = self.user(name)?;
        if user.suspended == suspended {
            let (state, other) = if suspended { ("suspended", "resume") } else { ("not suspended", "suspend") };
            return Err(conflict(format!("user '{name}' is {state} already; to change that, use 'user {other}'")));
        }
        let action = if suspended { "user.suspend" } else { "user.resume" };
        self.note(action, format!("user:{name}"), &[("id", &user.id)]);
        let id = user.id;
        self.change(Change::PutUser(User { suspended, ..user }));
        Ok(Touched::User(id))
    }

    pub(super) fn remove_user(&mut self, name: &UserName) -> Result<Touched> {
        let user = self.user(name)?;
        self.note("user.remove", format!("user:{name}"), &[("id", &user.id)]);
        let owner = Owner::User(user.id);
        let devices: Vec<_> = self.state.devices_of(owner).map(|device| device.id).collect();
        devices.into_iter().for_each(|device| self.remove_device(device));
        let tokens = self.state.tokens.values().filter(|token| token.owner == owner).map(|token| token.id);
        for token in tokens.collect::<Vec<_>>() {
            self.change(Change::RemoveToken(token));
        }
        self.remove_policies_of(Principal::User(user.id));
        for group in postern_policy::Facts::groups_of(self.state, user.id) {
            self.change(Change::RemoveMember(group, user.id));
        }
        self.change(Change::RemoveUser(user.id));
        Ok(Touched::User(user.id))
    }

    pub(super) fn add_group(&mut self, name: &GroupName, env: &mut Env<'_>) -> Result<Touched> {
        if self.state.group_named(name).is_some() {
            return Err(exists("group", name));
        }
        let id = env.id(postern_model::GroupId::from_bytes);
        self.note("group.add", format!("group:{name}"), &[("id", &id)]);
        self.change(Change::PutGroup(Group { id, name: name.clone(), created_at: self.now }));
        Ok(Touched::Group(id))
    }

    pub(super) fn add_member(&mut self, group: &GroupName, user: &UserName) -> Result<Touched> {
        let (group, user) = (self.group(group)?, self.user(user)?);
        if self.state.is_member(group.id, user.id) {
            return Err(conflict(format!("user '{}' is in group '{}' already", user.name, group.name)));
        }
        self.note("group.member.add", format!("group:{}", group.name), &[("user", &user.name)]);
        self.change(Change::AddMember(group.id, user.id));
        Ok(Touched::Group(group.id))
    }

    pub(super) fn remove_member(&mut self, group: &GroupName, user: &UserName) -> Result<Touched> {
        let (group, user) = (self.group(group)?, self.user(user)?);
        if !self.state.is_member(group.id, user.id) {
            return Err(conflict(format!("user '{}' is not in group '{}'; see 'group list'", user.name, group.name)));
        }
        self.note("group.member.remove", format!("group:{}", group.name), &[("user", &user.name)]);
        self.change(Change::RemoveMember(group.id, user.id));
        Ok(Touched::Group(group.id))
    }

    pub(super) fn remove_group(&mut self, name: &GroupName) -> Result<Touched> {
        let group = self.group(name)?;
        self.note("group.remove", format!("group:{name}"), &[("id", &group.id)]);
        self.remove_policies_of(Principal::Group(group.id));
        for user in self.state.members_of(group.id) {
            self.change(Change::RemoveMember(group.id, user));
        }
        self.change(Change::RemoveGroup(group.id));
        Ok(Touched::Group(group.id))
    }
}
