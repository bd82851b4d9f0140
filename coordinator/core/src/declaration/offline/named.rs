//! [`Named`]: whom a declaration's policies name, in the short form and in Cedar.

use std::{cell::RefCell, collections::BTreeSet};

use postern_model::{DeviceId, GroupId, GroupName, ResourceId, Subject, UserId, UserName};
use postern_policy::expert;

use super::super::{Declaration, DeclaredPolicy};

/// All whom policies name.
#[derive(Debug, Default)]
pub(super) struct Named {
    pub(super) users: BTreeSet<UserName>,
    pub(super) groups: BTreeSet<GroupName>,
    /// By id, or by name in Cedar.
    pub(super) devices: BTreeSet<String>,
}

impl Named {
    /// Whom the policies of a declaration name. Of one in Cedar that can't be read it is whom it names before that; what is
    /// wrong with it is said when it is added.
    pub(super) fn by(declaration: &Declaration) -> Self {
        let mut named = Self::default();
        for policy in declaration.policies.iter().flatten() {
            match policy {
                DeclaredPolicy::Short(new) => match &new.subject {
                    Subject::User(name) => drop(named.users.insert(name.clone())),
                    Subject::Group(name) => drop(named.groups.insert(name.clone())),
                    Subject::Device(id) => drop(named.devices.insert(id.to_string())),
                    Subject::Everyone => {}
                },
                DeclaredPolicy::Cedar(source) => {
                    let listener = Listener(RefCell::new(named));
                    let _ = expert::read(source, &listener);
                    named = listener.0.into_inner();
                }
            }
        }
        named
    }
}

/// Takes down each name that it is asked for, and says that it is there.
struct Listener(RefCell<Named>);

impl expert::Names for Listener {
    fn user(&self, name: &str) -> Option<UserId> {
        self.0.borrow_mut().users.insert(name.parse().ok()?);
        Some(UserId::from_bytes([0; 16]))
    }
    fn group(&self, name: &str) -> Option<GroupId> {
        self.0.borrow_mut().groups.insert(name.parse().ok()?);
        Some(GroupId::from_bytes([0; 16]))
    }
    fn device(&self, name: &str) -> Option<DeviceId> {
        self.0.borrow_mut().devices.insert(name.to_owned());
        Some(DeviceId::from_bytes([0; 16]))
    }
    fn resource(&self, _name: &str) -> Option<ResourceId> {
        Some(ResourceId::from_bytes([0; 16]))
    }
}
