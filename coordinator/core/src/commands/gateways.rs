//! Draining gateways: what they carry moves to the others of their site, so that a machine can be taken down without haste.

use postern_model::{
    DeviceId, SiteName,
    change::Change,
    record::{Device, Owner},
};

use super::{Result, conflict, not_found};
use crate::{Touched, draft::Draft};

impl Draft<'_> {
    pub(super) fn set_drained(
        &mut self,
        site: &SiteName,
        id: DeviceId,
        drained: bool,
        is_forced: bool,
    ) -> Result<Touched> {
        let gateway = self.gateway(site, id)?;
        let name = &gateway.name;
        if gateway.revoked {
            return Err(conflict(format!("gateway '{name}' is revoked: it carries nothing, and never will again")));
        }
        if gateway.drained == drained {
            let already = if drained { "drained already" } else { "not drained" };
            return Err(conflict(format!("gateway '{name}' is {already}")));
        }
        if drained && !is_forced && self.is_last(&gateway) {
            return Err(conflict(format!(
                "gateway '{name}' is the only one of site '{site}' that is connected and not drained: nothing there could be reached \
                 any more. Connect another one first, or drain it all the same with --force"
            )));
        }
        let action = if drained { "gateway.drain" } else { "gateway.undrain" };
        self.note(action, format!("device:{name}"), &[("id", &id), ("site", site)]);
        self.change(Change::PutDevice(Device { drained, ..gateway }));
        Ok(Touched::Device(id))
    }

    fn gateway(&self, site: &SiteName, id: DeviceId) -> Result<Device> {
        let owner = Owner::Site(self.site(site)?.id);
        let device = self.state.devices.get(&id).ok_or_else(|| not_found("device", &id, "device list"))?;
        if device.owner != owner {
            let name = &device.name;
            return Err(conflict(format!(
                "device '{name}' is no gateway of site '{site}'; 'site list' says which ones are"
            )));
        }
        Ok(device.clone())
    }

    /// Whether a gateway serves and no other of its site does.
    fn is_last(&self, gateway: &Device) -> bool {
        let mut others = self.state.devices_of(gateway.owner).filter(|other| other.id != gateway.id);
        self.is_connected(gateway.id)
            && !others.any(|other| !other.revoked && !other.drained && self.is_connected(other.id))
    }
}
