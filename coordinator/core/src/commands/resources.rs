//! Sites and resources.

use postern_model::{
    DenyReason, Fqdn, ResourceId, ResourceName, Scope, ScopeName, SiteName, Target,
    change::Change,
    grant::GrantEnd,
    record::{Owner, Resource, Site},
};

use super::{Result, conflict, exists, invalid};
use crate::{Command, Env, ResourceEdit, Touched, draft::Draft};

/// The most aliases of one resource.
const MAX_ALIASES: usize = 16;
/// The most tags of one resource: each is one more thing that a decision looks up.
const MAX_TAGS: usize = 16;

impl Draft<'_> {
    pub(super) fn add_site(&mut self, name: &SiteName, env: &mut Env<'_>) -> Result<Touched> {
        if self.state.site_named(name).is_some() {
            return Err(exists("site", name));
        }
        let id = env.id(postern_model::SiteId::from_bytes);
        self.note("site.add", format!("site:{name}"), &[("id", &id)]);
        self.change(Change::PutSite(Site { id, name: name.clone(), created_at: self.now }));
        Ok(Touched::Site(id))
    }

    /// Removes a site that nothing is left of.
    pub(crate) fn remove_site(&mut self, name: &SiteName) -> Result<Touched> {
        let site = self.site(name)?;
        let owner = Owner::Site(site.id);
        if let Some(gateway) = self.state.devices_of(owner).next() {
            let gateway = &gateway.name;
            return Err(conflict(format!(
                "site '{name}' still has the gateway '{gateway}': remove it first ('device remove {gateway}')"
            )));
        }
        if let Some(resource) = self.state.resources.values().find(|resource| resource.site == site.id) {
            let resource = &resource.name;
            return Err(conflict(format!(
                "site '{name}' still has the resource '{resource}': move it to another site or remove it first"
            )));
        }
        self.note("site.remove", format!("site:{name}"), &[("id", &site.id)]);
        let tokens = self.state.tokens.values().filter(|token| token.owner == owner).map(|token| token.id);
        for token in tokens.collect::<Vec<_>>() {
            self.change(Change::RemoveToken(token));
        }
        self.change(Change::RemoveSite(site.id));
        Ok(Touched::Site(site.id))
    }

    pub(super) fn add_resource(&mut self, command: &Command, env: &mut Env<'_>) -> Result<Touched> {
        let Command::AddResource { name, site, target, filter, aliases, tags } = command else {
            unreachable!("dispatched")
        };
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
            tags: tags.clone(),
            site: site.id,
            target: target.clone(),
            filter: filter.clone(),
            addr,
            created_at: self.now,
        };
        self.check_resource(&resource)?;
        let (aliases, tags) = (list(aliases), list(tags));
        let details: [(&str, &dyn ToString); 6] = [
            ("id", &id),
            ("site", &site.name),
            ("target", target),
            ("filter", filter),
            ("aliases", &aliases),
            ("tags", &tags),
        ];
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
        if let Target::Ip(target) = resource.target
            && self.state.network.ranges.is_overlay(target)
        {
            return Err(invalid(format!(
                "the target {target} is one of this network's own overlay addresses: give the address that the resource has at its site"
            )));
        }
        if resource.name.as_str() == ScopeName::EVERYTHING {
            return Err(invalid(format!(
                "'{}' is what policies call all resources; choose another name",
                resource.name
            )));
        }
        if resource.tags.len() > MAX_TAGS {
            return Err(invalid(format!("a resource has at most {MAX_TAGS} tags")));
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

    pub(super) fn edit_resource(&mut self, name: &ResourceName, edit: &ResourceEdit) -> Result<Touched> {
        let before = self.resource(name)?;
        let mut after = before.clone();
        if let Some(site) = &edit.site {
            after.site = self.site(site)?.id;
        }
        after.target = edit.target.clone().unwrap_or(after.target);
        after.filter.tcp = edit.tcp.clone().unwrap_or(after.filter.tcp);
        after.filter.udp = edit.udp.clone().unwrap_or(after.filter.udp);
        after.filter.icmp = edit.icmp.unwrap_or(after.filter.icmp);
        after.aliases = edit.aliases.clone().unwrap_or(after.aliases);
        after.tags = edit.tags.clone().unwrap_or(after.tags);
        if after == before {
            return Err(invalid(
                "nothing would change: give --target, --tcp, --udp, --icmp, --alias or --tag a new value".into(),
            ));
        }
        self.check_resource(&after)?;
        let (aliases, tags) = (list(&after.aliases), list(&after.tags));
        let site = self.state.sites.get(&after.site).map(|site| site.name.to_string()).unwrap_or_default();
        let details: [(&str, &dyn ToString); 6] = [
            ("id", &after.id),
            ("site", &site),
            ("target", &after.target),
            ("filter", &after.filter),
            ("aliases", &aliases),
            ("tags", &tags),
        ];
        self.note("resource.edit", format!("resource:{name}"), &details);
        let id = after.id;
        self.change(Change::PutResource(after));
        Ok(Touched::Resource(id))
    }

    pub(super) fn remove_resource(&mut self, name: &ResourceName) -> Result<Touched> {
        let resource = self.resource(name)?;
        self.note("resource.remove", format!("resource:{name}"), &[("id", &resource.id)]);
        let grants: Vec<_> = self.state.grants_of_resource(resource.id).cloned().collect();
        for grant in grants {
            self.end_grant(&grant, GrantEnd::Revoked(DenyReason::UnknownResource));
        }
        let policies: Vec<_> =
            self.state.policy_set().policies_about(&Scope::Resource(resource.id)).map(|(id, _)| id).collect();
        for policy in policies.iter().filter_map(|id| self.state.policies.get(id)) {
            self.remove_policy(policy);
        }
        self.change(Change::RemoveResource(resource.id));
        Ok(Touched::Resource(resource.id))
    }
}

fn list(words: impl IntoIterator<Item: ToString>) -> String {
    words.into_iter().map(|word| word.to_string()).collect::<Vec<_>>().join(",")
}
