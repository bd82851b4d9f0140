//! What tests do in one word: add a user, enrol a laptop, reach a resource.

use std::{collections::BTreeSet, time::Duration};

use postern_model::{DenyReason, DeviceId, Filter, PolicyId, ResourceId, Sha256, TokenId};
use postern_wire::{AccessReply, Granted};

use super::shell::Shell;
use crate::{AccessTicket, Command, NewPolicy, ResourceEdit, TokenOwner, Touched};

/// alice's laptop, a gateway in front of `wiki`, and the policy that lets alice reach it; both connected.
pub(crate) struct Office {
    pub(crate) shell: Shell,
    pub(crate) laptop: DeviceId,
    pub(crate) gateway: DeviceId,
    pub(crate) wiki: ResourceId,
    pub(crate) policy: PolicyId,
}

pub(crate) fn office() -> Office {
    let mut shell = Shell::new();
    shell.user("alice");
    shell.site("hq");
    let wiki = shell.resource("wiki", "hq");
    let policy = shell.allow("user:alice", "wiki");
    let (laptop, gateway) = (shell.laptop("alice"), shell.gateway("hq"));
    shell.connect(gateway);
    shell.connect(laptop);
    shell.forget();
    Office { shell, laptop, gateway, wiki, policy }
}

/// The same, with alice's access to `wiki` in force.
pub(crate) fn office_with_grant() -> Office {
    let mut office = office();
    office.access();
    office.shell.forget();
    office
}

impl Office {
    /// Alice's laptop reaches the wiki.
    pub(crate) fn access(&mut self) -> Granted {
        self.shell.access(self.laptop, self.wiki, self.gateway)
    }
}

pub(crate) fn tcp(ports: &str) -> Filter {
    Filter { tcp: ports.parse().unwrap(), ..Filter::default() }
}

/// An edit of the open TCP ports.
pub(crate) fn ports(tcp: &str) -> ResourceEdit {
    ResourceEdit { tcp: Some(tcp.parse().unwrap()), ..ResourceEdit::default() }
}

impl Shell {
    pub(crate) fn add_user(&mut self, name: &str, groups: &[&str]) -> Touched {
        let groups = groups.iter().map(|group| group.parse().unwrap()).collect();
        self.run(&Command::AddUser { name: name.parse().unwrap(), groups }).unwrap()
    }

    pub(crate) fn user(&mut self, name: &str) {
        self.add_user(name, &[]);
    }

    pub(crate) fn suspend(&mut self, name: &str) {
        self.run(&Command::SuspendUser { name: name.parse().unwrap() }).unwrap();
    }

    pub(crate) fn group(&mut self, name: &str) {
        self.run(&Command::AddGroup { name: name.parse().unwrap() }).unwrap();
    }

    pub(crate) fn add_member(&mut self, group: &str, user: &str) {
        self.run(&Command::AddMember { group: group.parse().unwrap(), user: user.parse().unwrap() }).unwrap();
    }

    pub(crate) fn remove_member(&mut self, group: &str, user: &str) {
        self.run(&Command::RemoveMember { group: group.parse().unwrap(), user: user.parse().unwrap() }).unwrap();
    }

    pub(crate) fn remove_group(&mut self, name: &str) {
        self.run(&Command::RemoveGroup { name: name.parse().unwrap() }).unwrap();
    }

    pub(crate) fn site(&mut self, name: &str) {
        self.run(&Command::AddSite { name: name.parse().unwrap() }).unwrap();
    }

    /// A resource at 10.0.0.5 with TCP port 443 open.
    pub(crate) fn resource(&mut self, name: &str, site: &str) -> ResourceId {
        match self.run(&add_resource(name, site, &[])).unwrap() {
            Touched::Resource(id) => id,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn edit(&mut self, name: &str, edit: ResourceEdit) {
        self.run(&Command::EditResource { name: name.parse().unwrap(), edit }).unwrap();
    }

    pub(crate) fn remove_resource(&mut self, name: &str) {
        self.run(&Command::RemoveResource { name: name.parse().unwrap() }).unwrap();
    }

    pub(crate) fn allow(&mut self, subject: &str, resource: &str) -> PolicyId {
        let allow = Command::from(NewPolicy::allow(subject.parse().unwrap(), resource.parse().unwrap()));
        match self.run(&allow).unwrap() {
            Touched::Policy(id) => id,
            other => panic!("{other:?}"),
        }
    }

    /// A token for one device, good for an hour, and the hash of its secret.
    pub(crate) fn token(&mut self, owner: TokenOwner) -> (TokenId, Sha256) {
        let secret_hash = Sha256([u8::try_from(self.fresh() % 256).unwrap(); 32]);
        let command = Command::CreateToken { owner, expires_in: Duration::from_secs(3600), uses: 1, secret_hash };
        match self.run(&command).unwrap() {
            Touched::Token(id) => (id, secret_hash),
            other => panic!("{other:?}"),
        }
    }

    fn enrolled(&mut self, owner: TokenOwner) -> DeviceId {
        let (token, secret_hash) = self.token(owner);
        let proof = self.proof(token, secret_hash);
        self.enrol(&proof).expect("the disk is not full").expect("the token is good").device
    }

    pub(crate) fn laptop(&mut self, user: &str) -> DeviceId {
        self.enrolled(TokenOwner::User(user.parse().unwrap()))
    }

    pub(crate) fn gateway(&mut self, site: &str) -> DeviceId {
        self.enrolled(TokenOwner::Site(site.parse().unwrap()))
    }

    /// Asks, has the gateway acknowledge, and returns what was granted.
    pub(crate) fn access(&mut self, device: DeviceId, resource: ResourceId, gateway: DeviceId) -> Granted {
        let ticket = self.ask(device, resource).expect("the disk is not full");
        self.acknowledge(gateway);
        match self.answers.get(&ticket) {
            Some(AccessReply::Granted(granted)) => granted.clone(),
            other => panic!("not granted: {other:?}"),
        }
    }

    /// Why a request was denied; `None` when it waits.
    pub(crate) fn denied(&self, ticket: Option<AccessTicket>) -> Option<DenyReason> {
        match self.answers.get(&ticket.expect("the disk is not full"))? {
            AccessReply::Denied { reason } => Some(*reason),
            AccessReply::Granted(granted) => panic!("granted: {granted:?}"),
        }
    }

    /// Asks, and expects a denial at once.
    pub(crate) fn ask_in_vain(&mut self, device: DeviceId, resource: ResourceId) -> DenyReason {
        let ticket = self.ask(device, resource);
        self.denied(ticket).expect("answered at once")
    }
}

pub(crate) fn add_resource(name: &str, site: &str, aliases: &[&str]) -> Command {
    Command::AddResource {
        name: name.parse().unwrap(),
        site: site.parse().unwrap(),
        target: "10.0.0.5".parse().unwrap(),
        filter: tcp("443"),
        aliases: aliases.iter().map(|alias| alias.parse().unwrap()).collect(),
        tags: BTreeSet::new(),
    }
}
