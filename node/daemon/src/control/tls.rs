//! TLS 1.3 with one pinned key: no authority is trusted.

use std::{sync::Arc, time::Duration};

use anyhow::{Context as _, Result};
use postern_encap::client::ConnectError;
use postern_model::Sha256;
use quinn::{IdleTimeout, TransportConfig, VarInt, crypto::rustls::QuicClientConfig};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

/// How long a silent coordinator counts as there.
const IDLE: Duration = Duration::from_secs(10);
/// How often something is sent: a coordinator that has restarted answers it with a reset, and the node connects anew.
const KEEP_ALIVE: Duration = Duration::from_secs(3);

/// How long packets in streams are, in bytes.
const IN_STREAM_MTU: u16 = 1452;

/// The device certificate and its key.
pub(crate) struct DeviceCredential {
    pub(crate) certificate: Vec<u8>,
    pub(crate) key: rcgen::KeyPair,
}

/// How QUIC is spoken, by what carries its packets.
#[derive(Clone)]
pub(crate) struct Configs {
    pub(crate) udp: quinn::ClientConfig,
    pub(crate) stream: quinn::ClientConfig,
}

/// How to speak to the coordinator whose public key has this digest.
pub(crate) fn client_configs(pin: Sha256, credential: Option<DeviceCredential>) -> Result<Configs> {
    configs(pin, credential, postern_wire::ALPN, transport)
}

/// QUIC client configurations that speak this protocol, and only to whoever holds the key with this digest.
pub(crate) fn configs(
    pin: Sha256,
    credential: Option<DeviceCredential>,
    alpn: &[u8],
    transport: impl Fn() -> Result<TransportConfig>,
) -> Result<Configs> {
    let builder = postern_pin::client(pin)?;
    let mut tls = match credential {
        None => builder.with_no_client_auth(),
        Some(DeviceCredential { certificate, key }) => {
            let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
            let configured = builder.with_client_auth_cert(vec![CertificateDer::from(certificate)], key);
            configured.context("the device certificate can't be used")?
        }
    };
    tls.alpn_protocols = vec![alpn.to_vec()];
    tls.resumption = rustls::client::Resumption::disabled();
    tls.enable_early_data = false;
    let mut udp = quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls)?));
    let mut stream = udp.clone();
    udp.transport_config(Arc::new(transport()?));
    // Nothing on the way looks at the packets' lengths, so there is nothing to find out.
    let mut in_stream = transport()?;
    in_stream.initial_mtu(IN_STREAM_MTU).mtu_discovery_config(None);
    stream.transport_config(Arc::new(in_stream));
    Ok(Configs { udp, stream })
}

fn transport() -> Result<TransportConfig> {
    let mut transport = TransportConfig::default();
    transport.max_idle_timeout(Some(IdleTimeout::try_from(IDLE)?));
    transport.keep_alive_interval(Some(KEEP_ALIVE));
    transport.max_concurrent_bidi_streams(VarInt::from_u32(0));
    transport.max_concurrent_uni_streams(VarInt::from_u32(0));
    transport.datagram_receive_buffer_size(None);
    Ok(transport)
}

/// Whether a connection failed because the key is not the pinned one.
pub(crate) fn is_wrong_pin(error: &anyhow::Error) -> bool {
    // QUIC keeps of the verifier's error only what it says.
    error.chain().any(|cause| match cause.downcast_ref() {
        Some(quinn::ConnectionError::TransportError(error)) => error.reason.contains("WrongPin"),
        _ => cause.downcast_ref::<ConnectError>().is_some_and(ConnectError::is_wrong_pin),
    })
}
