//! TLS 1.3 with one pinned key: no authority is trusted.

use std::{sync::Arc, time::Duration};

use anyhow::{Context as _, Result};
use postern_model::Sha256;
use quinn::{IdleTimeout, TransportConfig, VarInt, crypto::rustls::QuicClientConfig};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

/// How long a silent coordinator counts as there.
const IDLE: Duration = Duration::from_secs(10);
/// How often something is sent: a coordinator that has restarted answers it with a reset, and the node connects anew.
const KEEP_ALIVE: Duration = Duration::from_secs(3);

/// The device certificate and its key.
pub(super) struct DeviceCredential {
    pub(super) certificate: Vec<u8>,
    pub(super) key: rcgen::KeyPair,
}

/// A QUIC client configuration that speaks only to the coordinator whose public key has this digest.
pub(super) fn client_config(pin: Sha256, credential: Option<DeviceCredential>) -> Result<quinn::ClientConfig> {
    let builder = postern_pin::client(pin)?;
    let mut tls = match credential {
        None => builder.with_no_client_auth(),
        Some(DeviceCredential { certificate, key }) => {
            let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
            let configured = builder.with_client_auth_cert(vec![CertificateDer::from(certificate)], key);
            configured.context("the device certificate can't be used")?
        }
    };
    tls.alpn_protocols = vec![postern_wire::ALPN.to_vec()];
    tls.resumption = rustls::client::Resumption::disabled();
    tls.enable_early_data = false;
    let mut transport = TransportConfig::default();
    transport.max_idle_timeout(Some(IdleTimeout::try_from(IDLE)?));
    transport.keep_alive_interval(Some(KEEP_ALIVE));
    transport.max_concurrent_bidi_streams(VarInt::from_u32(0));
    transport.max_concurrent_uni_streams(VarInt::from_u32(0));
    transport.datagram_receive_buffer_size(None);
    let mut config = quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls)?));
    config.transport_config(Arc::new(transport));
    Ok(config)
}

/// Whether a connection failed because the key is not the pinned one.
pub(super) fn is_wrong_pin(error: &anyhow::Error) -> bool {
    // QUIC keeps of the verifier's error only what it says.
    error.chain().any(|cause| match cause.downcast_ref() {
        Some(quinn::ConnectionError::TransportError(error)) => error.reason.contains("WrongPin"),
        _ => false,
    })
}
