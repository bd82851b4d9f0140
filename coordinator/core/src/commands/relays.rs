//! Relays that run on their own.

use postern_model::{RelayId, RelayName, Sha256, change::Change, record::Relay, token::HostPort};

use super::{Result, conflict, exists, invalid, not_found};
use crate::{Env, Touched, draft::Draft, relays::OWN_RELAY};

/// The most relays: every node hears of all, and measures which is nearest.
const MAX_RELAYS: usize = 64;

impl Draft<'_> {
    pub(super) fn add_relay(
        &mut self,
        name: &RelayName,
        address: &HostPort,
        pin: Sha256,
        env: &mut Env<'_>,
    ) -> Result<Touched> {
        if name.as_str() == OWN_RELAY {
            return Err(invalid(format!(
                "'{OWN_RELAY}' is what lists call the coordinator's own relay; choose another name"
            )));
        }
        let relays = &self.state.relays;
        if relays.values().any(|relay| relay.name == *name) {
            return Err(exists("relay", name));
        }
        if let Some(other) = relays.values().find(|relay| relay.address == *address || relay.pin == pin) {
            let what = if other.address == *address { "address" } else { "pin" };
            return Err(conflict(format!("relay '{}' has that {what} already; remove it first", other.name)));
        }
        if relays.len() >= MAX_RELAYS {
            return Err(conflict(format!(
                "there are {MAX_RELAYS} relays already, and no more can be; remove one first"
            )));
        }
        let id = env.id(RelayId::from_bytes);
        let details: [(&str, &dyn ToString); 3] = [("id", &id), ("address", address), ("pin", &pin)];
        self.note("relay.add", format!("relay:{name}"), &details);
        let relay = Relay { id, name: name.clone(), address: address.clone(), pin, created_at: self.now };
        self.change(Change::PutRelay(relay));
        Ok(Touched::Relay(id))
    }

    pub(super) fn remove_relay(&mut self, name: &RelayName) -> Result<Touched> {
        if name.as_str() == OWN_RELAY {
            return Err(invalid("the coordinator's own relay ends when 'serve' is started with --no-relay".into()));
        }
        let relay = self.state.relays.values().find(|relay| relay.name == *name);
        let id = relay.ok_or_else(|| not_found("relay", name, "relay list"))?.id;
        self.note("relay.remove", format!("relay:{name}"), &[("id", &id)]);
        self.change(Change::RemoveRelay(id));
        Ok(Touched::Relay(id))
    }
}
