//! [`Surroundings`]: what is known of devices beside what is recorded: when they last spoke of their posture, and from where
//! they reach the coordinator. Lost when the coordinator stops, and known again as devices come back.

use std::{collections::HashMap, net::IpAddr, time::Duration};

use postern_model::{DeviceId, Timestamp, grant::Grant};
use postern_policy::Circumstances;

/// How long what a device has said of itself counts.
pub(crate) const POSTURE_COUNTS: Duration = Duration::from_secs(15 * 60);

/// Of all devices.
#[derive(Debug, Default)]
pub(crate) struct Surroundings {
    devices: HashMap<DeviceId, Surrounding>,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Surrounding {
    /// When its posture was last told.
    pub(crate) heard: Timestamp,
    /// From where.
    pub(crate) source: IpAddr,
}

impl Surroundings {
    pub(crate) fn get(&self, device: DeviceId) -> Option<Surrounding> {
        self.devices.get(&device).copied()
    }

    /// The device is there, and has said what it is like.
    pub(crate) fn note(&mut self, device: DeviceId, surrounding: Surrounding) {
        self.devices.insert(device, surrounding);
    }

    /// It has said so again.
    pub(crate) fn note_posture(&mut self, device: DeviceId, now: Timestamp) {
        if let Some(known) = self.devices.get_mut(&device) {
            known.heard = now;
        }
    }

    /// It is elsewhere.
    pub(crate) fn note_source(&mut self, device: DeviceId, source: IpAddr) {
        if let Some(known) = self.devices.get_mut(&device) {
            known.source = source;
        }
    }

    pub(crate) fn forget(&mut self, device: DeviceId) {
        self.devices.remove(&device);
    }

    /// A device's circumstances, as far as they are known.
    pub(crate) fn of(&self, device: DeviceId, now: Timestamp) -> Circumstances {
        let known = self.devices.get(&device);
        Circumstances {
            now,
            // Told at a time that is yet to come, by a clock that was set back since: it counts from now on.
            posture_until: known.map(|known| known.heard.min(now).plus(POSTURE_COUNTS)),
            source: known.map(|known| known.source),
        }
    }

    /// The same for one that holds a grant. No lease outlives the posture that it was given for; so until its end, what is
    /// recorded counts, though the device was not heard since the coordinator started.
    pub(crate) fn of_holder(&self, grant: &Grant, now: Timestamp) -> Circumstances {
        let circumstances = self.of(grant.device, now);
        Circumstances { posture_until: circumstances.posture_until.or(Some(grant.expires_at)), ..circumstances }
    }
}
