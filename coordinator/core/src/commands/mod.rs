//! What admins change: each command as a batch, or a refusal that says what to do.
//!
//! - `gateways`, `people`, `policies`, `relays`, `resources`, `tokens`: commands by what they are about; the rest is here

mod gateways;
mod people;
mod policies;
mod relays;
mod resources;
mod tokens;

use postern_model::{
    DeviceId, GroupName, ResourceName, SiteName, UserName,
    audit::Actor,
    change::Change,
    record::{ApiKeyRecord, Group, Principal, Resource, Site, Token, User},
};

use crate::{
    Command, Core, Env, Refusal, Touched, declaration,
    draft::{Draft, Drafted},
};

pub(crate) use policies::says;

type Result<T> = std::result::Result<T, Refusal>;

/// Drafts what a command changes.
pub(crate) fn draft(core: &Core, actor: &Actor, command: &Command, env: &mut Env<'_>) -> Result<(Drafted, Touched)> {
    if let Command::Declare { declaration, revision } = command {
        return declaration::draft(core, actor, declaration, *revision, env);
    }
    let mut draft = Draft::new(core, actor.clone(), env.now);
    let touched = draft.carry_out(command, env)?;
    Ok((draft.finish(), touched))
}

impl Draft<'_> {
    pub(crate) fn carry_out(&mut self, command: &Command, env: &mut Env<'_>) -> Result<Touched> {
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
            Command::AddPolicy(policy) => self.add_policy(policy, env),
            Command::AddCedar { source } => self.add_cedar(source, env),
            Command::RemovePolicy { id } => {
                let policy = self.state.policies.get(id).ok_or_else(|| not_found("policy", id, "policy list"))?.clone();
                self.remove_policy(&policy);
                Ok(Touched::Policy(policy.id))
            }
            Command::Declare { .. } => unreachable!("drafted on its own, in many steps"),
            Command::EnforcePolicy { id } => self.enforce_policy(*id),
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
            Command::DrainGateway { site, id, is_forced } => self.set_drained(site, *id, true, *is_forced),
            Command::UndrainGateway { site, id } => self.set_drained(site, *id, false, false),
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
            Command::AddRelay { name, address, pin } => self.add_relay(name, address, *pin, env),
            Command::RemoveRelay { name } => self.remove_relay(name),
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
