//! How a relay is spoken to: its pin, this device's certificate, and a transport made for datagrams.

use std::{sync::Arc, time::Duration};

use anyhow::{Context as _, Result};
use postern_wire::{RelayEntry, relay::ALPN};
use quinn::{IdleTimeout, TransportConfig, VarInt, congestion::CubicConfig};

use crate::{
    control::{connect::Way, tls},
    state_dir::Identity,
};

/// How long a silent relay counts as there.
const IDLE: Duration = Duration::from_secs(30);
/// How often something is sent: NATs forget a mapping that is not used for 30 seconds or more.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// Datagrams that may wait in each direction, in bytes.
const BUFFER: usize = 2 << 20;
/// What may be under way at first, in bytes: what is inside has a congestion control of its own, which is not to wait for this one.
const INITIAL_WINDOW: u64 = 256 << 10;

/// The way to a relay.
///
/// # Errors
/// When the device's certificate can't be used.
pub(super) fn way(entry: &RelayEntry, identity: &Identity) -> Result<Way> {
    let key = rcgen::KeyPair::from_pem(&identity.device_key).context("the device key is damaged")?;
    let credential = tls::DeviceCredential { certificate: identity.certificate.clone(), key };
    let configs = tls::configs(entry.pin, Some(credential), ALPN, transport)?;
    Ok(Way::to("relay", entry.address.clone(), entry.pin, configs))
}

fn transport() -> Result<TransportConfig> {
    let mut congestion = CubicConfig::default();
    congestion.initial_window(INITIAL_WINDOW);
    let mut transport = TransportConfig::default();
    transport.max_idle_timeout(Some(IdleTimeout::try_from(IDLE)?));
    transport.keep_alive_interval(Some(KEEP_ALIVE));
    transport.max_concurrent_bidi_streams(VarInt::from_u32(0));
    transport.max_concurrent_uni_streams(VarInt::from_u32(0));
    transport.datagram_receive_buffer_size(Some(BUFFER));
    transport.datagram_send_buffer_size(BUFFER);
    transport.congestion_controller_factory(Arc::new(congestion));
    Ok(transport)
}
