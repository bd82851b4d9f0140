//! [`Rehearsal`]: the differences between a declaration and a state, drafted one by one.

use std::{
    borrow::Cow,
    collections::{BTreeSet, HashSet},
};

use postern_model::{
    Fqdn, GroupName, PolicyId, ResourceName, SiteName, UserName,
    audit::{Actor, AuditEvent},
    record::Policy,
};

use super::{
    Declaration, DeclaredPolicy, DeclaredResource,
    plan::{Detail, Step},
};
use crate::{Command, Core, Env, Refusal, ResourceEdit, draft::Draft, state::State};

type Result<T> = std::result::Result<T, Refusal>;

/// A draft of many steps, and the state as it is after them.
pub(super) struct Rehearsal<'a> {
    core: &'a Core,
    actor: &'a Actor,
    /// Copied when the first step changes it.
    pub(super) state: Cow<'a, State>,
    /// Over the state as it was, so that it re-decides what was granted in that.
    pub(super) draft: Draft<'a>,
    pub(super) steps: Vec<Step>,
    /// What is declared and not done, with the reason: sentences.
    pub(super) notes: Vec<String>,
}

/// Drafts all differences.
pub(super) fn rehearse<'a>(
    core: &'a Core,
    actor: &'a Actor,
    declaration: &Declaration,
    env: &mut Env<'_>,
) -> Result<Rehearsal<'a>> {
    let mut it = Rehearsal {
        core,
        actor,
        state: Cow::Borrowed(&core.state),
        draft: Draft::new(core, actor.clone(), env.now),
        steps: Vec::new(),
        notes: Vec::new(),
    };
    // What others need comes first, and goes last.
    it.add_users(declaration, env)?;
    it.add_groups_and_sites(declaration, env)?;
    let kept = it.remove_policies(declaration, env)?;
    it.remove_resources(declaration, env)?;
    it.release_aliases(declaration, env)?;
    it.put_resources(declaration, env)?;
    it.set_members(declaration, env)?;
    it.remove_groups_and_sites(declaration, env)?;
    it.add_policies(declaration, &kept, env)?;
    Ok(it)
}

/// What a declared policy is in a state, and which of the state's policies say that.
enum Found {
    All(Vec<PolicyId>),
    NotAll,
}

impl Rehearsal<'_> {
    /// One step, on the state as the steps before have left it.
    fn take(&mut self, step: impl FnOnce(&mut Draft<'_>) -> Result<()>) -> Result<()> {
        let mut draft = Draft::over(&self.state, self.core, self.actor.clone(), self.draft.now);
        step(&mut draft)?;
        let (changes, audit) = draft.into_parts();
        self.steps.extend(audit.iter().filter_map(step_of));
        let state = self.state.to_mut();
        for change in &changes {
            state.apply(change.clone());
        }
        self.draft.absorb(changes, audit);
        Ok(())
    }

    fn command(&mut self, command: &Command, env: &mut Env<'_>) -> Result<()> {
        self.take(|draft| draft.carry_out(command, env).map(drop))
    }

    fn add_users(&mut self, declaration: &Declaration, env: &mut Env<'_>) -> Result<()> {
        for name in &declaration.users {
            if self.state.user_named(name).is_none() {
                self.command(&Command::AddUser { name: name.clone(), groups: Vec::new() }, env)?;
            }
        }
        Ok(())
    }

    fn add_groups_and_sites(&mut self, declaration: &Declaration, env: &mut Env<'_>) -> Result<()> {
        for name in declaration.groups.iter().flatten().map(|(name, _)| name) {
            if self.state.group_named(name).is_none() {
                self.command(&Command::AddGroup { name: name.clone() }, env)?;
            }
        }
        for name in declaration.sites.iter().flatten() {
            if self.state.site_named(name).is_none() {
                self.command(&Command::AddSite { name: name.clone() }, env)?;
            }
        }
        Ok(())
    }

    /// Removes the policies that are not declared; returns those that are.
    fn remove_policies(&mut self, declaration: &Declaration, env: &mut Env<'_>) -> Result<Vec<Option<Vec<PolicyId>>>> {
        let Some(declared) = &declaration.policies else { return Ok(Vec::new()) };
        let found: Vec<_> = declared.iter().map(|policy| self.find(policy, env)).collect();
        let kept = found.into_iter().map(|found| match found {
            Ok(Found::All(ids)) => Some(ids),
            // What is wrong with it is said when it is to be added.
            Ok(Found::NotAll) | Err(_) => None,
        });
        let kept: Vec<_> = kept.collect();
        let stays: HashSet<_> = kept.iter().flatten().flatten().copied().collect();
        let goes: Vec<_> = self.state.policies.keys().copied().filter(|id| !stays.contains(id)).collect();
        for id in goes {
            self.command(&Command::RemovePolicy { id }, env)?;
        }
        Ok(kept)
    }

    /// The policies that say what is declared.
    fn find(&self, declared: &DeclaredPolicy, env: &Env<'_>) -> Result<Found> {
        let draft = Draft::over(&self.state, self.core, self.actor.clone(), env.now);
        let said = match declared {
            DeclaredPolicy::Short(new) => vec![draft.said_short(new)?],
            DeclaredPolicy::Cedar(source) => draft.said_cedar(source)?,
        };
        let mut ids = Vec::new();
        for policy in &said {
            let before = ids.len();
            ids.extend(self.state.policies_like(policy));
            if ids.len() == before {
                return Ok(Found::NotAll);
            }
        }
        Ok(Found::All(ids))
    }

    fn add_policies(
        &mut self,
        declaration: &Declaration,
        kept: &[Option<Vec<PolicyId>>],
        env: &mut Env<'_>,
    ) -> Result<()> {
        let is_removed = |steps: &[Step]| steps.iter().any(|step| step.verb == "remove" && step.thing != "policy");
        // What a policy in Cedar speaks of in its clauses may have gone with a removal.
        let is_sure = !is_removed(&self.steps);
        for (declared, kept) in declaration.policies.iter().flatten().zip(kept) {
            let is_there = |ids: &Vec<PolicyId>| ids.iter().all(|id| self.state.policies.contains_key(id));
            let is_plain = is_sure || matches!(declared, DeclaredPolicy::Short(_));
            if is_plain && kept.as_ref().is_some_and(is_there) {
                continue;
            }
            match declared {
                DeclaredPolicy::Short(new) => {
                    let said = Draft::over(&self.state, self.core, self.actor.clone(), env.now).said_short(new)?;
                    self.add_policy(said, env)?;
                }
                DeclaredPolicy::Cedar(source) => {
                    let all = Draft::over(&self.state, self.core, self.actor.clone(), env.now).said_cedar(source)?;
                    for said in all {
                        self.add_policy(said, env)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Adds a policy unless one says the same.
    fn add_policy(&mut self, policy: Policy, env: &mut Env<'_>) -> Result<()> {
        if self.state.policy_like(&policy).is_some() {
            return Ok(());
        }
        if let Some(until) = policy.until.filter(|until| *until <= env.now) {
            let words = self.state.policy_words(&policy);
            let until = postern_policy::until::display(until);
            self.notes
                .push(format!("the policy '{words}' has ended ({until}) and is left out; delete it from the file"));
            return Ok(());
        }
        self.take(|draft| draft.put_new_policy(policy, env).map(drop))
    }

    fn remove_resources(&mut self, declaration: &Declaration, env: &mut Env<'_>) -> Result<()> {
        let Some(declared) = &declaration.resources else { return Ok(()) };
        let names = self.state.resources.values().map(|resource| &resource.name);
        let goes: BTreeSet<ResourceName> = names.filter(|name| !declared.contains_key(*name)).cloned().collect();
        for name in goes {
            self.command(&Command::RemoveResource { name }, env)?;
        }
        Ok(())
    }

    /// Takes the aliases away that one resource is to give up to another, so that the order of edits does not matter.
    fn release_aliases(&mut self, declaration: &Declaration, env: &mut Env<'_>) -> Result<()> {
        let Some(declared) = &declaration.resources else { return Ok(()) };
        let zone = &self.state.network.zone;
        let new_names = declared.keys().filter(|name| self.state.resource_named(name).is_none());
        let wanted: HashSet<Fqdn> = declared
            .values()
            .flat_map(|resource| resource.aliases.iter().cloned())
            .chain(new_names.map(|name| name.in_zone(zone)))
            .collect();
        let mut releases = Vec::new();
        for (name, resource) in declared {
            let Some(before) = self.state.resource_named(name) else { continue };
            let is_released = |alias: &&Fqdn| !resource.aliases.contains(alias) && wanted.contains(alias);
            if before.aliases.iter().any(|alias| is_released(&alias)) {
                let left = before.aliases.iter().filter(|alias| !is_released(alias)).cloned().collect();
                releases.push((name.clone(), left));
            }
        }
        for (name, left) in releases {
            let edit = ResourceEdit { aliases: Some(left), ..ResourceEdit::default() };
            self.command(&Command::EditResource { name, edit }, env)?;
        }
        Ok(())
    }

    fn put_resources(&mut self, declaration: &Declaration, env: &mut Env<'_>) -> Result<()> {
        for (name, declared) in declaration.resources.iter().flatten() {
            match self.edit(name, declared) {
                None => {
                    let DeclaredResource { site, target, open, aliases, tags } = declared.clone();
                    let (name, filter) = (name.clone(), open);
                    self.command(&Command::AddResource { name, site, target, filter, aliases, tags }, env)?;
                }
                Some((edit, _)) if edit == ResourceEdit::default() => {}
                Some((edit, was)) => {
                    self.command(&Command::EditResource { name: name.clone(), edit }, env)?;
                    if let Some(step) = self.steps.last_mut() {
                        step.keep_changed(&was);
                    }
                }
            }
        }
        Ok(())
    }

    /// What has to be changed of a resource, and what it was; `None` when there is none of that name.
    fn edit(&self, name: &ResourceName, declared: &DeclaredResource) -> Option<(ResourceEdit, Vec<(String, String)>)> {
        let before = self.state.resource_named(name)?;
        let site = self.state.sites.get(&before.site).map(|site| site.name.clone());
        let changed = |is_changed: bool| is_changed.then_some(());
        let edit = ResourceEdit {
            site: changed(site.as_ref() != Some(&declared.site)).map(|()| declared.site.clone()),
            target: changed(before.target != declared.target).map(|()| declared.target.clone()),
            tcp: changed(before.filter.tcp != declared.open.tcp).map(|()| declared.open.tcp.clone()),
            udp: changed(before.filter.udp != declared.open.udp).map(|()| declared.open.udp.clone()),
            icmp: changed(before.filter.icmp != declared.open.icmp).map(|()| declared.open.icmp),
            aliases: changed(!is_same_set(&before.aliases, &declared.aliases)).map(|()| declared.aliases.clone()),
            tags: changed(before.tags != declared.tags).map(|()| declared.tags.clone()),
        };
        let (aliases, tags) = (joined(&before.aliases), joined(&before.tags));
        let was = [
            ("site", site.map(|site| site.to_string()).unwrap_or_default()),
            ("target", before.target.to_string()),
            ("open", before.filter.to_string()),
            ("aliases", aliases),
            ("tags", tags),
        ];
        Some((edit, was.map(|(name, value)| (name.to_owned(), value)).into()))
    }

    fn set_members(&mut self, declaration: &Declaration, env: &mut Env<'_>) -> Result<()> {
        for (group, declared) in declaration.groups.iter().flatten() {
            let Some(declared) = &declared.members else { continue };
            let members: BTreeSet<UserName> = self.members(group);
            for user in members.difference(declared) {
                self.command(&Command::RemoveMember { group: group.clone(), user: user.clone() }, env)?;
            }
            for user in declared.difference(&members) {
                self.command(&Command::AddMember { group: group.clone(), user: user.clone() }, env)?;
            }
        }
        Ok(())
    }

    fn members(&self, group: &GroupName) -> BTreeSet<UserName> {
        let members = self.state.group_named(group).into_iter().flat_map(|group| self.state.members_of(group.id));
        members.filter_map(|id| Some(self.state.users.get(&id)?.name.clone())).collect()
    }

    fn remove_groups_and_sites(&mut self, declaration: &Declaration, env: &mut Env<'_>) -> Result<()> {
        if let Some(declared) = &declaration.groups {
            let names = self.state.groups.values().map(|group| &group.name);
            let goes: BTreeSet<GroupName> = names.filter(|name| !declared.contains_key(*name)).cloned().collect();
            for name in goes {
                self.command(&Command::RemoveGroup { name }, env)?;
            }
        }
        if let Some(declared) = &declaration.sites {
            let names = self.state.sites.values().map(|site| &site.name);
            let goes: BTreeSet<SiteName> = names.filter(|name| !declared.contains(*name)).cloned().collect();
            for name in goes {
                self.take(|draft| draft.remove_site(&name).map(drop))?;
            }
        }
        Ok(())
    }
}

fn is_same_set(some: &[Fqdn], others: &[Fqdn]) -> bool {
    some.iter().collect::<BTreeSet<_>>() == others.iter().collect()
}

fn joined<'t, T: ToString + 't>(things: impl IntoIterator<Item = &'t T>) -> String {
    things.into_iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}

/// An audit entry as a step of a plan. What comes of the steps is told apart from them.
fn step_of(event: &AuditEvent) -> Option<Step> {
    let (thing, verb) = event.action.rsplit_once('.')?;
    if thing == "grant" {
        return None;
    }
    let (_, name) = event.object.split_once(':')?;
    let (thing, verb) = (thing.to_owned(), verb.to_owned());
    // What is added gets its id when it is.
    let name = if thing == "policy" && verb == "add" { String::new() } else { name.to_owned() };
    let details = event.details.iter().filter(|(name, value)| name != "id" && !value.is_empty());
    let details = details.map(|(name, value)| Detail {
        // As the file has it.
        name: if name == "filter" { "open".to_owned() } else { name.clone() },
        value: value.clone(),
        was: None,
    });
    Some(Step { thing, verb, name, details: details.collect() })
}
