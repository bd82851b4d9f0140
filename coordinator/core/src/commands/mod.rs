//! What admins change: each command as a batch, or a refusal that says what to do.

use std::time::Duration;

use postern_model::{
    DeviceId, Fqdn, GroupName, ResourceId, ResourceName, SiteName, Subject, UserName,
    audit::Actor,
    change::{Batch, Change},
    record::{ApiKeyRecord, Group, Owner, Policy, Principal, Resource, Site, Token, User},
};

use crate::{Command, Env, Refusal, ResourceEdit, TokenOwner, Touched, draft::Draft, state::State};

/// The longest life of a join token.
const MAX_TOKEN_LIFE: Duration = Duration::from_secs(366 * 24 * 3600);
/// The most devices that one join token may enrol.
const MAX_TOKEN_USES: u32 = 1000;
/// The most aliases of one resource.
const MAX_ALIASES: usize = 16;

type Result<T> = std::result::Result<T, Refusal>;

/// Drafts what a command changes.
pub(crate) fn draft(state: &State, actor: &Actor, command: &Command, env: &mut Env<'_>) -> Result<(Batch, Touched)> {
    let mut draft = Draft::new(state, actor.clone(), env.now);
    let touched = draft.carry_out(command, env)?;
    Ok((draft.finish(), touched))
}

impl Draft<'_> {
    fn carry_out(&mut self, command: &Command, env: &mut Env<'_>) -> Result<Touched> {
        match command {
            Command::AddUser { name, groups } => self.add_user(name, groups, env),
            Command::SuspendUser { name } => self.set_suspended(name, true),
            Command::ResumeUser { name } => self.set_suspended(name, false),
            Command::RemoveUser { name } => self.remove_user(name),
            Command::AddGroup { name } => self.add_group(name, env),
            Command::AddMember { group, user } => self.add_member(group, user),
            Command::RemoveMember { group, user } => self.remove_member(group, user),
            Command::RemoveGroup { name } => self.remove_group(name),
            Command::AddSite { name } => self.add_site(name, env),
            Command::AddResource { .. } => self.add_resource(command, env),
            Command::EditResource { name, edit } => self.edit_resource(name, edit),
            Command::RemoveResource { name } => self.remove_resource(name),
            Command::Allow { subject, resource } => self.allow(subject, resource, env),
            Command::RemovePolicy { id } => {
                let policy = self.state.policies.get(id).ok_or_else(|| not_found("policy", id, "policy list"))?.clone();
                self.remove_policy(&policy);
                Ok(Touched::Policy(policy.id))
            }
            Command::CreateToken { .. } => self.create_token(command, env),
            Command::WithdrawToken { id } => {
                let token = self.state.tokens.get(id).ok_or_else(|| not_found("token", id, "token list"))?.clone();
                self.note("token.withdraw", format!("token:{id}"), &[]);
                self.change(Change::PutToken(Token { withdrawn: true, ..token }));
                Ok(Touched::Token(*id))
            }
            Command::RevokeDevice { id } => {
                let device = self.state.devices.get(id).ok_or_else(|| not_found("device", id, "device list"))?.clone();
                self.note("device.revoke", format!("device:{}", device.name), &[("id", id)]);
                self.change(Change::PutDevice(postern_model::record::Device { revoked: true, ..device }));
                Ok(Touched::Device(*id))
            }
            Command::RemoveDevice { id } => {
                self.state.devices.get(id).ok_or_else(|| not_found("device", id, "device list"))?;
                self.remove_device(*id);
                Ok(Touched::Device(*id))
            }
            Command::CreateApiKey { name, secret_hash } => {
                let id = env.id(postern_model::ApiKeyId::from_bytes);
                if self.state.api_keys.values().any(|key| key.name == *name) {
                    return Err(conflict(format!(
                        "there is an API key '{name}' already; choose another name or revoke it first"
                    )));
                }
                self.note("apikey.create", format!("apikey:{name}"), &[("id", &id)]);
                let record = ApiKeyRecord { id, name: name.clone(), secret_hash: *secret_hash, created_at: self.now };
                self.change(Change::PutApiKey(record));
                Ok(Touched::ApiKey(id))
            }
            Command::RevokeApiKey { id } => {
                let key = self.state.api_keys.get(id).ok_or_else(|| not_found("API key", id, "apikey list"))?;
                self.note("apikey.revoke", format!("apikey:{}", key.name), &[("id", id)]);
                self.change(Change::RemoveApiKey(*id));
                Ok(Touched::ApiKey(*id))
            }
        }
    }

    fn user(&self, name: &UserName) -> Result<User> {
        self.state.user_named(name).cloned().ok_or_else(|| not_found("user", name, "user list"))
    }

    fn group(&self, name: &GroupName) -> Result<Group> {
        self.state.group_named(name).cloned().ok_or_else(|| not_found("group", name, "group list"))
    }

    fn site(&self, name: &SiteName) -> Result<Site> {
        self.state.site_named(name).cloned().ok_or_else(|| not_found("site", name, "site list"))
    }

    fn resource(&self, name: &ResourceName) -> Result<Resource> {
        self.state.resource_named(name).cloned().ok_or_else(|| not_found("resource", name, "resource list"))
    }

    fn add_user(&mut self, name: &UserName, groups: &[GroupName], env: &mut Env<'_>) -> Result<Touched> {
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

    fn set_suspended(&mut self, name: &UserName, suspended: bool) -> Result<Touched> {
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

    fn remove_user(&mut self, name: &UserName) -> Result<Touched> {
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

    fn remove_device(&mut self, id: DeviceId) {
        let name = self.device_label(id);
        self.note("device.remove", format!("device:{name}"), &[("id", &id)]);
        let grants = self.state.grants_of_device(id).chain(self.state.grants_of_gateway(id)).cloned();
        for grant in grants.collect::<Vec<_>>() {
            let reason = if grant.device == id {
                postern_model::DenyReason::DeviceRevoked
            } else {
                postern_model::DenyReason::NoGateway
            };
            self.end_grant(&grant, postern_model::grant::GrantEnd::Revoked(reason));
        }
        self.remove_policies_of(Principal::Device(id));
        self.change(Change::RemoveDevice(id));
    }

    fn remove_policies_of(&mut self, principal: Principal) {
        for id in self.state.policy_set().policies_of(principal) {
            if let Some(policy) = self.state.policies.get(&id).cloned() {
                self.remove_policy(&policy);
            }
        }
    }

    fn remove_policy(&mut self, policy: &Policy) {
        let (resource, subject) = (self.resource_label(policy.resource), self.principal_label(policy.principal));
        self.note("policy.remove", format!("policy:{}", policy.id), &[("subject", &subject), ("resource", &resource)]);
        self.change(Change::RemovePolicy(policy.id));
    }

    fn principal_label(&self, principal: Principal) -> String {
        let unknown = || "?".to_owned();
        match principal {
            Principal::User(id) => {
                format!("user:{}", self.state.users.get(&id).map_or_else(unknown, |user| user.name.to_string()))
            }
            Principal::Group(id) => {
                format!("group:{}", self.state.groups.get(&id).map_or_else(unknown, |group| group.name.to_string()))
            }
            Principal::Device(id) => format!("device:{id}"),
        }
    }

    fn add_group(&mut self, name: &GroupName, env: &mut Env<'_>) -> Result<Touched> {
        if self.state.group_named(name).is_some() {
            return Err(exists("group", name));
        }
        let id = env.id(postern_model::GroupId::from_bytes);
        self.note("group.add", format!("group:{name}"), &[("id", &id)]);
        self.change(Change::PutGroup(Group { id, name: name.clone(), created_at: self.now }));
        Ok(Touched::Group(id))
    }

    fn add_member(&mut self, group: &GroupName, user: &UserName) -> Result<Touched> {
        let (group, user) = (self.group(group)?, self.user(user)?);
        if self.state.members_of(group.id).any(|member| member == user.id) {
            return Err(conflict(format!("user '{}' is in group '{}' already", user.name, group.name)));
        }
        self.note("group.member.add", format!("group:{}", group.name), &[("user", &user.name)]);
        self.change(Change::AddMember(group.id, user.id));
        Ok(Touched::Group(group.id))
    }

    fn remove_member(&mut self, group: &GroupName, user: &UserName) -> Result<Touched> {
        let (group, user) = (self.group(group)?, self.user(user)?);
        if !self.state.members_of(group.id).any(|member| member == user.id) {
            return Err(conflict(format!("user '{}' is not in group '{}'; see 'group list'", user.name, group.name)));
        }
        self.note("group.member.remove", format!("group:{}", group.name), &[("user", &user.name)]);
        self.change(Change::RemoveMember(group.id, user.id));
        Ok(Touched::Group(group.id))
    }

    fn remove_group(&mut self, name: &GroupName) -> Result<Touched> {
        let group = self.group(name)?;
        self.note("group.remove", format!("group:{name}"), &[("id", &group.id)]);
        self.remove_policies_of(Principal::Group(group.id));
        for user in self.state.members_of(group.id) {
            self.change(Change::RemoveMember(group.id, user));
        }
        self.change(Change::RemoveGroup(group.id));
        Ok(Touched::Group(group.id))
    }

    fn add_site(&mut self, name: &SiteName, env: &mut Env<'_>) -> Result<Touched> {
        if self.state.site_named(name).is_some() {
            return Err(exists("site", name));
        }
        let id = env.id(postern_model::SiteId::from_bytes);
        self.note("site.add", format!("site:{name}"), &[("id", &id)]);
        self.change(Change::PutSite(Site { id, name: name.clone(), created_at: self.now }));
        Ok(Touched::Site(id))
    }

    fn add_resource(&mut self, command: &Command, env: &mut Env<'_>) -> Result<Touched> {
        let Command::AddResource { name, site, target, filter, aliases } = command else { unreachable!("dispatched") };
        if self.state.resource_named(name).is_some() {
            return Err(exists("resource", name));
        }
        let site = self.site(site)?;
        let mut network = self.state.network.clone();
        let addr = network.ranges.resource(network.next_resource_index);
        let addr = addr.ok_or_else(|| conflict("the network's resource addresses are used up".into()))?;
        network.next_resource_index += 1;
        let id = env.id(ResourceId::from_bytes);
        let resource = Resource {
            id,
            name: name.clone(),
            aliases: aliases.clone(),
            site: site.id,
            target: target.clone(),
            filter: filter.clone(),
            addr,
            created_at: self.now,
        };
        self.check_resource(&resource)?;
        let details: [(&str, &dyn ToString); 4] =
            [("id", &id), ("site", &site.name), ("target", target), ("filter", filter)];
        self.note("resource.add", format!("resource:{name}"), &details);
        self.change(Change::PutNetwork(network));
        self.change(Change::PutResource(resource));
        Ok(Touched::Resource(id))
    }

    /// What must hold of a resource beside its fields' own rules.
    fn check_resource(&self, resource: &Resource) -> Result<()> {
        if resource.filter.is_empty() {
            return Err(invalid(
                "the resource would let nothing through: give it --tcp PORTS, --udp PORTS or --icmp".into(),
            ));
        }
        if resource.aliases.len() > MAX_ALIASES {
            return Err(invalid(format!("a resource has at most {MAX_ALIASES} aliases")));
        }
        let zone = &self.state.network.zone;
        if let Some(taken) =
            self.state.resource_with_alias(&resource.name.in_zone(zone)).filter(|other| other.id != resource.id)
        {
            return Err(conflict(format!(
                "'{}' is an alias of resource '{}' already",
                resource.name.in_zone(zone),
                taken.name
            )));
        }
        let mut seen = std::collections::BTreeSet::new();
        for alias in &resource.aliases {
            self.check_alias(alias, resource)?;
            if !seen.insert(alias) {
                return Err(invalid(format!("the alias '{alias}' is given twice")));
            }
        }
        Ok(())
    }

    fn check_alias(&self, alias: &Fqdn, resource: &Resource) -> Result<()> {
        let zone = &self.state.network.zone;
        if alias == zone {
            return Err(conflict(format!("'{alias}' is the network's zone and can't be an alias")));
        }
        if *alias == resource.name.in_zone(zone) {
            return Err(conflict(format!("'{alias}' is the resource's own name; it needs no alias for that")));
        }
        if let Some(other) = self.state.resource_with_alias(alias).filter(|other| other.id != resource.id) {
            return Err(conflict(format!("'{alias}' is an alias of resource '{}' already", other.name)));
        }
        let named = alias.as_str().strip_suffix(zone.as_str()).and_then(|rest| rest.strip_suffix('.'));
        let named = named.and_then(|label| label.parse().ok()).and_then(|name| self.state.resource_named(&name));
        match named {
            Some(other) => Err(conflict(format!("'{alias}' is the name of resource '{}' already", other.name))),
            None => Ok(()),
        }
    }

    fn edit_resource(&mut self, name: &ResourceName, edit: &ResourceEdit) -> Result<Touched> {
        let before = self.resource(name)?;
        let mut after = before.clone();
        after.target = edit.target.clone().unwrap_or(after.target);
        after.filter.tcp = edit.tcp.clone().unwrap_or(after.filter.tcp);
        after.filter.udp = edit.udp.clone().unwrap_or(after.filter.udp);
        after.filter.icmp = edit.icmp.unwrap_or(after.filter.icmp);
        after.aliases = edit.aliases.clone().unwrap_or(after.aliases);
        if after == before {
            return Err(invalid(
                "nothing would change: give --target, --tcp, --udp, --icmp or --alias a new value".into(),
            ));
        }
        self.check_resource(&after)?;
        let aliases: Vec<_> = after.aliases.iter().map(Fqdn::as_str).collect();
        let details: [(&str, &dyn ToString); 4] =
            [("id", &after.id), ("target", &after.target), ("filter", &after.filter), ("aliases", &aliases.join(","))];
        self.note("resource.edit", format!("resource:{name}"), &details);
        let id = after.id;
        self.change(Change::PutResource(after));
        Ok(Touched::Resource(id))
    }

    fn remove_resource(&mut self, name: &ResourceName) -> Result<Touched> {
        let resource = self.resource(name)?;
        self.note("resource.remove", format!("resource:{name}"), &[("id", &resource.id)]);
        let grants: Vec<_> = self.state.grants_of_resource(resource.id).cloned().collect();
        for grant in grants {
            self.end_grant(&grant, postern_model::grant::GrantEnd::Revoked(postern_model::DenyReason::UnknownResource));
        }
        let policies: Vec<_> = self.state.policy_set().policies_about(resource.id).map(|(id, _)| id).collect();
        for policy in policies.iter().filter_map(|id| self.state.policies.get(id)) {
            self.remove_policy(policy);
        }
        self.change(Change::RemoveResource(resource.id));
        Ok(Touched::Resource(resource.id))
    }

    fn allow(&mut self, subject: &Subject, resource: &ResourceName, env: &mut Env<'_>) -> Result<Touched> {
        let resource = self.resource(resource)?;
        let principal = match subject {
            Subject::User(name) => Principal::User(self.user(name)?.id),
            Subject::Group(name) => Principal::Group(self.group(name)?.id),
            Subject::Device(id) => {
                self.state.devices.get(id).ok_or_else(|| not_found("device", id, "device list"))?;
                Principal::Device(*id)
            }
        };
        if let Some(policy) = self.state.policy_set().policy(principal, resource.id) {
            let what = format!("policy {policy} allows {subject} to reach '{}' already", resource.name);
            return Err(conflict(what));
        }
        let id = env.id(postern_model::PolicyId::from_bytes);
        self.note("policy.allow", format!("policy:{id}"), &[("subject", subject), ("resource", &resource.name)]);
        self.change(Change::PutPolicy(Policy { id, principal, resource: resource.id, created_at: self.now }));
        Ok(Touched::Policy(id))
    }

    fn create_token(&mut self, command: &Command, env: &mut Env<'_>) -> Result<Touched> {
        let Command::CreateToken { owner, expires_in, uses, secret_hash } = command else { unreachable!("dispatched") };
        let id = env.id(postern_model::TokenId::from_bytes);
        if expires_in.as_millis() == 0 || *expires_in > MAX_TOKEN_LIFE {
            return Err(invalid(
                "a join token lives at least a moment and at most a year: give --expires like 1h or 7days".into(),
            ));
        }
        if !(1..=MAX_TOKEN_USES).contains(uses) {
            return Err(invalid(format!(
                "a join token enrols at least 1 and at most {MAX_TOKEN_USES} devices: give --uses so"
            )));
        }
        let (record, label) = match owner {
            TokenOwner::User(name) => {
                let user = self.user(name)?;
                if user.suspended {
                    return Err(conflict(format!("user '{name}' is suspended; resume it before you give it a device")));
                }
                (Owner::User(user.id), format!("user:{name}"))
            }
            TokenOwner::Site(name) => (Owner::Site(self.site(name)?.id), format!("site:{name}")),
        };
        let expires_at = env.now.plus(*expires_in);
        let details: [(&str, &dyn ToString); 3] =
            [("owner", &label), ("uses", uses), ("expires_at", &expires_at.unix_millis())];
        self.note("token.create", format!("token:{id}"), &details);
        self.change(Change::PutToken(Token {
            id,
            secret_hash: *secret_hash,
            owner: record,
            uses_left: *uses,
            expires_at,
            withdrawn: false,
            created_at: self.now,
        }));
        Ok(Touched::Token(id))
    }
}

fn not_found(kind: &'static str, name: &dyn ToString, list: &'static str) -> Refusal {
    Refusal::NotFound { kind, name: name.to_string(), list }
}

fn exists(kind: &str, name: &dyn ToString) -> Refusal {
    conflict(format!("there is a {kind} '{}' already", name.to_string()))
}

fn conflict(what: String) -> Refusal {
    Refusal::Conflict { what }
}

fn invalid(what: String) -> Refusal {
    Refusal::Invalid { what }
}
